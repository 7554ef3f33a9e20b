//! Records as documents, and their index.
//!
//! Each indexed field is kept as one text, `f.KIND:FIELD`, made of the value and the record's id so that texts sort as
//! (value, id) do. One wildcard index over `f` then serves every field of every kind, in order, without a change when a
//! kind or a field is added.

use bson::{Document, doc};
use certlib_core::store::{Index, IndexValue, RawRecord};

use crate::error::unreadable;
use crate::job::{number, text};

/// Separates a value from an id: index texts hold no NUL, so it ends them and sorts before all that could follow.
const END: char = '\0';
/// Sorts behind everything that begins with the same value.
const PAST_END: char = '\u{1}';
/// Every number sorts before every text.
const INT: char = '0';
const TEXT: char = '1';
const PAST_TEXT: &str = "2";

/// The `_id` of a record. Kinds are lower case letters, digits and `_`.
pub(crate) fn key(kind: &str, id: &str) -> String {
    format!("{kind}/{id}")
}

/// What is larger than every `_id` of `kind`.
pub(crate) fn past_keys(kind: &str) -> String {
    // The character after the slash.
    format!("{kind}0")
}

/// The path of a field.
pub(crate) fn path(kind: &str, field: &str) -> String {
    format!("f.{}", name(kind, field))
}

/// Dots and dollar signs mean something in a path.
fn name(kind: &str, field: &str) -> String {
    format!("{kind}:{field}").replace('.', "\u{ff0e}").replace('$', "\u{ff04}")
}

/// A value as a text that sorts like it.
fn sortable(value: &IndexValue) -> String {
    match value {
        // Negative numbers first.
        IndexValue::Int(number) => format!("{INT}{:016x}", number.cast_unsigned() ^ (1 << 63)),
        IndexValue::Text(text) => format!("{TEXT}{text}"),
    }
}

/// Value and id as one text.
pub(crate) fn entry(value: &IndexValue, id: &str) -> String {
    format!("{}{END}{id}", sortable(value))
}

/// Whether `entry` was read back, its value.
pub(crate) fn value_of(entry: &str) -> Option<IndexValue> {
    let (value, _) = entry.split_once(END)?;
    if let Some(text) = value.strip_prefix(TEXT) {
        return Some(IndexValue::Text(text.to_owned()));
    }
    let number = u64::from_str_radix(value.strip_prefix(INT)?, 16).ok()?;
    Some(IndexValue::Int((number ^ (1 << 63)).cast_signed()))
}

/// A stretch of the index of one field: from the first text, to before the second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: String,
    pub(crate) before: String,
}

impl Span {
    pub(crate) fn everything() -> Self {
        Self { from: INT.into(), before: PAST_TEXT.into() }
    }

    pub(crate) fn equal(value: &IndexValue) -> Self {
        let value = sortable(value);
        Self { from: format!("{value}{END}"), before: format!("{value}{PAST_END}") }
    }

    /// This value and larger ones of its type.
    pub(crate) fn at_least(value: &IndexValue) -> Self {
        let before = match value {
            IndexValue::Int(_) => TEXT.into(),
            IndexValue::Text(_) => PAST_TEXT.into(),
        };
        Self { from: format!("{}{END}", sortable(value)), before }
    }

    /// This value and smaller ones of its type.
    pub(crate) fn at_most(value: &IndexValue) -> Self {
        let from = match value {
            IndexValue::Int(_) => INT.into(),
            IndexValue::Text(_) => TEXT.into(),
        };
        Self { from, before: format!("{}{PAST_END}", sortable(value)) }
    }

    /// What comes after `entry`, or before it when the order is `descending`.
    pub(crate) fn beyond(entry: String, descending: bool) -> Self {
        let everything = Self::everything();
        if descending {
            Self { before: entry, ..everything }
        } else {
            // The next text after it.
            Self { from: format!("{entry}{END}"), ..everything }
        }
    }

    /// What both have in common.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { from: self.from.max(other.from), before: self.before.min(other.before) }
    }
}

/// What a put writes.
pub(crate) fn content(kind: &str, id: &str, body: &str, index: &Index) -> Document {
    let fields: Document = index.iter().map(|(field, value)| (name(kind, field), entry(value, id).into())).collect();
    doc! { "kind": kind, "id": id, "body": body, "f": fields }
}

pub(crate) fn decode(document: &Document) -> certlib_core::Result<RawRecord> {
    Ok(RawRecord {
        id: text(document, "id")?.to_owned(),
        revision: number(document, "revision")?,
        body: text(document, "body")?.into(),
    })
}

/// The value of the field at `path`, as an error when there is none.
pub(crate) fn sorted_by(document: &Document, path: &str) -> certlib_core::Result<IndexValue> {
    let name = path.strip_prefix("f.").unwrap_or(path);
    let entry = document.get_document("f").and_then(|fields| fields.get_str(name));
    entry.ok().and_then(value_of).ok_or_else(|| unreadable("f"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Vec<IndexValue> {
        let numbers = [i64::MIN, -2, -1, 0, 1, 15, 16, 255, i64::MAX].map(IndexValue::Int);
        let texts = ["", "\u{1}", "a", "a\u{1}", "a\u{1}b", "aa", "b", "\u{7f}", "é", "\u{ffff}", "🦀"];
        numbers.into_iter().chain(texts.map(IndexValue::from)).collect()
    }

    #[test]
    fn entries_sort_by_value_and_then_by_id() {
        let mut entries = Vec::new();
        for value in values() {
            for id in ["!", "a", "a!", "b", "é"] {
                assert_eq!(value_of(&entry(&value, id)), Some(value.clone()));
                entries.push(entry(&value, id));
            }
        }
        assert!(entries.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn spans_hold_exactly_what_they_are_named_for() {
        let same_type =
            |a: &IndexValue, b: &IndexValue| matches!(a, IndexValue::Int(_)) == matches!(b, IndexValue::Int(_));
        for bound in values() {
            for value in values() {
                let holds = |span: Span| {
                    ["!", "zz", "\u{10ffff}"].map(|id| {
                        let entry = entry(&value, id);
                        span.from <= entry && entry < span.before
                    })
                };
                assert_eq!(holds(Span::equal(&bound)), [value == bound; 3], "{value:?} = {bound:?}");
                let same = same_type(&value, &bound);
                assert_eq!(holds(Span::at_least(&bound)), [same && value >= bound; 3], "{value:?} >= {bound:?}");
                assert_eq!(holds(Span::at_most(&bound)), [same && value <= bound; 3], "{value:?} <= {bound:?}");
                assert_eq!(holds(Span::everything()), [true; 3]);
                let here = entry(&bound, "m");
                let other = entry(&value, "m");
                let after = Span::beyond(here.clone(), false);
                assert_eq!(after.from <= other && other < after.before, other > here);
                let before = Span::beyond(here.clone(), true);
                assert_eq!(before.from <= other && other < before.before, other < here);
            }
        }
    }

    #[test]
    fn kinds_and_fields_do_not_mix() {
        assert!(key("order", "~") < past_keys("order") && past_keys("order") < key("order_x", ""));
        assert_eq!(path("order", "a.b$c"), "f.order:a\u{ff0e}b\u{ff04}c");
    }
}
