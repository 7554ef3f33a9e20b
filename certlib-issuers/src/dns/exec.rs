//! A program on this machine that changes the DNS.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::secret::SecretString;
use certlib_core::{Context, Effect, Error, ErrorClass, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::service::invalid;
use super::{DnsProvider, absolute, text};

const OPERATION: &str = "dns.exec";
/// Where the program finds others.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Others than the owner may write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Settings of provider `exec`.
///
/// ```json
/// { "kind": "exec", "program": "update-dns", "timeout_seconds": 30 }
/// ```
///
/// Whoever configures an issuer does not choose what is run here: programs are taken from one folder alone, which the
/// operator names with [`AcmeFactory::with_hooks`](crate::acme::AcmeFactory::with_hooks).
///
/// The program is run without a shell, as `PROGRAM ARGUMENTS... present|cleanup NAME VALUE`, in its folder, with an
/// environment of `PATH`, `LANG=C`, `CERTLIB_ACTION`, `CERTLIB_NAME` and `CERTLIB_VALUE` and nothing else. The secret of the
/// credential comes on its standard input, which is empty without one. Its standard output is thrown away; its standard
/// error is that of this process.
///
/// It has to keep this module's contract: a value is put beside others at that name, and only that value is taken away;
/// both may be asked for more than once. It ends with 0, or with a code of `sysexits.h`: 75 means try again, 77 that a
/// permission is missing, 65 and 78 that the name or a setting is wrong. Anything else is a failure for good. When its
/// time is up, it is killed with everything it started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecConfig {
    /// The program's file name in the folder.
    pub program: String,
    /// What it is given first.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// How long it may take, in seconds. Default 60.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u64,
}

fn default_timeout() -> u64 {
    60
}

/// Credentials of provider `exec`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExecCredentials {
    /// What the program reads from its standard input.
    pub secret: Option<SecretString>,
}

impl ExecConfig {
    /// # Errors
    /// `Validation` `config_invalid`, `hooks_not_allowed`.
    pub(super) fn check(&self, folder: Option<&Path>) -> Result<()> {
        if folder.is_none() {
            let why = "the operator of this service admits no programs";
            return Err(Error::validation(OPERATION, "hooks_not_allowed", why));
        }
        let name = self.program.as_str();
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', '\0']) {
            return Err(invalid("program", "a file name"));
        }
        if self.arguments.iter().any(|argument| argument.contains('\0')) {
            return Err(invalid("arguments", "texts without NUL"));
        }
        if !(1..=600).contains(&self.timeout_seconds) {
            return Err(invalid("timeout_seconds", "1 to 600"));
        }
        Ok(())
    }
}

/// A program.
#[derive(Debug)]
pub(super) struct Exec {
    folder: PathBuf,
    config: ExecConfig,
    credentials: ExecCredentials,
}

impl Exec {
    /// # Errors
    /// As [`ExecConfig::check`].
    pub(super) fn new(config: ExecConfig, credentials: ExecCredentials, folder: Option<&Path>) -> Result<Self> {
        config.check(folder)?;
        let folder = folder.map(Path::to_owned).unwrap_or_default();
        Ok(Self { folder, config, credentials })
    }

    async fn run(&self, cx: &Context, action: &str, fqdn: &str, value: &str) -> Result<()> {
        let name = text(&absolute(fqdn)?.to_lowercase());
        let program = self.folder.join(&self.config.program);
        self.check_program(&program).await?;
        cx.check_cancelled(OPERATION)?;
        let child = Command::new(&program)
            .args(&self.config.arguments)
            .args([action, &name, value])
            .current_dir(&self.folder)
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .env("LANG", "C")
            .env("CERTLIB_ACTION", action)
            .env("CERTLIB_NAME", &name)
            .env("CERTLIB_VALUE", value)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .process_group(0)
            .spawn()
            .map_err(|error| self.not_started(error))?;
        let mut group = Group::new(child);
        let limit = Duration::from_secs(self.config.timeout_seconds);
        let Ok(status) = timeout(limit, self.attend(&mut group.child)).await else {
            return Err(self.failed(ErrorClass::IoTransient, "hook_timeout", "the program did not end in time"));
        };
        let status = status.map_err(|error| {
            self.failed(ErrorClass::IoTransient, "hook_lost", "the program's end was not seen").with_source(error)
        })?;
        group.has_ended();
        self.outcome(status)
    }

