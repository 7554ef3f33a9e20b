//! The error codes of certificate services, with their names and texts.

use std::fmt;

/// An error code as programs of Windows give it, such as `0x80094012`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hresult(pub u32);

impl Hresult {
    /// `E_ACCESSDENIED`: the caller may not do this.
    pub const ACCESS_DENIED: Self = Self(0x8007_0005);
    /// `E_INVALIDARG`: a parameter is wrong, such as a request id that was never given out.
    pub const INVALID_ARGUMENT: Self = Self(0x8007_0057);
    /// `RPC_S_SERVER_UNAVAILABLE`: the web service cannot reach the authority. It may pass.
    pub const RPC_UNAVAILABLE: Self = Self(0x8007_06ba);
    /// `NTE_BAD_SIGNATURE`: a signature does not fit.
    pub const BAD_SIGNATURE: Self = Self(0x8009_0006);
    /// `CRYPT_E_ASN1_BADTAG`: what was sent is no request.
    pub const ASN1_BAD_TAG: Self = Self(0x8009_310b);
    /// `CRYPT_E_REVOCATION_OFFLINE`: no revocation list can be had. It may pass.
    pub const REVOCATION_OFFLINE: Self = Self(0x8009_2013);
    /// `CERTSRV_E_BAD_REQUESTSUBJECT`: the request names nobody.
    pub const BAD_REQUEST_SUBJECT: Self = Self(0x8009_4001);
    /// `CERTSRV_E_BAD_REQUESTSTATUS`: the request is not in a state for this.
    pub const BAD_REQUEST_STATUS: Self = Self(0x8009_4003);
    /// `CERTSRV_E_PROPERTY_EMPTY`: a property is missing.
    pub const PROPERTY_EMPTY: Self = Self(0x8009_4004);
    /// `CERTSRV_E_TEMPLATE_DENIED`: the caller lacks the right to enrol for the template.
    pub const TEMPLATE_DENIED: Self = Self(0x8009_4012);
    /// `CERTSRV_E_ADMIN_DENIED_REQUEST`: a manager has said no.
    pub const ADMIN_DENIED: Self = Self(0x8009_4014);
    /// `CERTSRV_E_UNSUPPORTED_CERT_TYPE`: the authority does not have the template.
    pub const UNSUPPORTED_CERT_TYPE: Self = Self(0x8009_4800);
    /// `CERTSRV_E_NO_CERT_TYPE`: no template is named.
    pub const NO_CERT_TYPE: Self = Self(0x8009_4801);
    /// `CERTSRV_E_TEMPLATE_CONFLICT`: two templates are named.
    pub const TEMPLATE_CONFLICT: Self = Self(0x8009_4802);
    /// `CERTSRV_E_BAD_RENEWAL_SUBJECT`: somebody else's certificate is to be renewed.
    pub const BAD_RENEWAL_SUBJECT: Self = Self(0x8009_4806);
    /// `CERTSRV_E_SIGNATURE_COUNT`: the template wants signatures of enrolment agents.
    pub const SIGNATURE_COUNT: Self = Self(0x8009_480a);
    /// `CERTSRV_E_SUBJECT_DNS_REQUIRED`: the directory has no DNS name for the caller.
    pub const SUBJECT_DNS_REQUIRED: Self = Self(0x8009_480f);
    /// `CERTSRV_E_KEY_LENGTH`: the key is too short for the template, or of another kind.
    pub const KEY_LENGTH: Self = Self(0x8009_4811);
    /// `CERT_E_EXPIRED`: the certificate that signs the request is not valid now.
    pub const EXPIRED: Self = Self(0x800b_0101);
    /// `CERT_E_UNTRUSTEDROOT`: the certificate that signs the request is not of this authority.
    pub const UNTRUSTED_ROOT: Self = Self(0x800b_0109);

    /// As the protocols write it: a signed number.
    #[must_use]
    pub fn signed(self) -> i32 {
        self.0.cast_signed()
    }

