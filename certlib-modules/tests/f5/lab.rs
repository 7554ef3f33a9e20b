//! A simulated BIG-IP with profiles, and certificates for them.

use std::net::SocketAddr;

use certlib_core::module::TargetSpec;
use certlib_core::{CertificateBundle, Secret};
use certlib_testkit::f5::{F5Sim, Role};
use certlib_testkit::pki::{Issued, TestCa};
use serde_json::{Value, json};

use crate::common::Subject;

/// The profile that virtual servers use.
pub(crate) const SHOP: &str = "/Common/shop";
/// The server-ssl profile.
pub(crate) const BACK: &str = "/Common/back";
/// Where the profile [`SHOP`] is.
pub(crate) const SHOP_PATH: &str = "tm/ltm/profile/client-ssl/~Common~shop";

/// A unit, and what is delivered to it.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) bigip: F5Sim,
    /// A virtual server with [`SHOP`].
    pub(crate) served: SocketAddr,
    /// One with a profile that inherits from it.
    pub(crate) heir: SocketAddr,
    certificates: Vec<Issued>,
}

impl Lab {
    pub(crate) async fn new() -> Self {
        let ca = TestCa::new("test root").unwrap();
        let certificates: Vec<Issued> = (0..6).map(|_| ca.issue(&["shop.example", "127.0.0.1"]).unwrap()).collect();
        let builder = F5Sim::builder().device_group("pair").folder("/Tenant/app");
        let bigip = builder.user("operator", "operator-password", Role::ResourceAdministrator).start().await.unwrap();
        bigip.install("/Common/former", &certificates[0]).unwrap();
        bigip.add_client_ssl(SHOP, &["/Common/former"]).unwrap();
        bigip.add_server_ssl(BACK, "/Common/former").unwrap();
        let heir = json!({ "name": "heir", "defaultsFrom": SHOP });
        bigip.operate("POST", "tm/ltm/profile/client-ssl", heir).unwrap();
        let served = bigip.add_virtual("/Common/vs_shop", &[SHOP]).unwrap();
        let heir = bigip.add_virtual("/Common/vs_heir", &["/Common/heir"]).unwrap();
        bigip.operate("POST", "tm/sys/config", json!({ "command": "save" })).unwrap();
        Self { bigip, served, heir, certificates }
    }

    pub(crate) fn issued(&self, number: usize) -> &Issued {
        &self.certificates[number]
    }

    pub(crate) fn bundle(&self, number: usize) -> CertificateBundle {
        CertificateBundle::from_pem(self.issued(number).combined().as_bytes()).unwrap()
    }

    pub(crate) fn config(&self) -> Value {
        json!({
            "connection": {
                "tls": { "ca_pem": self.bigip.ca_pem() },
                "addresses": { "allow_loopback": true },
            },
            "delay_ms": 1,
            "sync_wait_ms": 2_000,
        })
    }

    pub(crate) fn location(&self) -> Value {
        json!({ "url": self.bigip.url(), "profiles": [{ "name": SHOP }, { "name": BACK, "kind": "server-ssl" }] })
    }

    /// Both virtual servers.
    pub(crate) fn endpoints(&self) -> Value {
        let endpoint = |at: SocketAddr| {
            json!({
                "host": at.ip().to_string(),
                "port": at.port(),
                "server_name": "shop.example",
                "tries": 1,
                "dial_timeout_ms": 60_000,
            })
        };
        json!([endpoint(self.served), endpoint(self.heir)])
    }

    /// The module with this target, with changes of its settings.
    pub(crate) fn subject(&self, change: impl FnOnce(&mut Value, &mut Value)) -> Subject {
        let (mut config, mut location) = (self.config(), self.location());
        change(&mut config, &mut location);
        let credentials = json!({ "username": F5Sim::USER, "password": F5Sim::PASSWORD });
        Subject::new("f5", config, location, Some(credentials))
    }

    /// The module with this target.
    pub(crate) fn plain(&self) -> Subject {
        self.subject(|_, _| ())
    }

    /// The same target with another login.
    pub(crate) fn as_user(&self, mut subject: Subject, user: &str, password: &str) -> Subject {
        let credentials = json!({ "username": user, "password": password });
        let TargetSpec { id, name, config, location, .. } = subject.target;
        subject.target = TargetSpec::new(id, name, config, location, Some(Secret::new(credentials.to_string())));
        subject
    }

    /// Somebody else gives [`SHOP`] a certificate of their own.
    pub(crate) fn meddle(&self) {
        self.bigip.install("/Common/foreign", self.issued(5)).unwrap();
        self.bigip.operate("PATCH", SHOP_PATH, meddling()).unwrap();
    }

    /// The fingerprint that [`SHOP`] selects.
    pub(crate) fn selected(&self) -> String {
        self.bigip.certificates_of(SHOP).remove(0)
    }

    /// Everything is as it was at the beginning, but for what `others` made.
    pub(crate) fn assert_clean(&self) {
        assert_eq!(self.bigip.uploads(), [], "a key must not lie around");
        assert_eq!(self.bigip.live_tokens(), 0, "logged out");
        assert_eq!(self.bigip.open_transactions(), 0, "no transaction is left open");
    }
}

/// What [`Lab::meddle`] makes of the profile.
pub(crate) fn meddling() -> Value {
    json!({ "certKeyChain": [{ "name": "foreign", "cert": "/Common/foreign.crt", "key": "/Common/foreign.key" }] })
}