    /// Hands over the secret and waits for the end.
    async fn attend(&self, child: &mut Child) -> io::Result<ExitStatus> {
        if let Some(mut input) = child.stdin.take() {
            if let Some(secret) = &self.credentials.secret {
                // A program that does not read is free not to.
                let _ = input.write_all(secret.expose().as_bytes()).await;
            }
            let _ = input.shutdown().await;
        }
        child.wait().await
    }

    /// What others can replace, they could make run here.
    async fn check_program(&self, program: &Path) -> Result<()> {
        for path in [self.folder.as_path(), program] {
            let found = tokio::fs::metadata(path).await.map_err(|error| self.not_started(error))?;
            let is_right = if path == program { found.is_file() } else { found.is_dir() };
            if !is_right || found.permissions().mode() & WRITABLE_BY_OTHERS != 0 {
                let why = "the program or its folder may be written by others than its owner";
                return Err(self.failed(ErrorClass::Validation, "program_unsafe", why).with_effect(Effect::None));
            }
        }
        Ok(())
    }

    fn outcome(&self, status: ExitStatus) -> Result<()> {
        let class = match status.code() {
            Some(0) => return Ok(()),
            Some(75) => ErrorClass::IoTransient,
            Some(77) => ErrorClass::Auth,
            Some(65 | 78) => ErrorClass::Validation,
            _ => ErrorClass::IoPermanent,
        };
        let error = self.failed(class, "hook_failed", "the program failed");
        Err(match status.code() {
            Some(code) => error.with("exit_code", code),
            None => error,
        })
    }

    fn not_started(&self, error: io::Error) -> Error {
        let class = match error.kind() {
            // It is being replaced, or the machine is out of processes.
            io::ErrorKind::ExecutableFileBusy | io::ErrorKind::WouldBlock => ErrorClass::IoTransient,
            _ => ErrorClass::IoPermanent,
        };
        let why = "the program cannot be started";
        self.failed(class, "hook_not_started", why).with_effect(Effect::None).with_source(error)
    }

    fn failed(&self, class: ErrorClass, code: &'static str, why: &str) -> Error {
        Error::new(class, OPERATION, code, why).with("program", &self.config.program).with_effect(Effect::Possible)
    }
}

#[async_trait]
impl DnsProvider for Exec {
    async fn add_txt(&self, cx: &Context, fqdn: &str, value: &str) -> Result<()> {
        self.run(cx, "present", fqdn, value).await
    }

    async fn remove_txt(&self, cx: &Context, fqdn: &str, value: &str) -> Result<()> {
        self.run(cx, "cleanup", fqdn, value).await
    }
}

/// A program with everything it starts. Killed when dropped before it has ended.
struct Group {
    child: Child,
    leader: Option<Pid>,
}

impl Group {
    fn new(child: Child) -> Self {
        let leader = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Self { child, leader }
    }

