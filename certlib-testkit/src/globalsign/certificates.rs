//! Certificates: issuing, reading, revoking.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
    VerificationAlgorithm,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use time::OffsetDateTime;
use x509_parser::{prelude::FromDer as _, x509::SubjectPublicKeyInfo};

use super::{
    answer::{Answer, Outcome, Refusal},
    login::object,
    policy,
    state::State,
};
use crate::{
    api::Call,
    pki::{CertificateRequest, KeyInfo, Subject, Terms},
};

/// What a revocation may be for.
const REASONS: [&str; 6] =
    ["unspecified", "affiliationChanged", "keyCompromise", "superseded", "cessationOfOperation", "privilegeWithdrawn"];

/// A certificate, issued or soon to be.
#[derive(Debug)]
pub(super) struct Certificate {
    pub(super) pem: String,
    pub(super) issued: OffsetDateTime,
    pub(super) from: OffsetDateTime,
    pub(super) till: OffsetDateTime,
    pub(super) revoked: Option<OffsetDateTime>,
    pub(super) reason: Option<String>,
    /// How many more looks see nothing.
    looks: u32,
    /// Whether it will never be seen.
    lost: bool,
}

/// The key of a request, in one of two forms.
enum Key {
    Request(CertificateRequest),
    Public(Vec<u8>, KeyInfo),
}

impl State {
    /// `POST /certificates`.
    pub(super) fn request(&mut self, call: &Call) -> Outcome {
        let body = object(call)?;
        policy::check(&self.policy, &body)?;
        let key = self.key(&body)?;
        let now = self.clock.now();
        let (from, till) = policy::validity(&self.policy, &body, now)?;
        let names = names(&body);
        if self.settings.needs_claims
            && let Some(name) = names.iter().find(|name| !self.claims(name))
        {
            return Err(Refusal::unfit(format!("{name}: no verified claim covers it")));
        }
        if self.quota == 0 {
            return Err(Refusal::new(self.settings.quota_status, "the issuance quota is exhausted"));
        }
        let terms = Terms {
            common_name: body["subject_dn"]["common_name"].as_str().map(str::to_owned),
            names: Some(names),
            not_before: Some(from),
            not_after: Some(till),
            purposes: purposes(&body),
            ..Terms::default()
        };
        let subject = match &key {
            Key::Request(request) => Subject::Request(&request.der),
            Key::Public(der, _) => Subject::Key(der),
        };
        let signed = self.intermediate.sign_with(subject, &terms, self.course.flaw);
        let signed = signed.map_err(|error| Refusal::unfit(error.to_string()))?;
        self.quota -= 1;
        let certificate = Certificate {
            pem: signed.certificate_pem,
            issued: now,
            from,
            till,
            revoked: None,
            reason: None,
            looks: self.course.looks,
            lost: self.course.lost,
        };
        self.certificates.insert(signed.serial.clone(), certificate);
        Ok(Answer::created(self.place(call, &format!("certificates/{}", signed.serial)), None))
    }

    fn key(&self, body: &Value) -> Result<Key, Refusal> {
        let text = body["public_key"].as_str().ok_or_else(|| Refusal::unfit("public_key: required"))?;
        let signature = body["public_key_signature"].as_str();
        let key = if self.policy["public_key"]["key_format"] == "PKCS8" {
            let signature = signature.ok_or_else(|| Refusal::unfit("public_key_signature: required"))?;
            public_key(text, signature)?
        } else {
            if signature.is_some() {
                return Err(Refusal::unfit("public_key_signature: forbidden by validation policy"));
            }
            let request = CertificateRequest::read(text).ok().filter(|_| text.contains("-----BEGIN"));
            Key::Request(request.ok_or_else(|| Refusal::unfit("public_key: not a PKCS#10 request in PEM"))?)
        };
        policy::check_key(
            &self.policy,
            match &key {
                Key::Request(request) => request.key,
                Key::Public(_, info) => *info,
            },
        )?;
        Ok(key)
    }

