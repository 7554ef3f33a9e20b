//! The addresses of the services, and which logins each takes.

use super::form::encoded;
use crate::logins::{ByCertificate, Offer};

/// How an address of the policy or enrolment service wants to be logged in to. Each is an application of IIS of its
/// own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Auth {
    /// The connection is logged in, by `Negotiate` or `NTLM` (here with NTLM inside).
    Kerberos,
    /// Name and password come in the message, as a UsernameToken of WS-Security.
    UsernamePassword,
    /// The client shows a certificate in TLS.
    Certificate,
}

impl Auth {
    /// All of them, in the order in which a policy lists them.
    pub const ALL: [Self; 3] = [Self::Kerberos, Self::UsernamePassword, Self::Certificate];

    /// Its name in addresses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kerberos => "Kerberos",
            Self::UsernamePassword => "UsernamePassword",
            Self::Certificate => "Certificate",
        }
    }

    /// Its number in a policy (MS-XCEP, `clientAuthentication`).
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Kerberos => 2,
            Self::UsernamePassword => 4,
            Self::Certificate => 8,
        }
    }
}

/// What is configured about the addresses.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) ca_name: String,
    pub(super) auths: Vec<Auth>,
    pub(super) renewal_only: Vec<Auth>,
    pub(super) basic: bool,
    pub(super) negotiate: bool,
}

/// A place that a request may be for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A web page, by the rest of its path in lower case.
    CertSrv(String),
    /// The policy service.
    Cep(Auth),
    /// The enrolment service.
    Ces(Auth),
}

impl Settings {
    /// Which place a decoded path means.
    pub(super) fn place(&self, path: &str) -> Option<Place> {
        let lower = path.to_lowercase();
        if let Some(page) = lower.strip_prefix("/certsrv").filter(|page| page.is_empty() || page.starts_with('/')) {
            return Some(Place::CertSrv(page.to_owned()));
        }
        let here = |auth: &&Auth| {
            let known = [cep_path(**auth), ces_path(&self.ca_name, **auth)];
            known.iter().any(|known| known.to_lowercase() == lower)
        };
        let auth = *self.auths.iter().find(here)?;
        Some(if lower.ends_with("/cep") { Place::Cep(auth) } else { Place::Ces(auth) })
    }

    /// Which logins of HTTP a place takes; `None` where the message brings its own.
    pub(super) fn offer(&self, place: &Place) -> Option<Offer> {
        let basic = self.basic.then_some("localhost");
        match place {
            Place::CertSrv(_) => {
                Some(Offer { basic, negotiate: self.negotiate, certificate: Some(ByCertificate::Shown) })
            }
            Place::Cep(auth) | Place::Ces(auth) => match auth {
                Auth::Kerberos => Some(Offer { basic, negotiate: true, certificate: None }),
                Auth::UsernamePassword => None,
                Auth::Certificate => {
                    Some(Offer { basic: None, negotiate: false, certificate: Some(ByCertificate::Shown) })
                }
            },
        }
    }
}

/// The path of the policy service.
pub(super) fn cep_path(auth: Auth) -> String {
    format!("/ADPolicyProvider_CEP_{}/service.svc/CEP", auth.name())
}

/// The path of the enrolment service, not encoded.
pub(super) fn ces_path(ca_name: &str, auth: Auth) -> String {
    format!("/{ca_name}_CES_{}/service.svc/CES", auth.name())
}

/// The URL of the enrolment service.
pub(super) fn ces_url(base: &str, ca_name: &str, auth: Auth) -> String {
    format!("{base}{}", ces_path(&encoded(ca_name), auth))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found_by_their_paths() {
        let settings = Settings {
            ca_name: "Issuing CA".to_owned(),
            auths: vec![Auth::Kerberos, Auth::Certificate],
            renewal_only: Vec::new(),
            basic: true,
            negotiate: true,
        };
        let place = |path| settings.place(path);
        assert_eq!(place("/certsrv"), Some(Place::CertSrv(String::new())));
        assert_eq!(place("/CertSrv/certnew.CER"), Some(Place::CertSrv("/certnew.cer".to_owned())));
        assert_eq!(place("/Issuing CA_CES_Kerberos/service.svc/CES"), Some(Place::Ces(Auth::Kerberos)));
        assert_eq!(place("/adpolicyprovider_cep_certificate/SERVICE.svc/CEP"), Some(Place::Cep(Auth::Certificate)));
        for unknown in ["/certsrvx", "/", "/ADPolicyProvider_CEP_UsernamePassword/service.svc/CEP", "/x_CES_Kerberos"] {
            assert_eq!(place(unknown), None, "{unknown}");
        }
        assert_eq!(
            ces_url("https://h", "Issuing CA", Auth::Kerberos),
            "https://h/Issuing%20CA_CES_Kerberos/service.svc/CES"
        );
    }
}
