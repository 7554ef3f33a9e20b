//! Backup and restore of what a store holds, in one file that no database is needed to read.
//!
//! The file is JSON Lines in UTF-8, in this order:
//!
//! | Line | What |
//! |---|---|
//! | first | `{"format":"certlib-backup","version":1,"certlib":...,"id":...,"taken_at":...,"leader_epoch":...}` |
//! | one for each record | `{"kind":...,"id":...,"revision":...,"body":{...}}` |
//! | last | `{"records":...,"kinds":{...},"keks":[{"id":...,"version":...,"provider":...,"envelopes":...}],"foreign":...,"sha256":...}` |
//!
//! Each line ends with one newline and has at most [`LINE_MAX`] bytes; members stand in the order shown, without spaces
//! between them; a body is as the store holds it. All records of a kind follow each other, by the bytes of their ids,
//! and no record is there twice. `keks` are the key-encryption keys without which the file is worth nothing, `foreign`
//! counts secrets that an envelope of another make sealed. `sha256` covers everything before its own name, so a cut or
//! changed file is noticed. It keeps nobody from writing another file: whoever can replace a backup can replace what it
//! says, except for the secrets in it.
//!
//! Secrets stay sealed: what takes and checks a backup sees none of them, and the keys are never in it.
//!
//! # What is in it
//! All records of all [kinds](crate::store::RecordKinds) that the runtime knows, except the
//! [fences](crate::model::KekFence) of keys, which follow from the state of the keyring. Jobs, job logs, leases and nodes
//! are not: they are about work in progress. After a restore the sweeps find again what is due.
//!
//! # What it is a picture of
//! Each record is as it was at some moment while the backup was taken; there is no one moment for all. So records are
//! read in an order that makes every reference lead somewhere: what refers before what it refers to. Versions and undo
//! records that came to be in between, and that their certificate or target does not count yet, are left out: to the
//! restored store it is as if they came after the backup. An order that ended in between is asked for its answer once
//! more by the next renewal, which the CA answers alike. Where one moment for everything is needed, the database's own
//! snapshot gives it, and [`Client::check_store`](crate::Client::check_store) says whether the keys fit it.

mod check;
mod file;
mod format;
mod read;
mod report;
mod restore;
mod write;

pub use self::check::check_backup;
pub(crate) use self::check::check_store;
pub(crate) use self::file::PartFile;
pub use self::format::{BackupEnd, BackupHeader, DEPTH_MAX, FORMAT, KekUse, LINE_MAX, VERSION};
pub use self::report::{Failure, KekReport, KeyReport};
pub use self::restore::{RestoreOptions, RestoreReport, Waiting};
pub(crate) use self::restore::{check_finished, restore};
pub(crate) use self::write::write;

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// How many records were dealt with in this stage.
    pub records: u64,
    /// How many bytes of the file were; 0 where there is no file.
    pub bytes: u64,
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Records are written to a file.
    Backup,
    /// A file, or a store, is checked.
    Check,
    /// Records are written to a store.
    Restore,
    /// What a store holds is counted.
    Count,
}

/// What is told how far it has come, now and then.
pub type OnProgress<'a> = &'a mut (dyn FnMut(Progress) + Send);

/// How many records a page has: few enough that a page of large ones fits into memory.
const PAGE: usize = 200;
