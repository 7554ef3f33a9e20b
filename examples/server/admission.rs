//! What targets this installation admits.
//!
//! A target's author is a tenant, and modules act *from the machine that runs this server*: `file` writes its files and
//! runs its commands, others call addresses that only it can reach, or log in as whoever it is at its cluster. What they may
//! do is decided by whoever writes the server's configuration, never by the target.

use std::path::{Component, Path};

use certlib_core::client::NewTarget;
use certlib_core::secret::SecretString;
use serde_json::Value;

use crate::config::Config;
use crate::problem::{Problem, Result};

/// What targets may ask for.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    file_root: Option<String>,
    file_commands: bool,
    internal: bool,
}

impl Admission {
    /// As configured.
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            file_root: config.file_root().map(|root| root.display().to_string()),
            file_commands: config.file_module_commands,
            internal: config.targets_allow_internal,
        }
    }

    /// Refuses a target that asks for more than it may, and confines a `file` target to the configured root.
    pub(crate) fn admit(&self, mut target: NewTarget) -> Result<NewTarget> {
        match target.module.as_str() {
            "file" => self.confine_file(&mut target)?,
            _ if self.internal => {}
            _ => {
                // Settings may also be written as lists, which nothing here could look into.
                let listed = target.config.get("connection").is_some_and(Value::is_array);
                for pointer in ["/addresses", "/connection/addresses"] {
                    if listed || target.config.pointer(pointer).is_some_and(|policy| !policy.is_null()) {
                        return Err(Problem::invalid(
                            "internal_forbidden",
                            "this server calls public addresses only: `targets_allow_internal` is off",
                        )
                        .with("pointer", format_args!("/config{pointer}")));
                    }
                }
            }
        }
        Ok(target)
    }

    /// Refuses a credential that says nothing but what this machine itself is, or has in its files: a tenant must not log in
    /// as the server.
    pub(crate) fn admit_secret(secret: &SecretString) -> Result<()> {
        // What is no JSON is refused elsewhere.
        let Ok(secret) = serde_json::from_str::<Value>(secret.expose()) else { return Ok(()) };
        // In a credential that is a list of fields nothing could tell which is which.
        if secret.is_array() || borrows_identity(&secret) {
            return Err(Problem::invalid(
                "own_identity_forbidden",
                "this server lends nobody its own identity: give a token, not `in_cluster`, a file, or the pod's account",
            ));
        }
        Ok(())
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

fn borrows_identity(secret: &Value) -> bool {
    match secret {
        Value::Object(members) => {
            let of_pod = members.get("method").is_some_and(|method| method == "kubernetes")
                && members.get("jwt").is_none_or(Value::is_null);
            of_pod
                || members.get("in_cluster").is_some_and(|value| *value != Value::Bool(false))
                || members.contains_key("jwt_file")
                || members.values().any(borrows_identity)
        }
        // A login may be written as the list of its fields, of which the method is the first.
        Value::Array(items) => {
            items.first().is_some_and(|method| method == "jwt" || method == "kubernetes")
                || items.iter().any(borrows_identity)
        }
        _ => false,
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
        Admission { file_root: Some("/srv/tls".to_owned()), file_commands: false, internal: false }
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
    fn nobody_logs_in_as_the_server() {
        for secret in [
            json!({"in_cluster": true}),
            json!({"login": {"method": "kubernetes", "role": "r"}}),
            json!({"login": {"method": "jwt", "jwt_file": "/etc/shadow"}}),
            json!({"method": "kubernetes", "role": "r", "jwt": null}),
            json!([null, null, null, true]),
            json!({"login": ["kubernetes", "kubernetes", "r"]}),
        ] {
            assert!(Admission::admit_secret(&secret.to_string().into()).is_err(), "{secret}");
        }
        for secret in [json!({"in_cluster": false, "token": "t"}), json!({"method": "kubernetes", "jwt": "j"})] {
            assert!(Admission::admit_secret(&secret.to_string().into()).is_ok(), "{secret}");
        }
    }

    #[test]
    fn targets_stay_outside() {
        let inside = json!({"addresses": {"allow_loopback": true}});
        for config in
            [inside.clone(), json!({"connection": inside}), json!({"connection": [{}, {"allow_loopback": true}]})]
        {
            for module in ["webhook", "f5", "smtp", "vault"] {
                assert!(admission().admit(target(module, config.clone(), json!({}))).is_err());
            }
        }
        assert!(admission().admit(target("webhook", json!({}), json!({}))).is_ok());
        let open = Admission { internal: true, ..admission() };
        assert!(open.admit(target("webhook", inside, json!({}))).is_ok());
    }
}
