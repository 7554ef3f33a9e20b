//! Connecting, or saying why not.

use bson::{Document, doc};
use certlib_core::clock::SystemClock;
use certlib_core::error::{Error, Result};
use mongodb::Client;
use mongodb::error::ErrorKind;
use mongodb::options::{Acknowledgment, ClientOptions, ReadConcern, ReadPreference, SelectionCriteria};
use time::OffsetDateTime;

use crate::database::Database;
use crate::error::{code, code_of, store_error};
use crate::options::MongoOptions;
use crate::schema;

const OPERATION: &str = "store.open";
/// The oldest server with everything that is needed: conditions on the server's time that use an index.
const VERSION_NEEDED: [u32; 2] = [5, 0];
/// How far the clock of the database may be from this machine's.
const SKEW_MAX: time::Duration = time::Duration::seconds(10);
/// The database when neither options nor connection string name one.
const DATABASE: &str = "certlib";

/// Connects, checks what it finds, and brings the schema up to date.
pub(crate) async fn open(url: &str, options: &MongoOptions) -> Result<Database> {
    let mut client = parse(url).await?;
    check_settings(&client)?;
    let name = options.database.clone().or_else(|| client.default_database.clone());
    let name = checked_name(name.unwrap_or_else(|| DATABASE.to_owned()))?;
    client.app_name.get_or_insert_with(|| "certlib".to_owned());
    client.max_pool_size = Some(options.max_pool_size);
    client.server_selection_timeout = Some(options.server_selection_timeout);
    client.read_concern = Some(ReadConcern::majority());
    client.write_concern = Some(Database::write_concern(options.operation_timeout));
    client.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
    let client = Client::with_options(client).map_err(|error| invalid_url(url, error))?;
    let database = Database::new(client, &name, options.clock.clone(), options.operation_timeout);
    check_server(&database, options.clock.is_none()).await?;
    schema::migrate(&database).await?;
    Ok(database)
}

async fn parse(url: &str) -> Result<ClientOptions> {
    ClientOptions::parse(url).await.map_err(|error| match &*error.kind {
        ErrorKind::DnsResolve { .. } => store_error(OPERATION, error),
        _ => invalid_url(url, error),
    })
}

/// The driver's reason may quote the connection string: it is only passed on when that holds no login.
fn invalid_url(url: &str, error: mongodb::error::Error) -> Error {
    let refused = Error::permanent(OPERATION, "url_invalid", "the connection string of MongoDB cannot be used");
    if url.contains('@') { refused } else { refused.with_source(error) }
}

fn checked_name(name: String) -> Result<String> {
    let fits = (1..=38).contains(&name.len());
    if fits && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')) {
        return Ok(name);
    }
    let message = "the name of the database must be 1 to 38 letters, digits, '_' or '-'";
    Err(Error::permanent(OPERATION, "database_name_invalid", message))
}

/// What makes the database unsafe, with how it can be made safe.
fn refuse(code: &'static str, setting: &str, found: impl std::fmt::Display, needed: impl std::fmt::Display) -> Error {
    Error::permanent(OPERATION, code, "a setting of MongoDB does not keep what certlib promises")
        .with("setting", setting)
        .with("found", found)
        .with("needed", needed)
}

/// Settings of the connection string that ask for less than what is needed.
fn check_settings(client: &ClientOptions) -> Result<()> {
    if let Some(concern) = &client.write_concern {
        let found = match &concern.w {
            None | Some(Acknowledgment::Majority) => None,
            Some(Acknowledgment::Nodes(nodes)) => Some(nodes.to_string()),
            Some(Acknowledgment::Custom(name)) => Some(name.clone()),
            Some(_) => Some("something else".to_owned()),
        };
        if let Some(found) = found {
            return Err(refuse("write_concern", "w", found, "majority"));
        }
        if concern.journal == Some(false) {
            return Err(refuse("journal", "journal", "false", "true"));
        }
    }
    if let Some(SelectionCriteria::ReadPreference(preference)) = &client.selection_criteria
        && !matches!(preference, ReadPreference::Primary)
    {
        let mode = match preference {
            ReadPreference::Secondary { .. } => "secondary",
            ReadPreference::PrimaryPreferred { .. } => "primaryPreferred",
            ReadPreference::SecondaryPreferred { .. } => "secondaryPreferred",
            _ => "nearest",
        };
        return Err(refuse("read_preference", "readPreference", mode, "primary"));
    }
    if let Some(concern) = &client.read_concern {
        let weak = [ReadConcern::local(), ReadConcern::available()].contains(concern);
        if weak {
            let found = format!("{:?}", concern.level).to_ascii_lowercase();
            return Err(refuse("read_concern", "readConcernLevel", found, "majority"));
        }
    }
    Ok(())
}

