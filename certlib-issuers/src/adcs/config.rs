use certlib_core::poll::PollSchedule;
use certlib_core::secret::SecretString;
use certlib_core::{Error, Result};
use certlib_net::{ClientIdentity, Connection};
use serde::{Deserialize, Serialize};

const OPERATION: &str = "adcs.config";

/// How long a request may wait for a certificate manager, in seconds: seven days.
const WAIT: u64 = 7 * 24 * 3600;

/// Configuration of an AD CS issuer.
///
/// ```
/// let config: certlib_issuers::adcs::AdcsConfig = serde_json::from_str(r#"{
///     "enrolment": "ces",
///     "cep_url": "https://pki.example/ADPolicyProvider_CEP_UsernamePassword/service.svc/CEP",
///     "ca_name": "Example Issuing CA",
///     "template": "WebServer"
/// }"#)?;
/// assert_eq!(config.poll.max_wait, 7 * 24 * 3600);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AdcsConfig {
    /// By which of its services the CA is asked.
    pub enrolment: Enrolment,
    /// The policy service (CEP). With it, templates are checked beforehand, and the enrolment service is looked up: the one
    /// that takes our kind of login and has the lowest priority number. Only for `ces`.
    #[serde(default)]
    pub cep_url: Option<String>,
    /// The enrolment service (CES). Default: what the policy service says. It must be written with the host name that the
    /// web server knows itself by. Only for `ces`.
    #[serde(default)]
    pub ces_url: Option<String>,
    /// The web enrolment pages, such as `https://pki.example/certsrv`. Only for `certsrv`.
    #[serde(default)]
    pub certsrv_url: Option<String>,
    /// The CA to choose where the policy service has several: the common name of its certificate. Default: the first that
    /// has the template.
    #[serde(default)]
    pub ca_name: Option<String>,
    /// The certificate template: its common name (not the name that is displayed), or with a policy service its object
    /// identifier. A certificate's `profile` replaces it.
    pub template: String,
    /// Logs in to the policy and enrolment services with HTTP Basic rather than with a name and password in the message:
    /// for services made for Kerberos, where an administrator has enabled Basic. Default `false`. The web pages always
    /// take Basic.
    #[serde(default)]
    pub http_basic: bool,
    /// How pending requests are polled. Default: after 5 s, 15 s, 45 s, 2 min, 5 min and 15 min, then hourly, for seven days.
    /// A field that is left out of a schedule has the default that all issuers share.
    #[serde(default = "default_poll")]
    pub poll: PollSchedule,
    /// How to reach the services.
    #[serde(default)]
    pub connection: Connection,
}

/// A way to ask AD CS for certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Enrolment {
    /// The enrolment web service (MS-WSTEP), found by the policy service (MS-XCEP) or by its URL.
    Ces,
    /// The web enrolment pages.
    Certsrv,
}

/// Who asks.
#[derive(Debug)]
pub(super) enum Login {
    /// A name and password.
    Password {
        /// `DOMAIN\name` or `name@domain`.
        username: String,
        password: SecretString,
    },
    /// A client certificate.
    Certificate(ClientIdentity),
}

/// The credential, as JSON: either of the two pairs.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    username: Option<String>,
    password: Option<SecretString>,
    certificate_pem: Option<String>,
    private_key_pem: Option<SecretString>,
}

fn default_poll() -> PollSchedule {
    PollSchedule { steps: vec![5, 15, 45, 120, 300, 900, 3600], max_wait: WAIT, ..PollSchedule::default() }
}

impl AdcsConfig {
    /// # Errors
    /// `Validation` `config_invalid`, naming the field, and as [`Connection::check`].
    pub(super) fn check(&self) -> Result<()> {
        for url in [&self.cep_url, &self.ces_url, &self.certsrv_url].into_iter().flatten() {
            self.connection.check(url)?;
        }
        match self.enrolment {
            Enrolment::Ces => {
                if self.cep_url.is_none() && self.ces_url.is_none() {
                    return Err(invalid("cep_url", "it or ces_url is needed"));
                }
                if self.certsrv_url.is_some() {
                    return Err(invalid("certsrv_url", "only for certsrv"));
                }
                if self.ca_name.is_some() && self.cep_url.is_none() {
                    return Err(invalid("ca_name", "only with cep_url: a CES belongs to one CA"));
                }
            }
            Enrolment::Certsrv => {
                if self.certsrv_url.is_none() {
                    return Err(invalid("certsrv_url", "it is needed"));
                }
                let fields = [("cep_url", &self.cep_url), ("ces_url", &self.ces_url), ("ca_name", &self.ca_name)];
                if let Some((field, _)) = fields.into_iter().find(|(_, value)| value.is_some()) {
                    return Err(invalid(field, "only for ces"));
                }
            }
        }
        if !is_name(&self.template) {
            return Err(invalid("template", "the name of a template, 1 to 255 characters on one line"));
        }
        if self.ca_name.as_deref().is_some_and(|name| !is_name(name)) {
            return Err(invalid("ca_name", "the name of a CA, 1 to 255 characters on one line"));
        }
        Ok(())
    }

    /// The template of an order.
    ///
    /// # Errors
    /// `Validation` `profile_unknown`.
    pub(super) fn template<'a>(&'a self, profile: Option<&'a str>) -> Result<&'a str> {
        let template = profile.unwrap_or(&self.template);
        if is_name(template) {
            return Ok(template);
        }
        let why = "the certificate's profile is not the name of a template";
        Err(Error::validation(OPERATION, "profile_unknown", why))
    }
}

