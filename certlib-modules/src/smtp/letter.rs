//! From a letter to the bytes that a relay takes: headers by `lettre`, attachments in base64.

use std::collections::BTreeMap;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::error::{Error, Result};
use lettre::message::header::{
    ContentDisposition, ContentTransferEncoding, ContentType, Date, HeaderName, HeaderValue, Headers, InReplyTo,
    References, Subject, To,
};
use lettre::message::{Body, Mailboxes, header};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::OPERATION;
use super::address::{self, Mailbox};
use super::contents::File;
use super::record::short_digest;

/// How many bytes make one line of base64.
const LINE: usize = 57;
/// The longest value of a configured header, in bytes.
const LONGEST_VALUE: usize = 512;
/// The longest subject, in bytes.
const LONGEST_SUBJECT: usize = 400;

/// Headers that say who sent what to whom, and how it is to be read: never the configuration's to set.
const RESERVED: [&str; 19] = [
    "from",
    "sender",
    "reply-to",
    "to",
    "cc",
    "bcc",
    "subject",
    "date",
    "message-id",
    "in-reply-to",
    "references",
    "mime-version",
    "auto-submitted",
    "x-auto-response-suppress",
    "return-path",
    "received",
    "dkim-signature",
    "authentication-results",
    "delivered-to",
];

/// A message.
#[derive(Debug)]
pub(super) struct Letter<'a> {
    pub(super) message_id: &'a str,
    /// The message that this one is about.
    pub(super) about: Option<&'a str>,
    pub(super) date: OffsetDateTime,
    pub(super) from: &'a Mailbox,
    pub(super) reply_to: Option<&'a Mailbox>,
    pub(super) to: &'a [Mailbox],
    pub(super) cc: &'a [Mailbox],
    pub(super) subject: String,
    pub(super) text: String,
    pub(super) headers: &'a BTreeMap<String, String>,
    pub(super) files: Vec<File>,
}

/// Checks configured headers.
///
/// # Errors
/// `Validation` `header_invalid` with `field`.
pub(super) fn check_headers(headers: &BTreeMap<String, String>) -> Result<()> {
    let mut seen = Vec::new();
    for (name, value) in headers {
        let invalid = |why| Error::validation(OPERATION, "header_invalid", why).with("field", name.escape_debug());
        address::header_text(name, name)?;
        let lower = name.to_ascii_lowercase();
        let token = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if name.is_empty() || name.len() > 64 || !token {
            return Err(invalid("not the name of a header"));
        }
        if RESERVED.contains(&lower.as_str()) || lower.starts_with("content-") || lower.starts_with("resent-") {
            return Err(invalid("this header is set by the module, or by relays"));
        }
        if seen.contains(&lower) {
            return Err(invalid("the header is there twice, in upper and lower case"));
        }
        seen.push(lower);
        address::header_text(name, value)?;
        if value.len() > LONGEST_VALUE {
            return Err(invalid("the value is longer than 512 bytes"));
        }
    }
    Ok(())
}

