//! Shells and commands.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::{Error, Result};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::envelope::{Envelope, Header, ns};
use super::fault::Fault;
use super::session::Session;
use super::xml::Element;
use crate::files::Ended;

const OPERATION: &str = "winrm.command";

/// How long one polite goodbye may take.
const GOODBYE: Duration = Duration::from_secs(5);

/// The machine's command line, which commands are run by.
#[derive(Debug)]
pub(super) struct Shell<'a> {
    session: Session<'a>,
    header: Header,
    /// How long the answer to a request may take beyond the operation time-out.
    grace: Duration,
    id: Option<String>,
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) ended: Ended,
    pub(super) stdout: Zeroizing<Vec<u8>>,
    pub(super) stderr: Vec<u8>,
    /// More was printed than was kept.
    pub(super) truncated: bool,
}

/// What to run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job<'j> {
    pub(super) command: &'j str,
    pub(super) arguments: &'j [&'j str],
    pub(super) input: Option<&'j [u8]>,
    /// How many bytes of each output stream are kept.
    pub(super) keep: usize,
    pub(super) limit: Duration,
}

impl<'a> Shell<'a> {
    /// A shell that is opened when the first command needs it.
    pub(super) fn new(session: Session<'a>, header: Header, grace: Duration) -> Self {
        Self { session, header, grace, id: None }
    }

    /// Runs a command to its end, or ends it when its time is up.
    ///
    /// # Errors
    /// As [`Session::ask`] and [`Fault::error`]. Once the command was started, anything may have happened.
    pub(super) async fn run(&mut self, job: Job<'_>) -> Result<Output> {
        let deadline = Instant::now() + job.limit;
        let (shell, command) = self.start(job).await?;
        let result = self.serve(job, &shell, &command, deadline).await;
        // Also ends what still runs, and frees the machine's memory of what does not.
        let terminate = self.header.terminate(&shell, &command);
        let _ = tokio::time::timeout(GOODBYE, self.session.ask(&terminate, GOODBYE, true)).await;
        result
    }

    /// Closes the shell and the connection. Best effort: a shell left behind closes itself.
    pub(super) async fn close(mut self) {
        if let Some(id) = self.id.take() {
            let delete = self.header.delete(&id);
            let _ = tokio::time::timeout(GOODBYE, self.session.ask(&delete, GOODBYE, true)).await;
        }
        self.session.close();
    }

    /// Starts a command, in a new shell when the old one has closed itself.
    async fn start(&mut self, job: Job<'_>) -> Result<(String, String)> {
        let mut again = self.id.is_some();
        loop {
            let shell = self.open().await?;
            let envelope = self.header.command(&shell, job.command, job.arguments);
            match self.request(&envelope, false).await? {
                Ok(answer) => {
                    let id = body(&answer).and_then(|body| body.descend(ns::SHELL, &["CommandResponse", "CommandId"]));
                    let id = id.map(Element::text).filter(|id| is_id(id)).ok_or_else(nonsense)?;
                    return Ok((shell, id.to_owned()));
                }
                Err(fault) if again && fault.is_missing_shell() => {
                    again = false;
                    self.id = None;
                }
                Err(fault) => return Err(fault.error(OPERATION)),
            }
        }
    }

    /// Opens the shell, unless it is open.
    pub(super) async fn open(&mut self) -> Result<String> {
        if let Some(id) = &self.id {
            return Ok(id.clone());
        }
        let envelope = self.header.create();
        let answer = self.request(&envelope, false).await?.map_err(|fault| fault.error("winrm.shell"))?;
        let id = shell_id(&answer).filter(|id| is_id(id)).ok_or_else(nonsense)?.to_owned();
        self.id = Some(id.clone());
        Ok(id)
    }

