//! Envelopes of SOAP 1.2 with WS-Addressing: what is asked, what is answered, and faults.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::hresult::Hresult;
use crate::{
    guid::guid,
    xml::{Element, escaped},
};

const SOAP: &str = "http://www.w3.org/2003/05/soap-envelope";
const ADDRESSING: &str = "http://www.w3.org/2005/08/addressing";
const SECURITY: &str = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd";
const UTILITY: &str = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd";
const TRUST: &str = "http://docs.oasis-open.org/ws-sx/ws-trust/200512";
const DIAGNOSTICS: &str = "http://schemas.microsoft.com/2004/09/ServiceModel/Diagnostics";
pub(super) const ENROLLMENT: &str = "http://schemas.microsoft.com/windows/pki/2009/01/enrollment";
pub(super) const INSTANCE: &str = "http://www.w3.org/2001/XMLSchema-instance";

pub(super) const CONTENT_TYPE: &str = "application/soap+xml; charset=utf-8";

const FAULT_ACTION: &str = "http://www.w3.org/2005/08/addressing/soap/fault";

/// How far a client's clock may be off: five minutes, in seconds.
const SKEW: i64 = 300;

/// A request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) message_id: String,
    pub(super) body: Element,
    pub(super) token: Option<UsernameToken>,
}

/// Name and password in a message.
pub(super) struct UsernameToken {
    pub(super) user: String,
    pub(super) password: String,
    created: Option<OffsetDateTime>,
}

impl std::fmt::Debug for UsernameToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UsernameToken").field("user", &self.user).finish_non_exhaustive()
    }
}

impl UsernameToken {
    /// `None` when the header has none, or one that is no name with a plain password.
    fn read(security: &Element) -> Option<Self> {
        let token = security.child(SECURITY, "UsernameToken")?;
        let password = token.child(SECURITY, "Password")?;
        if !password.attribute("Type").is_none_or(|kind| kind.ends_with("#PasswordText")) {
            return None;
        }
        let created = token.text_of(UTILITY, "Created");
        Some(Self {
            user: token.text_of(SECURITY, "Username")?.to_owned(),
            password: password.text.clone(),
            created: created.and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok()),
        })
    }

    /// Whether it was made about now, if it says when.
    pub(super) fn is_fresh(&self, now: OffsetDateTime) -> bool {
        self.created.is_none_or(|created| (now - created).whole_seconds().abs() <= SKEW)
    }
}

impl Request {
    /// Reads an envelope for a service that has these actions, at a URL.
    ///
    /// `secured` says whether the service understands a security header, and `addressed` whether a URL is its own.
    pub(super) fn parse(
        text: &str,
        actions: &[&str],
        secured: bool,
        addressed: impl Fn(&str) -> bool,
    ) -> Result<Self, Box<Fault>> {
        let malformed = || Fault::sender("a:InvalidMessage", "The message is no SOAP 1.2 envelope.", "");
        let mut envelope = Element::parse(text).filter(|root| root.is(SOAP, "Envelope")).ok_or_else(malformed)?;
        let body = envelope.children.iter().position(|child| child.is(SOAP, "Body")).ok_or_else(malformed)?;
        let body = envelope.children.swap_remove(body);
        let none = Element::default();
        let header = envelope.child(SOAP, "Header").unwrap_or(&none);
        let text_of = |name| header.text_of(ADDRESSING, name).unwrap_or_default().to_owned();
        let (action, message_id, to) = (text_of("Action"), text_of("MessageID"), text_of("To"));
        let refuse = |subcode: &str, reason: &str| Err(Fault::sender(subcode, reason, &message_id));
        for child in &header.children {
            let known = child.namespace == ADDRESSING || secured && child.is(SECURITY, "Security");
            let must = child.attribute("mustUnderstand").is_some_and(|must| must == "1" || must == "true");
            if must && !known {
                let reason = format!(
                    "The header '{}' from the namespace '{}' was not understood by the recipient of this message, \
                     causing the message to not be processed.",
                    child.name, child.namespace
                );
                return Err(Box::new(Fault { role: "s:MustUnderstand", ..*Fault::sender("", &reason, &message_id) }));
            }
        }
        if !actions.contains(&action.as_str()) {
            let reason = format!(
                "The message with Action '{action}' cannot be processed at the receiver, due to a ContractFilter \
                 mismatch at the EndpointDispatcher."
            );
            return refuse("a:ActionNotSupported", &reason);
        }
        if !addressed(&to) {
            let reason = format!(
                "The message with To '{to}' cannot be processed at the receiver, due to an AddressFilter mismatch at \
                 the EndpointDispatcher. Check that the sender and receiver's EndpointAddresses agree."
            );
            return refuse("a:DestinationUnreachable", &reason);
        }
        if message_id.is_empty() {
            return refuse("a:MessageAddressingHeaderRequired", "A required header (MessageID) is missing.");
        }
        let token = header.child(SECURITY, "Security").and_then(UsernameToken::read);
        Ok(Self { message_id, body, token })
    }

