//! Paths of the files: what must not be one, what may be odd, and what may already be there.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use certlib_core::module::RollbackOutcome;
use certlib_core::{Effect, ErrorClass};
use certlib_testkit::attacks::{ODD_NAMES, PATHS};
use certlib_testkit::simhost::{SimHost, UserAuth};
use serde_json::{Value, json};

use crate::common::{Subject, certificate, journal};

/// The forms of a certificate that have a path.
const FORMS: [&str; 7] = ["cert", "chain", "fullchain", "key", "combined", "pfx", "der"];

/// What Windows, or a part of it, would read as another path.
const WINDOWS: [&str; 16] = [
    r"\up",
    r"C:relative",
    r"C:\..\up",
    r"C:\tls\.\here",
    r"C:\tls\directory\",
    r"\\?\C:\tls\site.pem",
    r"\\.\pipe\site",
    r"\\server\share",
    r"C:\tls\site.pem:stream",
    r"C:\tls\site.pem::$DATA",
    r"C:\tls\CON.pem",
    r"C:\tls\com1",
    r"C:\tls\site.pem.",
    r"C:\tls\site.pem ",
    r"C:\PROGRA~1\site.pem",
    r"C:\tls\*.pem",
];

fn subject(kind: &str, location: Value) -> Subject {
    let (location, config, credentials) = match kind {
        "file" => (location, json!({}), json!({ "pfx_password": "pfx secret" })),
        "ssh" => {
            let pin = format!("SHA256:{}", "A".repeat(43));
            let credentials = json!({ "user": "root", "password": "p", "pfx_password": "pfx secret" });
            (merged(location, json!({ "host": "h" })), json!({ "host_key": { "fingerprint": pin } }), credentials)
        }
        "winrm" => {
            let login = json!({ "method": "ntlm", "user": "u", "password": "p" });
            let location = merged(location, json!({ "url": "https://app.example.com:5986/wsman" }));
            (location, json!({}), json!({ "login": login, "pfx_password": "pfx secret" }))
        }
        _ => unreachable!("{kind}"),
    };
    Subject::new(kind, config, location, Some(credentials))
}

fn merged(mut base: Value, more: Value) -> Value {
    base.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    base
}

fn verdict(kind: &str, location: Value) -> String {
    let subject = subject(kind, location);
    match subject.module.check(&subject.target) {
        Ok(()) => "fine".to_owned(),
        Err(error) => {
            assert_eq!((error.class(), error.effect()), (ErrorClass::Validation, Effect::None), "{error:?}");
            assert!(!error.to_string().contains(['\n', '\r', '\0', '\u{1b}', '\u{202e}']), "{error}");
            error.code().to_owned()
        }
    }
}

#[test]
fn every_path_by_every_module_and_form() {
    let long_path = format!("/{}/x", "a/".repeat(2048).trim_end_matches('/'));
    let long_name = format!("/etc/{}", "n".repeat(256));
    let long = [long_path.as_str(), &long_name];
    for form in FORMS {
        for kind in ["file", "ssh", "winrm"] {
            for path in PATHS.into_iter().chain(long) {
                for output in [json!(path), json!({ "path": path })] {
                    let code = verdict(kind, json!({ "paths": { form: output } }));
                    assert_eq!(code, "path_invalid", "{kind} {form} {path:?}");
                }
            }
        }
        for path in WINDOWS.iter().copied().chain([format!(r"C:\{}", "a".repeat(260)).as_str()]) {
            assert_eq!(verdict("winrm", json!({ "paths": { form: path } })), "path_invalid", "{form} {path:?}");
        }
    }
}

#[test]
fn roots_cannot_be_left() {
    for kind in ["file", "ssh"] {
        for path in ["/etc/ssl2/a", "/etc/ssl", "/etc/a", "/tmp/a", "/etc/SSL/a"] {
            let location = json!({ "root": "/etc/ssl", "paths": { "cert": path } });
            assert_eq!(verdict(kind, location), "path_escapes_root", "{kind} {path}");
        }
        for path in ["/etc/ssl/../a", "/etc/ssl/./../a", "/etc/ssl//../a"] {
            let location = json!({ "root": "/etc/ssl", "paths": { "cert": path } });
            assert_eq!(verdict(kind, location), "path_invalid", "{kind} {path}");
        }
        for root in PATHS.into_iter().filter(|path| !path.ends_with('/')) {
            let location = json!({ "root": root, "paths": { "cert": "/etc/ssl/a" } });
            assert_eq!(verdict(kind, location), "path_invalid", "{kind} {root:?}");
        }
    }
    for path in [r"C:\tls2\a", r"C:\tls", r"C:\a", r"D:\tls\a", r"\\tls\c$\tls\a"] {
        let location = json!({ "root": r"C:\tls", "paths": { "cert": path } });
        assert_eq!(verdict("winrm", location), "path_escapes_root", "{path}");
    }
}

/// n/a: bindings of IIS have certificates of a store, and no files.
#[test]
fn iis_is_told_no_paths() {
    let location = json!({
        "url": "https://app.example.com:5986/wsman", "bindings": [{ "site": "Shop", "host": "a.example" }],
        "paths": { "cert": r"C:\a.pem" },
    });
    let login = json!({ "login": { "method": "ntlm", "user": "u", "password": "p" } });
    let subject = Subject::new("iis", json!({}), location, Some(login));
    assert_eq!(subject.module.check(&subject.target).unwrap_err().code(), "location_invalid");
}

