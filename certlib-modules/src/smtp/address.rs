//! Mailboxes, and the text that may stand in a header.

use std::net::IpAddr;

use certlib_core::error::{Error, Result};
use lettre::message::Mailbox as LettreMailbox;

use super::OPERATION;

/// The longest name in front of an address, in bytes.
const LONGEST_NAME: usize = 200;

/// Somebody who sends or gets mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mailbox(LettreMailbox, String);

impl Mailbox {
    /// Reads `ops@example.com` or `Operations <ops@example.com>`; `field` is where it stands.
    ///
    /// Addresses are those that every relay reads the same way: a dot-atom of ASCII before the `@`, which does not begin
    /// with `-` (it could be taken for an option somewhere behind the relay), and a DNS name after it, which is turned
    /// into its ASCII form.
    ///
    /// # Errors
    /// `Validation`: `header_invalid`, `address_invalid`, with `field`.
    pub(super) fn parse(field: &str, text: &str) -> Result<Self> {
        header_text(field, text)?;
        let invalid = |why: &'static str| Error::validation(OPERATION, "address_invalid", why).with("field", field);
        let (name, address) = match text.strip_suffix('>').and_then(|text| text.split_once('<')) {
            Some((name, address)) => (unquoted(name.trim()), address),
            None => ("", text.trim()),
        };
        if name.len() > LONGEST_NAME || name.contains(['<', '>', '"', '\\', '@']) {
            return Err(invalid("the name before the address is too long, or has quotes, brackets or an `@`"));
        }
        let (local, domain) = address.rsplit_once('@').ok_or_else(|| invalid("an address has an `@`"))?;
        if !is_local_part(local) {
            return Err(invalid("the part before the `@` is not letters, digits and the usual signs in ASCII"));
        }
        let domain = match url::Host::parse(domain) {
            Ok(url::Host::Domain(name)) if is_domain(&name) => name,
            _ => return Err(invalid("the part after the `@` is not a DNS name")),
        };
        let address = format!("{local}@{domain}");
        if address.len() > 254 {
            return Err(invalid("the address is longer than 254 bytes"));
        }
        let parsed =
            lettre::Address::new(local, &domain).map_err(|_| invalid("this is not an address that mail can go to"))?;
        let name = (!name.is_empty()).then(|| name.to_owned());
        Ok(Self(LettreMailbox::new(name, parsed), address))
    }

    /// `local@domain`.
    pub(super) fn address(&self) -> &str {
        &self.1
    }

    /// What comes after the `@`.
    pub(super) fn domain(&self) -> &str {
        self.1.rsplit_once('@').map_or("", |(_, domain)| domain)
    }

    /// For a header.
    pub(super) fn to_lettre(&self) -> LettreMailbox {
        self.0.clone()
    }
}

impl std::fmt::Display for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0.name {
            Some(name) => write!(f, "{name} <{}>", self.1),
            None => f.write_str(&self.1),
        }
    }
}

fn unquoted(name: &str) -> &str {
    name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).map_or(name, str::trim)
}

/// Refuses text that could end a header and begin another, or show as something else than it is.
///
/// # Errors
/// `Validation` `header_invalid` with `field`.
pub(super) fn header_text(field: &str, text: &str) -> Result<()> {
    if text.chars().any(is_treacherous) {
        return Err(Error::validation(
            OPERATION,
            "header_invalid",
            "line breaks, control characters and characters that turn the direction of text are not for headers",
        )
        .with("field", field.escape_debug()));
    }
    Ok(())
}

/// Controls (CR, LF, NUL and their likes), the line and paragraph separators, and what overrides the direction of text.
pub(super) fn is_treacherous(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A DNS name or an IP address.
pub(super) fn is_host(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok() || is_domain(text)
}

/// A DNS name, or an address in brackets: what a client may call itself (RFC 5321 section 4.1.1.1).
pub(super) fn is_helo(text: &str) -> bool {
    let literal = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match literal {
        Some(literal) => literal.strip_prefix("IPv6:").unwrap_or(literal).parse::<IpAddr>().is_ok(),
        None => is_domain(text),
    }
}

fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

fn is_local_part(text: &str) -> bool {
    let atom = |atom: &str| {
        !atom.is_empty()
            && atom.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte))
    };
    text.len() <= 64 && !text.starts_with('-') && text.split('.').all(atom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read() {
        for (text, shown, address) in [
            ("ops@example.com", "ops@example.com", "ops@example.com"),
            ("Ops <ops@example.com>", "Ops <ops@example.com>", "ops@example.com"),
            ("\"Ops, Team\" <ops+tls@example.com>", "Ops, Team <ops+tls@example.com>", "ops+tls@example.com"),
            ("Bürö <b.b@bücher.example>", "Bürö <b.b@xn--bcher-kva.example>", "b.b@xn--bcher-kva.example"),
            ("root@localhost", "root@localhost", "root@localhost"),
        ] {
            let mailbox = Mailbox::parse("to[0]", text).unwrap();
            assert_eq!((mailbox.to_string().as_str(), mailbox.address()), (shown, address));
        }
    }

    #[test]
    fn what_could_be_read_otherwise_is_refused() {
        let long = format!("{}@example.com", "a".repeat(65));
        let longer =
            format!("{}@{}.example", "a".repeat(62), ["a".repeat(62), "b".repeat(62), "c".repeat(62)].join("."));
        for text in [
            "",
            "@",
            "ops",
            "ops@",
            "@example.com",
            "-X@example.com",
            "-oQ/tmp@example.com",
            "Ops <-X@example.com>",
            "a@b@example.com",
            "a b@example.com",
            "\"a b\"@example.com",
            "a..b@example.com",
            ".a@example.com",
            "a.@example.com",
            "a@example.com>",
            "<a@example.com",
            "a@example.com, b@example.com",
            "a@[127.0.0.1]",
            "a@127.0.0.1",
            "a@-example.com",
            "a@example_1.com",
            "a@example..com",
            "a@example.com.",
            "ä@example.com",
            "a@exa mple.com",
            "a\" <b@example.com>",
            "x <y> <b@example.com>",
            "a@example.com> SIZE=1",
            &long,
            &longer,
        ] {
            let error = Mailbox::parse("to[0]", text).unwrap_err();
            assert_eq!(error.code(), "address_invalid", "{text:?}");
            assert!(error.context().any(|pair| pair == ("field", "to[0]")));
        }
    }

    #[test]
    fn nothing_that_ends_a_header_gets_into_one() {
        for bad in ["\r", "\n", "\r\n", "\0", "\u{85}", "\u{2028}", "\u{2029}", "\u{202e}", "\r\n folded", "\u{7f}"] {
            for text in [
                format!("ops{bad}@example.com"),
                format!("Ops{bad} <ops@example.com>"),
                format!("ops@example.com{bad}"),
            ] {
                assert_eq!(Mailbox::parse("from", &text).unwrap_err().code(), "header_invalid", "{text:?}");
            }
        }
    }

    #[test]
    fn clients_introduce_themselves_properly() {
        for good in ["mail.example.com", "[192.0.2.1]", "[IPv6:2001:db8::1]", "localhost"] {
            assert!(is_helo(good), "{good}");
        }
        for bad in ["", "a b", "mail_1", "[mail]", "a\r\nMAIL", "-a", "[]", "[IPv6:x]"] {
            assert!(!is_helo(bad), "{bad}");
        }
    }
}
