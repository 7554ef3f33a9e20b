//! Messages of SOAP 1.2 with WS-Addressing: what is sent, and what comes back.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::error::{Effect, ErrorClass};
use certlib_core::model::new_id;
use certlib_core::secret::SecretString;
use certlib_core::{Error, Result};
use quick_xml::escape::escape;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

use super::xml::Element;
use super::{OPERATION, hresult};

/// Namespaces.
pub(super) mod ns {
    pub(in super::super) const ADDRESSING: &str = "http://www.w3.org/2005/08/addressing";
    pub(in super::super) const ENROLMENT: &str = "http://schemas.microsoft.com/windows/pki/2009/01/enrollment";
    pub(in super::super) const INSTANCE: &str = "http://www.w3.org/2001/XMLSchema-instance";
    pub(in super::super) const POLICY: &str = "http://schemas.microsoft.com/windows/pki/2009/01/enrollmentpolicy";
    pub(in super::super) const SECURITY: &str =
        "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd";
    pub(in super::super) const SOAP: &str = "http://www.w3.org/2003/05/soap-envelope";
    pub(in super::super) const TRUST: &str = "http://docs.oasis-open.org/ws-sx/ws-trust/200512";
    pub(in super::super) const UTILITY: &str =
        "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd";
}

/// The type of a password that is sent as it is (OASIS UsernameToken profile 1.0).
const PASSWORD_TEXT: &str =
    "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-username-token-profile-1.0#PasswordText";

/// `Content-Type` of every message.
pub(super) const CONTENT_TYPE: &str = "application/soap+xml; charset=utf-8";

/// A message to the service at `to`, with a body that is XML already. `security` is a header for who asks.
pub(super) fn envelope(to: &str, action: &str, security: Option<&str>, body: &str) -> Zeroizing<String> {
    Zeroizing::new(format!(
        "<s:Envelope xmlns:s=\"{}\" xmlns:a=\"{}\"><s:Header><a:Action s:mustUnderstand=\"1\">{}</a:Action><a:MessageID>\
         urn:uuid:{}</a:MessageID><a:To s:mustUnderstand=\"1\">{}</a:To>{}</s:Header><s:Body>{body}</s:Body></s:Envelope>",
        ns::SOAP,
        ns::ADDRESSING,
        escape(action),
        new_id(),
        escape(to),
        security.unwrap_or_default(),
    ))
}

/// The header that names who asks, with the password as it is: TLS protects it.
///
/// # Errors
/// `IoPermanent` `random_unavailable`, `time_invalid`.
pub(super) fn username_token(
    username: &str,
    password: &SecretString,
    now: OffsetDateTime,
) -> Result<Zeroizing<String>> {
    let mut nonce = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut nonce)
        .map_err(|_| Error::permanent(OPERATION, "random_unavailable", "the system gives no randomness"))?;
    // In whole seconds, which every reader of times takes.
    let created = now.replace_nanosecond(0).unwrap_or(now).format(&Rfc3339).map_err(|error| {
        Error::permanent(OPERATION, "time_invalid", "the time cannot be written").with_source(error)
    })?;
    let password = Zeroizing::new(escape(password.expose().as_str()).into_owned());
    Ok(Zeroizing::new(format!(
        "<o:Security xmlns:o=\"{}\" xmlns:u=\"{}\" s:mustUnderstand=\"1\"><o:UsernameToken><o:Username>{}</o:Username>\
         <o:Password Type=\"{PASSWORD_TEXT}\">{}</o:Password><o:Nonce>{}</o:Nonce><u:Created>{created}</u:Created>\
         </o:UsernameToken></o:Security>",
        ns::SECURITY,
        ns::UTILITY,
        escape(username),
        *password,
        STANDARD.encode(nonce),
    )))
}

/// What a message says.
#[derive(Debug)]
pub(super) enum Content {
    /// Its body.
    Body(Element),
    /// That something went wrong.
    Fault(Fault),
    /// It is no message of SOAP.
    None,
}

/// What went wrong, without the words for it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fault {
    /// Whether the sender is blamed for the message.
    by_sender: bool,
    /// Its innermost code, without prefix.
    subcode: String,
    /// The error code of Windows in its detail.
    pub(super) hresult: Option<u32>,
    /// Whether its detail blames the request.
    pub(super) invalid_request: bool,
}

impl Content {
    /// Reads an answer's body, whatever the status: faults come with 500.
    pub(super) fn read(body: &[u8]) -> Self {
        Self::message(body).unwrap_or(Self::None)
    }

    fn message(body: &[u8]) -> Option<Self> {
        let envelope = Element::parse(body).filter(|root| root.is(ns::SOAP, "Envelope"))?;
        let body = envelope.into_child(ns::SOAP, "Body")?;
        match body.child(ns::SOAP, "Fault") {
            Some(fault) => Some(Self::Fault(Fault::read(fault))),
            None => Some(Self::Body(body)),
        }
    }
}

impl Fault {
    fn read(fault: &Element) -> Self {
        let mut read = Self::default();
        let mut code = fault.child(ns::SOAP, "Code");
        read.by_sender = code.and_then(|code| code.text_of(ns::SOAP, "Value")).map(local) != Some("Receiver");
        while let Some(within) = code.and_then(|code| code.child(ns::SOAP, "Subcode")) {
            read.subcode = within.text_of(ns::SOAP, "Value").map(local).unwrap_or_default().to_owned();
            code = Some(within);
        }
        let detail = fault.child(ns::SOAP, "Detail");
        if let Some(detail) = detail.and_then(|detail| detail.child(ns::ENROLMENT, "CertificateEnrollmentWSDetail")) {
            let text = |name| detail.text_of(ns::ENROLMENT, name);
            read.hresult = text("ErrorCode").and_then(hresult_of);
            read.invalid_request = matches!(text("InvalidRequest"), Some("true" | "1"));
        }
        read
    }

