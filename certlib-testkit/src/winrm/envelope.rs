//! Envelopes of WS-Management: what is asked, and what is answered.

use std::time::Duration;

use super::fault::Operation;
use crate::xml::{Element, escaped};

pub(super) const SOAP: &str = "http://www.w3.org/2003/05/soap-envelope";
pub(super) const ADDRESSING: &str = "http://schemas.xmlsoap.org/ws/2004/08/addressing";
pub(super) const WSMAN: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd";
pub(super) const SHELL: &str = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell";
pub(super) const CMD: &str = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell/cmd";
const TRANSFER: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer";
const ENUMERATION: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration";
const FAULT_ACTION: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman/fault";
const ANONYMOUS: &str = "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous";

/// The operation timeout of a request that names none.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The envelope size of a request that names none.
const ENVELOPE: usize = 153_600;

/// A request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) operation: Operation,
    pub(super) action: String,
    pub(super) resource: String,
    pub(super) message_id: String,
    pub(super) timeout: Duration,
    pub(super) envelope_size: usize,
    pub(super) options: Vec<(String, String)>,
    pub(super) shell_id: Option<String>,
    pub(super) body: Element,
}

impl Request {
    /// Reads an envelope.
    pub(super) fn parse(text: &str) -> Result<Self, Fault> {
        let malformed = || Fault::invalid("no envelope");
        let mut envelope = Element::parse(text).filter(|root| root.is(SOAP, "Envelope")).ok_or_else(malformed)?;
        let body = envelope.children.iter().position(|child| child.is(SOAP, "Body")).ok_or_else(malformed)?;
        let body = envelope.children.swap_remove(body);
        let header = envelope.child(SOAP, "Header").ok_or_else(malformed)?;
        let text_of = |namespace, name| header.text_of(namespace, name).unwrap_or_default().to_owned();
        let named = |set: &str, item: &str| {
            let items = header.child(WSMAN, set).into_iter().flat_map(|set| &set.children);
            let items = items.filter(|child| child.is(WSMAN, item));
            let pairs =
                items.map(|item| (item.attribute("Name").unwrap_or_default().to_owned(), item.text.trim().to_owned()));
            pairs.collect::<Vec<_>>()
        };
        let action = text_of(ADDRESSING, "Action");
        let selectors = named("SelectorSet", "Selector");
        Ok(Self {
            operation: operation(&action),
            resource: text_of(WSMAN, "ResourceURI"),
            message_id: text_of(ADDRESSING, "MessageID"),
            timeout: header.text_of(WSMAN, "OperationTimeout").and_then(duration).unwrap_or(TIMEOUT),
            envelope_size: text_of(WSMAN, "MaxEnvelopeSize").parse().unwrap_or(ENVELOPE),
            options: named("OptionSet", "Option"),
            shell_id: selectors.into_iter().find(|(name, _)| name == "ShellId").map(|(_, id)| id),
            action,
            body,
        })
    }

    /// An option, upper case.
    pub(super) fn option(&self, name: &str) -> Option<String> {
        let found = self.options.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_uppercase())
    }

    /// The first element of the body, if it has that name.
    pub(super) fn content(&self, name: &str) -> Option<&Element> {
        self.body.child(SHELL, name)
    }

    /// The envelope that answers it.
    pub(super) fn answer(&self, body: &str) -> String {
        envelope(&format!("{}Response", self.action), &self.message_id, body)
    }
}

fn operation(action: &str) -> Operation {
    let split = action.rsplit_once('/').unwrap_or_default();
    match split {
        (TRANSFER, "Create") => Operation::Create,
        (TRANSFER, "Delete") => Operation::Delete,
        (TRANSFER, "Get") => Operation::Get,
        (ENUMERATION, "Enumerate") => Operation::Enumerate,
        (SHELL, "Command") => Operation::Command,
        (SHELL, "Send") => Operation::Send,
        (SHELL, "Receive") => Operation::Receive,
        (SHELL, "Signal") => Operation::Signal,
        _ => Operation::Other,
    }
}

