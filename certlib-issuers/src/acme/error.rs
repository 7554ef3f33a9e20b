//! From what the CA says to what can be done about it. The `type` of a problem decides, never its text.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::io;

use certlib_core::classify::{self, TlsFailure};
use certlib_core::{Error, ErrorClass};
use instant_acme::{Identifier, Problem};

const URN: &str = "urn:ietf:params:acme:error:";
const DETAIL_MAX: usize = 500;

pub(super) const BAD_NONCE: &str = "badNonce";
pub(super) const ALREADY_REVOKED: &str = "already_revoked";
pub(super) const UNAUTHORIZED: &str = "unauthorized";
pub(super) const ORDER_NOT_READY: &str = "order_not_ready";
pub(super) const NO_PROBLEM: Problem = Problem { r#type: None, detail: None, status: None, subproblems: Vec::new() };

/// The part of the type after the prefix that ACME's own problems share; empty for others.
pub(super) fn name(problem: &Problem) -> &str {
    problem.r#type.as_deref().and_then(|kind| kind.strip_prefix(URN)).unwrap_or_default()
}

/// The error that an answer with this problem and `status` is.
pub(super) fn refused(operation: &'static str, problem: Problem, status: u16) -> Error {
    let class = match class(name(&problem)) {
        // Whatever is said along with it: the server is busy or broken.
        _ if status == 429 || status >= 500 => ErrorClass::IoTransient,
        Some(class) => class,
        None => classify::http(status),
    };
    describe(operation, problem, class).with("status", status)
}

/// The error that an authorization, challenge or order which failed for this problem is: a new order is needed.
pub(super) fn rejected(operation: &'static str, problem: Problem) -> Error {
    describe(operation, problem, ErrorClass::Validation)
}

/// The error that one of instant-acme's is: most are ours, and passed through it.
pub(super) fn from_acme(operation: &'static str, error: instant_acme::Error) -> Error {
    use instant_acme::Error as Acme;
    let (class, code, message) = match error {
        Acme::Other(error) => match error.downcast::<Error>() {
            Ok(error) => return *error,
            Err(error) => return invalid(operation).with_source(error),
        },
        Acme::Api(problem) => return rejected(operation, problem),
        Acme::Http(_) | Acme::InvalidUri(_) => {
            (ErrorClass::Validation, "url_invalid", "the CA's address cannot be used")
        }
        Acme::Crypto => (ErrorClass::IoPermanent, "signing_failed", "the cryptographic library refused"),
        Acme::KeyRejected => {
            (ErrorClass::IoPermanent, "account_key_invalid", "the account key is not one for ECDSA P-256")
        }
        Acme::Unsupported(_) => (ErrorClass::IoPermanent, "unsupported", "the CA cannot do this"),
        _ => return invalid(operation).with_source(error),
    };
    Error::new(class, operation, code, message).with_source(error)
}

fn invalid(operation: &'static str) -> Error {
    Error::transient(operation, "answer_invalid", "the CA's answer makes no sense")
}

fn describe(operation: &'static str, problem: Problem, class: ErrorClass) -> Error {
    let code: Cow<'static, str> = match name(&problem) {
        "" => "acme_problem".into(),
        name => snake_case(name).into(),
    };
    let detail = problem.detail.as_deref().filter(|detail| !detail.is_empty());
    let mut error = Error::new(class, operation, code, detail.map_or("the CA gives no reason".into(), clean));
    if let Some(kind) = problem.r#type {
        error = error.with("type", clean(&kind));
    }
    for sub in problem.subproblems.into_iter().take(10) {
        let (kind, detail) = (sub.r#type.unwrap_or_default(), sub.detail.unwrap_or_default());
        let name = sub.identifier.as_ref().map(value).unwrap_or_default();
        error = error.with("problem", format_args!("{} {}: {}", clean(&name), clean(&kind), clean(&detail)));
    }
    error
}

/// The name or address, without its type.
pub(super) fn value(identifier: &Identifier) -> String {
    identifier.authorized(false).to_string()
}

/// The class of a problem by the last part of its type; `None` for one we do not know.
fn class(name: &str) -> Option<ErrorClass> {
    Some(match name {
        "badNonce" | "rateLimited" | "serverInternal" => ErrorClass::IoTransient,
        "unauthorized" | "accountDoesNotExist" | "externalAccountRequired" | "userActionRequired" => ErrorClass::Auth,
        "badPublicKey" | "badSignatureAlgorithm" => ErrorClass::IoPermanent,
        "alreadyReplaced"
        | "alreadyRevoked"
        | "badCSR"
        | "badRevocationReason"
        | "caa"
        | "compound"
        | "connection"
        | "dns"
        | "incorrectResponse"
        | "invalidContact"
        | "invalidProfile"
        | "malformed"
        | "orderNotReady"
        | "rejectedIdentifier"
        | "tls"
        | "unsupportedContact"
        | "unsupportedIdentifier" => ErrorClass::Validation,
        _ => return None,
    })
}

