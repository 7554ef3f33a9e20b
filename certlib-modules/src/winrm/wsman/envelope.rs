//! What is sent: SOAP envelopes of WS-Management.

use std::fmt::Write as _;
use std::time::Duration;

use quick_xml::escape::escape;
use uuid::Uuid;
use zeroize::Zeroizing;

/// Namespaces.
pub(super) mod ns {
    pub(in super::super) const SOAP: &str = "http://www.w3.org/2003/05/soap-envelope";
    pub(in super::super) const ADDRESSING: &str = "http://schemas.xmlsoap.org/ws/2004/08/addressing";
    pub(in super::super) const WSMAN: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd";
    pub(in super::super) const WSMV: &str = "http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd";
    pub(in super::super) const SHELL: &str = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell";
    pub(in super::super) const TRANSFER: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer";
    pub(in super::super) const FAULT: &str = "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault";
}

/// The resource that all shells are of.
const SHELL_RESOURCE: &str = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell/cmd";

/// How long a shell that nobody uses stays, on the machine's own clock.
const SHELL_IDLE: &str = "PT180S";

/// What is asked for.
#[derive(Debug, Clone, Copy)]
enum Action {
    Create,
    Delete,
    Command,
    Send,
    Receive,
    Signal,
}

impl Action {
    fn uri(self) -> String {
        let (base, name) = match self {
            Self::Create => (ns::TRANSFER, "Create"),
            Self::Delete => (ns::TRANSFER, "Delete"),
            Self::Command => (ns::SHELL, "Command"),
            Self::Send => (ns::SHELL, "Send"),
            Self::Receive => (ns::SHELL, "Receive"),
            Self::Signal => (ns::SHELL, "Signal"),
        };
        format!("{base}/{name}")
    }
}

/// The parts of an envelope that are the same for all requests of one client.
#[derive(Debug, Clone)]
pub(super) struct Header {
    /// The URL that it goes to.
    pub(super) to: String,
    /// Names this client.
    pub(super) session: Uuid,
    /// The largest answer, in bytes.
    pub(super) max_envelope: usize,
    /// How long the machine may keep a request waiting.
    pub(super) operation_timeout: Duration,
}

/// One request.
#[derive(Debug)]
pub(super) struct Envelope {
    /// Its id: the answer relates to it.
    pub(super) message: Uuid,
    /// All of it. May hold input for a command, so it is wiped.
    pub(super) xml: Zeroizing<String>,
}

impl Header {
    /// Asks for a shell that reads and writes UTF-8.
    pub(super) fn create(&self) -> Envelope {
        let body = format!(
            "<rsp:Shell><rsp:InputStreams>stdin</rsp:InputStreams><rsp:OutputStreams>stdout stderr</rsp:OutputStreams>\
             <rsp:IdleTimeOut>{SHELL_IDLE}</rsp:IdleTimeOut></rsp:Shell>"
        );
        let options = [("WINRS_NOPROFILE", "FALSE"), ("WINRS_CODEPAGE", "65001")];
        self.envelope(Action::Create, None, &options, &body)
    }

    /// Ends a shell.
    pub(super) fn delete(&self, shell: &str) -> Envelope {
        self.envelope(Action::Delete, Some(shell), &[], "")
    }

    /// Starts `command` under `cmd.exe`. Input goes through a pipe: in console mode PowerShell could not read bytes.
    pub(super) fn command(&self, shell: &str, command: &str, arguments: &[&str]) -> Envelope {
        let mut body = format!("<rsp:CommandLine><rsp:Command>{}</rsp:Command>", escape(command));
        for argument in arguments {
            // Writing to a String cannot fail.
            let _ = write!(body, "<rsp:Arguments>{}</rsp:Arguments>", escape(*argument));
        }
        body.push_str("</rsp:CommandLine>");
        let options = [("WINRS_CONSOLEMODE_STDIN", "FALSE"), ("WINRS_SKIP_CMD_SHELL", "FALSE")];
        self.envelope(Action::Command, Some(shell), &options, &body)
    }

    /// Sends input, base64; the last piece ends the stream.
    pub(super) fn send(&self, shell: &str, command: &str, base64: &str, last: bool) -> Envelope {
        let end = if last { " End=\"true\"" } else { "" };
        let body = Zeroizing::new(format!(
            "<rsp:Send><rsp:Stream Name=\"stdin\" CommandId=\"{}\"{end}>{base64}</rsp:Stream></rsp:Send>",
            escape(command)
        ));
        self.envelope(Action::Send, Some(shell), &[], &body)
    }

    /// How many bytes of input fit into one [`send`](Self::send).
    pub(super) fn input_room(&self) -> usize {
        let empty = self.send(&Uuid::nil().to_string(), &Uuid::nil().to_string(), "", true).xml.len();
        (self.max_envelope.saturating_sub(empty + 256) / 4 * 3).max(3)
    }

    /// Asks for output.
    pub(super) fn receive(&self, shell: &str, command: &str) -> Envelope {
        let body = format!(
            "<rsp:Receive><rsp:DesiredStream CommandId=\"{}\">stdout stderr</rsp:DesiredStream></rsp:Receive>",
            escape(command)
        );
        self.envelope(Action::Receive, Some(shell), &[("WSMAN_CMDSHELL_OPTION_KEEPALIVE", "TRUE")], &body)
    }

