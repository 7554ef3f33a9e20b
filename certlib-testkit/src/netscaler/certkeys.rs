//! `sslcertkey`: certificate-key pairs and their links.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Map, Value, json};

use super::{
    certificate::{self, Certificate},
    nitro::{Answer, Call, Outcome, Refusal, code},
    state::{Caller, CertKey, Partition, State, StoredFile, path},
};

pub(super) fn answer(state: &mut State, caller: &Caller, call: &Call) -> Outcome {
    match (call.method.clone(), call.action().as_deref()) {
        (Method::GET, None) => show(state, caller, call),
        (Method::POST, None) => add(state, caller, call),
        (Method::POST, Some("update")) => update(state, caller, call),
        (Method::POST, Some("link")) => link(state, caller, call),
        (Method::POST, Some("unlink")) => unlink(state, caller, call),
        (Method::PUT, None) => set(state, caller, call),
        (Method::DELETE, None) => remove(state, caller, call),
        _ => Err(Refusal::invalid("action")),
    }
}

/// A pair that has to be there.
fn existing<'a>(partition: &'a mut Partition, older_build: bool, name: &str) -> Result<&'a mut CertKey, Refusal> {
    partition.certkeys.get_mut(name).ok_or_else(|| absent(older_build, name))
}

/// Builds differ in how they say it.
pub(super) fn absent(older_build: bool, name: &str) -> Refusal {
    if older_build {
        return Refusal::own(code::NO_CERTIFICATE, format!("Certificate does not exist [{name}]"));
    }
    Refusal::absent("certkeyName", name)
}

fn show(state: &State, caller: &Caller, call: &Call) -> Outcome {
    let partition = state.partition(&caller.partition);
    if let Some(name) = &call.name {
        let certkey = partition.certkeys.get(name).ok_or_else(|| absent(state.older_build, name))?;
        return Ok(Answer::list(call, "sslcertkey", vec![shown(name, certkey)]));
    }
    let all = partition.certkeys.iter().map(|(name, certkey)| shown(name, certkey)).collect();
    Ok(Answer::list(call, "sslcertkey", all))
}

fn shown(name: &str, certkey: &CertKey) -> Value {
    let mut fields: Map<String, Value> = certkey.certificate.fields();
    let mut put = |field: &str, value: Value| drop(fields.insert(field.to_owned(), value));
    put("certkey", json!(name));
    put("cert", json!(certkey.cert));
    put("inform", json!("PEM"));
    put("expirymonitor", json!(certkey.monitor));
    put("notificationperiod", json!(certkey.notification_days.to_string()));
    if let Some(key) = &certkey.key {
        put("key", json!(key));
    }
    if let Some(link) = &certkey.link {
        put("linkcertkeyname", json!(link));
    }
    Value::Object(fields)
}

fn add(state: &mut State, caller: &Caller, call: &Call) -> Outcome {
    let name = call.required("certkey")?;
    if !is_name(name) || name.len() > state.longest_name {
        return Err(Refusal::invalid("certkey"));
    }
    let loaded = load(&state.files, &caller.partition, call, None)?;
    let partition = state.partition_mut(&caller.partition);
    if let Some(there) = partition.certkeys.get(name) {
        let same =
            (&there.cert, &there.key, &there.certificate.der) == (&loaded.cert, &loaded.key, &loaded.certificate.der);
        if call.is_set("idempotent") && same {
            return Ok(Answer::created());
        }
        return Err(Refusal::exists(&format!("certkeyName, {name}")));
    }
    refuse_duplicate(partition, name, &loaded)?;
    partition.certkeys.insert(name.to_owned(), loaded);
    Ok(Answer::created())
}

