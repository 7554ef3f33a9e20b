//! The memory of a process that changes the key under secrets, searched from outside while it does.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::Secret;
use certlib_core::client::Client;
use certlib_core::model::{Credential, KeyringState, RotationPhase};
use certlib_core::runtime::Runtime;
use certlib_core::secret::{KEK_LEN, Keyring, KeyringEnvelope, Sealed};
use certlib_core::store::{SharedStore, StoreExt as _, TypedQuery};
use certlib_store_sql::{SqliteOptions, SqliteStore};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::needles::find;

const SECRETS: usize = 2_000;
const SCANS: usize = 50;
/// How many keys the process may go through while it is scanned.
const KEYS: usize = 40;
const PATIENCE: Duration = Duration::from_secs(60);
/// How many bytes of an envelope a rewrap replaces: all before the commitment.
const HEAD: usize = Sealed::OVERHEAD - 32 - 12 - 16;

/// The secrets, and the keys under them.
struct Case {
    folder: tempfile::TempDir,
    keys: Vec<[u8; KEK_LEN]>,
    store: SharedStore,
    /// What every secret begins with.
    canary: [u8; 32],
    control: [u8; 32],
}

impl Case {
    /// Seals everything here: the process to look at never gets a secret in plain.
    async fn new(secrets: usize) -> Case {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("certlib.db");
        let store: SharedStore = Arc::new(SqliteStore::open(database, SqliteOptions::new()).await.unwrap());
        let keys: Vec<[u8; KEK_LEN]> = (0..KEYS).map(|_| rand::random()).collect();
        let case = Case { folder, keys, store, canary: rand::random(), control: rand::random() };
        let hex = |key: &[u8; KEK_LEN]| key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        fs::write(case.folder.path().join("keys"), case.keys.iter().map(hex).collect::<Vec<_>>().join("\n")).unwrap();
        fs::write(case.folder.path().join("control"), case.control).unwrap();
        let client = case.client(1);
        client.create_project("shop").await.unwrap();
        for number in 0..secrets {
            let secret = Secret::new(case.secret(number));
            client.create_credential("shop", &format!("secret {number}"), &secret).await.unwrap();
        }
        case
    }

    /// Credentials are JSON, so the canary is spelt in letters.
    fn secret(&self, number: usize) -> String {
        format!("\"{} {number}\"", self.word().repeat(8))
    }

    /// The canary as it is in a secret.
    fn word(&self) -> String {
        self.canary.iter().map(|byte| char::from(b'a' + byte % 26)).collect()
    }

    /// A client that has the first `keys` keys.
    fn client(&self, keys: usize) -> Client {
        let mut ring = Keyring::default();
        for (version, key) in (1..).zip(&self.keys[..keys]) {
            ring.add(version, Secret::new(*key)).unwrap();
        }
        Runtime::builder(self.store.clone(), Arc::new(KeyringEnvelope::new(ring))).build().unwrap().client()
    }

    async fn all(&self) -> Vec<Credential> {
        let all = self.store.list_all::<Credential>(TypedQuery::new()).await.unwrap();
        all.into_iter().map(|credential| credential.record).collect()
    }

    async fn state(&self) -> KeyringState {
        self.store.load::<KeyringState>(KeyringState::ID).await.unwrap().record
    }
}

/// The process that is looked at.
struct Subject {
    process: Child,
    id: u32,
}

impl Subject {
    async fn start(case: &Case, what: &str) -> Subject {
        let folder = case.folder.path();
        let mut process = Command::new(env!("CARGO_BIN_EXE_rewrap-node"))
            .arg(folder)
            .arg(what)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(folder.join("log")).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = timeout(PATIENCE, lines.next_line()).await.expect("the process begins").unwrap();
        assert_eq!(line.as_deref(), Some("ready"), "{}", fs::read_to_string(folder.join("log")).unwrap());
        // It goes on writing lines, which are few.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let id = process.id().unwrap();
        Subject { process, id }
    }

