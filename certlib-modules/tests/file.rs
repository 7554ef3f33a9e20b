//! The `file` module, and delivery as files under every crash that can be staged.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::clock::{Clock as _, ManualClock, SystemClock};
use certlib_core::module::{
    ApprovedPlan, Facts, Journal, JournalSink, MemoryJournal, Plan, RollbackOutcome, Validation,
};
use certlib_core::secret::SecretBytes;
use certlib_core::{CertificateBundle, Context, Effect, Error, ErrorClass, Result};
use certlib_modules::file::LocalFileSystem;
use certlib_modules::files::{
    Attributes, CommandOutput, Delivery, FileSystem, Found, Layout, Replaced, Settings, Undo,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use self::common::{Subject, certificate, journal, served};

/// A directory with an old pair in it, and a log that the commands write.
struct Machine {
    folder: TempDir,
    old: CertificateBundle,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { folder: tempfile::tempdir().unwrap(), old: certificate(&["old.test"]).1 };
        machine.put(&machine.old);
        machine
    }

    fn at(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn put(&self, bundle: &CertificateBundle) {
        fs::write(self.at("cert.pem"), bundle.fullchain_pem()).unwrap();
        fs::write(self.at("key.pem"), bundle.key_pem().unwrap().expose()).unwrap();
        fs::set_permissions(self.at("key.pem"), fs::Permissions::from_mode(0o640)).unwrap();
    }

    fn holds(&self, bundle: &CertificateBundle) -> bool {
        self.file_is("cert.pem", bundle) && self.file_is("key.pem", bundle)
    }

    /// Whether one file is the one of `bundle`, whole, with the mode it always had.
    fn file_is(&self, name: &str, bundle: &CertificateBundle) -> bool {
        let (content, mode) = match name {
            "cert.pem" => (bundle.fullchain_pem(), 0o644),
            _ => (bundle.key_pem().unwrap().expose().clone(), 0o640),
        };
        fs::metadata(self.at(name)).unwrap().mode() & 0o777 == mode
            && fs::read_to_string(self.at(name)).unwrap() == content
    }

    fn location(&self) -> Value {
        json!({"root": self.at("")[..self.at("").len() - 1], "paths": {"fullchain": self.at("cert.pem"), "key": self.at("key.pem")}})
    }

    /// The test command accepts a pair of either bundle only; both commands are logged.
    fn config(&self) -> Value {
        json!({
            "test_command": format!("echo test >> '{}'", self.at("log")),
            "reload_command": format!("echo reload >> '{0}'; cat '{1}' '{2}' > '{3}'",
                self.at("log"), self.at("cert.pem"), self.at("key.pem"), self.at("loaded")),
        })
    }

    fn subject(&self) -> Subject {
        Subject::new("file", self.config(), self.location(), None)
    }

    fn log(&self) -> Vec<String> {
        fs::read_to_string(self.at("log")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// What the imagined service has in memory.
    fn loaded(&self, bundle: &CertificateBundle) -> bool {
        let wanted = bundle.fullchain_pem() + bundle.key_pem().unwrap().expose();
        fs::read_to_string(self.at("loaded")).is_ok_and(|loaded| loaded == wanted)
    }

    fn strays(&self) -> usize {
        fs::read_dir(self.folder.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains(".certlib-"))
            .count()
    }
}

// ---------------------------------------------------------------- the module

#[tokio::test]
async fn delivered_and_taken_back() {
    let machine = Machine::new();
    let subject = machine.subject();
    let (_, new) = certificate(&["new.test"]);
    let plan = subject.plan(&new).await.unwrap();
    assert_eq!(plan, subject.plan(&new).await.unwrap());
    assert!(machine.holds(&machine.old) && machine.log().is_empty(), "a dry run changes nothing");

    let journal = journal();
    subject.execute(&new, plan, &journal).await.unwrap();
    assert!(machine.holds(&new) && machine.loaded(&new));
    assert_eq!(machine.log(), ["test", "reload"]);
    assert!(served(&subject.validate(&new).await.unwrap()));
    assert!(matches!(subject.validate(&machine.old).await.unwrap(), Validation::NotServed { .. }));

    for _ in 0..3 {
        assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
        assert!(machine.holds(&machine.old) && machine.loaded(&machine.old));
    }
    assert_eq!(machine.strays(), 0);
}

#[tokio::test]
async fn delivering_again_does_nothing() {
    let machine = Machine::new();
    let subject = machine.subject();
    let (_, new) = certificate(&["new.test"]);
    subject.deliver(&new, &journal()).await.unwrap();
    let again = subject.deliver(&new, &journal()).await.unwrap();
    assert_eq!(again.0["changed"], json!([]));
    assert_eq!(machine.log(), ["test", "reload"]);
}

#[tokio::test]
async fn a_changed_mode_is_put_right_and_taken_back() {
    let machine = Machine::new();
    let (_, new) = certificate(&["new.test"]);
    machine.put(&new);
    let key = json!({"path": machine.at("key.pem"), "mode": "0600"});
    let location = json!({"paths": {"fullchain": machine.at("cert.pem"), "key": key}});
    let subject = Subject::new("file", machine.config(), location, None);
    let mode = || fs::metadata(machine.at("key.pem")).unwrap().mode() & 0o777;
    let journal = journal();
    let facts = subject.deliver(&new, &journal).await.unwrap();
    assert_eq!((facts.0["changed"].clone(), mode()), (json!([machine.at("key.pem")]), 0o600));
    subject.rollback(&journal).await.unwrap();
    assert_eq!(mode(), 0o640);
}

#[tokio::test]
async fn owners_by_name_and_number() {
    let machine = Machine::new();
    let (_, new) = certificate(&["new.test"]);
    let me = fs::metadata(machine.folder.path()).unwrap();
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let my_name = users.lines().find(|line| line.split(':').nth(2) == Some(&me.uid().to_string())).unwrap();
    let my_name = my_name.split(':').next().unwrap();
    let subject = |owner: &str| {
        let key = json!({"path": machine.at("key.pem"), "owner": owner, "group": me.gid().to_string()});
        Subject::new("file", machine.config(), json!({"paths": {"key": key}}), None)
    };
    subject(my_name).deliver(&new, &journal()).await.unwrap();
    assert_eq!(subject("no-such-user").plan(&new).await.unwrap_err().code(), "owner_unknown");
    if me.uid() == 0 {
        subject("12345").deliver(&new, &journal()).await.unwrap();
        assert_eq!(fs::metadata(machine.at("key.pem")).unwrap().uid(), 12345);
    }
}

#[tokio::test]
async fn links_out_of_the_root_are_refused() {
    let machine = Machine::new();
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir(machine.at("inside")).unwrap();
    symlink(outside.path(), machine.at("inside/out")).unwrap();
    fs::write(outside.path().join("real.pem"), "x").unwrap();
    symlink(outside.path().join("real.pem"), machine.at("inside/link.pem")).unwrap();
    let (_, new) = certificate(&["new.test"]);
    for path in ["inside/out/cert.pem", "inside/link.pem"] {
        let location = json!({"root": machine.at("inside"), "paths": {"cert": machine.at(path)}});
        let error = Subject::new("file", json!({}), location, None).plan(&new).await.unwrap_err();
        assert_eq!(error.code(), "path_escapes_root", "{path}");
    }
    symlink(machine.at("cert.pem"), machine.at("alias.pem")).unwrap();
    let location = json!({"paths": {"cert": machine.at("cert.pem"), "fullchain": machine.at("alias.pem")}});
    let error = Subject::new("file", json!({}), location, None).plan(&new).await.unwrap_err();
    assert_eq!(error.code(), "path_duplicate");
}

#[tokio::test]
async fn bad_commands() {
    let (_, new) = certificate(&["new.test"]);
    for (command, code, class) in [
        ("echo no >&2; exit 3", "command_failed", ErrorClass::IoPermanent),
        ("sleep 60", "command_timeout", ErrorClass::IoTransient),
        ("cat /dev/zero", "command_timeout", ErrorClass::IoTransient),
        ("no-such-program", "command_failed", ErrorClass::IoPermanent),
    ] {
        let machine = Machine::new();
        let config = json!({"reload_command": command, "command_timeout_ms": 300});
        let subject = Subject::new("file", config, machine.location(), None);
        let journal = journal();
        let error = subject.deliver(&new, &journal).await.unwrap_err();
        assert_eq!((error.code(), error.class(), error.effect()), (code, class, Effect::Possible), "{command}");
        assert!(machine.holds(&new));
        // Takes the files back; the command is as bad as before.
        assert_eq!(subject.rollback(&journal).await.unwrap_err().code(), code);
        assert!(machine.holds(&machine.old));
    }
}

#[tokio::test]
async fn a_service_that_is_not_well_after_the_reload_gets_its_former_files() {
    let machine = Machine::new();
    let (_, new) = certificate(&["new.test"]);
    let mut config = machine.config();
    // This service cannot stand the new certificate.
    let well =
        format!("echo check >> '{}'; cmp -s '{}' '{}'", machine.at("log"), machine.at("loaded"), machine.at("well"));
    config["after_reload_check"] = well.into();
    let old = machine.old.fullchain_pem() + machine.old.key_pem().unwrap().expose();
    fs::write(machine.at("well"), old).unwrap();
    let subject = Subject::new("file", config, machine.location(), None);
    let plan = subject.plan(&new).await.unwrap();
    assert!(plan.to_string().trim_end().lines().last().unwrap().contains("test echo check"), "{plan}");
    let journal = journal();
    let error = subject.execute(&new, plan, &journal).await.unwrap_err();
    assert_eq!(
        (error.code(), error.class(), error.effect()),
        ("check_failed", ErrorClass::IoPermanent, Effect::Possible)
    );
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert!(machine.holds(&machine.old) && machine.loaded(&machine.old));
    assert_eq!(machine.log(), ["test", "reload", "check"].repeat(2));
    // Neither the new files nor the former ones: then the rollback has to say so.
    fs::write(machine.at("well"), "").unwrap();
    assert_eq!(subject.rollback(&journal).await.unwrap_err().code(), "check_failed");
    assert!(machine.holds(&machine.old));
}

#[tokio::test]
async fn an_expired_certificate_does_not_come_back() {
    let machine = Machine::new();
    let mut subject = machine.subject();
    let (_, new) = certificate(&["new.test"]);
    let journal = journal();
    subject.deliver(&new, &journal).await.unwrap();
    let later = ManualClock::new(SystemClock::new().now() + time::Duration::days(60));
    subject.cx = Context::with(Arc::new(later), Default::default(), "operation");
    let RollbackOutcome::Refused { code, .. } = subject.rollback(&journal).await.unwrap() else {
        panic!("an expired certificate came back")
    };
    assert_eq!(code, "backup_expired");
    assert!(machine.holds(&new));
}

#[tokio::test]
async fn a_journal_of_nothing_is_nothing_to_undo() {
    let machine = Machine::new();
    assert_eq!(machine.subject().rollback(&journal()).await.unwrap(), RollbackOutcome::NothingToDo);
}

/// Somebody reads both files all the time: each is there, and whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_never_see_half_a_file() {
    let machine = Machine::new();
    let subject = machine.subject();
    let (_, new) = certificate(&["new.test"]);
    let wanted: BTreeMap<String, [Vec<u8>; 2]> = [
        (machine.at("cert.pem"), [machine.old.fullchain_pem().into_bytes(), new.fullchain_pem().into_bytes()]),
        (
            machine.at("key.pem"),
            [&machine.old, &new].map(|bundle| bundle.key_pem().unwrap().expose().clone().into_bytes()),
        ),
    ]
    .into();
    let stop = Arc::new(AtomicBool::new(false));
    let reader = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut reads = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                for (path, versions) in &wanted {
                    let content = fs::read(path).expect("the file is always there");
                    assert!(versions.contains(&content), "half a file at {path}");
                    reads += 1;
                }
            }
            reads
        }
    });
    for _ in 0..20 {
        let journal = journal();
        subject.deliver(&new, &journal).await.unwrap();
        subject.rollback(&journal).await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    assert!(reader.join().unwrap() > 100);
}

