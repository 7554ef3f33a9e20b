//! PowerShell: how its command line is made, and what its standard error means.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::xml::clixml_strings;

/// The longest command line that `cmd.exe` takes, in characters, with some to spare.
pub(crate) const COMMAND_LINE_MAX: usize = 8_000;

/// How PowerShell is started: quietly, without asking, whatever the machine says about script files.
const FLAGS: [&str; 6] = ["-NoProfile", "-NonInteractive", "-NoLogo", "-ExecutionPolicy", "Bypass", "-EncodedCommand"];

/// The arguments that have PowerShell run `script`.
pub(super) fn arguments(script: &str) -> Vec<String> {
    let utf16: Vec<u8> = script.encode_utf16().flat_map(u16::to_le_bytes).collect();
    FLAGS.iter().map(|flag| (*flag).to_owned()).chain([STANDARD.encode(utf16)]).collect()
}

/// What PowerShell wrote to standard error, as people would have seen it: errors and warnings, without progress.
///
/// Text that is not CLIXML stays as it is.
pub(super) fn readable(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let Some(start) = text.find("#< CLIXML") else { return text.into_owned() };
    let mut readable = text[..start].to_owned();
    for part in text[start..].split("#< CLIXML") {
        for (stream, line) in clixml_strings(part.trim()) {
            if stream.eq_ignore_ascii_case("error") || stream.eq_ignore_ascii_case("warning") {
                readable.push_str(&unescape(&line));
            }
        }
    }
    readable
}

/// Undoes `_xHHHH_`.
fn unescape(text: &str) -> String {
    let mut units: Vec<u16> = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let code =
            rest.strip_prefix("_x").and_then(|rest| rest.get(..4).filter(|_| rest.as_bytes().get(4) == Some(&b'_')));
        match code
            .filter(|code| code.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|c| u16::from_str_radix(c, 16).ok())
        {
            Some(unit) => {
                units.push(unit);
                rest = &rest[7..];
            }
            None => {
                units.extend_from_slice(c.encode_utf16(&mut [0; 2]));
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    String::from_utf16_lossy(&units)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn scripts_are_utf16() {
        let arguments = arguments("'ä'");
        assert_eq!(arguments[0], "-NoProfile");
        assert_eq!(arguments.last().unwrap(), "JwDkACcA");
    }

    #[test]
    fn errors_are_read_and_progress_is_not() {
        let stderr = "#< CLIXML\r\n<Objs Version=\"1.1.0.1\" xmlns=\"http://schemas.microsoft.com/powershell/2004/04\">\
                      <Obj S=\"progress\" RefId=\"0\"><MS><S N=\"x\">secret progress</S></MS></Obj>\
                      <S S=\"Error\">Get-Item : a &lt;b&gt; _x005F_c_x000D__x000A_</S><S S=\"verbose\">no</S>\
                      <S S=\"Warning\">w_xD83D__xDE00_</S></Objs>";
        assert_eq!(readable(stderr.as_bytes()), "Get-Item : a <b> _c\r\nw😀");
        assert_eq!(readable(b"plain _x0041_"), "plain _x0041_");
        assert_eq!(readable("x#< CLIXML\n<Objs><S S=\"Error\">cut".as_bytes()), "xcut");
    }

    proptest! {
        #[test]
        fn no_input_panics(text in "\\PC{0,60}", escapes in "(_x[0-9A-Fag]{0,5}_?|é){0,10}") {
            let _ = (unescape(&text), unescape(&escapes), readable(text.as_bytes()));
        }
    }
}
