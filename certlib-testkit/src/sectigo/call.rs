//! A request whose sender is known.

use serde_json::Value;
use time::OffsetDateTime;

use super::answer::Refusal;

/// The most that a list gives at once.
pub(super) const PAGE: usize = 200;

/// What a handler gets.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) method: String,
    /// The segments of the path after `api`.
    pub(super) path: Vec<String>,
    query: Vec<(String, String)>,
    pub(super) body: Value,
    /// Who asks.
    pub(super) login: String,
    pub(super) now: OffsetDateTime,
}

impl Call {
    pub(super) fn new(
        method: &str,
        path: &str,
        query: &str,
        body: &[u8],
        login: &str,
        now: OffsetDateTime,
    ) -> Result<Self, Refusal> {
        let body = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(body).map_err(|_| Refusal::bad(-1, "The request body is not JSON."))?
        };
        Ok(Self {
            method: method.to_owned(),
            path: path.trim_matches('/').split('/').map(str::to_owned).collect(),
            query: form(query),
            body,
            login: login.to_owned(),
            now,
        })
    }

    /// The first value of a name in the query.
    pub(super) fn param(&self, name: &str) -> Option<&str> {
        value(&self.query, name)
    }

    /// A text of the body, empty when it is absent.
    pub(super) fn text(&self, field: &str) -> &str {
        self.body.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    /// A number of the body, also when it is written as a text.
    pub(super) fn number(&self, field: &str) -> Option<i64> {
        let value = self.body.get(field)?;
        value.as_i64().or_else(|| value.as_str()?.parse().ok())
    }

    /// The page that `position` and `size` want, with so many entries at most.
    pub(super) fn page<T>(&self, all: Vec<T>, most: usize) -> Result<(Vec<T>, usize), Refusal> {
        let number = |name: &str, default: usize| match self.param(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| Refusal::invalid(name)),
        };
        let (position, size) = (number("position", 0)?, number("size", PAGE)?);
        if size > PAGE {
            return Err(Refusal::invalid("size"));
        }
        let total = all.len();
        Ok((all.into_iter().skip(position).take(size.min(most)).collect(), total))
    }
}

/// The pairs of a query or a form.
pub(super) fn form(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    };
    pairs.map(pair).collect()
}

/// The first value of a name.
pub(super) fn value<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escaped = tail.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (first, escaped) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (first, _) => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_decoded() {
        let pairs = form("a=b%2Fc&d=e+f&%67=%zz&h");
        let expected = [("a", "b/c"), ("d", "e f"), ("g", "%zz"), ("h", "")];
        assert_eq!(pairs, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(value(&pairs, "d"), Some("e f"));
    }
}
