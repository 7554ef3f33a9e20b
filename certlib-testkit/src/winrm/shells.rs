//! Shells and their commands.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    command::{self, codepage},
    envelope::{CMD, Fault, Request, duration},
    script::{ScriptCall, ScriptOutput},
    windows::Windows,
};
use crate::{
    guid::guid,
    xml::{Element, escaped},
};

/// The longest command line that cmd.exe takes.
const COMMAND_LINE: usize = 8191;

/// How many bytes of a stream one answer holds at most.
const CHUNK: usize = 32 * 1024;

/// What an answer needs beside its output.
const OVERHEAD: usize = 2048;

/// How a command ends that was interrupted: `STATUS_CONTROL_C_EXIT`.
const INTERRUPTED: i32 = -1_073_741_510;

/// How many there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) shells: usize,
    pub(super) commands: usize,
    pub(super) idle: Duration,
}

/// All shells.
pub(super) struct Shells {
    pub(super) limits: Limits,
    shells: BTreeMap<String, Shell>,
}

struct Shell {
    owner: String,
    input: String,
    output: String,
    codepage: u32,
    environment: BTreeMap<String, String>,
    working_directory: String,
    idle: Duration,
    created: Instant,
    touched: Instant,
    commands: BTreeMap<String, Command>,
}

struct Command {
    call: ScriptCall,
    stdin_ended: bool,
    running: bool,
    interrupted: bool,
    output: Option<Output>,
    /// The last answer with output, for a client that asks the very same question again.
    last: Option<(String, String)>,
}

struct Output {
    ready: Instant,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    exit_code: i32,
    done: bool,
}

/// What a request for output finds.
pub(super) enum Found {
    Now(String),
    /// Nothing yet, and not before this moment if one is given.
    Later(Option<Instant>),
}

/// A command that can run now.
pub(super) struct Due {
    pub(super) shell: String,
    pub(super) command: String,
    pub(super) call: ScriptCall,
}

