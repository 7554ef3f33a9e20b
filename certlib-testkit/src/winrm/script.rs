//! Scripts that Rust executes: a PowerShell script is recognised, and a handler does what it would do.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use serde_json::Value;

use super::{
    certlib,
    command::clixml,
    windows::{Windows, WindowsError},
};

/// The first line of a script that names itself: `# certlib:NAME:VERSION`, or with a space before the version.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Marker {
    /// The name.
    pub name: String,
    /// The version, as it is written; empty without one.
    pub version: String,
}

impl Marker {
    /// The marker of a script, from the first line that is not empty.
    pub fn of(script: &str) -> Option<Self> {
        let line = script.trim_start_matches('\u{feff}').lines().map(str::trim).find(|line| !line.is_empty())?;
        let named = line.strip_prefix('#')?.trim_start().strip_prefix("certlib:")?;
        let (name, version) = named.split_once([':', ' ', '\t']).unwrap_or((named, ""));
        Some(Self { name: name.trim().to_owned(), version: version.trim().to_owned() })
    }
}

/// A command as it is about to run.
#[derive(Clone)]
#[non_exhaustive]
pub struct ScriptCall {
    /// The whole command line, arguments included.
    pub command_line: String,
    /// The words of the command line; the first is the program.
    pub argv: Vec<String>,
    /// The PowerShell script, decoded; `None` for another program.
    pub script: Option<String>,
    /// How the script names itself.
    pub marker: Option<Marker>,
    /// Standard input, until its end.
    pub stdin: Vec<u8>,
    /// Who is logged in.
    pub user: String,
    /// What the shell was created with, and what Windows always has.
    pub environment: BTreeMap<String, String>,
    /// Where the shell is.
    pub working_directory: String,
}

impl ScriptCall {
    pub(super) fn new(
        line: &str,
        argv: Vec<String>,
        script: Option<String>,
        user: &str,
        environment: BTreeMap<String, String>,
        working_directory: &str,
    ) -> Self {
        Self {
            command_line: line.to_owned(),
            argv,
            marker: script.as_deref().and_then(Marker::of),
            script,
            stdin: Vec::new(),
            user: user.to_owned(),
            environment,
            working_directory: working_directory.to_owned(),
        }
    }

    /// Standard input as text; what is not UTF-8 is replaced. A byte order mark is left out.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdin).trim_start_matches('\u{feff}').to_owned()
    }

    /// Standard input as JSON.
    ///
    /// # Errors
    /// `0x80070057` when it is not.
    pub fn json(&self) -> Result<Value, WindowsError> {
        serde_json::from_str(self.text().trim()).map_err(WindowsError::invalid_parameter)
    }

    /// Whether a PowerShell script reads its standard input, as far as its text tells.
    pub(super) fn reads_stdin(script: &str) -> bool {
        let script = script.to_lowercase();
        ["[console]::in", "openstandardinput", "$input", "read-host"].iter().any(|way| script.contains(way))
    }
}

impl fmt::Debug for ScriptCall {
    // Standard input may hold keys and passwords, and so may the environment.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptCall")
            .field("program", &self.argv.first())
            .field("marker", &self.marker)
            .field("stdin", &self.stdin.len())
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// What a command leaves behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScriptOutput {
    /// What it printed; goes out in the code page of the shell.
    pub stdout: String,
    /// What it complained.
    pub stderr: String,
    /// How it ended.
    pub exit_code: i32,
    /// How long it ran: nothing is printed before.
    pub takes: Duration,
}

impl ScriptOutput {
    /// Success with a text.
    pub fn text(stdout: impl Into<String>) -> Self {
        Self { stdout: stdout.into(), ..Self::default() }
    }

    /// Success with one line of JSON, as `ConvertTo-Json -Compress` prints it.
    pub fn json(value: &Value) -> Self {
        Self::text(format!("{value}\r\n"))
    }

    /// An exit code with a text on standard error.
    pub fn failure(exit_code: i32, stderr: impl Into<String>) -> Self {
        Self { exit_code, stderr: stderr.into(), ..Self::default() }
    }

