//! Commands: quoting, limits, and what their results mean.

use std::fmt::Write as _;

use certlib_core::{Effect, Error, ErrorClass, Result};

/// How much of a command's output is kept, in bytes, standard output and standard error each.
pub const OUTPUT_LIMIT: usize = 64 * 1024;

/// The longest command line accepted, in bytes.
const MAX_COMMAND: usize = 16 * 1024;

/// How much output an error message quotes, in bytes.
const QUOTED_OUTPUT: usize = 1024;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// With this exit status.
    Exited(u32),
    /// By a signal.
    Signalled,
    /// It was stopped because its time was up.
    TimedOut,
    /// Nobody knows: no status arrived.
    Unknown,
}

/// What a command did.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CommandOutput {
    /// How it ended.
    pub ended: Ended,
    /// The first [`OUTPUT_LIMIT`] bytes of standard output.
    pub stdout: Vec<u8>,
    /// The first [`OUTPUT_LIMIT`] bytes of standard error.
    pub stderr: Vec<u8>,
}

impl CommandOutput {
    /// A result.
    pub fn new(ended: Ended, stdout: Vec<u8>, stderr: Vec<u8>) -> Self {
        Self { ended, stdout, stderr }
    }

    /// Succeeds if the command exited with status 0.
    ///
    /// # Errors
    /// `IoPermanent` `failure_code` with the exit status; `IoTransient` `command_timeout`, `command_no_status`.
    /// The effect is [`Effect::Possible`].
    pub fn require_success(&self, operation: &'static str, failure_code: &'static str, command: &str) -> Result<()> {
        let error = match self.ended {
            Ended::Exited(0) => return Ok(()),
            Ended::Exited(status) => {
                Error::permanent(operation, failure_code, format!("the command failed: {}", self.excerpt()))
                    .with("exit", status)
            }
            Ended::Signalled => {
                Error::permanent(operation, failure_code, format!("a signal ended the command: {}", self.excerpt()))
            }
            Ended::TimedOut => Error::new(
                ErrorClass::IoTransient,
                operation,
                "command_timeout",
                format!("the command did not end in time and was stopped: {}", self.excerpt()),
            ),
            Ended::Unknown => Error::new(
                ErrorClass::IoTransient,
                operation,
                "command_no_status",
                "the command ended without telling its status, so it counts as failed",
            ),
        };
        Err(error.with("command", command.escape_debug()).with_effect(Effect::Possible))
    }

    /// The end of what it printed, standard error first, fit for one line.
    fn excerpt(&self) -> String {
        let output = if self.stderr.trim_ascii().is_empty() { &self.stdout } else { &self.stderr };
        let output = output.trim_ascii();
        let output = &output[output.len().saturating_sub(QUOTED_OUTPUT)..];
        if output.is_empty() {
            return "it printed nothing".to_owned();
        }
        let mut line = String::new();
        for c in String::from_utf8_lossy(output).chars() {
            match c {
                '\n' => line.push_str("; "),
                c if c.is_control() => write!(line, "{}", c.escape_debug()).unwrap_or_default(),
                c => line.push(c),
            }
        }
        line
    }
}

/// Appends to captured output what still fits into [`OUTPUT_LIMIT`].
pub fn capture(kept: &mut Vec<u8>, data: &[u8]) {
    let room = OUTPUT_LIMIT.saturating_sub(kept.len());
    kept.extend_from_slice(&data[..data.len().min(room)]);
}

/// Accepts a command line that a shell can be given.
///
/// # Errors
/// `Validation` `command_invalid`.
pub(crate) fn check(command: &str) -> Result<()> {
    if command.trim().is_empty() || command.contains('\0') || command.len() > MAX_COMMAND {
        return Err(Error::validation(
            "files.check",
            "command_invalid",
            "a command must not be empty, longer than 16 KiB, or contain a NUL",
        ));
    }
    Ok(())
}

/// Quotes `text` so that a POSIX shell reads it as one word, unchanged.
///
/// ```
/// use certlib_modules::files::quote;
///
/// assert_eq!(quote("it's"), r"'it'\''s'");
/// ```
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use proptest::prelude::*;
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;

    use super::*;

    /// Prints each word followed by NUL, as the shell understood it.
    fn through_shell(shell: &str, words: &[String]) -> Vec<String> {
        let script: String = words.iter().map(|word| format!("printf '%s\\0' {}\n", quote(word))).collect();
        let mut child = Command::new(shell).arg("-s").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || input.write_all(script.as_bytes()).unwrap());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_terminator('\0').map(str::to_owned).collect()
    }

    #[test]
    fn quoting_survives_real_shells() {
        let mut runner = TestRunner::deterministic();
        let anything = "\\PC{0,12}";
        let nasty = "[ '\"$`\\\\;&|<>(){}*?#~!\n\t=\\[\\]-]{0,12}";
        let mut words: Vec<String> =
            vec![String::new(), "'".into(), "''".into(), "-n".into(), "\\".into(), "\n".into()];
        for pattern in [anything, nasty] {
            let strategy = proptest::string::string_regex(pattern).unwrap();
            words.extend((0..6_000).map(|_| strategy.new_tree(&mut runner).unwrap().current()));
        }
        for shell in ["/bin/sh", "/bin/bash"] {
            if std::path::Path::new(shell).exists() || shell == "/bin/sh" {
                assert_eq!(through_shell(shell, &words), words);
            }
        }
    }

    #[test]
    fn results_become_errors() {
        let ended = |ended| CommandOutput::new(ended, b"out".to_vec(), b"a\nb\x1b[31m\n".to_vec());
        assert!(ended(Ended::Exited(0)).require_success("t", "f", "c").is_ok());
        let error = ended(Ended::Exited(3)).require_success("t", "command_failed", "c").unwrap_err();
        assert_eq!(
            (error.code(), error.class(), error.effect()),
            ("command_failed", ErrorClass::IoPermanent, Effect::Possible)
        );
        let text = error.to_string();
        assert!(text.contains("exit=3") && text.contains("a; b") && !text.contains('\x1b'), "{text}");
        assert_eq!(ended(Ended::TimedOut).require_success("t", "f", "c").unwrap_err().code(), "command_timeout");
        assert_eq!(ended(Ended::Unknown).require_success("t", "f", "c").unwrap_err().code(), "command_no_status");
    }

    #[test]
    fn capture_stops_at_the_limit() {
        let mut kept = Vec::new();
        for _ in 0..100 {
            capture(&mut kept, &[0; 1000]);
        }
        assert_eq!(kept.len(), OUTPUT_LIMIT);
    }
}
