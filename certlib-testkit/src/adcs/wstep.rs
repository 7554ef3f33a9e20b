//! The enrolment service (MS-WSTEP): `RequestSecurityToken`.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    cms::{self, Status},
    csr,
    fault::{Fault as Misbehaviour, Operation},
    hresult::Hresult,
    soap::{ENROLLMENT, Fault, INSTANCE, Request},
    state::{Disposition, Refused, State, Submission},
    texts::Texts,
};
use crate::xml::{Element, escaped};

pub(super) const ACTION: &str = "http://schemas.microsoft.com/windows/pki/2009/01/enrollment/RST/wstep";
const ANSWER: &str = "http://schemas.microsoft.com/windows/pki/2009/01/enrollment/RSTRC/wstep";

const TRUST: &str = "http://docs.oasis-open.org/ws-sx/ws-trust/200512";
const SECURITY: &str = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd";
const AUTHORIZATION: &str = "http://schemas.xmlsoap.org/ws/2006/12/authorization";
const X509: &str = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-x509-token-profile-1.0#X509v3";

const ISSUE: &str = "http://docs.oasis-open.org/ws-sx/ws-trust/200512/Issue";
const QUERY: &str = "http://schemas.microsoft.com/windows/pki/2009/01/enrollment/QueryTokenStatus";

/// What a service needs to know beside the request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    pub(super) user: &'a str,
    /// Its own URL.
    pub(super) url: &'a str,
    pub(super) texts: &'a Texts,
    pub(super) renewal_only: bool,
    pub(super) fault: Option<&'a Misbehaviour>,
}

/// What a request is for.
pub(super) fn operation(request: &Request) -> Operation {
    let Some(asked) = request.body.child(TRUST, "RequestSecurityToken") else { return Operation::Other };
    match asked.text_of(TRUST, "RequestType") {
        Some(ISSUE) if value_type(asked) == Some("PKCS10") => Operation::Issue,
        Some(ISSUE) => Operation::Renew,
        Some(QUERY) => Operation::QueryStatus,
        _ => Operation::Other,
    }
}

/// The end of the `ValueType` of the token that comes along.
fn value_type(asked: &Element) -> Option<&str> {
    let token = asked.child(SECURITY, "BinarySecurityToken")?;
    token.attribute("ValueType")?.strip_prefix(ENROLLMENT)?.strip_prefix('#')
}

/// Answers a request; gives its number as well.
pub(super) fn answer(
    request: &Request,
    state: &mut State,
    context: Context<'_>,
) -> Result<(String, Option<u32>), Box<Fault>> {
    let asked = request.body.child(TRUST, "RequestSecurityToken");
    let asked = asked.ok_or_else(|| request.fault(None, "The message has no RequestSecurityToken.".to_owned()))?;
    if asked.text_of(TRUST, "TokenType") != Some(X509) {
        return Err(invalid(request, "The TokenType is invalid."));
    }
    let id = match asked.text_of(TRUST, "RequestType") {
        Some(ISSUE) => submit(request, asked, state, context)?,
        Some(QUERY) => {
            let id = asked.text_of(ENROLLMENT, "RequestID").and_then(|id| id.parse().ok());
            id.ok_or_else(|| invalid(request, "The RequestID is invalid."))?
        }
        _ => return Err(invalid(request, "The RequestType is invalid.")),
    };
    // A new request is not asked for again: that would count as a poll.
    let asks = asked.text_of(TRUST, "RequestType") == Some(QUERY);
    let found = if asks {
        state.retrieve(id, context.user)
    } else {
        state.enrolments.get(&id).ok_or(Hresult::INVALID_ARGUMENT)
    };
    let enrolment = found.map_err(|code| refused(request, Refused { code, id: Some(id) }))?;
    if let Disposition::Denied(code) = enrolment.disposition {
        return Err(refused(request, Refused { code, id: Some(id) }));
    }
    let leaf = enrolment.certificate.as_ref().map(|signed| signed.certificate_der.clone());
    let body = match leaf {
        Some(leaf) => issued(state, &leaf, id, context),
        None => pending(id, context),
    };
    Ok((request.answer(ANSWER, &body), Some(id)))
}

