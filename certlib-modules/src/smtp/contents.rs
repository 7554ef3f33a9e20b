//! What is attached to a message.

use certlib_core::bundle::{CertificateBundle, Pkcs12Profile, pkcs12};
use certlib_core::error::{Error, Result};
use certlib_core::secret::{Secret, SecretBytes};
use serde::{Deserialize, Serialize};

use super::OPERATION;
use super::address;
use super::config::{Security, SmtpConfig, SmtpCredentials};

/// The most attachments of one message.
const MOST_ATTACHMENTS: usize = 8;
/// The longest file name, in bytes.
const LONGEST_FILE_NAME: usize = 128;
/// The shortest password of a PKCS#12 container: whoever gets hold of the message can try passwords at leisure.
const SHORTEST_PASSWORD: usize = 12;

/// A file that goes with the message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Attachment {
    /// What is in it.
    pub content: Content,
    /// Its name; by default the certificate's first name, with an ending that fits.
    pub file_name: Option<String>,
}

/// What is in an attachment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Content {
    /// The leaf, PEM.
    Certificate,
    /// Leaf and issuers, PEM.
    #[default]
    Fullchain,
    /// Leaf, issuers and private key, PEM. Needs `include_private_key` and `allow_unencrypted_key`.
    Combined,
    /// Leaf, issuers and private key as PKCS#12, with AES-256 and HMAC-SHA-256. Needs `include_private_key`, and
    /// `pkcs12_password` in the credential.
    Pkcs12,
}

impl Content {
    pub(super) fn has_key(self) -> bool {
        matches!(self, Self::Combined | Self::Pkcs12)
    }

    fn ending(self) -> &'static str {
        match self {
            Self::Certificate => ".crt.pem",
            Self::Fullchain => ".pem",
            Self::Combined => ".key.pem",
            Self::Pkcs12 => ".p12",
        }
    }

    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Certificate | Self::Fullchain | Self::Combined => "application/x-pem-file",
            Self::Pkcs12 => "application/x-pkcs12",
        }
    }
}

/// An attachment that is ready to be sent.
#[derive(Debug)]
pub(super) struct File {
    pub(super) content: Content,
    pub(super) name: String,
    pub(super) bytes: SecretBytes,
}

/// Checks what may be attached, and agreed to.
///
/// # Errors
/// `Validation`: `attachment_invalid`, `header_invalid`, `key_consent_missing`, `key_needs_encryption`,
/// `unencrypted_key_refused`, `pkcs12_password_missing`, `pkcs12_password_weak`.
pub(super) fn check(security: Security, config: &SmtpConfig, credentials: Option<&SmtpCredentials>) -> Result<()> {
    let refused = |code: &'static str, why: &'static str| Err(Error::validation(OPERATION, code, why));
    let attachments = &config.attachments;
    if !(1..=MOST_ATTACHMENTS).contains(&attachments.len()) {
        return refused("attachment_invalid", "a message has from 1 to 8 attachments");
    }
    for (at, attachment) in attachments.iter().enumerate() {
        let Some(name) = &attachment.file_name else { continue };
        let field = format!("attachments[{at}].file_name");
        address::header_text(&field, name)?;
        let plain = !name.is_empty()
            && name.len() <= LONGEST_FILE_NAME
            && !name.starts_with('.')
            && !name.contains(['/', '\\', ':', '"', '<', '>', '|', '?', '*'])
            && name.trim() == name;
        if !plain {
            return Err(Error::validation(
                OPERATION,
                "attachment_invalid",
                "a file name is not a path, and has no quotes",
            )
            .with("field", field));
        }
    }
    let contents = || attachments.iter().map(|attachment| attachment.content);
    if !contents().any(Content::has_key) {
        return Ok(());
    }
    if !config.include_private_key {
        return refused("key_consent_missing", "an attachment holds the private key: agree with `include_private_key`");
    }
    if security == Security::None {
        return refused("key_needs_encryption", "a private key is sent over encrypted connections only");
    }
    if contents().any(|content| content == Content::Combined) && !config.allow_unencrypted_key {
        return refused(
            "unencrypted_key_refused",
            "mailboxes keep what they get: send the key as `pkcs12`, or agree with `allow_unencrypted_key` too",
        );
    }
    if contents().any(|content| content == Content::Pkcs12) {
        let password = credentials.and_then(|credentials| credentials.pkcs12_password.as_ref());
        let Some(password) = password else {
            return refused("pkcs12_password_missing", "PKCS#12 needs `pkcs12_password` in the credential");
        };
        if password.expose().chars().count() < SHORTEST_PASSWORD {
            return refused("pkcs12_password_weak", "`pkcs12_password` has at least 12 characters");
        }
    }
    Ok(())
}

/// The attachments of `bundle`. Settings are taken as checked.
///
/// # Errors
/// `Validation`: `key_missing`, `pfx_failed`.
pub(super) fn files(
    config: &SmtpConfig,
    credentials: Option<&SmtpCredentials>,
    bundle: &CertificateBundle,
) -> Result<Vec<File>> {
    let file = |attachment: &Attachment| {
        let content = attachment.content;
        let bytes = match content {
            Content::Certificate => Secret::new(bundle.leaf_pem().into_bytes()),
            Content::Fullchain => Secret::new(bundle.fullchain_pem().into_bytes()),
            Content::Combined => {
                let (certificates, key) = (bundle.fullchain_pem(), bundle.key_pem()?);
                // Exactly as large as needed, so that growing leaves no copy of the key behind.
                let mut bytes = Vec::with_capacity(certificates.len() + key.expose().len());
                bytes.extend_from_slice(certificates.as_bytes());
                bytes.extend_from_slice(key.expose().as_bytes());
                Secret::new(bytes)
            }
            Content::Pkcs12 => {
                let password = credentials.and_then(|credentials| credentials.pkcs12_password.as_ref());
                let password = password.ok_or_else(|| {
                    Error::validation(OPERATION, "pkcs12_password_missing", "PKCS#12 needs `pkcs12_password`")
                })?;
                pkcs12::encode(bundle, Pkcs12Profile::default(), None, password)?
            }
        };
        Ok(File { content, name: file_name(attachment, bundle), bytes })
    };
    config.attachments.iter().map(file).collect()
}

