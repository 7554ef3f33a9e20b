//! Forms and queries as browsers write them.

/// Names and values, in their order.
#[derive(Debug, Default)]
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    /// Reads a query, or a body of `application/x-www-form-urlencoded`.
    pub(super) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        Self(pairs.map(|(name, value)| (decoded(name, true), decoded(value, true))).collect())
    }

    /// A value, by its name without regard to case.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// A number.
    pub(super) fn number(&self, name: &str) -> Option<u32> {
        self.get(name)?.trim().parse().ok()
    }
}

/// Undoes the encoding with percent signs; in forms a plus is a space.
pub(super) fn decoded(text: &str, form: bool) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(if form && first == b'+' { b' ' } else { first });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Encodes what a segment of a path cannot hold.
pub(super) fn encoded(text: &str) -> String {
    let mut path = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => path.push(char::from(byte)),
            other => path.push_str(&format!("%{other:02X}")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_read_as_they_were_written() {
        let form = Form::parse("Mode=newreq&CertRequest=a%2Bb+c%0D%0A&empty=&alone&ReqID=%207");
        assert_eq!((form.get("mode"), form.get("certrequest")), (Some("newreq"), Some("a+b c\r\n")));
        assert_eq!((form.get("empty"), form.get("alone"), form.get("none")), (Some(""), Some(""), None));
        assert_eq!((form.number("ReqID"), form.number("Mode")), (Some(7), None));
        assert_eq!(decoded("%4x%4+%zz%C3%9C", false), "%4x%4+%zzÜ");
        assert_eq!(encoded("Issuing CA Ü"), "Issuing%20CA%20%C3%9C");
    }
}
