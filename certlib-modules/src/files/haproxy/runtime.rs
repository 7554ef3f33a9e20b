//! The commands of HAProxy's runtime API, one connection each (HAProxy Management Guide, section 9.3, "ssl cert").
//!
//! What HAProxy says in words decides nothing: it is asked what it has, before and after. One transaction serves all
//! certificates, and `set ssl cert` of one certificate writes into the open transaction of another, so each step
//! looks whether the transaction is still ours.

use std::time::Duration;

use certlib_core::secret::SecretBytes;
use certlib_core::{Error, Result, Secret};
use rand::RngExt as _;
use tokio::time::sleep;

use crate::files::filesystem::FileSystem;

const OPERATION: &str = "files.haproxy";

/// How often something is tried while others have the transaction, or while HAProxy is at work on a commit and shows
/// nothing: for about three seconds. A client that means to commit does so within a fraction of that.
const TRIES: u32 = 30;

/// How often HAProxy may refuse: another client may have spoilt the first try without a trace.
const REFUSALS: u32 = 4;

/// The shortest pause between two tries; the longest is three times that.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// One certificate of one HAProxy.
#[derive(Debug)]
pub(super) struct Runtime<'a> {
    pub(super) fs: &'a dyn FileSystem,
    pub(super) socket: &'a str,
    /// The name that HAProxy knows it by.
    pub(super) certificate: &'a str,
    pub(super) timeout: Duration,
    /// [`PAUSE`]
    pub(super) pause: Duration,
}

/// What HAProxy has.
#[derive(Debug, Default, PartialEq, Eq)]
struct State {
    /// SHA-1 of the leaf of what was asked for, lower-case hex.
    leaf: Option<String>,
    /// The certificate that the open transaction is about.
    transaction: Option<String>,
    /// Whether it was HAProxy that answered.
    lists: bool,
    /// The certificates that it has.
    names: Vec<String>,
}

/// How one try ended.
enum Try {
    Done,
    /// Others spoilt the transaction.
    Busy,
    /// Others have the transaction, which is about this certificate.
    Taken(String),
    Refused,
}

/// A transaction of others, as it was seen.
#[derive(Debug, Default)]
struct Others {
    name: String,
    /// SHA-1 of the leaf that it would put in place.
    leaf: Option<String>,
    /// How often it was seen like this, one time after the other.
    looks: u32,
}

