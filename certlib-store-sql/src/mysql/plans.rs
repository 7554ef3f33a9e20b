//! Every statement that runs often finds its rows through an index: the server is asked for its plans.

use certlib_core::queue::{JobFilter, JobState};
use certlib_core::secret::SecretString;
use certlib_core::store::{Cursor, Index, Query, Record, TypedQuery};
use certlib_testkit::counterpart::Mariadb;
use certlib_testkit::require;
use serde::{Deserialize, Serialize};

use super::{MysqlOptions, MysqlStore, commit, job, lease, query, queue, transition};

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

/// One table of a plan.
#[derive(Debug)]
struct Step {
    table: String,
    access: String,
    key: String,
    extra: String,
}

struct Plans {
    server: Mariadb,
}

impl Plans {
    /// A database with enough in it for an index to pay.
    async fn new() -> certlib_testkit::Result<Self> {
        let server = Mariadb::builder().option("innodb-flush-log-at-trx-commit", "0").start().await?;
        let url = SecretString::from(server.create_database("plans").await?);
        let options = MysqlOptions::new().allow_unsafe_durability_for_tests();
        MysqlStore::connect(&url, options).await.unwrap().close().await;
        server
            .sql(
                "USE plans;
                 INSERT INTO certlib_records SELECT 'item', seq, 1, '[]', '{}' FROM seq_1_to_5000;
                 INSERT INTO certlib_record_index
                     SELECT 'item', ELT(1 + seq % 3, 'state', 'due', 'owner'), CONCAT('\\0', seq), seq
                     FROM seq_1_to_5000;
                 INSERT INTO certlib_jobs SELECT seq, CONCAT('kind', seq % 7), ELT(1 + seq % 2, 'issuance', 'discovery'),
                     seq, IF(seq % 10 < 4, seq, NULL), '', '', 'null', seq % 3,
                     ELT(1 + LEAST(seq % 10, 5), 'pending', 'pending', 'in_progress', 'in_progress', 'dead_letter',
                         'succeeded'), 0, 0, 0, seq, IF(seq % 10 IN (2, 3), seq, NULL), NULL, 0, 0, '[]', seq,
                     IF(seq % 10 > 3, seq, NULL), NULL
                     FROM seq_1_to_5000;
                 INSERT INTO certlib_leases SELECT seq, '', '', 1, 0, 1, '', 0 FROM seq_1_to_200;
                 ANALYZE TABLE certlib_records, certlib_record_index, certlib_jobs, certlib_leases",
            )
            .await?;
        Ok(Self { server })
    }

    async fn of(&self, sql: &str) -> Vec<Step> {
        // The values do not matter, but their types do.
        let mut filled = String::new();
        let list = serde_json::to_string(&[["1"; 11]]).unwrap();
        for (at, part) in sql.split('?').enumerate() {
            if at > 0 {
                let before = filled.trim_end();
                let value = if before.ends_with("JSON_TABLE(") {
                    format!("'{list}'")
                } else if before.ends_with("LIMIT") {
                    "10".to_owned()
                } else if ["<", ">", "+", "-", "COALESCE("].iter().any(|end| before.ends_with(end))
                    && !before.ends_with(".id <")
                    && !before.ends_with(".id >")
                    && !before.ends_with("value <")
                    && !before.ends_with("value >")
                {
                    "1".to_owned()
                } else {
                    "_binary'1'".to_owned()
                };
                filled.push_str(&value);
            }
            filled.push_str(part);
        }
        let plan = self.server.sql(&format!("USE plans; EXPLAIN {filled}")).await;
        let plan = plan.unwrap_or_else(|error| panic!("{filled}: {error}"));
        let step = |line: &str| {
            let column: Vec<_> = line.split('\t').map(str::to_owned).collect();
            let [_, _, table, access, _, key, .., extra] = &column[..] else { panic!("{line}") };
            Step { table: table.clone(), access: access.clone(), key: key.clone(), extra: extra.clone() }
        };
        plan.lines().map(step).collect()
    }

    /// Fails unless every table of ours is searched by an index and nothing is sorted; what is passed in as JSON may
    /// be scanned.
    async fn assert_indexed(&self, sql: &str) -> Vec<Step> {
        let plan = self.of(sql).await;
        for step in &plan {
            let given = ["n", "t", "NULL", "<derived2>", "<derived3>"].contains(&step.table.as_str());
            let found = ["const", "eq_ref", "ref", "range", "system"].contains(&step.access.as_str());
            assert!(given || found, "{sql}\n{plan:#?}");
            assert!(!step.extra.contains("filesort"), "{sql}\n{plan:#?}");
            assert!(given || !step.extra.contains("temporary"), "{sql}\n{plan:#?}");
        }
        plan
    }

