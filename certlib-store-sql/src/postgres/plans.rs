//! Every statement that runs often touches a few pages of large tables: PostgreSQL is asked for its plans, and for the
//! pages that it touched, before and after it has learned anything about the tables.

use certlib_core::queue::{JobFilter, JobState};
use certlib_core::store::{Cursor, Index, Query, Record, TypedQuery};
use certlib_testkit::counterpart::Postgres;
use certlib_testkit::require;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::{Arguments, AssertSqlSafe, Connection, Row};

use super::address::Address;
use super::{PostgresOptions, commit, job, lease, query, queue, schema, transition};
use certlib_core::store::timestamp::LAST;

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

/// Large tables: 40,000 records, and as many jobs, of which most have ended, some wait, and a few run.
const FILL: &str = r"
    INSERT INTO certlib_records SELECT 'item', 'item-' || lpad(n::text, 6, '0'), 1,
        ARRAY['state'::bytea || '\x0001'::bytea || 'active'::bytea,
              'due'::bytea || '\x0000'::bytea || int8send((n - 9223372036854775808)::bigint),
              'owner'::bytea || '\x0001'::bytea || ('owner-' || n % 4000)::bytea],
        repeat('x', 200) FROM generate_series(1, 40000) AS n;
    INSERT INTO certlib_record_index SELECT 'item', 'state', '\x01'::bytea || 'active'::bytea, id FROM certlib_records;
    INSERT INTO certlib_record_index SELECT 'item', 'due',
        '\x00'::bytea || int8send((n - 9223372036854775808)::bigint), 'item-' || lpad(n::text, 6, '0')
        FROM generate_series(1, 40000) AS n;
    INSERT INTO certlib_record_index SELECT 'item', 'owner', '\x01'::bytea || ('owner-' || n % 4000)::bytea,
        'item-' || lpad(n::text, 6, '0') FROM generate_series(1, 40000) AS n;
    INSERT INTO certlib_jobs (id, kind, lane, natural_key, project, parent, payload, priority, run_at, created_at, state,
            claim_epoch, lease_until, finished_at)
        SELECT 'job-' || lpad(n::text, 6, '0'), 'kind', 'issuance',
            CASE WHEN n % 3 = 0 THEN 'key-' || n END, 'project-' || n % 400, 'parent', repeat('x', 200), (n % 5)::smallint,
            CASE WHEN n % 5 = 4 THEN 1000000 + n ELSE n END, n, state, 1,
            CASE WHEN state = 'in_progress' THEN n END, CASE WHEN state NOT IN ('pending', 'in_progress') THEN n END
        FROM (SELECT n, CASE WHEN n % 100 = 0 THEN 'dead_letter' WHEN n > 39900 THEN 'in_progress'
            WHEN n > 20000 THEN 'pending' ELSE 'succeeded' END AS state FROM generate_series(1, 40000) AS n) AS jobs;
    INSERT INTO certlib_job_list SELECT created_at, id, project, natural_key FROM certlib_jobs;
    INSERT INTO certlib_leases VALUES ('scheduler', 'node', '', 1, 0, false)";

struct Plans {
    connection: PgConnection,
}

impl Plans {
    async fn new(server: &Postgres) -> Self {
        let options = server.url().parse().unwrap();
        let address = Address::new(options, &PostgresOptions::new());
        schema::migrate(&address).await.unwrap();
        let mut connection = address.connect().await.unwrap();
        sqlx::raw_sql("SET statement_timeout = 0").execute(&mut connection).await.unwrap();
        sqlx::raw_sql(FILL).execute(&mut connection).await.unwrap();
        Self { connection }
    }

    /// Fails unless `sql` touches at most `pages` pages, and reads no table from end to end.
    async fn check(&mut self, name: &str, sql: &str, arguments: PgArguments, pages: u64) -> Vec<Value> {
        let mut tx = self.connection.begin().await.unwrap();
        let explain = AssertSqlSafe(format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}"));
        let row = sqlx::query_with(explain, arguments).fetch_one(&mut *tx).await;
        let plan: Value = row.unwrap_or_else(|error| panic!("{name}: {error}")).get(0);
        tx.rollback().await.unwrap();
        let root = &plan[0]["Plan"];
        let touched = root["Shared Hit Blocks"].as_u64().unwrap() + root["Shared Read Blocks"].as_u64().unwrap();
        let mut nodes = Vec::new();
        collect(root, &mut nodes);
        assert!(nodes.iter().all(|node| node["Node Type"] != "Seq Scan"), "{name}: {plan:#}");
        assert!(touched <= pages, "{name} touched {touched} pages: {plan:#}");
        nodes
    }
}

