//! The little of PowerShell that is understood, so that clients that are not certlib get sensible answers.
//!
//! Statements: pipelines, assignments, `if`/`else`, `try`/`catch`, `throw`, `exit`. Values: texts with variables and
//! `$(…)`, whole numbers, lists, ranges, `+`, `*`, comparisons; `$env:`, `$_`, `$PSVersionTable.PSVersion`.
//! Commands: `Write-Output`, `Write-Error`, `Write-Host`, `Out-Null`, `Out-String`, `ForEach-Object`, `Select-Object
//! -First`, `Start-Sleep`, `Import-Module`, `Restart-Service`, `Restart-WebAppPool`, `Get-Content`, `Set-Content`,
//! `Remove-Item`, `Test-Path`, and programs that cmd.exe finds. `[Console]::In.ReadToEnd()`,
//! `[Console]::Error.WriteLine()`, `[Console]::Out.Write()`. Anything else is an error, as a typing mistake would be.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    super::script::{ScriptCall, ScriptOutput, program_name},
    Host, clixml, cmd,
    ps_parse::{self, Argument, Expr, Stage, Statement},
    ps_value::Value,
};

/// Where the script of a command line comes from.
pub(super) enum Source {
    /// `-EncodedCommand`: errors go out as CLIXML.
    Encoded(String),
    /// `-Command`, or nothing: errors go out as text.
    Given(String),
    /// `-Command -`: standard input.
    Stdin,
}

impl Source {
    /// The script, when it is on the command line.
    pub(super) fn text(&self) -> Option<String> {
        match self {
            Self::Encoded(text) | Self::Given(text) => Some(text.clone()),
            Self::Stdin => None,
        }
    }
}

/// The script that a command line makes PowerShell run; `None` for another program.
pub(super) fn script_of(argv: &[String]) -> Option<Source> {
    let (program, rest) = argv.split_first()?;
    if !matches!(program_name(program).as_str(), "powershell" | "pwsh") {
        return None;
    }
    let mut words = rest.iter();
    while let Some(word) = words.next() {
        let Some(option) = word.strip_prefix(['-', '/']).map(str::to_lowercase) else {
            let line: Vec<&str> = [word.as_str()].into_iter().chain(words.map(String::as_str)).collect();
            return Some(Source::Given(line.join(" ")));
        };
        match option.as_str() {
            "" => return Some(Source::Stdin),
            option if option.len() >= 2 && "executionpolicy".starts_with(option) => drop(words.next()),
            "ep" | "inputformat" | "outputformat" | "windowstyle" | "version" => drop(words.next()),
            option if "encodedcommand".starts_with(option) || option == "ec" => {
                return Some(match words.next().and_then(|word| decode(word)) {
                    Some(text) => Source::Encoded(text),
                    None => {
                        Source::Given("throw 'Cannot process the command because the value is not encoded.'".into())
                    }
                });
            }
            option if "command".starts_with(option) => {
                let line = words.map(String::as_str).collect::<Vec<_>>().join(" ");
                return Some(if line == "-" { Source::Stdin } else { Source::Given(line) });
            }
            "file" | "f" => {
                let file = words.next()?;
                return Some(Source::Given(format!("& '{file}'")));
            }
            _ => {}
        }
    }
    Some(Source::Stdin)
}

fn decode(text: &str) -> Option<String> {
    let bytes = STANDARD.decode(text).ok().filter(|bytes| bytes.len() % 2 == 0)?;
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    String::from_utf16(&units).ok()
}

/// Runs a script.
pub(super) fn run(host: &mut Host<'_>, call: &ScriptCall, source: &Source) -> ScriptOutput {
    let script = call.script.clone().or_else(|| source.text()).unwrap_or_else(|| call.text());
    let mut session = Session::new(host, call);
    let exit_code = match ps_parse::parse(&script) {
        Ok(statements) => match session.block(&statements) {
            Ok(()) => i32::from(session.failed),
            Err(Stop::Exit(code)) => code,
            Err(Stop::Thrown(error)) => {
                session.errors.push(error);
                1
            }
        },
        Err(rest) => {
            let line = rest.lines().next().unwrap_or_default();
            session
                .errors
                .push(described("ParserError", &format!("Unexpected token '{line}' in expression or statement.")));
            1
        }
    };
    let progress = session.host.progress && !script.to_lowercase().contains("$progresspreference");
    let stderr = match source {
        Source::Encoded(_) => clixml::records(&session.errors, progress),
        _ => session.errors.concat(),
    };
    let mut output = ScriptOutput::text(session.stdout).exit(exit_code).after(session.takes);
    output.stderr = stderr + &session.raw_errors;
    output
}

