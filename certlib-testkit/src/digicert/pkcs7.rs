//! PKCS#7 with certificates and nothing else (RFC 2315, section 9.1: signed data that nobody signed).

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[0]`, constructed.
const FIRST: u8 = 0xa0;
/// 1.2.840.113549.1.7.2 and .1, with their headers.
const SIGNED_DATA: [u8; 11] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
const DATA: [u8; 11] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
const VERSION: [u8; 3] = [0x02, 0x01, 0x01];

/// Puts certificates in DER together.
pub(super) fn of<const N: usize>(certificates: [Vec<u8>; N]) -> Vec<u8> {
    let none = element(SET, &[]);
    let content = element(SEQUENCE, &DATA);
    let certificates = element(FIRST, &certificates.concat());
    let signed = element(SEQUENCE, &[&VERSION[..], &none, &content, &certificates, &none].concat());
    element(SEQUENCE, &[&SIGNED_DATA[..], &element(FIRST, &signed)].concat())
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let digits: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
    let mut out = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            // A length in bytes has at most eight digits.
            out.push(0x80 | u8::try_from(digits.len()).unwrap_or_default());
            out.extend(digits);
        }
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths() {
        assert_eq!(element(SET, &[]), [0x31, 0]);
        assert_eq!(element(SET, &[7; 127])[..2], [0x31, 127]);
        assert_eq!(element(SET, &[7; 128])[..3], [0x31, 0x81, 128]);
        assert_eq!(element(SET, &[7; 300])[..4], [0x31, 0x82, 1, 44]);
    }
}