impl Login {
    /// # Errors
    /// `Validation` `credentials_invalid`, `identity_invalid`; the text is not quoted.
    pub(super) fn decode(text: Option<&SecretString>) -> Result<Self> {
        let invalid = || {
            let why =
                "the credential is a JSON object with username and password, or certificate_pem and private_key_pem";
            Error::validation(OPERATION, "credentials_invalid", why)
        };
        let written = text.and_then(|text| serde_json::from_str::<Written>(text.expose()).ok()).ok_or_else(invalid)?;
        match (written.username, written.password, written.certificate_pem, written.private_key_pem) {
            // A colon would end the name of HTTP Basic.
            (Some(username), Some(password), None, None)
                if is_name(&username) && !username.contains(':') && !password.expose().is_empty() =>
            {
                Ok(Self::Password { username, password })
            }
            (None, None, Some(certificate), Some(key)) => {
                let identity = ClientIdentity::new(certificate, key);
                identity.check()?;
                Ok(Self::Certificate(identity))
            }
            _ => Err(invalid()),
        }
    }
}

/// Names become lines of request attributes, so they must be one line.
fn is_name(text: &str) -> bool {
    !text.trim().is_empty() && text.chars().count() <= 255 && !text.chars().any(char::is_control)
}

fn invalid(field: &'static str, why: &str) -> Error {
    Error::validation(OPERATION, "config_invalid", format!("{field}: {why}")).with("field", field)
}

#[cfg(test)]
mod tests {
    use certlib_core::issuer::decode_config;
    use serde_json::{Value, json};

    use super::*;

    fn verdict(config: Value) -> Option<String> {
        let checked = decode_config::<AdcsConfig>(&config).and_then(|config| config.check());
        checked.err().map(|error| error.code().to_owned())
    }

    #[test]
    fn each_way_has_its_urls() {
        let (cep, ces, pages) = ("https://a.example/CEP", "https://a.example/CA%201/CES", "https://a.example/certsrv");
        for good in [
            json!({ "enrolment": "ces", "cep_url": cep, "template": "WebServer" }),
            json!({ "enrolment": "ces", "ces_url": ces, "template": "WebServer", "http_basic": true }),
            json!({ "enrolment": "ces", "cep_url": cep, "ces_url": ces, "ca_name": "CA 1", "template": "1.3.6.1.4.1" }),
            json!({ "enrolment": "certsrv", "certsrv_url": pages, "template": "WebServer" }),
        ] {
            assert_eq!(verdict(good.clone()), None, "{good}");
        }
        for bad in [
            json!({ "enrolment": "rpc", "template": "WebServer" }),
            json!({ "enrolment": "ces", "template": "WebServer" }),
            json!({ "enrolment": "ces", "cep_url": cep, "template": " " }),
            json!({ "enrolment": "ces", "cep_url": cep, "template": "a\r\nSAN:dns=b" }),
            json!({ "enrolment": "ces", "ces_url": ces, "ca_name": "CA 1", "template": "WebServer" }),
            json!({ "enrolment": "ces", "cep_url": cep, "certsrv_url": pages, "template": "WebServer" }),
            json!({ "enrolment": "certsrv", "template": "WebServer" }),
            json!({ "enrolment": "certsrv", "certsrv_url": pages, "ces_url": ces, "template": "WebServer" }),
            json!({ "enrolment": "certsrv", "certsrv_url": pages, "template": "WebServer", "password": "x" }),
        ] {
            assert_eq!(verdict(bad.clone()).as_deref(), Some("config_invalid"), "{bad}");
        }
        let plain = json!({ "enrolment": "certsrv", "certsrv_url": "http://a.example/", "template": "WebServer" });
        assert_eq!(verdict(plain).as_deref(), Some("url_invalid"));
    }

    #[test]
    fn credentials_are_strict_and_silent() {
        let decode = |text: &str| Login::decode(Some(&SecretString::from(text.to_owned())));
        assert!(decode(r#"{"username": "EXAMPLE\\svc", "password": "CANARY"}"#).is_ok());
        for text in [
            "CANARY",
            r#"{"username": "CANARY"}"#,
            r#"{"username": "u", "password": ""}"#,
            r#"{"username": "u:CANARY", "password": "CANARY"}"#,
            r#"{"username": "u", "password": "CANARY", "realm": "CANARY"}"#,
            r#"{"username": "u", "password": "CANARY", "certificate_pem": "x", "private_key_pem": "CANARY"}"#,
        ] {
            let error = decode(text).unwrap_err();
            assert_eq!(error.code(), "credentials_invalid");
            assert!(!format!("{error:?} {error}").contains("CANARY"));
        }
        let no_key = decode(r#"{"certificate_pem": "x", "private_key_pem": "CANARY"}"#).unwrap_err();
        assert_eq!(no_key.code(), "identity_invalid");
        assert_eq!(Login::decode(None).unwrap_err().code(), "credentials_invalid");
    }

    #[test]
    fn a_profile_is_a_template() {
        let config = json!({ "enrolment": "ces", "ces_url": "https://a.example/", "template": "WebServer" });
        let config: AdcsConfig = decode_config(&config).unwrap();
        assert_eq!(config.template(None).unwrap(), "WebServer");
        assert_eq!(config.template(Some("Other")).unwrap(), "Other");
        assert_eq!(config.template(Some("a\nSAN:dns=b")).unwrap_err().code(), "profile_unknown");
    }
}