/// Why a script does not go on.
enum Stop {
    Exit(i32),
    Thrown(String),
}

struct Session<'a, 'b> {
    host: &'a mut Host<'b>,
    call: &'a ScriptCall,
    variables: BTreeMap<String, Value>,
    stdout: String,
    errors: Vec<String>,
    /// What a script writes to standard error itself.
    raw_errors: String,
    takes: Duration,
    /// Whether the last statement failed.
    failed: bool,
}

type Outcome<T> = Result<T, Stop>;

impl<'a, 'b> Session<'a, 'b> {
    fn new(host: &'a mut Host<'b>, call: &'a ScriptCall) -> Self {
        Self {
            host,
            call,
            variables: BTreeMap::new(),
            stdout: String::new(),
            errors: Vec::new(),
            raw_errors: String::new(),
            takes: Duration::ZERO,
            failed: false,
        }
    }

    fn block(&mut self, statements: &[Statement]) -> Outcome<()> {
        for statement in statements {
            self.failed = false;
            self.statement(statement)?;
        }
        Ok(())
    }

    fn statement(&mut self, statement: &Statement) -> Outcome<()> {
        match statement {
            Statement::Assign(name, stages) => {
                let value = Value::of(self.pipeline(stages)?);
                self.variables.insert(name.clone(), value);
            }
            Statement::Throw(value) => {
                let text = match value {
                    Some(value) => self.value(value)?.text(),
                    None => "ScriptHalted".to_owned(),
                };
                return Err(Stop::Thrown(described("OperationStopped", &text)));
            }
            Statement::Exit(code) => {
                let code = code.as_ref().map(|code| self.value(code)).transpose()?.and_then(|code| code.number());
                return Err(Stop::Exit(code.and_then(|code| i32::try_from(code).ok()).unwrap_or(0)));
            }
            Statement::If(condition, then, otherwise) => {
                let branch = if self.value(condition)?.holds() { then } else { otherwise };
                return self.block(branch);
            }
            Statement::Try(body, handler) => match self.block(body) {
                Err(Stop::Thrown(error)) => {
                    let message = error.lines().next().unwrap_or_default().to_owned();
                    self.variables.insert("_".to_owned(), Value::Text(message));
                    return self.block(handler);
                }
                other => return other,
            },
            Statement::Pipeline(stages) => {
                for value in self.pipeline(stages)? {
                    self.print(&value);
                }
            }
        }
        Ok(())
    }

    fn print(&mut self, value: &Value) {
        self.stdout.push_str(&value.text());
        self.stdout.push_str("\r\n");
    }

    fn pipeline(&mut self, stages: &[Stage]) -> Outcome<Vec<Value>> {
        let mut items: Option<Vec<Value>> = None;
        for stage in stages {
            let next = match stage {
                Stage::Value(value) => self.value(value)?.items(),
                Stage::Command { name, arguments } => self.command(name, arguments, items.take())?,
            };
            items = Some(next);
        }
        Ok(items.unwrap_or_default())
    }

    /// An error that does not end the script unless `$ErrorActionPreference` says so.
    fn complain(&mut self, category: &str, text: &str) -> Outcome<Vec<Value>> {
        let error = described(category, text);
        let stops =
            self.variables.get("erroractionpreference").is_some_and(|value| value.text().eq_ignore_ascii_case("stop"));
        if stops {
            return Err(Stop::Thrown(error));
        }
        self.errors.push(error);
        self.failed = true;
        Ok(Vec::new())
    }

