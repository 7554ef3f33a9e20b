//! Several changes at once: all of them are made, or none.

use certlib_core::error::{Effect, Error, ErrorClass, Result, codes};
use reqwest::Method;
use serde_json::{Value, json};

use super::OPERATION;
use super::session::{Call, Session, accepted, f5_code, refused, with_code};
use crate::net::Answer;

/// One change.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) method: Method,
    /// After `/mgmt/`.
    pub(super) path: Vec<String>,
    pub(super) body: Value,
}

/// How a commit ended.
#[derive(Debug)]
pub(super) enum Committed {
    /// All changes are made.
    Yes,
    /// None is.
    No(Error),
    /// Nobody said; look.
    Unknown(Error),
}

/// What the unit says about a transaction.
enum State {
    Completed,
    Failed,
    /// Not asked to be committed yet.
    Started,
    /// At it.
    Working,
    Gone,
}

impl Session<'_> {
    /// Makes all changes, or none.
    ///
    /// Not cancel-safe: whoever drops it does not know. A transaction that was not committed ends by itself after two
    /// minutes.
    pub(super) async fn commit(&self, commands: &[Command]) -> Committed {
        let id = match self.begin(commands).await {
            Ok(id) => id,
            Err(error) => return Committed::No(error.with_effect(Effect::None)),
        };
        let path = ["tm", "transaction", &id];
        let body = json!({ "state": "VALIDATING" });
        match self.send(&Call::new(Method::PATCH, &path).json(&body).once()).await {
            Ok(answer) if answer.is_success() => match state(&answer) {
                State::Completed => Committed::Yes,
                State::Failed => Committed::No(failed(&answer)),
                _ => self.await_end(&id, unknown(refused(&answer))).await,
            },
            Ok(answer) if answer.refused().effect() == Effect::None => Committed::No(failed(&answer)),
            Ok(answer) => self.await_end(&id, refused(&answer)).await,
            Err(error) if error.effect() == Effect::None => {
                self.abandon(&id).await;
                Committed::No(error)
            }
            Err(error) => self.await_end(&id, error).await,
        }
    }

    /// A transaction with all commands in it. What fails here changes nothing.
    async fn begin(&self, commands: &[Command]) -> Result<String> {
        let begin = json!({});
        let call = Call::new(Method::POST, &["tm", "transaction"]).json(&begin);
        let begun = self.send(&call).await.and_then(|answer| accepted(&answer))?;
        let id = match &begun["transId"] {
            Value::Number(number) => number.to_string(),
            Value::String(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.clone(),
            _ => {
                let why = "the unit does not say which transaction it began";
                return Err(Error::transient(OPERATION, "answer_invalid", why));
            }
        };
        match self.fill(&id, commands).await {
            Ok(()) => Ok(id),
            Err(error) => {
                self.abandon(&id).await;
                Err(error)
            }
        }
    }

    /// Adds the commands, and checks that they are all there, each once: an answer can be lost, or be somebody else's.
    async fn fill(&self, id: &str, commands: &[Command]) -> Result<()> {
        for Command { method, path, body } in commands {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            let call = Call::new(method.clone(), &path).header("x-f5-rest-coordination-id", id).json(body);
            self.send(&call).await.and_then(|answer| accepted(&answer))?;
        }
        let listed: Option<Value> = self.read(&["tm", "transaction", id, "commands"], &[]).await?;
        let kept = listed.as_ref().and_then(|listed| listed["items"].as_array()).map_or(0, Vec::len);
        if kept == commands.len() {
            return Ok(());
        }
        let why = "the transaction does not hold what was put into it, so it is abandoned";
        let error = Error::transient(OPERATION, "transaction_incomplete", why);
        Err(error.with("commands", commands.len()).with("kept", kept))
    }

    /// Best effort: it would end by itself.
    async fn abandon(&self, id: &str) -> bool {
        let answer = self.send(&Call::new(Method::DELETE, &["tm", "transaction", id]).once()).await;
        answer.is_ok_and(|answer| answer.is_success())
    }

    /// Waits until the unit says how a commit ended whose answer was `lost`.
    async fn await_end(&self, id: &str, lost: Error) -> Committed {
        let path = ["tm", "transaction", id];
        for tried in 1..=self.config.tries {
            self.pause(tried).await;
            let Ok(answer) = self.send(&Call::new(Method::GET, &path).once()).await else { continue };
            match state(&answer) {
                State::Completed => return Committed::Yes,
                State::Failed => return Committed::No(failed(&answer)),
                State::Gone => break,
                // The request to commit it was lost. Once it is gone, it cannot be committed any more.
                State::Started if self.abandon(id).await => return Committed::No(lost.with_effect(Effect::None)),
                State::Started | State::Working => {}
            }
        }
        Committed::Unknown(lost.with_effect(Effect::Possible))
    }
}

fn state(answer: &Answer) -> State {
    if answer.status() == 404 {
        return State::Gone;
    }
    let body: Value = answer.json().unwrap_or_default();
    match body["state"].as_str() {
        Some("COMPLETED") => State::Completed,
        Some("FAILED") => State::Failed,
        Some("STARTED") => State::Started,
        _ => State::Working,
    }
}

/// The unit looked and declined.
fn failed(answer: &Answer) -> Error {
    let declined = |class, code: &'static str, why: &str| answer.error(class, code, why);
    let error = match f5_code(answer).as_deref() {
        Some("01070317:3") => declined(
            ErrorClass::Validation,
            codes::KEY_MISMATCH,
            "the unit finds that key and certificate do not match",
        ),
        Some(_) => declined(ErrorClass::Validation, "transaction_failed", "the unit declines the changes, all of them"),
        None if answer.is_success() => {
            declined(ErrorClass::Validation, "transaction_failed", "the unit could not make the changes, none of them")
        }
        None => answer.refused(),
    };
    with_code(error, answer).with_effect(Effect::None)
}

fn unknown(error: Error) -> Error {
    let why = "the unit did not say in time whether the changes are made";
    Error::new(ErrorClass::IoTransient, error.operation(), "transaction_pending", why)
}