fn submit(request: &Request, asked: &Element, state: &mut State, context: Context<'_>) -> Result<u32, Box<Fault>> {
    let token = asked.child(SECURITY, "BinarySecurityToken");
    let token = token.ok_or_else(|| invalid(request, "The BinarySecurityToken is missing."))?;
    let encoding = token.attribute("EncodingType").unwrap_or_default();
    if !encoding.strip_prefix(SECURITY).is_some_and(|kind| kind.eq_ignore_ascii_case("#base64binary")) {
        return Err(invalid(request, "The EncodingType is invalid."));
    }
    let signed = match value_type(asked) {
        Some("PKCS10") => false,
        Some("PKCS7" | "CMC") => true,
        _ => return Err(invalid(request, "The ValueType is invalid.")),
    };
    let bytes = csr::unarmoured(&token.text).unwrap_or_default();
    if cms::is_signed(&bytes) != signed {
        return Err(refused(request, Hresult::ASN1_BAD_TAG.into()));
    }
    let items = asked.child(AUTHORIZATION, "AdditionalContext").map(|context| context.children.as_slice());
    let items = items.unwrap_or_default().iter().filter(|item| item.is(AUTHORIZATION, "ContextItem"));
    let attributes = items.filter_map(|item| {
        Some((item.attribute("Name")?.to_owned(), item.text_of(AUTHORIZATION, "Value")?.to_owned()))
    });
    let attributes: Vec<_> = attributes.collect();
    let submission = Submission {
        request: &bytes,
        attributes: &attributes,
        requester: context.user,
        renewal_only: context.renewal_only,
    };
    state.submit(&submission, context.fault).map_err(|why| refused(request, why))
}

/// The fault for what the authority refuses.
pub(super) fn refused(request: &Request, why: Refused) -> Box<Fault> {
    let mut fault = request.fault(Some(why.code), why.code.to_string());
    fault.request_id = why.id;
    // What lies between the service and the authority is not the request's fault.
    fault.invalid_request = why.code.0 & 0xffff_ff00 != 0x8007_0600 && why.code != Hresult::REVOCATION_OFFLINE;
    fault
}

/// The fault for what the service itself refuses.
fn invalid(request: &Request, reason: &str) -> Box<Fault> {
    request.fault(Some(Hresult::INVALID_ARGUMENT), reason.to_owned())
}

fn issued(state: &State, leaf: &[u8], id: u32, context: Context<'_>) -> String {
    let texts = context.texts;
    let above = state.authority.chain(state.authority.renewals());
    let chain: Vec<&[u8]> = std::iter::once(leaf).chain(above.into_iter().flatten()).collect();
    let whole = cms::full_response(Status::Success, id, texts.issued, &chain);
    let (leaf, whole) = match context.fault {
        Some(Misbehaviour::Garbled) => (&b"no certificate"[..], b"no message".to_vec()),
        _ => (leaf, whole),
    };
    collection(texts, texts.issued, &token(&format!("{SECURITY}#PKCS7"), &whole), &token(X509, leaf), id)
}

fn pending(id: u32, context: Context<'_>) -> String {
    let texts = context.texts;
    let status = cms::full_response(Status::Pending, id, texts.under_submission, &[]);
    let reference = format!(
        "<SecurityTokenReference xmlns=\"{SECURITY}\"><Reference URI=\"{}\"/></SecurityTokenReference>",
        escaped(context.url)
    );
    collection(texts, texts.under_submission, &token(&format!("{SECURITY}#PKCS7"), &status), &reference, id)
}

fn collection(texts: &Texts, message: &str, whole: &str, requested: &str, id: u32) -> String {
    format!(
        "<RequestSecurityTokenResponseCollection xmlns=\"{TRUST}\" xmlns:xsi=\"{INSTANCE}\">\
         <RequestSecurityTokenResponse><TokenType>{X509}</TokenType><DispositionMessage xml:lang=\"{}\" \
         xmlns=\"{ENROLLMENT}\">{}</DispositionMessage>{whole}<RequestedSecurityToken>{requested}\
         </RequestedSecurityToken><RequestID xmlns=\"{ENROLLMENT}\">{id}</RequestID></RequestSecurityTokenResponse>\
         </RequestSecurityTokenResponseCollection>",
        texts.tag,
        escaped(message)
    )
}

/// Bytes as a token: base64 in lines, whose ends are written as .NET writes them.
fn token(value_type: &str, bytes: &[u8]) -> String {
    let digits = STANDARD.encode(bytes);
    let lines = digits.as_bytes().chunks(64).map(|line| format!("{}&#xD;\n", String::from_utf8_lossy(line)));
    format!(
        "<BinarySecurityToken ValueType=\"{value_type}\" EncodingType=\"{SECURITY}#base64binary\" \
         xmlns=\"{SECURITY}\">{}</BinarySecurityToken>",
        lines.collect::<String>()
    )
}
