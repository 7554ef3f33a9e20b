//! The TLS probe: which certificate is served at an endpoint?
//!
//! The proof is a completed handshake whose leaf has the expected SHA-256: the peer has then shown that it holds the
//! private key, too. Trust in the issuer is not asked for, so that a private CA can be validated; the verifier that
//! allows this accepts one certificate only, and lives in this module alone.
//!
//! Where more certificates are shown, each must have issued the one before it: clients cannot build a path from a chain
//! that was put together wrongly. Whether an OCSP staple is shown is reported, too. With [`Endpoint::starttls`] the
//! handshake comes after the upgrade of another protocol.
//!
//! Endpoints are dialled under the address policy of [`Endpoint::addresses`], which by default admits the machines that
//! certificates are served on, internal ones and this one included, but never link-local addresses, metadata services and
//! the like. What was checked is what is dialled. One address among a name's that the policy does not admit, although
//! another could, refuses the name. Those that no policy admits are left out where there are others: the resolver of a
//! machine may add a link-local address to each name, and a look, which sends no secret, need not fail for it.

mod handshake;
mod starttls;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use certlib_core::module::EndpointCheck;
use certlib_core::{Context, Error, Fingerprint, Result};
use futures::future::join_all;
use rustls::pki_types::ServerName;
use serde::Deserialize;

use self::handshake::{Outcome, handshake};
pub use self::starttls::Starttls;
use crate::net::{AddressPolicy, Guard};

/// How many addresses of one host are looked at.
const MAX_ADDRESSES: usize = 32;

/// Where a certificate must be served.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Endpoint {
    /// A DNS name or IP address. Each address of a name that any policy admits is dialled, and each must serve the
    /// certificate.
    pub host: String,
    /// The TCP port.
    #[serde(default = "https")]
    pub port: u16,
    /// The name sent to the server (SNI); by default `host`, if that is a name.
    #[serde(default)]
    pub server_name: Option<String>,
    /// How the server is asked to go on with TLS, where it begins without.
    #[serde(default)]
    pub starttls: Option<Starttls>,
    /// Which addresses the endpoint may have; by default those of [`AddressPolicy::internal`].
    #[serde(default = "AddressPolicy::internal")]
    pub addresses: AddressPolicy,
    /// How long one try may take, in milliseconds: resolving, connecting and the handshake.
    #[serde(default = "five_seconds")]
    pub dial_timeout_ms: u64,
    /// How often the endpoint is looked at before it counts as not serving. A server that is reloading needs a moment.
    #[serde(default = "three")]
    pub tries: u32,
    /// The pause between two tries, in milliseconds.
    #[serde(default = "two_seconds")]
    pub delay_ms: u64,
}

fn https() -> u16 {
    443
}

fn five_seconds() -> u64 {
    5_000
}

fn three() -> u32 {
    3
}

fn two_seconds() -> u64 {
    2_000
}

impl Endpoint {
    /// An endpoint with the default limits: 5 s a try, 3 tries, 2 s apart.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            server_name: None,
            starttls: None,
            addresses: AddressPolicy::internal(),
            dial_timeout_ms: five_seconds(),
            tries: three(),
            delay_ms: two_seconds(),
        }
    }

    /// Checks the endpoint's own settings.
    ///
    /// # Errors
    /// `Validation`: `endpoint_invalid`; `address_forbidden` for an address that the policy does not admit.
    pub fn check(&self) -> Result<()> {
        let minutes = 10 * 60 * 1000;
        let in_range = (1..=100).contains(&self.tries)
            && (1..=minutes).contains(&self.dial_timeout_ms)
            && self.delay_ms <= minutes
            && self.port != 0
            && is_host(&self.host);
        if in_range && self.name().is_some() {
            return match self.host.parse() {
                Ok(address) => self.addresses.check(&self.host, address),
                Err(_) => Ok(()),
            };
        }
        Err(Error::validation(
            "probe.check",
            "endpoint_invalid",
            "an endpoint needs a host and a port; 1 to 100 tries; at most 10 minutes for a try and between tries",
        )
        .with("endpoint", self.label().escape_debug()))
    }

    fn name(&self) -> Option<ServerName<'static>> {
        let name = self.server_name.as_deref().unwrap_or(&self.host);
        ServerName::try_from(name.to_owned()).ok()
    }

    fn label(&self) -> String {
        let Self { host, port, .. } = self;
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        match &self.server_name {
            Some(name) => format!("{address} ({name})"),
            None => address,
        }
    }
}