fn update(state: &mut State, caller: &Caller, call: &Call) -> Outcome {
    let name = call.required("certkey")?;
    let (files, older_build) = (state.files.clone(), state.older_build);
    let partition = state.partition_mut(&caller.partition);
    let former = existing(partition, older_build, name)?.clone();
    let loaded = load(&files, &caller.partition, call, Some(&former))?;
    if !call.flag("nodomaincheck") && !loaded.certificate.is_for_the_domain_of(&former.certificate) {
        let text = "Certificate is registered to a different domain; use the 'no domain check' option";
        return Err(Refusal::own(code::OTHER_DOMAIN, text));
    }
    refuse_duplicate(partition, name, &loaded)?;
    // The link stays, whoever issued the new certificate.
    let CertKey { link, monitor, notification_days, .. } = former;
    partition.certkeys.insert(name.to_owned(), CertKey { link, monitor, notification_days, ..loaded });
    Ok(Answer::ok())
}

/// The appliance keeps no certificate twice.
fn refuse_duplicate(partition: &Partition, name: &str, loaded: &CertKey) -> Result<(), Refusal> {
    let same = |(other, certkey): (&String, &CertKey)| {
        (other != name && certkey.certificate.der == loaded.certificate.der).then(|| other.clone())
    };
    match partition.certkeys.iter().find_map(same) {
        Some(other) => Err(Refusal::exists(&format!("certkeyName Contents, {other}"))),
        None => Ok(()),
    }
}

/// Reads the files that a request names.
fn load(
    files: &BTreeMap<String, StoredFile>,
    partition: &str,
    call: &Call,
    former: Option<&CertKey>,
) -> Result<CertKey, Refusal> {
    let cert = match (call.text("cert"), former) {
        (Some(cert), _) => cert.to_owned(),
        (None, Some(former)) => former.cert.clone(),
        (None, None) => return Err(super::nitro::missing("cert")),
    };
    let key = call.text("key").map(str::to_owned).or_else(|| former.and_then(|former| former.key.clone()));
    let passphrase = call.text("passplain").map(str::to_owned);
    read(files, partition, &cert, key.as_deref(), passphrase)
}

fn read(
    files: &BTreeMap<String, StoredFile>,
    partition: &str,
    cert: &str,
    key: Option<&str>,
    passphrase: Option<String>,
) -> Result<CertKey, Refusal> {
    let file = |name: &str| {
        let absent = || Refusal::own(code::NO_FILE, format!("Input file(s) not present or not accessible [{name}]"));
        files.get(&path(partition, name)).ok_or_else(absent)
    };
    let certificate = Certificate::read(&file(cert)?.content);
    let certificate = certificate.ok_or_else(|| Refusal::own(code::INVALID_ARGUMENT, "Invalid certificate"))?;
    let mut key_pem = None;
    if let Some(key) = key {
        let bad =
            || Refusal::own(code::BAD_KEY, "Invalid private key, or PEM pass phrase required for this private key");
        let plain = match &file(key)?.locked {
            None => file(key)?.content.clone(),
            Some((wanted, plain)) if Some(wanted) == passphrase.as_ref() => plain.clone(),
            Some(_) => return Err(bad()),
        };
        if !String::from_utf8_lossy(&plain).contains("PRIVATE KEY") {
            return Err(bad());
        }
        if certificate::pair(&certificate, &plain).is_none() {
            return Err(Refusal::own(code::KEY_MISMATCH, "Certificate and private key do not match"));
        }
        key_pem = Some(plain);
    }
    Ok(CertKey {
        cert: cert.to_owned(),
        key: key.map(str::to_owned),
        passphrase,
        certificate,
        key_pem,
        link: None,
        monitor: "ENABLED".to_owned(),
        notification_days: 30,
    })
}

/// After a restart: whether the files still make this pair; takes what is in them now.
pub(super) fn reload(files: &BTreeMap<String, StoredFile>, partition: &str, certkey: &mut CertKey) -> bool {
    let CertKey { cert, key, passphrase, .. } = certkey;
    match read(files, partition, cert, key.as_deref(), passphrase.clone()) {
        Ok(loaded) => {
            (certkey.certificate, certkey.key_pem) = (loaded.certificate, loaded.key_pem);
            true
        }
        Err(_) => false,
    }
}

