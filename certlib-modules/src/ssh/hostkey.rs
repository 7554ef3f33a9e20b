//! Whether the host is the one that is meant, decided before anything is sent to it.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::{Error, Result};
use russh::keys::ssh_key::Fingerprint;
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Algorithm, Certificate, EcdsaCurve, HashAlg, PublicKey, PublicKeyOrCertificate};
use serde::Deserialize;
use time::OffsetDateTime;

/// The largest `known_hosts` text, in bytes.
const MAX_KNOWN_HOSTS: usize = 1024 * 1024;

const OPERATION: &str = "ssh.host_key";

/// How a host proves who it is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HostKey {
    /// The text of a `known_hosts` file: plain and hashed names, wildcards, `[host]:port`, `@cert-authority`,
    /// `@revoked`. A host that has no line in it is refused.
    KnownHosts(String),
    /// The fingerprint of its key, as `ssh-keygen -l` prints it: `SHA256:` and base64.
    Fingerprint(String),
    /// The public key (a line such as `ssh-ed25519 AAAA...`) of an authority that signs host certificates.
    HostCa(String),
    /// With `true`: whoever answers is believed. For laboratories; warns at every use.
    InsecureAcceptAny(bool),
}

impl HostKey {
    pub(super) fn check(&self) -> Result<()> {
        self.expectation("any.invalid", 22).map(drop)
    }

    /// What is expected of `host` at `port`.
    ///
    /// # Errors
    /// `Validation`: `known_hosts_invalid`, `fingerprint_invalid`, `host_ca_invalid`, `host_key_missing`.
    pub(super) fn expectation(&self, host: &str, port: u16) -> Result<Expectation> {
        let invalid = |code, message| Error::validation(OPERATION, code, message);
        let mut expected = Expectation { host: host.to_ascii_lowercase(), ..Expectation::default() };
        match self {
            Self::KnownHosts(text) => expected.read_known_hosts(text, port)?,
            Self::Fingerprint(text) => {
                let fingerprint: Fingerprint = text.trim().parse().map_err(|_| {
                    invalid("fingerprint_invalid", "not a fingerprint such as ssh-keygen -l prints: SHA256:...")
                })?;
                if !fingerprint.is_sha256() {
                    return Err(invalid("fingerprint_invalid", "only SHA-256 fingerprints are accepted"));
                }
                expected.pinned = Some(fingerprint);
            }
            Self::HostCa(line) => {
                let key = PublicKey::from_openssh(line.trim()).map_err(|_| {
                    invalid("host_ca_invalid", "not the public key of an authority, such as ssh-ed25519 AAAA...")
                })?;
                expected.authorities.push(key.key_data().clone());
            }
            Self::InsecureAcceptAny(true) => expected.accepts_any = true,
            Self::InsecureAcceptAny(false) => {
                return Err(invalid("host_key_missing", "say how the host proves who it is: known_hosts, for example"));
            }
        }
        Ok(expected)
    }
}

/// What is known about one host.
#[derive(Debug, Default, Clone)]
pub(super) struct Expectation {
    host: String,
    keys: Vec<KeyData>,
    authorities: Vec<KeyData>,
    revoked: Vec<KeyData>,
    pinned: Option<Fingerprint>,
    pub(super) accepts_any: bool,
}

