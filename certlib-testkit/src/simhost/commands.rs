//! The commands a simulated host knows.

use std::{collections::VecDeque, fmt::Write as _};

use aws_lc_rs::digest;

use super::{
    Action, Fault, FileKind,
    actor::{Actor, Changes, OpenOptions},
    filesystem::FsError,
    lock,
    shell::{self, Joiner, Redirect, Step},
};

/// Scripts inside scripts stop here.
const MAX_DEPTH: u32 = 8;

const BUILTINS: &[&str] = &[
    ":", "[", "cat", "chmod", "chown", "command", "cp", "echo", "exit", "false", "id", "ln", "mkdir",
    "mv", "rm", "sh", "sha256sum", "sudo", "sync", "tee", "test", "true", "umask",
];

/// How a script ended.
pub(super) enum Outcome {
    Exited(Finished),
    /// It runs until it is stopped.
    Hangs,
    /// It prints until it is stopped.
    Floods,
}

#[derive(Debug, Default)]
pub(super) struct Finished {
    pub(super) code: u32,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

impl Finished {
    fn ok(stdout: impl Into<Vec<u8>>) -> Self {
        Self {
            stdout: stdout.into(),
            ..Self::default()
        }
    }

    fn failed(code: u32, message: impl AsRef<str>) -> Self {
        Self {
            code,
            stdout: Vec::new(),
            stderr: format!("{}\n", message.as_ref()).into_bytes(),
        }
    }
}

/// The programmed actions of commands, as written by the one who sets up the host.
pub(super) fn program(action: Action) -> VecDeque<Action> {
    match action {
        Action::Sequence(actions) => actions.into_iter().flat_map(program).collect(),
        single => VecDeque::from([single]),
    }
}

/// Whether a script reads its standard input, so that the channel must be read to its end first.
pub(super) fn wants_input(script: &str) -> bool {
    let Ok(steps) = shell::parse(script) else {
        return false;
    };
    steps.iter().any(|step| {
        let mut words = without_sudo(&step.words);
        if let Some(inner) = inner_script(words) {
            return wants_input(inner);
        }
        let program = words.first().map(|name| base_name(name));
        words = words.get(1..).unwrap_or_default();
        let reads_stdin = match program {
            Some("tee") => true,
            Some("cat") => !words.iter().any(|word| !word.starts_with('-')),
            _ => false,
        };
        let names_stdin = words.iter().any(|word| word == "/dev/stdin" || word == "-");
        step.input.is_none() && (reads_stdin || names_stdin)
    })
}

/// Runs scripts for one client.
pub(super) struct Interpreter<'a> {
    actor: &'a Actor,
    input: Vec<u8>,
    umask: u32,
    depth: u32,
}

impl<'a> Interpreter<'a> {
    pub(super) fn new(actor: &'a Actor, input: Vec<u8>) -> Self {
        Self {
            actor,
            input,
            umask: 0o022,
            depth: 0,
        }
    }

    pub(super) fn run(&mut self, script: &str) -> Outcome {
        let steps = match shell::parse(script) {
            Ok(steps) => steps,
            Err(message) => return Outcome::Exited(Finished::failed(2, message)),
        };
        let mut total = Finished::default();
        for step in steps {
            let runs = match step.joiner {
                Joiner::Always => true,
                Joiner::And => total.code == 0,
                Joiner::Or => total.code != 0,
            };
            if !runs {
                continue;
            }
            let leaves = step.words.first().is_some_and(|word| word == "exit");
            let mut finished = match self.step(&step) {
                Outcome::Exited(finished) => finished,
                endless => return endless,
            };
            if step.mutes_errors {
                finished.stderr.clear();
            }
            total.code = finished.code;
            total.stdout.append(&mut finished.stdout);
            total.stderr.append(&mut finished.stderr);
            if leaves {
                break;
            }
        }
        Outcome::Exited(total)
    }

    fn step(&mut self, step: &Step) -> Outcome {
        // A redirection opens its file before the command runs, even if the command then fails.
        if let Some(redirect) = &step.output
            && let Err(error) = self.store(redirect, b"")
        {
            let message = format!("sh: {}: {error}", redirect.path);
            return Outcome::Exited(Finished::failed(1, message));
        }
        if let Some(path) = &step.input {
            match self.actor.read(path) {
                Ok(bytes) => self.input = bytes.to_vec(),
                Err(error) => {
                    return Outcome::Exited(Finished::failed(1, format!("sh: {path}: {error}")));
                }
            }
        }
        let mut outcome = self.command(&step.words);
        if let Outcome::Exited(finished) = &mut outcome {
            if step.merges_errors {
                finished.stdout.append(&mut finished.stderr);
            }
            if let Some(Redirect { path, .. }) = &step.output {
                let stdout = std::mem::take(&mut finished.stdout);
                let appended = Redirect {
                    path: path.clone(),
                    append: true,
                };
                if let Err(error) = self.store(&appended, &stdout) {
                    return Outcome::Exited(Finished::failed(1, format!("{path}: {error}")));
                }
            }
        }
        outcome
    }

