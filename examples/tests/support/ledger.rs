//! What the nodes of the cluster test write, and its test reads.

#![allow(dead_code)]

use std::time::Duration;

use certlib_core::store::{Index, Record};
use serde::{Deserialize, Serialize};

/// How long the leader's lease lasts.
pub(crate) const TTL: Duration = Duration::from_secs(1);

/// The type of the jobs.
pub(crate) const KIND: &str = "keep_books";

/// A settled job, under the claim that settled it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) id: String,
    pub(crate) job: String,
}

impl Record for Entry {
    const KIND: &'static str = "ledger_entry";
    const FIELDS: &'static [&'static str] = &["job"];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new().field("job", &*self.job)
    }
}

/// The one record that every leader overwrites: its revisions are the order of all leaders' writes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Tail {
    pub(crate) epoch: u64,
}

impl Record for Tail {
    const KIND: &'static str = "ledger_tail";
    const FIELDS: &'static [&'static str] = &[];

    fn id(&self) -> &str {
        "tail"
    }

    fn index(&self) -> Index {
        Index::new()
    }
}
