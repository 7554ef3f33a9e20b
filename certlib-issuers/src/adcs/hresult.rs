//! What the error codes of Windows mean for a request: the only thing that refusals are judged by, since their texts are
//! in the language of the server.

use certlib_core::Error;
use certlib_core::error::{Effect, ErrorClass};

use super::OPERATION;

/// `E_ACCESSDENIED`.
const ACCESS_DENIED: u32 = 0x8007_0005;
/// `E_INVALIDARG`: among others, no such request.
const INVALID_ARGUMENT: u32 = 0x8007_0057;
/// `RPC_S_SERVER_UNAVAILABLE`, `RPC_S_SERVER_TOO_BUSY`, `RPC_S_CALL_FAILED_DNE`: it was certainly not carried out.
const NOT_CARRIED_OUT: [u32; 3] = [0x8007_06ba, 0x8007_06bb, 0x8007_06bf];
/// `CRYPT_E_NO_REVOCATION_CHECK`, `CRYPT_E_REVOCATION_OFFLINE`: the CA refuses because a list cannot be had now.
const REVOCATION_OFFLINE: [u32; 2] = [0x8009_2012, 0x8009_2013];
/// `CERTSRV_E_BAD_REQUESTSTATUS`: the request is not in a state for this.
const BAD_STATUS: u32 = 0x8009_4003;
/// `CERTSRV_E_ENROLL_DENIED`, `CERTSRV_E_TEMPLATE_DENIED`: the account lacks the right.
const ENROL_DENIED: [u32; 2] = [0x8009_4011, 0x8009_4012];

/// What a code means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The account may not do this.
    Forbidden,
    /// The account may not have certificates of this template. As the outcome of a request it is a denial.
    NotForThisAccount,
    /// The CA, or what it needs, is away.
    Away(Effect),
    /// There is no such request; or something else about the message is wrong.
    Unknown,
    /// The request is not in a state for what was asked.
    Early,
    /// The request is refused, for good.
    Denied,
}

/// What `code` means. `blames_request` is whether the service says that the request is at fault.
pub(super) fn meaning(code: u32, blames_request: bool) -> Meaning {
    match code {
        ACCESS_DENIED => Meaning::Forbidden,
        INVALID_ARGUMENT => Meaning::Unknown,
        BAD_STATUS => Meaning::Early,
        code if NOT_CARRIED_OUT.contains(&code) => Meaning::Away(Effect::None),
        // RPC_S_*, and the errors of the RPC runtime that follow them.
        0x8007_06a4..=0x8007_0727 => Meaning::Away(Effect::Possible),
        // A request that was refused is over, and may be made once more.
        code if REVOCATION_OFFLINE.contains(&code) => Meaning::Away(Effect::None),
        code if ENROL_DENIED.contains(&code) => Meaning::NotForThisAccount,
        // FACILITY_SSPI and FACILITY_CERT: what CAs and their policies refuse with.
        0x8009_0000..=0x8009_ffff | 0x800b_0000..=0x800b_ffff => Meaning::Denied,
        _ if blames_request => Meaning::Denied,
        _ => Meaning::Away(Effect::Possible),
    }
}

/// The error of a new request that was refused with `code`.
pub(super) fn refusal(code: u32, blames_request: bool) -> Error {
    let (class, name, why, effect) = match meaning(code, blames_request) {
        Meaning::Forbidden => (ErrorClass::Auth, "denied", "the CA refuses the account", Effect::None),
        Meaning::NotForThisAccount => {
            let why = "the account may not enrol for the template";
            (ErrorClass::Auth, "template_denied", why, Effect::None)
        }
        Meaning::Away(effect) => away(effect),
        Meaning::Unknown | Meaning::Early | Meaning::Denied => {
            (ErrorClass::Validation, "order_rejected", "the CA refuses the request", Effect::None)
        }
    };
    Error::new(class, OPERATION, name, why).with("ca_code", shown(code)).with_effect(effect)
}

/// The error of a question for a request that was answered with `code`, unless that says how the request stands.
pub(super) fn question_failed(code: u32, blames_request: bool) -> Error {
    let (class, name, why, _) = match meaning(code, blames_request) {
        Meaning::Forbidden => {
            let why = "the CA refuses the account; only who made a request may ask for it";
            (ErrorClass::Auth, "denied", why, Effect::None)
        }
        Meaning::Away(effect) => away(effect),
        Meaning::Unknown => (ErrorClass::Validation, "order_unknown", "the CA has no such request", Effect::None),
        Meaning::NotForThisAccount | Meaning::Early | Meaning::Denied => {
            (ErrorClass::Validation, "order_rejected", "the CA has denied the request", Effect::None)
        }
    };
    Error::new(class, OPERATION, name, why).with("ca_code", shown(code))
}

fn away(effect: Effect) -> (ErrorClass, &'static str, &'static str, Effect) {
    (ErrorClass::IoTransient, "ca_unavailable", "the CA, or what it needs, cannot be reached by its web server", effect)
}

/// A code as Windows shows it.
pub(super) fn shown(code: u32) -> String {
    format!("{code:#010x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_classes() {
        for (code, blamed, class, name, effect) in [
            (0x8007_0005, true, ErrorClass::Auth, "denied", Effect::None),
            (0x8009_4012, true, ErrorClass::Auth, "template_denied", Effect::None),
            (0x8009_4014, true, ErrorClass::Validation, "order_rejected", Effect::None),
            (0x8009_4800, false, ErrorClass::Validation, "order_rejected", Effect::None),
            (0x800b_0101, false, ErrorClass::Validation, "order_rejected", Effect::None),
            (0x8007_0057, true, ErrorClass::Validation, "order_rejected", Effect::None),
            (0x8007_06ba, false, ErrorClass::IoTransient, "ca_unavailable", Effect::None),
            (0x8007_06be, true, ErrorClass::IoTransient, "ca_unavailable", Effect::Possible),
            (0x8009_2013, false, ErrorClass::IoTransient, "ca_unavailable", Effect::None),
            (0x8000_ffff, false, ErrorClass::IoTransient, "ca_unavailable", Effect::Possible),
            (0x8000_ffff, true, ErrorClass::Validation, "order_rejected", Effect::None),
        ] {
            let error = refusal(code, blamed);
            assert_eq!((error.class(), error.code(), error.effect()), (class, name, effect), "{code:#x}");
            assert!(error.context().any(|(key, value)| key == "ca_code" && value == format!("{code:#010x}")));
        }
        assert_eq!(question_failed(0x8007_0057, true).code(), "order_unknown");
        assert_eq!(question_failed(0x8009_4012, true).class(), ErrorClass::Validation);
        assert_eq!(question_failed(0x8007_0005, true).class(), ErrorClass::Auth);
    }
}