    /// What PowerShell leaves behind when a script throws: the error as CLIXML on standard error, and exit code 1.
    pub fn thrown(error: &WindowsError) -> Self {
        let text = format!(
            "{}\r\n    + CategoryInfo          : NotSpecified: (:) [], {}\r\n    + FullyQualifiedErrorId : 0x{:08X}\r\n",
            error.message, error.exception, error.code
        );
        Self::failure(1, clixml::error(&text))
    }

    /// The same after so much time.
    #[must_use]
    pub fn after(mut self, takes: Duration) -> Self {
        self.takes = takes;
        self
    }

    /// The same with another exit code.
    #[must_use]
    pub fn exit(mut self, exit_code: i32) -> Self {
        self.exit_code = exit_code;
        self
    }
}

/// A handler of commands.
pub(super) type Run = dyn Fn(&ScriptCall, &mut Windows) -> ScriptOutput + Send + Sync;

/// A handler of scripts that get JSON and give JSON.
pub(super) type RunTwin = dyn Fn(&Value, &mut Windows) -> Result<Value, WindowsError> + Send + Sync;

/// Such a handler, and which scripts it is for among those of its name.
#[derive(Clone)]
pub(super) struct Twin {
    /// SHA-256 of the only text it is for; `None` when any text will do.
    pub(super) text: Option<&'static str>,
    pub(super) run: Arc<RunTwin>,
}

type Open = dyn Fn(&ScriptCall) -> Result<(String, Value), WindowsError> + Send + Sync;
type Close = dyn Fn(Result<Value, WindowsError>) -> ScriptOutput + Send + Sync;

/// How a script that fetches the real script from its standard input is understood.
#[derive(Clone)]
pub struct Bootstrap {
    open: Arc<Open>,
    close: Arc<Close>,
}

impl Bootstrap {
    /// `open` takes the real script and its data from the call; `close` writes what the bootstrap prints for the
    /// outcome.
    pub fn new(
        open: impl Fn(&ScriptCall) -> Result<(String, Value), WindowsError> + Send + Sync + 'static,
        close: impl Fn(Result<Value, WindowsError>) -> ScriptOutput + Send + Sync + 'static,
    ) -> Self {
        Self { open: Arc::new(open), close: Arc::new(close) }
    }
}

impl fmt::Debug for Bootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bootstrap")
    }
}

/// Which commands a handler is for.
#[derive(Clone)]
pub struct ScriptMatcher(Arc<dyn Fn(&ScriptCall) -> bool + Send + Sync>);

impl ScriptMatcher {
    /// PowerShell scripts that begin with `# certlib:NAME`, in any version.
    pub fn marker(name: &str) -> Self {
        let name = name.to_owned();
        Self::when(move |call| call.marker.as_ref().is_some_and(|marker| marker.name == name))
    }

    /// PowerShell scripts that hold a text, in any case.
    pub fn contains(text: &str) -> Self {
        let text = text.to_lowercase();
        Self::when(move |call| call.script.as_ref().is_some_and(|script| script.to_lowercase().contains(&text)))
    }

    /// Commands whose program is this one, with or without a folder and `.exe`.
    pub fn program(name: &str) -> Self {
        let name = program_name(name);
        Self::when(move |call| call.argv.first().is_some_and(|program| program_name(program) == name))
    }

    /// Commands for which this holds. Standard input is not there yet.
    pub fn when(holds: impl Fn(&ScriptCall) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(holds))
    }

    pub(super) fn matches(&self, call: &ScriptCall) -> bool {
        (self.0)(call)
    }
}

impl fmt::Debug for ScriptMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScriptMatcher")
    }
}

/// The name of a program without its folder and `.exe`, lower case.
pub(super) fn program_name(program: &str) -> String {
    let name = program.rsplit(['\\', '/']).next().unwrap_or(program).to_lowercase();
    name.strip_suffix(".exe").unwrap_or(&name).to_owned()
}

/// Everything that was registered.
#[derive(Clone, Default)]
pub(super) struct Scripts {
    handlers: Vec<(ScriptMatcher, Arc<Run>)>,
    twins: BTreeMap<String, Twin>,
    bootstraps: Vec<(ScriptMatcher, Bootstrap)>,
}