fn collect(node: &Value, nodes: &mut Vec<Value>) {
    for child in node["Plans"].as_array().into_iter().flatten() {
        collect(child, nodes);
    }
    nodes.push(node.clone());
}

fn sorts(nodes: &[Value]) -> bool {
    nodes.iter().any(|node| node["Node Type"] == "Sort")
}

macro_rules! arguments {
    ($($argument:expr),* $(,)?) => {{
        #[allow(unused_mut)]
        let mut arguments = PgArguments::default();
        $(arguments.add($argument).unwrap();)*
        arguments
    }};
}

async fn records(plans: &mut Plans) {
    let all = TypedQuery::<Item>::new;
    let page = |query: TypedQuery<Item>, value: Option<i64>| {
        let cursor = Cursor { value: value.map(Into::into), id: "item-020000".to_owned() };
        query.after(Some(cursor))
    };
    let sweep = || all().equal("state", "active").at_most("due", 1000_i64).order_by("due").limit(50);
    for (name, query, pages) in [
        ("sweep", sweep(), 300),
        ("sweep, descending", sweep().descending(), 300),
        ("sweep, second page", page(sweep(), Some(500)), 300),
        ("range", all().order_by("due").at_least("due", 20_000_i64).at_most("due", 20_100_i64).limit(50), 300),
        ("owner", all().equal("owner", "owner-7"), 100),
        ("owner and state", all().equal("owner", "owner-7").equal("state", "active").at_least("due", 1_i64), 100),
        ("state, a page", page(all().equal("state", "active"), None).limit(50), 300),
        ("all", all().limit(50), 100),
        ("all, a page, descending", page(all(), None).descending().limit(50), 100),
    ] {
        let query: Query = query.into_raw().unwrap();
        let statement = query::Statement::of(&query).unwrap();
        let nodes = plans.check(name, &statement.sql, statement.arguments, pages).await;
        assert!(!sorts(&nodes), "{name}: {nodes:#?}");
    }
}

async fn commits(plans: &mut Plans) {
    let kinds = || vec!["item"; 3];
    let ids = || vec!["item-000007", "item-020000", "item-039999"];
    plans.check("load", commit::LOAD, arguments![kinds(), ids()], 40).await;
    let (texts, blobs, numbers) = (Vec::<&str>::new, Vec::<Vec<u8>>::new, Vec::<i64>::new);
    let active = || vec![b"\x01active".to_vec(); 3];
    let state = || vec!["state"; 3];
    let change = arguments![
        kinds(),
        state(),
        active(),
        ids(),
        texts(),
        texts(),
        kinds(),
        ids(),
        vec![2_i64; 3],
        vec!["{}"; 3],
        vec!["{}"; 3],
        kinds(),
        vec!["other"; 3],
        active(),
        ids(),
        texts(),
        texts(),
        numbers(),
        texts(),
        texts(),
    ];
    plans.check("update", commit::SAVE, change, 150).await;
    let replace = arguments![
        texts(),
        texts(),
        blobs(),
        texts(),
        kinds(),
        ids(),
        texts(),
        texts(),
        numbers(),
        texts(),
        texts(),
        texts(),
        texts(),
        blobs(),
        texts(),
        kinds(),
        vec!["new-1", "new-2", "new-3"],
        vec![1_i64; 3],
        vec!["{}"; 3],
        vec!["{}"; 3],
    ];
    plans.check("delete and insert", commit::SAVE, replace, 150).await;
    plans.check("lease", lease::HOLD, arguments!["scheduler", "node", 1_i64], 10).await;
    plans.check("claim", job::HOLD, arguments!["job-039950", 1_i64], 10).await;
}

