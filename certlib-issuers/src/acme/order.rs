//! Orders: placed once, then moved on from wherever the CA says they are.
//!
//! Nothing about an order is remembered here. Every step looks at the CA first and can be repeated, so it does not
//! matter who took the step before, or whether anybody did.

use std::collections::BTreeSet;
use std::time::Duration;

use certlib_core::issuer::{IssueRequest, OrderHandle, OrderState};
use certlib_core::{CertificateBundle, Context, Error, ErrorClass, Result};
use instant_acme::{
    AuthorizationHandle, AuthorizationStatus, Authorizations, CertificateIdentifier, ChallengeStatus, Identifier,
    NewOrder, Order, OrderStatus, Problem,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::AcmeIssuer;
use super::ari::certificate_id;
use super::client::{Answer, call};
use super::error::{self, ORDER_NOT_READY, UNAUTHORIZED};
use crate::challenge::{Method, Proof, Readiness};

const POLL: &str = "acme.poll";
const SUBMIT: &str = "acme.submit";

/// How long one poll stays with an order that is moving.
const BUDGET: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// How long a challenge is answered when the CA does not say how long it asks.
const CHALLENGE_LIFE: Duration = Duration::from_secs(24 * 3600);

/// What finds an order again.
#[derive(Debug, Serialize, Deserialize)]
struct Handle {
    order_url: String,
    names: Vec<String>,
    #[serde(with = "crate::base64_bytes")]
    csr: Vec<u8>,
    #[serde(with = "time::serde::rfc3339")]
    submitted_at: OffsetDateTime,
}

/// What instant-acme leaves out of an order and of an authorization.
#[derive(Default, Deserialize)]
#[serde(default)]
struct LeftOut {
    identifiers: Vec<Identifier>,
    #[serde(with = "time::serde::rfc3339::option")]
    expires: Option<OffsetDateTime>,
}

/// An authorization, and the challenge in it that we can meet.
struct Authorization {
    name: String,
    status: AuthorizationStatus,
    problem: Option<Problem>,
    challenge: Option<Challenge>,
}

struct Challenge {
    url: String,
    status: ChallengeStatus,
    proof: Proof,
}

/// What came of looking at the authorizations of a pending order.
enum Proving {
    /// The CA was told about everything there is to tell.
    Triggered,
    /// Some proof cannot be seen yet.
    NotVisible(String),
    /// A name will not be authorized.
    Failed(Error),
}

impl AcmeIssuer {
    /// Places an order, and does nothing else.
    pub(super) async fn place(&self, cx: &Context, request: &IssueRequest) -> Result<OrderHandle> {
        let method = &self.method;
        if let Some(name) = request.names.iter().find(|name| !method.can_prove(name)) {
            return Err(Error::validation(
                SUBMIT,
                "challenge_unsuitable",
                "this name cannot be proven by this challenge",
            )
            .with("name", name.escape_debug())
            .with("challenge", method.kind()));
        }
        let account = self.account.at_ca(cx).await?;
        let profile = request.profile.as_deref().or(self.config.profile.as_deref());
        let known: BTreeSet<&str> = account.profiles().map(|profile| profile.name).collect();
        if let Some(profile) = profile.filter(|profile| !known.contains(profile)) {
            let known = known.into_iter().collect::<Vec<_>>().join(" ");
            return Err(Error::validation(SUBMIT, "profile_unknown", "the CA has no such profile")
                .with("profile", profile.escape_debug())
                .with("known", known.escape_debug()));
        }
        let identifiers = identifiers(&request.names);
        let order = || match profile {
            Some(profile) => NewOrder::new(&identifiers).profile(profile),
            None => NewOrder::new(&identifiers),
        };
        let order_url = match replaced(request) {
            None => new_order(cx, &account, &order()).await?,
            Some(predecessor) => match new_order(cx, &account, &order().replaces(predecessor)).await {
                // The predecessor may be replaced already, or be unknown to the CA; the order is worth placing anyway.
                Err(error) if !error.class().is_retryable() => {
                    tracing::info!(%error, "ordering without naming the certificate to be replaced");
                    new_order(cx, &account, &order()).await?
                }
                result => result?,
            },
        };
        OrderHandle::encode(&Handle {
            order_url,
            names: request.names.clone(),
            csr: request.csr.clone(),
            submitted_at: cx.clock.now(),
        })
    }

    /// Moves an order on as far as it goes within a few seconds.
    pub(super) async fn advance(&self, cx: &Context, handle: &OrderHandle) -> Result<OrderState> {
        let handle: Handle = handle.decode()?;
        let until = cx.clock.monotonic() + BUDGET;
        let account = self.account.at_ca(cx).await?;
        let (order, answer) = call!(cx, POLL, account.order(handle.order_url.clone()));
        let mut order = order?;
        check_identifiers(&answer, &handle)?;
        let mut retry_after = answer.retry_after;
        let (mut triggered, mut finalized, mut cleaned) = (false, false, false);
        let mut pause = FIRST_PAUSE;
        loop {
            match order.state().status {
                OrderStatus::Pending if !triggered => match self.prove(cx, &mut order).await {
                    Ok(Proving::Triggered) => triggered = true,
                    Ok(Proving::NotVisible(why)) => retry_after = Some(self.not_visible(cx, &handle, why)?),
                    // What was put in place so far would stay there: nobody looks at this order soon.
                    Err(error) if !error.class().is_retryable() => {
                        self.clean_up(cx, &mut order).await;
                        return Err(error);
                    }
                    Err(error) => return Err(error),
                    Ok(Proving::Failed(reason)) => {
                        self.clean_up(cx, &mut order).await;
                        return Ok(OrderState::Rejected { reason });
                    }
                },
                OrderStatus::Ready if !finalized => {
                    match finalize(cx, &mut order, &handle).await {
                        Ok(wait) => {
                            (retry_after, finalized) = (wait, true);
                            cleaned = self.clean_up(cx, &mut order).await;
                        }
                        // The CA contradicts itself; it will make up its mind.
                        Err(error) if error.code() == ORDER_NOT_READY => {}
                        Err(reason) if reason.class() == ErrorClass::Validation => {
                            return Ok(OrderState::Rejected { reason });
                        }
                        // CAs disagree on what to call a request that does not fit its order.
                        Err(error) if error.code() == UNAUTHORIZED => {
                            let reason = Error::validation("acme.finalize", UNAUTHORIZED, error.message());
                            return Ok(OrderState::Rejected { reason: reason.with_source(error) });
                        }
                        Err(error) => return Err(error),
                    }
                    if finalized && order.state().status != OrderStatus::Processing {
                        continue;
                    }
                }
                OrderStatus::Pending | OrderStatus::Ready | OrderStatus::Processing => {}
                OrderStatus::Valid => {
                    if !cleaned {
                        self.clean_up(cx, &mut order).await;
                    }
                    return download(cx, &mut order).await;
                }
                OrderStatus::Invalid => {
                    self.clean_up(cx, &mut order).await;
                    let reason = self.reason(cx, &mut order).await;
                    return Ok(OrderState::Rejected { reason });
                }
            }
            let wait = retry_after.unwrap_or_default().max(pause);
            if cx.clock.monotonic() + wait > until {
                return Ok(OrderState::Pending { retry_after });
            }
            tokio::select! {
                () = cx.clock.sleep(wait) => {}
                () = cx.cancel.cancelled() => return Ok(OrderState::Pending { retry_after }),
            }
            pause *= 2;
            let (refreshed, answer) = call!(cx, POLL, async { order.refresh().await.map(|_| ()) });
            refreshed?;
            retry_after = answer.retry_after;
        }
    }

    /// Puts the proofs that are missing in place, and tells the CA to look at them.
    async fn prove(&self, cx: &Context, order: &mut Order) -> Result<Proving> {
        let (mut open, mut proofs) = (Vec::new(), Vec::new());
        for index in 0..order.state().authorizations.len() {
            let authorization = self.authorization(cx, order, index).await?;
            match authorization.status {
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                _ => return Ok(Proving::Failed(authorization_error(authorization))),
            }
            let Some(challenge) = &authorization.challenge else {
                return Ok(Proving::Failed(
                    Error::validation(POLL, "challenge_unavailable", "the CA does not offer this challenge")
                        .with("name", authorization.name.escape_debug())
                        .with("challenge", self.method.kind()),
                ));
            };
            match challenge.status {
                // Some CAs leave it pending while they look.
                ChallengeStatus::Pending if self.told.was(cx, &challenge.url).await? => {}
                ChallengeStatus::Pending => {
                    open.push((index, challenge.url.clone()));
                    proofs.push(challenge.proof.clone());
                }
                ChallengeStatus::Processing | ChallengeStatus::Valid => {}
                ChallengeStatus::Invalid => return Ok(Proving::Failed(authorization_error(authorization))),
            }
        }
        if open.is_empty() {
            return Ok(Proving::Triggered);
        }
        if let Readiness::NotYet(why) = self.method.provision(cx, &proofs).await? {
            return Ok(Proving::NotVisible(why));
        }
        for ((index, url), proof) in open.iter().zip(&proofs) {
            self.tell(cx, order, *index).await?;
            self.told.note(cx, url, &proof.name).await?;
        }
        Ok(Proving::Triggered)
    }

    /// Tells the CA to look at the proof for one authorization.
    async fn tell(&self, cx: &Context, order: &mut Order, index: usize) -> Result<()> {
        let (told, _) = call!(cx, "acme.challenge", async {
            let mut all = order.authorizations();
            let mut authorization = nth(&mut all, index).await?;
            let challenge = authorization.challenge(self.method.challenge_type());
            match challenge.ok_or(instant_acme::Error::Str("the challenge"))?.set_ready().await {
                // The CA was told all the same; what came of it, the order says.
                Err(instant_acme::Error::Json(_)) => Ok(()),
                Err(instant_acme::Error::Api(problem)) if error::name(&problem) != error::BAD_NONCE => Ok(()),
                result => result,
            }
        });
        told
    }

    /// When to look again for records that are not visible, or the error that they have become.
    fn not_visible(&self, cx: &Context, handle: &Handle, why: String) -> Result<Duration> {
        let Method::Dns01(dns) = &self.method else { return Ok(BUDGET) };
        if cx.clock.now() >= handle.submitted_at + dns.timeout() {
            return Err(Error::transient("dns01.propagation", "record_not_visible", why));
        }
        tracing::debug!(why, "the CA is not told yet");
        Ok(dns.interval())
    }

    /// Takes proofs away. It is tidiness, and no order fails for it: whether everything is gone is the answer.
    async fn clean_up(&self, cx: &Context, order: &mut Order) -> bool {
        let result = async {
            let (mut urls, mut proofs) = (Vec::new(), Vec::new());
            for index in 0..order.state().authorizations.len() {
                let challenge = self.authorization(cx, order, index).await?.challenge;
                if let Some(challenge) = challenge.filter(|challenge| !challenge.proof.token.is_empty()) {
                    urls.push(challenge.url);
                    proofs.push(challenge.proof);
                }
            }
            self.told.forget(&urls).await?;
            self.method.clean_up(cx, &proofs).await
        };
        result.await.inspect_err(|error| tracing::warn!(%error, "challenges were not cleaned up")).is_ok()
    }

    /// Why an order is invalid: the CA says it of one of its authorizations, then we know the name too, or of the order.
    async fn reason(&self, cx: &Context, order: &mut Order) -> Error {
        for index in 0..order.state().authorizations.len() {
            match self.authorization(cx, order, index).await {
                Ok(Authorization { status: AuthorizationStatus::Valid | AuthorizationStatus::Pending, .. })
                | Err(_) => {}
                Ok(authorization) => return authorization_error(authorization),
            }
        }
        error::rejected(POLL, order.state().error.clone().unwrap_or(error::NO_PROBLEM))
    }

    /// One of the order's authorizations; the CA is asked for it once for every look at the order.
    async fn authorization(&self, cx: &Context, order: &mut Order, index: usize) -> Result<Authorization> {
        let (authorization, answer) = call!(cx, "acme.authorization", async {
            let mut all = order.authorizations();
            let mut authorization = nth(&mut all, index).await?;
            let name = error::value(authorization.identifier().identifier);
            let status = authorization.status;
            let problem = authorization.challenges.iter().find_map(|challenge| challenge.error.clone());
            let challenge = authorization.challenge(self.method.challenge_type()).map(|challenge| Challenge {
                url: challenge.url.clone(),
                status: challenge.status,
                proof: Proof {
                    name: name.clone(),
                    token: challenge.token.clone(),
                    key_authorization: challenge.key_authorization().as_str().to_owned(),
                    dns_value: challenge.key_authorization().dns_value(),
                    expires_at: cx.clock.now() + CHALLENGE_LIFE,
                },
            });
            Ok(Authorization { name, status, problem, challenge })
        });
        let mut authorization = authorization?;
        if let Some(challenge) = &mut authorization.challenge
            && let Ok(LeftOut { expires: Some(expires), .. }) = answer.json()
        {
            challenge.proof.expires_at = expires;
        }
        Ok(authorization)
    }
}

/// Places an order and returns its URL.
async fn new_order(cx: &Context, account: &instant_acme::Account, order: &NewOrder<'_>) -> Result<String> {
    let (placed, answer) = call!(cx, SUBMIT, account.new_order(order));
    match placed {
        Ok(order) => Ok(order.url().to_owned()),
        // The order stands, though instant-acme would have the CA repeat what it replaces. A second one helps nobody.
        Err(error) => answer.location.ok_or(error),
    }
}

/// The authorization at `index`; those before it are known already, so that nothing else is fetched.
async fn nth<'a>(
    all: &'a mut Authorizations<'_>,
    index: usize,
) -> Result<AuthorizationHandle<'a>, instant_acme::Error> {
    for _ in 0..index {
        all.next().await.transpose()?;
    }
    all.next().await.ok_or(instant_acme::Error::Str("the authorization"))?
}