    async fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.id.to_string()]).status().await.unwrap();
        assert!(sent.success());
    }

    /// Stops it in its tracks.
    async fn pause(&self) {
        self.signal("-STOP").await;
        let deadline = Instant::now() + PATIENCE;
        let is_stopped = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.id)).unwrap();
            stat.rsplit_once(')').unwrap().1.trim_start().starts_with('T')
        };
        while !is_stopped() {
            assert!(Instant::now() < deadline, "it does not stop");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn resume(&self) {
        self.signal("-CONT").await;
    }

    /// Lets it end by itself.
    async fn finish(mut self) {
        drop(self.process.stdin.take());
        let ended = timeout(2 * PATIENCE, self.process.wait()).await.expect("the process ends").unwrap();
        assert!(ended.success(), "{ended}");
    }

    /// Which of `needles` are in its memory, and how much memory that is.
    fn scan<const N: usize>(&self, needles: [&[u8]; N]) -> ([bool; N], usize) {
        let memory = File::open(format!("/proc/{}/mem", self.id)).unwrap();
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.id)).unwrap();
        let (mut found, mut size) = ([false; N], 0);
        for line in maps.lines() {
            let mut words = line.split_whitespace();
            let (range, rights) = (words.next().unwrap(), words.next().unwrap());
            // The program's own code and constants are what the compiler made of them; these two cannot be read.
            if !rights.starts_with("rw") || line.ends_with("[vvar]") || line.ends_with("[vsyscall]") {
                continue;
            }
            let (start, end) = range.split_once('-').unwrap();
            let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).unwrap());
            let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
            memory.read_exact_at(&mut bytes, start).unwrap_or_else(|error| panic!("{line}: {error}"));
            size += bytes.len();
            for (found, needle) in found.iter_mut().zip(needles) {
                *found |= find(&bytes, needle).is_some();
            }
        }
        (found, size)
    }
}

/// The forms in which a rewrapper could hold a secret.
fn forms(needle: &[u8]) -> [Vec<u8>; 3] {
    let hex: String = needle.iter().map(|byte| format!("{byte:02x}")).collect();
    let base64 = STANDARD.encode(&needle[..30]);
    [needle.to_vec(), hex.into_bytes(), base64.into_bytes()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewrap_never_holds_a_secret_in_plain() {
    let case = Case::new(SECRETS).await;
    let mut before = case.all().await;
    let [raw, hex, base64] = forms(case.word().as_bytes());

    let subject = Subject::start(&case, "rewraps").await;
    let (mut scans, mut in_between, mut scanned) = (0, 0, 0);
    let deadline = Instant::now() + 4 * PATIENCE;
    while scans < SCANS {
        assert!(Instant::now() < deadline, "{scans} scans of a process at work");
        subject.pause().await;
        // Only what is looked at while secrets are wrapped anew counts.
        let rotation = case.state().await.rotation;
        if let Some(rotation) = rotation.filter(|rotation| rotation.phase == RotationPhase::Rewrap) {
            let (found, size) = subject.scan([&case.control, &raw, &hex, &base64]);
            assert_eq!(found, [true, false, false, false], "control, raw, hexadecimal, base64, in scan {scans}");
            scans += 1;
            in_between += usize::from(rotation.rewrapped > 0 && rotation.rewrapped < SECRETS as u64);
            scanned = size;
        }
        subject.resume().await;
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
    eprintln!("{scans} scans of {} MB, {in_between} of them in the middle of a pass", scanned / 1_000_000);
    assert!(in_between > 0, "no scan met it in the middle of its work");
    subject.finish().await;

    let log = fs::read(case.folder.path().join("log")).unwrap();
    assert!(find(&log, b"rotation").is_some(), "it logs");
    for form in [&raw, &hex, &base64] {
        assert_eq!(find(&log, form), None, "a secret in the log");
    }
    everything_is_as_before(&case, &mut before).await;
}

/// All secrets are under another key, and otherwise the same, byte for byte.
async fn everything_is_as_before(case: &Case, before: &mut [Credential]) {
    let state = case.state().await;
    assert!(state.primary.version > 1 && state.rotation.is_none(), "{state:?}");
    let client = case.client(KEYS);
    let mut after = case.all().await;
    for list in [&mut *before, &mut after] {
        list.sort_by(|one, other| one.id.cmp(&other.id));
    }
    assert_eq!(after.len(), before.len());
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(after.sealed.kek(), Some(state.primary.id));
        assert_ne!(after.sealed.as_bytes()[..HEAD], before.sealed.as_bytes()[..HEAD]);
        assert_eq!(after.sealed.as_bytes()[HEAD..], before.sealed.as_bytes()[HEAD..]);
        let number = after.name.trim_start_matches("secret ").parse().unwrap();
        assert_eq!(*client.open(after).await.unwrap().expose(), case.secret(number).as_bytes());
    }
}

/// So that the test above can fail: a process that opens a secret has it in its memory.
#[tokio::test]
async fn a_process_that_opens_a_secret_is_found_out() {
    let case = Case::new(3).await;
    let [raw, ..] = forms(case.word().as_bytes());
    let subject = Subject::start(&case, "opens").await;
    subject.pause().await;
    assert_eq!(subject.scan([&case.control, &raw]).0, [true, true]);
    subject.resume().await;
    subject.finish().await;
}
