//! Who is asking: Basic and certificates with every request, NTLM and Negotiate once for a connection.

use std::collections::{BTreeMap, HashMap};

use aws_lc_rs::rand;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, header::AUTHORIZATION};

use super::{
    ntlm::{self, Binding, Challenged, Refused, Seal},
    spnego::{self, State, Token},
};
use crate::tls::fingerprint;

/// What a client with a certificate says it uses.
const MUTUAL: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/mutual";

/// How strictly logins over HTTPS are tied to their TLS connection: `CbtHardeningLevel`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hardening {
    /// Channel bindings are not looked at.
    None,
    /// Channel bindings that are sent must be right: the default of Windows.
    #[default]
    Relaxed,
    /// Channel bindings must be sent.
    Strict,
}

#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) password: String,
    /// Whether the account may use WinRM at all.
    pub(super) allowed: bool,
    pub(super) failures: u32,
}

/// What is configured about logins.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) basic: bool,
    pub(super) certificate: bool,
    pub(super) negotiate: bool,
    pub(super) allow_unencrypted: bool,
    pub(super) hardening: Hardening,
    /// After how many failures an account is locked.
    pub(super) lockout: Option<u32>,
    pub(super) domain: String,
    pub(super) computer: String,
}

/// Who is logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) user: String,
    pub(super) scheme: &'static str,
    pub(super) allowed: bool,
}

/// A connection: whether it is HTTPS, and its number.
pub(super) type Link = (bool, u64);

enum Session {
    Negotiating { list: Option<Vec<u8>>, challenged: Option<Challenged> },
    In { identity: Identity, seal: Box<Seal> },
}

/// What comes of a request's credentials.
pub(super) enum Verdict {
    /// Go on; a last token may have to go along with the answer.
    In(Identity, Option<String>),
    /// `401` with these `WWW-Authenticate` lines.
    Denied(Vec<String>),
}

/// All accounts and logins.
pub(super) struct Logins {
    pub(super) policy: Policy,
    pub(super) accounts: BTreeMap<String, Account>,
    /// Client certificates by their SHA-256, and whose they are.
    pub(super) certificates: BTreeMap<String, String>,
    sessions: HashMap<Link, Session>,
}

impl Logins {
    pub(super) fn new(policy: Policy, accounts: Vec<Account>, certificates: BTreeMap<String, String>) -> Self {
        let accounts = accounts.into_iter().map(|account| (account.name.to_lowercase(), account)).collect();
        Self { policy, accounts, certificates, sessions: HashMap::new() }
    }

    /// Forgets all logins, or the one of a connection.
    pub(super) fn forget(&mut self, link: Option<Link>) {
        match link {
            Some(link) => drop(self.sessions.remove(&link)),
            None => self.sessions.clear(),
        }
    }

    /// What opens and seals the messages of a connection.
    pub(super) fn seal(&mut self, link: Link) -> Option<&mut Seal> {
        match self.sessions.get_mut(&link) {
            Some(Session::In { seal, .. }) => Some(seal),
            _ => None,
        }
    }

