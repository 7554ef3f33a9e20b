//! The unit itself: uploads, `sys/config`, `cm`, `util`.

use serde_json::{Map, Value, json};

use super::{
    answer::{Outcome, Refusal, VERSION, link},
    call::{Call, field},
    config::DOWNLOADS,
    others, page,
    state::State,
};

/// The largest chunk of an upload.
const CHUNK: usize = 1024 * 1024;

/// An upload of which chunks are still missing.
#[derive(Debug, Default)]
pub(super) struct Partial {
    content: Vec<u8>,
    total: usize,
}

impl State {
    /// `POST shared/file-transfer/uploads/{name}`. Chunks come in order; one that begins at 0 begins anew.
    pub(super) fn upload(&mut self, call: &Call, name: &str) -> Outcome {
        if !call.content_type.starts_with("application/octet-stream") {
            return Err(Refusal::new(415, format!("Found unexpected content type: {}", call.content_type)));
        }
        let range = call.content_range.as_deref().and_then(range);
        let (first, last, total) =
            range.ok_or_else(|| Refusal::invalid("Content-Range header is missing or malformed"))?;
        if call.body.len() > CHUNK || last + 1 - first != call.body.len() || last >= total {
            return Err(Refusal::invalid("Content-Range does not fit the chunk, or the chunk is too large"));
        }
        if name.contains('/') || name.starts_with('.') {
            return Err(Refusal::invalid("invalid file name"));
        }
        let partial = self.partial.entry(name.to_owned()).or_default();
        if first == 0 {
            *partial = Partial { content: Vec::new(), total };
        }
        if partial.content.len() != first || partial.total != total {
            self.partial.remove(name);
            return Err(Refusal::invalid("the chunk does not follow the one before"));
        }
        partial.content.extend_from_slice(&call.body);
        let remaining = total - partial.content.len();
        if remaining == 0
            && let Some(partial) = self.partial.remove(name)
        {
            self.uploads.insert(name.to_owned(), partial.content);
        }
        Ok(json!({
            "remainingByteCount": remaining,
            "usedChunks": { first.to_string(): call.body.len() },
            "totalByteCount": total,
            "localFilePath": format!("{DOWNLOADS}{name}"),
            "temporaryFilePath": format!("{DOWNLOADS}tmp/{name}"),
            "generation": 0,
            "lastUpdateMicros": 0,
        }))
    }

    /// Everything that is neither a login nor a transaction nor configuration.
    pub(super) fn system(&mut self, call: &Call) -> Outcome {
        match (call.method.as_str(), call.route().as_slice()) {
            ("GET", ["shared", "echo-query"]) => {
                Ok(json!({ "kind": "shared:echo-query", "selfLink": link(&call.path) }))
            }
            ("GET", ["tm", "sys"]) => {
                Ok(json!({ "kind": "tm:sys:syscollectionstate", "selfLink": link("tm/sys"), "items": [] }))
            }
            ("GET", ["tm", "sys", "version"]) => Ok(version()),
            ("POST", ["tm", "sys", "config"]) => self.save(&call.object()?),
            ("GET", ["tm", "cm", "device"]) => page::collection(
                "tm:cm:device:devicecollectionstate",
                &call.path,
                &call.query,
                self.devices().into_iter(),
            ),
            ("GET", ["tm", "cm", "sync-status"]) => Ok(self.sync_status()),
            ("POST", ["tm", "cm"]) => self.sync(&call.object()?),
            ("GET", ["tm", "sys", "provision"]) => page::collection(
                "tm:sys:provision:provisioncollectionstate",
                &call.path,
                &call.query,
                provisioned().into_iter(),
            ),
            ("GET", _) if let Some((kind, items)) = others::collection(call) => {
                page::collection(&kind, &call.path, &call.query, items.into_iter())
            }
            ("POST", ["tm", "util", "bash"]) => self.shell(&call.object()?),
            ("POST", ["tm", "util", "unix-rm"]) => self.remove(&call.object()?),
            ("POST", ["tm", "util", "unix-ls"]) => self.list(&call.object()?),
            _ => Err(Refusal::no_route(&call.path)),
        }
    }

    fn save(&mut self, body: &Map<String, Value>) -> Outcome {
        if field(body, "command")? != Some("save") {
            return Err(Refusal::invalid("the only command is save"));
        }
        self.save_all();
        Ok(json!({ "kind": "tm:sys:config:savestate", "command": "save", "selfLink": link("tm/sys/config") }))
    }

    fn save_all(&mut self) {
        self.saved = self.config.clone();
        self.saved_revision = self.revision;
    }

    /// The shell knows one command.
    fn shell(&mut self, body: &Map<String, Value>) -> Outcome {
        let arguments = run(body)?;
        let command = arguments.trim_start_matches("-c").trim().trim_matches(['"', '\'']);
        let result = if command == "tmsh save sys config" {
            self.save_all();
            let files = ["bigip.conf", "bigip_base.conf", "bigip_user.conf"];
            let files: String = files.iter().map(|file| format!("  /config/{file}\n")).collect();
            format!("Saving running configuration...\n{files}")
        } else {
            let program = command.split_whitespace().next().unwrap_or_default();
            format!("/bin/bash: {program}: command not found\n")
        };
        Ok(json!({
            "kind": "tm:util:bash:runstate",
            "command": "run",
            "utilCmdArgs": arguments,
            "commandResult": result,
        }))
    }

