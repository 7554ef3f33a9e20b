use std::time::Duration;

use certlib_core::bundle::KeyType;
use certlib_core::{Error, Result};
use serde::{Deserialize, Serialize};

const DAY: u64 = 24 * 3600;

/// Configuration of a [`LocalCa`](super::LocalCa). Every field has a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LocalCaConfig {
    /// Common name of the root. Default `certlib local CA`. Takes effect when the root is made, never later.
    pub common_name: String,
    /// How long leaves are valid, in seconds, unless an order asks for something else. Default 90 days.
    pub validity_seconds: u64,
    /// How long the root is valid, in seconds. Default 10 years. Takes effect when the root is made.
    pub root_validity_seconds: u64,
    /// The root's key. Default ECDSA P-256. Takes effect when the root is made.
    pub key_type: KeyType,
}

impl Default for LocalCaConfig {
    fn default() -> Self {
        Self {
            common_name: "certlib local CA".to_owned(),
            validity_seconds: 90 * DAY,
            root_validity_seconds: 3650 * DAY,
            key_type: KeyType::default(),
        }
    }
}

impl LocalCaConfig {
    /// How long leaves are valid.
    pub(super) fn validity(&self) -> Duration {
        Duration::from_secs(self.validity_seconds)
    }

    pub(super) fn check(&self) -> Result<()> {
        let invalid = |field: &str, why: &str| {
            Err(Error::validation("local_ca.config", "config_invalid", format!("{field}: {why}")).with("field", field))
        };
        let name = self.common_name.trim();
        // ub-common-name, RFC 5280 appendix A.
        if name.is_empty() || name.chars().count() > 64 || name.chars().any(char::is_control) {
            return invalid("common_name", "1 to 64 printable characters");
        }
        if !(60..=100 * 365 * DAY).contains(&self.root_validity_seconds) {
            return invalid("root_validity_seconds", "1 minute to 100 years");
        }
        if !(1..=self.root_validity_seconds).contains(&self.validity_seconds) {
            return invalid("validity_seconds", "1 second to root_validity_seconds");
        }
        if self.key_type == KeyType::RsaOther {
            return invalid("key_type", "name the size of an RSA key");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use certlib_core::issuer::decode_config;
    use serde_json::json;

    use super::*;

    fn verdict(config: serde_json::Value) -> Option<String> {
        let checked = decode_config::<LocalCaConfig>(&config).and_then(|config| config.check());
        checked.err().map(|error| error.code().to_owned())
    }

    #[test]
    fn defaults_are_valid_and_odd_values_are_not() {
        assert_eq!(verdict(json!({})), None);
        assert_eq!(verdict(json!({ "validity_seconds": 3600, "key_type": "rsa-3072" })), None);
        for config in [
            json!({ "common_name": "" }),
            json!({ "common_name": "x".repeat(65) }),
            json!({ "validity_seconds": 0 }),
            json!({ "validity_seconds": 20, "root_validity_seconds": 10 }),
            json!({ "root_validity_seconds": u64::MAX }),
            json!({ "key_type": "rsa" }),
            json!({ "key_type": "dsa" }),
            json!({ "valdity_seconds": 1 }),
        ] {
            assert_eq!(verdict(config.clone()).as_deref(), Some("config_invalid"), "{config}");
        }
    }
}