    fn has_ended(&mut self) {
        self.leader = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Not waited for yet, so the number is still its own. The runtime reaps it.
        if let Some(leader) = self.leader {
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use certlib_testkit::process::poll_until;
    use tempfile::TempDir;

    use super::*;

    /// Written by another process: one of ours that is being written could not be run while a test elsewhere forks.
    fn write(folder: &TempDir, script: &str) {
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", "umask 022; cat >hook; chmod 755 hook"])
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(format!("#!/bin/sh\n{script}\n").as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }

    fn config() -> ExecConfig {
        ExecConfig { program: "hook".to_owned(), arguments: vec!["--first".to_owned()], timeout_seconds: 30 }
    }

    fn hook(folder: &TempDir, config: ExecConfig, secret: Option<&str>) -> Exec {
        let secret = secret.map(|secret| SecretString::new(secret.to_owned()));
        Exec::new(config, ExecCredentials { secret }, Some(folder.path())).unwrap()
    }

    fn folder() -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        folder
    }

    #[tokio::test]
    async fn what_a_program_sees() {
        let folder = folder();
        write(&folder, "{ printf '%s\\n' \"$0\" \"$@\"; cat; echo; pwd -P; env | sort; } >seen");
        let hook = hook(&folder, config(), Some("canary"));
        let value = "$(touch pwned); `touch pwned` 'x' \"y\"";
        hook.add_txt(&Context::new("test"), "_Acme-Challenge.example.test.", value).await.unwrap();
        let seen = fs::read_to_string(folder.path().join("seen")).unwrap();
        let path = fs::canonicalize(folder.path()).unwrap();
        let mut expected = vec![
            folder.path().join("hook").display().to_string(),
            "--first".to_owned(),
            "present".to_owned(),
            "_acme-challenge.example.test".to_owned(),
            value.to_owned(),
            "canary".to_owned(),
            path.display().to_string(),
        ];
        // The shell adds its own.
        let own = ["PWD=", "OLDPWD=", "SHLVL=", "_="];
        let lines: Vec<&str> = seen.lines().filter(|line| !own.iter().any(|own| line.starts_with(own))).collect();
        expected.extend([
            "CERTLIB_ACTION=present".to_owned(),
            "CERTLIB_NAME=_acme-challenge.example.test".to_owned(),
            format!("CERTLIB_VALUE={value}"),
            "LANG=C".to_owned(),
            format!("PATH={SEARCH_PATH}"),
        ]);
        assert_eq!(lines, expected);
        assert!(!folder.path().join("pwned").exists());
        assert!(!format!("{hook:?}").contains("canary"));
    }

    #[tokio::test]
    async fn ends_have_their_class() {
        let folder = folder();
        let cx = Context::new("test");
        for (script, class) in [
            ("exit 75", ErrorClass::IoTransient),
            ("exit 77", ErrorClass::Auth),
            ("exit 65", ErrorClass::Validation),
            ("exit 78", ErrorClass::Validation),
            ("exit 1", ErrorClass::IoPermanent),
            ("kill -s KILL $$", ErrorClass::IoPermanent),
        ] {
            write(&folder, script);
            let error = hook(&folder, config(), Some("canary")).remove_txt(&cx, "a.test", "v").await.unwrap_err();
            assert_eq!((error.class(), error.code()), (class, "hook_failed"), "{script}");
            assert_eq!(error.effect(), Effect::Possible, "{script}");
        }
        write(&folder, "exit 0");
        // More than a pipe holds, for a program that does not read.
        hook(&folder, config(), Some(&"x".repeat(1 << 20))).add_txt(&cx, "a.test", "v").await.unwrap();
    }

    #[tokio::test]
    async fn who_takes_too_long_is_killed_with_its_children() {
        let folder = folder();
        write(&folder, "sleep 600 & echo $! >pid.new; mv pid.new pid; wait");
        let hook = hook(&folder, ExecConfig { timeout_seconds: 1, ..config() }, None);
        let error = hook.add_txt(&Context::new("test"), "a.test", "v").await.unwrap_err();
        assert_eq!((error.class(), error.code()), (ErrorClass::IoTransient, "hook_timeout"));
        let pid = fs::read_to_string(folder.path().join("pid")).unwrap();
        let state = format!("/proc/{}/stat", pid.trim());
        poll_until("the end of the child", Duration::from_secs(10), async || {
            // A zombie has ended, too; somebody else has to reap it.
            let stat = fs::read_to_string(&state).unwrap_or_default();
            (stat.is_empty() || stat.contains(") Z ")).then_some(())
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn only_what_the_operator_put_there_is_run() {
        let folder = folder();
        let cx = Context::new("test");
        write(&folder, "touch \"$CERTLIB_NAME\"");
        let error = config().check(None).unwrap_err();
        assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "hooks_not_allowed"));
        for name in ["", ".", "..", "../hook", "/bin/sh", "a/b", ".hidden", "a\0b"] {
            let error = ExecConfig { program: name.to_owned(), ..config() }.check(Some(folder.path())).unwrap_err();
            assert_eq!(error.code(), "config_invalid", "{name:?}");
        }
        let absent = hook(&folder, ExecConfig { program: "absent".to_owned(), ..config() }, None);
        let error = absent.add_txt(&cx, "a.test", "v").await.unwrap_err();
        assert_eq!((error.class(), error.code()), (ErrorClass::IoPermanent, "hook_not_started"));
        for (path, mode) in [("hook", 0o775), ("hook", 0o757), (".", 0o777)] {
            let path = folder.path().join(path);
            let before = fs::metadata(&path).unwrap().permissions();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = hook(&folder, config(), None).add_txt(&cx, "a.test", "v").await.unwrap_err();
            assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "program_unsafe"), "{mode:o}");
            fs::set_permissions(&path, before).unwrap();
        }
        assert!(!folder.path().join("a.test").exists());
        hook(&folder, config(), None).add_txt(&cx, "a.test", "v").await.unwrap();
        assert!(folder.path().join("a.test").exists());
    }
}