    fn command(&mut self, name: &str, arguments: &[Argument], piped: Option<Vec<Value>>) -> Outcome<Vec<Value>> {
        let mut named = BTreeMap::new();
        let mut plain = Vec::new();
        let mut blocks = Vec::new();
        let mut pending: Option<&str> = None;
        for argument in arguments {
            match argument {
                Argument::Name(name) => {
                    named.insert(name.as_str(), Value::Boolean(true));
                    pending = Some(name);
                }
                Argument::Value(value) => {
                    let value = self.value(value)?;
                    match pending.take() {
                        Some(name) => drop(named.insert(name, value)),
                        None => plain.push(value),
                    }
                }
                Argument::Block(statements) => blocks.push(statements),
            }
        }
        let first = |names: &[&str]| {
            let by_name = names.iter().find_map(|name| named.get(name));
            by_name.or(plain.first()).map(Value::text).unwrap_or_default()
        };
        let path = cmd::absolute(&first(&["path", "literalpath", "name"]), &self.call.working_directory);
        let done = match name.to_lowercase().as_str() {
            "write-output" | "echo" | "write" => {
                let given = named.remove("inputobject").into_iter().chain(plain).flat_map(Value::items);
                return Ok(piped.unwrap_or_default().into_iter().chain(given).collect());
            }
            "write-host" => {
                let text = plain.iter().map(Value::text).collect::<Vec<_>>().join(" ");
                self.print(&Value::Text(text));
                Ok(Vec::new())
            }
            "write-error" => return self.complain("NotSpecified", &first(&["message"])),
            "out-null" | "set-strictmode" | "write-verbose" | "write-progress" => Ok(Vec::new()),
            "out-string" => {
                let text: String = piped.unwrap_or_default().iter().map(|item| item.text() + "\r\n").collect();
                Ok(vec![Value::Text(text)])
            }
            "foreach-object" | "%" | "foreach" => return self.for_each(&blocks, piped.unwrap_or_default()),
            "select-object" | "select" => {
                let count = named.get("first").and_then(Value::number).and_then(|count| usize::try_from(count).ok());
                Ok(piped.unwrap_or_default().into_iter().take(count.unwrap_or(usize::MAX)).collect())
            }
            "start-sleep" | "sleep" => {
                let milliseconds = named.get("milliseconds").and_then(Value::number);
                let seconds = first(&["seconds", "s"]).parse().unwrap_or(0_i64);
                let time = milliseconds.unwrap_or(seconds.saturating_mul(1000));
                self.takes += Duration::from_millis(u64::try_from(time).unwrap_or(0));
                Ok(Vec::new())
            }
            "import-module" => {
                let wanted = first(&["name"]);
                if self.host.windows.modules.iter().any(|module| module.eq_ignore_ascii_case(&wanted)) {
                    return Ok(Vec::new());
                }
                let text = format!(
                    "The specified module '{wanted}' was not loaded because no valid module file was found in any \
                     module directory."
                );
                return self.complain("ResourceUnavailable", &text);
            }
            "restart-service" => self.host.windows.restart_service(&first(&["name"])).map(|()| Vec::new()),
            "restart-webapppool" => self.host.windows.iis.recycle_pool(&first(&["name"])).map(|()| Vec::new()),
            "test-path" => Ok(vec![Value::Boolean(self.host.windows.files.exists(&path))]),
            "get-content" | "gc" | "cat" | "type" => self.host.windows.files.read(&path).map(|bytes| {
                let text = String::from_utf8_lossy(&bytes);
                text.lines().map(|line| Value::Text(line.to_owned())).collect()
            }),
            "set-content" => {
                let value = named.get("value").or(plain.get(1)).cloned();
                let lines = value.map(Value::items).or(piped).unwrap_or_default();
                let text: String = lines.iter().map(|line| line.text() + "\r\n").collect();
                self.host.windows.files.write(&path, text.as_bytes()).map(|()| Vec::new())
            }
            "remove-item" | "rm" | "del" => self.host.windows.files.delete(&path).map(|()| Vec::new()),
            other => return self.program(other, name, &plain),
        };
        match done {
            Ok(values) => Ok(values),
            Err(error) => self.complain("WriteError", &error.message),
        }
    }

    fn for_each(&mut self, blocks: &[&Vec<Statement>], items: Vec<Value>) -> Outcome<Vec<Value>> {
        let before = std::mem::take(&mut self.stdout);
        let mut values = Vec::new();
        for item in items {
            self.variables.insert("_".to_owned(), item);
            for statement in blocks.iter().flat_map(|block| block.iter()) {
                match statement {
                    Statement::Pipeline(stages) => values.extend(self.pipeline(stages)?),
                    other => self.statement(other)?,
                }
            }
        }
        let printed = std::mem::replace(&mut self.stdout, before);
        self.stdout.push_str(&printed);
        Ok(values)
    }