async fn check_server(database: &Database, check_clock: bool) -> Result<()> {
    let admin = database.client.database("admin");
    let ask = async |command: Document| admin.run_command(command).await;
    let failed = |error| store_error(OPERATION, error);

    let before = SystemClock::shared().now();
    let hello = ask(doc! { "hello": 1 }).await.map_err(failed)?;
    let after = SystemClock::shared().now();
    check_topology(&hello)?;
    let build = ask(doc! { "buildInfo": 1 }).await.map_err(failed)?;
    check_version(build.get_str("version").unwrap_or_default())?;
    if check_clock && let Ok(theirs) = hello.get_datetime("localTime") {
        let millis = theirs.timestamp_millis();
        check_time(certlib_core::store::timestamp::from_millis(millis)?, before, after)?;
    }

    // What only administrators may see is checked if we may.
    let permitted = |answer: mongodb::error::Result<Document>| match answer {
        Err(error) if code_of(&error) == Some(code::UNAUTHORIZED) => Ok(None),
        answer => answer.map(Some).map_err(failed),
    };
    let question = doc! { "getParameter": 1, "featureCompatibilityVersion": 1 };
    if let Some(answer) = permitted(ask(question).await)? {
        let compatibility = answer.get_document("featureCompatibilityVersion").ok();
        check_compatibility(compatibility.and_then(|one| one.get_str("version").ok()).unwrap_or_default())?;
    }
    if let Some(status) = permitted(ask(doc! { "serverStatus": 1 }).await)? {
        check_storage(&status)?;
    }
    Ok(())
}

fn check_topology(hello: &Document) -> Result<()> {
    let found = if hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid") {
        "a sharded cluster"
    } else if hello.get_str("setName").is_err() {
        "a server without replication"
    } else if !hello.get_bool("isWritablePrimary").unwrap_or(false) {
        "a direct connection to a secondary"
    } else {
        return Ok(());
    };
    Err(refuse("topology", "replication", found, "a replica set (one member is enough)"))
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

fn check_version(found: &str) -> Result<()> {
    if numbers(found) >= VERSION_NEEDED.to_vec() {
        return Ok(());
    }
    Err(refuse("server_version", "version", found, "5.0"))
}

fn check_compatibility(found: &str) -> Result<()> {
    if numbers(found) >= VERSION_NEEDED.to_vec() {
        return Ok(());
    }
    Err(refuse("feature_compatibility", "featureCompatibilityVersion", found, "5.0"))
}

/// Whether what is written is written to disks.
fn check_storage(status: &Document) -> Result<()> {
    let Ok(engine) = status.get_document("storageEngine") else { return Ok(()) };
    if engine.get_bool("persistent").unwrap_or(true) {
        return Ok(());
    }
    Err(refuse("storage_engine", "storage.engine", engine.get_str("name").unwrap_or("unknown"), "wiredTiger"))
}

/// Whether the database's time, asked between two looks at our clock, is near ours.
fn check_time(theirs: OffsetDateTime, before: OffsetDateTime, after: OffsetDateTime) -> Result<()> {
    let apart = if theirs < before { before - theirs } else { (theirs - after).max(time::Duration::ZERO) };
    if apart <= SKEW_MAX {
        return Ok(());
    }
    let found = format_args!("{} s apart from this machine's", apart.whole_seconds()).to_string();
    Err(refuse("clock_skew", "the clock of the database", found, "at most 10 s"))
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn assert_refused(result: Result<()>, code: &str, setting: &str, found: &str) {
        let error = result.unwrap_err();
        let context: Vec<_> = error.context().collect();
        assert_eq!((error.code(), context[0], context[1]), (code, ("setting", setting), ("found", found)));
        assert_eq!(context[2].0, "needed");
    }

    #[test]
    fn old_servers_are_refused() {
        for old in ["4.4.29", "4.0", "3.6.23", "", "x"] {
            assert_refused(check_version(old), "server_version", "version", old);
        }
        for fit in ["5.0.0", "5.0.31", "6.0.5", "7.0.0-rc1", "8.2.1", "10.0"] {
            check_version(fit).unwrap();
        }
        assert_refused(check_compatibility("4.4"), "feature_compatibility", "featureCompatibilityVersion", "4.4");
        check_compatibility("5.0").unwrap();
    }

    #[test]
    fn clocks_may_differ_a_little() {
        let (before, after) = (datetime!(2027-01-01 12:00 UTC), datetime!(2027-01-01 12:00:01 UTC));
        for near in [datetime!(2027-01-01 11:59:50 UTC), before, after, datetime!(2027-01-01 12:00:11 UTC)] {
            check_time(near, before, after).unwrap();
        }
        for far in [datetime!(2027-01-01 11:59:49.9 UTC), datetime!(2027-01-01 12:00:11.1 UTC)] {
            let found = "10 s apart from this machine's";
            assert_refused(check_time(far, before, after), "clock_skew", "the clock of the database", found);
        }
    }

    #[test]
    fn only_a_replica_sets_primary_will_do() {
        let refused = |hello: Document, found| assert_refused(check_topology(&hello), "topology", "replication", found);
        refused(doc! { "isWritablePrimary": true }, "a server without replication");
        refused(doc! { "isWritablePrimary": true, "msg": "isdbgrid" }, "a sharded cluster");
        refused(doc! { "isWritablePrimary": false, "setName": "rs" }, "a direct connection to a secondary");
        check_topology(&doc! { "isWritablePrimary": true, "setName": "rs" }).unwrap();
    }

    #[test]
    fn memory_is_no_disk() {
        let status = doc! { "storageEngine": { "name": "inMemory", "persistent": false } };
        assert_refused(check_storage(&status), "storage_engine", "storage.engine", "inMemory");
        check_storage(&doc! { "storageEngine": { "name": "wiredTiger", "persistent": true } }).unwrap();
        check_storage(&doc! {}).unwrap();
    }
}
