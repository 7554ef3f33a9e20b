//! The commands of PowerShell that are there.

use std::{collections::BTreeMap, time::Duration};

use super::{
    super::script::program_name,
    cmd,
    powershell::{Outcome, Session},
    ps_tree::{Argument, Statement},
    ps_value::Value,
};

impl Session<'_, '_> {
    /// Runs a command; gives what goes down the pipeline.
    pub(super) fn command(
        &mut self,
        name: &str,
        arguments: &[Argument],
        piped: Option<Vec<Value>>,
    ) -> Outcome<Vec<Value>> {
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
}