    async fn assert_uses(&self, sql: &str, index: &str) {
        let plan = self.assert_indexed(sql).await;
        // A row that a unique key leads to is read already for the plan; there may be none.
        let unique = |step: &Step| step.extra.contains("after reading const tables");
        assert!(plan.iter().any(|step| step.key == index || unique(step)), "{index}: {sql}\n{plan:#?}");
    }
}

fn sql(query: TypedQuery<Item>) -> String {
    let query: Query = query.into_raw().unwrap();
    query::Statement::of(&query).unwrap().sql
}

fn page(query: TypedQuery<Item>, value: Option<i64>) -> String {
    let mut query = query.into_raw().unwrap();
    query.after = Some(Cursor { value: value.map(Into::into), id: "x".to_owned() });
    query::Statement::of(&query).unwrap().sql
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_search_their_indexes_in_order() {
    let plans = require!(Plans::new().await);
    let query = TypedQuery::<Item>::new;
    let sweep = || query().equal("state", "active").at_most("due", 1_i64).order_by("due");
    for statement in [
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
    ] {
        plans.assert_indexed(&statement).await;
    }
    for (statement, index) in [
        (commit::LOAD, "PRIMARY"),
        (commit::UNINDEX, "PRIMARY"),
        (commit::DELETE, "PRIMARY"),
        (commit::UPDATE, "PRIMARY"),
        (query::GET, "PRIMARY"),
        (queue::PRESENT, "PRIMARY"),
        (queue::TWINS, "certlib_jobs_active"),
        (queue::MEET, "PRIMARY"),
        (queue::LEASE, "PRIMARY"),
        (queue::EXTEND, "PRIMARY"),
        (queue::HELD, "PRIMARY"),
        (transition::SUCCEED, "PRIMARY"),
        (transition::SUCCEEDED, "PRIMARY"),
        (transition::LOAD_CLAIMED, "PRIMARY"),
        (transition::WRITE_BACK, "PRIMARY"),
        (transition::DELETE, "PRIMARY"),
        (transition::LOAD, "PRIMARY"),
        (transition::FIND_TWIN, "certlib_jobs_active"),
        (transition::LOAD_LOST, "certlib_jobs_leased"),
        (transition::LOAD_OLD, "certlib_jobs_ended"),
        (job::FIND, "PRIMARY"),
        (job::REQUIRE, "PRIMARY"),
        (lease::REQUIRE, "PRIMARY"),
        (lease::RENEW, "PRIMARY"),
        (lease::RELEASE, "PRIMARY"),
    ] {
        plans.assert_uses(statement, index).await;
    }
    for avoided in [0, 3] {
        let statement = queue::lock_due(avoided).replacen("j.lane = ?", "j.lane = 'issuance'", 1);
        plans.assert_uses(&statement, "certlib_jobs_waiting").await;
    }
    let next = queue::NEXT_URGENCY.replacen("lane = ?", "lane = 'issuance'", 1);
    plans.assert_uses(&next, "certlib_jobs_waiting").await;
    let stats = plans.of(job::STATS).await;
    assert!(
        stats.iter().all(|step| step.key == "certlib_jobs_state" && step.extra.contains("Using index")),
        "{stats:#?}"
    );

    let text = || Some("1".to_owned());
    let all = JobFilter::default;
    for (filter, index) in [
        (all(), "certlib_jobs_age"),
        (JobFilter { before: text(), ..all() }, "certlib_jobs_age"),
        (JobFilter { kind: text(), ..all() }, "certlib_jobs_age"),
        (JobFilter { project: text(), ..all() }, "certlib_jobs_project"),
        (JobFilter { project: text(), before: text(), ..all() }, "certlib_jobs_project"),
        (JobFilter { key: text(), ..all() }, "certlib_jobs_key"),
        (JobFilter { kind: text(), state: Some(JobState::DeadLetter), ..all() }, "certlib_jobs_state"),
    ] {
        let plan = plans.of(&job::listing(&filter).unwrap().0).await;
        let sorted = plan.iter().any(|step| step.extra.contains("filesort"));
        assert!(!sorted && plan.iter().any(|step| step.key == index), "{filter:?}\n{plan:#?}");
    }
}