impl Expectation {
    fn read_known_hosts(&mut self, text: &str, port: u16) -> Result<()> {
        let invalid =
            |line: usize, message| Error::validation(OPERATION, "known_hosts_invalid", message).with("line", line + 1);
        if text.len() > MAX_KNOWN_HOSTS {
            return Err(invalid(0, "the known_hosts text is larger than 1 MiB"));
        }
        let name = if port == 22 { self.host.clone() } else { format!("[{}]:{port}", self.host) };
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut fields = line.split_ascii_whitespace();
            let mut next = || fields.next().ok_or_else(|| invalid(number, "a line has too few fields"));
            let mut patterns = next()?;
            let mut marker = None;
            if patterns.starts_with('@') {
                marker = Some(patterns);
                patterns = next()?;
            }
            let (kind, key) = (next()?, next()?);
            let list = match marker {
                None => &mut self.keys,
                Some("@cert-authority") => &mut self.authorities,
                Some("@revoked") => &mut self.revoked,
                Some(_) => return Err(invalid(number, "a line has an unknown marker")),
            };
            if !matches_host(patterns, &name) {
                continue;
            }
            match PublicKey::from_openssh(&format!("{kind} {key}")) {
                Ok(key) => list.push(key.key_data().clone()),
                // A kind of key from the future cannot be offered either; a revocation must not get lost.
                Err(_) if marker != Some("@revoked") && Algorithm::new(kind).is_err() => {}
                Err(_) => return Err(invalid(number, "the key of this host cannot be read")),
            }
        }
        Ok(())
    }

    /// The key types to ask for, so that the host shows a key that is known. `without` are types that were shown
    /// already and were not the right ones.
    pub(super) fn algorithms(&self, without: &[Algorithm]) -> Vec<Algorithm> {
        let asks_for_all = self.accepts_any || self.pinned.is_some();
        all_algorithms()
            .into_iter()
            .filter(|algorithm| asks_for_all || self.keys.iter().any(|key| same_family(&key.algorithm(), algorithm)))
            .filter(|algorithm| !without.iter().any(|seen| same_family(seen, algorithm)))
            .collect()
    }

    /// The key types for which a host certificate is wanted.
    pub(super) fn certificate_algorithms(&self) -> Vec<Algorithm> {
        if self.authorities.is_empty() { Vec::new() } else { all_algorithms() }
    }

    /// Whether the host may have another key that would do.
    pub(super) fn is_pinned(&self) -> bool {
        self.pinned.is_some()
    }

    /// Fails when nothing at all is known about the host, so that it need not be asked.
    pub(super) fn require_knowledge(&self) -> Result<()> {
        if self.accepts_any || self.pinned.is_some() || !self.keys.is_empty() || !self.authorities.is_empty() {
            return Ok(());
        }
        Err(unknown("no line of known_hosts is for this host; a port other than 22 is written as [host]:port"))
    }

    /// The host has no key of a type that is known for it.
    pub(super) fn nothing_in_common(&self) -> Error {
        if self.keys.is_empty() && self.pinned.is_none() {
            return unknown("the host shows no certificate, and only certificates are accepted");
        }
        changed("the host has no key of the type that is known for it")
    }

    /// Judges what the host showed.
    ///
    /// # Errors
    /// `Auth`: `host_key_unknown`, `host_key_changed`, `host_key_revoked`, `host_certificate_invalid`.
    pub(super) fn judge(&self, shown: &PublicKeyOrCertificate, now: OffsetDateTime) -> Result<()> {
        let key = shown.public_key();
        let fingerprint = key.fingerprint(HashAlg::Sha256);
        let verdict = if self.accepts_any {
            Ok(())
        } else if self.revoked.iter().any(|revoked| revoked == key.key_data()) {
            Err(Error::auth(OPERATION, "host_key_revoked", "the host shows a key that was revoked"))
        } else if let Some(pinned) = &self.pinned {
            if *pinned == fingerprint { Ok(()) } else { Err(changed("the host shows another key than the pinned one")) }
        } else if let Some(certificate) = shown.certificate() {
            self.judge_certificate(certificate, now)
        } else if self.keys.iter().any(|known| known == key.key_data()) {
            Ok(())
        } else if self.keys.is_empty() {
            Err(unknown("the host shows a key that nothing is known about"))
        } else {
            Err(changed("the host shows another key than the known one: it was reinstalled, or this is another host"))
        };
        verdict.map_err(|error| error.with("shown", fingerprint))
    }

    fn judge_certificate(&self, certificate: &Certificate, now: OffsetDateTime) -> Result<()> {
        let invalid = |message| Err(Error::auth(OPERATION, "host_certificate_invalid", message));
        let authority = certificate.signature_key();
        if self.revoked.iter().any(|revoked| revoked == authority) {
            return Err(Error::auth(
                OPERATION,
                "host_key_revoked",
                "the authority of the host certificate was revoked",
            ));
        }
        if !self.authorities.iter().any(|trusted| trusted == authority) {
            return Err(unknown("the host certificate is from an authority that is not trusted"));
        }
        if certificate.cert_type() != CertType::Host {
            return invalid("this is a certificate for users, not for hosts");
        }
        let trusted = [authority.fingerprint(HashAlg::Sha256)];
        let seconds = u64::try_from(now.unix_timestamp()).unwrap_or(0);
        if certificate.validate_at(seconds, &trusted).is_err() {
            return invalid("the host certificate is not valid now, or its signature is wrong");
        }
        if !certificate.critical_options().is_empty() {
            return invalid("the host certificate has critical options, which are not understood");
        }
        let principals = certificate.valid_principals();
        if !principals.iter().any(|principal| glob(&principal.to_ascii_lowercase(), &self.host)) {
            return invalid("the host certificate is for another host");
        }
        Ok(())
    }
}

