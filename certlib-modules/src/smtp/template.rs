//! Subjects and texts with variables: a fixed list of them, and nothing else.

use certlib_core::error::{Error, Result};
use time::OffsetDateTime;

use super::OPERATION;
use super::address::is_treacherous;
use crate::certificate::Certificate;

/// The longest template, in bytes.
const LONGEST_TEMPLATE: usize = 16 * 1024;
/// The longest value of a variable, in bytes.
const LONGEST_VALUE: usize = 4 * 1024;

/// The text of a delivery, unless there is another.
pub(super) const DELIVERY: &str = "A certificate was issued for:

    {names}

Subject      {subject}
Issuer       {issuer}
Serial       {serial}
Valid from   {not_before}
Valid until  {not_after}
SHA-256      {fingerprint}

Delivery {message_id} for {target}.
";

/// The text of a message that takes a delivery back, unless there is another.
pub(super) const ROLLBACK: &str = "Please disregard this delivery, and do not put its certificate in place:

Delivery     {message_id}
Names        {names}
Serial       {serial}
SHA-256      {fingerprint}

It was rolled back. If the certificate is in place already, put the former one back.
";

/// What the variables stand for.
#[derive(Debug)]
pub(super) struct Values<'a> {
    pub(super) certificate: &'a Certificate,
    pub(super) target: &'a str,
    pub(super) message_id: &'a str,
}

/// The variables there are, sorted.
const VARIABLES: [&str; 13] = [
    "certificate",
    "fingerprint",
    "issuer",
    "message_id",
    "name",
    "names",
    "not_after",
    "not_before",
    "project",
    "serial",
    "subject",
    "target",
    "version",
];

impl Values<'_> {
    fn get(&self, variable: &str) -> String {
        let certificate = self.certificate;
        match variable {
            "certificate" => certificate.id.clone(),
            "fingerprint" => certificate.fingerprint_sha256.to_string(),
            "issuer" => certificate.issuer.clone(),
            "message_id" => self.message_id.to_owned(),
            "name" => certificate.name().to_owned(),
            "names" => certificate.names.join(", "),
            "not_after" => day(certificate.not_after),
            "not_before" => day(certificate.not_before),
            "project" => certificate.project.clone(),
            "serial" => certificate.serial.clone(),
            "subject" => certificate.subject.clone(),
            "version" => certificate.version.to_string(),
            _ => self.target.to_owned(),
        }
    }
}

/// Date and time in UTC, to the minute.
fn day(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    format!("{} {:02}:{:02} UTC", at.date(), at.hour(), at.minute())
}

enum Piece<'a> {
    Text(&'a str),
    Variable(&'a str),
}

/// Checks a template.
///
/// # Errors
/// `Validation` `template_invalid` with `field`, and with the variable that is not known.
pub(super) fn check(field: &'static str, template: &str) -> Result<()> {
    let invalid = |why: &'static str| Error::validation(OPERATION, "template_invalid", why).with("field", field);
    if template.trim().is_empty() || template.len() > LONGEST_TEMPLATE {
        return Err(invalid("a template has from 1 to 16384 bytes").with("actual", template.len()));
    }
    if template.chars().any(|c| is_treacherous(c) && !matches!(c, '\n' | '\t')) {
        return Err(invalid("a text has line feeds and tabs, but no other control characters"));
    }
    for piece in pieces(template).ok_or_else(|| invalid("a brace is not closed; write `{{` and `}}` for braces"))? {
        if let Piece::Variable(name) = piece
            && !VARIABLES.contains(&name)
        {
            return Err(invalid("there is no such variable")
                .with("variable", name.escape_debug())
                .with("known", VARIABLES.join(" ")));
        }
    }
    Ok(())
}

/// Puts the values in. They come from certificates and from names that people gave, so what could mislead a reader is
/// dropped, and long ones are cut.
pub(super) fn render(template: &str, values: &Values<'_>) -> String {
    pieces(template)
        .unwrap_or_default()
        .into_iter()
        .map(|piece| match piece {
            Piece::Text(text) => text.to_owned(),
            Piece::Variable(name) => tame(&values.get(name), LONGEST_VALUE),
        })
        .collect()
}

/// `text` without treacherous characters, cut to `limit` bytes.
pub(super) fn tame(text: &str, limit: usize) -> String {
    let mut tamed: String = text.chars().filter(|c| !is_treacherous(*c)).collect();
    if tamed.len() > limit {
        let end = (0..=limit).rev().find(|at| tamed.is_char_boundary(*at)).unwrap_or(0);
        tamed.truncate(end);
        tamed.push('…');
    }
    tamed
}

/// `None` for braces that do not match.
fn pieces(template: &str) -> Option<Vec<Piece<'_>>> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        let (text, found) = rest.split_at(at);
        pieces.push(Piece::Text(text));
        if let Some(after) = found.strip_prefix("{{").or_else(|| found.strip_prefix("}}")) {
            pieces.push(Piece::Text(&found[..1]));
            rest = after;
            continue;
        }
        let (name, after) = found.strip_prefix('{')?.split_once('}')?;
        pieces.push(Piece::Variable(name));
        rest = after;
    }
    pieces.push(Piece::Text(rest));
    Some(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::record::tests::certificate;

    fn render_with(template: &str, certificate: &Certificate) -> String {
        render(template, &Values { certificate, target: "web\r\n01", message_id: "<id@example.com>" })
    }

    #[test]
    fn variables_are_put_in() {
        let certificate = certificate();
        let text = "{name}|{names}|{serial}|{not_after}|{target}|{version}|{message_id}|{{name}}";
        let expected = "a.example|a.example, b.example|01ab|1970-01-02 00:00 UTC|web01|2|<id@example.com>|{name}";
        assert_eq!(render_with(text, &certificate), expected);
        for variable in VARIABLES {
            assert!(!render_with(&format!("{{{variable}}}"), &certificate).is_empty(), "{variable}");
        }
        for text in [DELIVERY, ROLLBACK] {
            check("body", text).unwrap();
        }
    }

    #[test]
    fn values_are_not_templates_and_cannot_mislead() {
        let mut certificate = certificate();
        certificate.subject = "CN={serial}\r\nBcc: x@evil\u{202e}".to_owned();
        assert_eq!(render_with("{subject}", &certificate), "CN={serial}Bcc: x@evil");
        certificate.subject = "ü".repeat(100_000);
        let cut = render_with("{subject}", &certificate);
        assert!(cut.len() <= LONGEST_VALUE + '…'.len_utf8() && cut.ends_with('…'));
    }

    #[test]
    fn what_is_no_template_is_refused() {
        let long = "a".repeat(LONGEST_TEMPLATE + 1);
        for text in [
            "",
            " ",
            "{",
            "}",
            "{name",
            "name}",
            "{}",
            "{ name }",
            "{key}",
            "{env.HOME}",
            "{name:x}",
            "{{name}",
            "a\0",
            "a\rb",
            &long,
        ] {
            assert_eq!(check("body", text).unwrap_err().code(), "template_invalid", "{text:?}");
        }
    }
}