/// Whether `text` can be a DNS name or an address. A zone (`fe80::1%eth0`) is none.
fn is_host(text: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    text.parse::<IpAddr>().is_ok() || (!text.is_empty() && text.len() <= 253 && text.chars().all(part))
}

/// Looks until every address of `endpoint` serves the leaf `expected`, or its tries are used up.
///
/// Failure is an answer: see [`EndpointCheck::problem`]. Cancel-safe.
pub async fn check(cx: &Context, endpoint: &Endpoint, expected: Fingerprint) -> EndpointCheck {
    let mut tries = 1;
    let guard = Guard::new(endpoint.addresses.clone());
    loop {
        let check = attempt(&guard, endpoint, expected, tries).await;
        if check.problem.is_none() || tries >= endpoint.tries {
            return check;
        }
        cx.clock.sleep(Duration::from_millis(endpoint.delay_ms)).await;
        tries += 1;
    }
}

/// Looks once, whatever the number of tries of `endpoint` is. Cancel-safe.
pub async fn look(_cx: &Context, endpoint: &Endpoint, expected: Fingerprint) -> EndpointCheck {
    attempt(&Guard::new(endpoint.addresses.clone()), endpoint, expected, 1).await
}

async fn attempt(guard: &Guard, endpoint: &Endpoint, expected: Fingerprint, tries: u32) -> EndpointCheck {
    let limit = Duration::from_millis(endpoint.dial_timeout_ms);
    let answer = |found, problem| EndpointCheck::new(endpoint.label(), found, tries, problem);
    let Some(name) = endpoint.name() else {
        return answer(None, Some("the server name cannot be sent in a TLS handshake".to_owned()));
    };
    let addresses = match tokio::time::timeout(limit, resolve(guard, endpoint)).await {
        Ok(Ok(addresses)) => addresses,
        Ok(Err(problem)) => return answer(None, Some(problem)),
        Err(_) => return answer(None, Some("the host name could not be resolved in time".to_owned())),
    };
    let looks = addresses.iter().map(async |address| {
        let outcome = tokio::time::timeout(limit, handshake(*address, endpoint.starttls, name.clone(), expected)).await;
        outcome.unwrap_or_else(|_| Outcome::failed("no completed handshake in time"))
    });
    let outcomes = join_all(looks).await;
    let several = outcomes.len() > 1;
    let worst = addresses.iter().zip(&outcomes).find(|(_, outcome)| outcome.problem.is_some());
    let check = match worst {
        Some((address, Outcome { found, problem, .. })) => {
            let problem = problem.clone().unwrap_or_default();
            answer(*found, Some(if several { format!("{problem} (at {address})") } else { problem }))
        }
        None => answer(Some(expected), None),
    };
    // One server of several without a staple is one too many.
    let staples: Option<Vec<bool>> = outcomes.iter().map(|outcome| outcome.ocsp_staple).collect();
    match staples {
        Some(staples) => check.with_ocsp_staple(staples.into_iter().all(|present| present)),
        None => check,
    }
}

