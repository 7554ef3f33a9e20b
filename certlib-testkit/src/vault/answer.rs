//! What the simulator answers, in the shapes of Vault.

use serde_json::{Map, Value, json};

use super::random;

/// An answer, before it becomes HTTP.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Option<Value>,
}

/// Why a request is not carried out.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) errors: Vec<String>,
}

/// How every handler ends.
pub(super) type Outcome = Result<Answer, Refusal>;

impl Answer {
    /// `200` with `data` in the usual envelope.
    pub(super) fn data(data: Value) -> Self {
        Self::envelope(data, Value::Null)
    }

    /// `200` with `auth` in the usual envelope: the answer to a login.
    pub(super) fn auth(auth: Value) -> Self {
        Self::envelope(Value::Null, auth)
    }

    /// `200` with data that lie both in the envelope and beside it, as those of some `sys` paths do.
    pub(super) fn spread(data: Map<String, Value>) -> Self {
        let mut answer = Self::data(Value::Object(data.clone()));
        if let Some(Value::Object(body)) = &mut answer.body {
            for (name, value) in data {
                body.entry(name).or_insert(value);
            }
        }
        answer
    }

    /// `204`.
    pub(super) fn nothing() -> Self {
        Self { status: 204, headers: Vec::new(), body: None }
    }

    /// A body without the envelope.
    pub(super) fn bare(status: u16, body: Value) -> Self {
        Self { status, headers: Vec::new(), body: Some(body) }
    }

    /// The same under another status.
    pub(super) fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Adds a header.
    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Adds warnings to the envelope.
    pub(super) fn warn(mut self, warnings: &[String]) -> Self {
        if warnings.is_empty() {
            return self;
        }
        if self.body.is_none() {
            self = Self { status: 200, headers: self.headers, ..Self::data(Value::Null) };
        }
        if let Some(Value::Object(body)) = &mut self.body {
            body.insert("warnings".to_owned(), json!(warnings));
        }
        self
    }

    /// The `data` of the envelope.
    pub(super) fn into_data(self) -> Value {
        match self.body {
            Some(Value::Object(mut body)) => body.remove("data").unwrap_or(Value::Null),
            _ => Value::Null,
        }
    }

    fn envelope(data: Value, auth: Value) -> Self {
        let body = json!({
            "request_id": random::uuid(),
            "lease_id": "",
            "renewable": false,
            "lease_duration": 0,
            "data": data,
            "wrap_info": null,
            "warnings": null,
            "auth": auth,
        });
        Self::bare(200, body)
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Self::bare(refusal.status, json!({ "errors": refusal.errors }))
    }
}

impl Refusal {
    pub(super) fn new(status: u16, error: impl Into<String>) -> Self {
        Self { status, errors: vec![error.into()] }
    }

    /// `400`.
    pub(super) fn invalid(error: impl Into<String>) -> Self {
        Self::new(400, error)
    }

    /// `403`, in the words in which Vault wraps errors of its own core.
    pub(super) fn denied() -> Self {
        Self::new(403, "1 error occurred:\n\t* permission denied\n\n")
    }

    /// `404` without any error: nothing is there.
    pub(super) fn absent() -> Self {
        Self { status: 404, errors: Vec::new() }
    }

    /// `404` for a path that nothing is mounted at.
    pub(super) fn no_route(path: &str) -> Self {
        Self::new(404, format!("no handler for route {path:?}. route entry not found."))
    }

    /// `404` for a path that an engine does not know.
    pub(super) fn unsupported_path() -> Self {
        Self::new(404, "1 error occurred:\n\t* unsupported path\n\n")
    }

    /// `405`.
    pub(super) fn unsupported_operation() -> Self {
        Self::new(405, "1 error occurred:\n\t* unsupported operation\n\n")
    }

    /// `503`.
    pub(super) fn sealed() -> Self {
        Self::new(503, "Vault is sealed")
    }
}