impl fmt::Debug for Scripts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scripts")
            .field("handlers", &self.handlers.len())
            .field("twins", &self.twins.keys())
            .finish_non_exhaustive()
    }
}

/// A call that is ready to run, with the script in place that a bootstrap fetched.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) call: ScriptCall,
    data: Option<Value>,
    bootstrap: Option<Bootstrap>,
    failed: Option<WindowsError>,
}

impl Scripts {
    pub(super) fn add(&mut self, matcher: ScriptMatcher, run: Arc<Run>) {
        self.handlers.push((matcher, run));
    }

    pub(super) fn add_twin(&mut self, name: &str, twin: Twin) {
        self.twins.insert(name.to_owned(), twin);
    }

    pub(super) fn add_bootstrap(&mut self, matcher: ScriptMatcher, bootstrap: Bootstrap) {
        self.bootstraps.push((matcher, bootstrap));
    }

    /// Puts the script that a bootstrap fetches in its place. The standard input must be complete.
    pub(super) fn open(&self, mut call: ScriptCall) -> Opened {
        let found = self.bootstraps.iter().find(|(matcher, _)| matcher.matches(&call));
        let Some((_, bootstrap)) = found else {
            return Opened { call, data: None, bootstrap: None, failed: None };
        };
        let bootstrap = Some(bootstrap.clone());
        match bootstrap.as_ref().map(|bootstrap| (bootstrap.open)(&call)) {
            Some(Ok((script, data))) => {
                (call.marker, call.script) = (Marker::of(&script), Some(script));
                Opened { call, data: Some(data), bootstrap, failed: None }
            }
            Some(Err(error)) => Opened { call, data: None, bootstrap, failed: Some(error) },
            None => Opened { call, data: None, bootstrap: None, failed: None },
        }
    }

    /// Runs what was registered first for this command; `None` when nothing was.
    pub(super) fn run(&self, opened: &Opened, windows: &mut Windows) -> Option<ScriptOutput> {
        let close = |outcome| match &opened.bootstrap {
            Some(bootstrap) => (bootstrap.close)(outcome),
            None => match outcome {
                Ok(value) => ScriptOutput::json(&value),
                Err(error) => ScriptOutput::thrown(&error),
            },
        };
        if let Some(error) = &opened.failed {
            return Some(close(Err(error.clone())));
        }
        let call = &opened.call;
        if let Some((_, run)) = self.handlers.iter().find(|(matcher, _)| matcher.matches(call)) {
            return Some(run(call, windows));
        }
        let twin = call.marker.as_ref().and_then(|marker| self.twins.get(&marker.name));
        let script = call.script.as_deref().unwrap_or_default();
        match (twin, &opened.bootstrap) {
            (Some(Twin { text: Some(wanted), .. }), _) if certlib::sha256(script) != *wanted => {
                tracing::error!(script = ?call.marker, "this test kit knows another text of the script");
                Some(close(Err(certlib::unknown())))
            }
            (Some(twin), _) => {
                let data = opened.data.clone().map_or_else(|| call.json(), Ok);
                Some(close(data.and_then(|data| (twin.run)(&data, windows))))
            }
            (None, Some(_)) => Some(close(Err(WindowsError::not_found("a twin of the script")))),
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_name_themselves_on_their_first_line() {
        let marker = Marker::of("\u{feff}\r\n# certlib:file-put:2\r\n$x = 1").unwrap();
        assert_eq!((marker.name.as_str(), marker.version.as_str()), ("file-put", "2"));
        assert_eq!(Marker::of("#certlib:a").unwrap().version, "");
        assert_eq!(Marker::of("# certlib:files.look 1\n").unwrap().version, "1");
        assert!(Marker::of("$x\n# certlib:a:1").is_none() && Marker::of("").is_none());
    }

    #[test]
    fn programs_are_known_without_folder_and_extension() {
        assert_eq!(program_name("C:\\Windows\\System32\\CertUtil.EXE"), "certutil");
        assert_eq!(program_name("certutil"), "certutil");
    }
}