    async fn serve(&mut self, job: Job<'_>, shell: &str, command: &str, deadline: Instant) -> Result<Output> {
        if let Some(input) = job.input {
            self.feed(shell, command, input, deadline).await?;
        }
        let mut output =
            Output { ended: Ended::Unknown, stdout: Zeroizing::new(Vec::new()), stderr: Vec::new(), truncated: false };
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                output.ended = Ended::TimedOut;
                return Ok(output);
            }
            let envelope = self.header.receive(shell, command);
            // Another connection may ask for output again: what was under way to the old one is lost, which is noticed.
            let answer = tokio::time::timeout(left, self.session.ask(&envelope, self.patience(), true)).await;
            match answer {
                Err(_) => {
                    self.session.close();
                    output.ended = Ended::TimedOut;
                    return Ok(output);
                }
                Ok(Err(error)) => return Err(error),
                Ok(Ok(Err(fault))) if fault.is_timeout() => {}
                Ok(Ok(Err(fault))) => return Err(fault.error(OPERATION)),
                Ok(Ok(Ok(answer))) => {
                    if collect(&answer, command, job.keep, &mut output)? {
                        return Ok(output);
                    }
                }
            }
        }
    }

    async fn feed(&mut self, shell: &str, command: &str, input: &[u8], deadline: Instant) -> Result<()> {
        let room = self.header.input_room();
        let pieces = input.len().div_ceil(room).max(1);
        for index in 0..pieces {
            let piece = input.get(index * room..((index + 1) * room).min(input.len())).unwrap_or_default();
            let base64 = Zeroizing::new(STANDARD.encode(piece));
            let envelope = self.header.send(shell, command, &base64, index + 1 == pieces);
            let left = deadline.saturating_duration_since(Instant::now());
            let sent = tokio::time::timeout(left, self.request(&envelope, false)).await;
            match sent.map_err(|_| too_slow())?? {
                Ok(_) => {}
                Err(fault) if fault.is_timeout() => return Err(too_slow()),
                Err(fault) => return Err(fault.error(OPERATION)),
            }
        }
        Ok(())
    }

    async fn request(&mut self, envelope: &Envelope, repeatable: bool) -> Result<Result<Element, Fault>> {
        let patience = self.patience();
        self.session.ask(envelope, patience, repeatable).await
    }

    /// How long to wait for an answer: the machine may use all of its own time-out.
    fn patience(&self) -> Duration {
        self.header.operation_timeout + self.grace
    }
}

/// Takes output from an answer; tells whether the command has ended.
fn collect(answer: &Element, command: &str, keep: usize, output: &mut Output) -> Result<bool> {
    let response = body(answer).and_then(|body| body.child(ns::SHELL, "ReceiveResponse")).ok_or_else(nonsense)?;
    let ours = |element: &Element| element.attribute("CommandId").is_none_or(|id| id.eq_ignore_ascii_case(command));
    for stream in response.children(ns::SHELL, "Stream").filter(|stream| ours(stream)) {
        let text: String = stream.text().split_ascii_whitespace().collect();
        let data = Zeroizing::new(STANDARD.decode(text).map_err(|_| nonsense())?);
        let kept: &mut Vec<u8> = match stream.attribute("Name") {
            Some("stdout") => &mut output.stdout,
            Some("stderr") => &mut output.stderr,
            _ => continue,
        };
        let room = keep.saturating_sub(kept.len()).min(data.len());
        kept.extend_from_slice(&data[..room]);
        output.truncated |= room < data.len();
    }
    let Some(state) = response.child(ns::SHELL, "CommandState").filter(|state| ours(state)) else { return Ok(false) };
    if !state.attribute("State").is_some_and(|state| state.ends_with("/Done")) {
        return Ok(false);
    }
    let code = state.child(ns::SHELL, "ExitCode").map(Element::text);
    // Windows counts exit codes with a sign or without, as it likes.
    let code =
        code.and_then(|code| code.parse::<u32>().ok().or_else(|| code.parse::<i32>().ok().map(i32::cast_unsigned)));
    output.ended = code.map_or(Ended::Unknown, Ended::Exited);
    Ok(true)
}