impl Runtime<'_> {
    /// SHA-1 of the leaf that it has in memory, lower-case hex.
    ///
    /// # Errors
    /// `Validation` `haproxy_certificate_unknown`; `IoPermanent` `haproxy_not_understood`; as [`FileSystem::ask`].
    pub(super) async fn leaf(&self) -> Result<String> {
        self.require_leaf(&self.look("", self.certificate).await?)
    }

    /// Has it serve `pem`, whose leaf has the SHA-1 `leaf`. Does no harm when it does so already.
    ///
    /// Whoever died with the transaction open would block every certificate of this HAProxy for good. So one that others
    /// have opened is aborted once it has stayed as it is through all [`TRIES`].
    ///
    /// # Errors
    /// As [`leaf`](Self::leaf); `IoPermanent` `haproxy_refused`; `IoTransient` `haproxy_busy`.
    pub(super) async fn serve(&self, pem: &SecretBytes, leaf: &str) -> Result<()> {
        let mut refusals = 0;
        let mut others = Others::default();
        for attempt in 0..2 * TRIES {
            if attempt > 0 {
                self.pause().await;
            }
            match self.attempt(pem, leaf).await? {
                Try::Done => return Ok(()),
                Try::Busy => others = Others::default(),
                Try::Taken(name) => self.wait_for(name, &mut others).await?,
                Try::Refused if refusals < REFUSALS => refusals += 1,
                Try::Refused => return Err(self.refused(pem)),
            }
        }
        Err(self.place(Error::transient(OPERATION, "haproxy_busy", "others kept HAProxy's only transaction")))
    }

    /// Aborts a transaction of ours that a delivery left open: under our name, or, of the leaf `leaf`, under another.
    ///
    /// # Errors
    /// As [`leaf`](Self::leaf).
    pub(super) async fn withdraw(&self, leaf: Option<&str>) -> Result<()> {
        let staged = self.look("*", self.certificate).await?;
        let has_ours = staged.leaf.is_some() && staged.leaf.as_deref() == leaf;
        match staged.transaction.as_deref() {
            Some(name) if name == self.certificate || has_ours => self.abort(name).await,
            _ => Ok(()),
        }
    }

    async fn attempt(&self, pem: &SecretBytes, leaf: &str) -> Result<Try> {
        let before = self.look("", self.certificate).await?;
        self.require_leaf(&before)?;
        match before.transaction {
            None => {}
            // An earlier attempt may have died with it open.
            Some(name) if name == self.certificate => self.abort(&name).await?,
            Some(name) => return Ok(Try::Taken(name)),
        }
        let outcome = self.exchange(pem, leaf).await;
        if !matches!(outcome, Ok(Try::Done))
            && let Err(error) = self.withdraw(Some(leaf)).await
        {
            // Best effort: the next attempt, or the rollback, does it.
            tracing::warn!(%error, "HAProxy's transaction may have been left open");
        }
        outcome
    }

    /// Stages and commits. Unless it is done, the transaction may be open.
    async fn exchange(&self, pem: &SecretBytes, leaf: &str) -> Result<Try> {
        self.set(pem).await?;
        let staged = self.look("*", self.certificate).await?;
        match staged.transaction.as_deref() {
            None => return Ok(Try::Refused),
            Some(name) if name != self.certificate => {
                // It began after we looked, and now has our key in it: it must not be committed.
                self.abort(name).await?;
                return Ok(Try::Busy);
            }
            Some(_) if staged.leaf.as_deref() != Some(leaf) => return Ok(Try::Busy),
            Some(_) => {}
        }
        self.command(&format!("commit ssl cert {}", self.certificate)).await?;
        let after = self.look("", self.certificate).await?;
        // A commit that was refused leaves it open, for everybody to stumble over.
        let ours_is_open = after.transaction.as_deref() == Some(self.certificate);
        match (after.leaf.as_deref() == Some(leaf), ours_is_open) {
            (true, false) => Ok(Try::Done),
            (_, true) => Ok(Try::Refused),
            (false, false) => Ok(Try::Busy),
        }
    }

    /// Counts how long the transaction about `name` has been as it is; aborts it when it counts as left behind.
    async fn wait_for(&self, name: String, others: &mut Others) -> Result<()> {
        if !is_plain(&name) {
            return Ok(());
        }
        let staged = self.look("*", &name).await?;
        if staged.transaction.as_ref() != Some(&name) {
            *others = Others::default();
            return Ok(());
        }
        if (&others.name, &others.leaf) != (&name, &staged.leaf) {
            *others = Others { name, leaf: staged.leaf, looks: 0 };
        }
        others.looks += 1;
        if others.looks < TRIES {
            return Ok(());
        }
        tracing::warn!(others.name, "aborting a transaction that somebody left open in HAProxy");
        let aborted = self.abort(&others.name).await;
        *others = Others::default();
        aborted
    }

    /// Asks for a certificate, or with the prefix `*` for what the transaction would make of it.
    async fn look(&self, prefix: &str, certificate: &str) -> Result<State> {
        for attempt in 0..TRIES {
            if attempt > 0 {
                self.pause().await;
            }
            let answer = self.command(&format!("show ssl cert {prefix}{certificate};show ssl cert")).await?;
            let state = State::read(&String::from_utf8_lossy(&answer), &format!("{prefix}{certificate}"));
            // While it is at work on a commit it shows nothing of a certificate that it lists.
            let is_held_back = state.leaf.is_none() && state.has(prefix, certificate);
            if state.lists && (!is_held_back || attempt + 1 == TRIES) {
                return Ok(state);
            }
        }
        Err(self.place(Error::permanent(
            OPERATION,
            "haproxy_not_understood",
            "what answers does not show certificates: HAProxy before 2.2, a socket without `level admin`, or another program",
        )))
    }

    fn require_leaf(&self, state: &State) -> Result<String> {
        state.leaf.clone().ok_or_else(|| {
            self.place(Error::validation(
                OPERATION,
                "haproxy_certificate_unknown",
                "HAProxy has loaded no certificate of this name; its configuration has to name the file first",
            ))
        })
    }

    async fn set(&self, pem: &SecretBytes) -> Result<()> {
        let start = format!("set ssl cert {} <<\n", self.certificate);
        // Exactly as large as needed, so that growing leaves no copy of the key behind.
        let mut request = Vec::with_capacity(start.len() + pem.expose().len() + 1);
        request.extend_from_slice(start.as_bytes());
        request.extend_from_slice(pem.expose());
        // The empty line that ends it.
        request.push(b'\n');
        self.fs.ask(self.socket, &Secret::new(request), self.timeout).await.map(drop)
    }

    async fn abort(&self, name: &str) -> Result<()> {
        self.command(&format!("abort ssl cert {name}")).await.map(drop)
    }

    async fn command(&self, line: &str) -> Result<Vec<u8>> {
        self.fs.ask(self.socket, &Secret::new(format!("{line}\n").into_bytes()), self.timeout).await
    }

    async fn pause(&self) {
        let pause = rand::rng().random_range(self.pause..=3 * self.pause);
        sleep(pause).await;
    }

    fn refused(&self, pem: &SecretBytes) -> Error {
        self.place(Error::permanent(
            OPERATION,
            "haproxy_refused",
            "HAProxy does not take this certificate: certificate and key do not fit or are too weak, it is larger than \
             tune.bufsize, or the socket is not at level admin",
        ))
        .with("bytes", pem.expose().len())
    }

    fn place(&self, error: Error) -> Error {
        error.with("socket", self.socket.escape_debug()).with("certificate", self.certificate)
    }
}

