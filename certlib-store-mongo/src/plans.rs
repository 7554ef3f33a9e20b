//! Every query that runs often walks an index and sorts nothing: MongoDB is asked for its plans.

use std::time::Duration;

use bson::{Bson, Document, doc};
use certlib_core::queue::{ClaimRequest, JobFilter, JobQueue, JobState, Lane, NewJob};
use certlib_core::store::{Cursor, Index, Record, Store, TypedQuery, WriteBatch};
use certlib_testkit::counterpart::MongoReplicaSet;
use certlib_testkit::require;
use serde::{Deserialize, Serialize};

use crate::query::Plan;
use crate::{MongoOptions, MongoStore, job, queue, schema};

#[derive(Serialize, Deserialize)]
struct Item {
    id: String,
    number: i64,
}

impl Record for Item {
    const KIND: &'static str = "item";
    const FIELDS: &'static [&'static str] = &["state", "due", "owner"];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        let state = if self.number % 2 == 0 { "active" } else { "idle" };
        Index::new().field("state", state).field("due", self.number).field("owner", "a")
    }
}

/// What a query did, by the server's account.
#[derive(Debug)]
struct Explained {
    stages: Vec<String>,
    indexes: Vec<String>,
    keys: i64,
    documents: i64,
    returned: i64,
}

impl Explained {
    fn of(answer: &Document) -> Self {
        let mut explained = Self { stages: Vec::new(), indexes: Vec::new(), keys: 0, documents: 0, returned: 0 };
        explained.walk(&Bson::Document(answer.clone()));
        explained
    }

    fn walk(&mut self, value: &Bson) {
        match value {
            Bson::Array(items) => items.iter().for_each(|item| self.walk(item)),
            Bson::Document(document) => {
                for (name, value) in document {
                    match (name.as_str(), value) {
                        ("rejectedPlans" | "executionStages" | "command" | "serverParameters", _) => {}
                        ("stage", Bson::String(stage)) => self.stages.push(stage.clone()),
                        ("indexName", Bson::String(index)) => self.indexes.push(index.clone()),
                        ("totalKeysExamined", Bson::Int32(count)) => self.keys = (*count).into(),
                        ("totalDocsExamined", Bson::Int32(count)) => self.documents = (*count).into(),
                        ("nReturned", Bson::Int32(count)) => self.returned = (*count).into(),
                        _ => self.walk(value),
                    }
                }
            }
            _ => {}
        }
    }

    #[track_caller]
    fn assert_walks(&self, index: &str) {
        let bad = |stage: &String| ["COLLSCAN", "SORT", "SORT_KEY_GENERATOR"].contains(&stage.as_str());
        assert!(!self.stages.iter().any(bad), "{self:?}");
        assert!(!self.indexes.is_empty() || self.stages.iter().any(|stage| stage == "IDHACK"), "{self:?}");
        assert!(self.indexes.iter().all(|one| one == index), "{self:?} should walk {index}");
    }
}

async fn explain(store: &MongoStore, command: Document) -> Explained {
    let explain = doc! { "explain": command, "verbosity": "executionStats" };
    Explained::of(&store.database().handle.run_command(explain).await.unwrap())
}

async fn explain_query(store: &MongoStore, query: TypedQuery<Item>, after: Option<Cursor>) -> Explained {
    let mut query = query.into_raw().unwrap();
    query.after = after;
    let Plan { filter, sort, projection } = Plan::of(&query).unwrap();
    let limit = i64::try_from(query.limit).unwrap() + 1;
    let find = doc! {
        "find": "certlib_records", "filter": filter, "sort": sort, "projection": projection, "limit": limit,
    };
    explain(store, find).await
}

