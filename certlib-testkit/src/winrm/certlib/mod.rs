//! What the PowerShell scripts of certlib's own modules `winrm` and `iis` do, on the simulated host.
//!
//! A script is known by the name on its first line and by the digest of its text: one whose text has changed is not
//! carried out as if it had not, but refused, until somebody has looked whether its twin here still does the same.

mod files;
mod iis;

use std::sync::Arc;

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{
    script::{Bootstrap, ScriptCall, ScriptMatcher, ScriptOutput, Scripts, Twin},
    windows::WindowsError,
};

/// A script of certlib that the simulator can carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertlibScript {
    /// How it names itself on its first line, such as `files.look`.
    pub name: &'static str,
    /// SHA-256 of its text with lines that end in LF, lower-case hex.
    pub sha256: &'static str,
}

impl CertlibScript {
    /// Whether this is its text, to the letter. Lines may end in CRLF.
    #[must_use]
    pub fn is(&self, text: &str) -> bool {
        sha256(text) == self.sha256
    }
}

const fn script(name: &'static str, sha256: &'static str) -> CertlibScript {
    CertlibScript { name, sha256 }
}

/// Everything that [`WinRmSimBuilder::certlib_scripts`](super::WinRmSimBuilder::certlib_scripts) knows.
///
/// Who changes a script looks whether its twin still does what the script does, and puts the new digest here.
pub const CERTLIB_SCRIPTS: &[CertlibScript] = &[
    script(BOOTSTRAP, "7486f03c63782e482f27accbe4b2dbbbeaea3a153dbbe36c520bd3ebd9a9e08f"),
    script("files.look", "175768b59c885c642a73d1a7b24f99175ec5668ab724e26ce7aafe4a286a5839"),
    script("files.remove", "a431096dcdd31efc4b3a098bc2a2e04de6aa2b5d761f53fa6c64e5ed9e81054a"),
    script("files.replace", "63af34899d0187ba279209d83e3d4485711d7cafa96558e7ac34b588ac09fe58"),
    script("files.stage", "dfcacb8ba0fd105c675e9fe8b975f1fd267ea6e69e21ce91e1e56b9e09f5dc5e"),
    script("iis.bind", "9befc032aa10d7e04b47be0a7f2daf563c3d74f659a3ea7ef6fa7c6b457eb78c"),
    script("iis.endpoint", "efee18eaf6bbdbdcd09d767437c1c8461fb49e07bb684b9cb26a7008d2d5930f"),
    script("iis.import", "36c2f8c3d690155db15de7f07636854643b5d7e3c9bb80b02f51905c7333fbd4"),
    script("iis.look", "4820ad3a7adaf74dab38d613787bcfaf210633823557eb57fd2907a19267e6c9"),
    script("iis.recycle", "2a9a06ded038ac8a5efd8875a38b7863e157209c1a25372c98f2f996c3a42cb1"),
    script("iis.remove", "32a37657de7e049d7b1c97c0f49419860dc67869fdd1a2961c3b95160882b57b"),
];

/// The script that fetches all others from its standard input.
const BOOTSTRAP: &str = "bootstrap";

/// Registers all of them.
pub(super) fn register(scripts: &mut Scripts) {
    let strange = |call: &ScriptCall| named(call, BOOTSTRAP) && !known(call.script.as_deref().unwrap_or_default());
    let matcher = ScriptMatcher::when(move |call| named(call, BOOTSTRAP) && !strange(call));
    scripts.add_bootstrap(matcher, Bootstrap::new(open, close));
    // In what form a strange one wants its answer is unknown, so the answer is that of PowerShell itself.
    scripts.add(ScriptMatcher::when(strange), Arc::new(|_, _| ScriptOutput::thrown(&unknown())));
    for CertlibScript { name, sha256 } in CERTLIB_SCRIPTS {
        if let Some(twin) = files::twin(name).or_else(|| iis::twin(name)) {
            scripts.add_twin(name, Twin { text: Some(sha256), run: Arc::new(twin) });
        }
    }
}

