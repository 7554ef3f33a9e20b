//! Signatures over requests: what vendors of clouds ask for in place of a token.
//!
//! What is signed must be what is sent: take the URL from [`Request::url`](crate::Request::url), after its query is set.

pub mod sdk_hmac;
pub mod sigv4;

use aws_lc_rs::digest::{SHA256, digest};
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};
use url::Url;

/// How both vendors write a time.
const MOMENT: &[BorrowedFormatItem<'_>] = format_description!("[year][month][day]T[hour][minute][second]Z");

/// What of a request is signed.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// The HTTP method, upper case.
    pub method: &'a str,
    /// The URL that is sent.
    pub url: &'a Url,
    /// Headers by lower-case name, in any order, without the date.
    pub headers: &'a [(&'a str, &'a str)],
    /// The bytes that are sent.
    pub body: &'a [u8],
}

/// What the `Host` header of a request to `url` says.
pub fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    // The URL leaves out the port that goes without saying, as the header does.
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The time in UTC.
fn moment(now: OffsetDateTime) -> String {
    // The format has only numbers, which cannot fail.
    now.to_offset(UtcOffset::UTC).format(MOMENT).unwrap_or_default()
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

/// Sorts the headers; gives their lines and their names.
fn canonical_headers(headers: &mut [(&str, &str)]) -> (String, String) {
    headers.sort_unstable();
    let lines = headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
    let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    (lines, names)
}

/// The pairs of the query, encoded anew, by name and then by value.
pub(crate) fn canonical_query(url: &Url) -> String {
    let mut pairs: Vec<_> = url.query_pairs().collect();
    pairs.sort_unstable();
    let pairs = pairs.iter().map(|(name, value)| format!("{}={}", encode(name.as_bytes()), encode(value.as_bytes())));
    pairs.collect::<Vec<_>>().join("&")
}

/// Everything but unreserved characters as `%XX`.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// `%XX` as what it stands for; what only looks like it stays.
fn decode(text: &[u8]) -> Vec<u8> {
    let digit = |at: usize| text.get(at).and_then(|digit| char::from(*digit).to_digit(16));
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let pair = digit(at + 1).zip(digit(at + 2)).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        match (text[at], pair) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                at += 3;
            }
            (byte, _) => {
                bytes.push(byte);
                at += 1;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_has_a_port_only_if_the_header_does() {
        for (url, expected) in [
            ("https://elb.example/x", "elb.example"),
            ("https://elb.example:443/x", "elb.example"),
            ("http://127.0.0.1:8080/x", "127.0.0.1:8080"),
        ] {
            assert_eq!(host(&Url::parse(url).unwrap()), expected);
        }
    }
}
