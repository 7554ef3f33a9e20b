//! The state of one order: found again or begun, and written back under the job's claim.

use std::time::Duration;

use tokio::task;

use super::rate::{self, Limited};
use crate::bundle::{CertificateBundle, KeyType, MAX_CLOCK_SKEW, PrivateKey};
use crate::context::Context;
use crate::error::{Effect, Error, Result, codes};
use crate::issuer::{AsyncIssuer, IssueRequest, OrderHandle, Recovery};
use crate::model::{Certificate, CertificateState, CertificateVersion, Order, OrderStage, VersionState, new_id};
use crate::queue::Claim;
use crate::runtime::Engine;
use crate::store::{Condition, StoreExt as _, TypedQuery, Versioned, WriteBatch};

/// What became of the wish for an order.
pub(super) enum Begun {
    /// There is one.
    Order(Box<Versioned<Order>>),
    /// It has to wait until the issuer may be given another.
    Limited(Limited),
}

/// The certificate's open order, or a new one, with a new key unless the certificate keeps its key; kept before anything is asked of the CA.
pub(super) async fn find_or_begin(
    engine: &Engine,
    claim: &Claim,
    certificate: &mut Versioned<Certificate>,
) -> Result<Begun> {
    /// How often others may count for the same zone before this order is put off.
    const TRIES: usize = 100;
    let open = TypedQuery::<Order>::new().equal("open", &*certificate.id);
    let (current, mut outdated): (Vec<_>, Vec<_>) =
        engine.store.list_all(open).await?.into_iter().partition(|order| is_current(order, certificate));
    if let Some(order) = current.into_iter().next() {
        return Ok(Begun::Order(Box::new(order)));
    }
    for order in &mut outdated {
        let why = "the certificate was changed after this order was begun";
        order.stage = OrderStage::Rejected;
        order.error = Some(Error::validation("issue.begin", "order_outdated", why).to_record());
    }
    let mut spending = match rate::spend(&engine.store, certificate, engine.clock.now()).await? {
        Ok(spending) => spending,
        Err(limited) => return Ok(Begun::Limited(limited)),
    };
    let key = match kept_key(engine, certificate).await? {
        Some(key) => key,
        None => generate(certificate.key_type).await?,
    };
    let mut request = IssueRequest::new(certificate.names.clone(), key.certificate_request(&certificate.names)?);
    request.profile = certificate.profile.clone();
    request.validity = certificate.validity_seconds.map(Duration::from_secs);
    request.replaces = latest_leaf(engine, certificate).await?;
    let id = new_id();
    request.reference.clone_from(&id);
    let now = engine.clock.now();
    let order = Order {
        key: engine.sealer.seal(key.pkcs8().expose(), &Order::aad(&certificate.project, &id)).await?,
        id,
        project: certificate.project.clone(),
        certificate_id: certificate.id.clone(),
        issuer_id: certificate.issuer_id.clone(),
        request,
        handle: None,
        stage: OrderStage::Intended,
        submitted_at: None,
        decisions: 0,
        polls: 0,
        round_started_at: now,
        error: None,
        created_at: now,
    };
    certificate.state = CertificateState::Issuing;
    certificate.updated_at = now;
    for _ in 0..TRIES {
        let free = spending.is_free();
        // The certificate's revision makes the order the only open one, whoever else wants to begin one.
        let mut batch =
            WriteBatch::new().require(Condition::Claim(claim.clone())).update(certificate)?.insert(&order)?;
        for order in &outdated {
            batch = batch.update(order)?;
        }
        match engine.store.commit(spending.add_to(batch)?).await {
            Ok(_) => {
                certificate.revision += 1;
                return Ok(Begun::Order(Box::new(Versioned { record: order, revision: 1 })));
            }
            Err(error) if free || !error.is_conflict() => return Err(error),
            Err(error) => {
                let now = engine.store.load::<Certificate>(&certificate.id).await?;
                if now.revision != certificate.revision {
                    return Err(error);
                }
            }
        }
        // Somebody else counted for the same zone: look again whether there is room.
        spending = match rate::spend(&engine.store, certificate, engine.clock.now()).await? {
            Ok(spending) => spending,
            Err(limited) => return Ok(Begun::Limited(limited)),
        };
    }
    Err(Error::transient("issue.begin", "busy", "too many orders are begun for the same zone at the same moment"))
}

