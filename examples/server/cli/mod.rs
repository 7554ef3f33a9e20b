//! The command line: one file per group of commands.

mod approval;
mod backup;
mod confirm;
mod download;
mod kek;
mod progress;
mod restore;
mod rotation;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use certlib_core::secret::SecretString;
use certlib_core::{Client, Error, Result};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::app::{self, Composed, Server};
use crate::auth::{self, ALL_PROJECTS, TokenRole};
use crate::config::Config;
use crate::database::Location;
use crate::kek::Sources;
use crate::secrets::Secrets;
use crate::{hygiene, telemetry};

/// The code of a command line that lacks a confirmation.
const CONFIRMATION_NEEDED: &str = "confirmation_needed";

/// The exit code of a command that was interrupted: 128 and the number of SIGINT.
const INTERRUPTED: u8 = 130;

/// The reference server of certlib.
///
/// Without a command it serves. Settings come from a TOML file and from environment variables named CERTLIB_ and the
/// setting in upper case. Give commands the same configuration and environment as the server.
///
/// Keys: CERTLIB_KEK holds version 1 of the key-encryption key as 64 hex digits, CERTLIB_KEK_V2 version 2, and so on;
/// a key file holds one line for each, `v<n> <64 hex digits>`. Both count. If there is neither, a server with a new
/// SQLite database makes a key file. Keys in an HSM or in Vault are set up in the configuration file, [kek.pkcs11] and
/// [kek.vault_transit]; CERTLIB_PKCS11_PIN, CERTLIB_VAULT_TOKEN and CERTLIB_VAULT_SECRET_ID open the way to them.
///
/// Database: a SQLite file, the setting `database`, or CERTLIB_DATABASE_URL for a URL with a password.
///
/// Exit codes: 0 done, 1 failed or refused, 2 wrong command line or configuration, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "server", version)]
pub(crate) struct Cli {
    /// The configuration file.
    #[arg(long, env = "CERTLIB_CONFIG", global = true)]
    config: Option<PathBuf>,
    /// Checks the configuration and the keys, and exits.
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
    /// Shows what waits for approval, and decides. Works while servers run.
    #[command(subcommand)]
    Approval(approval::ApprovalCommand),
    /// Promises files to whoever is given a token. Works while servers run.
    #[command(subcommand)]
    Download(download::DownloadCommand),
    /// Manages the key-encryption keys. Works while servers run.
    #[command(subcommand)]
    Kek(kek::KekCommand),
    /// Writes a backup, and keeps account of backups. Works while servers run.
    Backup(backup::BackupCommand),
    /// Restores a backup into an empty database, or checks that it could be.
    Restore(restore::RestoreCommand),
    /// Lets servers lead again that refuse to because the database was set back to an earlier state.
    RaiseLeaderEpoch {
        /// The epoch that they have seen, as they log it.
        #[arg(long, value_name = "EPOCH")]
        floor: u64,
    },
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
    if let Err(error) = hygiene::forbid_core_dumps() {
        let _ = writeln!(io::stderr(), "warning: core dumps stay possible: {error}");
    }
    let secrets = Secrets::of(&environment);
    let config = match Config::load(cli.config.as_deref(), environment) {
        Ok(config) => config,
        Err(error) => return fail(&error, 2),
    };
    if cli.check_config {
        return match check(&config, secrets).and_then(|()| print(out, "the configuration is fine")) {
            Ok(()) => 0,
            Err(error) => fail(&error, 2),
        };
    }
    let done = match cli.command {
        Some(Command::Token(command)) => token(&config, secrets, command, out).await.map(|()| 0),
        Some(Command::Approval(command)) => approval::run(&config, secrets, command, out).await.map(|()| 0),
        Some(Command::Download(command)) => download::run(&config, secrets, command, out).await.map(|()| 0),
        Some(Command::Kek(command)) => kek::run(&config, secrets, command, out).await,
        Some(Command::Backup(command)) => backup::run(&config, secrets, command, out).await.map(|()| 0),
        Some(Command::Restore(command)) => restore::run(&config, secrets, command, out).await,
        Some(Command::RaiseLeaderEpoch { floor }) => raise_leader_epoch(&config, secrets, floor).await.map(|()| 0),
        None => serve(config, secrets).await.map(|()| 0),
    };
    match done {
        Ok(code) => code,
        Err(error) if error.code() == CONFIRMATION_NEEDED => fail(&error, 2),
        Err(error) => fail(&error, 1),
    }
}

fn check(config: &Config, secrets: Secrets) -> Result<()> {
    Location::of(config, secrets.database_url)?;
    Sources::new(config, secrets.kek).check()
}

async fn serve(config: Config, secrets: Secrets) -> Result<()> {
    telemetry::install_logger(&config)?;
    // Before the first key is read.
    hygiene::lock_memory().log();
    // Before anything else, so that no signal ends the process in the middle of its start.
    let signals = Signals::catch()?;
    let mut server = Server::start(config, secrets).await?;
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
    tokio::spawn(signals.obey(server.stop(), server.reload_now()));
    server.run().await?;
    tracing::info!("stopped");
    Ok(())
}

/// The signals that ask a process to stop, and the one that asks it to read its keys again.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn catch() -> Result<Self> {
        let catch = |kind| {
            signal(kind).map_err(|error: io::Error| Error::permanent("server.signals", "io_failed", error.to_string()))
        };
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            hangup: catch(SignalKind::hangup())?,
        })
    }

    async fn obey(mut self, stop: CancellationToken, reload: Arc<Notify>) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                _ = self.hangup.recv() => reload.notify_one(),
            }
        }
        // First stop, then tell: whoever reads the log may be gone already.
        stop.cancel();
        tracing::info!("asked to stop");
    }
}

async fn token(config: &Config, secrets: Secrets, command: TokenCommand, out: &mut (dyn Write + Send)) -> Result<()> {
    let Composed { runtime, database, .. } = app::attach(config, secrets).await?;
    let client = runtime.client();
    let done = match command {
        TokenCommand::Create { project, role } => {
            create_token(&client, &project, role).await.and_then(|token| print(out, token.expose()))
        }
        TokenCommand::Revoke { id } => {
            auth::revoke_token(&**client.store(), &id).await.and_then(|()| print(out, "revoked"))
        }
    };
    database.close().await;
    done
}

async fn raise_leader_epoch(config: &Config, secrets: Secrets, floor: u64) -> Result<()> {
    let Composed { runtime, database, .. } = app::attach(config, secrets).await?;
    let raised = runtime.client().raise_leader_epoch(floor).await;
    database.close().await;
    tell(&format!("the next leader's epoch is larger than {}", raised?));
    Ok(())
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
        .and_then(|()| out.flush())
        .map_err(|error| Error::permanent("server.print", "io_failed", error.to_string()).with_source(error))
}

/// Says something to whoever runs the command; what it is asked for goes to standard output instead.
fn tell(what: &str) {
    let _ = writeln!(io::stderr(), "{what}");
}

fn fail(error: &Error, code: u8) -> u8 {
    let _ = writeln!(io::stderr(), "error: {}", error.to_string().escape_debug());
    code
}
