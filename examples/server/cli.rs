//! The command line.

use std::io::{self, Write};
use std::path::PathBuf;

use certlib_core::secret::SecretString;
use certlib_core::{Client, Error, Result, Secret};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::app::{self, Composed, Server};
use crate::auth::{self, ALL_PROJECTS, TokenRole};
use crate::config::Config;
use crate::{kek, telemetry};

/// The reference server of certlib.
///
/// Settings come from a TOML file and from environment variables named CERTLIB_ and the setting in upper case.
/// CERTLIB_KEK holds the key-encryption key as 64 hex digits; without it a key file is used, and made at first start.
///
/// Exit codes: 0 done, 1 failed, 2 wrong command line or configuration.
#[derive(Debug, Parser)]
#[command(name = "server", version)]
pub(crate) struct Cli {
    /// The configuration file.
    #[arg(long, env = "CERTLIB_CONFIG", global = true)]
    config: Option<PathBuf>,
    /// Checks the configuration and the key, and exits.
    #[arg(long)]
    check_config: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Manages API tokens. Works while the server runs.
    #[command(subcommand)]
    Token(TokenCommand),
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Makes a token and prints it, once.
    Create {
        /// The project it opens; `*` for all.
        #[arg(long)]
        project: String,
        /// What it allows.
        #[arg(long, value_enum, default_value_t = TokenRole::Operator)]
        role: TokenRole,
    },
    /// Withdraws a token, at once.
    Revoke {
        /// The token's id: its part between the underscores.
        #[arg(long)]
        id: String,
    },
}

/// Does what the command line asks for and returns the exit code. `environment` is the process's own; results go to `out`.
pub(crate) async fn run(cli: Cli, environment: Vec<(String, String)>, out: &mut (dyn Write + Send)) -> u8 {
    let kek = environment
        .iter()
        .find(|(name, value)| name == "CERTLIB_KEK" && !value.is_empty())
        .map(|(_, value)| Secret::new(value.clone()));
    let config = match Config::load(cli.config.as_deref(), environment) {
        Ok(config) => config,
        Err(error) => return fail(&error, 2),
    };
    if cli.check_config {
        return match kek::check(&config, kek).and_then(|()| print(out, "the configuration is fine")) {
            Ok(()) => 0,
            Err(error) => fail(&error, 2),
        };
    }
    let done = match cli.command {
        Some(Command::Token(command)) => token(&config, kek, command, out).await,
        None => serve(config, kek).await,
    };
    match done {
        Ok(()) => 0,
        Err(error) => fail(&error, 1),
    }
}

async fn serve(config: Config, kek: Option<SecretString>) -> Result<()> {
    telemetry::install_logger(&config)?;
    // Before anything else, so that no signal ends the process in the middle of its start.
    let signals = StopSignals::catch()?;
    let mut server = Server::start(config, kek).await?;
    let address = server.address()?;
    if let Some(token) = server.take_first_token() {
        // Not a log line: logs are kept and shipped.
        let mut stderr = io::stderr().lock();
        let _ = writeln!(stderr, "the first admin token, shown this once: {}", token.expose());
    }
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "plain HTTP beyond this host: put a proxy in front that speaks TLS");
    }
    if let Some(address) = server.http01_address() {
        tracing::info!(%address, "answering HTTP-01 challenges");
    }
    tracing::info!(%address, "listening");
    tokio::spawn(signals.cancel(server.stop()));
    server.run().await?;
    tracing::info!("stopped");
    Ok(())
}

/// The signals that ask a process to stop.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn catch() -> Result<Self> {
        let failed = |error: io::Error| Error::permanent("server.signals", "io_failed", error.to_string());
        let terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        Ok(Self { terminate, interrupt })
    }

    async fn cancel(mut self, stop: CancellationToken) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        // First stop, then tell: whoever reads the log may be gone already.
        stop.cancel();
        tracing::info!("asked to stop");
    }
}

async fn token(
    config: &Config,
    kek: Option<SecretString>,
    command: TokenCommand,
    out: &mut (dyn Write + Send),
) -> Result<()> {
    let Composed { runtime, store } = app::compose(config, kek).await?;
    let client = runtime.client();
    let done = match command {
        TokenCommand::Create { project, role } => {
            create_token(&client, &project, role).await.and_then(|token| print(out, token.expose()))
        }
        TokenCommand::Revoke { id } => {
            auth::revoke_token(&**client.store(), &id).await.and_then(|()| print(out, "revoked"))
        }
    };
    store.close().await;
    done
}

async fn create_token(client: &Client, project: &str, role: TokenRole) -> Result<SecretString> {
    if project != ALL_PROJECTS {
        // A typo must not make a token that opens nothing.
        client.project(project).await?;
    }
    let (_, token) = auth::create_token(&**client.store(), project, role, client.clock().now()).await?;
    Ok(token)
}

fn print(out: &mut (dyn Write + Send), line: &str) -> Result<()> {
    writeln!(out, "{line}")
        .map_err(|error| Error::permanent("server.print", "io_failed", error.to_string()).with_source(error))
}

fn fail(error: &Error, code: u8) -> u8 {
    let _ = writeln!(io::stderr(), "error: {}", error.to_string().escape_debug());
    code
}
