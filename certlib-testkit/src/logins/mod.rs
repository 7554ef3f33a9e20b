//! Who is asking a simulated Windows service: Basic and certificates with every request, NTLM and Negotiate once for a
//! connection.

pub(crate) mod ntlm;
mod spnego;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use aws_lc_rs::rand;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, header::AUTHORIZATION};

use self::{
    ntlm::{Binding, Challenged, Refused, Seal},
    spnego::{State, Token},
};
use crate::tls::fingerprint;

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

#[derive(Clone)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) password: String,
    /// Whether the account may use the service at all.
    pub(crate) allowed: bool,
    pub(crate) failures: u32,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("name", &self.name).field("failures", &self.failures).finish_non_exhaustive()
    }
}

/// What is configured about logins.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) hardening: Hardening,
    /// After how many failures an account is locked.
    pub(crate) lockout: Option<u32>,
    pub(crate) domain: String,
    pub(crate) computer: String,
}

/// What may be used at an address.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Offer {
    /// Basic, for this realm.
    pub(crate) basic: Option<&'static str>,
    pub(crate) negotiate: bool,
    pub(crate) certificate: Option<ByCertificate>,
}

impl Offer {
    /// The `WWW-Authenticate` lines that say so.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.negotiate {
            lines.extend(["Negotiate".to_owned(), "NTLM".to_owned()]);
        }
        lines.extend(self.basic.map(|realm| format!("Basic realm=\"{realm}\"")));
        if let Some(ByCertificate::Named(name)) = self.certificate {
            lines.push(name.to_owned());
        }
        lines
    }
}

/// How a client says that its certificate is to count.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ByCertificate {
    /// By `Authorization` with this text.
    Named(&'static str),
    /// By showing it.
    Shown,
}

/// Who is logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) user: String,
    pub(crate) scheme: &'static str,
    pub(crate) allowed: bool,
}

/// A connection: whether it is HTTPS, and its number.
pub(crate) type Link = (bool, u64);

enum Session {
    Negotiating { list: Option<Vec<u8>>, challenged: Option<Challenged> },
    In { identity: Identity, seal: Box<Seal> },
}

/// What comes of a request's credentials.
pub(crate) enum Verdict {
    /// Go on; a last token may have to go along with the answer.
    In(Identity, Option<String>),
    /// `401` with these `WWW-Authenticate` lines.
    Denied(Vec<String>),
}

/// How a step of a login went.
enum Outcome {
    In(Identity, Option<String>),
    /// There is another step, for which the client needs this line.
    Next(String),
    Refused,
}

/// All accounts and logins.
pub(crate) struct Logins {
    pub(crate) policy: Policy,
    pub(crate) accounts: BTreeMap<String, Account>,
    /// Client certificates by their SHA-256, and whose they are.
    pub(crate) certificates: BTreeMap<String, String>,
    sessions: HashMap<Link, Session>,
}

impl Logins {
    pub(crate) fn new(policy: Policy, accounts: Vec<Account>, certificates: BTreeMap<String, String>) -> Self {
        let accounts = accounts.into_iter().map(|account| (account.name.to_lowercase(), account)).collect();
        Self { policy, accounts, certificates, sessions: HashMap::new() }
    }

    /// Forgets all logins, or the one of a connection.
    pub(crate) fn forget(&mut self, link: Option<Link>) {
        match link {
            Some(link) => drop(self.sessions.remove(&link)),
            None => self.sessions.clear(),
        }
    }

    /// What opens and seals the messages of a connection.
    pub(crate) fn seal(&mut self, link: Link) -> Option<&mut Seal> {
        match self.sessions.get_mut(&link) {
            Some(Session::In { seal, .. }) => Some(seal),
            _ => None,
        }
    }

