//! Who connects to anything: a list that is complete, because the sources are searched.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What connects, resolves, or builds something that does.
const WORDS: [&str; 7] = [
    "TcpStream::connect",
    "UdpSocket::bind",
    "lookup_host",
    "to_socket_addrs",
    "Client::builder",
    "Client::new()",
    "reqwest::get",
];

/// The files that do, and by what right.
const DIALS: [(&str, &str); 9] = [
    ("certlib-net/src/resolve.rs", "the guard's own resolver"),
    ("certlib-net/src/http.rs", "the guarded client itself"),
    ("certlib-modules/src/probe/handshake.rs", "an address that the guard gave out"),
    ("certlib-modules/src/smtp/session.rs", "an address that the guard gave out"),
    ("certlib-modules/src/ssh/connect.rs", "an address that the guard gave out"),
    ("certlib-modules/src/winrm/wsman/auth.rs", "an address that the guard gave out: the key distribution centre"),
    ("certlib-modules/src/winrm/wsman/wire.rs", "an address that the guard gave out"),
    ("certlib-issuers/src/acme/client.rs", "without a policy: the CA that the operator chose"),
    ("certlib-issuers/src/dns/wire.rs", "without a policy: name servers that the operator and DNS name"),
];

/// Not a part of delivery: whoever can set this up holds the keys already.
const KEYS: [(&str, &str); 1] =
    [("certlib-keys/src/vault_transit/http.rs", "without a policy: the Vault that keeps the keys")];

#[test]
fn nobody_else_connects() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = BTreeSet::new();
    let mut folders: Vec<PathBuf> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path().join("src"))
        .filter(|path| path.is_dir() && !path.starts_with(root.join("certlib-testkit")))
        .filter(|path| path.parent().unwrap().file_name().unwrap().to_string_lossy().starts_with("certlib-"))
        .collect();
    assert!(folders.len() >= 7, "{folders:?}");
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                // Tests come last, and may connect to what they started.
                let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
                if WORDS.iter().any(|word| code.contains(word)) {
                    found.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
    }
    let known: BTreeSet<String> = DIALS.iter().chain(&KEYS).map(|(file, _)| (*file).to_owned()).collect();
    assert_eq!(found, known, "a new file connects, or one that did no longer does");
}

/// Of those that say so, each asks the guard in the same file or gets addresses from one that does.
#[test]
fn those_with_a_policy_have_a_guard() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for (file, why) in DIALS.iter().filter(|(_, why)| why.contains("the guard gave out")) {
        let asks = match *file {
            "certlib-modules/src/probe/handshake.rs" => "certlib-modules/src/probe/mod.rs",
            "certlib-modules/src/winrm/wsman/auth.rs" => "certlib-modules/src/winrm/wsman/session.rs",
            file => file,
        };
        let text = fs::read_to_string(root.join(asks)).unwrap();
        assert!(text.contains("uard.resolve") || text.contains(").resolve(host)"), "{file}: {why}");
    }
}
