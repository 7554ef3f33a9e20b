//! The scripts `files.*`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{Answer, Run, bytes, list, text};
use crate::winrm::windows::{Windows, WindowsError, sddl_sid};

pub(super) fn twin(name: &str) -> Option<Run> {
    Some(match name {
        "files.look" => look,
        "files.stage" => stage,
        "files.replace" => replace,
        "files.remove" => remove,
        _ => return None,
    })
}

fn look(input: &Value, windows: &mut Windows) -> Answer {
    let limit = input["limit"].as_u64().unwrap_or_default();
    let with_content = input["content"] == true;
    let files: Vec<Value> = list(input, "files")?
        .into_iter()
        .map(|path| match windows.files.info(path) {
            Err(_) => Ok(json!({ "kind": "absent" })),
            Ok(info) if info.directory => Ok(json!({ "kind": "other" })),
            Ok(info) if info.size > limit => Ok(json!({ "kind": "large", "size": info.size })),
            Ok(info) => {
                let content = windows.files.read(path)?;
                Ok(json!({
                    "kind": "file",
                    "size": info.size,
                    "sha256": windows.files.sha256(path)?,
                    "content": with_content.then(|| STANDARD.encode(&content)),
                    "sddl": info.sddl,
                }))
            }
        })
        .collect::<Result<_, WindowsError>>()?;
    let directories: Vec<Value> = list(input, "directories")?
        .into_iter()
        .map(|path| {
            let exists = path.ends_with(r":\") || windows.files.info(path).is_ok_and(|info| info.directory);
            json!({ "exists": exists, "writable_bytes": null, "escapes": false })
        })
        .collect();
    let sids: Vec<Option<String>> = list(input, "names")?.into_iter().map(|name| windows.sid_of(name)).collect();
    Ok(json!({ "files": files, "directories": directories, "sids": sids }))
}

fn stage(input: &Value, windows: &mut Windows) -> Answer {
    let path = text(input, "path")?;
    windows.files.create_new(path, &bytes(input, "content")?)?;
    if let Some(sddl) = input["sddl"].as_str() {
        set_list(windows, path, sddl)?;
    }
    Ok(json!({ "sha256": windows.files.sha256(path)? }))
}

fn replace(input: &Value, windows: &mut Windows) -> Answer {
    let to = text(input, "to")?;
    let (there, list) = (windows.files.exists(to), input["sddl"].as_str());
    if let Some(list) = list.filter(|_| there) {
        set_list(windows, to, list)?;
    }
    if let Some(from) = input["from"].as_str() {
        if windows.files.exists(to) {
            windows.files.replace(from, to, None)?;
        } else {
            windows.files.rename(from, to)?;
        }
    }
    if let Some(list) = list.filter(|_| !there) {
        set_list(windows, to, list)?;
    }
    Ok(json!({ "gap": false, "owner_kept": true }))
}

fn remove(input: &Value, windows: &mut Windows) -> Answer {
    for path in list(input, "paths")? {
        if windows.files.exists(path) {
            windows.files.delete(path)?;
        }
    }
    Ok(json!({}))
}

/// Sets the access list and leaves the owner. Windows says a new list in words of its own: `PAI`, sorted, rights as a
/// number, and short names.
fn set_list(windows: &mut Windows, path: &str, sddl: &str) -> Result<(), WindowsError> {
    let owner = windows.files.info(path)?.sddl;
    let owner = owner.split("D:").next().unwrap_or_default();
    let list = sddl.split_once("D:").map_or("", |(_, list)| list);
    let Some(entries) = list.strip_prefix("P(") else {
        return windows.files.set_sddl(path, &format!("{owner}D:{list}"));
    };
    let mut entries: Vec<String> = entries.split('(').map(|entry| format!("({}", reworded(entry))).collect();
    entries.sort();
    windows.files.set_sddl(path, &format!("{owner}D:PAI{}", entries.concat()))
}

/// An entry such as `A;;FR;;;S-1-5-20)`, as Windows gives it back.
fn reworded(entry: &str) -> String {
    let entry = entry.replace(";FRFX;", ";0x1200a9;");
    match entry.trim_end_matches(')').rsplit_once(';') {
        Some((rest, sid)) => format!("{rest};{})", sddl_sid(sid)),
        None => entry,
    }
}