impl Letter<'_> {
    /// The message as it is sent, but for dots: lines end in CR LF, and the last one does, too.
    ///
    /// The same letter gives the same bytes each time.
    ///
    /// # Errors
    /// `Validation` `header_invalid`; `IoPermanent` `message_invalid`.
    pub(super) fn write(&self) -> Result<Zeroizing<Vec<u8>>> {
        let boundary = format!("=_{}", short_digest(self.message_id));
        let mixed =
            ContentType::parse(&format!("multipart/mixed; boundary=\"{boundary}\"")).map_err(|_| unwritable())?;
        let mut headers = self.headers()?;
        headers.set(mixed);

        // Growing would leave pieces of a key behind in memory.
        let files: usize = self.files.iter().map(|file| file.bytes.expose().len()).sum();
        let mut out = Zeroizing::new(Vec::with_capacity(64 * 1024 + 4 * self.text.len() + 2 * files));
        out.extend_from_slice(headers.to_string().as_bytes());

        let text = Body::new(self.text.clone());
        let mut part = Headers::new();
        part.set(ContentType::TEXT_PLAIN);
        part.set(text.encoding());
        open_part(&mut out, &boundary, &part);
        out.extend_from_slice(&text.into_vec());

        for file in &self.files {
            let mut part = Headers::new();
            part.set(ContentType::parse(file.content.media_type()).map_err(|_| unwritable())?);
            part.set(ContentDisposition::attachment(&file.name));
            part.set(ContentTransferEncoding::Base64);
            open_part(&mut out, &boundary, &part);
            base64_lines(&mut out, file.bytes.expose());
        }
        out.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        if !is_well_formed(&out) {
            return Err(unwritable());
        }
        Ok(out)
    }

    fn headers(&self) -> Result<Headers> {
        let mut headers = Headers::new();
        headers.set(Date::new(SystemTime::from(self.date)));
        headers.insert_raw(mailboxes("From", std::slice::from_ref(self.from)));
        if let Some(reply_to) = self.reply_to {
            headers.insert_raw(mailboxes("Reply-To", std::slice::from_ref(reply_to)));
        }
        headers.insert_raw(mailboxes("To", self.to));
        if !self.cc.is_empty() {
            headers.insert_raw(mailboxes("Cc", self.cc));
        }
        address::header_text("subject", &self.subject)?;
        headers.set(Subject::from(super::template::tame(self.subject.trim(), LONGEST_SUBJECT)));
        headers.set(header::MessageId::from(self.message_id.to_owned()));
        if let Some(about) = self.about {
            headers.set(InReplyTo::from(about.to_owned()));
            headers.set(References::from(about.to_owned()));
        }
        headers.set(header::MIME_VERSION_1_0);
        // Out-of-office notes and their likes have nobody to read them (RFC 3834).
        let fixed = [("Auto-Submitted", "auto-generated"), ("X-Auto-Response-Suppress", "All")];
        let configured = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in fixed.into_iter().chain(configured) {
            let name = HeaderName::new_from_ascii(name.to_owned()).map_err(|_| unwritable())?;
            headers.insert_raw(HeaderValue::new(name, value.to_owned()));
        }
        Ok(headers)
    }
}

/// A header with mailboxes, each on a line of its own: `lettre` would put all of them on one, however long.
fn mailboxes(name: &'static str, list: &[Mailbox]) -> HeaderValue {
    let encoded = |mailbox: &Mailbox| {
        let mut alone = Headers::new();
        alone.set(To::from(Mailboxes::from(mailbox.to_lettre())));
        alone.to_string().trim_start_matches("To: ").trim_end().to_owned()
    };
    let raw = list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let encoded = list.iter().map(encoded).collect::<Vec<_>>().join(",\r\n ");
    HeaderValue::dangerous_new_pre_encoded(HeaderName::new_from_ascii_str(name), raw, encoded)
}

fn open_part(out: &mut Vec<u8>, boundary: &str, headers: &Headers) {
    out.extend_from_slice(format!("\r\n--{boundary}\r\n{headers}\r\n").as_bytes());
}

/// Appends `bytes` in lines of 76 characters.
fn base64_lines(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut line = Zeroizing::new([0; LINE / 3 * 4]);
    for chunk in bytes.chunks(LINE) {
        // The line is as long as the largest chunk needs.
        let written = STANDARD.encode_slice(chunk, &mut *line).unwrap_or(0);
        out.extend_from_slice(&line[..written]);
        out.extend_from_slice(b"\r\n");
    }
}

/// Whether every line ends in CR LF, is of ASCII, and has at most 998 bytes: then relays have no reason to change
/// anything, and none of them can take a part of it for a command.
fn is_well_formed(message: &[u8]) -> bool {
    message.ends_with(b"\r\n")
        && message.split(|byte| *byte == b'\n').all(|line| {
            let line = match line {
                [] => return true,
                [line @ .., b'\r'] => line,
                _ => return false,
            };
            line.len() <= 998 && line.iter().all(|byte| byte.is_ascii() && !matches!(byte, 0 | b'\r'))
        })
}