    /// `GET /certificates/{serial}`: a look.
    pub(super) fn read(&mut self, serial: &str) -> Outcome {
        let certificate = self.certificate(serial)?;
        if certificate.looks > 0 {
            certificate.looks -= 1;
            return Ok(Answer::empty(202));
        }
        if certificate.lost {
            return Err(Refusal::absent("certificate"));
        }
        let updated = certificate.revoked.unwrap_or(certificate.issued);
        Ok(Answer::ok(json!({
            "certificate": certificate.pem,
            "status": if certificate.revoked.is_some() { "REVOKED" } else { "ISSUED" },
            "updated_at": updated.unix_timestamp(),
        })))
    }

    /// `PATCH /certificates/{serial}`, and `DELETE`, the older form of it without a body.
    pub(super) fn revoke(&mut self, serial: &str, call: &Call) -> Outcome {
        let body = object(call)?;
        let reason = body["revocation_reason"].as_str().unwrap_or("unspecified").to_owned();
        if !REASONS.contains(&reason.as_str()) {
            return Err(Refusal::unfit("revocation_reason: not one of those allowed"));
        }
        let now = self.clock.now();
        let at = match &body["revocation_time"] {
            Value::Null => now,
            time => {
                let time = time.as_i64().and_then(|time| OffsetDateTime::from_unix_timestamp(time).ok());
                time.ok_or_else(|| Refusal::new(400, "revocation_time: not a time"))?
            }
        };
        let certificate = self.certificate(serial)?;
        if certificate.looks > 0 || certificate.lost {
            return Err(Refusal::absent("certificate"));
        }
        if certificate.revoked.is_some() {
            return Err(Refusal::unfit("the certificate is revoked already"));
        }
        (certificate.revoked, certificate.reason) = (Some(at), Some(reason));
        Ok(Answer::empty(204))
    }

    fn certificate(&mut self, serial: &str) -> Result<&mut Certificate, Refusal> {
        self.certificates.get_mut(&serial.to_ascii_uppercase()).ok_or_else(|| Refusal::absent("certificate"))
    }

    /// `GET /trustchain`: the issuing authority and those above it.
    pub(super) fn trust_chain(&self) -> Outcome {
        Ok(Answer::ok(json!([self.intermediate.certificate_pem(), self.root.certificate_pem()])))
    }
}

/// A public key, and the proof that whoever asks has the private one.
fn public_key(text: &str, signature: &str) -> Result<Key, Refusal> {
    let wrong = || Refusal::unfit("public_key: not a public key in PEM without a line feed at the end");
    let parsed = pem::parse(text).ok().filter(|parsed| parsed.tag() == "PUBLIC KEY" && !text.ends_with('\n'));
    let der = parsed.ok_or_else(wrong)?.into_contents();
    let (_, key) = SubjectPublicKeyInfo::from_der(&der).map_err(|_| wrong())?;
    let info = KeyInfo::of(&key);
    let algorithm: &dyn VerificationAlgorithm = match (info.algorithm, info.bits) {
        ("RSA", _) => &RSA_PKCS1_2048_8192_SHA256,
        ("ECDSA", 256) => &ECDSA_P256_SHA256_ASN1,
        ("ECDSA", 384) => &ECDSA_P384_SHA256_ASN1,
        _ => return Err(wrong()),
    };
    let signature = STANDARD.decode(signature).map_err(|_| Refusal::unfit("public_key_signature: not base64"))?;
    UnparsedPublicKey::new(algorithm, &key.subject_public_key.data)
        .verify(&der, &signature)
        .map_err(|_| Refusal::unfit("public_key_signature: wrong"))?;
    Ok(Key::Public(der, info))
}

fn names(body: &Value) -> Vec<String> {
    let lists = ["dns_names", "ip_addresses"].map(|name| body["san"][name].as_array());
    lists.into_iter().flatten().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn purposes(body: &Value) -> Vec<rcgen::ExtendedKeyUsagePurpose> {
    let all = body["extended_key_usages"].as_array().into_iter().flatten().filter_map(Value::as_str);
    all.filter_map(|purpose| match purpose {
        "1.3.6.1.5.5.7.3.1" => Some(rcgen::ExtendedKeyUsagePurpose::ServerAuth),
        "1.3.6.1.5.5.7.3.2" => Some(rcgen::ExtendedKeyUsagePurpose::ClientAuth),
        _ => None,
    })
    .collect()
}
