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
#[path = "../server/cli.rs"]
mod cli;
#[path = "../server/config.rs"]
mod config;
#[path = "../server/extract.rs"]
mod extract;
#[path = "../server/kek.rs"]
mod kek;
#[path = "../server/problem.rs"]
mod problem;
#[path = "../server/telemetry.rs"]
mod telemetry;

#[path = "server/bodies.rs"]
mod bodies;
#[path = "server/flow.rs"]
mod flow;
#[path = "server/openapi.rs"]
mod openapi;
#[path = "server/operations.rs"]
mod operations;
#[path = "server/process.rs"]
mod process;
#[path = "server/support.rs"]
mod support;
#[path = "server/tenancy.rs"]
mod tenancy;
