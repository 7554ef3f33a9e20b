//! A complete certificate service around certlib: HTTP API, bearer tokens, any of the databases, metrics, rotation of
//! the key-encryption key, graceful stop.
//!
//! ```text
//! cargo run --example server -- --help
//! ```
//!
//! It is a reference, not a product: read it to see how little there is between HTTP and
//! [`Client`](certlib_core::Client).
//!
//! - `cli/`, `config.rs`, `secrets.rs`, `kek/`, `database.rs`, `hygiene.rs`, `telemetry.rs`: how it is started.
//! - `app.rs`: how certlib is put together. Begin here.
//! - `auth.rs`, `admission.rs`: who may do what.
//! - `extract.rs`, `problem.rs`: what goes in and how errors come out.
//! - `api/`: one file per resource.
//!
//! Know before exposing it:
//!
//! - It speaks plain HTTP: put a proxy that speaks TLS in front. `/healthz`, `/readyz`, `/metrics`, the API's
//!   description and ACME challenges need no token.
//! - Targets and issuers act from this machine. `file` targets write to its disk: off unless `enable_file_module` and
//!   `file_module_root` are set, and without commands unless `file_module_commands` is. Targets of other
//!   modules go to public addresses only, unless `targets_allow_internal` is set, and none lends the identity that this
//!   machine has at a cluster or a Vault. `ssh` targets and ACME issuers go to whatever host they name, so an operator
//!   token is for people who may reach what this machine can reach.
//!
//! The settings, with their defaults, are in `server.toml`.

mod admission;
mod api;
mod app;
mod auth;
mod cli;
mod config;
mod database;
mod extract;
mod hygiene;
mod kek;
mod problem;
mod secrets;
mod telemetry;

use std::process::ExitCode;

use clap::Parser as _;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    ExitCode::from(cli::run(cli, std::env::vars().collect(), &mut std::io::stdout()).await)
}
