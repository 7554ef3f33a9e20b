//! A request, read.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{answer::Refusal, server::decoded};

/// What a request wants to do to its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Read,
    Update,
    Patch,
    List,
    Delete,
}

impl Operation {
    /// From the method and the query. `PUT` and `POST` are synonyms; a list is `LIST` or `GET` with `list=true`.
    pub(super) fn of(method: &str, query: &str) -> Option<Self> {
        let lists = query.split('&').any(|pair| pair == "list=true" || pair == "list=1");
        match method {
            "GET" if lists => Some(Self::List),
            "GET" | "HEAD" => Some(Self::Read),
            "POST" | "PUT" => Some(Self::Update),
            "PATCH" => Some(Self::Patch),
            "LIST" => Some(Self::List),
            "DELETE" => Some(Self::Delete),
            _ => None,
        }
    }
}

/// A request to one path of one namespace, as handlers see it.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) operation: Operation,
    /// Without the namespace and slashes at its ends; below the mount once an engine gets it.
    pub(super) path: String,
    pub(super) body: Body,
    /// The certificate that the client showed, DER.
    pub(super) certificate: Option<Vec<u8>>,
}

impl Call {
    /// The parts of the path.
    pub(super) fn segments(&self) -> Vec<&str> {
        self.path.split('/').filter(|segment| !segment.is_empty()).collect()
    }
}

/// The fields of a request. A field that is `null` counts as not given, which is what clients mean by it.
#[derive(Clone, Debug, Default)]
pub(super) struct Body(Map<String, Value>);

impl Body {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(Value::Null) => Ok(Self::default()),
            _ => Err(Refusal::invalid("failed to parse JSON input: a body is an object")),
        }
    }

    /// The query of a request that has no body: its fields are as good as those of one.
    pub(super) fn query(text: &str) -> Self {
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        Self(pairs.map(|(name, value)| (decoded(name), Value::String(decoded(value)))).collect())
    }

    pub(super) fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    /// All fields, those that are `null` as well.
    pub(super) fn fields(&self) -> &Map<String, Value> {
        &self.0
    }

    /// The fields of an object in a field, none when it is not given.
    pub(super) fn object(&self, field: &str) -> Result<Option<&Map<String, Value>>, Refusal> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(fields)),
            Some(_) => Err(wrong_type(field)),
        }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// A text, empty when it is not given.
    pub(super) fn text(&self, field: &str) -> Result<&str, Refusal> {
        match self.get(field) {
            None => Ok(""),
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(wrong_type(field)),
        }
    }

    pub(super) fn flag(&self, field: &str) -> Result<Option<bool>, Refusal> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(Value::String(text)) if text == "true" || text == "false" => Ok(Some(text == "true")),
            Some(_) => Err(wrong_type(field)),
        }
    }

    /// A whole number, also when it is written as a text.
    pub(super) fn number(&self, field: &str) -> Result<Option<i64>, Refusal> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Number(number)) => number.as_i64().map(Some).ok_or_else(|| wrong_type(field)),
            Some(Value::String(text)) => text.parse().map(Some).map_err(|_| wrong_type(field)),
            Some(_) => Err(wrong_type(field)),
        }
    }

    /// A period: seconds, or a number with one of the units `s`, `m`, `h` and `d`.
    pub(super) fn period(&self, field: &str) -> Result<Option<Duration>, Refusal> {
        let seconds = match self.get(field) {
            None => return Ok(None),
            Some(Value::Number(number)) => number.as_u64(),
            Some(Value::String(text)) => seconds(text),
            Some(_) => None,
        };
        seconds.map(|seconds| Some(Duration::from_secs(seconds))).ok_or_else(|| wrong_type(field))
    }

    /// Several texts: an array, or one text with commas.
    pub(super) fn texts(&self, field: &str) -> Result<Option<Vec<String>>, Refusal> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => {
                Ok(Some(text.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()))
            }
            Some(Value::Array(values)) => values
                .iter()
                .map(|value| value.as_str().map(str::to_owned).ok_or_else(|| wrong_type(field)))
                .collect::<Result<_, _>>()
                .map(Some),
            Some(_) => Err(wrong_type(field)),
        }
    }
}

impl From<Map<String, Value>> for Body {
    fn from(fields: Map<String, Value>) -> Self {
        Self(fields)
    }
}

fn seconds(text: &str) -> Option<u64> {
    let (number, unit) = match text.char_indices().last()? {
        (at, 's') => (&text[..at], 1),
        (at, 'm') => (&text[..at], 60),
        (at, 'h') => (&text[..at], 3_600),
        (at, 'd') => (&text[..at], 86_400),
        _ => (text, 1),
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

fn wrong_type(field: &str) -> Refusal {
    Refusal::invalid(format!("Field validation failed: error converting input for field {field:?}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_read_as_vault_reads_them() {
        let text =
            json!({"ttl": "2h", "plain": 90, "none": null, "names": "a, b,", "many": ["c"], "no": "x"}).to_string();
        let body = Body::read(text.as_bytes()).unwrap();
        assert_eq!(body.period("ttl").unwrap(), Some(Duration::from_secs(7_200)));
        assert_eq!(body.period("plain").unwrap(), Some(Duration::from_secs(90)));
        assert_eq!(body.period("none").unwrap(), None);
        assert!(body.period("no").is_err() && body.number("no").is_err() && body.flag("no").is_err());
        assert_eq!(body.texts("names").unwrap().unwrap(), ["a", "b"]);
        assert_eq!(body.texts("many").unwrap().unwrap(), ["c"]);
        assert!(Body::read(b"[1]").is_err());
    }

    #[test]
    fn operations_by_method_and_query() {
        assert_eq!(Operation::of("GET", "list=true"), Some(Operation::List));
        assert_eq!(Operation::of("LIST", ""), Some(Operation::List));
        assert_eq!(Operation::of("PUT", ""), Operation::of("POST", ""));
        assert_eq!(Operation::of("TRACE", ""), None);
    }
}
