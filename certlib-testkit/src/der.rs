//! DER (X.690), as much of it as the simulators read and write by hand.

/// Tag, content and what follows of the first element, if it is whole.
pub(crate) fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (digits, rest) =
            rest.split_at_checked(usize::from(first & 0x7f)).filter(|(digits, _)| digits.len() <= 4)?;
        (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// An element around a content.
pub(crate) fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    let length = content.len();
    if length < 0x80 {
        bytes.push(u8::try_from(length).unwrap_or(0));
    } else {
        let digits: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|digit| *digit == 0).collect();
        bytes.push(0x80 | u8::try_from(digits.len()).unwrap_or(0));
        bytes.extend(digits);
    }
    bytes.extend(content);
    bytes
}

/// Reads the elements of a content one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    /// The next element's content if it has this tag; otherwise it stays.
    pub(crate) fn next(&mut self, wanted: u8) -> Option<&'a [u8]> {
        let (_, content, rest) = element(self.0).filter(|(tag, ..)| *tag == wanted)?;
        self.0 = rest;
        Some(content)
    }

    /// The next element as it is encoded, whatever it is.
    pub(crate) fn whole(&mut self) -> Option<(u8, &'a [u8])> {
        let (tag, _, rest) = element(self.0)?;
        let (whole, _) = self.0.split_at_checked(self.0.len() - rest.len())?;
        self.0 = rest;
        Some((tag, whole))
    }
}

/// A sequence of encoded elements.
pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    wrap(0x30, &parts.concat())
}

/// A set of encoded elements, which the caller has in order.
pub(crate) fn set(parts: &[&[u8]]) -> Vec<u8> {
    wrap(0x31, &parts.concat())
}

/// A whole number.
pub(crate) fn integer(number: u64) -> Vec<u8> {
    let mut digits: Vec<u8> = number.to_be_bytes().into_iter().skip_while(|digit| *digit == 0).collect();
    if digits.first().is_none_or(|first| *first >= 0x80) {
        digits.insert(0, 0);
    }
    wrap(0x02, &digits)
}

/// The arcs of an object identifier in dots; none for a part that is no number.
pub(crate) fn arcs(dotted: &str) -> Vec<u64> {
    dotted.split('.').map(str::parse).collect::<Result<_, _>>().unwrap_or_default()
}

/// An object identifier, from its form with dots.
pub(crate) fn oid(dotted: &str) -> Vec<u8> {
    let arcs = arcs(dotted);
    let [first, second, rest @ ..] = arcs.as_slice() else { return wrap(0x06, &[]) };
    let mut content = Vec::new();
    for arc in std::iter::once(&(first * 40 + second)).chain(rest) {
        let mut digits = vec![u8::try_from(arc & 0x7f).unwrap_or(0)];
        let mut left = arc >> 7;
        while left > 0 {
            digits.push(u8::try_from(left & 0x7f).unwrap_or(0) | 0x80);
            left >>= 7;
        }
        digits.reverse();
        content.extend(digits);
    }
    wrap(0x06, &content)
}

/// The form with dots of an object identifier's content.
pub(crate) fn dotted(content: &[u8]) -> String {
    let mut arcs = Vec::new();
    let mut arc = 0_u64;
    for byte in content {
        arc = arc << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            arcs.push(arc);
            arc = 0;
        }
    }
    let Some((first, rest)) = arcs.split_first() else { return String::new() };
    let top = (first / 40).min(2);
    let all = [top, first - top * 40].into_iter().chain(rest.iter().copied());
    all.map(|arc| arc.to_string()).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_identifiers_go_there_and_back() {
        let known = [0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x02, 0x0a];
        assert_eq!(oid("1.3.6.1.4.1.311.2.2.10"), known);
        for text in ["1.3.6.1.4.1.311.21.8.16777215.2147483648", "2.16.840.1.101.3.4.2.1", "2.999.3", "0.9"] {
            let encoded = oid(text);
            assert_eq!(dotted(element(&encoded).unwrap().1), text);
        }
        assert_eq!(oid("1.x"), [0x06, 0]);
    }

    #[test]
    fn elements_are_read_in_turn_and_never_beyond_their_end() {
        let bytes = [integer(0), integer(128), integer(65_535), wrap(0x04, &[7; 300])].concat();
        let mut reader = Reader(&bytes);
        assert_eq!(reader.next(0x02), Some(&[0][..]));
        assert_eq!((reader.next(0x04), reader.next(0x02)), (None, Some(&[0, 128][..])));
        assert_eq!(reader.whole(), Some((0x02, &[2, 3, 0, 255, 255][..])));
        assert_eq!(reader.next(0x04).map(<[u8]>::len), Some(300));
        assert_eq!((reader.whole(), reader.next(0x02)), (None, None));
        for nonsense in [&[][..], &[0x30], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], &[0x30, 5, 1]] {
            assert_eq!(element(nonsense), None);
        }
    }
}