// ---------------------------------------------------------------- crashes

/// Dies at the n-th thing that it is asked to do, before or after doing it, and does nothing afterwards.
#[derive(Debug)]
struct Mortal {
    left: AtomicUsize,
    after: bool,
    dead: AtomicBool,
}

impl Mortal {
    fn new(steps: usize, after: bool) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(steps), after, dead: AtomicBool::new(false) })
    }

    async fn step<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let died = || Error::network("test", "died", "the process died here").with_effect(Effect::Possible);
        if self.dead.load(Ordering::SeqCst) {
            return Err(died());
        }
        if self.left.fetch_sub(1, Ordering::SeqCst) != 1 {
            return work.await;
        }
        self.dead.store(true, Ordering::SeqCst);
        if self.after {
            work.await?;
        }
        Err(died())
    }
}

#[derive(Debug)]
struct MortalFiles(Arc<Mortal>);

#[async_trait]
impl FileSystem for MortalFiles {
    async fn observe(&self, path: &str, limit: usize) -> Result<Found> {
        self.0.step(LocalFileSystem::new().observe(path, limit)).await
    }

    async fn free_space(&self, path: &str) -> Result<Option<u64>> {
        self.0.step(LocalFileSystem::new().free_space(path)).await
    }

    async fn real_directory(&self, path: &str) -> Result<String> {
        self.0.step(LocalFileSystem::new().real_directory(path)).await
    }

