//! Certificate templates: what may be requested, by whom, and what becomes of it.

use std::{collections::BTreeSet, time::Duration};

/// A day.
const DAY: Duration = Duration::from_secs(86_400);

/// A kind of key that a request may bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum KeyAlgorithm {
    /// RSA, of the template's minimal length or longer.
    Rsa,
    /// ECDSA on the curve P-256.
    EcdsaP256,
    /// ECDSA on the curve P-384.
    EcdsaP384,
}

impl KeyAlgorithm {
    /// The object identifier that a policy names it by, and its name there.
    pub(super) fn oid(self) -> (&'static str, &'static str) {
        match self {
            Self::Rsa => ("1.2.840.113549.1.1.1", "RSA"),
            Self::EcdsaP256 => ("1.2.840.10045.3.1.7", "ECDSA_P256"),
            Self::EcdsaP384 => ("1.3.132.0.34", "ECDSA_P384"),
        }
    }
}

/// A certificate template. Made by [`Template::new`], and described by the methods that follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a template exists only once an authority has it"]
pub struct Template {
    pub(super) name: String,
    pub(super) oid: String,
    pub(super) schema: u32,
    pub(super) version: (u32, u32),
    pub(super) manager_approval: bool,
    pub(super) renews_without_approval: bool,
    pub(super) minimal_key_length: u32,
    pub(super) algorithms: Vec<KeyAlgorithm>,
    pub(super) validity: Duration,
    pub(super) renewal_period: Duration,
    pub(super) purposes: Vec<String>,
    pub(super) subject_from_directory: bool,
    pub(super) signatures: u32,
    /// Who may enrol, lower case; everybody if there is no list.
    pub(super) enrollers: Option<BTreeSet<String>>,
}

impl Template {
    /// A template for servers: names from the request, RSA from 2048 bits, P-256 or P-384, two years, for everybody and
    /// at once. Its object identifier is made from its name.
    pub fn new(name: &str) -> Self {
        let number = name.bytes().fold(17_u32, |number, byte| number.wrapping_mul(31).wrapping_add(byte.into()));
        Self {
            name: name.to_owned(),
            oid: format!("1.3.6.1.4.1.311.21.8.1000.2000.{}", number % 16_777_216),
            schema: 2,
            version: (100, 1),
            manager_approval: false,
            renews_without_approval: false,
            minimal_key_length: 2048,
            algorithms: vec![KeyAlgorithm::Rsa, KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384],
            validity: DAY * 730,
            renewal_period: DAY * 42,
            purposes: vec!["1.3.6.1.5.5.7.3.1".to_owned()],
            subject_from_directory: false,
            signatures: 0,
            enrollers: None,
        }
    }

    /// Its object identifier, with dots.
    pub fn oid(mut self, oid: &str) -> Self {
        oid.clone_into(&mut self.oid);
        self
    }

    /// Its major and minor version; 100.1 unless told otherwise.
    pub fn version(mut self, major: u32, minor: u32) -> Self {
        self.version = (major, minor);
        self
    }

    /// Its schema, 1 to 4; 2 unless told otherwise.
    pub fn schema(mut self, schema: u32) -> Self {
        self.schema = schema;
        self
    }

    /// Requests wait for a manager: [`AdcsSim::approve`](super::AdcsSim::approve) or [`deny`](super::AdcsSim::deny).
    pub fn manager_approval(mut self) -> Self {
        self.manager_approval = true;
        self
    }

    /// A renewal that the former certificate signs does not wait for a manager ("valid existing certificate").
    pub fn renews_without_approval(mut self) -> Self {
        self.renews_without_approval = true;
        self
    }

    /// How many bits an RSA key needs; 2048 unless told otherwise. Below that no certificate can be made anyway, which
    /// is [`Hresult::KEY_LENGTH`](super::Hresult::KEY_LENGTH) as well.
    pub fn minimal_key_length(mut self, bits: u32) -> Self {
        self.minimal_key_length = bits;
        self
    }

    /// Which kinds of keys it takes. A policy shows the first, as Windows knows one for a template.
    pub fn algorithms(mut self, algorithms: &[KeyAlgorithm]) -> Self {
        self.algorithms = algorithms.to_vec();
        self
    }

    /// How long its certificates are valid; 730 days unless told otherwise.
    pub fn validity(mut self, validity: Duration) -> Self {
        self.validity = validity;
        self
    }

    /// How long before their end a policy says to renew them; 42 days unless told otherwise.
    pub fn renewal_period(mut self, period: Duration) -> Self {
        self.renewal_period = period;
        self
    }

    /// The extended key usages of its certificates, by object identifier; server authentication unless told otherwise.
    pub fn purposes(mut self, oids: &[&str]) -> Self {
        self.purposes = oids.iter().map(|oid| (*oid).to_owned()).collect();
        self
    }

    /// The names come from the directory, and those of the request do not count: the caller's DNS name, `user.domain`.
    pub fn subject_from_directory(mut self) -> Self {
        self.subject_from_directory = true;
        self
    }

    /// It wants so many signatures of enrolment agents, which a plain request never has.
    pub fn signatures(mut self, signatures: u32) -> Self {
        self.signatures = signatures;
        self
    }

    /// Only these users may enrol; everybody may unless told otherwise.
    pub fn only_for(mut self, users: &[&str]) -> Self {
        self.enrollers = Some(users.iter().map(|user| user.to_lowercase()).collect());
        self
    }

    /// Its name, as requests write it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a user may enrol.
    pub(super) fn admits(&self, user: &str) -> bool {
        self.enrollers.as_ref().is_none_or(|users| users.contains(&user.to_lowercase()))
    }
}