    /// Its name in the headers of Windows; empty for one that is not known here.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.known().0
    }

    /// What Windows says in English; empty for one that is not known here.
    #[must_use]
    pub fn text(self) -> &'static str {
        self.known().1
    }

    fn known(self) -> (&'static str, &'static str) {
        match self {
            Self::ACCESS_DENIED => ("E_ACCESSDENIED", "Access is denied."),
            Self::INVALID_ARGUMENT => ("E_INVALIDARG", "The parameter is incorrect."),
            Self::RPC_UNAVAILABLE => ("RPC_S_SERVER_UNAVAILABLE", "The RPC server is unavailable."),
            Self::BAD_SIGNATURE => ("NTE_BAD_SIGNATURE", "Invalid Signature."),
            Self::ASN1_BAD_TAG => ("CRYPT_E_ASN1_BADTAG", "ASN1 bad tag value met."),
            Self::REVOCATION_OFFLINE => (
                "CRYPT_E_REVOCATION_OFFLINE",
                "The revocation function was unable to check revocation because the revocation server was offline.",
            ),
            Self::BAD_REQUEST_SUBJECT => {
                ("CERTSRV_E_BAD_REQUESTSUBJECT", "The request subject name is invalid or too long.")
            }
            Self::BAD_REQUEST_STATUS => {
                ("CERTSRV_E_BAD_REQUESTSTATUS", "The request's current status does not allow this operation.")
            }
            Self::PROPERTY_EMPTY => ("CERTSRV_E_PROPERTY_EMPTY", "The requested property value is empty."),
            Self::TEMPLATE_DENIED => (
                "CERTSRV_E_TEMPLATE_DENIED",
                "The permissions on the certificate template do not allow the current user to enroll for this type of \
                 certificate.",
            ),
            Self::ADMIN_DENIED => (
                "CERTSRV_E_ADMIN_DENIED_REQUEST",
                "The request was denied by a certificate manager or CA administrator.",
            ),
            Self::UNSUPPORTED_CERT_TYPE => {
                ("CERTSRV_E_UNSUPPORTED_CERT_TYPE", "The requested certificate template is not supported by this CA.")
            }
            Self::NO_CERT_TYPE => {
                ("CERTSRV_E_NO_CERT_TYPE", "The request contains no certificate template information.")
            }
            Self::TEMPLATE_CONFLICT => {
                ("CERTSRV_E_TEMPLATE_CONFLICT", "The request contains conflicting template information.")
            }
            Self::BAD_RENEWAL_SUBJECT => {
                ("CERTSRV_E_BAD_RENEWAL_SUBJECT", "The request was made on behalf of a subject other than the caller.")
            }
            Self::SIGNATURE_COUNT => {
                ("CERTSRV_E_SIGNATURE_COUNT", "The request is missing one or more required valid signatures.")
            }
            Self::SUBJECT_DNS_REQUIRED => (
                "CERTSRV_E_SUBJECT_DNS_REQUIRED",
                "The DNS name is unavailable and cannot be added to the Subject Alternate name.",
            ),
            Self::KEY_LENGTH => (
                "CERTSRV_E_KEY_LENGTH",
                "The public key does not meet the minimum size required by the specified certificate template.",
            ),
            Self::EXPIRED => (
                "CERT_E_EXPIRED",
                "A required certificate is not within its validity period when verifying against the current system \
                 clock or the timestamp in the signed file.",
            ),
            Self::UNTRUSTED_ROOT => (
                "CERT_E_UNTRUSTEDROOT",
                "A certificate chain processed, but terminated in a root certificate which is not trusted by the trust \
                 provider.",
            ),
            _ => ("", ""),
        }
    }
}

impl fmt::Display for Hresult {
    /// As certificate services write it: text, code, and in parentheses the signed number and the name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:#010x} ({} {})", self.text(), self.0, self.signed(), self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_shown_as_windows_shows_them() {
        assert_eq!(Hresult::TEMPLATE_DENIED.signed(), -2_146_877_422);
        let text = Hresult::UNSUPPORTED_CERT_TYPE.to_string();
        assert!(text.ends_with("0x80094800 (-2146875392 CERTSRV_E_UNSUPPORTED_CERT_TYPE)"), "{text}");
        assert_eq!(Hresult(0x8000_0001).name(), "");
    }
}
