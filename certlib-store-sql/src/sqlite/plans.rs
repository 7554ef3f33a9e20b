//! Every statement that runs often finds its rows through an index: SQLite is asked for its plans.

use certlib_core::queue::{JobFilter, JobState};
use certlib_core::store::{Index, Query, Record, TypedQuery};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Row};

use super::{SqliteOptions, SqliteStore, commit, job, query, queue, transition};

#[derive(Serialize, Deserialize)]
struct Item {
    id: String,
}

impl Record for Item {
    const KIND: &'static str = "item";
    const FIELDS: &'static [&'static str] = &["state", "due", "owner"];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new()
    }
}

struct Plans {
    store: SqliteStore,
    _directory: tempfile::TempDir,
}

impl Plans {
    async fn new() -> Self {
        let directory = tempfile::TempDir::new().unwrap();
        let store = SqliteStore::open(directory.path().join("plans.db"), SqliteOptions::new()).await.unwrap();
        Self { store, _directory: directory }
    }

    async fn of(&self, sql: &str) -> Vec<String> {
        // Reads the plan of a write without writing, which `query_only` allows.
        let rows = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")))
            .fetch_all(&self.store.readers)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        rows.iter().map(|row| row.try_get("detail").unwrap()).collect()
    }

    /// Fails unless every table in the plan is searched by an index and nothing is sorted; what is passed in as JSON
    /// may be scanned.
    async fn assert_indexed(&self, sql: &str) -> Vec<String> {
        let plan = self.of(sql).await;
        assert!(!plan.is_empty(), "{sql}");
        for line in &plan {
            let scans = line.starts_with("SCAN") && !line.contains("VIRTUAL TABLE");
            assert!(!scans && !line.contains("USE TEMP B-TREE"), "{sql}\n{plan:#?}");
        }
        plan
    }
}

fn sql(query: TypedQuery<Item>) -> String {
    let query: Query = query.into_raw().unwrap();
    query::Statement::of(&query).unwrap().sql
}

#[tokio::test]
async fn record_queries_walk_an_index_in_order() {
    let plans = Plans::new().await;
    let query = TypedQuery::<Item>::new;
    let page = |query: TypedQuery<Item>, value: Option<i64>| {
        let mut query = query.into_raw().unwrap();
        query.after = Some(certlib_core::store::Cursor { value: value.map(Into::into), id: "x".to_owned() });
        query::Statement::of(&query).unwrap().sql
    };
    let sweep = || query().equal("state", "active").at_most("due", 1_i64).order_by("due");
    let statements = [
        sql(sweep()),
        sql(sweep().descending()),
        page(sweep(), Some(1)),
        page(sweep().descending(), Some(1)),
        sql(query().order_by("due").at_least("due", 1_i64).at_most("due", 2_i64)),
        sql(query().order_by("owner").equal("owner", "a").at_least("due", 1_i64)),
        sql(query().equal("owner", "a")),
        sql(query().equal("owner", "a").equal("state", "b").at_least("due", 1_i64).descending()),
        page(query().equal("owner", "a"), None),
        sql(query()),
        page(query().descending(), None),
        sql(query().at_least("due", 1_i64)),
    ];
    for statement in statements {
        plans.assert_indexed(&statement).await;
    }
    let plan = plans.assert_indexed(&sql(sweep())).await;
    assert!(plan[0].contains("SEARCH i USING PRIMARY KEY (kind=? AND field=? AND value<?)"), "{plan:#?}");
    let plan = plans.assert_indexed(&page(sweep(), Some(1))).await;
    assert!(plan[0].contains("value"), "a page begins where the last one ended: {plan:#?}");
}

#[tokio::test]
async fn commits_search_for_what_they_touch() {
    let plans = Plans::new().await;
    for statement in [commit::LOAD, commit::UNINDEX, commit::DELETE, commit::PUT, commit::INDEX] {
        plans.assert_indexed(statement).await;
    }
}

#[tokio::test]
async fn the_queue_searches_its_partial_indexes() {
    let plans = Plans::new().await;
    for (statement, index) in [
        (queue::PRIORITY_BELOW, "COVERING INDEX certlib_jobs_waiting (lane=? AND priority<?)"),
        (queue::CLAIM, "COVERING INDEX certlib_jobs_waiting (lane=? AND priority=? AND run_at<?)"),
        (queue::MEET_TWIN, "INDEX certlib_jobs_active (kind=? AND natural_key=?)"),
        (queue::EXTEND, "INDEX sqlite_autoindex_certlib_jobs_1 (id=?)"),
        (transition::LOAD_CLAIMED, "INDEX sqlite_autoindex_certlib_jobs_1 (id=?)"),
        (transition::WRITE_BACK, "INDEX sqlite_autoindex_certlib_jobs_1 (id=?)"),
        (transition::LOAD_LOST, "INDEX certlib_jobs_leased (lease_until<?)"),
        (transition::FIND_TWIN, "INDEX certlib_jobs_active (kind=? AND natural_key=?)"),
    ] {
        let plan = plans.assert_indexed(statement).await;
        assert!(plan.iter().any(|line| line.contains(index)), "{statement}\n{plan:#?}");
    }
}

#[tokio::test]
async fn counting_reads_only_what_it_counts() {
    let plans = Plans::new().await;
    let plan = plans.of(job::STATS).await;
    for index in ["certlib_jobs_waiting", "certlib_jobs_leased", "certlib_jobs_dead"] {
        assert!(plan.iter().any(|line| line.contains(&format!("USING COVERING INDEX {index}"))), "{plan:#?}");
    }
}

#[tokio::test]
async fn lists_of_jobs_come_out_of_an_index_in_order() {
    let plans = Plans::new().await;
    let text = || Some("x".to_owned());
    let all = JobFilter::default;
    for (filter, index) in [
        (all(), "certlib_jobs_age"),
        (JobFilter { before: text(), ..all() }, "certlib_jobs_age"),
        (JobFilter { kind: text(), ..all() }, "certlib_jobs_age"),
        (JobFilter { project: text(), ..all() }, "certlib_jobs_project"),
        (JobFilter { project: text(), before: text(), ..all() }, "certlib_jobs_project"),
        (JobFilter { key: text(), ..all() }, "certlib_jobs_key"),
        (JobFilter { kind: text(), state: Some(JobState::DeadLetter), ..all() }, "certlib_jobs_dead"),
    ] {
        let plan = plans.of(&job::listing(&filter).unwrap().0).await;
        let sorted = plan.iter().any(|line| line.contains("USE TEMP B-TREE"));
        assert!(!sorted && plan.iter().any(|line| line.contains(index)), "{filter:?}\n{plan:#?}");
    }
}
