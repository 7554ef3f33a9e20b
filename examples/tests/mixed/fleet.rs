//! The targets, what is wrong with some of them, and how to look at each without certlib.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use certlib_core::bundle::Fingerprint;
use certlib_core::client::{Client, NewTarget};
use certlib_core::model::Target;
use certlib_core::store::StoreExt as _;
use certlib_core::{CertificateBundle, Secret};
use certlib_testkit::counterpart::{Aiosmtpd, Kubernetes};
use certlib_testkit::pki::{Issued, TestCa};
use certlib_testkit::simhost::{Service, SimHost, UserAuth};
use certlib_testkit::tls::leaf_fingerprint;
use serde_json::{Value, json};

use crate::kinds::{self, Hosts};

/// What all serve TLS for.
pub(crate) const NAME: &str = "shop.example";

/// What is wrong with a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The login is refused.
    WrongLogin,
    /// Where it must be served, something else is.
    NotServed,
    /// Nobody is there.
    Unreachable,
}

/// Where one sees what a target has.
#[derive(Debug, Clone)]
pub(crate) enum Look {
    /// In a TLS handshake.
    Tls(SocketAddr),
    /// In a field of a secret of Vault.
    Vault(String),
    /// In a Secret of Kubernetes.
    Secret(String),
    /// In a file of the Windows host.
    WindowsFile(String),
    /// In what the receiver was sent at this path.
    Hook(String),
    /// In the mailbox of this recipient.
    Mail(String),
}

/// A target, before it is registered.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) new: NewTarget,
    pub(crate) login: Value,
    /// A login that is refused; `None`: there is none, or nobody asks for it in time.
    pub(crate) wrong: Option<Value>,
    /// Where, when nobody is there: for targets whose delivery nobody sees.
    pub(crate) nowhere: Option<Value>,
    pub(crate) look: Look,
}

pub(crate) struct Fleet {
    sites: BTreeMap<String, Site>,
    ids: BTreeMap<String, String>,
    faults: BTreeMap<String, Fault>,
    hosts: Hosts,
    /// Serves something else.
    decoy: SimHost,
}

/// The CA and the certificate of the mail server.
pub(crate) fn relay_certificate() -> (TestCa, Issued) {
    let ca = TestCa::new("relay root").unwrap();
    let issued = ca.issue(&["mail.test"]).unwrap();
    (ca, issued)
}

impl Fleet {
    pub(crate) async fn new(each: usize, kubernetes: Kubernetes, mail: Aiosmtpd, relay: &TestCa) -> Self {
        let factory = TestCa::new("factory").unwrap().issue(&[NAME]).unwrap();
        let mut hosts = Hosts::start(each, &factory, kubernetes, mail).await;
        let sites = kinds::sites(&mut hosts, each, &factory, relay).await;
        let other = TestCa::new("other").unwrap().issue(&[NAME]).unwrap();
        let decoy = SimHost::builder()
            .user("root", UserAuth::password("nobody"))
            .file("/cert.pem", other.full_chain(), 0o644)
            .file("/key.pem", other.key_pem.clone(), 0o600)
            .service(Service::new("/cert.pem", "/key.pem"))
            .start()
            .await
            .unwrap();
        let sites = sites.into_iter().map(|site| (site.new.name.clone(), site)).collect();
        Self { sites, ids: BTreeMap::new(), faults: BTreeMap::new(), hosts, decoy }
    }

    /// Makes all targets known; gives their ids.
    pub(crate) async fn register(&mut self, client: &Client) -> Vec<String> {
        for (name, site) in &self.sites {
            let secret = Secret::new(site.login.to_string());
            let credential = client.create_credential("shop", name, &secret).await.unwrap();
            let new = NewTarget { credential_id: Some(credential.id), ..clone(&site.new) };
            let target = client.create_target("shop", new).await.unwrap_or_else(|error| panic!("{name}: {error}"));
            self.ids.insert(name.clone(), target.id);
        }
        self.ids.values().cloned().collect()
    }

