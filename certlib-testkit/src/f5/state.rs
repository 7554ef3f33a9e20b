//! All that a simulated BIG-IP remembers, and how it answers.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use time::OffsetDateTime;

use super::{
    answer::{Answer, Outcome, Refusal},
    auth::{Logins, Session},
    call::Call,
    config::{Config, Surroundings},
    fault::Injection,
    history::Record,
    system::Partial,
    transaction::Transactions,
};

/// The simulator's memory.
#[derive(Debug)]
pub(super) struct State {
    pub(super) config: Config,
    /// Counts changes of `config`.
    pub(super) revision: u64,
    /// What is there after a reboot.
    pub(super) saved: Config,
    pub(super) saved_revision: u64,
    /// What the other unit of the device group has.
    pub(super) peer: Config,
    pub(super) synced_revision: u64,
    /// How many more looks at the status see a synchronization under way, and how many it takes.
    pub(super) syncing: u32,
    pub(super) sync_takes: u32,
    pub(super) sync_broken: bool,
    pub(super) group: Option<String>,
    pub(super) standby: bool,
    pub(super) logins: Logins,
    pub(super) uploads: BTreeMap<String, Vec<u8>>,
    pub(super) partial: BTreeMap<String, Partial>,
    pub(super) transactions: Transactions,
    /// Where the virtual servers listen.
    pub(super) listeners: BTreeMap<String, SocketAddr>,
    pub(super) faults: Vec<Injection>,
    pub(super) history: Vec<Record>,
    /// How far its clock has been moved.
    pub(super) ahead: Duration,
    started: Instant,
}

impl State {
    /// With this configuration, saved.
    pub(super) fn new(config: Config) -> Self {
        Self {
            saved: config.clone(),
            peer: config.clone(),
            config,
            revision: 0,
            saved_revision: 0,
            synced_revision: 0,
            syncing: 0,
            sync_takes: 0,
            sync_broken: false,
            group: None,
            standby: false,
            logins: Logins::default(),
            uploads: BTreeMap::new(),
            partial: BTreeMap::new(),
            transactions: Transactions::default(),
            listeners: BTreeMap::new(),
            faults: Vec::new(),
            history: Vec::new(),
            ahead: Duration::ZERO,
            started: Instant::now(),
        }
    }

    /// Time since it was started, by its own clock.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed() + self.ahead
    }

    fn at(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc() + self.ahead
    }

    /// Answers a request. `commit_fails` is what a commit among them fails with.
    pub(super) fn handle(&mut self, call: &Call, commit_fails: Option<&str>) -> Answer {
        self.handled(call, commit_fails).into()
    }

    fn handled(&mut self, call: &Call, commit_fails: Option<&str>) -> Outcome {
        let now = self.now();
        if (call.method.as_str(), call.path.as_str()) == ("POST", "shared/authn/login") {
            return self.logins.login(call, now, self.at());
        }
        let session = self.logins.admit(call, now)?;
        session.check(call)?;
        self.dispatch(call, &session, commit_fails)
    }

    /// Answers somebody who has been let in.
    pub(super) fn dispatch(&mut self, call: &Call, session: &Session, commit_fails: Option<&str>) -> Outcome {
        let now = self.now();
        self.transactions.expire(now);
        if let ["shared", "authz", "tokens", token] = call.route().as_slice() {
            return self.logins.token(call, token, session, now, self.at());
        }
        if let ["tm", "transaction", rest @ ..] = call.route().as_slice() {
            return self.transaction(call, rest, commit_fails);
        }
        if let Some(id) = &call.coordination {
            return self.transactions.add(id, call, now);
        }
        match call.route().as_slice() {
            ["shared", "file-transfer", "uploads", name] if call.method == "POST" => self.upload(call, name),
            _ if Config::knows(call) && call.method == "GET" => self.config.look(call),
            _ if Config::knows(call) => self.change(std::slice::from_ref(call)),
            _ => self.system(call),
        }
    }

    fn transaction(&mut self, call: &Call, rest: &[&str], commit_fails: Option<&str>) -> Outcome {
        let now = self.now();
        match (call.method.as_str(), rest) {
            ("POST", []) => Ok(self.transactions.begin(now)),
            ("GET", [id]) => self.transactions.look(id),
            ("GET", [id, "commands"]) => self.transactions.commands(id),
            ("DELETE", [id]) => self.transactions.abandon(id),
            ("PATCH", [id]) => {
                let (id, rehearsal) = self.transactions.committing(id, call)?;
                let commands = self.transactions.known.get(&id).map(|known| known.commands.clone());
                let commands = commands.unwrap_or_default();
                let outcome = match commit_fails {
                    Some(message) => Err(Refusal::invalid(message)),
                    None if rehearsal => self.rehearse(&commands).map(drop),
                    None => self.change(&commands).map(drop),
                };
                self.transactions.decided(id, rehearsal, outcome)
            }
            _ => Err(Refusal::no_route(&call.path)),
        }
    }

    /// Carries out all commands, or none; answers as the last of them does.
    fn change(&mut self, commands: &[Call]) -> Outcome {
        let (next, answer) = self.rehearse(commands)?;
        self.config = next;
        self.revision += 1;
        Ok(answer)
    }

    /// What the configuration would become.
    fn rehearse(&self, commands: &[Call]) -> Result<(Config, serde_json::Value), Refusal> {
        let around = Surroundings { uploads: &self.uploads, now: self.at() };
        let mut next = self.config.clone();
        let mut answer = serde_json::Value::Null;
        for command in commands {
            if command.method == "DELETE" {
                next.check_unused(command)?;
            }
            answer = next.change(&around, command)?;
        }
        next.check()?;
        Ok((next, answer))
    }
}