    fn command(&mut self, words: &[String]) -> Outcome {
        if let Some(action) = self.actor.host.next_action(words) {
            return self.act(action);
        }
        let Some((program, arguments)) = words.split_first() else {
            return Outcome::Exited(Finished::default());
        };
        if let Some(script) = inner_script(words) {
            self.depth += 1;
            if self.depth > MAX_DEPTH {
                return Outcome::Exited(Finished::failed(2, "sh: too many nested shells"));
            }
            let outcome = self.run(script);
            self.depth -= 1;
            return outcome;
        }
        if base_name(program) == "sudo" {
            return self.command(without_sudo(words));
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Outcome::Exited(self.builtin(base_name(program), &arguments))
    }

    fn act(&mut self, action: Action) -> Outcome {
        let host = &self.actor.host;
        let checked = |result: Result<(), String>| match result {
            Ok(()) => Finished::default(),
            Err(message) => Finished::failed(1, format!("{}: {message}", host.name)),
        };
        match (action, host.fault()) {
            (Action::Test, _) => Outcome::Exited(checked(host.service.test(&lock(&host.files)))),
            (Action::Reload, Some(Fault::ReloadFails { exit_code, stderr })) => {
                Outcome::Exited(Finished::failed(exit_code, stderr))
            }
            (Action::Reload, Some(Fault::ReloadHangs)) => Outcome::Hangs,
            (Action::Reload, Some(Fault::ReloadFloods)) => Outcome::Floods,
            (Action::Reload, Some(Fault::ServesOldCertificate)) => {
                Outcome::Exited(Finished::default())
            }
            (Action::Reload, _) => {
                Outcome::Exited(checked(host.service.reload(&lock(&host.files))))
            }
            (
                Action::Reply {
                    exit_code,
                    stdout,
                    stderr,
                },
                _,
            ) => Outcome::Exited(Finished {
                code: exit_code,
                stdout: stdout.into_bytes(),
                stderr: stderr.into_bytes(),
            }),
            (Action::Hang, _) => Outcome::Hangs,
            // Sequences are unrolled when they are set.
            (Action::Sequence(_), _) => Outcome::Exited(Finished::default()),
        }
    }

    fn builtin(&mut self, program: &str, arguments: &[&str]) -> Finished {
        let (flags, operands) = split_flags(arguments);
        let result = match program {
            "true" | ":" => Ok(Finished::default()),
            "false" => Ok(Finished {
                code: 1,
                ..Finished::default()
            }),
            "exit" => Ok(Finished {
                code: arguments.first().map_or(0, |code| code.parse().unwrap_or(2)),
                ..Finished::default()
            }),
            "echo" => Ok(Finished::ok(format!("{}\n", arguments.join(" ")))),
            "umask" => self.set_umask(&operands),
            "cat" => self.cat(&operands),
            "tee" => self.tee(&operands, flags.contains('a')),
            "mv" => self.mv(&operands, flags.contains('n')),
            "cp" => self.cp(&operands),
            "ln" => self.ln(&operands, &flags),
            "rm" => self.rm(&operands, flags.contains('f')),
            "mkdir" => self.mkdir(&operands, flags.contains('p')),
            "chmod" => self.chmod(&operands),
            "chown" => self.chown(&operands),
            "sync" => self.sync(&operands),
            "sha256sum" => self.sha256sum(&operands),
            "test" => Ok(self.test(arguments)),
            "[" => match arguments.split_last() {
                Some((&"]", condition)) => Ok(self.test(condition)),
                _ => Err("missing ]".into()),
            },
            "id" => Ok(Finished::ok(format!("{}\n", self.actor.user.owner.uid))),
            "command" => Ok(self.find(&operands)),
            _ => return Finished::failed(127, format!("sh: {program}: not found")),
        };
        result.unwrap_or_else(|message: String| Finished::failed(1, format!("{program}: {message}")))
    }

    fn set_umask(&mut self, operands: &[&str]) -> Result<Finished, String> {
        let mask = operands.first().ok_or("no mask")?;
        self.umask = u32::from_str_radix(mask, 8).map_err(|_| format!("{mask}: not a mask"))?;
        Ok(Finished::default())
    }

    fn cat(&self, operands: &[&str]) -> Result<Finished, String> {
        let mut stdout = Vec::new();
        for path in if operands.is_empty() { &["-"] } else { operands } {
            stdout.extend(self.source(path)?);
        }
        Ok(Finished::ok(stdout))
    }

    fn tee(&self, operands: &[&str], append: bool) -> Result<Finished, String> {
        for path in operands {
            let redirect = Redirect {
                path: (*path).to_owned(),
                append,
            };
            self.store(&redirect, &self.input).map_err(about(path))?;
        }
        Ok(Finished::ok(self.input.clone()))
    }

    fn mv(&self, operands: &[&str], keep: bool) -> Result<Finished, String> {
        let (from, to) = self.pair(operands)?;
        if !(keep && self.actor.info(&to, false).is_ok()) {
            self.actor.rename(from, &to, true).map_err(about(from))?;
        }
        Ok(Finished::default())
    }

    fn cp(&self, operands: &[&str]) -> Result<Finished, String> {
        let (from, to) = self.pair(operands)?;
        let bytes = self.source(from)?;
        let redirect = Redirect {
            path: to,
            append: false,
        };
        self.store(&redirect, &bytes).map_err(about(from))?;
        if let Ok(info) = self.actor.info(from, true) {
            let changes = Changes {
                mode: Some(info.mode),
                ..Changes::default()
            };
            self.actor
                .change(&redirect.path, changes)
                .map_err(about(&redirect.path))?;
        }
        Ok(Finished::default())
    }

    fn ln(&self, operands: &[&str], flags: &str) -> Result<Finished, String> {
        let (from, to) = self.pair(operands)?;
        if flags.contains('f') && self.actor.info(&to, false).is_ok() {
            self.actor.remove(&to).map_err(about(&to))?;
        }
        let linked = if flags.contains('s') {
            self.actor.symlink(from, &to)
        } else {
            self.actor.hard_link(from, &to)
        };
        linked.map(|()| Finished::default()).map_err(about(&to))
    }

    fn rm(&self, operands: &[&str], force: bool) -> Result<Finished, String> {
        for path in operands {
            match self.actor.remove(path) {
                Err(FsError::NotFound) if force => {}
                result => result.map_err(about(path))?,
            }
        }
        Ok(Finished::default())
    }

    fn mkdir(&self, operands: &[&str], parents: bool) -> Result<Finished, String> {
        for path in operands {
            let inner = path.match_indices('/').skip(1).map(|(end, _)| &path[..end]);
            for parent in inner.filter(|_| parents) {
                if self.actor.info(parent, true).is_err() {
                    self.actor
                        .make_directory(parent, 0o777 & !self.umask)
                        .map_err(about(parent))?;
                }
            }
            match self.actor.make_directory(path, 0o777 & !self.umask) {
                Err(FsError::Exists) if parents => {}
                result => result.map_err(about(path))?,
            }
        }
        Ok(Finished::default())
    }

    fn chmod(&self, operands: &[&str]) -> Result<Finished, String> {
        let (mode, paths) = operands.split_first().ok_or("no mode")?;
        let changes = Changes {
            mode: Some(u32::from_str_radix(mode, 8).map_err(|_| format!("{mode}: not a mode"))?),
            ..Changes::default()
        };
        self.change_each(paths, changes)
    }

    fn chown(&self, operands: &[&str]) -> Result<Finished, String> {
        let (owner, paths) = operands.split_first().ok_or("no owner")?;
        let (uid, gid) = owner.split_once(':').unwrap_or((owner, owner));
        let number = |text: &str| match text {
            "root" => Ok(0),
            text => text.parse().map_err(|_| format!("{text}: no such user")),
        };
        let changes = Changes {
            owner: Some((number(uid)?, number(gid)?)),
            ..Changes::default()
        };
        self.change_each(paths, changes)
    }

    fn change_each(&self, paths: &[&str], changes: Changes) -> Result<Finished, String> {
        for path in paths {
            self.actor.change(path, changes).map_err(about(path))?;
        }
        Ok(Finished::default())
    }

    fn sync(&self, operands: &[&str]) -> Result<Finished, String> {
        for path in operands {
            self.actor.info(path, true).map_err(about(path))?;
        }
        Ok(Finished::default())
    }

    fn sha256sum(&self, operands: &[&str]) -> Result<Finished, String> {
        let mut text = String::new();
        for path in operands {
            let bytes = self.source(path)?;
            for byte in digest::digest(&digest::SHA256, &bytes).as_ref() {
                let _ = write!(text, "{byte:02x}");
            }
            let _ = writeln!(text, "  {path}");
        }
        Ok(Finished::ok(text))
    }

    /// `test`: one condition, optionally negated.
    fn test(&self, condition: &[&str]) -> Finished {
        let (negated, condition) = match condition.split_first() {
            Some((&"!", rest)) => (true, rest),
            _ => (false, condition),
        };
        let is = |kind: FileKind, follow: bool, path: &str| {
            self.actor.info(path, follow).is_ok_and(|i| i.kind == kind)
        };
        let writable = |path: &str| {
            self.actor
                .canonical(path)
                .is_ok_and(|path| !lock(&self.actor.host.fault).denies(&path))
                && self.actor.info(path, true).is_ok()
        };
        let holds = match *condition {
            ["-e" | "-r" | "-x", path] => self.actor.info(path, true).is_ok(),
            ["-w", path] => writable(path),
            ["-f", path] => is(FileKind::File, true, path),
            ["-d", path] => is(FileKind::Directory, true, path),
            ["-L" | "-h", path] => is(FileKind::Symlink, false, path),
            ["-s", path] => self.actor.info(path, true).is_ok_and(|i| i.size > 0),
            ["-n", text] => !text.is_empty(),
            ["-z", text] => text.is_empty(),
            [left, "=", right] => left == right,
            [left, "!=", right] => left != right,
            [text] => !text.is_empty(),
            [] => false,
            _ => return Finished::failed(2, "test: unknown condition"),
        };
        Finished {
            code: u32::from(holds == negated),
            ..Finished::default()
        }
    }

    /// `command -v`: builtins and programmed commands are found.
    fn find(&self, operands: &[&str]) -> Finished {
        let Some(name) = operands.first() else {
            return Finished::default();
        };
        let known = BUILTINS.contains(&base_name(name)) || self.actor.host.has_program(name);
        match (known, name.starts_with('/')) {
            (true, true) => Finished::ok(format!("{name}\n")),
            (true, false) => Finished::ok(format!("/usr/bin/{name}\n")),
            (false, _) => Finished {
                code: 1,
                ..Finished::default()
            },
        }
    }

    /// The bytes an operand names: a file, or standard input.
    fn source(&self, path: &str) -> Result<Vec<u8>, String> {
        match path {
            "-" | "/dev/stdin" => Ok(self.input.clone()),
            "/dev/null" => Ok(Vec::new()),
            path => Ok(self.actor.read(path).map_err(about(path))?.to_vec()),
        }
    }

    fn store(&self, redirect: &Redirect, bytes: &[u8]) -> Result<(), FsError> {
        if redirect.path == "/dev/null" {
            return Ok(());
        }
        let options = OpenOptions {
            write: true,
            create: true,
            append: redirect.append,
            truncate: !redirect.append,
            ..OpenOptions::default()
        };
        let file = self
            .actor
            .open(&redirect.path, options, 0o666 & !self.umask)?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.actor.write(&file, 0, bytes)
    }

    /// Source and target of `mv`, `cp` and `ln`; a target that is a directory means a name inside it.
    fn pair<'b>(&self, operands: &[&'b str]) -> Result<(&'b str, String), String> {
        let &[from, to] = operands else {
            return Err("needs a source and a target".into());
        };
        let into_directory = self
            .actor
            .info(to, true)
            .is_ok_and(|info| info.kind == FileKind::Directory);
        if into_directory {
            let to = to.trim_end_matches('/');
            return Ok((from, format!("{to}/{}", base_name(from))));
        }
        Ok((from, to.to_owned()))
    }
}

