//! The little of PowerShell that is understood, so that clients that are not certlib get sensible answers.
//!
//! Statements: pipelines, assignments, `if`/`else`, `try`/`catch`, `throw`, `exit`. Values: texts with variables and
//! `$(…)`, whole numbers, lists, ranges, `+`, `*`, comparisons; `$env:`, `$_`, `$PSVersionTable.PSVersion`.
//! Commands: `Write-Output`, `Write-Error`, `Write-Host`, `Out-Null`, `Out-String`, `ForEach-Object`, `Select-Object
//! -First`, `Start-Sleep`, `Import-Module`, `Restart-Service`, `Restart-WebAppPool`, `Get-Content`, `Set-Content`,
//! `Remove-Item`, `Test-Path`, and programs that cmd.exe finds. `[Console]::In.ReadToEnd()`,
//! `[Console]::Error.WriteLine()`, `[Console]::Out.Write()`. Anything else is an error, as a typing mistake would be.

use std::{collections::BTreeMap, time::Duration};

use super::{
    super::script::{ScriptCall, ScriptOutput},
    Host, clixml, ps_parse,
    ps_source::Source,
    ps_tree::{Expr, Stage, Statement},
    ps_value::Value,
};

/// How many elements a range may have.
const LARGEST: u64 = 1 << 20;

/// How long a repeated text gets, in bytes; what is more is left out.
const TEXT: usize = 16 << 20;

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
pub(super) enum Stop {
    Exit(i32),
    Thrown(String),
}

pub(super) struct Session<'a, 'b> {
    pub(super) host: &'a mut Host<'b>,
    pub(super) call: &'a ScriptCall,
    pub(super) variables: BTreeMap<String, Value>,
    pub(super) stdout: String,
    errors: Vec<String>,
    /// What a script writes to standard error itself.
    pub(super) raw_errors: String,
    pub(super) takes: Duration,
    /// Whether the last statement failed.
    failed: bool,
}

pub(super) type Outcome<T> = Result<T, Stop>;

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

    pub(super) fn statement(&mut self, statement: &Statement) -> Outcome<()> {
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

    pub(super) fn print(&mut self, value: &Value) {
        self.stdout.push_str(&value.text());
        self.stdout.push_str("\r\n");
    }

    pub(super) fn pipeline(&mut self, stages: &[Stage]) -> Outcome<Vec<Value>> {
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
    pub(super) fn complain(&mut self, category: &str, text: &str) -> Outcome<Vec<Value>> {
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

    pub(super) fn value(&mut self, expr: &Expr) -> Outcome<Value> {
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
            ("..", _, (Some(from), Some(to))) if from.abs_diff(to) > LARGEST => {
                let text = "The range operator would produce too many elements.";
                return Err(Stop::Thrown(described("InvalidOperation", text)));
            }
            ("..", _, (Some(from), Some(to))) if from <= to => Value::List((from..=to).map(Value::Number).collect()),
            ("..", _, (Some(from), Some(to))) => Value::List((to..=from).rev().map(Value::Number).collect()),
            ("*", Value::Text(text), (_, Some(times))) => {
                let most = TEXT / text.len().max(1);
                Value::Text(text.repeat(usize::try_from(times).unwrap_or(0).min(most)))
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
