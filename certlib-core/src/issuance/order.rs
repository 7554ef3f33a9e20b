//! The state of one order: found again or begun, and written back under the job's claim.

use tokio::task;

use super::rate::{self, Limited};
use crate::bundle::{CertificateBundle, KeyType, PrivateKey};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::issuer::IssueRequest;
use crate::model::{Certificate, CertificateState, CertificateVersion, Order, OrderStage, new_id};
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

/// The certificate's open order, or a new one with a new key; kept before anything is asked of the CA.
pub(super) async fn find_or_begin(
    engine: &Engine,
    claim: &Claim,
    certificate: &mut Versioned<Certificate>,
) -> Result<Begun> {
    /// How often others may count for the same zone before this order is put off.
    const TRIES: usize = 100;
    let open = TypedQuery::<Order>::new().equal("open", &*certificate.id).limit(1);
    let mut outdated = engine.store.list(open).await?.records.pop();
    if let Some(order) = outdated.take_if(|order| is_current(order, certificate)) {
        return Ok(Begun::Order(Box::new(order)));
    }
    let mut spending = match rate::spend(&engine.store, certificate, engine.clock.now()).await? {
        Ok(spending) => spending,
        Err(limited) => return Ok(Begun::Limited(limited)),
    };
    let key = generate(certificate.key_type).await?;
    let mut request = IssueRequest::new(certificate.names.clone(), key.certificate_request(&certificate.names)?);
    request.profile = certificate.profile.clone();
    request.validity = certificate.validity_seconds.map(std::time::Duration::from_secs);
    request.replaces = latest_leaf(engine, certificate).await?;
    let id = new_id();
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
        let batch = WriteBatch::new().require(Condition::Claim(claim.clone())).update(certificate)?.insert(&order)?;
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

/// Places an order that was intended; the handle is kept before it is used.
pub(super) async fn place(engine: &Engine, cx: &Context, claim: &Claim, order: &mut Versioned<Order>) -> Result<()> {
    if order.stage != OrderStage::Intended {
        return Ok(());
    }
    let issuer = engine.issuer(cx, &order.issuer_id).await?;
    let handle = issuer.submit(cx, &order.request).await?;
    order.handle = Some(handle);
    order.stage = OrderStage::Placed;
    order.polls = 0;
    order.round_started_at = engine.clock.now();
    save(engine, claim, order).await
}

/// Writes an order back. Who has the claim is alone in that, except that a rotation may wrap its key anew: what the CA
/// has answered must not be lost over that.
pub(super) async fn save(engine: &Engine, claim: &Claim, order: &mut Versioned<Order>) -> Result<()> {
    const TRIES: usize = 3;
    for tries in 1.. {
        let batch = WriteBatch::new().require(Condition::Claim(claim.clone())).update(order)?;
        match engine.store.commit(batch).await {
            Ok(_) => break,
            Err(error) if error.is_conflict() && tries < TRIES && engine.sealer.catch_up(order).await? => {}
            Err(error) => return Err(error),
        }
    }
    order.revision += 1;
    Ok(())
}

/// The private key of an order.
pub(super) async fn open_key(engine: &Engine, order: &Order) -> Result<PrivateKey> {
    let plain = engine.open(order).await?;
    PrivateKey::from_pkcs8(plain.expose())
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