/// Whether `name` can be a word of a command.
pub(super) fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:,=%~".contains(c);
    !name.is_empty() && name.len() <= 1024 && name.chars().all(plain)
}

impl State {
    /// Whether the list says that there is such a certificate, or with the prefix `*` such a transaction.
    fn has(&self, prefix: &str, certificate: &str) -> bool {
        match prefix {
            "" => self.names.iter().any(|name| name == certificate),
            _ => self.transaction.as_deref() == Some(certificate),
        }
    }

    /// Reads the answer to `show ssl cert NAME;show ssl cert`.
    fn read(answer: &str, name: &str) -> Self {
        let mut state = Self::default();
        let (mut shown, mut after_heading, mut in_list) = (false, false, false);
        for line in answer.lines() {
            if after_heading {
                state.transaction = line.strip_prefix('*').map(str::to_owned);
            }
            after_heading = line == "# transaction";
            state.lists |= line == "# transaction" || line == "# filename";
            if in_list && !line.is_empty() {
                state.names.push(line.to_owned());
            }
            in_list = line == "# filename" || (in_list && !line.is_empty());
            if let Some(filename) = line.strip_prefix("Filename: ") {
                shown = filename == name;
            } else if let Some(leaf) = line.strip_prefix("SHA1 FingerPrint: ").filter(|_| shown) {
                state.leaf = Some(leaf.to_ascii_lowercase());
            }
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, MutexGuard};

    use async_trait::async_trait;

    use super::*;
    use crate::files::{Attributes, CommandOutput, Found, Replaced};

    #[test]
    fn answers_of_haproxy_2_6() {
        let details = |name: &str| {
            format!(
                "Filename: {name}\nStatus: Used\nSerial: 35D1\nAlgorithm: EC256\n\
                 SHA1 FingerPrint: A3AA7798BA9929691C36751E7418617E07C9172A\nSubject: /CN=localhost\n\n"
            )
        };
        let leaf = Some("a3aa7798ba9929691c36751e7418617e07c9172a".to_owned());
        let list = "# filename\n/a.pem\n/b.pem\n\n";
        let names = vec!["/a.pem".to_owned(), "/b.pem".to_owned()];
        let known = State::read(&(details("/a.pem") + list), "/a.pem");
        assert_eq!(known, State { leaf: leaf.clone(), transaction: None, lists: true, names: names.clone() });
        let open = format!("{}# transaction\n*/b.pem\n{list}", details("*/a.pem"));
        let open = State::read(&open, "*/a.pem");
        let transaction = Some("/b.pem".to_owned());
        assert_eq!(open, State { leaf, transaction, lists: true, names: names.clone() });
        assert!(
            open.has("*", "/b.pem") && !open.has("*", "/a.pem") && open.has("", "/a.pem") && !open.has("", "/c.pem")
        );
        let unknown = State::read(&format!("Can't display the certificate\n\n{list}"), "/c.pem");
        assert_eq!(unknown, State { leaf: None, transaction: None, lists: true, names });
        // Another program, or somebody else's certificate.
        assert_eq!(State::read("220 mail ESMTP\n", "/a.pem"), State::default());
        assert_eq!(State::read(&(details("/b.pem") + list), "/a.pem").leaf, None);
    }

    /// HAProxy, as far as it matters here: what is a certificate elsewhere is only a leaf.
    #[derive(Debug, Default)]
    struct Fake(Mutex<Memory>);

    #[derive(Debug, Default)]
    struct Memory {
        leaf: String,
        /// About which certificate, and with which leaf.
        transaction: Option<(String, String)>,
        asked: Vec<String>,
        /// The command, counted from 0, whose answer is lost.
        loses: Option<usize>,
        /// Whether somebody else changes what is staged after each command.
        restless: bool,
        /// How many times no details are shown, as during a commit.
        held_back: u32,
    }

    impl Fake {
        fn memory(&self) -> MutexGuard<'_, Memory> {
            self.0.lock().unwrap()
        }

        async fn serve(&self) -> Result<()> {
            let (timeout, pause) = (Duration::from_secs(1), Duration::ZERO);
            let runtime = Runtime { fs: self, socket: "/s", certificate: "/a.pem", timeout, pause };
            runtime.serve(&Secret::new(b"new".to_vec()), "new").await
        }
    }

