use std::{
    fs,
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bson::{Document, doc};
use tempfile::TempDir;
use tokio::time::timeout;

use super::{op_msg, temporary_folder};
use crate::{
    Error, Result,
    locate::locate,
    ports,
    process::{Child, START_LIMIT, poll_until},
};

const NAME: &str = "mongod";
/// The name of every replica set.
const SET: &str = "rs0";
/// How long the members wait for a silent primary before they elect another, and how long one that stepped down stays
/// away.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a member may take to say how it is.
const HELLO_LIMIT: Duration = Duration::from_secs(2);

/// One MongoDB server that belongs to no replica set, without authentication.
#[derive(Debug)]
pub struct Mongod {
    process: Child,
    addr: SocketAddr,
    folder: TempDir,
}

/// Options of a [`Mongod`].
#[derive(Debug, Default)]
pub struct MongodBuilder {
    arguments: Vec<String>,
}

impl MongodBuilder {
    /// Adds an argument of the server, such as `--storageEngine=ephemeralForTest`.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// As [`locate`]; [`Error::Start`] when it does not come up.
    pub async fn start(self) -> Result<Mongod> {
        let program = locate(NAME).await?;
        let folder = temporary_folder("mongod")?;
        let addr = ports::free_addr()?;
        let mut command = server(&program, addr, folder.path())?;
        command.args(self.arguments);
        let mut process = Child::spawn(NAME, command, folder.path())?;
        process.wait_until("answering", async || answers(addr).await).await?;
        Ok(Mongod { process, addr, folder })
    }
}

impl Mongod {
    /// Starts one without replication, which therefore has no transactions.
    ///
    /// # Errors
    ///
    /// As [`MongodBuilder::start`].
    pub async fn standalone() -> Result<Mongod> {
        Mongod::builder().start().await
    }

    /// Starts with more options.
    pub fn builder() -> MongodBuilder {
        MongodBuilder::default()
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its connection string, without a database.
    pub fn url(&self) -> String {
        format!("mongodb://{}/?directConnection=true", self.addr)
    }

    /// Where it keeps its files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a command on it.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be reached, [`Error::Protocol`] when it refuses.
    pub async fn command(&self, database: &str, command: Document) -> Result<Document> {
        op_msg::command(self.addr, database, command).await
    }

    /// What it wrote to its log.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// As [`Child::stop`].
    pub async fn stop(self) -> Result<()> {
        self.process.stop().await.map(drop)
    }
}

/// A MongoDB replica set on 127.0.0.1, without authentication, whose members can be stopped, killed and paused.
///
/// A member listens on the same port, with the same data, when it is started again. The data is in memory where there
/// is room for it: kill the members, not the machine. The members accept test commands
/// such as `configureFailPoint`.
#[derive(Debug)]
pub struct MongoReplicaSet {
    members: Vec<Member>,
    program: PathBuf,
    folder: TempDir,
    _sweeper: Sweeper,
}

#[derive(Debug)]
struct Member {
    addr: SocketAddr,
    folder: PathBuf,
    /// None while it is stopped.
    process: Mutex<Option<Child>>,
}

impl MongoReplicaSet {
    /// Starts a set of `members` and returns when one is the primary and all others follow it.
    ///
    /// # Errors
    ///
    /// As [`locate`]; [`Error::Start`] or [`Error::Timeout`] when it does not come up.
    pub async fn start(members: usize) -> Result<MongoReplicaSet> {
        let program = locate(NAME).await?;
        let folder = data_folder()?;
        let members = (0..members.max(1)).map(|number| {
            let folder = folder.path().join(number.to_string());
            fs::create_dir(&folder).map_err(Error::file("creating", &folder))?;
            Ok(Member { addr: ports::free_addr()?, folder, process: Mutex::new(None) })
        });
        let members = members.collect::<Result<_>>()?;
        let _sweeper = Sweeper::start(folder.path())?;
        let set = MongoReplicaSet { members, program, folder, _sweeper };
        futures::future::try_join_all((0..set.members.len()).map(|member| set.launch(member))).await?;
        set.initiate().await?;
        set.await_health().await?;
        Ok(set)
    }

    /// Its connection string, without a database.
    pub fn url(&self) -> String {
        let members: Vec<String> = self.members.iter().map(|member| member.addr.to_string()).collect();
        format!("mongodb://{}/?replicaSet={SET}", members.join(","))
    }

    /// A connection string that leads to one member only.
    pub fn direct_url(&self, member: usize) -> String {
        let addr = self.members.get(member).map(|member| member.addr.to_string()).unwrap_or_default();
        format!("mongodb://{addr}/?directConnection=true")
    }

    /// Where the members listen.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.members.iter().map(|member| member.addr).collect()
    }

    /// Where the members keep their files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a command on one member, such as `configureFailPoint` on `admin`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the member cannot be reached, [`Error::Protocol`] when it refuses.
    pub async fn command(&self, member: usize, database: &str, command: Document) -> Result<Document> {
        op_msg::command(self.members[member].addr, database, command).await
    }

    /// What a member wrote to its log.
    pub fn log(&self, member: usize) -> String {
        fs::read_to_string(self.members[member].folder.join(format!("{NAME}.log"))).unwrap_or_default()
    }

    /// The member that is the primary now, once there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when no member becomes the primary within [`START_LIMIT`].
    pub async fn primary(&self) -> Result<usize> {
        poll_until("the election of a primary", START_LIMIT, async || {
            for (number, member) in self.members.iter().enumerate() {
                if running(member).is_some() && is_primary(member.addr).await {
                    return Some(number);
                }
            }
            None
        })
        .await
    }

    /// Kills the primary with `SIGKILL` and gives its number. It stays down until it is
    /// [started](MongoReplicaSet::start_member) again.
    ///
    /// # Errors
    ///
    /// As [`MongoReplicaSet::primary`].
    pub async fn kill_primary(&self) -> Result<usize> {
        let primary = self.primary().await?;
        // Dropping a child kills it.
        drop(slot(&self.members[primary]).take());
        Ok(primary)
    }

    /// Makes the primary hand over to another member and gives the number of the former primary. With one member it
    /// is the primary again after a moment.
    ///
    /// # Errors
    ///
    /// As [`MongoReplicaSet::primary`]; [`Error::Protocol`] when it refuses.
    pub async fn step_down(&self) -> Result<usize> {
        let primary = self.primary().await?;
        // On a busy machine the others may take several rounds to elect one of them: until then this one must not stand.
        let rounds = if self.members.len() > 1 { 10 } else { 1 };
        let seconds = i64::try_from((ELECTION_TIMEOUT * rounds).as_secs()).unwrap_or(1);
        let request = doc! { "replSetStepDown": seconds, "secondaryCatchUpPeriodSecs": 1, "force": true };
        op_msg::command(self.members[primary].addr, "admin", request).await?;
        Ok(primary)
    }

    /// Ends a member politely. Nothing happens if it is down.
    ///
    /// # Errors
    ///
    /// As [`Child::stop`].
    pub async fn stop_member(&self, member: usize) -> Result<()> {
        let process = slot(&self.members[member]).take();
        match process {
            Some(process) => process.stop().await.map(drop),
            None => Ok(()),
        }
    }

    /// Starts a member again with what it had on disk, and returns when it follows the set. Nothing happens if it runs.
    ///
    /// # Errors
    ///
    /// As [`MongoReplicaSet::start`].
    pub async fn start_member(&self, member: usize) -> Result<()> {
        if running(&self.members[member]).is_none() {
            self.launch(member).await?;
        }
        self.await_health().await
    }

    /// Stops a member in its tracks, with `SIGSTOP`: its connections stay open and nobody answers.
    ///
    /// # Errors
    ///
    /// [`Error::Command`] when it is down.
    pub fn pause_member(&self, member: usize) -> Result<()> {
        self.signal(member, "STOP")
    }

    /// Lets a paused member go on.
    ///
    /// # Errors
    ///
    /// [`Error::Command`] when it is down.
    pub fn resume_member(&self, member: usize) -> Result<()> {
        self.signal(member, "CONT")
    }

    /// Ends all members.
    ///
    /// # Errors
    ///
    /// As [`Child::stop`].
    pub async fn stop(self) -> Result<()> {
        futures::future::try_join_all((0..self.members.len()).map(|member| self.stop_member(member))).await.map(drop)
    }

    fn signal(&self, member: usize, signal: &str) -> Result<()> {
        match &*slot(&self.members[member]) {
            Some(process) => process.signal(signal),
            None => Err(Error::protocol(format!("member {member}"), "it is down")),
        }
    }

    async fn launch(&self, number: usize) -> Result<()> {
        let member = &self.members[number];
        let mut command = server(&self.program, member.addr, &member.folder)?;
        command.args(["--replSet", SET, "--oplogSize", "64"]);
        let mut process = Child::spawn(NAME, command, &member.folder)?;
        process.wait_until("answering", async || answers(member.addr).await).await?;
        *slot(member) = Some(process);
        Ok(())
    }

    async fn initiate(&self) -> Result<()> {
        let members = self.members.iter().zip(0_i32..);
        let members: Vec<Document> =
            members.map(|(member, number)| doc! { "_id": number, "host": member.addr.to_string() }).collect();
        let timeout = i64::try_from(ELECTION_TIMEOUT.as_millis()).unwrap_or(i64::MAX);
        let settings = doc! { "electionTimeoutMillis": timeout, "heartbeatIntervalMillis": 500 };
        let config = doc! { "_id": SET, "members": members, "settings": settings };
        op_msg::command(self.members[0].addr, "admin", doc! { "replSetInitiate": config }).await.map(drop)
    }

    /// Waits until every member that runs is the primary or follows it.
    async fn await_health(&self) -> Result<()> {
        poll_until("a primary that all members follow", START_LIMIT, async || {
            let mut primaries = 0;
            for member in self.members.iter().filter(|member| running(member).is_some()) {
                let hello = hello(member.addr).await?;
                let is = |field| hello.get_bool(field).unwrap_or(false);
                primaries += usize::from(is("isWritablePrimary"));
                if !is("isWritablePrimary") && !is("secondary") {
                    return None;
                }
            }
            (primaries == 1).then_some(())
        })
        .await
    }
}

/// Where files are kept in memory, on Linux.
const MEMORY: &str = "/dev/shm";
/// What three members need, with room to spare, in KiB.
const MEMORY_NEEDED: u64 = 2 << 20;

/// A folder in memory, if there is room: members that wait for no disk are much faster, and what they keep there
/// survives their own death.
fn data_folder() -> Result<TempDir> {
    let room = Command::new("df").args(["-k", "--output=avail", MEMORY]).stderr(Stdio::null()).output().ok();
    let room = room.and_then(|output| String::from_utf8(output.stdout).ok()?.lines().nth(1)?.trim().parse().ok());
    if room.is_some_and(|kib: u64| kib >= MEMORY_NEEDED)
        && let Ok(folder) = tempfile::Builder::new().prefix("certlib-mongodb-").tempdir_in(MEMORY)
    {
        return Ok(folder);
    }
    temporary_folder("mongodb")
}

/// Removes a folder when the process that holds this ends without dropping it, as it does with everything in a static:
/// one set may serve all tests of a process.
#[derive(Debug)]
struct Sweeper(std::process::Child);

/// What is still written by members that are just being killed takes another turn.
const SWEEP: &str = r#"read -r _; for _ in 1 2 3 4 5 6 7 8 9 10; do rm -rf -- "$1" && exit; sleep 0.2; done"#;

impl Sweeper {
    fn start(folder: &Path) -> Result<Sweeper> {
        let mut command = Command::new("sh");
        command.args(["-c", SWEEP, "sweeper"]).arg(folder);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        command.spawn().map(Sweeper).map_err(Error::io("starting a sweeper"))
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        // The folder is removed by its own guard.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn slot(member: &Member) -> MutexGuard<'_, Option<Child>> {
    member.process.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The process id of a member, if it is up.
fn running(member: &Member) -> Option<u32> {
    slot(member).as_ref().map(Child::id)
}

/// A server with little memory and small files.
fn server(program: &Path, addr: SocketAddr, folder: &Path) -> Result<Command> {
    let data = folder.join("data");
    fs::create_dir_all(&data).map_err(Error::file("creating", &data))?;
    let mut command = Command::new(program);
    command.arg("--dbpath").arg(data).args(["--bind_ip", "127.0.0.1", "--nounixsocket"]);
    command.args(["--port", &addr.port().to_string(), "--wiredTigerCacheSizeGB", "0.25"]);
    command.args(["--wiredTigerEngineConfigString", "log=(prealloc=false,file_max=8MB)"]);
    for parameter in ["enableTestCommands=1", "ttlMonitorSleepSecs=1", "diagnosticDataCollectionEnabled=false"] {
        command.args(["--setParameter", parameter]);
    }
    Ok(command)
}

/// How a member sees itself and the set; nothing when it does not answer, as one that is paused.
async fn hello(addr: SocketAddr) -> Option<Document> {
    timeout(HELLO_LIMIT, op_msg::command(addr, "admin", doc! { "hello": 1 })).await.ok()?.ok()
}

async fn answers(addr: SocketAddr) -> bool {
    hello(addr).await.is_some()
}

async fn is_primary(addr: SocketAddr) -> bool {
    hello(addr).await.is_some_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or(false))
}
