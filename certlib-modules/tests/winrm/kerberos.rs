//! Kerberos: tickets of a real key distribution centre, and a machine's side by MIT's library.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use certlib_core::ErrorClass;
use certlib_testkit::locate::locate;
use certlib_testkit::ports;
use certlib_testkit::process::{Child, START_LIMIT, poll_until, run};
use serde_json::json;
use tempfile::TempDir;

use crate::common::{Subject, certificate};
use crate::location;
use crate::windows::{PASSWORD, WRONG};

const SERVER: &str = include_str!("kerberos_server.py");
const REALM: &str = "CERTLIB.TEST";

/// The interpreter that Debian's package of the library is for.
const PYTHON: &str = "/usr/bin/python3";

/// A realm with a user and a machine, and that machine.
struct Realm {
    kdc: String,
    url: String,
    machine: Child,
    centre: Child,
    _folder: TempDir,
}

fn command(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env("KRB5_CONFIG", folder.join("krb5.conf"))
        .env("KRB5_KDC_PROFILE", folder.join("kdc.conf"))
        .env("KRB5_KTNAME", folder.join("machine.keytab"))
        .env("KRB5RCACHENAME", "none:");
    command
}

/// `None` when Kerberos was left out on purpose.
async fn realm() -> Option<Realm> {
    let centre = match locate("krb5kdc").await {
        Err(certlib_testkit::Error::LeftOut { .. }) => return None,
        other => other.unwrap(),
    };
    let (create, admin) = (locate("kdb5_util").await.unwrap(), locate("kadmin.local").await.unwrap());
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let kdc = ports::free_addr().unwrap();
    let at = |name: &str| -> PathBuf { folder.join(name) };
    let config = format!(
        "[libdefaults]\n default_realm = {REALM}\n dns_lookup_kdc = false\n dns_lookup_realm = false\n rdns = false\n\
         [realms]\n {REALM} = {{\n  kdc = {kdc}\n }}\n[domain_realm]\n localhost = {REALM}\n\
         [logging]\n kdc = STDERR\n"
    );
    fs::write(at("krb5.conf"), config).unwrap();
    let config = format!(
        "[kdcdefaults]\n kdc_listen = \"\"\n kdc_tcp_listen = {kdc}\n[realms]\n {REALM} = {{\n  database_name = {}\n  \
         key_stash_file = {}\n  acl_file = {}\n  supported_enctypes = aes256-cts:normal aes128-cts:normal\n }}\n",
        at("principal").display(),
        at("stash").display(),
        at("acl").display()
    );
    fs::write(at("kdc.conf"), config).unwrap();
    let mut create = command(&create, folder);
    create.args(["create", "-s", "-P", "master", "-r", REALM]);
    run(create, b"").await.unwrap();
    for query in [
        format!("addprinc -pw \"{PASSWORD}\" +requires_preauth deploy"),
        "addprinc -randkey HTTP/localhost".to_owned(),
        format!("ktadd -k {} HTTP/localhost", at("machine.keytab").display()),
    ] {
        let mut admin = command(&admin, folder);
        admin.args(["-r", REALM, "-q", &query]);
        run(admin, b"").await.unwrap();
    }
    let mut serve = command(&centre, folder);
    serve.args(["-n", "-r", REALM]);
    let mut centre = Child::spawn("krb5kdc", serve, folder).unwrap();
    fs::write(at("server.py"), SERVER).unwrap();
    let mut serve = command(Path::new(PYTHON), folder);
    serve.arg(at("server.py"));
    let mut machine = Child::spawn("kerberos-winrm", serve, folder).unwrap();
    centre.wait_for_port(kdc).await.unwrap();
    let found = poll_until("the machine's port", START_LIMIT, async || {
        assert!(machine.is_running(), "{}", machine.log());
        machine.log().lines().next().and_then(|line| line.trim().parse::<u16>().ok())
    });
    let port = found.await.unwrap();
    let url = format!("http://localhost:{port}/wsman");
    Some(Realm { kdc: kdc.to_string(), url, machine, centre, _folder: temporary })
}

impl Realm {
    async fn plan(&self, password: &str, kdc: &str) -> certlib_core::Error {
        let config = json!({ "connection": { "addresses": { "allow_loopback": true }, "allow_http": true } });
        let login =
            json!({ "method": "kerberos", "user": format!("deploy@{REALM}"), "password": password, "kdc": kdc });
        let subject = Subject::new("winrm", config, location(&self.url), Some(json!({ "login": login })));
        let (_, bundle) = certificate(&["localhost"]);
        subject.plan(&bundle).await.unwrap_err()
    }
}

#[tokio::test]
async fn tickets_log_in_and_seal() {
    let Some(realm) = realm().await else { return };
    // The machine understood us, and we understood its refusal: both directions are sealed.
    let error = realm.plan(PASSWORD, &realm.kdc).await;
    assert_eq!((error.code(), error.class()), ("access_denied", ErrorClass::Auth), "{error:?} {}", realm.centre.log());
    let log = realm.machine.log();
    assert!(log.contains(&format!("opened Create of deploy@{REALM}")), "{log}");

    let error = realm.plan(WRONG, &realm.kdc).await;
    assert_eq!((error.code(), error.class()), ("login_refused", ErrorClass::Auth), "{error:?}");

    let nowhere = ports::free_addr().unwrap().to_string();
    let error = realm.plan(PASSWORD, &nowhere).await;
    assert_eq!((error.code(), error.class()), ("kdc_unreachable", ErrorClass::Network), "{error:?}");
}
