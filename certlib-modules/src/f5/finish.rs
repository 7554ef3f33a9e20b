//! What comes after a switch: old objects go, the configuration is saved, the other unit gets it.

use std::time::Duration;

use certlib_core::error::{Effect, Error, ErrorClass, Result};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::session::{Call, Session, accepted, f5_code, is_absent};
use super::undo::{Object, Part};
use super::{OPERATION, names};

/// F5's codes for what something else still needs.
const IN_USE: [&str; 2] = ["01070265:3", "01071349:3"];

/// What became of objects that were to be removed.
#[derive(Debug, Default)]
pub(super) struct Removed {
    pub(super) gone: Vec<String>,
    /// Something else needs them.
    pub(super) in_use: Vec<String>,
    /// What kept the others.
    pub(super) problem: Option<Error>,
}

/// One of the statistics of a device group.
#[derive(Deserialize)]
struct Described {
    description: String,
}

impl Session<'_> {
    /// Removes objects that are ours, unless something needs them: the unit knows. Absent ones are as good as removed.
    pub(super) async fn remove(&self, objects: &[Object]) -> Removed {
        let mut removed = Removed::default();
        // Certificates first: a key may be bound to one.
        let ordered = objects.iter().filter(|object| object.part != Part::Key);
        for object in ordered.chain(objects.iter().filter(|object| object.part == Part::Key)) {
            let path = ["tm", "sys", "file", object.part.collection(), &names::segment(&object.name)];
            match self.send(&Call::new(Method::DELETE, &path).harmless()).await {
                Ok(answer) if accepted(&answer).is_ok() => removed.gone.push(object.name.clone()),
                Ok(answer) if is_absent(&answer) => {}
                Ok(answer) if f5_code(&answer).is_some_and(|code| IN_USE.contains(&code.as_str())) => {
                    removed.in_use.push(object.name.clone());
                }
                Ok(answer) => removed.problem = accepted(&answer).err(),
                Err(error) => removed.problem = Some(error),
            }
        }
        removed
    }

    /// Saves and synchronizes, as configured. Both do no harm when done twice.
    ///
    /// # Errors
    /// As the requests; `IoTransient` `sync_pending`. The effect is always [`Effect::Possible`].
    pub(super) async fn keep(&self) -> Result<()> {
        let possible = |error: Error| error.with_effect(Effect::Possible);
        if self.config.save {
            let body = json!({ "command": "save" });
            let call = Call::new(Method::POST, &["tm", "sys", "config"]).json(&body).harmless();
            self.send(&call).await.and_then(|answer| accepted(&answer)).map_err(possible)?;
        }
        if let Some(group) = &self.config.sync_group {
            let body = json!({ "command": "run", "utilCmdArgs": format!("config-sync to-group {group}") });
            let call = Call::new(Method::POST, &["tm", "cm"]).json(&body).harmless();
            self.send(&call).await.and_then(|answer| accepted(&answer)).map_err(possible)?;
            self.await_sync(group).await.map_err(possible)?;
        }
        Ok(())
    }

    async fn await_sync(&self, group: &str) -> Result<()> {
        let began = self.cx.clock.monotonic();
        let limit = Duration::from_millis(self.config.sync_wait_ms);
        loop {
            let status: Value = self.read(&["tm", "cm", "sync-status"], &[]).await?.unwrap_or_default();
            let (color, status) = (statistic(&status, "color"), statistic(&status, "status"));
            if color.as_deref() == Some("green") {
                return Ok(());
            }
            if self.cx.clock.monotonic().saturating_sub(began) >= limit {
                let why = "the device group is not in sync in time; the other unit may not have the certificate";
                return Err(Error::new(ErrorClass::IoTransient, OPERATION, "sync_pending", why)
                    .with("group", group)
                    .with("status", status.unwrap_or_default().escape_debug()));
            }
            self.cx.clock.sleep(Duration::from_millis(self.config.delay_ms)).await;
        }
    }
}

/// A statistic of the first of the nested ones.
fn statistic(body: &Value, name: &str) -> Option<String> {
    let (_, first) = body["entries"].as_object()?.iter().next()?;
    let found = first["nestedStats"]["entries"].get(name)?;
    Described::deserialize(found).ok().map(|found| found.description)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_found_where_they_are_nested() {
        let body = json!({ "entries": { "https://localhost/0": { "nestedStats": { "entries": {
            "color": { "description": "green" }, "status": { "description": "In Sync" },
        }}}}});
        assert_eq!(statistic(&body, "color").as_deref(), Some("green"));
        assert_eq!(statistic(&body, "status").as_deref(), Some("In Sync"));
        assert_eq!(statistic(&body, "mode"), None);
        assert_eq!(statistic(&json!({ "entries": {} }), "color"), None);
    }
}
