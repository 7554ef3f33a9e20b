//! Leases: one document for each name, which only ever changes.

use std::time::Duration;

use bson::{Bson, Document, doc};
use certlib_core::error::Result;
use certlib_core::lock::{Lease, LeaseInfo, LeaseRequest};
use futures::TryStreamExt;
use mongodb::options::ReturnDocument;

use crate::database::Database;
use crate::error::{contended, is_duplicate, store_error, write_error};
use crate::job::{flag, number, text};
use crate::transaction::{Failure, Transaction, pause};
use certlib_core::store::timestamp::remaining;

/// How often two who create the same document at the same time look again.
const RACES: u32 = 10;

pub(crate) async fn acquire(database: &Database, request: &LeaseRequest) -> Result<Option<Lease>> {
    // What becomes of the document is decided where it is kept, by one clock, in one step.
    let own = doc! { "$and": [
        { "$eq": ["$released", false] },
        { "$eq": ["$holder", { "$literal": &*request.holder }] },
        { "$eq": ["$nonce", { "$literal": &*request.nonce }] },
    ] };
    let held = doc! { "$and": [
        { "$eq": ["$released", false] },
        { "$gt": ["$expires_at", database.now_expression()] },
    ] };
    let verdict = doc! { "$cond": [own, "same", { "$cond": [held, "held", "new"] }] };
    let unless_held = |value: Bson, field: &str| doc! { "$cond": [{ "$eq": ["$verdict", "held"] }, field, value] };
    let epoch = doc! { "$ifNull": ["$epoch", 0_i64] };
    let decide = vec![
        doc! { "$set": { "verdict": verdict } },
        doc! { "$set": {
            "epoch": { "$cond": [{ "$eq": ["$verdict", "new"] }, { "$add": [epoch, 1_i64] }, "$epoch"] },
            "holder": unless_held(doc! { "$literal": &*request.holder }.into(), "$holder"),
            "nonce": unless_held(doc! { "$literal": &*request.nonce }.into(), "$nonce"),
            "expires_at": unless_held(database.later_expression(request.ttl), "$expires_at"),
            "released": unless_held(false.into(), "$released"),
        } },
        doc! { "$unset": "verdict" },
    ];
    let grant = upsert(database, &request.name, decide, "lock.acquire").await?;
    let ours = !flag(&grant, "released")?
        && text(&grant, "holder")? == request.holder
        && text(&grant, "nonce")? == request.nonce;
    if ours { Ok(Some(request.granted(number(&grant, "epoch")?))) } else { Ok(None) }
}

pub(crate) async fn raise(database: &Database, name: &str, floor: u64) -> Result<u64> {
    let floor = i64::try_from(floor).unwrap_or(i64::MAX - 1);
    let below = doc! { "$lte": [{ "$ifNull": ["$epoch", 0_i64] }, floor] };
    let lift = vec![
        doc! { "$set": { "below": below } },
        doc! { "$set": {
            "epoch": { "$cond": ["$below", floor, "$epoch"] },
            "released": { "$cond": ["$below", true, "$released"] },
            "holder": { "$ifNull": ["$holder", ""] },
            "nonce": { "$ifNull": ["$nonce", ""] },
            "expires_at": { "$ifNull": ["$expires_at", 0_i64] },
            "wake": { "$cond": ["$below", { "$literal": database.token() }, "$wake"] },
        } },
        doc! { "$unset": "below" },
    ];
    let raised = upsert(database, name, lift, "lock.raise").await?;
    if flag(&raised, "released")? {
        database.vacate();
    }
    number(&raised, "epoch")
}

async fn upsert(database: &Database, name: &str, pipeline: Vec<Document>, operation: &'static str) -> Result<Document> {
    for race in 0..RACES {
        if race > 0 {
            pause(race).await;
        }
        let update = database.leases.find_one_and_update(doc! { "_id": name }, pipeline.clone());
        match update.upsert(true).return_document(ReturnDocument::After).await {
            Ok(Some(document)) => return Ok(document),
            Ok(None) => {}
            // Another process created it a moment ago.
            Err(error) if is_duplicate(&error) => {}
            Err(error) => return Err(write_error(operation, error)),
        }
    }
    Err(contended(operation))
}

/// The document of `lease` as long as it is the latest grant of its name and was not released.
fn held(lease: &Lease) -> Document {
    doc! { "_id": &*lease.name, "holder": &*lease.holder, "epoch": lease.epoch.cast_signed(), "released": false }
}

pub(crate) async fn renew(database: &Database, lease: &Lease, ttl: Duration) -> Result<bool> {
    let extend = vec![doc! { "$set": { "expires_at": database.later_expression(ttl) } }];
    let renewed = database.leases.update_one(held(lease), extend).await;
    Ok(renewed.map_err(|error| write_error("lock.renew", error))?.matched_count > 0)
}

pub(crate) async fn release(database: &Database, lease: &Lease) -> Result<bool> {
    let give_back = doc! { "$set": { "released": true, "wake": database.token() } };
    let released = database.leases.update_one(held(lease), give_back).await;
    let released = released.map_err(|error| write_error("lock.release", error))?.matched_count > 0;
    if released {
        database.vacate();
    }
    Ok(released)
}

/// `lease_lost` unless `lease` holds; it then holds until the transaction ends, as its document is written.
pub(crate) async fn require(tx: &mut Transaction<'_>, lease: &Lease) -> Result<(), Failure> {
    let touch = tx.database.leases.update_one(held(lease), doc! { "$inc": { "touched": 1_i64 } });
    if touch.session(&mut tx.session).await?.matched_count == 0 {
        return Err(lease.lost().into());
    }
    Ok(())
}

pub(crate) async fn inspect(database: &Database, name: &str) -> Result<Option<LeaseInfo>> {
    let failed = |error| store_error("lock.inspect", error);
    let look = [doc! { "$match": { "_id": name } }, doc! { "$set": { "now": database.now_expression() } }];
    let found: Vec<Document> =
        database.leases.aggregate(look).await.map_err(failed)?.try_collect().await.map_err(failed)?;
    let Some(lease) = found.first() else { return Ok(None) };
    let released = flag(lease, "released")?;
    let left = remaining(number(lease, "now")?, number(lease, "expires_at")?);
    Ok(Some(LeaseInfo {
        name: name.to_owned(),
        holder: text(lease, "holder")?.to_owned(),
        epoch: number(lease, "epoch")?,
        remaining: if released { Duration::ZERO } else { left },
        released,
    }))
}
