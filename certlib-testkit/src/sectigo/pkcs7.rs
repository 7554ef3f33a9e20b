//! PKCS#7 without signatures (RFC 2315): a bag of certificates.

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// `1.2.840.113549.1.7.2`, with tag and length.
const SIGNED_DATA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
/// `1.2.840.113549.1.7.1`, with tag and length.
const DATA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];

/// The bag, DER.
pub(super) fn bag(certificates: &[&[u8]]) -> Vec<u8> {
    let version: &[u8] = &[0x02, 0x01, 0x01];
    let nothing = tagged(0x31, &[]);
    let content = tagged(0x30, DATA);
    let inside = tagged(0xa0, &certificates.concat());
    let signed = tagged(0x30, &[version, &nothing, &content, &inside, &nothing].concat());
    tagged(0x30, &[SIGNED_DATA, &tagged(0xa0, &signed)].concat())
}

/// The bag, PEM.
pub(super) fn text(certificates: &[&[u8]]) -> String {
    let encoded = STANDARD.encode(bag(certificates));
    let mut text = "-----BEGIN PKCS7-----\n".to_owned();
    for (number, character) in encoded.chars().enumerate() {
        if number > 0 && number % 64 == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text + "\n-----END PKCS7-----\n"
}

fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len().to_be_bytes();
    let significant = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    match significant {
        [] => out.push(0),
        [short @ 0..=0x7f] => out.push(*short),
        long => {
            out.push(0x80 | u8::try_from(long.len()).unwrap_or_default());
            out.extend_from_slice(long);
        }
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_as_many_bytes_as_they_need() {
        assert_eq!(tagged(4, &[]), [4, 0]);
        assert_eq!(tagged(4, &[7; 127])[..3], [4, 127, 7]);
        assert_eq!(tagged(4, &[7; 128])[..4], [4, 0x81, 128, 7]);
        assert_eq!(tagged(4, &[7; 256])[..5], [4, 0x82, 1, 0, 7]);
    }

    #[test]
    fn the_text_has_short_lines() {
        let text = text(&[&[0x30, 0], &[7; 100]]);
        assert!(text.lines().all(|line| line.len() <= 64) && text.ends_with("-----END PKCS7-----\n"), "{text}");
    }
}