/// Whether an open order still asks for what the certificate should be.
fn is_current(order: &Order, certificate: &Certificate) -> bool {
    order.issuer_id == certificate.issuer_id
        && order.request.names == certificate.names
        && order.request.profile == certificate.profile
}

/// Places an order that the CA does not have yet; the handle is kept before it is used.
///
/// # Errors
/// As the issuer's; `Validation` `order_unclear` when only its users can tell whether the CA has it.
pub(super) async fn place(engine: &Engine, cx: &Context, claim: &Claim, order: &mut Versioned<Order>) -> Result<()> {
    if order.stage == OrderStage::Placed {
        return Ok(());
    }
    let issuer = engine.issuer(cx, &order.issuer_id).await?;
    let found = match order.stage {
        // Before there were references, an order that was intended may have been sent.
        OrderStage::Intended if order.request.reference.is_empty() => recover(engine, cx, &*issuer, order).await?,
        OrderStage::Submitting => recover(engine, cx, &*issuer, order).await?,
        OrderStage::Parked => return Err(unclear(order)),
        _ => None,
    };
    let handle = match found {
        Some(handle) => handle,
        None => submit(engine, cx, claim, &*issuer, order).await?,
    };
    order.handle = Some(handle);
    order.stage = OrderStage::Placed;
    order.polls = 0;
    order.round_started_at = engine.clock.now();
    save(engine, claim, order).await
}

/// Sends an order to the CA. That it is sent is kept before, unless to send it twice does no harm.
async fn submit(
    engine: &Engine,
    cx: &Context,
    claim: &Claim,
    issuer: &dyn AsyncIssuer,
    order: &mut Versioned<Order>,
) -> Result<OrderHandle> {
    if !matches!(issuer.recovery(), Recovery::Repeat) {
        order.stage = OrderStage::Submitting;
        order.submitted_at = Some(engine.clock.now());
        if let Err(error) = save(engine, claim, order).await {
            order.stage = OrderStage::Intended;
            return Err(error);
        }
    }
    let result = issuer.submit(cx, &order.request).await;
    if result.as_ref().is_err_and(|error| error.effect() == Effect::None) && order.stage == OrderStage::Submitting {
        // At once, and alone: should it be lost, the CA is searched in vain, or the order is parked.
        order.stage = OrderStage::Intended;
        save(engine, claim, order).await?;
    }
    result
}

/// What became of an order that was sent: its handle, or nothing if it can be sent once more.
async fn recover(
    engine: &Engine,
    cx: &Context,
    issuer: &dyn AsyncIssuer,
    order: &mut Versioned<Order>,
) -> Result<Option<OrderHandle>> {
    let search = match issuer.recovery() {
        Recovery::Repeat => return Ok(None),
        Recovery::Search(search) => search,
        Recovery::Park => {
            order.stage = OrderStage::Parked;
            return Err(unclear(order));
        }
    };
    let since = order.submitted_at.unwrap_or(order.created_at);
    match search.find(cx, &order.request, since - MAX_CLOCK_SKEW).await {
        Ok(Some(handle)) => return Ok(Some(handle)),
        Ok(None) => {}
        Err(error) if error.code() == codes::ORDER_AMBIGUOUS => {
            order.stage = OrderStage::Parked;
            return Err(unclear(order).with_source(error));
        }
        Err(error) => return Err(error),
    }
    // What was not found may not be visible yet.
    match Duration::try_from(since + search.visible_after() - engine.clock.now()) {
        Ok(left) if !left.is_zero() => {
            let why = "it is unclear whether the CA has the order, which may not be visible there yet";
            Err(Error::transient("issue.recover", "order_not_visible", why).with_retry_after(Some(left)))
        }
        _ => Ok(None),
    }
}

