use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bson::{Document, doc};
use futures::{StreamExt as _, TryStreamExt as _};
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::ChangeStreamEvent;
use mongodb::options::{ClientOptions, ReturnDocument, WriteConcern};
use mongodb::{Client, Collection, IndexModel};

use super::{Bell, Floor, LANE, LEASE, RawClaim, RawJob, now};
use crate::Result;

/// MongoDB by hand, written to the disks of a majority: `insertMany`; a claim by ids, then a mark, then a look at what
/// bears it; `updateMany`; a change stream.
#[derive(Debug)]
pub struct MongodbFloor {
    jobs: Collection<Document>,
    leases: Collection<Document>,
    claims: AtomicU64,
}

impl MongodbFloor {
    /// Makes its collections in an empty database.
    ///
    /// # Errors
    /// As the database.
    pub async fn open(url: &str, database: &str) -> Result<Self> {
        let mut options = ClientOptions::parse(url).await?;
        let mut concern = WriteConcern::majority();
        concern.journal = Some(true);
        options.write_concern = Some(concern);
        let database = Client::with_options(options)?.database(database);
        database.create_collection("raw_jobs").await?;
        database.create_collection("raw_leases").await?;
        let jobs = database.collection("raw_jobs");
        let waiting = doc! { "lane": 1, "priority": -1, "run_at": 1, "_id": 1 };
        let options =
            mongodb::options::IndexOptions::builder().partial_filter_expression(doc! { "state": "pending" }).build();
        jobs.create_index(IndexModel::builder().keys(waiting).options(options).build()).await?;
        Ok(Self { jobs, leases: database.collection("raw_leases"), claims: AtomicU64::new(0) })
    }
}

fn document(job: &RawJob, now: i64) -> Document {
    doc! {
        "_id": &job.id, "kind": "no_op", "lane": LANE, "project": "", "parent": "", "payload": &job.payload,
        "priority": 0, "state": "pending", "attempt": 0, "claim_epoch": 0_i64, "crash_count": 0, "run_at": now,
        "cancel_requested": false, "rerun_requested": false, "attempts": [], "created_at": now,
    }
}

#[async_trait]
impl Floor for MongodbFloor {
    async fn insert(&self, jobs: &[RawJob]) -> Result<()> {
        let now = now();
        self.jobs.insert_many(jobs.iter().map(|job| document(job, now))).await?;
        Ok(())
    }

    async fn claim(&self, limit: usize) -> Result<Vec<RawClaim>> {
        loop {
            let due = doc! { "state": "pending", "lane": LANE, "run_at": { "$lte": now() } };
            let found: Vec<Document> = self
                .jobs
                .find(due)
                .sort(doc! { "priority": -1, "run_at": 1, "_id": 1 })
                .limit(i64::try_from(limit)?)
                .batch_size(u32::try_from(limit)?)
                .projection(doc! { "_id": 1 })
                .await?
                .try_collect()
                .await?;
            if found.is_empty() {
                return Ok(Vec::new());
            }
            let ids: Vec<&str> = found.iter().map(|job| job.get_str("_id")).collect::<Result<_, _>>()?;
            let mark = i64::try_from(self.claims.fetch_add(1, Ordering::Relaxed))?;
            let free = doc! { "_id": { "$in": &ids }, "state": "pending" };
            let lease = doc! {
                "$set": { "state": "in_progress", "worker": "worker", "lease_until": now() + LEASE, "mark": mark },
                "$inc": { "attempt": 1, "claim_epoch": 1_i64 },
            };
            if self.jobs.update_many(free, lease).await?.modified_count == 0 {
                // The other loop had the same idea.
                continue;
            }
            let ours = doc! { "_id": { "$in": &ids }, "mark": mark };
            let claimed: Vec<Document> =
                self.jobs.find(ours).batch_size(u32::try_from(limit)?).await?.try_collect().await?;
            let claim = |job: &Document| -> Result<RawClaim> {
                Ok(RawClaim {
                    id: job.get_str("_id")?.to_owned(),
                    epoch: job.get_i64("claim_epoch")?,
                    payload: job.get_str("payload")?.to_owned(),
                })
            };
            return claimed.iter().map(claim).collect();
        }
    }

    async fn settle(&self, claims: &[RawClaim]) -> Result<u64> {
        // Jobs of one claim have few epochs between them.
        let mut by_epoch = std::collections::BTreeMap::<i64, Vec<&str>>::new();
        for claim in claims {
            by_epoch.entry(claim.epoch).or_default().push(&claim.id);
        }
        let mut settled = 0;
        for (epoch, ids) in by_epoch {
            let held = doc! {
                "_id": { "$in": ids }, "claim_epoch": epoch, "state": "in_progress", "rerun_requested": false,
            };
            let done = doc! {
                "$set": { "state": "succeeded", "crash_count": 0, "finished_at": now() },
                "$unset": { "lease_until": "" },
            };
            settled += self.jobs.update_many(held, done).await?.modified_count;
        }
        Ok(settled)
    }

    async fn ring(&self, job: &RawJob) -> Result<()> {
        self.jobs.insert_one(document(job, now())).await?;
        Ok(())
    }

    async fn bell(&self) -> Result<Box<dyn Bell>> {
        let inserts = doc! { "$match": { "operationType": "insert" } };
        let stream = self.jobs.watch().pipeline([inserts]).await?;
        Ok(Box::new(MongodbBell(stream)))
    }

    async fn acquire(&self, holder: &str) -> Result<Option<i64>> {
        let vacant = doc! { "_id": "scheduler", "$or": [{ "released": true }, { "expires_at": { "$lte": now() } }] };
        let grant = doc! {
            "$set": { "holder": holder, "expires_at": now() + 3000, "released": false },
            "$inc": { "epoch": 1_i64 },
        };
        let granted =
            self.leases.find_one_and_update(vacant, grant).upsert(true).return_document(ReturnDocument::After).await;
        match granted {
            Ok(lease) => Ok(lease.map(|lease| lease.get_i64("epoch")).transpose()?),
            // Somebody holds it, so that the upsert tried to insert a second one.
            Err(error) if error.to_string().contains("E11000") => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn renew(&self, holder: &str, epoch: i64) -> Result<bool> {
        let held = doc! { "_id": "scheduler", "holder": holder, "epoch": epoch, "released": false };
        let longer = doc! { "$set": { "expires_at": now() + 3000 } };
        Ok(self.leases.update_one(held, longer).await?.matched_count == 1)
    }

    async fn release(&self, holder: &str, epoch: i64) -> Result<bool> {
        let held = doc! { "_id": "scheduler", "holder": holder, "epoch": epoch, "released": false };
        Ok(self.leases.update_one(held, doc! { "$set": { "released": true } }).await?.matched_count == 1)
    }
}

#[derive(Debug)]
struct MongodbBell(ChangeStream<ChangeStreamEvent<Document>>);

#[async_trait]
impl Bell for MongodbBell {
    async fn heard(&mut self) -> Result<()> {
        self.0.next().await.ok_or("the change stream ended")??;
        Ok(())
    }
}