fn about(path: &str) -> impl FnOnce(FsError) -> String {
    move |error| format!("{path}: {error}")
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The script of `sh -c script`, under any of the usual names of the shell.
fn inner_script(words: &[String]) -> Option<&str> {
    let (shell, rest) = words.split_first()?;
    if !matches!(base_name(shell), "sh" | "bash" | "dash" | "ash") {
        return None;
    }
    let flag = rest
        .iter()
        .position(|word| word.starts_with('-') && word.ends_with('c'))?;
    rest.get(flag + 1).map(String::as_str)
}

/// The command behind `sudo` and its flags.
fn without_sudo(words: &[String]) -> &[String] {
    match words.split_first() {
        Some((program, rest)) if base_name(program) == "sudo" => {
            let flags = rest.iter().take_while(|word| word.starts_with('-')).count();
            rest.get(flags..).unwrap_or_default()
        }
        _ => words,
    }
}

/// The letters of all flags, and what is not a flag.
fn split_flags<'a>(arguments: &[&'a str]) -> (String, Vec<&'a str>) {
    let mut flags = String::new();
    let mut rest = arguments.iter();
    let mut operands = Vec::new();
    for argument in rest.by_ref() {
        match *argument {
            "--" => break,
            flag if flag.len() > 1 && flag.starts_with('-') => flags.push_str(&flag[1..]),
            operand => operands.push(operand),
        }
    }
    operands.extend(rest.copied());
    (flags, operands)
}
