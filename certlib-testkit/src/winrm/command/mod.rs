//! What runs inside: command lines of cmd.exe, and the little of PowerShell that is understood.
//!
//! A command is looked for among the registered handlers first, then among what is built in:
//!
//! * cmd.exe: `echo`, `set`, `cd`, `type`, `dir /b`, `del`, `copy`, `move`, `mkdir`, `exit`, `ver`, `hostname`,
//!   `whoami`, `ipconfig`, `ping -n`, `sort`, `findstr`, `certutil -hashfile`, `netsh http show sslcert`, `net`,
//!   variables (`%NAME%`), `&`, `&&`, `||`, and redirection of standard output;
//! * `powershell` and `pwsh` with `-EncodedCommand`, `-Command` or `-File`: see [`powershell`].

pub(super) mod clixml;
mod cmd;
pub(super) mod codepage;
mod line;
mod powershell;
mod ps_commands;
mod ps_parse;
mod ps_source;
mod ps_tree;
mod ps_value;

use std::collections::BTreeMap;

use super::{
    history::Executed,
    script::{ScriptCall, ScriptOutput, Scripts},
    windows::Windows,
};

/// What commands run in.
pub(super) struct Host<'a> {
    pub(super) windows: &'a mut Windows,
    pub(super) scripts: &'a Scripts,
    pub(super) executed: &'a mut Vec<Executed>,
    /// Whether PowerShell reports progress on standard error.
    pub(super) progress: bool,
}

/// What every process of a user finds in its environment.
pub(super) fn environment(windows: &Windows, user: &str) -> BTreeMap<String, String> {
    let profile = format!("C:\\Users\\{user}");
    let variables = [
        ("COMPUTERNAME", windows.computer_name.clone()),
        ("USERNAME", user.to_owned()),
        ("USERPROFILE", profile),
        ("SYSTEMROOT", "C:\\Windows".to_owned()),
        ("WINDIR", "C:\\Windows".to_owned()),
        ("TEMP", "C:\\Windows\\Temp".to_owned()),
        ("TMP", "C:\\Windows\\Temp".to_owned()),
        ("PROGRAMDATA", "C:\\ProgramData".to_owned()),
        ("COMSPEC", "C:\\Windows\\System32\\cmd.exe".to_owned()),
        ("OS", "Windows_NT".to_owned()),
    ];
    variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A command line, taken apart.
pub(super) fn call(
    line: &str,
    user: &str,
    environment: &BTreeMap<String, String>,
    working_directory: &str,
) -> ScriptCall {
    let argv = line::words(line);
    let script = ps_source::script_of(&argv);
    let text = script.as_ref().and_then(|script| script.text());
    ScriptCall::new(line, argv, text, user, environment.clone(), working_directory)
}

/// Whether a command waits for the end of its standard input.
pub(super) fn reads_stdin(call: &ScriptCall) -> bool {
    match ps_source::script_of(&call.argv) {
        Some(script) => script.text().is_none_or(|text| ScriptCall::reads_stdin(&text)),
        None => cmd::reads_stdin(&line::expand(&call.command_line, &call.environment)),
    }
}

/// Runs a command line with everything in it.
pub(super) fn run(host: &mut Host<'_>, call: &ScriptCall) -> ScriptOutput {
    if ps_source::script_of(&call.argv).is_some() {
        return step(host, call.clone());
    }
    let expanded = line::expand(&call.command_line, &call.environment);
    let steps = match line::steps(&expanded) {
        Ok(steps) => steps,
        Err(message) => return ScriptOutput::failure(255, message),
    };
    let mut all = ScriptOutput::default();
    let mut here = call.working_directory.clone();
    for part in steps {
        let wanted = match part.joiner {
            line::Joiner::Always => true,
            line::Joiner::And => all.exit_code == 0,
            line::Joiner::Or => all.exit_code != 0,
        };
        if !wanted {
            continue;
        }
        let mut inner = self::call(&part.text, &call.user, &call.environment, &here);
        inner.stdin.clone_from(&call.stdin);
        let mut output = match cmd::change_directory(host.windows, &inner) {
            Some(Ok(directory)) => {
                here = directory;
                ScriptOutput::default()
            }
            Some(Err(output)) => output,
            None => step(host, inner),
        };
        if let Some(redirect) = &part.output {
            let path = cmd::absolute(&redirect.path, &here);
            let text = std::mem::take(&mut output.stdout);
            let written = match redirect.append {
                true => host.windows.files.append(&path, text.as_bytes()),
                false => host.windows.files.write(&path, text.as_bytes()),
            };
            if let Err(error) = written {
                output = ScriptOutput::failure(1, format!("{}\r\n", error.message));
            }
        }
        all.stdout.push_str(&output.stdout);
        all.stderr.push_str(&output.stderr);
        all.exit_code = output.exit_code;
        all.takes += output.takes;
        if cmd::ends_the_line(&part.text) {
            break;
        }
    }
    all
}

/// Runs one program.
fn step(host: &mut Host<'_>, call: ScriptCall) -> ScriptOutput {
    let opened = host.scripts.open(call);
    let output = match host.scripts.run(&opened, host.windows) {
        Some(output) => output,
        None => match ps_source::script_of(&opened.call.argv) {
            Some(script) => powershell::run(host, &opened.call, &script),
            None => cmd::run(host.windows, &opened.call),
        },
    };
    let call = opened.call;
    tracing::debug!(program = call.argv.first(), marker = ?call.marker, exit_code = output.exit_code, "ran");
    host.executed.push(Executed {
        command_line: call.command_line,
        script: call.script,
        marker: call.marker,
        stdin: call.stdin.len(),
        user: call.user,
        exit_code: output.exit_code,
    });
    output
}