fn unclear(order: &Order) -> Error {
    let what = "it is unclear whether the CA has this order; look there, and resolve the order: place it again, adopt the \
                CA's, or abandon it";
    Error::validation("issue.recover", codes::ORDER_UNCLEAR, what).with("order", &order.id)
}

/// Writes an order back. Besides who has the claim, a rotation may wrap its key anew: what the CA has answered must not be
/// lost over that. And somebody may decide about it: then the decision stands.
pub(super) async fn save(engine: &Engine, claim: &Claim, order: &mut Versioned<Order>) -> Result<()> {
    const TRIES: usize = 3;
    for tries in 1.. {
        let batch = WriteBatch::new().require(Condition::Claim(claim.clone())).update(order)?;
        match engine.store.commit(batch).await {
            Ok(_) => break,
            Err(error) if error.is_conflict() && tries < TRIES && catch_up(engine, order).await? => {}
            Err(error) => return Err(error),
        }
    }
    order.revision += 1;
    Ok(())
}

/// After a conflict: `true` if only the order's key was wrapped anew meanwhile, and it can be written again.
pub(super) async fn catch_up(engine: &Engine, order: &mut Versioned<Order>) -> Result<bool> {
    if !engine.sealer.catch_up(order).await? {
        return Ok(false);
    }
    let stored = engine.store.load::<Order>(&order.id).await?;
    Ok(stored.revision == order.revision && stored.decisions == order.decisions)
}

/// The private key of an order.
pub(super) async fn open_key(engine: &Engine, order: &Order) -> Result<PrivateKey> {
    let plain = engine.open(order).await?;
    PrivateKey::from_pkcs8(plain.expose())
}

/// The key of the newest version, if the certificate keeps its key and it is still good: of the kind that is wanted, and
/// of no version that was revoked.
async fn kept_key(engine: &Engine, certificate: &Certificate) -> Result<Option<PrivateKey>> {
    if !certificate.renewal.reuse_key || certificate.latest_version == 0 {
        return Ok(None);
    }
    let id = CertificateVersion::id_of(&certificate.id, certificate.latest_version);
    let latest = engine.store.load::<CertificateVersion>(&id).await?.record;
    let key = engine.open(&latest).await?;
    if PrivateKey::from_pkcs8(key.expose())?.kind() != certificate.key_type {
        return Ok(None);
    }
    let versions = TypedQuery::<CertificateVersion>::new().equal("certificate", &*certificate.id);
    for version in engine.store.list_all(versions).await? {
        if matches!(version.state, VersionState::Revoked { .. }) {
            let bundle = CertificateBundle::from_pem(version.chain_pem.as_bytes())?;
            match bundle.with_key(PrivateKey::from_pkcs8(key.expose())?) {
                Ok(_) => return Ok(None),
                Err(error) if error.code() == codes::KEY_MISMATCH => {}
                Err(error) => return Err(error),
            }
        }
    }
    PrivateKey::from_pkcs8(key.expose()).map(Some)
}

/// Generates a key: RSA, which takes its time, where blocking is allowed.
async fn generate(kind: KeyType) -> Result<PrivateKey> {
    if !matches!(kind, KeyType::Rsa2048 | KeyType::Rsa3072 | KeyType::Rsa4096) {
        return PrivateKey::generate(kind);
    }
    task::spawn_blocking(move || PrivateKey::generate(kind)).await.map_err(|error| {
        Error::transient("issue.key", "key_generation_failed", "the key could not be generated").with_source(error)
    })?
}

/// The leaf that a new version replaces, DER.
async fn latest_leaf(engine: &Engine, certificate: &Certificate) -> Result<Option<Vec<u8>>> {
    if certificate.latest_version == 0 {
        return Ok(None);
    }
    let id = CertificateVersion::id_of(&certificate.id, certificate.latest_version);
    let version = engine.store.load::<CertificateVersion>(&id).await?;
    // Another CA knows nothing of a certificate it did not issue.
    if version.issuer_id != certificate.issuer_id {
        return Ok(None);
    }
    Ok(Some(CertificateBundle::from_pem(version.chain_pem.as_bytes())?.leaf_der().to_vec()))
}
