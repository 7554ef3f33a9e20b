//! Where PowerShell's script is on a command line.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::super::script::program_name;

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