    /// A program, such as `hostname`, or nothing of that name.
    fn program(&mut self, lower: &str, name: &str, arguments: &[Value]) -> Outcome<Vec<Value>> {
        const KNOWN: [&str; 7] = ["hostname", "whoami", "ipconfig", "ping", "netsh", "certutil", "net"];
        if KNOWN.contains(&program_name(lower).as_str()) {
            let words: Vec<String> = [name.to_owned()].into_iter().chain(arguments.iter().map(Value::text)).collect();
            let mut call = self.call.clone();
            (call.command_line, call.argv) = (words.join(" "), words);
            let output = cmd::run(self.host.windows, &call);
            self.takes += output.takes;
            self.raw_errors.push_str(&output.stderr);
            return Ok(output.stdout.lines().map(|line| Value::Text(line.to_owned())).collect());
        }
        let text = format!(
            "The term '{name}' is not recognized as the name of a cmdlet, function, script file, or operable program. \
             Check the spelling of the name, or if a path was included, verify that the path is correct and try again."
        );
        self.complain("ObjectNotFound", &text)
    }

    fn value(&mut self, expr: &Expr) -> Outcome<Value> {
        Ok(match expr {
            Expr::Number(number) => Value::Number(*number),
            Expr::Literal(text) => Value::Text(text.clone()),
            Expr::Template(text) => Value::Text(self.filled(text)?),
            Expr::Variable(name) => self.variable(name),
            Expr::List(items) => {
                let items = items.iter().map(|item| self.value(item)).collect::<Outcome<Vec<_>>>()?;
                Value::List(items)
            }
            Expr::Group(stages) => Value::of(self.pipeline(stages)?),
            Expr::Binary(left, operator, right) => {
                let (left, right) = (self.value(left)?, self.value(right)?);
                self.combined(left, operator, right)?
            }
            Expr::Property(value, name) => self.property(value, name)?,
            Expr::Static(class, member, arguments) => self.member(class, member, arguments.as_deref())?,
            Expr::Call(target, method, arguments) => self.method(target, method, arguments)?,
        })
    }

    fn variable(&self, name: &str) -> Value {
        if let Some(variable) = name.strip_prefix("env:") {
            let found = self.call.environment.get(&variable.to_uppercase());
            return found.map_or(Value::Null, |value| Value::Text(value.clone()));
        }
        match name {
            "true" => Value::Boolean(true),
            "false" => Value::Boolean(false),
            "pwd" => Value::Text(self.call.working_directory.clone()),
            "input" => Value::Text(self.call.text()),
            other => self.variables.get(other).cloned().unwrap_or(Value::Null),
        }
    }

    fn combined(&mut self, left: Value, operator: &str, right: Value) -> Outcome<Value> {
        let numbers = (left.number(), right.number());
        Ok(match (operator, left, numbers) {
            ("..", _, (Some(from), Some(to))) if from <= to => Value::List((from..=to).map(Value::Number).collect()),
            ("..", _, (Some(from), Some(to))) => Value::List((to..=from).rev().map(Value::Number).collect()),
            ("*", Value::Text(text), (_, Some(times))) => {
                Value::Text(text.repeat(usize::try_from(times).unwrap_or(0).min(16 << 20)))
            }
            ("*", _, (Some(left), Some(right))) => Value::Number(left.saturating_mul(right)),
            ("+", Value::Text(text), _) => Value::Text(text + &right.text()),
            ("+", Value::List(mut items), _) => {
                items.extend(right.items());
                Value::List(items)
            }
            ("+", _, (Some(left), Some(right))) => Value::Number(left.saturating_add(right)),
            ("-", _, (Some(left), Some(right))) => Value::Number(left.saturating_sub(right)),
            ("-gt", _, (Some(left), Some(right))) => Value::Boolean(left > right),
            ("-lt", _, (Some(left), Some(right))) => Value::Boolean(left < right),
            ("-eq", left, _) => Value::Boolean(left.equals(&right)),
            ("-ne", left, _) => Value::Boolean(!left.equals(&right)),
            ("-and", left, _) => Value::Boolean(left.holds() && right.holds()),
            ("-or", left, _) => Value::Boolean(left.holds() || right.holds()),
            _ => {
                let text = format!("The operator {operator} cannot be used on these values.");
                return Err(Stop::Thrown(described("InvalidOperation", &text)));
            }
        })
    }

