//! Leadership: who leads, until when, and what is left when it ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;
#[path = "leader/faults.rs"]
mod faults;
#[path = "leader/handover.rs"]
mod handover;
#[path = "leader/lost_answers.rs"]
mod lost_answers;
#[path = "leader/regression.rs"]
mod regression;
#[path = "leader/stepdown.rs"]
mod stepdown;
#[path = "leader/watchdog.rs"]
mod watchdog;