    /// The envelope that answers it.
    pub(super) fn answer(&self, action: &str, body: &str) -> String {
        envelope(action, &self.message_id, body)
    }

    /// A fault about it.
    pub(super) fn fault(&self, code: Option<Hresult>, reason: String) -> Box<Fault> {
        Box::new(Fault {
            role: "s:Receiver",
            subcode: "t:RequestFailed".to_owned(),
            reason,
            relates_to: self.message_id.clone(),
            code,
            invalid_request: true,
            request_id: None,
        })
    }
}

/// What is answered instead when something cannot be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    role: &'static str,
    subcode: String,
    reason: String,
    relates_to: String,
    /// The code in its detail; no detail without one.
    pub(super) code: Option<Hresult>,
    pub(super) invalid_request: bool,
    pub(super) request_id: Option<u32>,
}

impl Fault {
    /// One that blames the message.
    pub(super) fn sender(subcode: &str, reason: &str, relates_to: &str) -> Box<Self> {
        Box::new(Self {
            role: "s:Sender",
            subcode: subcode.to_owned(),
            reason: reason.to_owned(),
            relates_to: relates_to.to_owned(),
            code: None,
            invalid_request: false,
            request_id: None,
        })
    }

    /// The one for wrong names and passwords.
    pub(super) fn failed_authentication(relates_to: &str) -> Box<Self> {
        let reason = "At least one security token in the message could not be validated.";
        Self::sender("o:FailedAuthentication", reason, relates_to)
    }

    /// The one for a security header that is missing, unreadable or too old.
    pub(super) fn invalid_security(relates_to: &str) -> Box<Self> {
        Self::sender("o:InvalidSecurity", "An error occurred when verifying security for the message.", relates_to)
    }

    /// Its envelope.
    pub(super) fn envelope(&self) -> String {
        let subcode = match self.subcode.as_str() {
            "" => String::new(),
            subcode => format!(
                "<s:Subcode><s:Value xmlns:o=\"{SECURITY}\" xmlns:t=\"{TRUST}\">{}</s:Value></s:Subcode>",
                escaped(subcode)
            ),
        };
        let detail = self.code.map(|code| {
            let id = match self.request_id {
                Some(id) => format!("<RequestID>{id}</RequestID>"),
                None => "<RequestID i:nil=\"true\"/>".to_owned(),
            };
            format!(
                "<s:Detail><CertificateEnrollmentWSDetail xmlns=\"{ENROLLMENT}\" xmlns:i=\"{INSTANCE}\">\
                 <BinaryResponse i:nil=\"true\"/><ErrorCode>{}</ErrorCode><InvalidRequest>{}</InvalidRequest>{id}\
                 </CertificateEnrollmentWSDetail></s:Detail>",
                code.signed(),
                self.invalid_request
            )
        });
        let body = format!(
            "<s:Fault><s:Code><s:Value>{}</s:Value>{subcode}</s:Code><s:Reason><s:Text xml:lang=\"en-US\">{}</s:Text>\
             </s:Reason>{}</s:Fault>",
            self.role,
            escaped(&self.reason),
            detail.unwrap_or_default()
        );
        envelope(FAULT_ACTION, &self.relates_to, &body)
    }
}