    fn property(&mut self, value: &Expr, name: &str) -> Outcome<Value> {
        if matches!(value, Expr::Variable(variable) if variable == "psversiontable") && name == "psversion" {
            return Ok(Value::Text(self.host.windows.powershell_version.clone()));
        }
        Ok(match (self.value(value)?, name) {
            (Value::Text(text), "length") => Value::Number(i64::try_from(text.chars().count()).unwrap_or(i64::MAX)),
            (Value::Text(text), "major") => {
                Value::Number(text.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0))
            }
            (Value::Text(text), "exception" | "message") => Value::Text(text),
            (Value::List(items), "length" | "count") => Value::Number(i64::try_from(items.len()).unwrap_or(i64::MAX)),
            _ => Value::Null,
        })
    }

    fn member(&mut self, class: &str, member: &str, arguments: Option<&[Expr]>) -> Outcome<Value> {
        let class = class.strip_prefix("system.").unwrap_or(class);
        match (class, member, arguments) {
            ("environment", "machinename", None) => Ok(Value::Text(self.host.windows.computer_name.clone())),
            ("environment", "exit", Some([code])) => {
                let code = self.value(code)?.number().and_then(|code| i32::try_from(code).ok());
                Err(Stop::Exit(code.unwrap_or(0)))
            }
            ("console", "writeline", Some([text])) => {
                let value = self.value(text)?;
                self.print(&value);
                Ok(Value::Null)
            }
            ("console", "in" | "out" | "error", None) => Ok(Value::Text(format!("[console]::{member}"))),
            _ => Err(Stop::Thrown(described("InvalidOperation", &format!("[{class}]::{member} is not simulated.")))),
        }
    }

    fn method(&mut self, target: &Expr, method: &str, arguments: &[Expr]) -> Outcome<Value> {
        let target = self.value(target)?.text();
        let given = arguments.iter().map(|argument| self.value(argument)).collect::<Outcome<Vec<_>>>()?;
        let text = given.iter().map(Value::text).collect::<String>();
        match (target.as_str(), method) {
            ("[console]::in", "readtoend") => return Ok(Value::Text(self.call.text())),
            ("[console]::out", "write") => self.stdout.push_str(&text),
            ("[console]::out", "writeline") => self.stdout.push_str(&(text + "\r\n")),
            ("[console]::error", "write") => self.raw_errors.push_str(&text),
            ("[console]::error", "writeline") => self.raw_errors.push_str(&(text + "\r\n")),
            (plain, "toupper") => return Ok(Value::Text(plain.to_uppercase())),
            (plain, "trim") => return Ok(Value::Text(plain.trim().to_owned())),
            (plain, "tostring") => return Ok(Value::Text(plain.to_owned())),
            _ => {
                return Err(Stop::Thrown(described(
                    "InvalidOperation",
                    &format!("The method {method} is not simulated."),
                )));
            }
        }
        Ok(Value::Null)
    }

    /// Text in double quotes with everything put in.
    fn filled(&mut self, template: &str) -> Outcome<String> {
        let mut text = String::new();
        let mut rest = template;
        while let Some(character) = rest.chars().next() {
            let after = &rest[character.len_utf8()..];
            match character {
                '`' => {
                    let escaped = after.chars().next();
                    text.extend(escaped.map(|escaped| match escaped {
                        'n' => '\n',
                        'r' => '\r',
                        't' => '\t',
                        '0' => '\0',
                        other => other,
                    }));
                    rest = &after[escaped.map_or(0, char::len_utf8)..];
                }
                '$' if after.starts_with('(') => {
                    let broken = |_| Stop::Thrown(described("ParserError", "Incomplete string token."));
                    let (stages, following) = ps_parse::parse_group(&after[1..]).map_err(broken)?;
                    text.push_str(&Value::of(self.pipeline(&stages)?).text());
                    rest = following;
                }
                '$' if after.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                    let end =
                        after.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(after.len());
                    let name = after[..end].trim_end_matches(':');
                    text.push_str(&self.variable(&name.to_lowercase()).text());
                    rest = &after[name.len()..];
                }
                other => {
                    text.push(other);
                    rest = after;
                }
            }
        }
        Ok(text)
    }
}

/// An error as the console shows it.
fn described(category: &str, text: &str) -> String {
    let short: String = text.chars().take(60).collect();
    format!(
        "{text}\r\n    + CategoryInfo          : {category}: (:) [], RuntimeException\r\n    + FullyQualifiedErrorId : \
         {short}\r\n \r\n"
    )
}