    fn devices(&self) -> Vec<Value> {
        let device = |name: &str, own: bool, state: &str| {
            json!({
                "kind": "tm:cm:device:devicestate",
                "name": name,
                "partition": "Common",
                "fullPath": format!("/Common/{name}"),
                "selfLink": link(&format!("tm/cm/device/~Common~{name}")),
                "failoverState": state,
                "selfDevice": own.to_string(),
                "version": VERSION,
            })
        };
        let mut items = vec![device("bigip1.example", true, if self.standby { "standby" } else { "active" })];
        if self.group.is_some() {
            items.push(device("bigip2.example", false, if self.standby { "active" } else { "standby" }));
        }
        items
    }

    /// What the group thinks of itself. Each look brings a synchronization that is under way nearer to its end.
    fn sync_status(&mut self) -> Value {
        let (color, status, mode) = if self.group.is_none() {
            ("green", "Standalone", "standalone")
        } else if self.sync_broken {
            ("red", "Disconnected", "high-availability")
        } else if self.syncing > 0 {
            self.syncing -= 1;
            ("blue", "Syncing", "high-availability")
        } else if self.synced_revision == self.revision {
            ("green", "In Sync", "high-availability")
        } else {
            ("yellow", "Changes Pending", "high-availability")
        };
        let entries = json!({
            "color": { "description": color },
            "status": { "description": status },
            "mode": { "description": mode },
            "summary": { "description": "" },
        });
        json!({
            "kind": "tm:cm:sync-status:sync-statusstats",
            "selfLink": link("tm/cm/sync-status"),
            "entries": { "https://localhost/mgmt/tm/cm/sync-status/0": { "nestedStats": { "entries": entries } } },
        })
    }

    fn sync(&mut self, body: &Map<String, Value>) -> Outcome {
        let arguments = field(body, "utilCmdArgs")?.unwrap_or_default();
        let group = arguments.strip_prefix("config-sync to-group ").map(str::trim);
        let group = group.filter(|_| body.get("command").and_then(Value::as_str) == Some("run"));
        let group = group.ok_or_else(|| Refusal::invalid("the only command is run, config-sync to-group NAME"))?;
        if self.group.as_deref() != Some(group.trim_start_matches("/Common/")) {
            return Err(Refusal::absent("Device Group", group));
        }
        if !self.sync_broken {
            self.peer = self.config.clone();
            self.synced_revision = self.revision;
            self.syncing = self.sync_takes;
        }
        Ok(json!({ "kind": "tm:cm:runstate", "command": "run", "utilCmdArgs": arguments }))
    }

    fn remove(&mut self, body: &Map<String, Value>) -> Outcome {
        let arguments = run(body)?;
        for path in arguments.split_whitespace().filter(|part| !part.starts_with('-')) {
            let removed = path.strip_prefix(DOWNLOADS).and_then(|name| self.uploads.remove(name));
            if removed.is_none() {
                return Ok(json!({
                    "kind": "tm:util:unix-rm:runstate",
                    "command": "run",
                    "utilCmdArgs": arguments,
                    "commandResult": format!("/bin/rm: cannot remove `{path}': No such file or directory\n"),
                }));
            }
        }
        Ok(json!({ "kind": "tm:util:unix-rm:runstate", "command": "run", "utilCmdArgs": arguments }))
    }

    fn list(&mut self, body: &Map<String, Value>) -> Outcome {
        let arguments = run(body)?;
        let names: Vec<&str> = self.uploads.keys().map(String::as_str).collect();
        let mut answer = json!({ "kind": "tm:util:unix-ls:runstate", "command": "run", "utilCmdArgs": arguments });
        if !names.is_empty() {
            answer["commandResult"] = json!(names.join("\n") + "\n");
        }
        Ok(answer)
    }
}

fn run(body: &Map<String, Value>) -> Result<&str, Refusal> {
    if field(body, "command")? != Some("run") {
        return Err(Refusal::invalid("the only command is run"));
    }
    field(body, "utilCmdArgs")?.ok_or_else(|| Refusal::invalid("utilCmdArgs is required"))
}

/// What it is licensed for and gives room to.
fn provisioned() -> Vec<Value> {
    let module = |(name, level): &(&str, &str)| {
        json!({
            "kind": "tm:sys:provision:provisionstate",
            "name": name,
            "fullPath": name,
            "selfLink": link(&format!("tm/sys/provision/{name}")),
            "level": level,
        })
    };
    [("afm", "none"), ("apm", "none"), ("asm", "none"), ("gtm", "none"), ("ltm", "nominal")]
        .iter()
        .map(module)
        .collect()
}

fn version() -> Value {
    let entries = json!({
        "Product": { "description": "BIG-IP" },
        "Version": { "description": VERSION },
        "Build": { "description": "0.0.5" },
    });
    json!({
        "kind": "tm:sys:version:versionstats",
        "selfLink": link("tm/sys/version"),
        "entries": { "https://localhost/mgmt/tm/sys/version/0": { "nestedStats": { "entries": entries } } },
    })
}

/// `0-1233/1234`, without the `bytes` that HTTP has there.
fn range(text: &str) -> Option<(usize, usize, usize)> {
    let (span, total) = text.split_once('/')?;
    let (first, last) = span.split_once('-')?;
    let (first, last, total) = (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
    (first <= last).then_some((first, last, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_strict() {
        assert_eq!(range("0-1233/1234"), Some((0, 1233, 1234)));
        for bad in ["bytes 0-1/2", "0-1", "1/2", "5-1/9", "", "a-b/c"] {
            assert_eq!(range(bad), None, "{bad}");
        }
    }
}
