//! Certificate and key files: `sys/file/ssl-cert`, `sys/file/ssl-key`, and what they are by `sys/crypto`.

use std::{fmt, sync::Arc};

use aws_lc_rs::digest;
use rustls::{
    crypto::aws_lc_rs as provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::{CertifiedKey, SigningKey},
};
use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _, public_key::PublicKey,
};

use super::{
    answer::{Refusal, link},
    name,
};
use crate::tls::fingerprint;

/// What both kinds of files have.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) checksum: String,
    size: usize,
    source_path: String,
    created: OffsetDateTime,
    updated: OffsetDateTime,
    revision: u32,
}

/// A certificate, or several.
#[derive(Clone, Debug)]
pub(super) struct CertFile {
    pub(super) file: File,
    /// Leaf first.
    pub(super) chain: Vec<CertificateDer<'static>>,
    described: Map<String, Value>,
}

/// A private key.
#[derive(Clone)]
pub(super) struct KeyFile {
    pub(super) file: File,
    pub(super) signer: Arc<dyn SigningKey>,
    kind: &'static str,
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFile").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl File {
    fn new(content: &[u8], source_path: &str, now: OffsetDateTime, former: Option<&File>) -> Self {
        let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, content);
        Self {
            checksum: format!("SHA1:{}:{}", content.len(), hex(digest.as_ref(), "")),
            size: content.len(),
            source_path: source_path.to_owned(),
            created: former.map_or(now, |former| former.created),
            updated: now,
            revision: former.map_or(1, |former| former.revision + 1),
        }
    }

    fn describe(&self, kind: &str, name: &str) -> Map<String, Value> {
        let mut fields = name::fields(name);
        let time = |time: OffsetDateTime| time.format(&Rfc3339).unwrap_or_default();
        let more = json!({
            "kind": format!("tm:sys:file:{kind}:{kind}state"),
            "generation": self.revision,
            "selfLink": link(&format!("tm/sys/file/{kind}/{}", name::to_url(name))),
            "checksum": self.checksum,
            "createTime": time(self.created),
            "lastUpdateTime": time(self.updated),
            "createdBy": "admin",
            "updatedBy": "admin",
            "mode": 33_188,
            "revision": self.revision,
            "size": self.size,
            "sourcePath": self.source_path,
        });
        if let Value::Object(more) = more {
            fields.extend(more);
        }
        fields
    }
}

impl CertFile {
    /// Reads PEM. Strict: nothing but certificates, and lines that end in LF.
    pub(super) fn read(
        content: &[u8],
        source_path: &str,
        now: OffsetDateTime,
        former: Option<&CertFile>,
    ) -> Result<Self, Refusal> {
        let invalid = || Refusal::new(400, "01070712:3: Unable to validate certificate, the file is not a certificate");
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(content).collect::<Result<_, _>>().map_err(|_| invalid())?;
        let leaf = chain.first().ok_or_else(invalid)?;
        if content.contains(&b'\r') || !only_certificates(content) {
            return Err(invalid());
        }
        let described = describe(leaf, chain.len()).ok_or_else(invalid)?;
        Ok(Self { file: File::new(content, source_path, now, former.map(|former| &former.file)), chain, described })
    }

    pub(super) fn show(&self, name: &str) -> Value {
        let mut fields = self.file.describe("ssl-cert", name);
        fields.extend(self.described.clone());
        Value::Object(fields)
    }

    /// SHA-256 of the leaf, lower-case hex.
    pub(super) fn fingerprint(&self) -> String {
        self.chain.first().map(|leaf| fingerprint(leaf)).unwrap_or_default()
    }
}

impl KeyFile {
    /// Reads PEM in any of the usual encodings, but not encrypted.
    pub(super) fn read(
        content: &[u8],
        source_path: &str,
        now: OffsetDateTime,
        former: Option<&KeyFile>,
    ) -> Result<Self, Refusal> {
        let invalid = || Refusal::new(400, "01071ac9:3: Unable to validate key, the file or its passphrase is wrong");
        let key = PrivateKeyDer::from_pem_slice(content).map_err(|_| invalid())?;
        let signer = provider::default_provider().key_provider.load_private_key(key).map_err(|_| invalid())?;
        let kind = match signer.algorithm() {
            rustls::SignatureAlgorithm::RSA => "rsa-private",
            rustls::SignatureAlgorithm::ECDSA => "ec-private",
            _ => return Err(invalid()),
        };
        Ok(Self { file: File::new(content, source_path, now, former.map(|former| &former.file)), signer, kind })
    }

