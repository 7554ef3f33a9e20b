//! `systemfile`: files on the appliance's disk.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Method;
use serde_json::{Value, json};

use super::{
    nitro::{Answer, Call, Outcome, Refusal, code, missing},
    state::{Caller, State, StoredFile, folder},
};

/// The longest name of a file.
const LONGEST_NAME: usize = 63;
/// The longest folder.
const LONGEST_FOLDER: usize = 127;

pub(super) fn answer(state: &mut State, caller: &Caller, call: &Call) -> Outcome {
    match call.method {
        Method::POST => upload(state, caller, call),
        Method::GET => show(state, caller, call),
        Method::DELETE => remove(state, caller, call),
        _ => Err(Refusal::invalid("method")),
    }
}

fn upload(state: &mut State, caller: &Caller, call: &Call) -> Outcome {
    let name = call.required("filename")?;
    let location = checked(caller, call.required("filelocation")?)?;
    if name.len() > LONGEST_NAME || name.contains('/') {
        return Err(Refusal::invalid("filename"));
    }
    if call.text("fileencoding").is_some_and(|encoding| encoding != "BASE64") {
        return Err(Refusal::invalid("fileencoding"));
    }
    let content = STANDARD.decode(call.required("filecontent")?).map_err(|_| Refusal::invalid("filecontent"))?;
    let path = format!("{location}/{name}");
    // Builds before 14.1 do not know `override`.
    let replaces = call.is_set("override") && !state.older_build;
    if state.files.contains_key(&path) && !replaces {
        return Err(Refusal::new(409, code::FILE_EXISTS, "File already exists"));
    }
    state.files.insert(path, StoredFile { content, locked: None });
    Ok(Answer::created())
}

fn show(state: &State, caller: &Caller, call: &Call) -> Outcome {
    let args = call.pairs("args");
    let location = checked(caller, args.get("filelocation").ok_or_else(|| missing("filelocation"))?)?;
    let wanted = call.name.as_ref().or_else(|| args.get("filename"));
    let Some(name) = wanted else {
        let prefix = format!("{location}/");
        let names = state.files.iter().filter_map(|(path, file)| Some((path.strip_prefix(&prefix)?, file)));
        let direct = names.filter(|(name, _)| !name.contains('/'));
        return Ok(Answer::list(call, "systemfile", direct.map(|(name, file)| entry(name, &location, file)).collect()));
    };
    let file = state.files.get(&format!("{location}/{name}")).ok_or_else(|| Refusal::absent("filename", name))?;
    let mut entry = entry(name, &location, file);
    entry["filecontent"] = json!(STANDARD.encode(&file.content));
    entry["fileencoding"] = json!("BASE64");
    Ok(Answer::ok().with("systemfile", json!([entry])))
}

fn entry(name: &str, location: &str, file: &StoredFile) -> Value {
    json!({
        "filename": name,
        "filelocation": location,
        "fileaccesstime": "Thu Jan  1 00:00:00 2026",
        "filemodifiedtime": "Thu Jan  1 00:00:00 2026",
        "filesize": file.content.len().to_string(),
        "filemode": ["FILE"],
    })
}

fn remove(state: &mut State, caller: &Caller, call: &Call) -> Outcome {
    let args = call.pairs("args");
    let location = checked(caller, args.get("filelocation").ok_or_else(|| missing("filelocation"))?)?;
    let name = call.name.as_ref().or_else(|| args.get("filename")).ok_or_else(|| missing("filename"))?;
    match state.files.remove(&format!("{location}/{name}")) {
        Some(_) => Ok(Answer::ok()),
        None => Err(Refusal::absent("filename", name)),
    }
}

/// A folder that exists, and that the partition may see.
fn checked(caller: &Caller, location: &str) -> Result<String, Refusal> {
    let location = location.trim_end_matches('/');
    let own = folder(&caller.partition);
    let inside = location == own || location.strip_prefix(&own).is_some_and(|rest| rest.starts_with('/'));
    let elsewhere = caller.partition.is_empty() && ["/nsconfig", "/var", "/flash"].contains(&location);
    if location.len() > LONGEST_FOLDER || location.contains("..") || !(inside || elsewhere) {
        return Err(Refusal::invalid("filelocation"));
    }
    Ok(location.to_owned())
}