    async fn stage(&self, path: &str, content: &[u8], attributes: &Attributes) -> Result<bool> {
        // Half of the deaths leave half a file behind.
        let half = self.0.left.load(Ordering::SeqCst) == 1 && !self.0.after;
        if half {
            fs::write(path, &content[..content.len() / 2]).unwrap();
        }
        self.0.step(LocalFileSystem::new().stage(path, content, attributes)).await
    }

    async fn replace(&self, from: &str, to: &str) -> Result<Replaced> {
        self.0.step(LocalFileSystem::new().replace(from, to)).await
    }

    async fn remove(&self, path: &str) -> Result<()> {
        self.0.step(LocalFileSystem::new().remove(path)).await
    }

    async fn sync_directory(&self, path: &str) -> Result<()> {
        self.0.step(LocalFileSystem::new().sync_directory(path)).await
    }

    async fn run(&self, command: &str, timeout: Duration) -> Result<CommandOutput> {
        self.0.step(LocalFileSystem::new().run(command, timeout)).await
    }

    async fn ask(&self, socket: &str, request: &SecretBytes, timeout: Duration) -> Result<Vec<u8>> {
        self.0.step(LocalFileSystem::new().ask(socket, request, timeout)).await
    }
}

#[derive(Debug)]
struct MortalJournal<'a>(Arc<Mortal>, &'a MemoryJournal);

