//! A plain client: Basic over HTTPS, one request at a time.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use certlib_testkit::{tls, winrm::WinRmSim};

use crate::{PASSWORD, USER};

const SHELL: &str = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell";
const TRANSFER: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer";

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    /// The code of a fault.
    pub(crate) fn fault(&self) -> Option<u32> {
        between(&self.body, "Code=\"", "\"")?.parse().ok()
    }
}

/// What a command left behind.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) exit_code: i32,
}

pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    timeout: u32,
    message: std::cell::Cell<u32>,
}

impl Client {
    pub(crate) fn new(host: &WinRmSim) -> Self {
        let http = tls::http_client(host.ca_pem()).unwrap();
        Self { http, url: host.https_url(), timeout: 20, message: 0.into() }
    }

    /// How many seconds the host may hold a request.
    pub(crate) fn timeout(mut self, seconds: u32) -> Self {
        self.timeout = seconds;
        self
    }

    /// Sends a request; an error means that the connection was cut.
    pub(crate) async fn send(&self, action: &str, shell: &str, body: &str) -> Result<Answer, reqwest::Error> {
        self.message.set(self.message.get() + 1);
        self.send_as(&format!("uuid:{}", self.message.get()), action, shell, body).await
    }

    pub(crate) async fn send_as(
        &self,
        message: &str,
        action: &str,
        shell: &str,
        body: &str,
    ) -> Result<Answer, reqwest::Error> {
        let envelope = format!(
            "<s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\" \
             xmlns:a=\"http://schemas.xmlsoap.org/ws/2004/08/addressing\" \
             xmlns:w=\"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd\" xmlns:r=\"{SHELL}\"><s:Header>\
             <a:Action>{action}</a:Action><a:MessageID>{message}</a:MessageID>\
             <w:OperationTimeout>PT{}S</w:OperationTimeout><w:ResourceURI>{SHELL}/cmd</w:ResourceURI><w:OptionSet>\
             <w:Option Name=\"WINRS_CODEPAGE\">65001</w:Option></w:OptionSet><w:SelectorSet>\
             <w:Selector Name=\"ShellId\">{shell}</w:Selector></w:SelectorSet></s:Header><s:Body>{body}</s:Body>\
             </s:Envelope>",
            self.timeout
        );
        let request = self.http.post(&self.url).basic_auth(USER, Some(PASSWORD)).body(envelope);
        let response = request.header("content-type", "application/soap+xml;charset=UTF-8").send().await?;
        Ok(Answer { status: response.status().as_u16(), body: response.text().await? })
    }

    /// Opens a shell; the error is what came instead.
    pub(crate) async fn open(&self) -> Result<String, Answer> {
        let body =
            "<r:Shell><r:InputStreams>stdin</r:InputStreams><r:OutputStreams>stdout stderr</r:OutputStreams></r:Shell>";
        let answer = self.send(&format!("{TRANSFER}/Create"), "", body).await.unwrap();
        between(&answer.body, "<rsp:ShellId>", "</").map(str::to_owned).ok_or(answer)
    }

    pub(crate) async fn close(&self, shell: &str) {
        assert_eq!(self.send(&format!("{TRANSFER}/Delete"), shell, "").await.unwrap().status, 200);
    }

    pub(crate) async fn command(&self, shell: &str, line: &str) -> Result<Answer, reqwest::Error> {
        let line = line.replace('&', "&amp;").replace('<', "&lt;");
        let body = format!("<r:CommandLine><r:Command>{line}</r:Command></r:CommandLine>");
        self.send(&format!("{SHELL}/Command"), shell, &body).await
    }

    pub(crate) async fn input(&self, shell: &str, command: &str, bytes: &[u8]) -> Result<Answer, reqwest::Error> {
        let text = STANDARD.encode(bytes);
        let body =
            format!("<r:Send><r:Stream Name=\"stdin\" CommandId=\"{command}\" End=\"true\">{text}</r:Stream></r:Send>");
        self.send(&format!("{SHELL}/Send"), shell, &body).await
    }

    pub(crate) async fn receive(&self, shell: &str, command: &str) -> Result<Answer, reqwest::Error> {
        self.receive_as(&format!("uuid:receive-{}", self.message.replace(self.message.get() + 1)), shell, command).await
    }

    pub(crate) async fn receive_as(&self, message: &str, shell: &str, command: &str) -> Result<Answer, reqwest::Error> {
        let body =
            format!("<r:Receive><r:DesiredStream CommandId=\"{command}\">stdout stderr</r:DesiredStream></r:Receive>");
        self.send_as(message, &format!("{SHELL}/Receive"), shell, &body).await
    }

    /// Output until the end.
    pub(crate) async fn finish(&self, shell: &str, command: &str) -> Ran {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            let answer = self.receive(shell, command).await.unwrap();
            if answer.fault() == Some(2_150_858_793) {
                continue;
            }
            assert_eq!(answer.status, 200, "{answer:?}");
            for (name, bytes) in [("stdout", &mut stdout), ("stderr", &mut stderr)] {
                let begin = format!("<rsp:Stream Name=\"{name}\" CommandId=\"{command}\">");
                if let Some(text) = between(&answer.body, &begin, "</") {
                    bytes.extend(STANDARD.decode(text).unwrap());
                }
            }
            if let Some(code) = between(&answer.body, "<rsp:ExitCode>", "</") {
                let text = |bytes| String::from_utf8(bytes).unwrap();
                return Ran { stdout: text(stdout), stderr: text(stderr), exit_code: code.parse().unwrap() };
            }
        }
    }

    /// A whole command in a shell of its own.
    pub(crate) async fn run(&self, line: &str, stdin: Option<&[u8]>) -> Ran {
        let shell = self.open().await.unwrap();
        let command = self.command(&shell, line).await.unwrap();
        let command = command_id(&command);
        if let Some(stdin) = stdin {
            assert_eq!(self.input(&shell, &command, stdin).await.unwrap().status, 200);
        }
        let ran = self.finish(&shell, &command).await;
        self.close(&shell).await;
        ran
    }

    /// A PowerShell script, encoded.
    pub(crate) async fn script(&self, script: &str, stdin: Option<&[u8]>) -> Ran {
        self.run(&encoded(script), stdin).await
    }
}

/// The command line of an encoded script.
pub(crate) fn encoded(script: &str) -> String {
    let bytes: Vec<u8> = script.encode_utf16().flat_map(u16::to_le_bytes).collect();
    format!("powershell.exe -NoProfile -NonInteractive -EncodedCommand {}", STANDARD.encode(bytes))
}

/// The id of the command that an answer is about.
pub(crate) fn command_id(answer: &Answer) -> String {
    between(&answer.body, "<rsp:CommandId>", "</").unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(begin)?;
    rest.split_once(end).map(|(found, _)| found)
}
