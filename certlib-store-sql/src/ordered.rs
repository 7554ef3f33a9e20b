//! Index values as bytes that sort as the values do, for databases that would otherwise need a column for each type.

use certlib_core::error::Result;
use certlib_core::store::IndexValue;

use crate::error::unreadable;

const INT: u8 = 0;
const TEXT: u8 = 1;

/// `value` as bytes: every number before every text, numbers by size, texts by their bytes.
pub(crate) fn encode(value: &IndexValue) -> Vec<u8> {
    match value {
        // With the sign flipped, two's complement sorts as unsigned.
        IndexValue::Int(number) => {
            let mut bytes = vec![INT];
            bytes.extend((number.cast_unsigned() ^ (1 << 63)).to_be_bytes());
            bytes
        }
        IndexValue::Text(text) => {
            let mut bytes = vec![TEXT];
            bytes.extend(text.as_bytes());
            bytes
        }
    }
}

/// What [`encode`] made `bytes` of.
pub(crate) fn decode(bytes: &[u8]) -> Result<IndexValue> {
    let value = match bytes.split_first() {
        Some((&INT, rest)) => {
            rest.try_into().ok().map(|bytes| IndexValue::Int((u64::from_be_bytes(bytes) ^ (1 << 63)).cast_signed()))
        }
        Some((&TEXT, rest)) => str::from_utf8(rest).ok().map(|text| IndexValue::Text(text.to_owned())),
        _ => None,
    };
    value.ok_or_else(|| unreadable("index value"))
}

/// The first bytes after those of every value of `value`'s type.
pub(crate) fn end_of_type(value: &IndexValue) -> Vec<u8> {
    match value {
        IndexValue::Int(_) => vec![INT + 1],
        IndexValue::Text(_) => vec![TEXT + 1],
    }
}

/// The first bytes before those of every value of `value`'s type.
pub(crate) fn start_of_type(value: &IndexValue) -> Vec<u8> {
    match value {
        IndexValue::Int(_) => vec![INT],
        IndexValue::Text(_) => vec![TEXT],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_sort_as_values_do_and_come_back() {
        let numbers = [i64::MIN, -256, -1, 0, 1, 255, 256, i64::MAX].map(IndexValue::Int);
        let texts = ["", "\0", "A", "a", "a\0", "a\u{1}", "ab", "é", "\u{10ffff}"].map(IndexValue::from);
        let values: Vec<_> = numbers.into_iter().chain(texts).collect();
        for (a, b) in values.iter().zip(&values[1..]) {
            assert!(a < b && encode(a) < encode(b), "{a:?} {b:?}");
        }
        for value in &values {
            let bytes = encode(value);
            assert_eq!(&decode(&bytes).unwrap(), value);
            assert!(start_of_type(value) <= bytes && bytes < end_of_type(value));
        }
        for damaged in [&b""[..], b"\0", b"\0abc", b"\x01\xff", b"\x02"] {
            assert_eq!(decode(damaged).unwrap_err().code(), "row_unreadable");
        }
    }
}
