//! Secrets to look for, in every form in which they could get out.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// Long enough not to be met by chance, and short enough that a line break of PEM leaves one of them whole.
const PART: usize = 16;

/// A secret, or what is to be found as a control.
pub(crate) struct Needle {
    pub(crate) name: String,
    forms: Vec<(&'static str, Vec<u8>)>,
}

impl Needle {
    /// Looks for `secret`, which is random: for all of it if it is short, else for each part of it.
    pub(crate) fn new(name: impl Into<String>, secret: &[u8]) -> Self {
        assert!(secret.len() >= PART, "too short to mean anything");
        let mut forms = Vec::new();
        for part in secret.chunks_exact(PART) {
            forms.push(("raw", part.to_vec()));
            let hex: String = part.iter().map(|byte| format!("{byte:02x}")).collect();
            forms.push(("hex", hex.to_uppercase().into_bytes()));
            forms.push(("hex", hex.into_bytes()));
            let colons: Vec<_> = part.iter().map(|byte| format!("{byte:02x}")).collect();
            forms.push(("hex with colons", colons.join(":").into_bytes()));
            // As a list of numbers: how `Debug` and JSON show bytes.
            let list = format!("{part:?}");
            let list = list.trim_matches(['[', ']']);
            forms.push(("list", list.replace(' ', "").into_bytes()));
            forms.push(("list", list.to_owned().into_bytes()));
            for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
                for shift in 0..3 {
                    // What the neighbours have a part in is left out.
                    let text = engine.encode([&vec![0; shift][..], part].concat());
                    let whole = (shift * 8).div_ceil(6)..(shift + PART) * 8 / 6;
                    forms.push(("base64", text[whole].as_bytes().to_vec()));
                }
            }
            let escaped: String = part.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            forms.push(("escaped", escaped.into_bytes()));
            forms.push(("escaped", part.escape_ascii().to_string().into_bytes()));
        }
        Self { name: name.into(), forms }
    }

    /// Looks for a P-256 key in PKCS#8: for its secret number, and for the lines of its PEM, which may be encoded again.
    pub(crate) fn key(name: impl Into<String>, pkcs8: &[u8]) -> Self {
        assert_eq!(pkcs8[34..36], [0x04, 32], "this is no P-256 key");
        let mut needle = Self::new(name, &pkcs8[36..68]);
        // What comes before is the same in all keys; a line of PEM ends in between.
        let pem = STANDARD_NO_PAD.encode(pkcs8);
        for part in [&pem[48..64], &pem[64..80]] {
            needle.forms.extend(Self::new("", part.as_bytes()).forms);
        }
        needle
    }

    /// As [`Needle::key`], for a key in PEM.
    pub(crate) fn pem(name: impl Into<String>, pem: &str) -> Self {
        let lines: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        Self::key(name, &STANDARD.decode(lines).unwrap())
    }

    /// In which form it is in `hay`, and what is around it.
    pub(crate) fn found_in(&self, hay: &[u8]) -> Option<String> {
        self.forms.iter().find_map(|(form, needle)| {
            let at = find(hay, needle)?;
            let around = &hay[at.saturating_sub(400)..hay.len().min(at + needle.len() + 100)];
            Some(format!("{form}: ..{}..", around.escape_ascii()))
        })
    }
}

/// Where `needle` is in `hay`, if it is (Horspool's algorithm).
pub(crate) fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    let last = needle.len() - 1;
    let mut skip = [needle.len(); 256];
    for (at, byte) in needle[..last].iter().enumerate() {
        skip[usize::from(*byte)] = last - at;
    }
    let mut at = 0;
    while at + last < hay.len() {
        let end = hay[at + last];
        if end == needle[last] && hay[at..at + last] == needle[..last] {
            return Some(at);
        }
        at += skip[usize::from(end)];
    }
    None
}

#[test]
fn a_secret_is_found_in_every_form_and_wherever_it_begins() {
    let secret: Vec<u8> = (0..48).map(|n: u8| n.wrapping_mul(73) ^ 0xa5).collect();
    let needle = Needle::new("secret", &secret);
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    for before in 0..70 {
        let plain = [&vec![b'x'; before][..], &secret, b"yz"].concat();
        let wrapped = |text: String| {
            let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line)).collect();
            lines.join("\n").into_bytes()
        };
        for hay in [
            plain.clone(),
            format!("{plain:?}").into_bytes(),
            serde_json::to_vec(&plain).unwrap(),
            plain.escape_ascii().to_string().into_bytes(),
            wrapped(STANDARD_NO_PAD.encode(&plain)),
            wrapped(URL_SAFE_NO_PAD.encode(&plain)),
            hex.clone().into_bytes(),
            hex.to_uppercase().into_bytes(),
        ] {
            assert!(needle.found_in(&hay).is_some(), "{}", hay.escape_ascii());
        }
    }
    assert!(needle.found_in(&[7; 5000]).is_none());
    assert_eq!(find(b"abcabd", b"abd"), Some(3));
    assert_eq!(find(b"ab", b"abd"), None);
}