fn envelope(action: &str, relates_to: &str, body: &str) -> String {
    let relates_to = match relates_to {
        "" => String::new(),
        id => format!("<a:RelatesTo>{}</a:RelatesTo>", escaped(id)),
    };
    format!(
        "<s:Envelope xmlns:s=\"{SOAP}\" xmlns:a=\"{ADDRESSING}\"><s:Header><a:Action s:mustUnderstand=\"1\">{}\
         </a:Action><ActivityId CorrelationId=\"{}\" xmlns=\"{DIAGNOSTICS}\">{}</ActivityId>{relates_to}</s:Header>\
         <s:Body>{body}</s:Body></s:Envelope>",
        escaped(action),
        guid(),
        guid()
    )
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const ACTION: &str = "urn:do";

    fn asked(header: &str) -> Result<Request, Box<Fault>> {
        let text = format!(
            "<s:Envelope xmlns:s='{SOAP}' xmlns:a='{ADDRESSING}' xmlns:o='{SECURITY}' xmlns:u='{UTILITY}'><s:Header>\
             {header}</s:Header><s:Body><x/></s:Body></s:Envelope>"
        );
        Request::parse(&text, &[ACTION], true, |to| to == "https://here/")
    }

    fn header(action: &str, id: &str, to: &str) -> String {
        format!("<a:Action s:mustUnderstand='1'>{action}</a:Action><a:MessageID>{id}</a:MessageID><a:To>{to}</a:To>")
    }

    #[test]
    fn headers_are_checked() {
        let right = header(ACTION, "urn:uuid:1", "https://here/");
        let request = asked(&right).unwrap();
        assert_eq!((request.message_id.as_str(), request.body.children.len()), ("urn:uuid:1", 1));
        for (header, subcode) in [
            (header("urn:other", "1", "https://here/"), "a:ActionNotSupported"),
            (header(ACTION, "1", "https://there/"), "a:DestinationUnreachable"),
            (header(ACTION, "", "https://here/"), "a:MessageAddressingHeaderRequired"),
        ] {
            assert_eq!(asked(&header).unwrap_err().subcode, subcode);
        }
        let strange = asked(&format!("{right}<y xmlns='urn:y' s:mustUnderstand='1'/>")).unwrap_err();
        assert_eq!(strange.role, "s:MustUnderstand");
        assert!(asked(&format!("{right}<y xmlns='urn:y'/>")).is_ok());
        assert!(Request::parse("<html/>", &[ACTION], true, |_| true).is_err());
    }

    #[test]
    fn tokens_are_read_in_either_spelling_and_grow_old() {
        let right = header(ACTION, "1", "https://here/");
        for kind in ["Type", "o:Type"] {
            let token = format!(
                "{right}<o:Security s:mustUnderstand='1'><o:UsernameToken><o:Username>u@d</o:Username><o:Password \
                 {kind}='urn:x#PasswordText'>p&amp;w</o:Password><u:Created>2026-01-01T00:00:00Z</u:Created>\
                 </o:UsernameToken></o:Security>"
            );
            let token = asked(&token).unwrap().token.unwrap();
            assert_eq!((token.user.as_str(), token.password.as_str()), ("u@d", "p&w"));
            assert!(token.is_fresh(datetime!(2026-01-01 00:05 UTC)));
            assert!(!token.is_fresh(datetime!(2026-01-01 00:05:01 UTC)));
            assert!(!format!("{token:?}").contains("p&w"));
        }
        let digest = format!(
            "{right}<o:Security><o:UsernameToken><o:Username>u</o:Username><o:Password \
             Type='urn:x#PasswordDigest'>x</o:Password></o:UsernameToken></o:Security>"
        );
        assert!(asked(&digest).unwrap().token.is_none());
    }
}
