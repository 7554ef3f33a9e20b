//! The module conformance suite on every kind of resource.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::conformance::module::{ModuleFixture, ModuleHarness};
use certlib_core::module::{ErasedModule, TargetSpec};
use certlib_core::{CertificateBundle, Secret};
use certlib_testkit::huawei::{CdnSource, HuaweiSim};
use certlib_testkit::pki::Issued;
use serde_json::{Value, json};

use crate::{Case, bundle};

const NAME: &str = "shop.example.com";
const TOKEN: &str = "token-51b7e80c";
const KEY: &str = "SIMKEY51B7E80C";
const SECRET: &str = "secret-2f9a417d";
const WRONG: &str = "wrong-8c3e55a0";

/// What somebody else would put there.
const FOREIGN: usize = 3;

/// One kind of resource.
#[derive(Clone, Copy)]
enum Kind {
    Listener,
    Names,
    Domain,
    Host,
    DedicatedHost,
}

struct Cloud(Kind);

struct Deployed {
    case: Case,
    kind: Kind,
    /// The id or name of the resource.
    resource: String,
    issued: Vec<Issued>,
}

#[async_trait]
impl ModuleHarness for Cloud {
    fn module(&self) -> Arc<dyn ErasedModule> {
        certlib_modules::registry().unwrap().module("huawei").unwrap()
    }

    async fn fresh(&self) -> Option<Box<dyn ModuleFixture>> {
        let case = Case::new(&[NAME]).await;
        case.sim.add_access_key(KEY, SECRET, Some(TOKEN));
        let issued: Vec<Issued> = (0..4).map(|_| case.issue()).collect();
        let (resource, location, address) = set_up(self.0, &case.sim, &issued[0]);
        let mut case = case.resource(location);
        let (host, port) = (address.ip().to_string(), address.port());
        let endpoint = json!({"host": host, "port": port, "server_name": NAME, "tries": 1, "delay_ms": 0});
        case.config("endpoints", json!([endpoint]));
        case.credentials(json!({"access_key": KEY, "secret_key": SECRET, "security_token": TOKEN}));
        if matches!(self.0, Kind::Listener | Kind::DedicatedHost) {
            // The project is to be looked up.
            case.location("project_id", Value::Null);
        }
        Some(Box::new(Deployed { case, kind: self.0, resource, issued }))
    }

    fn tested_against(&self) -> &str {
        match self.0 {
            Kind::Listener => "HuaweiSim, ELB listener",
            Kind::Names => "HuaweiSim, ELB listener, by name",
            Kind::Domain => "HuaweiSim, CDN domain",
            Kind::Host => "HuaweiSim, WAF host",
            Kind::DedicatedHost => "HuaweiSim, WAF dedicated host",
        }
    }
}

/// A resource that uses `first`: its id, its place in the target's location, and where it serves TLS.
fn set_up(kind: Kind, sim: &HuaweiSim, first: &Issued) -> (String, Value, SocketAddr) {
    match kind {
        Kind::Listener | Kind::Names => {
            let by_name = matches!(kind, Kind::Names);
            let certificate = sim.put_elb_certificate("by-hand", first).unwrap();
            let other = certlib_testkit::pki::TestCa::new("other").unwrap().issue(&["other.example.com"]).unwrap();
            let other = sim.put_elb_certificate("other", &other).unwrap();
            let (default, sni) = if by_name { (&other, vec![certificate.as_str()]) } else { (&certificate, vec![]) };
            let id = sim.add_listener("HTTPS", Some(default), &sni).unwrap();
            let place = if by_name { "sni" } else { "default" };
            let address = sim.listener_address(&id).unwrap();
            (id.clone(), json!({"service": "elb", "listener_id": id, "use": place}), address)
        }
        Kind::Domain => {
            sim.add_cdn_domain(NAME).unwrap();
            let id = sim.import_scm("by-hand", first).unwrap();
            sim.set_cdn_certificate(NAME, CdnSource::Scm(&id)).unwrap();
            (NAME.to_owned(), json!({"service": "cdn", "domain": NAME}), sim.cdn_address(NAME).unwrap())
        }
        Kind::Host | Kind::DedicatedHost => {
            let premium = matches!(kind, Kind::DedicatedHost);
            let certificate = sim.put_waf_certificate("by-hand", first).unwrap();
            let id = sim.add_waf_host(NAME, premium, Some(&certificate)).unwrap();
            let mode = if premium { "premium" } else { "cloud" };
            let address = sim.waf_host_address(&id).unwrap();
            (id.clone(), json!({"service": "waf", "host_id": id, "mode": mode}), address)
        }
    }
}

#[async_trait]
impl ModuleFixture for Deployed {
    fn target(&self) -> TargetSpec {
        let target = &self.case.target;
        let credentials = target.credentials.as_ref().map(|secret| Secret::new(secret.expose().clone()));
        TargetSpec::new(&target.id, &target.name, target.config.clone(), target.location.clone(), credentials)
    }

    fn refused(&self) -> Option<TargetSpec> {
        let wrong = json!({"access_key": KEY, "secret_key": WRONG, "security_token": TOKEN});
        let mut target = self.target();
        target.credentials = Some(Secret::new(wrong.to_string()));
        Some(target)
    }

    fn secrets(&self) -> Vec<String> {
        [SECRET, TOKEN, WRONG].map(str::to_owned).to_vec()
    }

    fn bundle(&self, number: usize) -> CertificateBundle {
        bundle(&self.issued[number])
    }

    async fn state(&self) -> String {
        self.case.sim.snapshot()
    }

    async fn meddle(&self) {
        let (sim, theirs) = (&self.case.sim, &self.issued[FOREIGN]);
        match self.kind {
            Kind::Listener => {
                let id = sim.put_elb_certificate("theirs", theirs).unwrap();
                sim.point_listener(&self.resource, &id, &[]).unwrap();
            }
            Kind::Names => {
                let id = sim.put_elb_certificate("theirs", theirs).unwrap();
                let (default, _) = sim.listener_certificates(&self.resource).unwrap();
                sim.point_listener(&self.resource, &default.unwrap(), &[&id]).unwrap();
            }
            Kind::Domain => sim.set_cdn_certificate(NAME, CdnSource::Own("theirs", theirs)).unwrap(),
            Kind::Host | Kind::DedicatedHost => {
                let id = sim.put_waf_certificate("theirs", theirs).unwrap();
                sim.point_waf_host(&self.resource, &id).unwrap();
            }
        }
    }
}

mod listener {
    certlib_core::module_conformance!(crate::conformance::Cloud(crate::conformance::Kind::Listener));
}

mod names {
    certlib_core::module_conformance!(crate::conformance::Cloud(crate::conformance::Kind::Names));
}

mod domain {
    certlib_core::module_conformance!(crate::conformance::Cloud(crate::conformance::Kind::Domain));
}

mod host {
    certlib_core::module_conformance!(crate::conformance::Cloud(crate::conformance::Kind::Host));
}

mod dedicated_host {
    certlib_core::module_conformance!(crate::conformance::Cloud(crate::conformance::Kind::DedicatedHost));
}