#[async_trait]
impl JournalSink for MortalJournal<'_> {
    async fn append(&self, step: &str, undo: SecretBytes) -> Result<()> {
        self.0.step(self.1.append(step, undo)).await
    }

    async fn entries(&self) -> Result<Vec<SecretBytes>> {
        self.1.entries().await
    }
}

/// Delivers with the shared code, on the machine `fs`.
async fn deliver(
    machine: &Machine,
    fs: &dyn FileSystem,
    sink: &dyn JournalSink,
    new: &CertificateBundle,
    plan: &Plan,
) -> Result<Facts> {
    let layout: Layout = serde_json::from_value(machine.location()).unwrap();
    let settings: Settings = serde_json::from_value(machine.config()).unwrap();
    let delivery = Delivery::new("file", "target", "here", &layout, &settings);
    let plan = ApprovedPlan::assertion(plan.clone());
    delivery.execute(&Context::new("operation"), fs, new, &plan, &Journal::new(sink)).await
}

async fn roll_back(machine: &Machine, fs: &dyn FileSystem, sink: &dyn JournalSink) -> Result<RollbackOutcome> {
    let layout: Layout = serde_json::from_value(machine.location()).unwrap();
    let settings: Settings = serde_json::from_value(machine.config()).unwrap();
    let delivery = Delivery::new("file", "target", "here", &layout, &settings);
    let entries: Vec<Undo> = Journal::new(sink).entries().await?;
    delivery.rollback(&Context::new("operation"), fs, &entries).await
}