    /// Judges the credentials of a request. `server` is the hash of the server's certificate, over HTTPS.
    pub(super) fn judge(
        &mut self,
        link: Link,
        headers: &HeaderMap,
        certificate: Option<&[u8]>,
        server: Option<&[u8]>,
    ) -> Verdict {
        let Some(given) = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()) else {
            return match self.sessions.get(&link) {
                Some(Session::In { identity, .. }) => Verdict::In(identity.clone(), None),
                _ => self.denied(link),
            };
        };
        if given == MUTUAL {
            return self.by_certificate(link, certificate);
        }
        let (scheme, token) = given.split_once(' ').unwrap_or((given, ""));
        let Ok(token) = STANDARD.decode(token.trim()) else { return self.denied(link) };
        match scheme.to_ascii_lowercase().as_str() {
            "basic" if self.offers_basic(link) => self.by_password(link, &token),
            "ntlm" if self.policy.negotiate => self.negotiate(link, "NTLM", &token, server),
            "negotiate" if self.policy.negotiate => self.negotiate(link, "Negotiate", &token, server),
            _ => self.denied(link),
        }
    }

    fn by_certificate(&mut self, link: Link, certificate: Option<&[u8]>) -> Verdict {
        let mapped = certificate.filter(|_| self.policy.certificate && link.0);
        let user = mapped.and_then(|der| self.certificates.get(&fingerprint(der)));
        match user.and_then(|user| self.accounts.get(&user.to_lowercase())) {
            Some(account) => Verdict::In(identity(account, "Certificate"), None),
            None => self.denied(link),
        }
    }

    fn by_password(&mut self, link: Link, token: &[u8]) -> Verdict {
        // Older clients write Latin-1, newer ones UTF-8.
        let latin = |_| token.iter().map(|byte| char::from(*byte)).collect();
        let text = String::from_utf8(token.to_vec()).unwrap_or_else(latin);
        let (user, password) = text.split_once(':').unwrap_or((&text, ""));
        let Some(name) = self.account(user, "") else { return self.denied(link) };
        let right = self.accounts.get(&name).is_some_and(|account| account.password == password);
        match self.count(&name, right) {
            Some(account) => Verdict::In(identity(account, "Basic"), None),
            None => self.denied(link),
        }
    }

    fn negotiate(&mut self, link: Link, scheme: &'static str, token: &[u8], server: Option<&[u8]>) -> Verdict {
        let session = self.sessions.remove(&link);
        if ntlm::is_message(token) {
            return match session {
                Some(Session::Negotiating { challenged: Some(challenged), .. }) if token.get(8) == Some(&3) => {
                    self.finish(link, scheme, &challenged, token, None, server)
                }
                _ => self.begin(link, scheme, token, None),
            };
        }
        let Some(parsed) = Token::parse(token).filter(|_| scheme == "Negotiate") else { return self.denied(link) };
        match (session, parsed.list) {
            (_, Some(list)) if parsed.mechanisms.iter().any(|mechanism| mechanism == spnego::NTLM) => {
                let first = parsed.mechanisms.first().is_some_and(|mechanism| mechanism == spnego::NTLM);
                match parsed.inner.filter(|_| first) {
                    Some(inner) => self.begin(link, scheme, &inner, Some(list)),
                    None => {
                        // The client's favourite is another one: it begins again with NTLM.
                        let session = Session::Negotiating { list: Some(list), challenged: None };
                        self.sessions.insert(link, session);
                        let answer = spnego::answer(State::Incomplete, true, None, None);
                        Verdict::Denied(vec![format!("{scheme} {}", STANDARD.encode(answer))])
                    }
                }
            }
            (Some(Session::Negotiating { list: Some(list), challenged, .. }), None) => {
                match (challenged, parsed.inner) {
                    (None, Some(inner)) => self.begin(link, scheme, &inner, Some(list)),
                    (Some(challenged), Some(inner)) => {
                        self.finish(link, scheme, &challenged, &inner, Some((list, parsed.list_mic)), server)
                    }
                    _ => self.denied(link),
                }
            }
            _ => self.denied(link),
        }
    }

    fn begin(&mut self, link: Link, scheme: &'static str, message: &[u8], list: Option<Vec<u8>>) -> Verdict {
        let mut challenge = [0; 8];
        let begun = match rand::fill(&mut challenge) {
            Ok(()) => Challenged::begin(message, &self.policy.computer, &self.policy.domain, challenge),
            Err(_) => Err(Refused),
        };
        let Ok((challenged, message)) = begun else { return self.denied(link) };
        let token = match &list {
            Some(_) => spnego::answer(State::Incomplete, true, Some(&message), None),
            None => message,
        };
        self.sessions.insert(link, Session::Negotiating { list, challenged: Some(challenged) });
        Verdict::Denied(vec![format!("{scheme} {}", STANDARD.encode(token))])
    }

    fn finish(
        &mut self,
        link: Link,
        scheme: &'static str,
        challenged: &Challenged,
        message: &[u8],
        wrapped: Option<(Vec<u8>, Option<Vec<u8>>)>,
        server: Option<&[u8]>,
    ) -> Verdict {
        let binding = match (server.map(ntlm::binding_of), self.policy.hardening) {
            (None, _) | (_, Hardening::None) => Binding::None,
            (Some(right), Hardening::Relaxed) => Binding::IfSent(right),
            (Some(right), Hardening::Strict) => Binding::Required(right),
        };
        let mut name = None;
        let outcome = challenged.finish(message, binding, |user, domain| {
            name = self.account(user, domain);
            name.as_ref().and_then(|name| self.accounts.get(name)).map(|account| account.password.clone())
        });
        let account = name.and_then(|name| self.count(&name, outcome.is_ok()).cloned());
        let (Ok(mut logged_in), Some(account)) = (outcome, account) else { return self.denied(link) };
        let mut last = None;
        if let Some((list, list_mic)) = wrapped {
            let signed = match list_mic {
                Some(mic) if !logged_in.seal.verify_list(&list, &mic) => return self.denied(link),
                Some(_) => Some(logged_in.seal.sign_list(&list)),
                // A client that has protected the login must protect the list as well.
                None if logged_in.has_mic => return self.denied(link),
                None => None,
            };
            let token = spnego::answer(State::Completed, false, None, signed.as_ref().map(<[u8; _]>::as_slice));
            last = Some(format!("{scheme} {}", STANDARD.encode(token)));
        }
        tracing::debug!(user = logged_in.user, scheme, "logged in to a simulated Windows host");
        let identity = identity(&account, scheme);
        self.sessions.insert(link, Session::In { identity: identity.clone(), seal: Box::new(logged_in.seal) });
        Verdict::In(identity, last)
    }

    /// The account that a client means: `user`, `DOMAIN\user`, `user@domain`, with our names or none.
    fn account(&self, user: &str, domain: &str) -> Option<String> {
        let (domain, user) = user.split_once('\\').unwrap_or((domain, user));
        let (user, domain) = user.split_once('@').filter(|_| domain.is_empty()).unwrap_or((user, domain));
        let ours = [".", "", &self.policy.domain, &self.policy.computer];
        let known = ours.iter().any(|ours| ours.eq_ignore_ascii_case(domain));
        Some(user.to_lowercase()).filter(|user| known && self.accounts.contains_key(user))
    }

    /// Counts a login; gives the account when it succeeds and is not locked.
    fn count(&mut self, name: &str, right: bool) -> Option<&Account> {
        let lockout = self.policy.lockout;
        let account = self.accounts.get_mut(name)?;
        let locked = lockout.is_some_and(|limit| account.failures >= limit);
        if right && !locked {
            account.failures = 0;
            return Some(account);
        }
        account.failures = account.failures.saturating_add(1);
        None
    }

    fn offers_basic(&self, link: Link) -> bool {
        self.policy.basic && (link.0 || self.policy.allow_unencrypted)
    }

    fn denied(&mut self, link: Link) -> Verdict {
        self.sessions.remove(&link);
        let mut lines = Vec::new();
        if self.policy.negotiate {
            lines.extend(["Negotiate".to_owned(), "NTLM".to_owned()]);
        }
        if self.offers_basic(link) {
            lines.push("Basic realm=\"WSMAN\"".to_owned());
        }
        if self.policy.certificate && link.0 {
            lines.push(MUTUAL.to_owned());
        }
        Verdict::Denied(lines)
    }
}

fn identity(account: &Account, scheme: &'static str) -> Identity {
    Identity { user: account.name.clone(), scheme, allowed: account.allowed }
}