fn unknown(message: &str) -> Error {
    Error::auth(OPERATION, "host_key_unknown", message)
}

fn changed(message: &str) -> Error {
    Error::auth(OPERATION, "host_key_changed", message)
}

/// Every type accepted, strongest first; RSA with SHA-2 only.
fn all_algorithms() -> Vec<Algorithm> {
    vec![
        Algorithm::Ed25519,
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
        Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
        Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
    ]
}

/// Whether two algorithms are for the same type of key.
fn same_family(one: &Algorithm, other: &Algorithm) -> bool {
    one == other || matches!((one, other), (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }))
}

/// Whether the names of a line are for `host`: none of its `!patterns` and at least one other pattern matches.
fn matches_host(patterns: &str, host: &str) -> bool {
    let mut matched = false;
    for pattern in patterns.split(',') {
        if let Some(hashed) = pattern.strip_prefix("|1|") {
            matched |= matches_hash(hashed, host);
        } else if let Some(excluded) = pattern.strip_prefix('!') {
            if glob(&excluded.to_ascii_lowercase(), host) {
                return false;
            }
        } else {
            matched |= glob(&pattern.to_ascii_lowercase(), host);
        }
    }
    matched
}

/// `salt|hash`, both base64: HMAC-SHA-1 of the host's name.
fn matches_hash(hashed: &str, host: &str) -> bool {
    let Some((salt, hash)) = hashed.split_once('|') else { return false };
    let (Ok(salt), Ok(hash)) = (STANDARD.decode(salt), STANDARD.decode(hash)) else { return false };
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt);
    hmac::verify(&key, host.as_bytes(), &hash).is_ok()
}