impl Shells {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, shells: BTreeMap::new() }
    }

    /// Ends all shells, as a restart of the service does.
    pub(super) fn clear(&mut self) {
        self.shells.clear();
    }

    /// How many shells are open.
    pub(super) fn count(&self) -> usize {
        self.shells.len()
    }

    pub(super) fn create(&mut self, request: &Request, user: &str, windows: &Windows) -> Result<String, Fault> {
        let wanted = request.content("Shell").ok_or_else(|| Fault::invalid("no Shell"))?;
        if request.resource != CMD {
            return Err(Fault::unknown_resource(&request.resource));
        }
        let owned = self.shells.values().filter(|shell| shell.owner == user).count();
        if owned >= self.limits.shells {
            return Err(Fault::shell_quota(self.limits.shells));
        }
        let text = |name: &str| wanted.text_of(super::envelope::SHELL, name).filter(|text| !text.is_empty());
        let mut environment = command::environment(windows, user);
        for variable in wanted.child(super::envelope::SHELL, "Environment").into_iter().flat_map(|set| &set.children) {
            let name = variable.attribute("Name").unwrap_or_default();
            environment.insert(name.to_uppercase(), variable.text.clone());
        }
        let home = format!("C:\\Users\\{user}");
        let working_directory = text("WorkingDirectory").unwrap_or(&home).to_owned();
        if working_directory != home && !windows.files.info(&working_directory).is_ok_and(|info| info.directory) {
            return Err(Fault::no_directory());
        }
        let now = Instant::now();
        let shell = Shell {
            owner: user.to_owned(),
            input: text("InputStreams").unwrap_or("stdin").to_owned(),
            output: text("OutputStreams").unwrap_or("stdout stderr").to_owned(),
            codepage: request.option("WINRS_CODEPAGE").and_then(|page| page.parse().ok()).unwrap_or(437),
            environment,
            working_directory,
            idle: text("IdleTimeOut").and_then(duration).unwrap_or(self.limits.idle),
            created: now,
            touched: now,
            commands: BTreeMap::new(),
        };
        let id = wanted.attribute("ShellId").map_or_else(|| guid().to_uppercase(), str::to_uppercase);
        let body = format!(
            "<x:ResourceCreated><a:Address>http://127.0.0.1/wsman</a:Address><a:ReferenceParameters><w:ResourceURI>{CMD}\
             </w:ResourceURI><w:SelectorSet><w:Selector Name=\"ShellId\">{id}</w:Selector></w:SelectorSet>\
             </a:ReferenceParameters></x:ResourceCreated>{}",
            shell.describe(&id)
        );
        self.shells.insert(id, shell);
        Ok(body)
    }

    pub(super) fn delete(&mut self, request: &Request, user: &str) -> Result<String, Fault> {
        self.shell(request, user)?;
        self.shells.remove(&selected(request));
        Ok(String::new())
    }

    /// What `Get` of a shell shows.
    pub(super) fn show(&mut self, request: &Request, user: &str) -> Result<String, Fault> {
        let id = selected(request);
        self.shell(request, user).map(|shell| shell.describe(&id))
    }

    /// What a list of a user's shells shows.
    pub(super) fn list(&self, user: &str) -> String {
        let own = self.shells.iter().filter(|(_, shell)| shell.owner == user);
        let items: String = own.map(|(id, shell)| shell.describe(id)).collect();
        format!(
            "<n:EnumerateResponse><n:EnumerationContext/><w:Items>{items}</w:Items><w:EndOfSequence/></n:EnumerateResponse>"
        )
    }

    /// Creates a command; one that reads no standard input is due at once.
    pub(super) fn command(&mut self, request: &Request, user: &str) -> Result<(String, Option<Due>), Fault> {
        let call = self.prepare(request, user)?;
        let limit = self.limits.commands;
        let shell = self.shell(request, user)?;
        if shell.commands.len() >= limit {
            return Err(Fault::operation_quota(limit));
        }
        let suggested = request.content("CommandLine").and_then(|line| line.attribute("CommandId"));
        let id = suggested.map_or_else(|| guid().to_uppercase(), str::to_uppercase);
        let due = !command::reads_stdin(&call);
        let command = Command {
            call: call.clone(),
            stdin_ended: false,
            running: due,
            interrupted: false,
            output: None,
            last: None,
        };
        shell.commands.insert(id.clone(), command);
        let body = format!("<rsp:CommandResponse><rsp:CommandId>{id}</rsp:CommandId></rsp:CommandResponse>");
        Ok((body, due.then(|| Due { shell: selected(request), command: id, call })))
    }

    /// The call that a request makes run, if it does: for faults that wait for a certain script.
    pub(super) fn peek(&mut self, request: &Request, user: &str) -> Option<ScriptCall> {
        match request.operation {
            super::Operation::Command => {
                let call = self.prepare(request, user).ok()?;
                (!command::reads_stdin(&call)).then_some(call)
            }
            super::Operation::Send => {
                let (id, bytes, end) = stdin(request).ok()?;
                let command = self.shell(request, user).ok()?.commands.get(&id)?;
                let mut call = command.call.clone();
                call.stdin.extend(bytes);
                (end && !command.running && command.output.is_none()).then_some(call)
            }
            _ => None,
        }
    }

    /// Takes standard input; with its end, a command that reads it is due.
    pub(super) fn send(&mut self, request: &Request, user: &str) -> Result<(String, Option<Due>), Fault> {
        let (id, bytes, end) = stdin(request)?;
        let command = self.command_mut(request, user, &id)?;
        if command.stdin_ended || command.output.as_ref().is_some_and(|output| output.done) {
            return Err(Fault::pipe_closed());
        }
        command.call.stdin.extend(bytes);
        command.stdin_ended = end;
        let due = end && !command.running && command.output.is_none();
        command.running |= due;
        let call = command.call.clone();
        let due = due.then(|| Due { shell: selected(request), command: id, call });
        Ok(("<rsp:SendResponse/>".to_owned(), due))
    }

    /// Takes in what a command has left behind; it may be gone already.
    pub(super) fn ran(&mut self, due: &Due, output: ScriptOutput) {
        let Some(shell) = self.shells.get_mut(&due.shell) else { return };
        let page = shell.codepage;
        if let Some(command) = shell.commands.get_mut(&due.command) {
            command.running = false;
            command.output = Some(Output {
                ready: Instant::now() + output.takes,
                stdout: codepage::encode(&output.stdout, page),
                stderr: codepage::encode(&output.stderr, page),
                exit_code: output.exit_code,
                done: false,
            });
        }
    }

    pub(super) fn signal(&mut self, request: &Request, user: &str) -> Result<String, Fault> {
        let signal = request.content("Signal").ok_or_else(|| Fault::invalid("no Signal"))?;
        let id = signal.attribute("CommandId").unwrap_or_default().to_uppercase();
        let code = signal.text_of(super::envelope::SHELL, "Code").unwrap_or_default();
        let kind = code.rsplit('/').next().unwrap_or_default().to_lowercase();
        let command = self.command_mut(request, user, &id)?;
        match kind.as_str() {
            "terminate" => {
                self.shell(request, user)?.commands.remove(&id);
            }
            "ctrl_c" | "ctrl_break" => {
                let ended = command.output.as_ref().is_some_and(|output| output.ready <= Instant::now());
                if !ended {
                    command.interrupted = true;
                    command.output = Some(Output {
                        ready: Instant::now(),
                        stdout: Vec::new(),
                        stderr: Vec::new(),
                        exit_code: INTERRUPTED,
                        done: false,
                    });
                }
            }
            _ => return Err(Fault::invalid("unknown signal")),
        }
        Ok("<rsp:SignalResponse/>".to_owned())
    }

    /// Looks for output. `waited` tells that the request has found nothing before.
    pub(super) fn receive(&mut self, request: &Request, user: &str, waited: bool) -> Result<Found, Fault> {
        let stream = request.content("Receive").and_then(|receive| receive.children.first());
        let id = stream.and_then(|stream| stream.attribute("CommandId")).unwrap_or_default().to_uppercase();
        let wanted = stream.map(|stream| stream.text.trim().to_lowercase()).unwrap_or_default();
        let command = match self.command_mut(request, user, &id) {
            Err(_) if waited => return Err(Fault::aborted()),
            found => found?,
        };
        if let Some((_, answer)) = command.last.as_ref().filter(|(asked, _)| *asked == request.message_id) {
            return Ok(Found::Now(answer.clone()));
        }
        let Some(output) = &mut command.output else { return Ok(Found::Later(None)) };
        if output.ready > Instant::now() {
            return Ok(Found::Later(Some(output.ready)));
        }
        let room = request.envelope_size.saturating_sub(OVERHEAD) / 4 * 3;
        let body = output.take(&id, &wanted, room);
        command.last = Some((request.message_id.clone(), body.clone()));
        Ok(Found::Now(body))
    }

    fn prepare(&mut self, request: &Request, user: &str) -> Result<ScriptCall, Fault> {
        let shell = self.shell(request, user)?;
        let wanted = request.content("CommandLine").ok_or_else(|| Fault::invalid("no CommandLine"))?;
        let words = wanted.children.iter().filter(|child| matches!(child.name.as_str(), "Command" | "Arguments"));
        let line = words.map(|child| child.text.as_str()).collect::<Vec<_>>().join(" ");
        if line.encode_utf16().count() > COMMAND_LINE {
            return Err(Fault::too_long());
        }
        Ok(command::call(&line, user, &shell.environment, &shell.working_directory))
    }

    fn shell(&mut self, request: &Request, user: &str) -> Result<&mut Shell, Fault> {
        let id = selected(request);
        let now = Instant::now();
        self.shells.retain(|_, shell| now.duration_since(shell.touched) < shell.idle || shell.is_busy());
        let shell = self.shells.get_mut(&id).filter(|shell| shell.owner == user).ok_or_else(|| Fault::no_shell(&id))?;
        shell.touched = now;
        Ok(shell)
    }

    fn command_mut(&mut self, request: &Request, user: &str, id: &str) -> Result<&mut Command, Fault> {
        self.shell(request, user)?.commands.get_mut(id).ok_or_else(|| Fault::no_command(id))
    }
}

