//! What came of it: a table for people, one JSON object for programs.

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::Duration;

use certlib_core::client::DistributionStatus;
use certlib_core::model::{TargetRun, TargetStatus};
use serde::Serialize;

use super::world::{Serves, Trouble, Witness};

/// The longest explanation in the table, in characters.
const WHY: usize = 120;

/// How every host fared.
pub(super) struct Report {
    pub(super) elapsed: Duration,
    rows: Vec<Row>,
}

struct Row {
    host: String,
    trouble: Option<Trouble>,
    status: Status,
    serves: Serves,
    why: String,
}

/// The report for programs.
#[derive(Serialize)]
struct Summary {
    issued: usize,
    targets: usize,
    validated: usize,
    rolled_back: usize,
    failed: usize,
    served_fingerprint_matches: bool,
    elapsed_ms: u128,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Validated,
    RolledBack,
    Failed,
}

impl Status {
    fn of(status: TargetStatus) -> Self {
        match status {
            TargetStatus::Validated => Self::Validated,
            TargetStatus::RolledBack => Self::RolledBack,
            // Every host can be verified and had its turn: nothing else is left.
            _ => Self::Failed,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Validated => "validated",
            Self::RolledBack => "rolled back",
            Self::Failed => "failed",
        }
    }
}

impl Row {
    fn new(witness: &Witness, target: Option<&TargetRun>) -> Self {
        let why = match target {
            None => "it had no turn".to_owned(),
            Some(TargetRun { error: Some(error), .. }) => error.message.clone(),
            Some(_) => "a TLS handshake shows the new certificate".to_owned(),
        };
        Self {
            host: witness.name.clone(),
            trouble: witness.trouble,
            status: target.map_or(Status::Failed, |target| Status::of(target.status)),
            serves: witness.serves,
            why: shorten(&why),
        }
    }

    /// Whether the host serves what its status promises.
    fn matches(&self) -> bool {
        match self.status {
            Status::Validated => self.serves == Serves::New,
            Status::RolledBack | Status::Failed => self.serves == Serves::Former,
        }
    }
}

impl Report {
    pub(super) fn new(status: &DistributionStatus, witnesses: &[Witness]) -> Self {
        let targets: HashMap<_, _> = status.targets.iter().map(|target| (&*target.target_name, target)).collect();
        let row = |witness: &Witness| Row::new(witness, targets.get(&*witness.name).copied());
        Self { elapsed: Duration::ZERO, rows: witnesses.iter().map(row).collect() }
    }

    /// Whether every host serves the new or its former certificate.
    pub(super) fn is_safe(&self) -> bool {
        self.rows.iter().all(|row| row.serves != Serves::Neither)
    }

    fn count(&self, status: Status) -> usize {
        self.rows.iter().filter(|row| row.status == status).count()
    }

    fn matches(&self) -> bool {
        self.rows.iter().all(Row::matches)
    }

    /// One object on one line.
    pub(super) fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        let summary = Summary {
            issued: 1,
            targets: self.rows.len(),
            validated: self.count(Status::Validated),
            rolled_back: self.count(Status::RolledBack),
            failed: self.count(Status::Failed),
            served_fingerprint_matches: self.matches(),
            elapsed_ms: self.elapsed.as_millis(),
        };
        writeln!(out, "{}", serde_json::to_string(&summary)?)
    }

    /// One line for each host, and a summary.
    pub(super) fn write_table(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{:<10} {:<20} {:<12} {:<7} WHY", "HOST", "TROUBLE", "STATUS", "SERVES")?;
        for Row { host, trouble, status, serves, why } in &self.rows {
            let trouble = trouble.map(|trouble| trouble.to_string()).unwrap_or_default();
            let serves = match serves {
                Serves::New => "new",
                Serves::Former => "former",
                Serves::Neither => "NEITHER",
            };
            writeln!(out, "{host:<10} {trouble:<20} {:<12} {serves:<7} {why}", status.name())?;
        }
        writeln!(
            out,
            "\n1 certificate issued; {} hosts: {} validated, {} rolled back, {} failed; {:.1} s.",
            self.rows.len(),
            self.count(Status::Validated),
            self.count(Status::RolledBack),
            self.count(Status::Failed),
            self.elapsed.as_secs_f64(),
        )?;
        let verdict = match (self.matches(), self.is_safe()) {
            (true, _) => "Every host serves exactly what it should: the new certificate, or its former one.",
            (false, true) => "Every host serves the new or its former certificate, but some not the expected one.",
            (false, false) => "Some hosts serve neither the new nor their former certificate.",
        };
        writeln!(out, "{verdict}")
    }
}

/// One line of bearable length.
fn shorten(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match line.char_indices().nth(WHY) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