/// `*` stands for any characters, `?` for one. Linear in time but for the square of adversarial input, which is ours.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut retry = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p, t));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match retry {
                Some((star, from)) => {
                    retry = Some((star, from + 1));
                    p = star + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use russh::keys::PrivateKey;
    use russh::keys::ssh_key::certificate::Builder;

    use super::*;

    fn key(algorithm: Algorithm) -> PrivateKey {
        PrivateKey::random(&mut rand::rng(), algorithm).unwrap()
    }

    fn ed25519() -> PrivateKey {
        key(Algorithm::Ed25519)
    }

    fn line(key: &PrivateKey) -> String {
        let public = PublicKey::new(key.public_key().key_data().clone(), "");
        public.to_openssh().unwrap().trim().to_owned()
    }

    fn shown(key: &PrivateKey) -> PublicKeyOrCertificate {
        key.public_key().clone().into()
    }

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
    }

    fn judge(policy: &HostKey, host: &str, port: u16, shown: &PublicKeyOrCertificate) -> String {
        let expected = policy.expectation(host, port).unwrap();
        match expected.require_knowledge().and_then(|()| expected.judge(shown, now())) {
            Ok(()) => "ok".to_owned(),
            Err(error) => error.code().to_owned(),
        }
    }

    fn known_hosts(text: String) -> HostKey {
        HostKey::KnownHosts(text)
    }

    #[test]
    fn known_unknown_and_changed() {
        let (one, two) = (ed25519(), ed25519());
        let policy = known_hosts(format!("# ours\n\nweb-01,192.0.2.7 {} a comment\n", line(&one)));
        assert_eq!(judge(&policy, "web-01", 22, &shown(&one)), "ok");
        assert_eq!(judge(&policy, "WEB-01", 22, &shown(&one)), "ok");
        assert_eq!(judge(&policy, "192.0.2.7", 22, &shown(&one)), "ok");
        assert_eq!(judge(&policy, "web-01", 22, &shown(&two)), "host_key_changed");
        assert_eq!(judge(&policy, "web-02", 22, &shown(&one)), "host_key_unknown");
        assert_eq!(judge(&policy, "web-01", 2222, &shown(&one)), "host_key_unknown");
        assert_eq!(judge(&known_hosts(String::new()), "web-01", 22, &shown(&one)), "host_key_unknown");
    }

    #[test]
    fn ports_patterns_and_hashes() {
        let one = ed25519();
        let policy =
            known_hosts(format!("[web-01]:2222 {}\n*.example.com,!bad.example.com {}\n", line(&one), line(&one)));
        assert_eq!(judge(&policy, "web-01", 2222, &shown(&one)), "ok");
        assert_eq!(judge(&policy, "web-01", 22, &shown(&one)), "host_key_unknown");
        assert_eq!(judge(&policy, "a.example.com", 22, &shown(&one)), "ok");
        assert_eq!(judge(&policy, "bad.example.com", 22, &shown(&one)), "host_key_unknown");
        let salt = [7; 20];
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt), b"[hidden]:2200");
        let hashed = format!("|1|{}|{} {}", STANDARD.encode(salt), STANDARD.encode(tag), line(&one));
        assert_eq!(judge(&known_hosts(hashed.clone()), "hidden", 2200, &shown(&one)), "ok");
        assert_eq!(judge(&known_hosts(hashed), "hidden", 22, &shown(&one)), "host_key_unknown");
        // As written by ssh-keygen -H, for example.com.
        let known = "|1|O33ESRMWPVkMYIwJ1Uw+n877jTo=|nuuC5vEqXlEZ/8BXQR7m619W6Ak= ssh-ed25519 \
                     AAAAC3NzaC1lZDI1NTE5AAAAILIG2T/B0l0gaqj3puu510tu9N1OkQ4znY3LYuEm5zCF";
        assert_eq!(judge(&known_hosts(known.to_owned()), "example.com", 22, &shown(&one)), "host_key_changed");
    }

    #[test]
    fn only_known_types_are_asked_for() {
        let (one, two) = (ed25519(), key(Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 }));
        let policy = known_hosts(format!("h {}\nother {}\n", line(&two), line(&one)));
        let expected = policy.expectation("h", 22).unwrap();
        assert_eq!(expected.algorithms(&[]), [Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 }]);
        assert_eq!(expected.nothing_in_common().code(), "host_key_changed");
        let several = known_hosts(format!("h {}\nh {}\n", line(&two), line(&one)));
        assert_eq!(several.expectation("h", 22).unwrap().algorithms(&[]).len(), 2);
        assert_eq!(judge(&several, "h", 22, &shown(&one)), "ok");
        assert_eq!(judge(&several, "h", 22, &shown(&two)), "ok");
        let all = HostKey::InsecureAcceptAny(true).expectation("h", 22).unwrap().algorithms(&[]);
        assert!(!all.contains(&Algorithm::Rsa { hash: None }), "SHA-1 is never asked for");
    }

    #[test]
    fn revoked_keys_are_refused_even_when_known() {
        let one = ed25519();
        let policy = known_hosts(format!("h {}\n@revoked * {}\n", line(&one), line(&one)));
        assert_eq!(judge(&policy, "h", 22, &shown(&one)), "host_key_revoked");
    }

    #[test]
    fn fingerprints() {
        let (one, two) = (ed25519(), ed25519());
        let pin = HostKey::Fingerprint(one.public_key().fingerprint(HashAlg::Sha256).to_string());
        assert_eq!(judge(&pin, "h", 22, &shown(&one)), "ok");
        assert_eq!(judge(&pin, "h", 22, &shown(&two)), "host_key_changed");
        for text in ["", "SHA256:", "SHA256:abc", "MD5:aa", "hello"] {
            let error = HostKey::Fingerprint(text.to_owned()).check().unwrap_err();
            assert_eq!(error.code(), "fingerprint_invalid", "{text}");
        }
    }

    fn certificate(ca: &PrivateKey, host: &PrivateKey, principal: &str, kind: CertType) -> PublicKeyOrCertificate {
        let from = u64::try_from(now().unix_timestamp()).unwrap();
        let mut builder = Builder::new_with_random_nonce(
            &mut rand::rng(),
            host.public_key().key_data().clone(),
            from - 60,
            from + Duration::from_secs(3600).as_secs(),
        )
        .unwrap();
        builder.cert_type(kind).unwrap();
        builder.valid_principal(principal).unwrap();
        builder.sign(ca).unwrap().into()
    }

    #[test]
    fn host_certificates() {
        let (ca, host, other) = (ed25519(), ed25519(), ed25519());
        let good = certificate(&ca, &host, "web-01", CertType::Host);
        let authority = known_hosts(format!("@cert-authority web-* {}\n", line(&ca)));
        for policy in [HostKey::HostCa(line(&ca)), authority] {
            assert_eq!(judge(&policy, "web-01", 22, &good), "ok");
            assert_eq!(judge(&policy, "web-02", 22, &good), "host_certificate_invalid");
            assert_eq!(judge(&policy, "web-01", 22, &shown(&host)), "host_key_unknown");
            let for_users = certificate(&ca, &host, "web-01", CertType::User);
            assert_eq!(judge(&policy, "web-01", 22, &for_users), "host_certificate_invalid");
            let foreign = certificate(&other, &host, "web-01", CertType::Host);
            assert_eq!(judge(&policy, "web-01", 22, &foreign), "host_key_unknown");
            let late = policy.expectation("web-01", 22).unwrap().judge(&good, now() + Duration::from_secs(7200));
            assert_eq!(late.unwrap_err().code(), "host_certificate_invalid");
        }
        let revoked = known_hosts(format!("@cert-authority * {}\n@revoked * {}\n", line(&ca), line(&ca)));
        assert_eq!(judge(&revoked, "web-01", 22, &good), "host_key_revoked");
        assert_eq!(HostKey::HostCa("nonsense".to_owned()).check().unwrap_err().code(), "host_ca_invalid");
    }

    #[test]
    fn damaged_lines() {
        let one = line(&ed25519());
        for text in ["h ssh-ed25519".to_owned(), "h".to_owned(), format!("@other h {one}"), "@revoked".to_owned()] {
            let error = known_hosts(text.clone()).expectation("h", 22).unwrap_err();
            assert_eq!(error.code(), "known_hosts_invalid", "{text}");
        }
        let damaged_revocation = known_hosts("@revoked h ssh-ed25519 AAAA\n".to_owned());
        assert_eq!(damaged_revocation.expectation("h", 22).unwrap_err().code(), "known_hosts_invalid");
        assert!(known_hosts("x".repeat(MAX_KNOWN_HOSTS + 1)).check().is_err());
        assert_eq!(HostKey::InsecureAcceptAny(false).check().unwrap_err().code(), "host_key_missing");
    }

    #[test]
    fn globs() {
        for (pattern, text, matches) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abb", false),
            ("?", "", false),
            ("web-??", "web-01", true),
            ("*.example.com", "example.com", false),
            ("*a*b", "xaxxb", true),
            ("", "a", false),
        ] {
            assert_eq!(glob(pattern, text), matches, "{pattern} {text}");
        }
        assert!(!glob(&"*a".repeat(50), &"a".repeat(30)));
    }
}
