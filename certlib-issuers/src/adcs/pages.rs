//! What the web pages say, whatever their language: by links, forms, numbers and error codes.

/// A page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    /// The request with this number was issued: it links to the certificate.
    Issued(u32),
    /// The request with this number waits for somebody.
    Waits(u32),
    /// It is refused, with the error code if there is one; a certificate manager's "no" has none.
    Refused(Option<u32>),
    /// No page of these.
    Unknown,
}

/// What all pages call their title.
const TITLE: &str = "locpagetitle";

/// Reads a page.
pub(super) fn read(body: &[u8]) -> Page {
    // Of other letters than those of ASCII, nothing is read.
    let page = String::from_utf8_lossy(body).to_ascii_lowercase();
    if let Some((_, after)) = page.split_once("certnew.cer?reqid=") {
        return leading_number(after).map_or(Page::Unknown, Page::Issued);
    }
    let Some((_, content)) = page.split_once(TITLE) else { return Page::Unknown };
    // The form that takes a pending request off the list.
    if content.contains("certrmpn.asp")
        && let Some(id) = form_value(content)
    {
        return Page::Waits(id);
    }
    // The text begins within the tag of the title.
    let text = visible(content.split_once('>').map_or("", |(_, text)| text));
    if let Some(code) = error_code(&text) {
        return Page::Refused(Some(code));
    }
    // The disposition message is in quotation marks; nothing else is.
    if text.contains(['"', '\u{201c}', '\u{201e}', '\u{ab}']) || text.contains("&quot;") {
        return Page::Refused(None);
    }
    // "Your Request Id is 7." The time to wait, which some pages name in days, comes after it.
    lone_number(&text).map_or(Page::Unknown, Page::Waits)
}

/// The value of the field `ReqID`.
fn form_value(content: &str) -> Option<u32> {
    content.split('<').filter(|tag| tag.starts_with("input") && tag.contains("reqid")).find_map(|tag| {
        let (_, value) = tag.split_once("value=")?;
        leading_number(value.trim_start_matches(['"', '\'']))
    })
}

/// What a reader sees: without tags, scripts and comments.
fn visible(content: &str) -> String {
    let mut text = String::new();
    let mut rest = content;
    while let Some((before, tag)) = rest.split_once('<') {
        text.push_str(before);
        text.push(' ');
        let end = if tag.starts_with("script") {
            "</script>"
        } else if tag.starts_with("!--") {
            "-->"
        } else {
            ">"
        };
        rest = tag.split_once(end).map_or("", |(_, rest)| rest);
    }
    text.push_str(rest);
    text
}

/// An error code of Windows, such as `0x80094012`.
fn error_code(text: &str) -> Option<u32> {
    text.match_indices("0x").find_map(|(at, prefix)| {
        let digits = text.get(at + prefix.len()..at + prefix.len() + 8)?;
        u32::from_str_radix(digits, 16).ok().filter(|code| code & 0x8000_0000 != 0)
    })
}

fn lone_number(text: &str) -> Option<u32> {
    text.split_whitespace().find_map(|word| word.trim_end_matches(['.', ',', ':', ';', '!']).parse().ok())
}

fn leading_number(text: &str) -> Option<u32> {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn page(content: &str) -> Page {
        read(format!("<html><p>CA 1</p><P ID=locPageTitle> <B> Titel </B><HR>{content}</html>").as_bytes())
    }

    #[test]
    fn pages_are_told_apart_without_their_words() {
        for (content, expected) in [
            ("<a href=\"certnew.cer?ReqID=42&amp;Enc=b64\">x</a>", Page::Issued(42)),
            ("<script>location=\"certnew.cer?ReqID=42&\"+getEnc();</script>", Page::Issued(42)),
            ("<Form Action=\"certrmpn.asp\"><Input Type=Hidden Name=ReqID Value=\"7\"></Form>", Page::Waits(7)),
            ("<Form Action=certrmpn.asp><Input Name='ReqID' Type=Hidden Value=7></Form>", Page::Waits(7)),
            ("<p>Ihre Anforderungs-ID ist 7. <p>Kommen Sie innerhalb von 10 Tagen wieder.", Page::Waits(7)),
            ("<p>Die ID ist 7. Meldung: \"Verweigert von  0x80094800, x\".", Page::Refused(Some(0x8009_4800))),
            ("<p>Die ID ist 7. Meldung: \"Verweigert von EXAMPLE\\Administrator\".", Page::Refused(None)),
            ("<pre>Fehler: 0x800706BA (WIN32: 1722)</pre>", Page::Refused(Some(0x8007_06ba))),
            ("<script>var x = \"0x80094800\"; 12</script><!-- 13 --><p>nothing", Page::Unknown),
            ("<a href=\"certnew.cer?ReqID=CACert&amp;Renewal=1\">x</a>", Page::Unknown),
            ("<p>0x80 0x7fffffff 0xzzzzzzzz", Page::Unknown),
        ] {
            assert_eq!(page(content), expected, "{content}");
        }
    }

    #[test]
    fn other_pages_are_not_read() {
        for text in ["<html><h1>502 Bad Gateway</h1></html>", "", "Your Request Id is 7.", "\u{fffd}"] {
            assert_eq!(read(text.as_bytes()), Page::Unknown, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(input in "\\PC{0,200}", tags in "[<>a-z0-9x=\"!&-]{0,100}") {
            let _ = (read(input.as_bytes()), page(&input), page(&tags));
        }
    }
}
