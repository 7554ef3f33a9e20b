//! The authority itself: its certificates, and how it makes others.

use aws_lc_rs::digest;
use rcgen::{CustomExtension, ExtendedKeyUsagePurpose, KeyPair};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use time::{Duration, OffsetDateTime};

use super::{csr::Csr, hresult::Hresult, template::Template};
use crate::{
    Error, Result,
    der::{self, integer, oid, sequence, wrap},
    pki::{Signed, Terms, TestCa},
};

/// How far a certificate's beginning lies before its making, as the authority of Windows has it.
const BACKDATED: Duration = Duration::minutes(10);

/// `szOID_CERTIFICATE_TEMPLATE`.
const TEMPLATE: &str = "1.3.6.1.4.1.311.21.7";
/// `szOID_NTDS_CA_SECURITY_EXT`, and what it holds.
const SECURITY: [&str; 2] = ["1.3.6.1.4.1.311.25.2", "1.3.6.1.4.1.311.25.2.1"];

/// An issuing authority below a root.
#[derive(Debug)]
pub(super) struct Authority {
    root_pem: String,
    root: Vec<u8>,
    /// It, after each of its own renewals; the last one signs.
    generations: Vec<(TestCa, Vec<u8>)>,
    newest: usize,
}

/// What a certificate is to say.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    pub(super) common_name: Option<String>,
    pub(super) names: Option<Vec<String>>,
    /// Whose security identifier it holds.
    pub(super) user: Option<String>,
}

impl Authority {
    pub(super) fn new(name: &str, renewals: usize) -> Result<Self> {
        let root = TestCa::new(&format!("{name} root"))?;
        let mut generations = Vec::new();
        for _ in 0..=renewals {
            let authority = root.intermediate(name)?;
            let certificate = der_of(authority.certificate_pem())?;
            generations.push((authority, certificate));
        }
        let root_pem = root.certificate_pem().to_owned();
        Ok(Self { root: der_of(&root_pem)?, root_pem, newest: renewals, generations })
    }

    /// How often its own certificate was renewed.
    pub(super) fn renewals(&self) -> usize {
        self.newest
    }

    /// The root, PEM.
    pub(super) fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// Its certificate after so many renewals, DER.
    pub(super) fn certificate(&self, renewal: usize) -> Option<&[u8]> {
        self.generations.get(renewal).map(|(_, certificate)| certificate.as_slice())
    }

    /// The certificate that signs, PEM.
    pub(super) fn certificate_pem(&self) -> &str {
        self.generations.last().map_or("", |(authority, _)| authority.certificate_pem())
    }

    /// The authority after so many renewals, and the root, DER.
    pub(super) fn chain(&self, renewal: usize) -> Option<[&[u8]; 2]> {
        self.certificate(renewal).map(|certificate| [certificate, &self.root])
    }

    /// Makes a certificate. One that outlives the authority is possible: its clock is not the machine's.
    pub(super) fn sign(
        &self,
        csr: &[u8],
        template: &Template,
        contents: &Contents,
        now: OffsetDateTime,
    ) -> Result<Signed, Hresult> {
        let (major, minor) = template.version;
        let value = sequence(&[&oid(&template.oid), &integer(major.into()), &integer(minor.into())]);
        let mut extensions = vec![CustomExtension::from_oid_content(&der::arcs(TEMPLATE), value)];
        if let Some(user) = &contents.user {
            let text = wrap(0xa0, &wrap(0x04, security_identifier(user).as_bytes()));
            let value = sequence(&[&wrap(0xa0, &[oid(SECURITY[1]), text].concat())]);
            extensions.push(CustomExtension::from_oid_content(&der::arcs(SECURITY[0]), value));
        }
        let mut terms = Terms::default();
        terms.common_name.clone_from(&contents.common_name);
        terms.names.clone_from(&contents.names);
        terms.not_before = Some(now - BACKDATED);
        terms.not_after = Some(now - BACKDATED + template.validity);
        terms.purposes = template.purposes.iter().map(|oid| ExtendedKeyUsagePurpose::Other(der::arcs(oid))).collect();
        terms.extensions = extensions;
        let (authority, _) = self.generations.last().ok_or(Hresult::RPC_UNAVAILABLE)?;
        // It was read before: what is left is a key that cannot be put into a certificate.
        authority.sign(csr, &terms).map_err(|_| Hresult::KEY_LENGTH)
    }
}

/// Another request for the same names, with a key that nobody has.
pub(super) fn with_another_key(csr: &Csr) -> Option<Vec<u8>> {
    let params = rcgen::CertificateParams::new(csr.names.clone()).ok()?;
    params.serialize_request(&KeyPair::generate().ok()?).ok().map(|request| request.der().to_vec())
}

/// A security identifier, always the same for a name.
fn security_identifier(user: &str) -> String {
    let digest = digest::digest(&digest::SHA256, user.to_lowercase().as_bytes());
    let number = digest.as_ref().iter().take(3).fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
    format!("S-1-5-21-1004336348-1177238915-682003330-{}", 1_000 + number)
}

fn der_of(pem: &str) -> Result<Vec<u8>> {
    let read = CertificateDer::from_pem_slice(pem.as_bytes());
    read.map(|der| der.to_vec()).map_err(|error| Error::Crypto(error.to_string()))
}
