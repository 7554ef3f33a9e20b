//! The programs every simulated host has.

use std::fmt::Write as _;

use super::{
    FileKind,
    actor::{Changes, OpenOptions},
    commands::{Finished, Interpreter, base_name},
    filesystem::FsError,
    lock,
    shell::Redirect,
};
use crate::tls;

/// What `command -v` finds without being taught.
const BUILTINS: &[&str] = &[
    ":",
    "[",
    "cat",
    "chcon",
    "chmod",
    "chown",
    "command",
    "cp",
    "echo",
    "exit",
    "false",
    "id",
    "ln",
    "mkdir",
    "mv",
    "restorecon",
    "rm",
    "sh",
    "sha256sum",
    "sudo",
    "sync",
    "tee",
    "test",
    "true",
    "umask",
];

impl Interpreter<'_> {
    /// Runs one program that is neither taught nor a shell.
    pub(super) fn builtin(&mut self, program: &str, arguments: &[&str]) -> Finished {
        let (flags, operands) = split_flags(arguments);
        let result = match program {
            "true" | ":" => Ok(Finished::default()),
            "false" => Ok(Finished { code: 1, ..Finished::default() }),
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
            "chcon" => self.chcon(&flags, &operands),
            // Files have no labels here; that there is one to label is all that can be seen.
            "sync" | "restorecon" => self.sync(&operands),
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
            let redirect = Redirect { path: (*path).to_owned(), append };
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
        let redirect = Redirect { path: to, append: false };
        self.store(&redirect, &bytes).map_err(about(from))?;
        if let Ok(info) = self.actor.info(from, true) {
            let changes = Changes { mode: Some(info.mode), ..Changes::default() };
            self.actor.change(&redirect.path, changes).map_err(about(&redirect.path))?;
        }
        Ok(Finished::default())
    }

    fn ln(&self, operands: &[&str], flags: &str) -> Result<Finished, String> {
        let (from, to) = self.pair(operands)?;
        if flags.contains('f') && self.actor.info(&to, false).is_ok() {
            self.actor.remove(&to).map_err(about(&to))?;
        }
        let linked = if flags.contains('s') { self.actor.symlink(from, &to) } else { self.actor.hard_link(from, &to) };
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
                    self.actor.make_directory(parent, 0o777 & !self.umask).map_err(about(parent))?;
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
        let changes = Changes { owner: Some((number(uid)?, number(gid)?)), ..Changes::default() };
        self.change_each(paths, changes)
    }

    fn change_each(&self, paths: &[&str], changes: Changes) -> Result<Finished, String> {
        for path in paths {
            self.actor.change(path, changes).map_err(about(path))?;
        }
        Ok(Finished::default())
    }

    fn chcon(&self, flags: &str, operands: &[&str]) -> Result<Finished, String> {
        let reference = flags.strip_prefix("-reference=").ok_or("no reference")?;
        self.actor.info(reference, true).map_err(about(reference))?;
        self.sync(operands)
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
            let _ = writeln!(text, "{}  {path}", tls::fingerprint(&bytes));
        }
        Ok(Finished::ok(text))
    }

    /// `test`: one condition, optionally negated.
    fn test(&self, condition: &[&str]) -> Finished {
        let (negated, condition) = match condition.split_first() {
            Some((&"!", rest)) => (true, rest),
            _ => (false, condition),
        };
        let is = |kind: FileKind, follow: bool, path: &str| self.actor.info(path, follow).is_ok_and(|i| i.kind == kind);
        let writable = |path: &str| {
            self.actor.canonical(path).is_ok_and(|path| !lock(&self.actor.host.fault).denies(&path))
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
        Finished { code: u32::from(holds == negated), ..Finished::default() }
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
            (false, _) => Finished { code: 1, ..Finished::default() },
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

    /// Puts bytes where a redirection points; creates the file as the umask says.
    pub(super) fn store(&self, redirect: &Redirect, bytes: &[u8]) -> Result<(), FsError> {
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
        let file = self.actor.open(&redirect.path, options, 0o666 & !self.umask)?;
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
        let into_directory = self.actor.info(to, true).is_ok_and(|info| info.kind == FileKind::Directory);
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
