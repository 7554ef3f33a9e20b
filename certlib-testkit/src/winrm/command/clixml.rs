//! How PowerShell writes errors and progress to standard error when nobody looks at a console.

use std::fmt::Write as _;

const HEAD: &str = "#< CLIXML\r\n<Objs Version=\"1.1.0.1\" xmlns=\"http://schemas.microsoft.com/powershell/2004/04\">";

/// What `Import-Module` and others leave behind unless `$ProgressPreference` says otherwise.
const PROGRESS: &str = "<Obj S=\"progress\" RefId=\"0\"><TN RefId=\"0\"><T>System.Management.Automation.PSCustomObject</T>\
    <T>System.Object</T></TN><MS><I64 N=\"SourceId\">1</I64><PR N=\"Record\"><AV>Preparing modules for first use.</AV>\
    <AI>0</AI><Nil /><PI>-1</PI><PC>-1</PC><T>Completed</T><SR>-1</SR><SD> </SD></PR></MS></Obj>";

/// An error, which ends in a line break of its own.
pub(crate) fn error(text: &str) -> String {
    records(&[text.to_owned()], false)
}

/// Errors one after the other, after a record of progress if there is one. Nothing at all gives an empty text.
pub(crate) fn records(errors: &[String], progress: bool) -> String {
    if errors.is_empty() && !progress {
        return String::new();
    }
    let mut xml = HEAD.to_owned();
    if progress {
        xml.push_str(PROGRESS);
    }
    for line in errors.iter().flat_map(|error| error.split_inclusive('\n')) {
        let _ = write!(xml, "<S S=\"Error\">{}</S>", escaped(line));
    }
    xml.push_str("</Objs>");
    xml
}

/// XML text in which control characters (and what looks like an escape) are written `_xHHHH_`.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for (index, character) in text.char_indices() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '_' if text[index..].starts_with("_x") => escaped.push_str("_x005F_"),
            control if control.is_control() => {
                let _ = write!(escaped, "_x{:04X}_", u32::from(control));
            }
            plain => escaped.push(plain),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_record_of_its_own() {
        let xml = error("a <b>\r\nname_x1\r\n");
        assert!(xml.starts_with("#< CLIXML\r\n<Objs "), "{xml}");
        assert!(
            xml.contains("<S S=\"Error\">a &lt;b&gt;_x000D__x000A_</S><S S=\"Error\">name_x005F_x1_x000D__x000A_</S>")
        );
        assert_eq!(records(&[], false), "");
        assert!(records(&[], true).contains("S=\"progress\""));
    }
}