async fn jobs(plans: &mut Plans) {
    let (now, nobody) = (Some(30_000_i64), Vec::<String>::new);
    let claim = || arguments![now, "issuance", nobody(), 20_i64, "worker", 60_000_i64, LAST];
    let nodes = plans.check("claim", queue::CLAIM, claim(), 700).await;
    assert!(!sorts(&nodes), "{nodes:#?}");
    let nothing = arguments![Some(0_i64), "issuance", nobody(), 20_i64, "worker", 60_000_i64, LAST];
    plans.check("claim while nothing is due", queue::CLAIM, nothing, 100).await;
    let nothing = arguments![now, "discovery", nobody(), 20_i64, "worker", 60_000_i64, LAST];
    plans.check("claim in an empty lane", queue::CLAIM, nothing, 20).await;

    let running: Vec<String> = (39_901..39_931).map(|n| format!("job-{n:06}")).collect();
    let epochs = vec![1_i64; running.len()];
    for (name, sql, arguments) in [
        ("extend", queue::EXTEND, arguments![now, &running, &epochs, 1000_i64, LAST]),
        ("succeed", transition::SUCCEED, arguments![now, &running, &epochs]),
        ("load claimed", transition::LOAD_CLAIMED, arguments![&running]),
    ] {
        let nodes = plans.check(name, sql, arguments, 1500).await;
        let index = |name| nodes.iter().any(|node| node["Index Name"] == name);
        assert!(index("certlib_jobs_pkey") && !index("certlib_jobs_leased"), "{name}: {nodes:#?}");
    }
    plans.check("load lost", transition::LOAD_LOST, arguments![LAST, 20_i64], 200).await;
    plans.check("find twin", transition::FIND_TWIN, arguments!["kind", "key-30000", "job-x"], 20).await;
    plans.check("taken", queue::TAKEN, arguments![&running], 200).await;
    let twins = arguments![now, vec!["kind"], vec!["key-30003"], vec![0_i64], vec![0_i16]];
    plans.check("meet twins", queue::MEET_TWINS, twins, 40).await;
    let purge = arguments![Some(1_000_000_i64), "succeeded", 0_i64, 20_i64];
    plans.check("purge", transition::PURGE, purge, 600).await;
    let texts = |text: &str| vec![text.to_owned(); 3];
    let back = arguments![
        running[..3].to_vec(),
        texts("pending"),
        vec![1_i32; 3],
        vec![0_i32; 3],
        vec![1_i64; 3],
        vec![None::<i64>; 3],
        vec![false; 3],
        vec![false; 3],
        texts("[]"),
        vec![None::<i64>; 3],
    ];
    plans.check("write back", transition::WRITE_BACK, back, 150).await;
}

async fn lists(plans: &mut Plans) {
    let all = || JobFilter { limit: 50, ..JobFilter::default() };
    let text = |text: &str| Some(text.to_owned());
    for (name, filter) in [
        ("newest", all()),
        ("newest, a page", JobFilter { before: text("job-020000"), ..all() }),
        ("of a project", JobFilter { project: text("project-7"), ..all() }),
        ("of a project, a page", JobFilter { project: text("project-7"), before: text("job-020007"), ..all() }),
        ("of a key", JobFilter { key: text("key-30000"), ..all() }),
        ("dead", JobFilter { state: Some(JobState::DeadLetter), ..all() }),
        ("dead, a page", JobFilter { state: Some(JobState::DeadLetter), before: text("job-020000"), ..all() }),
        ("dead of a kind", JobFilter { state: Some(JobState::DeadLetter), kind: text("kind"), ..all() }),
    ] {
        let (sql, arguments) = job::listing(&filter).unwrap();
        let nodes = plans.check(name, &sql, arguments, 500).await;
        assert!(!sorts(&nodes), "{name}: {nodes:#?}");
    }
}

#[tokio::test]
async fn statements_touch_few_pages_of_large_tables() {
    let server = require!(Postgres::start().await);
    let mut plans = Plans::new(&server).await;
    let size = sqlx::query("SELECT pg_relation_size('certlib_jobs') / 8192").fetch_one(&mut plans.connection).await;
    assert!(size.unwrap().get::<i64, _>(0) > 1500, "the tables are large");
    for round in ["before", "after"] {
        records(&mut plans).await;
        commits(&mut plans).await;
        jobs(&mut plans).await;
        lists(&mut plans).await;
        if round == "before" {
            sqlx::raw_sql("VACUUM ANALYZE").execute(&mut plans.connection).await.unwrap();
        }
    }
    let nodes = plans.check("stats", job::STATS, arguments![], 20_000).await;
    for index in ["certlib_jobs_waiting", "certlib_jobs_leased", "certlib_jobs_dead"] {
        assert!(nodes.iter().any(|node| node["Index Name"] == index), "stats read only what they count: {nodes:#?}");
    }
}
