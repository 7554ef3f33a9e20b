//! Signed messages (CMS, RFC 5652): renewals that the former certificate signs, and the answers that carry chains.

use aws_lc_rs::digest;
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use super::{
    hresult::Hresult,
    signature::{self, Hash},
};
use crate::der::{self, Reader, integer, oid, sequence, set, wrap};

const DATA: &str = "1.2.840.113549.1.7.1";
const SIGNED_DATA: &str = "1.2.840.113549.1.7.2";
const CONTENT_TYPE: &str = "1.2.840.113549.1.9.3";
const MESSAGE_DIGEST: &str = "1.2.840.113549.1.9.4";
/// `id-cct-PKIData`: a request of CMC (RFC 5272).
const PKI_DATA: &str = "1.3.6.1.5.5.7.12.2";
/// `id-cct-PKIResponse`: an answer of CMC.
const PKI_RESPONSE: &str = "1.3.6.1.5.5.7.12.3";
/// `id-cmc-statusInfo`.
const STATUS_INFO: &str = "1.3.6.1.5.5.7.7.1";

/// How a request stands, in the words of CMC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Success = 0,
    Pending = 3,
}

/// A request that somebody has signed.
#[derive(Debug)]
pub(super) struct Opened {
    /// The PKCS#10 within, DER.
    pub(super) request: Vec<u8>,
    /// The certificate of the signer, DER.
    pub(super) signer: Vec<u8>,
}

/// Whether these bytes are a signed message, whatever it holds.
pub(super) fn is_signed(message: &[u8]) -> bool {
    Reader(message).next(0x30).and_then(|content| Reader(content).next(0x06)).map(der::dotted).as_deref()
        == Some(SIGNED_DATA)
}

/// Opens a renewal and checks its signature. Who issued the signer's certificate is for the caller to judge.
pub(super) fn open(message: &[u8]) -> Result<Opened, Hresult> {
    let parsed = Message::parse(message).ok_or(Hresult::ASN1_BAD_TAG)?;
    let (_, signer) = X509Certificate::from_der(parsed.signer).map_err(|_| Hresult::ASN1_BAD_TAG)?;
    parsed.verify(&signer).ok_or(Hresult::BAD_SIGNATURE)?;
    let request = match parsed.content_type.as_str() {
        DATA => Some(parsed.content.to_vec()),
        PKI_DATA => within(parsed.content),
        _ => None,
    };
    Ok(Opened { request: request.ok_or(Hresult::ASN1_BAD_TAG)?, signer: parsed.signer.to_vec() })
}

/// The PKCS#10 in a request of CMC.
fn within(data: &[u8]) -> Option<Vec<u8>> {
    let mut parts = Reader(Reader(data).next(0x30)?);
    parts.next(0x30)?;
    let mut tagged = Reader(Reader(parts.next(0x30)?).next(0xa0)?);
    tagged.next(0x02)?;
    tagged.whole().map(|(_, request)| request.to_vec())
}

/// What matters of a message with one signer.
struct Message<'a> {
    content_type: String,
    content: &'a [u8],
    signer: &'a [u8],
    digest: String,
    /// The content of the signed attributes.
    attributes: Option<&'a [u8]>,
    signature: &'a [u8],
}

impl<'a> Message<'a> {
    fn parse(message: &'a [u8]) -> Option<Self> {
        let mut outer = Reader(Reader(message).next(0x30)?);
        if der::dotted(outer.next(0x06)?) != SIGNED_DATA {
            return None;
        }
        let mut data = Reader(Reader(outer.next(0xa0)?).next(0x30)?);
        data.next(0x02)?;
        data.next(0x31)?;
        let mut inner = Reader(data.next(0x30)?);
        let content_type = der::dotted(inner.next(0x06)?);
        let content = Reader(inner.next(0xa0)?).next(0x04)?;
        let certificates = data.next(0xa0)?;
        data.next(0xa1);
        let mut info = Reader(Reader(data.next(0x31)?).next(0x30)?);
        info.next(0x02)?;
        let signer = find(certificates, info.next(0x30)?)?;
        let digest = der::dotted(Reader(info.next(0x30)?).next(0x06)?);
        let attributes = info.next(0xa0);
        // The key and the hash say all that this says.
        info.next(0x30)?;
        let signature = info.next(0x04)?;
        Some(Self { content_type, content, signer, digest, attributes, signature })
    }