/// Asks for the certificate; returns how long the CA wants to be left alone.
async fn finalize(cx: &Context, order: &mut Order, handle: &Handle) -> Result<Option<Duration>> {
    let (result, answer) = call!(cx, "acme.finalize", order.finalize_csr(&handle.csr));
    result.map(|()| answer.retry_after)
}

async fn download(cx: &Context, order: &mut Order) -> Result<OrderState> {
    const OPERATION: &str = "acme.download";
    let invalid = || Error::transient(OPERATION, "answer_invalid", "the CA does not hand out the certificate");
    let chain_pem = call!(cx, OPERATION, order.certificate()).0?.ok_or_else(invalid)?;
    CertificateBundle::from_pem(chain_pem.as_bytes()).map_err(|error| invalid().with_source(error))?;
    Ok(OrderState::Issued { chain_pem })
}

/// Addresses are of type `ip` (RFC 8738), everything else is a DNS name.
fn identifiers(names: &[String]) -> Vec<Identifier> {
    let identifier = |name: &String| match name.parse() {
        Ok(address) => Identifier::Ip(address),
        Err(_) => Identifier::Dns(name.to_ascii_lowercase()),
    };
    distinct(names.iter().map(identifier).collect())
}

fn distinct(mut identifiers: Vec<Identifier>) -> Vec<Identifier> {
    identifiers.sort_by_cached_key(error::value);
    identifiers.dedup();
    identifiers
}

/// The certificate that the order replaces, as CAs call it.
fn replaced(request: &IssueRequest) -> Option<CertificateIdentifier<'static>> {
    let leaf = request.replaces.as_deref()?;
    certificate_id(leaf).inspect_err(|error| tracing::info!(%error, "the predecessor is not named to the CA")).ok()
}

/// An order for other names than ours is not ours, or the CA changed it.
fn check_identifiers(answer: &Answer, handle: &Handle) -> Result<()> {
    let theirs = distinct(answer.json::<LeftOut>()?.identifiers);
    if theirs != identifiers(&handle.names) {
        let list = theirs.iter().map(error::value).collect::<Vec<_>>().join(" ");
        return Err(Error::validation(POLL, "order_names_differ", "the order at the CA is for other names")
            .with("ordered", list.escape_debug()));
    }
    Ok(())
}

fn authorization_error(authorization: Authorization) -> Error {
    let error = match authorization.problem {
        Some(problem) => error::rejected(POLL, problem),
        None => Error::validation(POLL, "authorization_failed", "the CA does not authorize the name"),
    };
    error
        .with("name", authorization.name.escape_debug())
        .with("authorization", format_args!("{:?}", authorization.status))
}
