//! What a simulated cloud knows, and who may ask.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use http::Request;
use time::OffsetDateTime;

use super::{
    answer::{Outcome, Refusal},
    call::Call,
    cdn::{self, CdnDomain},
    elb::{self, ElbCertificate, Listener},
    fault::Injection,
    history::Record,
    iam,
    scm::{self, ScmCertificate},
    sign::Authorization,
    waf::{self, WafCertificate, WafHost},
};

/// An access key.
#[derive(Debug)]
pub(super) struct AccessKey {
    pub(super) secret: String,
    /// The token that must come along, for a temporary key.
    pub(super) token: Option<String>,
    pub(super) expired: bool,
}

/// A project of a region.
#[derive(Debug)]
pub(super) struct Project {
    pub(super) id: String,
    pub(super) region: String,
}

/// Everything there is.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) keys: BTreeMap<String, AccessKey>,
    pub(super) projects: Vec<Project>,
    pub(super) scm: Vec<ScmCertificate>,
    pub(super) elb_certificates: BTreeMap<String, ElbCertificate>,
    pub(super) listeners: BTreeMap<String, Listener>,
    pub(super) waf_certificates: BTreeMap<String, WafCertificate>,
    pub(super) waf_hosts: BTreeMap<String, WafHost>,
    pub(super) cdn_domains: BTreeMap<String, CdnDomain>,
    /// How long a domain of the delivery network takes for a change.
    pub(super) cdn_settles: Duration,
    /// How many certificates the certificate manager takes.
    pub(super) scm_quota: Option<usize>,
    pub(super) shows_private_keys: bool,
    pub(super) faults: Vec<Injection>,
    pub(super) history: Vec<Record>,
    /// How far the clock is ahead of the machine's, in seconds.
    pub(super) ahead: i64,
    pub(super) counter: u64,
}

impl State {
    pub(super) fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc() + time::Duration::seconds(self.ahead)
    }

    /// A number that was never given out before.
    pub(super) fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// An id of 32 hexadecimal digits.
    pub(super) fn id(&mut self) -> String {
        let number = self.next();
        format!("{number:08x}{}", super::random_hex(12))
    }

    /// Checks who asks, and carries it out.
    pub(super) fn handle(&mut self, request: &Request<Bytes>) -> Outcome {
        let now = self.now();
        self.authenticate(request, now)?;
        let uri = request.uri();
        let query = uri.query().unwrap_or_default();
        let call = Call::new(request.method().as_str(), uri.path(), query, request.body(), now)?;
        self.route(&call)
    }

    /// Carries out what the operator asks for, who needs no signature.
    pub(super) fn route(&mut self, call: &Call) -> Outcome {
        let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
        match path.as_slice() {
            ["v3", "projects"] | ["v3", "auth", "domains"] => iam::handle(self, call, &path[1..]),
            ["v3", "scm", rest @ ..] => scm::handle(self, call, rest),
            ["v1.0" | "v1.1", "cdn", ..] => cdn::handle(self, call, &path),
            ["v3", project, "elb", rest @ ..] => {
                self.check_project(project, "ELB.1101")?;
                elb::handle(self, call, project, rest)
            }
            ["v1", project, service @ ("waf" | "premium-waf"), rest @ ..] => {
                self.check_project(project, "WAF.00010001")?;
                waf::handle(self, call, service, rest)
            }
            _ => Err(Refusal::no_such_api()),
        }
    }

    fn authenticate(&self, request: &Request<Bytes>, now: OffsetDateTime) -> Result<(), Refusal> {
        let authorization = Authorization::read(request)?;
        let wrong = |why: String| {
            Refusal::gateway(401, "APIGW.0301", format!("Incorrect IAM authentication information: {why}"))
        };
        let name = &authorization.access_key;
        let key =
            self.keys.get(name).ok_or_else(|| wrong(format!("Get secretKey failed,ak:{name},err:ak not exist")))?;
        authorization.check(request, &key.secret, now)?;
        if key.expired {
            return Err(wrong("decrypt token fail: the security token has expired".to_owned()));
        }
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        if key.token.as_deref() != header("x-security-token") {
            return Err(wrong("the security token does not belong to the access key".to_owned()));
        }
        // A project in a header is checked before the service sees the request.
        match header("x-project-id") {
            Some(project) if !self.projects.iter().any(|known| known.id == project) => {
                Err(Refusal::gateway(403, "APIGW.0302", format!("The project {project} is not yours")))
            }
            _ => Ok(()),
        }
    }

    fn check_project(&self, project: &str, code: &str) -> Result<(), Refusal> {
        if self.projects.iter().any(|known| known.id == project) {
            return Ok(());
        }
        Err(Refusal::flat(400, code, format!("The project {project} does not exist")))
    }
}