fn link(state: &mut State, caller: &Caller, call: &Call) -> Outcome {
    let (name, target) = (call.required("certkey")?, call.required("linkcertkeyname")?);
    let older_build = state.older_build;
    let partition = state.partition_mut(&caller.partition);
    let issuer = existing(partition, older_build, target)?.certificate.clone();
    let mut above = Some(target.to_owned());
    while let Some(next) = above {
        if next == name {
            return Err(Refusal::own(code::NOT_THE_ISSUER, "A certificate cannot be linked in a circle"));
        }
        above = partition.certkeys.get(&next).and_then(|certkey| certkey.link.clone());
    }
    let certkey = existing(partition, older_build, name)?;
    if certkey.link.is_some() {
        return Err(Refusal::own(code::ALREADY_LINKED, "Certificate is already linked"));
    }
    if !issuer.is_ca || issuer.subject != certkey.certificate.issuer {
        return Err(Refusal::own(code::NOT_THE_ISSUER, "Certificate is not issued by the one to link to"));
    }
    certkey.link = Some(target.to_owned());
    Ok(Answer::ok())
}

fn unlink(state: &mut State, caller: &Caller, call: &Call) -> Outcome {
    let name = call.required("certkey")?;
    let older_build = state.older_build;
    let certkey = existing(state.partition_mut(&caller.partition), older_build, name)?;
    match certkey.link.take() {
        Some(_) => Ok(Answer::ok()),
        None => Err(Refusal::own(code::NOT_LINKED, "Certificate is not linked")),
    }
}

/// `PUT` changes nothing but the watch over expiry.
fn set(state: &mut State, caller: &Caller, call: &Call) -> Outcome {
    let name = call.name.as_deref().or_else(|| call.text("certkey")).unwrap_or_default().to_owned();
    if let Some(field) =
        ["cert", "key", "passplain", "linkcertkeyname"].iter().find(|field| call.fields.contains_key(**field))
    {
        return Err(Refusal::invalid(field));
    }
    let older_build = state.older_build;
    let certkey = existing(state.partition_mut(&caller.partition), older_build, &name)?;
    if let Some(monitor) = call.text("expirymonitor") {
        monitor.clone_into(&mut certkey.monitor);
    }
    if let Some(days) = call.fields.get("notificationperiod").and_then(Value::as_u64) {
        certkey.notification_days = days;
    }
    Ok(Answer::ok())
}

fn remove(state: &mut State, caller: &Caller, call: &Call) -> Outcome {
    let args = call.pairs("args");
    let name = call.name.as_ref().or_else(|| args.get("certkey")).cloned().unwrap_or_default();
    let older_build = state.older_build;
    let partition = state.partition_mut(&caller.partition);
    existing(partition, older_build, &name)?;
    let bound = partition.holders.values().any(|holder| holder.bindings.iter().any(|binding| binding.certkey == name));
    let linked = partition.certkeys.values().any(|certkey| certkey.link.as_ref() == Some(&name));
    if bound || linked {
        let text =
            "Certificate is referenced by a CRL, OCSP responder, virtual server, service, or another certificate";
        return Err(Refusal::own(code::IN_USE, text));
    }
    let removed = partition.certkeys.remove(&name);
    if args.get("deletefromdevice").is_some_and(|value| value == "true")
        && let Some(removed) = removed
    {
        for file in [Some(removed.cert), removed.key].into_iter().flatten() {
            state.files.remove(&path(&caller.partition, &file));
        }
    }
    Ok(Answer::ok())
}

fn is_name(name: &str) -> bool {
    let begins = name.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_');
    begins && name.chars().all(|one| one.is_ascii_alphanumeric() || "_#. :@=-".contains(one))
}