async fn explain_jobs(store: &MongoStore, filter: Document, sort: Option<Document>, limit: i64) -> Explained {
    let mut find = doc! { "find": "certlib_jobs", "filter": filter, "limit": limit };
    find.extend(sort.map(|sort| ("sort".to_owned(), Bson::from(sort))));
    explain(store, find).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hot_queries_walk_their_indexes() {
    let set = require!(MongoReplicaSet::start(1).await);
    let store = MongoStore::connect(&set.url().into(), MongoOptions::new()).await.unwrap();
    records(&store).await;
    claims(&store).await;
    other_jobs(&store).await;
    lists(&store).await;
}

async fn records(store: &MongoStore) {
    const FIELDS: &str = "certlib_records_fields";
    let mut batch = WriteBatch::new();
    for number in 0..2000 {
        batch = batch.put(&Item { id: format!("{number:04}"), number }).unwrap();
    }
    store.commit(batch).await.unwrap();
    let query = TypedQuery::<Item>::new;
    let sweep = || query().equal("state", "active").at_most("due", 19_i64).order_by("due").limit(5);

    let page = explain_query(store, sweep(), None).await;
    page.assert_walks(FIELDS);
    assert!(page.returned == 6 && page.keys <= 12, "only what is due is looked at: {page:?}");
    let cursor = || Some(Cursor { value: Some(10_i64.into()), id: "0010".to_owned() });
    let page = explain_query(store, sweep(), cursor()).await;
    page.assert_walks(FIELDS);
    assert!(page.returned == 4 && page.keys <= 10, "a page begins where the last one ended: {page:?}");
    let page = explain_query(store, sweep().descending(), cursor()).await;
    page.assert_walks(FIELDS);
    assert!(page.returned == 5 && page.keys <= 11, "{page:?}");

    let page = explain_query(store, query().order_by("due").at_least("due", 5_i64).at_most("due", 9_i64), None).await;
    page.assert_walks(FIELDS);
    assert!(page.returned == 5 && page.keys <= 6, "{page:?}");
    let by_owner = || query().equal("owner", "a").limit(10);
    for after in [None, Some(Cursor { value: None, id: "1000".to_owned() })] {
        let page = explain_query(store, by_owner(), after).await;
        page.assert_walks(FIELDS);
        assert!(page.returned == 11 && page.keys <= 12, "{page:?}");
    }
    let page = explain_query(store, by_owner().at_least("due", 5_i64).descending(), None).await;
    page.assert_walks(FIELDS);
    for after in [None, Some(Cursor { value: None, id: "1000".to_owned() })] {
        let page = explain_query(store, query().limit(10), after.clone()).await;
        page.assert_walks("_id_");
        assert!(page.returned == 11 && page.keys <= 12, "{page:?}");
        explain_query(store, query().descending().limit(10), after).await.assert_walks("_id_");
    }
}

async fn claims(store: &MongoStore) {
    const WAITING: &str = "certlib_jobs_waiting";
    let waiting = (0..1500_i16).map(|number| {
        let job = NewJob::new("kind", Lane::Issuance, serde_json::Value::Null);
        job.with_priority(number % 3).with_parent("big").with_delay(Duration::from_secs(3600))
    });
    let due =
        (0..4_i16).map(|number| NewJob::new("kind", Lane::Issuance, serde_json::Value::Null).with_priority(number - 2));
    store.enqueue(waiting.chain(due).collect()).await.unwrap();
    let request = ClaimRequest::new(Lane::Issuance, "worker", 100, Duration::from_secs(60));
    for request in [request.clone(), request.avoiding(vec!["big".to_owned()])] {
        let wanted = queue::due(store.database(), &request);
        let found = explain_jobs(store, wanted, Some(schema::by_urgency()), 100).await;
        found.assert_walks(WAITING);
        assert!(found.returned == 4 && found.keys <= 20, "what is not due is skipped by its priority: {found:?}");
    }
    let count = explain_counting(store, JobState::Pending).await;
    count.assert_walks(WAITING);
    assert_eq!(count.documents, 0, "the index is enough: {count:?}");
}

async fn explain_counting(store: &MongoStore, state: JobState) -> Explained {
    let pipeline = job::counting(state).to_vec();
    explain(store, doc! { "aggregate": "certlib_jobs", "pipeline": pipeline, "cursor": {} }).await
}

async fn other_jobs(store: &MongoStore) {
    let lost = doc! { "state": "in_progress", "lease_until": { "$lte": 5_i64 } };
    let by_lease = doc! { "lease_until": 1, "_id": 1 };
    explain_jobs(store, lost, Some(by_lease), 10).await.assert_walks("certlib_jobs_leased");
    let old = doc! { "state": "succeeded", "finished_at": { "$lt": 5_i64 } };
    let by_end = doc! { "finished_at": 1, "_id": 1 };
    explain_jobs(store, old, Some(by_end), 10).await.assert_walks("certlib_jobs_ended");
    let twin = doc! { "kind": "kind", "active_key": { "$in": ["a", "b"] } };
    explain_jobs(store, twin, None, 10).await.assert_walks("certlib_jobs_active");
    for (state, index) in [(JobState::InProgress, "certlib_jobs_leased"), (JobState::DeadLetter, "certlib_jobs_dead")] {
        let count = explain_counting(store, state).await;
        count.assert_walks(index);
        assert_eq!(count.documents, 0, "{count:?}");
    }
    for held in queue::held([certlib_core::queue::Claim { job: "a".to_owned(), epoch: 1 }].iter()) {
        explain_jobs(store, held, None, 10).await.assert_walks("_id_");
    }
}

async fn lists(store: &MongoStore) {
    let text = || Some("x".to_owned());
    let all = JobFilter::default;
    for (filter, before, index) in [
        (all(), None, "certlib_jobs_age"),
        (all(), Some((5, "x")), "certlib_jobs_age"),
        (JobFilter { kind: text(), ..all() }, None, "certlib_jobs_age"),
        (JobFilter { project: text(), ..all() }, None, "certlib_jobs_project"),
        (JobFilter { project: text(), ..all() }, Some((5, "x")), "certlib_jobs_project"),
        (JobFilter { key: text(), ..all() }, None, "certlib_jobs_key"),
        (JobFilter { kind: text(), state: Some(JobState::DeadLetter), ..all() }, None, "certlib_jobs_dead"),
    ] {
        let find = doc! {
            "find": "certlib_jobs", "filter": job::listing(&filter, before), "sort": schema::by_age(),
            "hint": job::walked(&filter), "limit": 100,
        };
        explain(store, find).await.assert_walks(index);
    }
}