/// What a script is told whose text is not the one that its twin was written for.
pub(super) fn unknown() -> WindowsError {
    thrown("script_unknown_to_testkit")
}

/// SHA-256 of a script, with lines that end in LF.
pub(super) fn sha256(script: &str) -> String {
    let text = script.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

type Answer = Result<Value, WindowsError>;
type Run = fn(&Value, &mut super::Windows) -> Answer;

fn named(call: &ScriptCall, name: &str) -> bool {
    call.marker.as_ref().is_some_and(|marker| marker.name == name)
}

fn known(text: &str) -> bool {
    CERTLIB_SCRIPTS.iter().any(|known| known.is(text))
}

/// Two lines of base64: the script, and its data.
fn open(call: &ScriptCall) -> Result<(String, Value), WindowsError> {
    let text = call.text();
    let mut lines = text.lines().map(|line| STANDARD.decode(line).map_err(WindowsError::invalid_parameter));
    let mut next = || lines.next().unwrap_or_else(|| Err(WindowsError::invalid_parameter("a line")));
    let script = String::from_utf8(next()?).map_err(WindowsError::invalid_parameter)?;
    let data = serde_json::from_slice(&next()?).map_err(WindowsError::invalid_parameter)?;
    Ok((script, data))
}

/// One line: the outcome in base64.
fn close(outcome: Answer) -> ScriptOutput {
    let (answer, exit) = match outcome {
        Ok(value) => (json!({ "ok": value }), 0),
        Err(error) => {
            let own = error.message.strip_prefix("certlib:").unwrap_or_default();
            (json!({ "error": { "code": own, "type": error.exception, "hresult": error.code.cast_signed() } }), 1)
        }
    };
    ScriptOutput::text(format!("certlib:{}\r\n", STANDARD.encode(answer.to_string()))).exit(exit)
}

/// What the scripts throw themselves.
fn thrown(code: &str) -> WindowsError {
    WindowsError::new(0x8013_1501, "System.Management.Automation.RuntimeException", format!("certlib:{code}"))
}

fn text<'v>(value: &'v Value, field: &str) -> Result<&'v str, WindowsError> {
    value[field].as_str().ok_or_else(|| WindowsError::invalid_parameter(field))
}

fn bytes(value: &Value, field: &str) -> Result<Vec<u8>, WindowsError> {
    STANDARD.decode(text(value, field)?).map_err(WindowsError::invalid_parameter)
}

fn list<'v>(value: &'v Value, field: &str) -> Result<Vec<&'v str>, WindowsError> {
    let items = value[field].as_array().ok_or_else(|| WindowsError::invalid_parameter(field))?;
    items.iter().map(|item| item.as_str().ok_or_else(|| WindowsError::invalid_parameter(field))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_script_but_the_bootstrap_has_a_twin() {
        let without: Vec<_> = CERTLIB_SCRIPTS
            .iter()
            .filter(|script| files::twin(script.name).or_else(|| iis::twin(script.name)).is_none())
            .map(|script| script.name)
            .collect();
        assert_eq!(without, [BOOTSTRAP]);
        let names: BTreeSet<_> = CERTLIB_SCRIPTS.iter().map(|script| script.name).collect();
        let digests: BTreeSet<_> = CERTLIB_SCRIPTS.iter().map(|script| script.sha256).collect();
        assert_eq!((names.len(), digests.len()), (CERTLIB_SCRIPTS.len(), CERTLIB_SCRIPTS.len()));
    }

    #[test]
    fn ends_of_lines_do_not_matter_and_all_else_does() {
        assert_eq!(sha256("# certlib:x 1\r\n$a\r\n"), sha256("\u{feff}# certlib:x 1\n$a\n"));
        assert_ne!(sha256("# certlib:x 1\n$a\n"), sha256("# certlib:x 1\n$a \n"));
    }
}
