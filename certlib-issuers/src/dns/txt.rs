//! TXT values as zone files write them, which is how many services store them.

/// The longest string of one record, in bytes (RFC 1035 section 3.3).
const STRING_MAX: usize = 255;

/// A value as one or more strings in quotes.
pub(super) fn quote(value: &str) -> String {
    let mut strings = Vec::new();
    let (mut string, mut length) = (String::new(), 0);
    for character in value.chars() {
        if length + character.len_utf8() > STRING_MAX {
            strings.push(std::mem::take(&mut string));
            length = 0;
        }
        if matches!(character, '"' | '\\') {
            string.push('\\');
        }
        string.push(character);
        length += character.len_utf8();
    }
    strings.push(string);
    strings.iter().map(|string| format!("\"{string}\"")).collect::<Vec<_>>().join(" ")
}

/// The value of a record, its strings joined; text without quotes is a value already.
pub(super) fn unquote(text: &str) -> String {
    if !text.trim_start().starts_with('"') {
        return text.to_owned();
    }
    let (mut value, mut inside, mut escaped) = (String::new(), false, false);
    for character in text.chars() {
        match character {
            _ if escaped => {
                value.push(character);
                escaped = false;
            }
            '\\' if inside => escaped = true,
            '"' => inside = !inside,
            _ if inside => value.push(character),
            _ => {}
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn as_zone_files_write_them() {
        assert_eq!(quote("lCdf-_"), "\"lCdf-_\"");
        assert_eq!(quote(""), "\"\"");
        assert_eq!(quote(r#"a"b\c"#), r#""a\"b\\c""#);
        assert_eq!(quote(&"x".repeat(256)), format!("\"{}\" \"x\"", "x".repeat(255)));
        assert_eq!(unquote("plain text"), "plain text");
        assert_eq!(unquote(r#" "v=spf1 " "-all""#), "v=spf1 -all");
    }

    proptest! {
        #[test]
        fn what_is_quoted_comes_back(value in ".{0,300}") {
            prop_assert_eq!(unquote(&quote(&value)), value);
        }
    }
}