    impl Memory {
        fn answer(&mut self, request: &str) -> String {
            let (line, rest) = request.split_once('\n').unwrap();
            let name = line.split(' ').nth(3).unwrap().trim_end_matches(";show").to_owned();
            let mut answer = String::new();
            match line.split(' ').next().unwrap() {
                "set" => {
                    let about = self.transaction.take().map_or(name, |(about, _)| about);
                    self.transaction = Some((about, rest.trim().to_owned()));
                }
                "abort" => drop(self.transaction.take_if(|(about, _)| *about == name)),
                "commit" => {
                    if let Some((_, leaf)) = self.transaction.take_if(|(about, _)| *about == name) {
                        self.leaf = leaf;
                    }
                }
                _ => {
                    let staged = self.transaction.as_ref().filter(|(about, _)| name == format!("*{about}"));
                    let leaf = staged.map(|(_, leaf)| leaf).or((name == "/a.pem").then_some(&self.leaf));
                    if self.held_back > 0 {
                        self.held_back -= 1;
                        answer = "Can't display the certificate\n\n".to_owned();
                    } else if let Some(leaf) = leaf {
                        answer = format!("Filename: {name}\nSHA1 FingerPrint: {leaf}\n\n");
                    }
                    if let Some((about, _)) = &self.transaction {
                        answer += &format!("# transaction\n*{about}\n");
                    }
                    answer += "# filename\n/a.pem\n/b.pem\n\n";
                }
            }
            if let Some((_, leaf)) = self.transaction.as_mut().filter(|_| self.restless) {
                *leaf = format!("their {}", self.asked.len());
            }
            self.asked.push(line.to_owned());
            answer
        }
    }

