//! The reference server, driven over HTTP from the outside.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../server/admission.rs"]
mod admission;
#[path = "../server/api/mod.rs"]
mod api;
#[path = "../server/app.rs"]
mod app;
#[path = "../server/auth.rs"]
mod auth;
#[path = "../server/cli/mod.rs"]
mod cli;
#[path = "../server/config.rs"]
mod config;
#[path = "../server/database.rs"]
mod database;
#[path = "../server/extract.rs"]
mod extract;
#[path = "../server/hygiene.rs"]
mod hygiene;
#[path = "../server/kek/mod.rs"]
mod kek;
#[path = "../server/problem.rs"]
mod problem;
#[path = "../server/secrets.rs"]
mod secrets;
#[path = "../server/telemetry.rs"]
mod telemetry;

#[path = "server/approvals.rs"]
mod approvals;
#[path = "server/backups.rs"]
mod backups;
#[path = "server/bodies.rs"]
mod bodies;
#[path = "server/child.rs"]
mod child;
#[path = "server/downloads.rs"]
mod downloads;
#[path = "server/flow.rs"]
mod flow;
#[path = "server/keys.rs"]
mod keys;
#[path = "server/openapi.rs"]
mod openapi;
#[path = "server/operations.rs"]
mod operations;
#[path = "server/places.rs"]
mod places;
#[path = "server/process.rs"]
mod process;
#[path = "server/support.rs"]
mod support;
#[path = "server/tenancy.rs"]
mod tenancy;
