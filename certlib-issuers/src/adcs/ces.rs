//! Orders by the enrolment web service (MS-WSTEP).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::error::ErrorClass;
use certlib_core::issuer::{IssueRequest, OrderHandle, OrderState};
use certlib_core::{Context, Error, Result};
use certlib_net::Answer;
use quick_xml::escape::escape;
use url::Url;

use super::client::no_answer;
use super::hresult::{self, Meaning};
use super::policy::{Choice, Wanted};
use super::soap::{Content, Fault, ns};
use super::xml::Element;
use super::{Adcs, Enrolment, Handle, OPERATION, pending, pkcs7, rejected};
use crate::triage;

const ACTION: &str = "http://schemas.microsoft.com/windows/pki/2009/01/enrollment/RST/wstep";
const ISSUE: &str = "http://docs.oasis-open.org/ws-sx/ws-trust/200512/Issue";
const QUERY: &str = "http://schemas.microsoft.com/windows/pki/2009/01/enrollment/QueryTokenStatus";
const X509: &str = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-x509-token-profile-1.0#X509v3";

/// The request attribute that names certlib's order: for whoever looks through the CA's requests.
pub(super) const REFERENCE: &str = "certlib-order";

impl Adcs {
    /// Places an order.
    pub(super) async fn place_by_message(&self, cx: &Context, request: &IssueRequest) -> Result<OrderHandle> {
        let template = self.config.template(request.profile.as_deref())?;
        let choice = self.choose(cx, request, template).await?;
        let body = issue(&request.csr, &choice.template, &request.reference);
        let (answer, content) = self.client.ask(cx, &choice.url, ACTION, &body).await?;
        let token = match content {
            Content::Body(body) => Token::read(&body).ok_or_else(|| no_answer(&answer))?,
            Content::Fault(fault) => return Err(fault.refusal()),
            Content::None => return Err(no_answer(&answer)),
        };
        let request_id = token.request_id.ok_or_else(|| no_answer(&answer))?;
        let url = token.place.filter(|place| is_same_server(place, &choice.url)).unwrap_or(choice.url);
        OrderHandle::encode(&Handle {
            enrolment: Enrolment::Ces,
            request_id,
            url,
            authority: choice.authority,
            template: choice.template,
            template_version: choice.template_version,
            submitted: cx.clock.now(),
        })
    }

    async fn choose(&self, cx: &Context, request: &IssueRequest, template: &str) -> Result<Choice> {
        let url = self.config.ces_url.as_deref();
        if let Some(policy) = &self.config.cep_url {
            let wanted = Wanted {
                template,
                authority: self.config.ca_name.as_deref(),
                csr: &request.csr,
                authentication: self.client.authentication(),
                url,
            };
            // Whoever comes meanwhile waits, and shares the answer.
            return self.policies.lock().await.choose(cx, &self.client, policy, wanted).await;
        }
        let url =
            url.ok_or_else(|| Error::validation(OPERATION, "config_invalid", "cep_url: it or ces_url is needed"))?;
        Ok(Choice { template: template.to_owned(), template_version: None, authority: None, url: url.to_owned() })
    }

    /// Asks how an order stands.
    pub(super) async fn look_by_message(&self, cx: &Context, handle: &Handle) -> Result<OrderState> {
        let body = query(handle.request_id);
        let (answer, content) = self.client.ask(cx, &handle.url, ACTION, &body).await.map_err(triage::unanswered)?;
        let token = match content {
            Content::Body(body) => Token::read(&body).ok_or_else(|| no_answer(&answer))?,
            Content::Fault(fault) => return outcome(&fault, handle, cx),
            Content::None if answer.is_success() => return Err(no_answer(&answer)),
            Content::None => return triage::refused(&answer, handle.submitted, cx.clock.now()),
        };
        if token.request_id.is_some_and(|id| id != handle.request_id) {
            return Err(another(&answer));
        }
        let Some(leaf) = &token.leaf else {
            return if token.place.is_some() { Ok(pending()) } else { Err(no_answer(&answer)) };
        };
        let leaf = pkcs7::unarmoured(leaf.as_bytes()).ok_or_else(pkcs7::unreadable)?;
        let others = match &token.message {
            Some(message) => {
                let message = pkcs7::unarmoured(message.as_bytes());
                message.and_then(|message| pkcs7::certificates(&message)).ok_or_else(pkcs7::unreadable)?
            }
            None => Vec::new(),
        };
        Ok(OrderState::Issued { chain_pem: pkcs7::chain(Some(&leaf), &others)? })
    }
}

/// How an order stands by the fault that a question for it was answered with.
fn outcome(fault: &Fault, handle: &Handle, cx: &Context) -> Result<OrderState> {
    let Some(code) = fault.hresult else { return Err(fault.without_code()) };
    stands(code, fault.invalid_request, handle, cx)
}