/// A duration of XML Schema, such as `PT20S` or `P0DT1H`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (days, time) = text.strip_prefix('P')?.split_once('T').unwrap_or((text.strip_prefix('P')?, ""));
    let mut seconds = 0.0;
    for (part, units) in [(days, [('D', 86_400.0)].as_slice()), (time, &[('H', 3600.0), ('M', 60.0), ('S', 1.0)])] {
        let mut rest = part;
        while !rest.is_empty() {
            let at = rest.find(|character: char| character.is_ascii_alphabetic())?;
            let unit = units.iter().find(|(name, _)| rest[at..].starts_with(*name))?.1;
            seconds += rest[..at].parse::<f64>().ok()? * unit;
            rest = &rest[at + 1..];
        }
    }
    Duration::try_from_secs_f64(seconds).ok()
}

/// What is answered instead when something cannot be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) code: u32,
    role: String,
    subcode: String,
    reason: String,
    /// Whether the plugin of the shell says so, and not the service.
    from_shell: bool,
}

impl Fault {
    pub(super) fn new(code: u32, role: &str, subcode: &str, reason: impl Into<String>) -> Self {
        let (role, subcode) = (role.to_owned(), subcode.to_owned());
        Self { code, role, subcode, reason: reason.into(), from_shell: false }
    }

    pub(super) fn access_denied() -> Self {
        Self::new(5, "s:Sender", "w:AccessDenied", "Access is denied. ")
    }

    pub(super) fn timed_out() -> Self {
        let reason = "The WS-Management service cannot complete the operation within the time specified in \
                      OperationTimeout.  ";
        Self::new(2_150_858_793, "s:Receiver", "w:TimedOut", reason)
    }

    pub(super) fn shell_quota(limit: usize) -> Self {
        let reason = format!(
            "The WS-Management service cannot process the request. This user is allowed a maximum number of {limit} \
             concurrent shells, which has been exceeded. Close existing shells or raise the quota for this user. "
        );
        Self::new(2_150_859_173, "s:Receiver", "w:QuotaLimit", reason)
    }

    pub(super) fn operation_quota(limit: usize) -> Self {
        let reason = format!(
            "The WS-Management service cannot process the request. This user is allowed a maximum number of {limit} \
             concurrent operations, which has been exceeded. Close existing operations for this user, or raise the \
             quota for this user. "
        );
        Self::new(2_150_859_174, "s:Receiver", "w:QuotaLimit", reason)
    }

    pub(super) fn no_shell(id: &str) -> Self {
        let reason = format!(
            "The request for the Windows Remote Shell with ShellId {id} failed because the shell was not found on the \
             server. Possible causes are: the specified ShellId is incorrect or the shell no longer exists on the \
             server. Provide the correct ShellId or create a new shell and retry the operation. "
        );
        Self::new(2_150_858_843, "s:Sender", "w:InvalidSelectors", reason)
    }

    pub(super) fn no_command(id: &str) -> Self {
        let reason = format!("The parameter is incorrect. Command {id} is not known to the shell. ");
        Self { from_shell: true, ..Self::new(2_147_942_487, "s:Sender", "w:InvalidParameter", reason) }
    }

    pub(super) fn aborted() -> Self {
        let reason = "The I/O operation has been aborted because of either a thread exit or an application request. ";
        Self { from_shell: true, ..Self::new(995, "s:Receiver", "w:InternalError", reason) }
    }

    pub(super) fn too_long() -> Self {
        let reason = "The filename or extension is too long. ";
        Self { from_shell: true, ..Self::new(2_147_942_606, "s:Receiver", "w:InternalError", reason) }
    }

    pub(super) fn unsupported(action: &str) -> Self {
        let reason = format!("The action {action} is not supported by the service. ");
        Self::new(2_150_858_753, "s:Sender", "a:ActionNotSupported", reason)
    }