/// How many things a whole delivery does.
const MANY: usize = 1000;

/// Each file is the old or the new one, whole, whatever happened.
fn assert_whole(machine: &Machine, new: &CertificateBundle, at: &str) {
    for name in ["cert.pem", "key.pem"] {
        assert!(machine.file_is(name, &machine.old) || machine.file_is(name, new), "{name} is damaged {at}");
    }
}

#[tokio::test]
async fn after_a_crash_anywhere_delivery_goes_on_or_back() {
    let (_, new) = certificate(&["new.test"]);
    let mut crashes = 0;
    for after in [false, true] {
        for steps in 1..MANY {
            let mut finished = false;
            for go_on in [true, false] {
                let at = format!("at step {steps}, after: {after}, go on: {go_on}");
                let machine = Machine::new();
                let plan = machine.subject().plan(&new).await.unwrap();
                let memory = journal();
                let mortal = Mortal::new(steps, after);
                let sink = MortalJournal(Arc::clone(&mortal), &memory);
                let result = deliver(&machine, &MortalFiles(Arc::clone(&mortal)), &sink, &new, &plan).await;
                finished = !mortal.dead.load(Ordering::SeqCst);
                assert_eq!(result.is_ok(), finished, "{at}");
                assert_whole(&machine, &new, &at);
                crashes += 1;
                if go_on {
                    deliver(&machine, &LocalFileSystem::new(), &memory, &new, &plan).await.unwrap();
                    assert!(machine.holds(&new) && machine.loaded(&new), "{at}");
                    assert_eq!(memory.steps().iter().filter(|step| *step == "swap").count(), 1, "{at}");
                } else {
                    for _ in 0..3 {
                        roll_back(&machine, &LocalFileSystem::new(), &memory).await.unwrap();
                        assert!(machine.holds(&machine.old), "{at}");
                    }
                    // A service that was never reloaded never had anything but the old pair.
                    assert!(machine.loaded(&machine.old) || !machine.log().contains(&"reload".to_owned()), "{at}");
                }
                assert_eq!(machine.strays(), 0, "{at}");
            }
            if finished {
                break;
            }
        }
    }
    assert!(crashes > 40, "{crashes}");
}

#[tokio::test]
async fn after_a_crash_in_a_rollback_the_next_one_ends_it() {
    let (_, new) = certificate(&["new.test"]);
    for after in [false, true] {
        for steps in 1..MANY {
            let at = format!("at step {steps}, after: {after}");
            let machine = Machine::new();
            let plan = machine.subject().plan(&new).await.unwrap();
            let memory = journal();
            deliver(&machine, &LocalFileSystem::new(), &memory, &new, &plan).await.unwrap();
            let mortal = Mortal::new(steps, after);
            let result = roll_back(&machine, &MortalFiles(Arc::clone(&mortal)), &memory).await;
            let finished = !mortal.dead.load(Ordering::SeqCst);
            assert_eq!(result.is_ok(), finished, "{at}");
            assert_whole(&machine, &new, &at);
            for _ in 0..2 {
                roll_back(&machine, &LocalFileSystem::new(), &memory).await.unwrap();
                assert!(machine.holds(&machine.old) && machine.loaded(&machine.old), "{at}");
                assert_eq!(machine.strays(), 0, "{at}");
            }
            if finished {
                break;
            }
        }
    }
}

