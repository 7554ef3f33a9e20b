//! Revocation, by serial number.

use async_trait::async_trait;
use certlib_core::issuer::{RevocationReason, Revoker};
use certlib_core::{CertificateBundle, Context, Result};
use serde_json::json;

use super::VaultPki;
use super::client::refused;
use crate::keys;

#[async_trait]
impl Revoker for VaultPki {
    /// Vault keeps no reasons.
    async fn revoke(&self, cx: &Context, bundle: &CertificateBundle, _: RevocationReason) -> Result<()> {
        let path = [self.config.mount.as_str(), "revoke"];
        let body = json!({ "serial_number": serial_number(&keys::serial(bundle)) });
        let mut answer = self.session.post(cx, &path, &body).await?;
        if answer.status() == 400 {
            // Roles may keep nothing of what they issue (`no_store`): then Vault has to be shown the certificate.
            answer = self.session.post(cx, &path, &json!({ "certificate": bundle.leaf_pem() })).await?;
        }
        if answer.is_success() { Ok(()) } else { Err(refused(&answer)) }
    }
}

/// A serial number as Vault writes it: pairs of lower-case digits with colons.
fn serial_number(hex: &str) -> String {
    let digits = hex.to_ascii_lowercase();
    let mut text = String::with_capacity(digits.len() * 3 / 2);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(2) {
            text.push(':');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::serial_number;

    #[test]
    fn serial_numbers_are_written_as_vault_writes_them() {
        for (hex, expected) in [("ABcd", "ab:cd"), ("7f0001", "7f:00:01"), ("05", "05"), ("00", "00"), ("", "")] {
            assert_eq!(serial_number(hex), expected, "{hex}");
        }
    }
}