/// `badCSR` as `bad_csr`. Letters and digits only: the CA chose the name.
fn snake_case(name: &str) -> String {
    let mut text = String::new();
    let mut after_lower = false;
    for character in name.chars().filter(char::is_ascii_alphanumeric).take(60) {
        if character.is_ascii_uppercase() && after_lower {
            text.push('_');
        }
        after_lower = !character.is_ascii_uppercase();
        text.push(character.to_ascii_lowercase());
    }
    text
}

/// Text of the CA, fit for a log line.
fn clean(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).take(DETAIL_MAX).collect()
}

/// A request that did not get an answer to the end.
pub(super) fn from_transport(operation: &'static str, error: reqwest::Error) -> Error {
    let (class, code, message) = match tls_failure(&error) {
        Some(failure) => (classify::tls(failure), "tls_failed", "no TLS session with the CA"),
        None if error.is_timeout() => (ErrorClass::Network, "timeout", "the CA did not answer in time"),
        None if error.is_connect() => (ErrorClass::Network, "connect_failed", "the CA cannot be reached"),
        None if error.is_builder() => (ErrorClass::Validation, "url_invalid", "the CA's address cannot be used"),
        None => (ErrorClass::Network, "answer_incomplete", "the CA's answer did not arrive to the end"),
    };
    Error::new(class, operation, code, message).with_source(error)
}

fn tls_failure(error: &reqwest::Error) -> Option<TlsFailure> {
    let mut source = error.source();
    while let Some(current) = source {
        if let Some(found) = rustls_error(current) {
            return Some(kind_of(found));
        }
        source = current.source();
    }
    None
}

/// The TLS error that `error` is, or wraps: an I/O error does not name what it wraps as its source.
fn rustls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    if let Some(found) = error.downcast_ref() {
        return Some(found);
    }
    let inner: &(dyn StdError + 'static) = error.downcast_ref::<io::Error>()?.get_ref()?;
    rustls_error(inner)
}

fn kind_of(error: &rustls::Error) -> TlsFailure {
    use rustls::{AlertDescription as Alert, Error as Tls};
    match error {
        Tls::InvalidCertificate(_) | Tls::NoCertificatesPresented => TlsFailure::PeerUntrusted,
        Tls::AlertReceived(Alert::CertificateRequired) => TlsFailure::ClientRefused,
        Tls::PeerIncompatible(_) | Tls::AlertReceived(Alert::HandshakeFailure | Alert::ProtocolVersion) => {
            TlsFailure::NoCommonGround
        }
        _ => TlsFailure::Interrupted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(name: &str) -> Problem {
        Problem { r#type: Some(format!("{URN}{name}")), detail: Some("why\nnot".to_owned()), ..NO_PROBLEM }
    }

    #[test]
    fn the_type_decides_and_a_busy_server_outranks_it() {
        let table = [
            ("badNonce", 400, ErrorClass::IoTransient, "bad_nonce"),
            ("rateLimited", 429, ErrorClass::IoTransient, "rate_limited"),
            ("rateLimited", 403, ErrorClass::IoTransient, "rate_limited"),
            ("malformed", 503, ErrorClass::IoTransient, "malformed"),
            ("unauthorized", 403, ErrorClass::Auth, "unauthorized"),
            ("accountDoesNotExist", 400, ErrorClass::Auth, "account_does_not_exist"),
            ("badCSR", 400, ErrorClass::Validation, "bad_csr"),
            ("rejectedIdentifier", 403, ErrorClass::Validation, "rejected_identifier"),
            ("badPublicKey", 400, ErrorClass::IoPermanent, "bad_public_key"),
            ("somethingNew", 401, ErrorClass::Auth, "something_new"),
            ("somethingNew", 404, ErrorClass::Validation, "something_new"),
        ];
        for (name, status, class, code) in table {
            let error = refused("test", problem(name), status);
            assert_eq!((error.class(), error.code()), (class, code), "{name} {status}");
        }
        assert_eq!(refused("test", NO_PROBLEM, 500).code(), "acme_problem");
        assert_eq!(rejected("test", problem("dns")).class(), ErrorClass::Validation);
        assert_eq!(rejected("test", problem("unauthorized")).class(), ErrorClass::Validation);
        assert_eq!(rejected("test", problem("serverInternal")).class(), ErrorClass::Validation);
    }

    #[test]
    fn the_texts_of_a_ca_stay_on_one_line_and_short() {
        let mut long = problem("dns");
        long.detail = Some("x\r\n\u{1b}[31m".repeat(10_000));
        let text = refused("test", long, 400).to_string();
        assert!(text.len() < 2000 && !text.chars().any(char::is_control));
    }
}
