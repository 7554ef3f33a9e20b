//! What targets this installation admits.
//!
//! A target's author is a tenant, and some modules act *on the machine that runs this server*: `file` writes its files
//! and runs its commands, `webhook` calls addresses that only it can reach. What they may do is decided by whoever
//! writes the server's configuration, never by the target.

use std::path::{Component, Path};

use certlib_core::client::NewTarget;
use serde_json::Value;

use crate::config::Config;
use crate::problem::{Problem, Result};

/// What targets may ask for.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    file_root: Option<String>,
    file_commands: bool,
    webhook_internal: bool,
}

impl Admission {
    /// As configured.
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            file_root: config.file_root().map(|root| root.display().to_string()),
            file_commands: config.file_module_commands,
            webhook_internal: config.webhook_allow_internal,
        }
    }

    /// Refuses a target that asks for more than it may, and confines a `file` target to the configured root.
    pub(crate) fn admit(&self, mut target: NewTarget) -> Result<NewTarget> {
        match target.module.as_str() {
            "file" => self.confine_file(&mut target)?,
            "webhook" if !self.webhook_internal && is_set(&target.config, "addresses") => {
                return Err(Problem::invalid(
                    "webhook_internal_forbidden",
                    "this server calls public addresses only: `webhook_allow_internal` is off",
                )
                .with("pointer", "/config/addresses"));
            }
            _ => {}
        }
        Ok(target)
    }

    fn confine_file(&self, target: &mut NewTarget) -> Result<()> {
        // Without a root the module is not registered, and the core says so.
        let Some(allowed) = &self.file_root else { return Ok(()) };
        for command in ["test_command", "reload_command"] {
            if !self.file_commands && is_set(&target.config, command) {
                return Err(Problem::invalid(
                    "file_commands_forbidden",
                    "this server runs no commands for targets: `file_module_commands` is off",
                )
                .with("pointer", format_args!("/config/{command}")));
            }
        }
        let Some(location) = target.location.as_object_mut() else { return Ok(()) };
        match location.get("root") {
            None | Some(Value::Null) => {
                location.insert("root".to_owned(), Value::String(allowed.clone()));
                Ok(())
            }
            Some(Value::String(root)) if is_within(root, allowed) => Ok(()),
            Some(_) => Err(Problem::invalid("root_forbidden", "the target's root is outside the server's own root")
                .with("pointer", "/location/root")),
        }
    }
}

fn is_set(config: &Value, member: &str) -> bool {
    !matches!(config.get(member), None | Some(Value::Null))
}

/// Whether `path` is `root` or below it, without any way back up.
fn is_within(path: &str, root: &str) -> bool {
    let path = Path::new(path);
    path.starts_with(root) && !path.components().any(|part| part == Component::ParentDir)
}

#[cfg(test)]
mod tests {
    use certlib_core::client::TargetRules;
    use serde_json::json;

    use super::*;

    fn admission() -> Admission {
        Admission { file_root: Some("/srv/tls".to_owned()), file_commands: false, webhook_internal: false }
    }

    fn target(module: &str, config: Value, location: Value) -> NewTarget {
        NewTarget {
            name: "t".to_owned(),
            module: module.to_owned(),
            config,
            location,
            credential_id: None,
            rules: TargetRules::default(),
        }
    }

    #[test]
    fn file_targets_are_confined() {
        let admitted = admission().admit(target("file", json!({}), json!({"paths": {}}))).unwrap();
        assert_eq!(admitted.location["root"], "/srv/tls");
        for root in ["/", "/srv/tls2", "/srv/tls/../x", "srv/tls"] {
            assert!(admission().admit(target("file", json!({}), json!({"root": root}))).is_err(), "{root}");
        }
        assert!(admission().admit(target("file", json!({}), json!({"root": "/srv/tls/shop"}))).is_ok());
        assert!(admission().admit(target("file", json!({"reload_command": "id"}), json!({}))).is_err());
    }

    #[test]
    fn webhooks_stay_outside() {
        let inside = json!({"addresses": {"allow_loopback": true}});
        assert!(admission().admit(target("webhook", inside.clone(), json!({}))).is_err());
        assert!(admission().admit(target("webhook", json!({}), json!({}))).is_ok());
        let open = Admission { webhook_internal: true, ..admission() };
        assert!(open.admit(target("webhook", inside, json!({}))).is_ok());
    }
}