fn unwritable() -> Error {
    Error::permanent(OPERATION, "message_invalid", "the message cannot be written in a form that every relay takes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::contents::Content;
    use certlib_core::Secret;

    fn letter<'a>(from: &'a Mailbox, to: &'a [Mailbox], headers: &'a BTreeMap<String, String>) -> Letter<'a> {
        Letter {
            message_id: "<0123@example.com>",
            about: None,
            date: OffsetDateTime::UNIX_EPOCH,
            from,
            reply_to: None,
            to,
            cc: &[],
            subject: "Zertifikat für bücher.example".to_owned(),
            text: "one\n\n.\n\ntwo\n".to_owned(),
            headers,
            files: vec![File {
                content: Content::Fullchain,
                name: "ü.pem".to_owned(),
                bytes: Secret::new(vec![7; 200]),
            }],
        }
    }

    #[test]
    fn a_letter_is_the_same_each_time_and_plain() {
        let from = Mailbox::parse("from", "Bürö <a@example.com>").unwrap();
        let to: Vec<_> = (0..40).map(|n| Mailbox::parse("to", &format!("N{n} <n{n}@example.com>")).unwrap()).collect();
        let headers = [("X-Queue".to_owned(), "tls".to_owned())].into();
        let bytes = letter(&from, &to, &headers).write().unwrap();
        assert_eq!(*bytes, *letter(&from, &to, &headers).write().unwrap());
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        for part in [
            "Date: Thu, 01 Jan 1970 00:00:00 +0000\r\n",
            "Message-ID: <0123@example.com>\r\n",
            "MIME-Version: 1.0\r\n",
            "Auto-Submitted: auto-generated\r\n",
            "X-Queue: tls\r\n",
            "Subject: Zertifikat =?utf-8?b?",
            "To: N0 <n0@example.com>,\r\n N1 <n1@example.com>,\r\n",
            "\r\n\r\none\r\n\r\n.\r\n\r\ntwo\r\n",
        ] {
            assert!(text.contains(part), "{part:?} is missing in {text}");
        }
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
        assert!(!text.to_lowercase().contains("bcc:"));
    }

    #[test]
    fn long_texts_are_encoded_and_long_subjects_cut() {
        let from = Mailbox::parse("from", "a@example.com").unwrap();
        let (to, headers) = (std::slice::from_ref(&from), BTreeMap::new());
        let mut long = letter(&from, to, &headers);
        long.text = "x".repeat(5_000);
        long.subject = "ü".repeat(5_000);
        let text = String::from_utf8(long.write().unwrap().to_vec()).unwrap();
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
        long.subject = "a\r\nBcc: b@example.com".to_owned();
        assert_eq!(long.write().unwrap_err().code(), "header_invalid");
    }

    #[test]
    fn headers_that_inject_or_override_are_refused() {
        let check = |name: &str, value: &str| check_headers(&[(name.to_owned(), value.to_owned())].into());
        for value in
            ["a\r\nBcc: b", "a\n", "a\r", "a\0", "a\u{2028}b", "a\u{2029}", "line\r\n folded", &"a".repeat(513)]
        {
            let error = check("X-Tenant", value).unwrap_err();
            assert_eq!(error.code(), "header_invalid", "{value:?}");
            assert!(error.context().any(|pair| pair == ("field", "X-Tenant")));
        }
        for name in
            ["", "X Tenant", "X:", "X\r\nBcc", "X\0", "Bcc", "FROM", "Content-Type", "Resent-To", "Message-ID", "ü"]
        {
            let error = check(name, "a").unwrap_err();
            assert_eq!(error.code(), "header_invalid", "{name:?}");
            assert!(!error.to_string().contains('\n'));
        }
        check("X-Tenant", "blau & grün").unwrap();
        let twice = [("X-A".to_owned(), "1".to_owned()), ("x-a".to_owned(), "2".to_owned())].into();
        assert_eq!(check_headers(&twice).unwrap_err().code(), "header_invalid");
    }
}
