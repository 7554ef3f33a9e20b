//! What a relay's refusal means.

use certlib_core::classify;
use certlib_core::error::{Error, ErrorClass};

use super::OPERATION;
use crate::wire::WireError;
use crate::wire::reply::Reply;

/// The parts of a dialogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Greeting,
    Hello,
    Starttls,
    Auth,
    Mail,
    Recipient,
    Data,
    /// After the final dot.
    Message,
}

impl Stage {
    /// As errors name it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Greeting => "greeting",
            Self::Hello => "hello",
            Self::Starttls => "starttls",
            Self::Auth => "auth",
            Self::Mail => "mail",
            Self::Recipient => "recipient",
            Self::Data => "data",
            Self::Message => "message",
        }
    }
}

/// What an answer means where another one was needed.
pub(super) fn refusal(reply: &Reply, stage: Stage, relay: &str) -> Error {
    let (class, code, message) = meaning(reply.code, stage);
    let error = Error::new(class, OPERATION, code, message)
        .with("relay", relay)
        .with("stage", stage.as_str())
        .with("status", reply.code);
    match &reply.enhanced {
        Some(enhanced) => error.with("enhanced", enhanced),
        None => error,
    }
}

fn meaning(status: u16, stage: Stage) -> (ErrorClass, &'static str, &'static str) {
    if status < 400 {
        return (ErrorClass::IoPermanent, "protocol", "the relay answers with what the protocol does not have there");
    }
    let class = classify::smtp(status);
    match (stage, class) {
        (Stage::Starttls, ErrorClass::IoTransient) => (class, "tls_required", "the relay has no TLS at the moment"),
        (Stage::Starttls, _) => (ErrorClass::IoPermanent, "tls_required", "the relay offers TLS, and refuses it"),
        (_, ErrorClass::IoTransient) => (class, "smtp_status", "the relay asks to come back later"),
        (Stage::Auth, ErrorClass::Auth) => {
            (class, "auth_failed", "the relay refuses the login; check the credential and how it may log in")
        }
        (_, ErrorClass::Auth) => (class, "auth_required", "the relay wants a login, or another one"),
        (Stage::Recipient, _) => (class, "recipient_refused", "the relay does not take mail for a recipient"),
        (Stage::Mail | Stage::Message, _) if status == 552 => {
            (class, "message_too_large", "the message is too large for the relay, or for a mailbox")
        }
        _ => (class, "smtp_status", "the relay refuses"),
    }
}

/// What an answer that cannot be read means.
pub(super) fn unreadable(error: WireError, stage: Stage, relay: &str) -> Error {
    let error = match error {
        WireError::Closed => Error::network(OPERATION, "connection_lost", "the relay closed the connection"),
        WireError::Io(error) => {
            let class = classify::io(error.kind());
            Error::new(class, OPERATION, "connection_lost", "the connection failed").with_source(error)
        }
        WireError::TooLong => protocol("the relay's answer is longer than any that the protocol has"),
        WireError::Malformed => protocol("the relay's answer is none that the protocol has"),
    };
    error.with("relay", relay).with("stage", stage.as_str())
}

/// The relay does not speak SMTP, or somebody speaks in its name.
pub(super) fn protocol(message: &'static str) -> Error {
    Error::permanent(OPERATION, "protocol", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_classified() {
        use ErrorClass as C;
        use Stage as S;
        for (code, stage, class, expected) in [
            (421, S::Greeting, C::IoTransient, "smtp_status"),
            (554, S::Greeting, C::IoPermanent, "smtp_status"),
            (454, S::Starttls, C::IoTransient, "tls_required"),
            (502, S::Starttls, C::IoPermanent, "tls_required"),
            (454, S::Auth, C::IoTransient, "smtp_status"),
            (535, S::Auth, C::Auth, "auth_failed"),
            (534, S::Auth, C::Auth, "auth_failed"),
            (538, S::Auth, C::Auth, "auth_failed"),
            (504, S::Auth, C::IoPermanent, "smtp_status"),
            (530, S::Mail, C::Auth, "auth_required"),
            (552, S::Mail, C::IoPermanent, "message_too_large"),
            (450, S::Recipient, C::IoTransient, "smtp_status"),
            (550, S::Recipient, C::IoPermanent, "recipient_refused"),
            (553, S::Recipient, C::IoPermanent, "recipient_refused"),
            (451, S::Data, C::IoTransient, "smtp_status"),
            (554, S::Data, C::IoPermanent, "smtp_status"),
            (552, S::Message, C::IoPermanent, "message_too_large"),
            (550, S::Message, C::IoPermanent, "smtp_status"),
            (250, S::Data, C::IoPermanent, "protocol"),
        ] {
            let error = refusal(&Reply { code, enhanced: None, lines: vec!["canary".into()] }, stage, "relay:25");
            assert_eq!((error.class(), error.code()), (class, expected), "{code} {stage:?}");
            assert!(!format!("{error:?}").contains("canary"));
        }
    }
}