    pub(super) fn show(&self, name: &str) -> Value {
        let mut fields = self.file.describe("ssl-key", name);
        fields.insert("keyType".to_owned(), json!(self.kind));
        fields.insert("securityType".to_owned(), json!("normal"));
        Value::Object(fields)
    }
}

/// A certificate with its key and further certificates, as TLS needs it; `None` when they do not belong together.
pub(super) fn pair(cert: &CertFile, key: &KeyFile, chain: Option<&CertFile>) -> Option<CertifiedKey> {
    let mut certificates = cert.chain.clone();
    certificates.extend(chain.iter().flat_map(|chain| chain.chain.clone()));
    let pair = CertifiedKey::new(certificates, Arc::clone(&key.signer));
    pair.keys_match().is_ok().then_some(pair)
}

/// Whether there is nothing but PEM blocks of certificates.
fn only_certificates(content: &[u8]) -> bool {
    let mut inside = false;
    for line in content.split(|byte| *byte == b'\n') {
        match line {
            b"-----BEGIN CERTIFICATE-----" => inside = true,
            b"-----END CERTIFICATE-----" => inside = false,
            b"" => {}
            _ if inside => {}
            _ => return false,
        }
    }
    !inside
}

fn describe(leaf: &CertificateDer<'_>, certificates: usize) -> Option<Map<String, Value>> {
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let (kind, size) = match parsed.public_key().parsed().ok()? {
        PublicKey::RSA(key) => ("rsa-public", key.key_size()),
        PublicKey::EC(point) => ("ec-public", point.key_size()),
        _ => return None,
    };
    let names = parsed.subject_alternative_name().ok().flatten().map(|names| {
        let names = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(format!("DNS:{name}")),
            _ => None,
        });
        names.collect::<Vec<_>>().join(", ")
    });
    let until = parsed.validity().not_after.to_datetime();
    let digest = digest::digest(&digest::SHA256, leaf);
    let described = json!({
        "certificateKeySize": size,
        "expirationDate": until.unix_timestamp(),
        "expirationString": parsed.validity().not_after.to_string(),
        "fingerprint": format!("SHA256/{}", hex(digest.as_ref(), ":").to_uppercase()),
        "isBundle": if certificates > 1 { "true" } else { "false" },
        "issuer": parsed.issuer().to_string(),
        "keyType": kind,
        "serialNumber": hex(parsed.raw_serial(), ":"),
        "subject": parsed.subject().to_string(),
        "subjectAlternativeName": names.unwrap_or_default(),
        "version": 3,
    });
    match described {
        Value::Object(described) => Some(described),
        _ => None,
    }
}

fn hex(bytes: &[u8], between: &str) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(between)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::TestCa;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    #[test]
    fn certificates_are_described_and_garbage_is_refused() {
        let issued = TestCa::new("root").unwrap().issue(&["shop.example"]).unwrap();
        let file = CertFile::read(issued.certificate_pem.as_bytes(), "file:/x", NOW, None).unwrap();
        assert_eq!(file.fingerprint(), issued.fingerprint);
        let shown = file.show("/Common/shop.crt");
        assert_eq!(shown["fullPath"], "/Common/shop.crt");
        assert!(shown["checksum"].as_str().unwrap().starts_with(&format!("SHA1:{}:", issued.certificate_pem.len())));
        assert_eq!((&shown["keyType"], &shown["isBundle"]), (&json!("ec-public"), &json!("false")));
        assert_eq!(shown["subjectAlternativeName"], "DNS:shop.example");
        let with_garbage = format!("{}garbage\n", issued.certificate_pem);
        let with_crlf = issued.certificate_pem.replace('\n', "\r\n");
        for bad in [with_garbage.as_str(), with_crlf.as_str(), "", &issued.key_pem] {
            let refusal = CertFile::read(bad.as_bytes(), "file:/x", NOW, None).unwrap_err();
            assert!(refusal.message.starts_with("01070712:3:"), "{bad}");
        }
        assert!(KeyFile::read(issued.certificate_pem.as_bytes(), "file:/x", NOW, None).is_err());
    }

    #[test]
    fn a_key_belongs_to_its_certificate_only() {
        let ca = TestCa::new("root").unwrap();
        let (one, two) = (ca.issue(&["a.example"]).unwrap(), ca.issue(&["a.example"]).unwrap());
        let cert = CertFile::read(one.certificate_pem.as_bytes(), "file:/x", NOW, None).unwrap();
        let key = |pem: &str| KeyFile::read(pem.as_bytes(), "file:/x", NOW, None).unwrap();
        assert!(pair(&cert, &key(&one.key_pem), None).is_some());
        assert!(pair(&cert, &key(&two.key_pem), None).is_none());
        assert!(!format!("{:?}", key(&one.key_pem)).contains("PRIVATE"));
    }
}