    /// Ends a command, and forgets about one that has ended.
    pub(super) fn terminate(&self, shell: &str, command: &str) -> Envelope {
        let body = format!(
            "<rsp:Signal CommandId=\"{}\"><rsp:Code>{}/signal/terminate</rsp:Code></rsp:Signal>",
            escape(command),
            ns::SHELL
        );
        self.envelope(Action::Signal, Some(shell), &[], &body)
    }

    fn envelope(&self, action: Action, shell: Option<&str>, options: &[(&str, &str)], body: &str) -> Envelope {
        let message = Uuid::new_v4();
        let timeout = self.operation_timeout.as_secs_f64();
        let mut head = String::new();
        if !options.is_empty() {
            head.push_str("<wsman:OptionSet s:mustUnderstand=\"true\">");
            for (name, value) in options {
                let _ = write!(head, "<wsman:Option Name=\"{name}\">{value}</wsman:Option>");
            }
            head.push_str("</wsman:OptionSet>");
        }
        if let Some(shell) = shell {
            let _ = write!(
                head,
                "<wsman:SelectorSet><wsman:Selector Name=\"ShellId\">{}</wsman:Selector></wsman:SelectorSet>",
                escape(shell)
            );
        }
        let Self { to, session, max_envelope, .. } = self;
        let xml = format!(
            "<s:Envelope xmlns:s=\"{}\" xmlns:wsa=\"{}\" xmlns:wsman=\"{}\" xmlns:wsmv=\"{}\" xmlns:rsp=\"{}\"><s:Header>\
             <wsa:Action s:mustUnderstand=\"true\">{}</wsa:Action>\
             <wsmv:DataLocale s:mustUnderstand=\"false\" xml:lang=\"en-US\"/>\
             <wsman:Locale s:mustUnderstand=\"false\" xml:lang=\"en-US\"/>\
             <wsman:MaxEnvelopeSize s:mustUnderstand=\"true\">{max_envelope}</wsman:MaxEnvelopeSize>\
             <wsa:MessageID>uuid:{}</wsa:MessageID>\
             <wsman:OperationTimeout>PT{timeout:.3}S</wsman:OperationTimeout>\
             <wsa:ReplyTo><wsa:Address s:mustUnderstand=\"true\">{}/role/anonymous</wsa:Address></wsa:ReplyTo>\
             <wsman:ResourceURI s:mustUnderstand=\"true\">{SHELL_RESOURCE}</wsman:ResourceURI>\
             <wsmv:SessionId s:mustUnderstand=\"false\">uuid:{}</wsmv:SessionId>\
             <wsa:To>{}</wsa:To>{head}</s:Header><s:Body>{body}</s:Body></s:Envelope>",
            ns::SOAP,
            ns::ADDRESSING,
            ns::WSMAN,
            ns::WSMV,
            ns::SHELL,
            action.uri(),
            upper(message),
            ns::ADDRESSING,
            upper(*session),
            escape(to.as_str()),
        );
        Envelope { message, xml: Zeroizing::new(xml) }
    }
}

fn upper(id: Uuid) -> String {
    id.to_string().to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::super::xml::Element;
    use super::*;

    fn header(max_envelope: usize) -> Header {
        Header {
            to: "https://host:5986/wsman?a&b".to_owned(),
            session: Uuid::nil(),
            max_envelope,
            operation_timeout: Duration::from_millis(20_500),
        }
    }

    #[test]
    fn an_envelope_says_who_what_and_how_long() {
        let envelope = header(153_600).command("SHELL", "net", &["stop", "a & \"b\""]);
        let root = Element::parse(&envelope.xml).unwrap();
        let head = root.child(ns::SOAP, "Header").unwrap();
        let text = |namespace, name| head.child(namespace, name).unwrap().text().to_owned();
        assert_eq!(text(ns::ADDRESSING, "Action"), format!("{}/Command", ns::SHELL));
        assert_eq!(text(ns::ADDRESSING, "To"), "https://host:5986/wsman?a&b");
        assert_eq!(text(ns::ADDRESSING, "MessageID"), format!("uuid:{}", upper(envelope.message)));
        assert_eq!(text(ns::WSMAN, "OperationTimeout"), "PT20.500S");
        assert_eq!(text(ns::WSMAN, "MaxEnvelopeSize"), "153600");
        assert_eq!(text(ns::WSMAN, "ResourceURI"), SHELL_RESOURCE);
        let selector = head.descend(ns::WSMAN, &["SelectorSet", "Selector"]).unwrap();
        assert_eq!((selector.attribute("Name"), selector.text()), (Some("ShellId"), "SHELL"));
        let line = root.child(ns::SOAP, "Body").unwrap().child(ns::SHELL, "CommandLine").unwrap();
        let arguments: Vec<_> = line.children(ns::SHELL, "Arguments").map(Element::text).collect();
        assert_eq!(arguments, ["stop", "a & \"b\""]);
    }

    #[test]
    fn input_fits_into_the_largest_envelope() {
        for max_envelope in [8_192, 32 * 1024, 153_600, 512_000] {
            let header = header(max_envelope);
            let room = header.input_room();
            let base64 = "A".repeat(room.div_ceil(3) * 4);
            let shell = Uuid::nil().to_string();
            let size = header.send(&shell, &shell, &base64, true).xml.len();
            assert!(size <= max_envelope && size > max_envelope - 1_024, "{size} of {max_envelope}");
        }
    }

    #[test]
    fn only_the_last_piece_of_input_ends_it() {
        let header = header(153_600);
        assert!(header.send("S", "C", "QQ==", true).xml.contains("End=\"true\">QQ=="));
        assert!(!header.send("S", "C", "QQ==", false).xml.contains("End="));
    }
}
