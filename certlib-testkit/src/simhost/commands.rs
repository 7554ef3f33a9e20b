//! Runs scripts: steps, nested shells, `sudo`, and the commands a host was taught.

use std::collections::VecDeque;

use super::{
    Action, Fault,
    actor::Actor,
    lock,
    shell::{self, Joiner, Redirect, Step},
};

/// Scripts inside scripts stop here.
const MAX_DEPTH: u32 = 8;

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
    pub(super) fn ok(stdout: impl Into<Vec<u8>>) -> Self {
        Self { stdout: stdout.into(), ..Self::default() }
    }

    pub(super) fn failed(code: u32, message: impl AsRef<str>) -> Self {
        Self { code, stdout: Vec::new(), stderr: format!("{}\n", message.as_ref()).into_bytes() }
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
    pub(super) actor: &'a Actor,
    /// What commands find on their standard input.
    pub(super) input: Vec<u8>,
    pub(super) umask: u32,
    depth: u32,
}

impl<'a> Interpreter<'a> {
    pub(super) fn new(actor: &'a Actor, input: Vec<u8>) -> Self {
        Self { actor, input, umask: 0o022, depth: 0 }
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
                let appended = Redirect { path: path.clone(), append: true };
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
            (Action::Reload, Some(Fault::ServesOldCertificate)) => Outcome::Exited(Finished::default()),
            (Action::Reload, _) => Outcome::Exited(checked(host.service.reload(&lock(&host.files)))),
            (Action::Reply { exit_code, stdout, stderr }, _) => {
                Outcome::Exited(Finished { code: exit_code, stdout: stdout.into_bytes(), stderr: stderr.into_bytes() })
            }
            (Action::Hang, _) => Outcome::Hangs,
            // Sequences are unrolled when they are set.
            (Action::Sequence(_), _) => Outcome::Exited(Finished::default()),
        }
    }
}

pub(super) fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The script of `sh -c script`, under any of the usual names of the shell.
fn inner_script(words: &[String]) -> Option<&str> {
    let (shell, rest) = words.split_first()?;
    if !matches!(base_name(shell), "sh" | "bash" | "dash" | "ash") {
        return None;
    }
    let flag = rest.iter().position(|word| word.starts_with('-') && word.ends_with('c'))?;
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