fn shell_id(answer: &Element) -> Option<&str> {
    let body = body(answer)?;
    if let Some(id) = body.descend(ns::SHELL, &["Shell", "ShellId"]) {
        return Some(id.text());
    }
    let parameters = body.child(ns::TRANSFER, "ResourceCreated")?.child(ns::ADDRESSING, "ReferenceParameters")?;
    let mut selectors = parameters.child(ns::WSMAN, "SelectorSet")?.children(ns::WSMAN, "Selector");
    selectors.find(|selector| selector.attribute("Name") == Some("ShellId")).map(Element::text)
}

fn body(answer: &Element) -> Option<&Element> {
    answer.child(ns::SOAP, "Body")
}

/// What an id can look like: it is sent back in requests.
fn is_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '{' | '}' | ':'))
}

fn too_slow() -> Error {
    Error::transient(OPERATION, "command_timeout", "the machine did not take the command's input in time")
}

fn nonsense() -> Error {
    Error::permanent(OPERATION, "protocol_error", "the answer is not one of WS-Management to this request")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str) -> Element {
        let document = format!(
            "<s:Envelope xmlns:s='{}' xmlns:r='{}' xmlns:t='{}' xmlns:a='{}' xmlns:w='{}'><s:Body>{body}</s:Body></s:Envelope>",
            ns::SOAP,
            ns::SHELL,
            ns::TRANSFER,
            ns::ADDRESSING,
            ns::WSMAN
        );
        Element::parse(&document).unwrap()
    }

    fn output() -> Output {
        Output { ended: Ended::Unknown, stdout: Zeroizing::default(), stderr: Vec::new(), truncated: false }
    }

    #[test]
    fn output_is_put_together_and_cut() {
        let mut out = output();
        let running = answer(
            "<r:ReceiveResponse><r:Stream Name='stdout' CommandId='C'>w6Q=</r:Stream><r:Stream Name='stderr'>YQ==</r:Stream>\
             <r:Stream Name='stdout' CommandId='D'>eA==</r:Stream><r:CommandState CommandId='C' State='x/Running'/>\
             </r:ReceiveResponse>",
        );
        assert!(!collect(&running, "c", 5, &mut out).unwrap());
        let done = answer(
            "<r:ReceiveResponse><r:Stream Name='stdout' CommandId='C'>YWJjZGVm</r:Stream>\
             <r:Stream Name='stdout' CommandId='C' End='true'/>\
             <r:CommandState CommandId='C' State='x/Done'><r:ExitCode>-1</r:ExitCode></r:CommandState></r:ReceiveResponse>",
        );
        assert!(collect(&done, "C", 5, &mut out).unwrap());
        assert_eq!((out.stdout.as_slice(), out.stderr.as_slice()), ("äabc".as_bytes(), &b"a"[..]));
        assert_eq!((out.ended, out.truncated), (Ended::Exited(u32::MAX), true));
    }

    #[test]
    fn answers_that_are_none_are_refused() {
        for body in
            ["", "<r:CommandResponse/>", "<r:ReceiveResponse><r:Stream Name='stdout'>?</r:Stream></r:ReceiveResponse>"]
        {
            assert_eq!(collect(&answer(body), "C", 9, &mut output()).unwrap_err().code(), "protocol_error");
        }
    }

    #[test]
    fn the_id_of_a_shell_is_in_one_of_two_places() {
        let selector = "<t:ResourceCreated><a:ReferenceParameters><w:SelectorSet><w:Selector Name='ShellId'>S-1\
                        </w:Selector></w:SelectorSet></a:ReferenceParameters></t:ResourceCreated>";
        assert_eq!(shell_id(&answer(selector)), Some("S-1"));
        assert_eq!(shell_id(&answer("<r:Shell><r:ShellId> S-2 </r:ShellId></r:Shell>")), Some("S-2"));
        assert!(is_id("11111111-AAAA") && !is_id("") && !is_id("a'b") && !is_id("<x/>"));
    }
}