    /// Judges the credentials of a request. `server` is the hash of the server's certificate, over HTTPS.
    pub(crate) fn judge(
        &mut self,
        link: Link,
        offer: &Offer,
        headers: &HeaderMap,
        certificate: Option<&[u8]>,
        server: Option<&[u8]>,
    ) -> Verdict {
        let Some(given) = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()) else {
            return match (self.sessions.get(&link), offer.certificate) {
                (Some(Session::In { identity, .. }), _) if offer.negotiate => Verdict::In(identity.clone(), None),
                (_, Some(ByCertificate::Shown)) => self.by_certificate(link, offer, certificate),
                _ => self.denied(link, offer),
            };
        };
        if offer.certificate.is_some_and(|way| matches!(way, ByCertificate::Named(name) if name == given)) {
            return self.by_certificate(link, offer, certificate);
        }
        let (scheme, token) = given.split_once(' ').unwrap_or((given, ""));
        let Ok(token) = STANDARD.decode(token.trim()) else { return self.denied(link, offer) };
        let outcome = match scheme.to_ascii_lowercase().as_str() {
            "basic" if offer.basic.is_some() => self.by_basic(&token),
            "ntlm" if offer.negotiate => self.negotiate(link, "NTLM", &token, server),
            "negotiate" if offer.negotiate => self.negotiate(link, "Negotiate", &token, server),
            _ => Outcome::Refused,
        };
        match outcome {
            Outcome::In(identity, last) => Verdict::In(identity, last),
            Outcome::Next(line) => Verdict::Denied(vec![line]),
            Outcome::Refused => self.denied(link, offer),
        }
    }

    /// Judges a password that came another way than by HTTP.
    pub(crate) fn by_password(&mut self, user: &str, password: &str, scheme: &'static str) -> Option<Identity> {
        let name = self.account(user, "")?;
        let right = self.accounts.get(&name).is_some_and(|account| account.password == password);
        self.count(&name, right).map(|account| identity(account, scheme))
    }

    fn by_certificate(&mut self, link: Link, offer: &Offer, certificate: Option<&[u8]>) -> Verdict {
        let user = certificate.and_then(|der| self.certificates.get(&fingerprint(der)));
        match user.and_then(|user| self.accounts.get(&user.to_lowercase())) {
            Some(account) => Verdict::In(identity(account, "Certificate"), None),
            None => self.denied(link, offer),
        }
    }

    fn by_basic(&mut self, token: &[u8]) -> Outcome {
        // Older clients write Latin-1, newer ones UTF-8.
        let latin = |_| token.iter().map(|byte| char::from(*byte)).collect();
        let text = String::from_utf8(token.to_vec()).unwrap_or_else(latin);
        let (user, password) = text.split_once(':').unwrap_or((&text, ""));
        self.by_password(user, password, "Basic").map_or(Outcome::Refused, |identity| Outcome::In(identity, None))
    }

    fn negotiate(&mut self, link: Link, scheme: &'static str, token: &[u8], server: Option<&[u8]>) -> Outcome {
        let session = self.sessions.remove(&link);
        if ntlm::is_message(token) {
            return match session {
                Some(Session::Negotiating { challenged: Some(challenged), .. }) if token.get(8) == Some(&3) => {
                    self.finish(link, scheme, &challenged, token, None, server)
                }
                _ => self.begin(link, scheme, token, None),
            };
        }
        let Some(parsed) = Token::parse(token).filter(|_| scheme == "Negotiate") else { return Outcome::Refused };
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
                        Outcome::Next(format!("{scheme} {}", STANDARD.encode(answer)))
                    }
                }
            }
            (Some(Session::Negotiating { list: Some(list), challenged, .. }), None) => {
                match (challenged, parsed.inner) {
                    (None, Some(inner)) => self.begin(link, scheme, &inner, Some(list)),
                    (Some(challenged), Some(inner)) => {
                        self.finish(link, scheme, &challenged, &inner, Some((list, parsed.list_mic)), server)
                    }
                    _ => Outcome::Refused,
                }
            }
            _ => Outcome::Refused,
        }
    }

    fn begin(&mut self, link: Link, scheme: &'static str, message: &[u8], list: Option<Vec<u8>>) -> Outcome {
        let mut challenge = [0; 8];
        let begun = match rand::fill(&mut challenge) {
            Ok(()) => Challenged::begin(message, &self.policy.computer, &self.policy.domain, challenge),
            Err(_) => Err(Refused),
        };
        let Ok((challenged, message)) = begun else { return Outcome::Refused };
        let token = match &list {
            Some(_) => spnego::answer(State::Incomplete, true, Some(&message), None),
            None => message,
        };
        self.sessions.insert(link, Session::Negotiating { list, challenged: Some(challenged) });
        Outcome::Next(format!("{scheme} {}", STANDARD.encode(token)))
    }

    fn finish(
        &mut self,
        link: Link,
        scheme: &'static str,
        challenged: &Challenged,
        message: &[u8],
        wrapped: Option<(Vec<u8>, Option<Vec<u8>>)>,
        server: Option<&[u8]>,
    ) -> Outcome {
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
        let (Ok(mut logged_in), Some(account)) = (outcome, account) else { return Outcome::Refused };
        let mut last = None;
        if let Some((list, list_mic)) = wrapped {
            let signed = match list_mic {
                Some(mic) if !logged_in.seal.verify_list(&list, &mic) => return Outcome::Refused,
                Some(_) => Some(logged_in.seal.sign_list(&list)),
                // A client that has protected the login must protect the list as well.
                None if logged_in.has_mic => return Outcome::Refused,
                None => None,
            };
            let token = spnego::answer(State::Completed, false, None, signed.as_ref().map(<[u8; _]>::as_slice));
            last = Some(format!("{scheme} {}", STANDARD.encode(token)));
        }
        tracing::debug!(user = logged_in.user, scheme, "logged in to a simulated Windows service");
        let identity = identity(&account, scheme);
        self.sessions.insert(link, Session::In { identity: identity.clone(), seal: Box::new(logged_in.seal) });
        Outcome::In(identity, last)
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

    fn denied(&mut self, link: Link, offer: &Offer) -> Verdict {
        self.sessions.remove(&link);
        Verdict::Denied(offer.lines())
    }
}

fn identity(account: &Account, scheme: &'static str) -> Identity {
    Identity { user: account.name.clone(), scheme, allowed: account.allowed }
}