async fn resolve(guard: &Guard, endpoint: &Endpoint) -> Result<Vec<SocketAddr>, String> {
    let found = guard.resolve_admissible(&endpoint.host, MAX_ADDRESSES).await.map_err(|error| {
        // The resolver's own words are in the source; where there is none, the guard's say it all.
        match std::error::Error::source(&error) {
            Some(source) => format!("the host name cannot be resolved: {source}"),
            None => error.to_string(),
        }
    })?;
    let mut addresses: Vec<SocketAddr> =
        found.into_iter().map(|address| SocketAddr::new(address, endpoint.port)).collect();
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use certlib_core::clock::ManualClock;
    use certlib_testkit::pki::TestCa;
    use tokio::net::TcpListener;

    use super::*;

    fn endpoint(address: SocketAddr) -> Endpoint {
        Endpoint { tries: 1, delay_ms: 0, ..Endpoint::new(address.ip().to_string(), address.port()) }
    }

    async fn server(issued: &certlib_testkit::pki::Issued, presented_key: &str) -> SocketAddr {
        server_with(&issued.full_chain(), presented_key, None).await
    }

    async fn server_with(chain: &str, presented_key: &str, staple: Option<Vec<u8>>) -> SocketAddr {
        use rustls::pki_types::pem::PemObject as _;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};

        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<std::result::Result<_, _>>();
        let key = PrivateKeyDer::from_pem_slice(presented_key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let signer = provider.key_provider.load_private_key(key).unwrap();
        // A resolver does not check that key and certificate belong together: that is for the client to notice.
        let mut certified = rustls::sign::CertifiedKey::new(chain.unwrap(), signer);
        certified.ocsp = staple;
        let resolver = rustls::sign::SingleCertAndKey::from(certified);
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(resolver));
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move { acceptor.accept(stream).await.map(drop) });
            }
        });
        address
    }

    #[tokio::test]
    async fn finds_what_is_served() {
        let ca = TestCa::new("root").unwrap();
        let (served, other) = (ca.issue(&["localhost"]).unwrap(), ca.issue(&["localhost"]).unwrap());
        let address = server(&served, &served.key_pem).await;
        let cx = Context::new("t");

        let expected = served.fingerprint.parse().unwrap();
        let good = check(&cx, &endpoint(address), expected).await;
        assert_eq!((good.found, good.tries, good.problem), (Some(expected), 1, None));

        let bad = check(&cx, &endpoint(address), other.fingerprint.parse().unwrap()).await;
        assert_eq!(bad.found, Some(expected));
        assert!(bad.problem.unwrap().contains("another certificate"));
    }

    #[derive(Debug)]
    struct Answers(Mutex<Vec<Vec<IpAddr>>>);

    #[async_trait::async_trait]
    impl crate::net::Lookup for Answers {
        async fn lookup(&self, _: &str) -> std::io::Result<Vec<IpAddr>> {
            let mut answers = self.0.lock().unwrap();
            Ok(if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() })
        }
    }

    fn resolving(addresses: AddressPolicy, answers: &[&[&str]]) -> Guard {
        let parse = |answer: &&[&str]| answer.iter().map(|addr| addr.parse().unwrap()).collect();
        Guard::with_lookup(addresses, Arc::new(Answers(Mutex::new(answers.iter().map(parse).collect()))))
    }

    /// The server holds the right certificate, and would be found if it were dialled.
    #[tokio::test]
    async fn forbidden_addresses_of_a_name_are_not_dialled() {
        let ca = TestCa::new("root").unwrap();
        let served = ca.issue(&["localhost"]).unwrap();
        let expected: Fingerprint = served.fingerprint.parse().unwrap();
        let address = server(&served, &served.key_pem).await;
        let named = Endpoint { tries: 1, ..Endpoint::new("served.test", address.port()) };
        let look = async |guard: &Guard| attempt(guard, &named, expected, 1).await;

        let good = look(&resolving(AddressPolicy::internal(), &[&["127.0.0.1"]])).await;
        assert_eq!((good.found, good.problem), (Some(expected), None));
        let allowed = ["private", "shared", "benchmarking", "unique_local", "loopback"];
        for (bad, rule) in certlib_testkit::attacks::ADDRESSES {
            let alone = resolving(AddressPolicy::default(), &[&[bad]]);
            let rebound = resolving(
                AddressPolicy { allow_loopback: true, ..AddressPolicy::default() },
                &[&["127.0.0.1"], &["127.0.0.1", "0.0.0.0", bad]],
            );
            assert_eq!(look(&rebound).await.problem, None, "the first answer is dialled, and it alone");
            // Addresses inside other addresses are never internal.
            let is_never = AddressPolicy::internal().check("h", bad.parse().unwrap()).is_err();
            let internal = |answer: &[&str]| resolving(AddressPolicy::internal(), &[answer]);
            let mut guards = vec![alone];
            if is_never {
                guards.push(internal(&[bad]));
                for guard in [rebound, internal(&["127.0.0.1", bad]), internal(&[bad, "127.0.0.1"])] {
                    // Nobody listens at the bad one: that it is not dialled shows in the answer.
                    let dialled = look(&guard).await;
                    assert_eq!((dialled.found, dialled.problem), (Some(expected), None), "{bad}");
                }
            } else {
                assert!(allowed.contains(&rule), "{bad}");
                if rule != "loopback" {
                    guards.push(rebound);
                }
            }
            for guard in guards {
                let refused = look(&guard).await;
                let problem = refused.problem.unwrap();
                assert!(refused.found.is_none() && problem.contains("address_forbidden"), "{bad}: {problem}");
            }
        }
    }

    #[tokio::test]
    async fn the_right_certificate_without_its_key_is_no_proof() {
        let ca = TestCa::new("root").unwrap();
        let (served, other) = (ca.issue(&["localhost"]).unwrap(), ca.issue(&["localhost"]).unwrap());
        let address = server(&served, &other.key_pem).await;
        let check = check(&Context::new("t"), &endpoint(address), served.fingerprint.parse().unwrap()).await;
        assert_eq!(
            check.problem.as_deref(),
            Some("the server does not hold the private key of the certificate that it shows")
        );
        assert_eq!(check.found, Some(served.fingerprint.parse().unwrap()));
    }

    #[tokio::test]
    async fn a_chain_leads_from_the_leaf_to_its_issuers() {
        let root = TestCa::new("root").unwrap();
        let (middle, other) = (root.intermediate("middle").unwrap(), root.intermediate("other").unwrap());
        // Of the same name, but with another key: what a renewed intermediate looks like.
        let namesake = root.intermediate("middle").unwrap();
        let served = middle.issue(&["localhost"]).unwrap();
        let expected: Fingerprint = served.fingerprint.parse().unwrap();
        let leaf = served.certificate_pem.as_str();
        let [root, middle, other, namesake] = [&root, &middle, &other, &namesake].map(TestCa::certificate_pem);
        for (chain, good) in [
            (vec![leaf], true),
            (vec![leaf, middle], true),
            (vec![leaf, middle, root], true),
            (vec![leaf, root, middle], false),
            (vec![leaf, root], false),
            (vec![leaf, other], false),
            (vec![leaf, namesake], false),
            (vec![leaf, middle, other], false),
            (vec![leaf, middle, middle], false),
            (vec![leaf, leaf], false),
        ] {
            let address = server_with(&chain.concat(), &served.key_pem, None).await;
            let check = check(&Context::new("t"), &endpoint(address), expected).await;
            assert_eq!(check.found, Some(expected));
            assert_eq!(check.problem.is_none(), good, "{} certificates: {check:?}", chain.len());
            assert!(good || check.problem.unwrap().contains("does not lead from the leaf to its issuers in order"));
        }
    }

    #[tokio::test]
    async fn staples_are_reported() {
        let ca = TestCa::new("root").unwrap();
        let served = ca.issue(&["localhost"]).unwrap();
        let expected = served.fingerprint.parse().unwrap();
        for staple in [None, Some(vec![0x30, 0x03, 0x0a, 0x01, 0x00])] {
            let address = server_with(&served.full_chain(), &served.key_pem, staple.clone()).await;
            let check = check(&Context::new("t"), &endpoint(address), expected).await;
            assert_eq!((check.problem.as_deref(), check.ocsp_staple), (None, Some(staple.is_some())));
            let text = serde_json::to_string(&check).unwrap();
            assert_eq!(serde_json::from_str::<EndpointCheck>(&text).unwrap(), check);
        }
        let gone = certlib_testkit::ports::free_addr().unwrap();
        let unknown = check(&Context::new("t"), &endpoint(gone), expected).await;
        assert_eq!(unknown.ocsp_staple, None);
        // What was recorded before anybody looked for staples can still be read.
        let before = r#"{"endpoint": "a:443", "found": null, "tries": 1, "problem": null}"#;
        assert_eq!(serde_json::from_str::<EndpointCheck>(before).unwrap().ocsp_staple, None);
    }

    #[tokio::test]
    async fn refused_silent_and_nonsense() {
        let expected = Fingerprint::from_bytes([1; 32]);
        let cx = Context::new("t");
        let gone = certlib_testkit::ports::free_addr().unwrap();
        let refused = check(&cx, &endpoint(gone), expected).await;
        assert!(refused.problem.unwrap().contains("connect"));

        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut patient = endpoint(silent.local_addr().unwrap());
        patient.dial_timeout_ms = 50;
        let timed_out = check(&cx, &patient, expected).await;
        assert!(timed_out.problem.unwrap().contains("in time"));

        let nowhere = Endpoint { tries: 1, ..Endpoint::new("no-such-host.invalid", 443) };
        assert!(check(&cx, &nowhere, expected).await.problem.unwrap().contains("resolved"));
    }

    #[tokio::test]
    async fn tries_are_spaced_by_the_clock() {
        let clock = ManualClock::new(time::OffsetDateTime::UNIX_EPOCH);
        let cx = Context::with(Arc::new(clock.clone()), Default::default(), "t");
        let gone = certlib_testkit::ports::free_addr().unwrap();
        let endpoint = Endpoint { tries: 3, delay_ms: 2_000, ..endpoint(gone) };
        let looking = tokio::spawn(async move { check(&cx, &endpoint, Fingerprint::from_bytes([1; 32])).await });
        let mut advanced = 0;
        while !looking.is_finished() {
            clock.advance(Duration::from_millis(500));
            advanced += 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(looking.await.unwrap().tries, 3);
        assert!(advanced >= 8, "two pauses of 2 s each: {advanced}");
    }

    #[test]
    fn settings_are_checked() {
        Endpoint::new("::1", 443).check().unwrap();
        Endpoint::new("example.com", 443).check().unwrap();
        let bad = [
            Endpoint::new("", 443),
            Endpoint::new("a b", 443),
            Endpoint::new("a", 0),
            Endpoint::new("fe80::1%eth0", 443),
            Endpoint { server_name: Some("a".to_owned()), ..Endpoint::new("user@b", 443) },
            Endpoint { tries: 0, ..Endpoint::new("a", 1) },
            Endpoint { dial_timeout_ms: 0, ..Endpoint::new("a", 1) },
        ];
        for endpoint in bad {
            assert_eq!(endpoint.check().unwrap_err().code(), "endpoint_invalid", "{endpoint:?}");
        }
        Endpoint::new("10.0.0.1", 443).check().unwrap();
        assert_eq!(Endpoint::new("169.254.169.254", 80).check().unwrap_err().code(), "address_forbidden");
        let strict: Endpoint = serde_json::from_str(r#"{"host": "10.0.0.1", "addresses": {}}"#).unwrap();
        assert_eq!(strict.check().unwrap_err().code(), "address_forbidden");
        assert!(serde_json::from_str::<Endpoint>(r#"{"host": "a", "timeout": 1}"#).is_err());
        assert!(serde_json::from_str::<Endpoint>(r#"{"host": "a", "starttls": "ftp"}"#).is_err());
        let mail: Endpoint = serde_json::from_str(r#"{"host": "a", "port": 587, "starttls": "smtp"}"#).unwrap();
        assert_eq!(mail.starttls, Some(Starttls::Smtp));
        assert_eq!(serde_json::from_str::<Endpoint>(r#"{"host": "a"}"#).unwrap(), Endpoint::new("a", 443));
    }

    /// Other code must not be able to switch verification off.
    #[test]
    fn no_other_file_has_a_verifier_of_its_own() {
        let mut files = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
        let mut found = Vec::new();
        while let Some(path) = files.pop() {
            if path.is_dir() {
                files.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            if ["ServerCert".to_owned() + "Verifier", ".danger".to_owned() + "ous()"]
                .iter()
                .any(|word| text.contains(word))
            {
                found.push(path.file_name().unwrap().to_string_lossy().into_owned());
            }
        }
        assert_eq!(found, ["handshake.rs"]);
    }
}
