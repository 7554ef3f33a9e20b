//! How simulated certificate services are described before they start.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_lc_rs::digest;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use time::OffsetDateTime;

use super::{
    AdcsSim,
    authority::Authority,
    endpoint::{Auth, Settings},
    server::Service,
    state::State,
    template::Template,
    texts::Language,
};
use crate::{
    Error, Result,
    http_server::{HttpServer, Tls},
    logins::{Account, Hardening, Logins, Policy},
    tls::fingerprint,
};

/// Describes an [`AdcsSim`]; made by [`AdcsSim::builder`].
#[derive(Clone, Debug)]
#[must_use = "a simulator exists only once it is started"]
pub struct AdcsSimBuilder {
    settings: Settings,
    policy: Policy,
    accounts: Vec<Account>,
    /// PEM of a certificate, and whose it is.
    certificates: Vec<(String, String)>,
    templates: Vec<Template>,
    language: Language,
    renewals: usize,
    san_attribute: bool,
    first_id: u32,
}

impl Default for AdcsSimBuilder {
    fn default() -> Self {
        Self {
            settings: Settings {
                ca_name: "Example Issuing CA".to_owned(),
                auths: Auth::ALL.to_vec(),
                renewal_only: Vec::new(),
                basic: true,
                negotiate: true,
            },
            policy: Policy {
                hardening: Hardening::default(),
                lockout: None,
                domain: "EXAMPLE".to_owned(),
                computer: "CA01".to_owned(),
            },
            accounts: Vec::new(),
            certificates: Vec::new(),
            templates: Vec::new(),
            language: Language::default(),
            renewals: 0,
            san_attribute: false,
            first_id: 1,
        }
    }
}

impl AdcsSimBuilder {
    /// The name of the authority; `Example Issuing CA` unless told otherwise.
    pub fn ca_name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.settings.ca_name);
        self
    }

    /// The domain that accounts may be written with; `EXAMPLE` unless told otherwise.
    pub fn domain(mut self, domain: &str) -> Self {
        domain.clone_into(&mut self.policy.domain);
        self
    }

    /// Adds an account. Names are compared without regard to case; `DOMAIN\name` and `name@domain` work as well.
    pub fn user(mut self, name: &str, password: &str) -> Self {
        let (name, password) = (name.to_owned(), password.to_owned());
        self.accounts.push(Account { name, password, allowed: true, failures: 0 });
        self
    }

    /// Lets a client certificate (PEM) log in as a user. Certificates that the simulator has issued do so anyway, as
    /// who asked for them.
    pub fn certificate_user(mut self, certificate_pem: &str, user: &str) -> Self {
        self.certificates.push((certificate_pem.to_owned(), user.to_owned()));
        self
    }

    /// Adds a template. Without any there is one, `WebServer`, as [`Template::new`] describes it.
    pub fn template(mut self, template: Template) -> Self {
        self.templates.push(template);
        self
    }

    /// At which addresses the policy and enrolment services are; at all unless told otherwise.
    pub fn auths(mut self, auths: &[Auth]) -> Self {
        self.settings.auths = auths.to_vec();
        self
    }

    /// Takes only renewals that the former certificate signs at these addresses of the enrolment service.
    pub fn renewal_only(mut self, auths: &[Auth]) -> Self {
        self.settings.renewal_only = auths.to_vec();
        self
    }

    /// Whether `Basic` is offered on the web pages and at [`Auth::Kerberos`]. It is unless told otherwise.
    pub fn basic(mut self, offered: bool) -> Self {
        self.settings.basic = offered;
        self
    }

    /// Whether `Negotiate` and `NTLM` are offered on the web pages. They are unless told otherwise.
    pub fn negotiate(mut self, offered: bool) -> Self {
        self.settings.negotiate = offered;
        self
    }

    /// How strictly NTLM is tied to the TLS connection: extended protection.
    pub fn hardening(mut self, hardening: Hardening) -> Self {
        self.policy.hardening = hardening;
        self
    }

    /// Locks an account after so many failed logins in a row.
    pub fn lockout(mut self, failures: u32) -> Self {
        self.policy.lockout = Some(failures);
        self
    }

    /// The language of the pages and of disposition messages; English unless told otherwise.
    pub fn language(mut self, language: Language) -> Self {
        self.language = language;
        self
    }

    /// How often the authority's own certificate was renewed; never unless told otherwise.
    pub fn ca_renewals(mut self, renewals: usize) -> Self {
        self.renewals = renewals;
        self
    }

    /// Lets names in the request attribute `SAN` count: `EDITF_ATTRIBUTESUBJECTALTNAME2`, which careful authorities
    /// have switched off.
    pub fn san_attribute(mut self) -> Self {
        self.san_attribute = true;
        self
    }

    /// The number of the first request; 1 unless told otherwise.
    pub fn first_request_id(mut self, id: u32) -> Self {
        self.first_id = id;
        self
    }

    /// Binds a port and starts to answer, over HTTPS. Needs a running tokio runtime.
    ///
    /// # Errors
    /// [`Error::Io`] when no port can be bound, [`Error::Crypto`] when no certificate can be made or the one of a user
    /// cannot be read.
    ///
    /// Cancel safe: a simulator that was not returned is gone.
    pub async fn start(mut self) -> Result<AdcsSim> {
        let read = |pem: &str| {
            let read = CertificateDer::from_pem_slice(pem.as_bytes());
            read.map_err(|error| Error::Crypto(error.to_string()))
        };
        let mut certificates = BTreeMap::new();
        for (pem, user) in &self.certificates {
            certificates.insert(fingerprint(&read(pem)?), user.clone());
        }
        if self.templates.is_empty() {
            self.templates.push(Template::new("WebServer"));
        }
        let (tls, ca_pem) = Tls::own("simulated AD CS web server root", true)?;
        let own = match &tls {
            Tls::Encrypted { issued, .. } | Tls::Mutual { issued, .. } => read(&issued.certificate_pem)?,
            Tls::Plain => return Err(Error::Crypto("no certificate for HTTPS".to_owned())),
        };
        let state = State {
            authority: Authority::new(&self.settings.ca_name, self.renewals)?,
            templates: self.templates,
            changed: OffsetDateTime::now_utc(),
            san_attribute: self.san_attribute,
            logins: Logins::new(self.policy, self.accounts, certificates),
            enrolments: BTreeMap::new(),
            next: self.first_id,
            faults: Vec::new(),
            history: Vec::new(),
            ahead: Duration::ZERO,
        };
        let service = Arc::new(Service {
            state: Mutex::new(state),
            settings: self.settings,
            texts: self.language.texts(),
            // It is signed with SHA-256, which is therefore the hash of the channel binding.
            certificate: digest::digest(&digest::SHA256, &own).as_ref().to_vec(),
        });
        let server = HttpServer::start(tls, Arc::clone(&service)).await?;
        Ok(AdcsSim { service, server, ca_pem })
    }
}