impl Shell {
    fn is_busy(&self) -> bool {
        self.commands.values().any(|command| command.running)
    }

    fn describe(&self, id: &str) -> String {
        let seconds = |since: Instant| since.elapsed().as_secs();
        format!(
            "<rsp:Shell><rsp:ShellId>{id}</rsp:ShellId><rsp:ResourceUri>{CMD}</rsp:ResourceUri><rsp:Owner>{}</rsp:Owner>\
             <rsp:ClientIP>127.0.0.1</rsp:ClientIP><rsp:IdleTimeOut>PT{}.000S</rsp:IdleTimeOut><rsp:InputStreams>{}\
             </rsp:InputStreams><rsp:OutputStreams>{}</rsp:OutputStreams><rsp:ShellRunTime>P0DT0H0M{}S\
             </rsp:ShellRunTime><rsp:ShellInactivity>P0DT0H0M{}S</rsp:ShellInactivity></rsp:Shell>",
            escaped(&self.owner),
            self.idle.as_secs(),
            escaped(&self.input),
            escaped(&self.output),
            seconds(self.created),
            seconds(self.touched),
        )
    }
}

impl Output {
    /// The next part of the output, at most `room` bytes; wanted streams only.
    fn take(&mut self, id: &str, wanted: &str, room: usize) -> String {
        let mut body = "<rsp:ReceiveResponse>".to_owned();
        let mut room = room.max(1024);
        for (name, bytes) in [("stdout", &mut self.stdout), ("stderr", &mut self.stderr)] {
            let part: Vec<u8> = bytes.drain(..bytes.len().min(CHUNK).min(room)).collect();
            room -= part.len();
            if !part.is_empty() && wanted.split_whitespace().any(|stream| stream == name) {
                let text = base64(&part);
                body.push_str(&format!("<rsp:Stream Name=\"{name}\" CommandId=\"{id}\">{text}</rsp:Stream>"));
            }
        }
        const STATE: &str = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell/CommandState";
        if self.stdout.is_empty() && self.stderr.is_empty() {
            self.done = true;
            for name in wanted.split_whitespace() {
                let name = escaped(name);
                body.push_str(&format!("<rsp:Stream Name=\"{name}\" CommandId=\"{id}\" End=\"true\"/>"));
            }
            body.push_str(&format!(
                "<rsp:CommandState CommandId=\"{id}\" State=\"{STATE}/Done\"><rsp:ExitCode>{}</rsp:ExitCode>\
                 </rsp:CommandState>",
                self.exit_code
            ));
        } else {
            body.push_str(&format!("<rsp:CommandState CommandId=\"{id}\" State=\"{STATE}/Running\"/>"));
        }
        body.push_str("</rsp:ReceiveResponse>");
        body
    }
}

/// The shell that a request is about.
fn selected(request: &Request) -> String {
    request.shell_id.as_deref().unwrap_or_default().to_uppercase()
}

/// Command, bytes and end of a request with standard input.
fn stdin(request: &Request) -> Result<(String, Vec<u8>, bool), Fault> {
    let stream = request.content("Send").and_then(|send| send.children.first());
    let stream: &Element = stream.ok_or_else(|| Fault::invalid("no Stream"))?;
    let id = stream.attribute("CommandId").unwrap_or_default().to_uppercase();
    let text: String = stream.text.split_whitespace().collect();
    let bytes = unbase64(&text).ok_or_else(|| Fault::invalid("no base64"))?;
    Ok((id, bytes, stream.attribute("End").is_some_and(|end| end.eq_ignore_ascii_case("true"))))
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}

fn unbase64(text: &str) -> Option<Vec<u8>> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.decode(text).ok()
}
