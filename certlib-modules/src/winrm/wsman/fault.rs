//! What goes wrong on the other side, by codes.

use certlib_core::{Error, ErrorClass};

use super::envelope::ns;
use super::xml::Element;

/// Nothing happened within the operation time-out: ask again.
pub(super) const TIMED_OUT: u32 = 0x8033_8029;

/// There is no such shell any more.
const NO_SHELL: u32 = 0x8033_805B;

/// The machine refuses more shells, users, processes or operations at a time.
const QUOTA: u32 = 0x8033_81A6;

/// Too long a command line.
const TOO_LONG: u32 = 0x8007_00CE;

/// A fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// The code of `WSManFault`, or 0.
    pub(super) code: u32,
    /// The subcode of SOAP, without its prefix.
    pub(super) subcode: String,
}

impl Fault {
    /// The fault in the body of an answer, if that is what it holds.
    pub(super) fn of(envelope: &Element) -> Option<Self> {
        let fault = envelope.descend(ns::SOAP, &["Body", "Fault"])?;
        let code = fault
            .child(ns::SOAP, "Detail")
            .and_then(|detail| detail.child(ns::FAULT, "WSManFault"))
            .and_then(|fault| fault.attribute("Code"))
            .and_then(|code| code.parse().ok())
            .unwrap_or(0);
        let subcode = fault.descend(ns::SOAP, &["Code", "Subcode", "Value"]).map_or("", Element::text);
        let subcode = subcode.rsplit(':').next().unwrap_or_default();
        Some(Self { code, subcode: subcode.chars().filter(char::is_ascii_alphanumeric).take(64).collect() })
    }

    /// Whether it only says that nothing happened yet.
    pub(super) fn is_timeout(&self) -> bool {
        self.code == TIMED_OUT || (self.code == 0 && self.subcode == "TimedOut")
    }

    /// Whether the shell is gone.
    pub(super) fn is_missing_shell(&self) -> bool {
        self.code == NO_SHELL || (self.code == 0 && self.subcode == "InvalidSelectors")
    }

    /// As an error. The text of the fault is not quoted: it may repeat what was sent.
    pub(super) fn error(&self, operation: &'static str) -> Error {
        let (class, code, message) = match (self.code, self.subcode.as_str()) {
            (QUOTA, _) => quota(),
            (5 | 0x8007_0005, _) => denied(),
            (TOO_LONG, _) => {
                (ErrorClass::Validation, "command_too_long", "the machine finds the command line too long")
            }
            (995, _) => (ErrorClass::IoTransient, "operation_aborted", "the machine gave the operation up"),
            (TIMED_OUT, _) | (0, "TimedOut") => {
                (ErrorClass::IoTransient, "operation_timeout", "the machine did not finish in time")
            }
            (NO_SHELL, _) | (_, "InvalidSelectors") => no_shell(),
            (_, "AccessDenied") => denied(),
            (_, "QuotaLimit" | "Concurrency") => quota(),
            (_, "EncodingLimit") => envelope(),
            (_, "InternalError") => (ErrorClass::IoTransient, "remote_failed", "WinRM had an error of its own"),
            _ => (ErrorClass::IoPermanent, "remote_fault", "WinRM refuses the request"),
        };
        Error::new(class, operation, code, message).with("fault", self.code).with("subcode", &self.subcode)
    }
}

type Meaning = (ErrorClass, &'static str, &'static str);

fn quota() -> Meaning {
    let message = "the machine has no room for another shell, command or operation of this user; see its WinRM quotas";
    (ErrorClass::IoTransient, "quota_exceeded", message)
}

fn denied() -> Meaning {
    let message = "the login may not use WinRM: it must be an administrator, and a local one other than the built-in \
                   needs LocalAccountTokenFilterPolicy = 1";
    (ErrorClass::Auth, "access_denied", message)
}

fn envelope() -> Meaning {
    (ErrorClass::IoPermanent, "envelope_too_large", "the machine's MaxEnvelopeSizekb is too small for this")
}

fn no_shell() -> Meaning {
    (ErrorClass::IoTransient, "shell_lost", "the machine has closed our shell")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(code: &str, subcode: &str) -> Fault {
        let document = format!(
            "<s:Envelope xmlns:s='{}'><s:Body><s:Fault><s:Code><s:Value>s:Receiver</s:Value><s:Subcode>\
             <s:Value>{subcode}</s:Value></s:Subcode></s:Code><s:Reason><s:Text>canary</s:Text></s:Reason>\
             <s:Detail><f:WSManFault xmlns:f='{}' Code='{code}' Machine='m'><f:Message>canary</f:Message>\
             </f:WSManFault></s:Detail></s:Fault></s:Body></s:Envelope>",
            ns::SOAP,
            ns::FAULT
        );
        Fault::of(&Element::parse(&document).unwrap()).unwrap()
    }

    #[test]
    fn codes_decide() {
        let table = [
            ("2150858793", "w:TimedOut", "operation_timeout", ErrorClass::IoTransient),
            ("2147942606", "w:InternalError", "command_too_long", ErrorClass::Validation),
            ("2150858843", "w:InvalidSelectors", "shell_lost", ErrorClass::IoTransient),
            ("5", "w:AccessDenied", "access_denied", ErrorClass::Auth),
            ("2150859174", "w:QuotaLimit", "quota_exceeded", ErrorClass::IoTransient),
            ("995", "w:Something", "operation_aborted", ErrorClass::IoTransient),
            ("1", "w:QuotaLimit", "quota_exceeded", ErrorClass::IoTransient),
            ("1", "w:InternalError", "remote_failed", ErrorClass::IoTransient),
            ("nonsense", "x", "remote_fault", ErrorClass::IoPermanent),
        ];
        for (code, subcode, expected, class) in table {
            let error = fault(code, subcode).error("t");
            assert_eq!((error.code(), error.class()), (expected, class), "{code} {subcode}");
            assert!(!error.to_string().contains("canary"));
        }
        assert!(fault("2150858793", "").is_timeout() && !fault("5", "w:TimedOut").is_timeout());
        assert!(fault("2150858843", "").is_missing_shell());
    }

    #[test]
    fn no_fault_is_none() {
        let document = format!("<s:Envelope xmlns:s='{}'><s:Body/></s:Envelope>", ns::SOAP);
        assert_eq!(Fault::of(&Element::parse(&document).unwrap()), None);
    }
}
