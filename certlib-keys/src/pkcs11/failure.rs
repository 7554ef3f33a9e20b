//! What a token's library answers, as certlib's errors.

use certlib_core::{Error, ErrorClass, Result};
use cryptoki::context::Function;
use cryptoki::error::{Error as Cryptoki, RvError};

/// `CKR_AEAD_DECRYPT_FAILED` of PKCS#11 3.0, which cryptoki has no name for.
const AEAD_DECRYPT_FAILED: RvError = RvError::UnknownErrorCode(0x42);

/// Why a piece of work with a session failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The library said so.
    Token(RvError, Function),
    /// The token did what it should; the error is about what was asked for.
    Final(Error),
}

impl From<Cryptoki> for Failure {
    fn from(error: Cryptoki) -> Self {
        match error {
            Cryptoki::Pkcs11(returned, function) => Self::Token(returned, function),
            other => {
                let why = "the PKCS#11 library lacks something, or answered with what makes no sense";
                Self::Final(Error::permanent("pkcs11", "hsm_unusable", why).with_source(other))
            }
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl Failure {
    /// Whether the session, its log-in or what it knew of the keys is gone, so that a new one may do better.
    pub(super) fn is_stale(&self) -> bool {
        let Self::Token(returned, _) = self else { return false };
        matches!(
            returned,
            RvError::SessionHandleInvalid
                | RvError::SessionClosed
                | RvError::UserNotLoggedIn
                | RvError::KeyHandleInvalid
                | RvError::ObjectHandleInvalid
                | RvError::DeviceRemoved
                | RvError::DeviceError
                | RvError::TokenNotPresent
                | RvError::CryptokiNotInitialized
        )
    }

    /// Whether somebody has ended the library, so that it has to begin again.
    pub(super) fn is_after_the_end(&self) -> bool {
        matches!(self, Self::Token(RvError::CryptokiNotInitialized, _))
    }

    /// Whether a decryption failed because the data are not authentic.
    pub(super) fn says_not_authentic(&self) -> bool {
        let Self::Token(returned, Function::Decrypt) = self else { return false };
        matches!(
            *returned,
            RvError::EncryptedDataInvalid
                | RvError::EncryptedDataLenRange
                | RvError::DataInvalid
                | RvError::DataLenRange
                | RvError::SignatureInvalid
                | AEAD_DECRYPT_FAILED
        )
    }

    /// Whether a decryption failed in a way that some tokens use for data that are not authentic as well.
    pub(super) fn may_mean_not_authentic(&self) -> bool {
        let Self::Token(returned, Function::Decrypt) = self else { return false };
        matches!(
            returned,
            RvError::GeneralError
                | RvError::FunctionFailed
                | RvError::VendorDefined(_)
                | RvError::UnknownErrorCode(_)
                | RvError::ArgumentsBad
        )
    }

    pub(super) fn into_error(self, operation: &'static str) -> Error {
        match self {
            Self::Final(error) => error,
            Self::Token(returned, function) => {
                let (class, code, why) = meaning(returned);
                Error::new(class, operation, code, why)
                    .with("function", format_args!("C_{function:?}"))
                    .with("returned", format_args!("{returned:?}"))
            }
        }
    }
}

/// Whether the library says that the PIN is not the right one, or will not do.
pub(super) fn refuses_the_pin(returned: RvError) -> bool {
    meaning(returned).1.starts_with("pin_")
}

/// The only table of what return codes mean: class, code, explanation.
fn meaning(returned: RvError) -> (ErrorClass, &'static str, &'static str) {
    use ErrorClass::{Auth, IoPermanent, IoTransient, Validation};
    match returned {
        RvError::EncryptedDataInvalid | RvError::EncryptedDataLenRange | AEAD_DECRYPT_FAILED => rejection(),

        RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange => {
            (Auth, "pin_refused", "the token refuses the PIN; it is not tried again, since that would lock the token")
        }
        RvError::PinLocked => (Auth, "pin_locked", "the PIN is locked; its security officer can unlock the token"),
        RvError::PinExpired => (Auth, "pin_expired", "the PIN has to be changed first"),
        RvError::UserPinNotInitialized => (Auth, "pin_unset", "the token has no PIN for its user yet"),
        RvError::UserNotLoggedIn
        | RvError::UserTypeInvalid
        | RvError::UserAnotherAlreadyLoggedIn
        | RvError::UserTooManyTypes => {
            (Auth, "login_refused", "the token does not let this process log in as its user")
        }

        RvError::DeviceRemoved
        | RvError::TokenNotPresent
        | RvError::TokenNotRecognized
        | RvError::SlotIdInvalid
        | RvError::SessionHandleInvalid
        | RvError::SessionClosed
        | RvError::CryptokiNotInitialized => (IoTransient, "hsm_away", "the token is away"),
        RvError::SessionCount | RvError::DeviceMemory | RvError::HostMemory => {
            (IoTransient, "hsm_busy", "the token has no session or memory to spare")
        }
        RvError::GeneralError
        | RvError::FunctionFailed
        | RvError::FunctionCanceled
        | RvError::Cancel
        | RvError::DeviceError
        | RvError::OperationActive
        | RvError::OperationNotInitialized
        | RvError::VendorDefined(_)
        | RvError::UnknownErrorCode(_) => (IoTransient, "hsm_failed", "the token failed"),

        RvError::KeyHandleInvalid | RvError::ObjectHandleInvalid => {
            (Validation, "kek_unknown", "the token does not have the key any more")
        }
        RvError::KeyFunctionNotPermitted | RvError::KeyTypeInconsistent | RvError::KeySizeRange => {
            (IoPermanent, "kek_attributes", "the attributes of the key do not allow what it is needed for")
        }
        RvError::MechanismInvalid | RvError::MechanismParamInvalid | RvError::FunctionNotSupported => {
            (IoPermanent, "hsm_unsupported", "the token cannot do this, or wants other parameters")
        }
        _ => (IoPermanent, "hsm_refused", "the token refuses"),
    }
}

fn rejection() -> (ErrorClass, &'static str, &'static str) {
    (
        ErrorClass::Validation,
        "envelope_rejected",
        "this secret was sealed for another place or with another key, or was changed",
    )
}

/// The answer to everything that is not authentic: who tampers learns nothing from it.
pub(super) fn rejected() -> Failure {
    let (class, code, why) = rejection();
    Failure::Final(Error::new(class, "pkcs11.unwrap", code, why))
}

/// `value`, or that the token answered with something of another size.
pub(super) fn sized<const N: usize>(value: &[u8], function: Function) -> Result<[u8; N], Failure> {
    value.try_into().map_err(|_| {
        let why = "the token answered with another number of bytes than the standard says";
        let error = Error::permanent("pkcs11", "hsm_unusable", why);
        Failure::Final(
            error.with("function", format_args!("C_{function:?}")).with("bytes", value.len()).with("want", N),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(returned: RvError, function: Function) -> Error {
        Failure::Token(returned, function).into_error("pkcs11.test")
    }

    #[test]
    fn codes_have_the_class_of_their_remedy() {
        for (returned, class, code) in [
            (RvError::PinIncorrect, ErrorClass::Auth, "pin_refused"),
            (RvError::PinLocked, ErrorClass::Auth, "pin_locked"),
            (RvError::DeviceRemoved, ErrorClass::IoTransient, "hsm_away"),
            (RvError::SessionHandleInvalid, ErrorClass::IoTransient, "hsm_away"),
            (RvError::GeneralError, ErrorClass::IoTransient, "hsm_failed"),
            (RvError::VendorDefined(0x8000_0001), ErrorClass::IoTransient, "hsm_failed"),
            (RvError::EncryptedDataInvalid, ErrorClass::Validation, "envelope_rejected"),
            (AEAD_DECRYPT_FAILED, ErrorClass::Validation, "envelope_rejected"),
            (RvError::KeyHandleInvalid, ErrorClass::Validation, "kek_unknown"),
            (RvError::MechanismInvalid, ErrorClass::IoPermanent, "hsm_unsupported"),
            (RvError::TokenWriteProtected, ErrorClass::IoPermanent, "hsm_refused"),
        ] {
            let error = error(returned, Function::Decrypt);
            assert_eq!((error.class(), error.code()), (class, code), "{error}");
            assert_eq!(refuses_the_pin(returned), code.starts_with("pin_"));
        }
        let text = error(RvError::DeviceRemoved, Function::EncryptInit).to_string();
        assert!(text.contains("C_EncryptInit") && text.contains("DeviceRemoved"), "{text}");
    }

    #[test]
    fn only_a_decryption_can_find_data_not_authentic() {
        assert!(Failure::Token(AEAD_DECRYPT_FAILED, Function::Decrypt).says_not_authentic());
        assert!(!Failure::Token(RvError::DataInvalid, Function::Encrypt).says_not_authentic());
        assert!(Failure::Token(RvError::GeneralError, Function::Decrypt).may_mean_not_authentic());
        assert!(!Failure::Token(RvError::GeneralError, Function::DecryptInit).may_mean_not_authentic());
        assert!(!Failure::Token(RvError::DeviceRemoved, Function::Decrypt).may_mean_not_authentic());
    }
}