/// How an order stands by a code of Windows.
pub(super) fn stands(code: u32, blames_request: bool, handle: &Handle, cx: &Context) -> Result<OrderState> {
    match hresult::meaning(code, blames_request) {
        Meaning::Early => Ok(pending()),
        Meaning::Unknown if triage::is_new(handle.submitted, cx.clock.now()) => Ok(pending()),
        Meaning::Denied | Meaning::NotForThisAccount => Ok(rejected(Some(code))),
        Meaning::Forbidden | Meaning::Away(_) | Meaning::Unknown => Err(hresult::question_failed(code, blames_request)),
    }
}

/// The error for an answer about another request.
pub(super) fn another(answer: &Answer) -> Error {
    answer.error(ErrorClass::IoPermanent, "answer_invalid", "the CA answers for another request than was asked for")
}

/// What the service says about a request.
#[derive(Debug, Default)]
struct Token {
    request_id: Option<u32>,
    /// The certificate, base64.
    leaf: Option<String>,
    /// The message with its chain, base64.
    message: Option<String>,
    /// Where to ask for a request that waits: its certificate stands for it.
    place: Option<String>,
}

impl Token {
    fn read(body: &Element) -> Option<Self> {
        let response = body.child(ns::TRUST, "RequestSecurityTokenResponseCollection")?;
        let response = response.child(ns::TRUST, "RequestSecurityTokenResponse")?;
        let requested = response.child(ns::TRUST, "RequestedSecurityToken");
        let reference = requested.and_then(|requested| requested.child(ns::SECURITY, "SecurityTokenReference"));
        let reference = reference.and_then(|reference| reference.child(ns::SECURITY, "Reference"));
        let token = |within: &Element| within.text_of(ns::SECURITY, "BinarySecurityToken").map(str::to_owned);
        Some(Self {
            request_id: response.text_of(ns::ENROLMENT, "RequestID").and_then(|id| id.parse().ok()),
            leaf: requested.and_then(token),
            message: token(response),
            place: reference.and_then(|reference| reference.attribute("URI")).map(str::to_owned),
        })
    }
}

fn issue(csr: &[u8], template: &str, reference: &str) -> String {
    let item = |name: &str, value: &str| match value {
        "" => String::new(),
        value => format!("<ContextItem Name=\"{name}\"><Value>{}</Value></ContextItem>", escape(value)),
    };
    format!(
        "<RequestSecurityToken PreferredLanguage=\"en-US\" xmlns=\"{}\"><TokenType>{X509}</TokenType><RequestType>{ISSUE}\
         </RequestType><BinarySecurityToken xmlns=\"{security}\" ValueType=\"{}#PKCS10\" \
         EncodingType=\"{security}#base64binary\" d:Id=\"\" xmlns:d=\"{}\">{}</BinarySecurityToken><AdditionalContext \
         xmlns=\"http://schemas.xmlsoap.org/ws/2006/12/authorization\">{}{}</AdditionalContext></RequestSecurityToken>",
        ns::TRUST,
        ns::ENROLMENT,
        ns::UTILITY,
        STANDARD.encode(csr),
        item("CertificateTemplate", template),
        item(REFERENCE, reference),
        security = ns::SECURITY,
    )
}

fn query(request_id: u32) -> String {
    format!(
        "<RequestSecurityToken PreferredLanguage=\"en-US\" xmlns=\"{}\"><TokenType>{X509}</TokenType><RequestType>{QUERY}\
         </RequestType><RequestID xmlns=\"{}\">{request_id}</RequestID></RequestSecurityToken>",
        ns::TRUST,
        ns::ENROLMENT
    )
}

/// Whether a URL that an answer names is at the server that gave the answer: our login goes nowhere else.
fn is_same_server(named: &str, asked: &str) -> bool {
    match (Url::parse(named), Url::parse(asked)) {
        (Ok(named), Ok(asked)) => named.origin() == asked.origin(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_go_to_no_other_server() {
        let asked = "https://pki.example/CA_CES_Kerberos/service.svc/CES";
        for (named, same) in [
            ("https://PKI.example:443/other/CES", true),
            ("https://pki.example.net/CA_CES_Kerberos/service.svc/CES", false),
            ("https://pki.example:8443/CES", false),
            ("http://pki.example/CES", false),
            ("https://", false),
        ] {
            assert_eq!(is_same_server(named, asked), same, "{named}");
        }
    }

    #[test]
    fn requests_are_well_formed_whatever_is_in_them() {
        let root = Element::parse(issue(b"csr", "A<b&\"c", "order-1").as_bytes()).unwrap();
        let context = root.child("http://schemas.xmlsoap.org/ws/2006/12/authorization", "AdditionalContext").unwrap();
        let items = context.children("http://schemas.xmlsoap.org/ws/2006/12/authorization", "ContextItem");
        let items: Vec<_> = items
            .map(|item| {
                let value = item.text_of("http://schemas.xmlsoap.org/ws/2006/12/authorization", "Value");
                (item.attribute("Name").unwrap(), value.unwrap())
            })
            .collect();
        assert_eq!(items, [("CertificateTemplate", "A<b&\"c"), ("certlib-order", "order-1")]);
        assert!(Element::parse(query(7).as_bytes()).unwrap().text_of(ns::ENROLMENT, "RequestID") == Some("7"));
    }
}