/// What a plan says about an attachment: nothing that differs from one rendering to the next.
pub(super) fn describe(attachment: &Attachment, bundle: &CertificateBundle) -> (String, String) {
    let count = bundle.certificates().len();
    let what = match attachment.content {
        Content::Certificate => format!("certificate, PEM, {} bytes", bundle.leaf_pem().len()),
        Content::Fullchain => format!("{count} certificates, PEM, {} bytes", bundle.fullchain_pem().len()),
        Content::Combined => format!("{count} certificates and the private key, PEM, not encrypted"),
        Content::Pkcs12 => format!("{count} certificates and the private key, PKCS#12, encrypted with AES-256"),
    };
    (file_name(attachment, bundle), format!("{what}, sha256:{}", bundle.fingerprint()))
}

fn file_name(attachment: &Attachment, bundle: &CertificateBundle) -> String {
    if let Some(name) = &attachment.file_name {
        return name.clone();
    }
    let name = bundle.leaf().names.first().map_or("certificate", String::as_str);
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '_' };
    // A wildcard's star is no part of a file name.
    let stem: String = name.chars().take(LONGEST_FILE_NAME - 16).map(safe).collect();
    let stem = stem.trim_start_matches('.');
    format!("{stem}{}", attachment.content.ending())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::testing;

    fn config(text: &str) -> SmtpConfig {
        serde_json::from_str(text).unwrap()
    }

    fn code(security: Security, config_text: &str, credentials: &str) -> Option<String> {
        let credentials: SmtpCredentials = serde_json::from_str(credentials).unwrap();
        check(security, &config(config_text), Some(&credentials)).err().map(|error| error.code().to_owned())
    }

    #[test]
    fn keys_leave_only_with_every_consent() {
        use Security::{None as Plain, Starttls, Tls};
        let password = r#"{"pkcs12_password": "correct horse"}"#;
        let combined = |more: &str| format!(r#"{{"attachments": [{{"content": "combined"}}]{more}}}"#);
        let pkcs12 = |more: &str| format!(r#"{{"attachments": [{{}}, {{"content": "pkcs12"}}]{more}}}"#);
        let (one, both) =
            (r#", "include_private_key": true"#, r#", "include_private_key": true, "allow_unencrypted_key": true"#);
        let second = r#", "allow_unencrypted_key": true"#;
        for (security, config, credentials, expected) in [
            (Plain, "{}".to_owned(), "{}", None),
            (Tls, combined(""), password, Some("key_consent_missing")),
            (Tls, combined(second), password, Some("key_consent_missing")),
            (Tls, combined(one), password, Some("unencrypted_key_refused")),
            (Plain, combined(both), password, Some("key_needs_encryption")),
            (Tls, combined(both), "{}", None),
            (Starttls, combined(both), "{}", None),
            (Starttls, pkcs12(""), password, Some("key_consent_missing")),
            (Starttls, pkcs12(one), "{}", Some("pkcs12_password_missing")),
            (Starttls, pkcs12(one), r#"{"pkcs12_password": "short"}"#, Some("pkcs12_password_weak")),
            (Plain, pkcs12(one), password, Some("key_needs_encryption")),
            (Starttls, pkcs12(one), password, None),
        ] {
            assert_eq!(
                code(security, &config, credentials).as_deref(),
                expected,
                "{security:?} {config} {credentials}"
            );
        }
    }

    #[test]
    fn file_names_are_names() {
        let named = |name: &str| {
            let name = serde_json::to_string(name).unwrap();
            code(Security::Tls, &format!(r#"{{"attachments": [{{"file_name": {name}}}]}}"#), "{}")
        };
        assert_eq!(named("zertifikat für web.pem"), None);
        for bad in ["", "../a", "a/b", "a\\b", "C:a", ".profile", " a", "a\"b", "a*"] {
            assert_eq!(named(bad).as_deref(), Some("attachment_invalid"), "{bad:?}");
        }
        for bad in ["a\r\nX: y", "a\0", "a\u{2028}", "exe\u{202e}mep.pem"] {
            assert_eq!(named(bad).as_deref(), Some("header_invalid"), "{bad:?}");
        }
        assert_eq!(code(Security::Tls, r#"{"attachments": []}"#, "{}").as_deref(), Some("attachment_invalid"));
    }

    #[test]
    fn names_of_wildcards_become_names_of_files() {
        let bundle = testing::bundle("*.a.test");
        let names: Vec<_> = [Content::Certificate, Content::Fullchain, Content::Combined, Content::Pkcs12]
            .map(|content| file_name(&Attachment { content, file_name: None }, &bundle))
            .into();
        assert_eq!(names, ["_.a.test.crt.pem", "_.a.test.pem", "_.a.test.key.pem", "_.a.test.p12"]);
    }
}