    /// Every fifth: one login after the other that is refused, and one place that serves something else.
    pub(crate) async fn break_some(&mut self, client: &Client) {
        let decoy = endpoint(self.decoy.tls_addr());
        for (index, (name, site)) in self.sites.iter().enumerate() {
            if index % 5 != 0 {
                continue;
            }
            let mut target = client.store().load::<Target>(&self.ids[name]).await.unwrap();
            let fault = match (&site.nowhere, &site.wrong) {
                (Some(nowhere), _) => {
                    target.location = nowhere.clone();
                    Fault::Unreachable
                }
                (None, Some(wrong)) if index % 10 == 0 => {
                    let secret = Secret::new(wrong.to_string());
                    let credential = client.create_credential("shop", &format!("wrong {name}"), &secret).await.unwrap();
                    target.credential_id = Some(credential.id);
                    Fault::WrongLogin
                }
                _ => {
                    target.config["endpoints"] = json!([decoy]);
                    Fault::NotServed
                }
            };
            client.store().update(&mut target).await.unwrap();
            self.faults.insert(name.clone(), fault);
        }
    }

    pub(crate) fn fault(&self, name: &str) -> Option<Fault> {
        self.faults.get(name).copied()
    }

    /// Whether delivery to it can be proven.
    pub(crate) fn verifies(&self, name: &str) -> bool {
        !matches!(self.sites[name].look, Look::Hook(_) | Look::Mail(_))
    }

    /// Fails unless the target has this certificate, and, where it is told things, was told of no other since.
    pub(crate) async fn assert_has(&self, name: &str, wanted: Fingerprint) {
        let wanted = wanted.to_string();
        let found = match &self.sites[name].look {
            Look::Tls(addr) => leaf_fingerprint(*addr, NAME).await.unwrap(),
            Look::Vault(path) => of_pem(self.hosts.vault.read(path).unwrap()["data"]["certificate"].as_str().unwrap()),
            Look::Secret(path) => {
                use base64::Engine as _;
                let secret = self.hosts.kubernetes.ask("GET", path, None).await.unwrap();
                let pem = secret["data"]["tls.crt"].as_str().unwrap();
                of_pem(std::str::from_utf8(&base64::engine::general_purpose::STANDARD.decode(pem).unwrap()).unwrap())
            }
            Look::WindowsFile(path) => {
                let bytes = self.hosts.files.with(|windows| windows.files.read(path)).unwrap();
                of_pem(std::str::from_utf8(&bytes).unwrap())
            }
            Look::Hook(path) => {
                let requests = self.hosts.hook.requests();
                let last = requests.iter().rev().find(|request| request.line.contains(&format!(" {path} "))).unwrap();
                assert!(String::from_utf8_lossy(&last.body).contains(&wanted), "{name}");
                wanted.clone()
            }
            Look::Mail(recipient) => {
                let mails = self.hosts.mail.mails().unwrap();
                let bytes = mails.iter().rev().map(|mail| String::from_utf8_lossy(&mail.bytes).into_owned());
                let last = bytes.into_iter().find(|text| text.contains(recipient)).unwrap();
                assert!(last.replace("=\r\n", "").contains(&wanted), "{name}: {last}");
                wanted.clone()
            }
        };
        assert_eq!(found, wanted, "{name}");
    }
}

/// Where a certificate must be served.
pub(crate) fn endpoint(addr: SocketAddr) -> Value {
    json!({
        "host": addr.ip().to_string(), "port": addr.port(), "server_name": NAME, "tries": 1, "delay_ms": 0,
        "dial_timeout_ms": 60_000,
    })
}

fn of_pem(pem: &str) -> String {
    CertificateBundle::from_pem(pem.as_bytes()).unwrap().fingerprint().to_string()
}

fn clone(new: &NewTarget) -> NewTarget {
    NewTarget {
        name: new.name.clone(),
        module: new.module.clone(),
        config: new.config.clone(),
        location: new.location.clone(),
        credential_id: None,
        rules: new.rules.clone(),
    }
}