#[tokio::test]
async fn files_that_were_not_there_disappear_again() {
    let (_, new) = certificate(&["new.test"]);
    for steps in 1..MANY {
        let machine = Machine::new();
        fs::remove_file(machine.at("cert.pem")).unwrap();
        fs::remove_file(machine.at("key.pem")).unwrap();
        let plan = machine.subject().plan(&new).await.unwrap();
        let memory = journal();
        let mortal = Mortal::new(steps, true);
        let sink = MortalJournal(Arc::clone(&mortal), &memory);
        let _ = deliver(&machine, &MortalFiles(Arc::clone(&mortal)), &sink, &new, &plan).await;
        // The reload of nothing would fail, and rightly.
        let outcome = roll_back(&machine, &LocalFileSystem::new(), &memory).await;
        let reloaded = memory.steps().contains(&"reload".to_owned());
        assert_eq!(outcome.is_err(), reloaded, "step {steps}: {outcome:?}");
        let left: Vec<_> =
            fs::read_dir(machine.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name == "log" || name == "loaded"), "step {steps}: {left:?}");
        if !mortal.dead.load(Ordering::SeqCst) {
            return;
        }
    }
    panic!("never finished");
}

#[tokio::test]
async fn foreign_bytes_stop_everything() {
    let (_, new) = certificate(&["new.test"]);
    let machine = Machine::new();
    let plan = machine.subject().plan(&new).await.unwrap();
    let memory = journal();
    deliver(&machine, &LocalFileSystem::new(), &memory, &new, &plan).await.unwrap();
    fs::write(machine.at("cert.pem"), "somebody else's").unwrap();
    let error = deliver(&machine, &LocalFileSystem::new(), &memory, &new, &plan).await.unwrap_err();
    assert_eq!(error.code(), "foreign_change");
    let outcome = roll_back(&machine, &LocalFileSystem::new(), &memory).await.unwrap();
    assert!(matches!(outcome, RollbackOutcome::Refused { code, .. } if code == "foreign_change"));
    assert_eq!(fs::read_to_string(machine.at("cert.pem")).unwrap(), "somebody else's");
    assert!(machine.file_is("key.pem", &new), "the other file was not touched either");
}

#[tokio::test]
async fn what_was_recorded_elsewhere_is_not_done_here() {
    let (_, new) = certificate(&["new.test"]);
    let machine = Machine::new();
    let plan = machine.subject().plan(&new).await.unwrap();
    let memory = journal();
    deliver(&machine, &LocalFileSystem::new(), &memory, &new, &plan).await.unwrap();
    // The module knows this machine by another name than "here".
    let subject = machine.subject();
    assert_eq!(subject.execute(&new, plan, &memory).await.unwrap_err().code(), "wrong_machine");
    let outcome = subject.rollback(&memory).await.unwrap();
    assert!(matches!(outcome, RollbackOutcome::Refused { code, .. } if code == "wrong_machine"));
    assert!(machine.holds(&new));
}

#[tokio::test]
async fn containers_are_not_made_twice() {
    let machine = Machine::new();
    let location = json!({"paths": {"pfx": machine.at("site.pfx")}});
    let credentials = json!({"pfx_password": "secret"});
    let subject = Subject::new("file", json!({"pfx": {"profile": "legacy"}}), location, Some(credentials));
    let (_, new) = certificate(&["new.test"]);
    let plan = subject.plan(&new).await.unwrap();
    let journal = journal();
    subject.execute(&new, plan.clone(), &journal).await.unwrap();
    let first = fs::read(machine.at("site.pfx")).unwrap();
    // As if the process had died before the rename: the same bytes are written again, not others.
    fs::remove_file(machine.at("site.pfx")).unwrap();
    subject.execute(&new, plan, &journal).await.unwrap();
    assert_eq!(fs::read(machine.at("site.pfx")).unwrap(), first);
    assert!(served(&subject.validate(&new).await.unwrap()));
    subject.rollback(&journal).await.unwrap();
    assert!(!Path::new(&machine.at("site.pfx")).exists());
}