    #[async_trait]
    impl FileSystem for Fake {
        async fn ask(&self, _: &str, request: &SecretBytes, _: Duration) -> Result<Vec<u8>> {
            let mut memory = self.memory();
            let answer = memory.answer(std::str::from_utf8(request.expose()).unwrap());
            if memory.loses == Some(memory.asked.len() - 1) {
                return Err(Error::network("test", "socket_timeout", "lost"));
            }
            Ok(answer.into_bytes())
        }

        async fn observe(&self, _: &str, _: usize) -> Result<Found> {
            unreachable!()
        }

        async fn free_space(&self, _: &str) -> Result<Option<u64>> {
            unreachable!()
        }

        async fn real_directory(&self, _: &str) -> Result<String> {
            unreachable!()
        }

        async fn stage(&self, _: &str, _: &[u8], _: &Attributes) -> Result<bool> {
            unreachable!()
        }

        async fn replace(&self, _: &str, _: &str) -> Result<Replaced> {
            unreachable!()
        }

        async fn remove(&self, _: &str) -> Result<()> {
            unreachable!()
        }

        async fn sync_directory(&self, _: &str) -> Result<()> {
            unreachable!()
        }

        async fn run(&self, _: &str, _: Duration) -> Result<CommandOutput> {
            unreachable!()
        }
    }

    #[tokio::test]
    async fn whatever_is_lost_no_transaction_stays_open() {
        let smooth = Fake::default();
        smooth.serve().await.unwrap();
        let commands = {
            let memory = smooth.memory();
            assert_eq!((memory.leaf.as_str(), &memory.transaction), ("new", &None));
            memory.asked.len()
        };
        assert_eq!(commands, 5);
        for lost in 0..commands {
            let fake = Fake::default();
            fake.memory().loses = Some(lost);
            assert_eq!(fake.serve().await.unwrap_err().code(), "socket_timeout", "{lost}");
            let memory = fake.memory();
            assert_eq!(memory.transaction, None, "{lost}: {:?}", memory.asked);
        }
    }

    #[tokio::test]
    async fn a_transaction_that_stays_as_it_is_was_left_behind() {
        let fake = Fake::default();
        fake.memory().transaction = Some(("/b.pem".into(), "theirs".into()));
        fake.serve().await.unwrap();
        let memory = fake.memory();
        assert_eq!((memory.leaf.as_str(), &memory.transaction), ("new", &None));
        let before = memory.asked.iter().take_while(|line| *line != "abort ssl cert /b.pem");
        let looks = before.filter(|line| line.starts_with("show ssl cert */b.pem")).count();
        assert_eq!(looks, TRIES as usize, "it is given all the time that there is");
    }

    #[tokio::test]
    async fn a_transaction_that_others_work_on_is_waited_for() {
        let fake = Fake::default();
        fake.memory().restless = true;
        fake.memory().transaction = Some(("/b.pem".into(), "theirs".into()));
        assert_eq!(fake.serve().await.unwrap_err().code(), "haproxy_busy");
        let memory = fake.memory();
        assert_eq!(memory.transaction.as_ref().unwrap().0, "/b.pem");
        assert!(memory.asked.iter().all(|line| line.starts_with("show")), "{:?}", memory.asked);
    }

    #[tokio::test]
    async fn a_certificate_that_is_not_shown_for_a_moment_is_not_unknown() {
        let fake = Fake::default();
        fake.memory().held_back = 3;
        fake.serve().await.unwrap();
        let memory = fake.memory();
        assert_eq!((memory.leaf.as_str(), memory.asked.len()), ("new", 8));
    }

    #[tokio::test]
    async fn what_others_spoil_is_withdrawn() {
        let fake = Fake::default();
        fake.memory().restless = true;
        assert_eq!(fake.serve().await.unwrap_err().code(), "haproxy_busy");
        let memory = fake.memory();
        assert_eq!((memory.leaf.as_str(), &memory.transaction), ("", &None));
    }
}
