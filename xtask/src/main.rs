//! The repository's own commands: `cargo xtask setup`, `cargo xtask test`, `cargo xtask check-core-deps`.
#![allow(clippy::print_stdout)]

mod core_deps;
mod counterparts;
mod matrix;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::counterparts::Selection;

/// The repository's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Finds or installs every program that the tests run against
    Setup {
        /// Leave this counterpart out (may be given several times)
        #[arg(long, value_name = "NAME")]
        without: Vec<String>,
    },
    /// Runs `setup`, then every test of the workspace, documentation included
    Test {
        /// Leave this counterpart out (may be given several times); its tests return early and say so
        #[arg(long, value_name = "NAME")]
        without: Vec<String>,
        /// Only list the counterparts, with the variable that points to each program
        #[arg(long)]
        list_counterparts: bool,
        /// Arguments for `cargo test`
        #[arg(last = true, value_name = "ARGS")]
        arguments: Vec<String>,
    },
    /// Writes the support matrix of the modules into the README, from what the last complete `test` has shown
    Matrix,
    /// Checks that certlib-core pulls in no TLS, HTTP or database crate, and that nothing pulls in ring
    CheckCoreDeps,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Task::Setup { without } => setup(without).await,
        Task::Test { list_counterparts: true, .. } => {
            counterparts::list();
            Ok(ExitCode::SUCCESS)
        }
        Task::Test { without, arguments, .. } => test(without, &arguments).await,
        Task::Matrix => matrix::write(),
        Task::CheckCoreDeps => core_deps::check(),
    };
    outcome.unwrap_or_else(|message| {
        eprintln!("error: {message}");
        ExitCode::FAILURE
    })
}

async fn setup(without: Vec<String>) -> Result<ExitCode, String> {
    let selection = Selection::new(without)?;
    selection.set_up().await?;
    selection.report_left_out();
    Ok(ExitCode::SUCCESS)
}

async fn test(without: Vec<String>, arguments: &[String]) -> Result<ExitCode, String> {
    let selection = Selection::new(without)?;
    selection.set_up().await?;
    let complete = arguments.is_empty() && selection.is_complete();
    if complete {
        matrix::forget()?;
    }
    let code = test::run(&selection, arguments)?;
    selection.report_left_out();
    if complete && code == ExitCode::SUCCESS {
        matrix::check()?;
    }
    Ok(code)
}