// --- odd, but fine ----------------------------------------------------------------------------------------------

#[tokio::test]
async fn odd_names_reach_files_of_this_machine_unchanged() {
    let (_, bundle) = certificate(&["localhost"]);
    for name in ODD_NAMES {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        let subject = Subject::new("file", json!({}), json!({ "paths": { "cert": path } }), None);
        let journal = journal();
        subject.deliver(&bundle, &journal).await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), bundle.leaf_pem(), "{name:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "{name:?}");
        assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{name:?}");
    }
}

/// Without the extension that renames over a file, `mv` does it: the names then pass a shell.
#[tokio::test]
async fn odd_names_reach_files_of_hosts_unchanged() {
    let (_, bundle) = certificate(&["localhost"]);
    for extension in [true, false] {
        let mut host = SimHost::builder().user("root", UserAuth::password("p")).directory("/d", 0o755);
        for name in ODD_NAMES {
            host = host.file(format!("/d/{name}"), "former", 0o640);
        }
        if !extension {
            host = host.without_extension("posix-rename@openssh.com");
        }
        let host = host.start().await.unwrap();
        let address = host.ssh_addr();
        for name in ODD_NAMES {
            let location = json!({
                "host": address.ip().to_string(), "port": address.port(), "paths": { "cert": format!("/d/{name}") },
            });
            let config = json!({ "host_key": { "known_hosts": host.known_hosts_line() } });
            let subject = Subject::new("ssh", config, location, Some(json!({ "user": "root", "password": "p" })));
            let journal = journal();
            subject.deliver(&bundle, &journal).await.unwrap_or_else(|error| panic!("{name:?}: {error:?}"));
            let path = format!("/d/{name}");
            assert_eq!(host.file(&path).unwrap(), bundle.leaf_pem().as_bytes(), "{name:?}");
            assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack, "{name:?}");
            assert_eq!(host.file(&path).unwrap(), b"former", "{name:?}");
        }
        let files = host.files().into_iter().filter(|info| info.path.starts_with("/d/")).count();
        assert_eq!(files, ODD_NAMES.len(), "nothing else appeared");
        assert_eq!(host.commands().is_empty(), extension, "{:?}", host.commands());
    }
}

// --- what is there already --------------------------------------------------------------------------------------

#[tokio::test]
async fn what_is_no_file_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("directory")).unwrap();
    assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
    let _socket = UnixListener::bind(at("socket")).unwrap();
    symlink("/dev/null", at("device")).unwrap();
    symlink(at("directory"), at("to-directory")).unwrap();
    symlink(at("fifo"), at("to-fifo")).unwrap();
    symlink(at("loop"), at("loop")).unwrap();
    fs::write(at("large"), vec![0; 8 * 1024 * 1024]).unwrap();
    let (_, bundle) = certificate(&["localhost"]);
    let before = listing(folder.path());
    for (name, code) in [
        ("directory", "path_not_a_file"),
        ("fifo", "path_not_a_file"),
        ("socket", "path_not_a_file"),
        ("device", "path_not_a_file"),
        ("to-directory", "path_not_a_file"),
        ("to-fifo", "path_not_a_file"),
        ("loop", "read_failed"),
        ("large", "file_too_large"),
        ("missing/site.pem", "directory_missing"),
        ("large/site.pem", "read_failed"),
    ] {
        let subject = Subject::new("file", json!({}), json!({ "paths": { "cert": at(name) } }), None);
        let error = subject.plan(&bundle).await.unwrap_err();
        assert_eq!((error.code(), error.effect()), (code, Effect::None), "{name}: {error:?}");
    }
    assert_eq!(listing(folder.path()), before);
}

fn listing(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            format!("{:?} {:?}", entry.file_name(), fs::symlink_metadata(entry.path()).unwrap().file_type())
        })
        .collect();
    names.sort();
    names
}

/// A directory that becomes a link out of the root after the plan, or after an interrupted attempt, is noticed.
#[tokio::test]
async fn a_link_that_appears_midway_leads_nowhere() {
    let (_, bundle) = certificate(&["localhost"]);
    for begun in [false, true] {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = folder.path().canonicalize().unwrap().join("root");
        fs::create_dir_all(root.join("tls")).unwrap();
        fs::write(root.join("tls/site.pem"), "former").unwrap();
        let location = json!({ "root": root, "paths": { "cert": root.join("tls/site.pem") } });
        let subject = Subject::new("file", json!({}), location, None);
        let journal = journal();
        let plan = subject.plan(&bundle).await.unwrap();
        if begun {
            subject.execute(&bundle, plan.clone(), &journal).await.unwrap();
        }
        fs::rename(root.join("tls"), root.join("moved")).unwrap();
        symlink(outside.path(), root.join("tls")).unwrap();
        let error = subject.execute(&bundle, plan, &journal).await.unwrap_err();
        assert_eq!(error.code(), "path_escapes_root", "{error:?}");
        if begun {
            let rolled = subject.rollback(&journal).await;
            let refused = match &rolled {
                Ok(RollbackOutcome::Refused { code, .. }) => code.as_str(),
                Err(error) => error.code(),
                Ok(other) => panic!("{other:?}"),
            };
            assert_eq!(refused, "path_escapes_root");
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "nothing was written out there");
    }
}
