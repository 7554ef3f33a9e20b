//! Hearing of what other processes did, through a change stream.

use std::sync::Arc;
use std::time::Duration;

use bson::{Document, doc};
use futures::TryStreamExt;
use mongodb::Client;
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::ResumeToken;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::database::Database;

/// The longest pause between two attempts to connect.
const PAUSE_MAX: Duration = Duration::from_secs(10);
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// The task that hears; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Watcher(JoinHandle<()>);

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Watcher {
    /// Begins to hear. If that fails now, it is tried again in the background: until it succeeds, whoever waits for
    /// work polls.
    pub(crate) async fn start(database: &Arc<Database>) -> Self {
        let ears = Ears {
            client: database.client.clone(),
            database: database.handle.name().to_owned(),
            instance: database.instance.clone(),
            wakeups: database.wakeups.clone(),
            vacancies: database.vacancies.clone(),
        };
        let stream = ears.connect(None).await;
        Self(tokio::spawn(async move { ears.hear(stream).await }))
    }
}

/// What the task needs; it does not keep the store alive.
struct Ears {
    client: Client,
    database: String,
    instance: String,
    wakeups: watch::Sender<u64>,
    vacancies: watch::Sender<u64>,
}

type Connected = mongodb::error::Result<ChangeStream<Document>>;

impl Ears {
    async fn hear(&self, mut stream: Connected) {
        let mut resume = None;
        let mut pause = PAUSE_MIN;
        loop {
            match stream {
                Ok(connected) => {
                    pause = PAUSE_MIN;
                    resume = self.listen(connected).await.or(resume);
                }
                Err(error) => {
                    tracing::warn!(error = %error, "no change stream: workers poll until there is one");
                    // It may be the place to go on from that is not there any more.
                    resume = None;
                }
            }
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(PAUSE_MAX);
            stream = self.connect(resume.clone()).await;
            if stream.is_ok() {
                // Something may have been missed.
                bump(&self.wakeups);
                bump(&self.vacancies);
            }
        }
    }

    /// Passes on what is heard until the stream breaks; returns where to go on.
    async fn listen(&self, mut stream: ChangeStream<Document>) -> Option<ResumeToken> {
        loop {
            match stream.try_next().await {
                Ok(Some(change)) => match change.get_str("coll") {
                    Ok("certlib_leases") => bump(&self.vacancies),
                    _ => bump(&self.wakeups),
                },
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(error = %error, "the change stream broke");
                    break;
                }
            }
        }
        stream.resume_token()
    }

    async fn connect(&self, resume: Option<ResumeToken>) -> Connected {
        let database = self.client.database(&self.database);
        database.watch().pipeline(self.pipeline()).resume_after(resume).await.map(ChangeStream::with_type)
    }

    /// The documents that others signed because they made a job due or freed a lease.
    fn pipeline(&self) -> [Document; 2] {
        let foreign = doc! { "$exists": true, "$not": { "$regex": format!("^{}/", self.instance) } };
        [
            doc! { "$match": {
                "ns.coll": { "$in": ["certlib_jobs", "certlib_leases"] },
                "$or": [
                    { "operationType": "insert", "fullDocument.wake": &foreign },
                    { "operationType": "update", "updateDescription.updatedFields.wake": foreign },
                ],
            } },
            // The id of the change has to stay: it is where to go on from.
            doc! { "$project": { "coll": "$ns.coll" } },
        ]
    }
}

fn bump(counter: &watch::Sender<u64>) {
    counter.send_modify(|count| *count = count.wrapping_add(1));
}