    pub(super) fn unknown_resource(uri: &str) -> Self {
        let reason =
            format!("The WS-Management service cannot process the request. The resource URI ({uri}) was not found. ");
        Self::new(2_150_858_752, "s:Sender", "a:DestinationUnreachable", reason)
    }

    pub(super) fn invalid(what: &str) -> Self {
        Self::new(2_150_858_817, "s:Sender", "w:SchemaValidationError", format!("The SOAP XML is invalid: {what}. "))
    }

    pub(super) fn small_envelope() -> Self {
        let reason = "The maximum envelope size in the request is too small. ";
        Self::new(2_150_858_878, "s:Sender", "w:EncodingLimit", reason)
    }

    pub(super) fn pipe_closed() -> Self {
        Self {
            from_shell: true,
            ..Self::new(2_147_942_632, "s:Receiver", "w:InternalError", "The pipe is being closed. ")
        }
    }

    pub(super) fn no_directory() -> Self {
        let reason = "The directory name is invalid. ";
        Self { from_shell: true, ..Self::new(2_147_942_667, "s:Receiver", "w:InternalError", reason) }
    }

    /// The envelope of the fault.
    pub(super) fn envelope(&self, relates_to: &str, machine: &str) -> String {
        let reason = escaped(&self.reason);
        let message = if self.from_shell {
            format!(
                "<f:ProviderFault provider=\"Shell cmd plugin\" path=\"%systemroot%\\system32\\winrscmd.dll\">{reason}\
                 </f:ProviderFault>"
            )
        } else {
            reason.clone()
        };
        let body = format!(
            "<s:Fault><s:Code><s:Value>{}</s:Value><s:Subcode><s:Value>{}</s:Value></s:Subcode></s:Code><s:Reason>\
             <s:Text xml:lang=\"en-US\">{reason}</s:Text></s:Reason><s:Detail><f:WSManFault \
             xmlns:f=\"http://schemas.microsoft.com/wbem/wsman/1/wsmanfault\" Code=\"{}\" Machine=\"{}\"><f:Message>\
             {message}</f:Message></f:WSManFault></s:Detail></s:Fault>",
            escaped(&self.role),
            escaped(&self.subcode),
            self.code,
            escaped(machine)
        );
        envelope(FAULT_ACTION, relates_to, &body)
    }
}

fn envelope(action: &str, relates_to: &str, body: &str) -> String {
    format!(
        "<s:Envelope xml:lang=\"en-US\" xmlns:s=\"{SOAP}\" xmlns:a=\"{ADDRESSING}\" xmlns:x=\"{TRANSFER}\" \
         xmlns:n=\"{ENUMERATION}\" xmlns:w=\"{WSMAN}\" xmlns:rsp=\"{SHELL}\" \
         xmlns:p=\"http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd\"><s:Header><a:Action>{}</a:Action>\
         <a:MessageID>uuid:{}</a:MessageID><a:To>{ANONYMOUS}</a:To><a:RelatesTo>{}</a:RelatesTo></s:Header><s:Body>\
         {body}</s:Body></s:Envelope>",
        escaped(action),
        crate::guid::guid(),
        escaped(relates_to)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        let seconds = |text| duration(text).map(|duration| duration.as_secs_f64());
        assert_eq!(seconds("PT20S"), Some(20.0));
        assert_eq!(seconds("PT0.5S"), Some(0.5));
        assert_eq!(seconds("P1DT1H1M1S"), Some(90_061.0));
        assert_eq!(seconds("P0DT0H0M0S"), Some(0.0));
        for bad in ["", "20", "PT20", "PTxS", "PT5D", "PT-1S"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_no_envelope_is_a_fault() {
        for bad in ["", "<a/>", "<Envelope/>", &format!("<s:Envelope xmlns:s=\"{SOAP}\"/>")] {
            assert!(Request::parse(bad).is_err(), "{bad}");
        }
    }
}