    /// The error of a new request, or of a question for the policy.
    pub(super) fn refusal(&self) -> Error {
        match self.hresult {
            Some(code) => hresult::refusal(code, self.invalid_request),
            None => self.without_code(),
        }
    }

    /// The error that a fault without a code of Windows is.
    pub(super) fn without_code(&self) -> Error {
        let (class, name, why, effect) = match self.subcode.as_str() {
            "FailedAuthentication" => {
                (ErrorClass::Auth, "login_refused", "the service refuses the name or the password", Effect::None)
            }
            "InvalidSecurity" | "InvalidSecurityToken" | "SecurityTokenUnavailable" | "MessageExpired" => {
                let why = "the service does not take the login in the message; is the clock right, and is it the address for \
                           this kind of login?";
                (ErrorClass::Auth, "security_refused", why, Effect::None)
            }
            _ if self.invalid_request => {
                (ErrorClass::Validation, "order_rejected", "the CA refuses the request", Effect::None)
            }
            _ if self.by_sender => {
                let why = "the service does not understand the message; is the URL the one that it knows itself by?";
                (ErrorClass::IoPermanent, "message_refused", why, Effect::None)
            }
            _ => {
                let why = "the service failed and does not say why";
                (ErrorClass::IoTransient, "service_failed", why, Effect::Possible)
            }
        };
        Error::new(class, OPERATION, name, why).with_effect(effect)
    }
}

/// A name without its prefix.
fn local(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(_, local)| local)
}

/// An error code, which is written as a signed number, by some as an unsigned one.
fn hresult_of(text: &str) -> Option<u32> {
    let signed = text.parse::<i32>().map(i32::cast_unsigned);
    signed.or_else(|_| text.parse()).ok().filter(|code| *code != 0)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn fault(code: &str, detail: &str) -> Fault {
        let text = format!(
            "<s:Envelope xmlns:s='{}' xmlns:a='urn:a'><s:Body><s:Fault><s:Code>{code}</s:Code><s:Reason><s:Text>Zugriff \
             verweigert</s:Text></s:Reason>{detail}</s:Fault></s:Body></s:Envelope>",
            ns::SOAP
        );
        match Content::read(text.as_bytes()) {
            Content::Fault(fault) => fault,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn faults_are_judged_by_their_codes() {
        let by = |role: &str, subcode: &str| {
            format!("<s:Value>s:{role}</s:Value><s:Subcode><s:Value>a:{subcode}</s:Value></s:Subcode>")
        };
        for (code, class, name) in [
            (by("Sender", "FailedAuthentication"), ErrorClass::Auth, "login_refused"),
            (by("Sender", "InvalidSecurity"), ErrorClass::Auth, "security_refused"),
            (by("Sender", "DestinationUnreachable"), ErrorClass::IoPermanent, "message_refused"),
            ("<s:Value>s:MustUnderstand</s:Value>".to_owned(), ErrorClass::IoPermanent, "message_refused"),
            (by("Receiver", "InternalServiceFault"), ErrorClass::IoTransient, "service_failed"),
        ] {
            let error = fault(&code, "").refusal();
            assert_eq!((error.class(), error.code()), (class, name), "{code}");
        }
        let detail = |inner: &str| {
            let space = ns::ENROLMENT;
            format!(
                "<s:Detail><CertificateEnrollmentWSDetail xmlns='{space}'>{inner}</CertificateEnrollmentWSDetail></s:Detail>"
            )
        };
        let role = by("Receiver", "RequestFailed");
        for text in ["-2146877422", "2148089874"] {
            let read =
                fault(&role, &detail(&format!("<ErrorCode>{text}</ErrorCode><InvalidRequest>true</InvalidRequest>")));
            assert_eq!((read.hresult, read.invalid_request), (Some(0x8009_4012), true));
            assert_eq!(read.refusal().code(), "template_denied");
        }
        let blamed = fault(&role, &detail("<ErrorCode>x</ErrorCode><InvalidRequest>true</InvalidRequest>"));
        assert_eq!(blamed.refusal().class(), ErrorClass::Validation);
    }

    #[test]
    fn what_is_no_message_is_none() {
        for text in ["<html/>", "", "<s:Envelope xmlns:s='urn:other'><s:Body/></s:Envelope>"] {
            assert!(matches!(Content::read(text.as_bytes()), Content::None), "{text}");
        }
    }

    #[test]
    fn messages_are_well_formed_whatever_is_in_them() {
        let password = SecretString::from("p<&\"w".to_owned());
        let token = username_token("EXAMPLE\\<u>", &password, datetime!(2026-01-01 0:00:00.5 UTC)).unwrap();
        let text = envelope("https://a.example/?a&b", "urn:do", Some(&token), "<x/>");
        let root = Element::parse(text.as_bytes()).unwrap();
        let header = root.child(ns::SOAP, "Header").unwrap();
        assert_eq!(header.text_of(ns::ADDRESSING, "To"), Some("https://a.example/?a&b"));
        let token = header.child(ns::SECURITY, "Security").unwrap().child(ns::SECURITY, "UsernameToken").unwrap();
        assert_eq!(token.text_of(ns::SECURITY, "Username"), Some("EXAMPLE\\<u>"));
        assert_eq!(token.text_of(ns::SECURITY, "Password"), Some("p<&\"w"));
        assert_eq!(token.text_of(ns::UTILITY, "Created"), Some("2026-01-01T00:00:00Z"));
        assert!(root.child(ns::SOAP, "Body").unwrap().child("", "x").is_some());
    }
}
