//! Fetching certificates, in the formats of the service.

use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::{
    answer::{Answer, Body, Outcome, Refusal},
    call::Call,
    order::Status,
    pkcs7,
    state::{ChainOrder, State},
};

impl State {
    pub(super) fn collect(&mut self, call: &Call, id: i64, format: &str) -> Outcome {
        let (code, order) = (self.not_ready_code, self.chain_order);
        self.poll(id)?;
        let entry = self.find_mut(id)?;
        match entry.status(call.now) {
            Status::Requested | Status::Declined | Status::Rejected => return Err(not_ready(-183)),
            Status::Revoked => {
                return Err(Refusal::bad(-110, "Certificate has been revoked and cannot be downloaded."));
            }
            Status::Issued if entry.lag > 0 => {
                entry.lag -= 1;
                return Err(not_ready(code));
            }
            Status::Applied | Status::Issued | Status::Expired => {}
        }
        // A replacement that is not there yet leaves the old certificate to be collected.
        let Some(certificate) = &entry.certificate else { return Err(not_ready(code)) };
        let (leaf, leaf_der) = (certificate.certificate_pem.clone(), certificate.certificate_der.clone());
        let (issuer, root) = (self.authority.issuing.certificate_pem(), self.authority.root.certificate_pem());
        let ordered = |usual: [&str; 3]| match order {
            ChainOrder::Usual => usual.concat(),
            ChainOrder::Shuffled => [issuer, &leaf, root].concat(),
        };
        let text = match format {
            "x509" => ordered([root, issuer, &leaf]),
            "x509R" | "pem" => ordered([&leaf, issuer, root]),
            "x509CO" | "pemco" => leaf,
            "x509IO" => [root, issuer].concat(),
            "x509IOR" => [issuer, root].concat(),
            "pemia" => [&leaf, issuer].concat(),
            "base64" | "bin" => {
                let (issuer, root) = (der(issuer), der(root));
                let bag: [&[u8]; 3] = [&issuer, &leaf_der, &root];
                return Ok(if format == "bin" {
                    raw("application/octet-stream", pkcs7::bag(&bag))
                } else {
                    raw("application/octet-stream", pkcs7::text(&bag).into_bytes())
                });
            }
            _ => {
                let why = format!("Unknown SSL certificate file format requested: {format}");
                return Err(Refusal::bad(-126, why));
            }
        };
        Ok(raw("application/octet-stream", text.into_bytes()))
    }
}

fn raw(content_type: &str, bytes: Vec<u8>) -> Answer {
    Answer::with(200, Body::Raw { content_type: content_type.to_owned(), bytes })
}

fn der(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map(|der| der.to_vec()).unwrap_or_default()
}

/// The refusal that means: come back later.
fn not_ready(code: i64) -> Refusal {
    let description = match code {
        -103 => "Certificate has not been collected yet.",
        -109 => "Certificate is not available now, please try again later.",
        -183 => "Certificate is not collectable.",
        -1400 => "The request is being processed by Sectigo.",
        _ => "Being processed by Sectigo",
    };
    Refusal::bad(code, description)
}
