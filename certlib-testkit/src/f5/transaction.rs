//! `tm/transaction`: commands that are kept until all of them are carried out, or none.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use super::{
    answer::{Outcome, Refusal, link},
    call::Call,
    config::Config,
};

/// How long a transaction that nothing is added to lives.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Where a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Started,
    Completed,
    Failed,
}

/// One transaction.
#[derive(Clone, Debug)]
pub(super) struct Transaction {
    pub(super) stage: Stage,
    pub(super) commands: Vec<Call>,
    pub(super) reason: String,
    ends: Duration,
}

/// All transactions, by number.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    last: u64,
    pub(super) known: BTreeMap<u64, Transaction>,
}

impl Transactions {
    /// Forgets those that have lived too long without being committed.
    pub(super) fn expire(&mut self, now: Duration) {
        self.known.retain(|_, transaction| transaction.stage != Stage::Started || transaction.ends > now);
    }

    /// How many wait for their commit.
    pub(super) fn open(&self) -> usize {
        self.known.values().filter(|transaction| transaction.stage == Stage::Started).count()
    }

    /// `POST tm/transaction`.
    pub(super) fn begin(&mut self, now: Duration) -> Value {
        // As long as the real ones, which are made of the time.
        self.last = self.last.max(1_733_412_345_678_900) + 1;
        let transaction =
            Transaction { stage: Stage::Started, commands: Vec::new(), reason: String::new(), ends: now + TIMEOUT };
        let shown = show(self.last, &transaction, false);
        self.known.insert(self.last, transaction);
        shown
    }

    /// Adds a command to the transaction that its header names.
    pub(super) fn add(&mut self, id: &str, call: &Call, now: Duration) -> Outcome {
        if call.method == "GET" {
            return Err(Refusal::invalid("a GET request cannot be part of a transaction"));
        }
        if !Config::knows(call) {
            return Err(Refusal::invalid("this request cannot be part of a transaction"));
        }
        let (id, transaction) = self.started(id)?;
        transaction.ends = now + TIMEOUT;
        let body = Value::Object(call.object()?);
        let number = transaction.commands.len() + 1;
        transaction.commands.push(call.clone());
        Ok(show_command(id, number, call, body))
    }

    /// `GET tm/transaction/{id}/commands`.
    pub(super) fn commands(&self, id: &str) -> Outcome {
        let (number, transaction) = self.find(id)?;
        let items = transaction.commands.iter().enumerate().map(|(at, call)| {
            let body = call.object().map(Value::Object).unwrap_or_default();
            show_command(number, at + 1, call, body)
        });
        Ok(json!({
            "kind": "tm:transaction:commandscollectionstate",
            "selfLink": link(&format!("tm/transaction/{number}/commands")),
            "items": items.collect::<Vec<_>>(),
        }))
    }

    /// `GET tm/transaction/{id}`.
    pub(super) fn look(&self, id: &str) -> Outcome {
        self.find(id).map(|(id, transaction)| show(id, transaction, false))
    }

    /// `DELETE tm/transaction/{id}`.
    pub(super) fn abandon(&mut self, id: &str) -> Outcome {
        let (id, _) = self.find(id)?;
        self.known.remove(&id);
        Ok(Value::Null)
    }

    /// The transaction that is to be committed, and whether that is only a rehearsal.
    pub(super) fn committing(&mut self, id: &str, call: &Call) -> Result<(u64, bool), Refusal> {
        let body = call.object()?;
        if call.coordination.is_some() {
            return Err(Refusal::invalid("a transaction cannot be committed as a part of itself"));
        }
        if body.get("state").and_then(Value::as_str) != Some("VALIDATING") {
            return Err(Refusal::invalid("the only state to ask for is VALIDATING"));
        }
        let (id, _) = self.started(id)?;
        Ok((id, body.get("validateOnly").and_then(Value::as_bool).unwrap_or(false)))
    }

    /// The answer once it is decided.
    pub(super) fn decided(&mut self, id: u64, rehearsal: bool, outcome: Result<(), Refusal>) -> Outcome {
        let Some(transaction) = self.known.get_mut(&id) else { return Err(absent(&id.to_string())) };
        match outcome {
            // A rehearsal leaves it open.
            Ok(()) if rehearsal => Ok(show(id, transaction, true)),
            Ok(()) => {
                transaction.stage = Stage::Completed;
                Ok(show(id, transaction, false))
            }
            Err(refusal) => {
                transaction.stage = Stage::Failed;
                transaction.reason = refusal.message;
                Err(Refusal::new(400, format!("transaction failed:{}", transaction.reason)))
            }
        }
    }

    fn find(&self, id: &str) -> Result<(u64, &Transaction), Refusal> {
        let number: Option<u64> = id.parse().ok();
        let found = number.and_then(|number| self.known.get(&number).map(|transaction| (number, transaction)));
        found.ok_or_else(|| absent(id))
    }

    fn started(&mut self, id: &str) -> Result<(u64, &mut Transaction), Refusal> {
        let number: Option<u64> = id.parse().ok();
        let found = number.and_then(|number| self.known.get_mut(&number).map(|transaction| (number, transaction)));
        let (number, transaction) = found.ok_or_else(|| absent(id))?;
        if transaction.stage != Stage::Started {
            return Err(Refusal::invalid(format!("transaction {number} has ended already")));
        }
        Ok((number, transaction))
    }
}

fn absent(id: &str) -> Refusal {
    Refusal::new(404, format!("01020036:3: The requested transaction ({id}) was not found."))
}

fn show(id: u64, transaction: &Transaction, validate_only: bool) -> Value {
    let state = match transaction.stage {
        Stage::Started => "STARTED",
        Stage::Completed => "COMPLETED",
        Stage::Failed => "FAILED",
    };
    json!({
        "transId": id,
        "state": state,
        "timeoutSeconds": TIMEOUT.as_secs(),
        "asyncExecution": false,
        "validateOnly": validate_only,
        "executionTimeout": 300,
        "executionTime": 0,
        "failureReason": transaction.reason,
        "kind": "tm:transactionstate",
        "selfLink": link(&format!("tm/transaction/{id}")),
    })
}

fn show_command(id: u64, number: usize, call: &Call, body: Value) -> Value {
    json!({
        "method": call.method,
        "uri": format!("https://localhost/mgmt/{}", call.path),
        "body": body,
        "evalOrder": number,
        "commandId": number,
        "kind": "tm:transaction:commandsstate",
        "selfLink": link(&format!("tm/transaction/{id}/commands/{number}")),
    })
}