    /// `Some` when the signature is the signer's and over this content.
    fn verify(&self, signer: &X509Certificate<'_>) -> Option<()> {
        let hash = Hash::of(&self.digest)?;
        let Some(attributes) = self.attributes else {
            return signature::verify(signer.public_key(), hash, self.content, self.signature);
        };
        let algorithm = match hash {
            Hash::Sha256 => &digest::SHA256,
            Hash::Sha384 => &digest::SHA384,
            Hash::Sha512 => &digest::SHA512,
        };
        let computed = wrap(0x04, digest::digest(algorithm, self.content).as_ref());
        if attribute(attributes, MESSAGE_DIGEST)? != computed
            || attribute(attributes, CONTENT_TYPE)? != oid(&self.content_type)
        {
            return None;
        }
        // They are signed as the set that they are, not as the tagged field.
        signature::verify(signer.public_key(), hash, &wrap(0x31, attributes), self.signature)
    }
}

/// The certificate with this issuer and serial number.
fn find<'a>(certificates: &'a [u8], identity: &[u8]) -> Option<&'a [u8]> {
    let mut wanted = Reader(identity);
    let (_, issuer) = wanted.whole()?;
    let serial = wanted.next(0x02)?;
    let mut all = Reader(certificates);
    while let Some((_, certificate)) = all.whole() {
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { continue };
        if parsed.issuer().as_raw() == issuer && parsed.raw_serial() == serial {
            return Some(certificate);
        }
    }
    None
}

/// The one value of an attribute among these, as it is encoded.
pub(super) fn attribute<'a>(attributes: &'a [u8], wanted: &str) -> Option<&'a [u8]> {
    let mut all = Reader(attributes);
    while let Some(attribute) = all.next(0x30) {
        let mut attribute = Reader(attribute);
        if der::dotted(attribute.next(0x06)?) == wanted {
            return Reader(attribute.next(0x31)?).whole().map(|(_, value)| value);
        }
    }
    None
}

/// Certificates and nothing else: what files with the ending `p7b` hold.
pub(super) fn certificates_only(certificates: &[&[u8]]) -> Vec<u8> {
    signed_data(&sequence(&[&oid(DATA)]), 1, certificates)
}

/// What the enrolment service answers with: how a request stands, and the chain of what was issued.
pub(super) fn full_response(status: Status, request_id: u32, text: &str, certificates: &[&[u8]]) -> Vec<u8> {
    let mut info = vec![integer(status as u64), sequence(&[&integer(1)]), wrap(0x0c, text.as_bytes())];
    if status == Status::Pending {
        // PendInfo: the token by which to ask, and when. There is no telling when.
        let time = wrap(0x18, b"20990101000000Z");
        info.push(sequence(&[&wrap(0x04, &request_id.to_le_bytes()), &time]));
    }
    let info: Vec<&[u8]> = info.iter().map(Vec::as_slice).collect();
    let control = sequence(&[&integer(2), &oid(STATUS_INFO), &set(&[&sequence(&info)])]);
    let response = sequence(&[&sequence(&[&control]), &sequence(&[]), &sequence(&[])]);
    let content = sequence(&[&oid(PKI_RESPONSE), &wrap(0xa0, &wrap(0x04, &response))]);
    signed_data(&content, 3, certificates)
}

fn signed_data(content: &[u8], version: u64, certificates: &[&[u8]]) -> Vec<u8> {
    let mut data = vec![integer(version), set(&[]), content.to_vec()];
    if !certificates.is_empty() {
        data.push(wrap(0xa0, &certificates.concat()));
    }
    data.push(set(&[]));
    let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    sequence(&[&oid(SIGNED_DATA), &wrap(0xa0, &sequence(&data))])
}
