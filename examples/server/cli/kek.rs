//! `server kek …`: the life of a key-encryption key.

use std::fmt::Write as _;
use std::io::Write;

use certlib_core::client::{KekReadiness, KeyringStatus};
use certlib_core::{Client, Error, Result};
use clap::{Args, Subcommand};

use super::confirm::confirm;
use super::rotation::{Watched, describe, watch};
use super::{INTERRUPTED, print, tell};
use crate::api::KeyringView;
use crate::app::{self, Composed};
use crate::config::Config;
use crate::kek::{self, Sources};
use crate::secrets::Secrets;

const OPERATION: &str = "server.kek";

#[derive(Debug, Subcommand)]
pub(super) enum KekCommand {
    /// Makes a new key and prints it as a line of a key file. Stores it nowhere.
    ///
    /// Standard output is the key: send it where only the right people can read it, for instance
    /// `(umask 077; server kek generate >> kek.new)`.
    Generate(Generate),
    /// Shows the keys, which of them seals, which nodes lack one, and how far a rotation has come.
    Status {
        /// As JSON, in the form of `GET /api/v1/settings/keyring`.
        #[arg(long)]
        json: bool,
    },
    /// Says which live nodes have a key; exit code 1 if one lacks it. A rotation to it waits for all of them.
    Verify {
        /// The version of the key.
        #[arg(long, value_name = "VERSION")]
        target: u32,
    },
    /// Begins to move all secrets to another key. The servers do it, without a pause.
    Rotate(Rotate),
    /// Gives up a rotation before the new key seals: while it waits for nodes that lack the key.
    Cancel,
    /// Lets a retired key go: afterwards take it out of the environment and the key files, and destroy it.
    Remove(Remove),
}

#[derive(Debug, Args)]
pub(super) struct Generate {
    /// Its version; by default the next after those at hand.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    version: Option<u32>,
    /// Makes it in the HSM of [kek.pkcs11], which it does not leave, and prints its version and fingerprint instead.
    #[arg(long)]
    pkcs11: bool,
}

#[derive(Debug, Args)]
pub(super) struct Rotate {
    /// The version of the key that is to seal.
    #[arg(long, value_name = "VERSION")]
    to_version: u32,
    /// Waits until it is done, and shows how far it has come. Ctrl-C ends the waiting, not the rotation.
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, Args)]
pub(super) struct Remove {
    /// The version of the key.
    #[arg(long)]
    version: u32,
    /// Says that a copy is kept elsewhere, for the kept backups that need it.
    #[arg(long)]
    escrowed: bool,
    /// Does not ask.
    #[arg(long)]
    yes: bool,
}

/// Does what `command` says; returns the exit code.
pub(super) async fn run(
    config: &Config,
    secrets: Secrets,
    command: KekCommand,
    out: &mut (dyn Write + Send),
) -> Result<u8> {
    if let KekCommand::Generate(arguments) = command {
        return generate(config, secrets, &arguments, out).await.map(|()| 0);
    }
    let Composed { runtime, database, .. } = app::attach(config, secrets).await?;
    let client = runtime.client();
    let done = match command {
        KekCommand::Generate(_) => Ok(0),
        KekCommand::Status { json } => status(&client, json, out).await.map(|()| 0),
        KekCommand::Verify { target } => verify(&client, target, out).await,
        KekCommand::Rotate(arguments) => rotate(&client, &arguments).await,
        KekCommand::Cancel => client.cancel_rotation().await.map(|()| {
            tell("cancelled: the key that sealed before goes on to seal, and nothing was changed");
            0
        }),
        KekCommand::Remove(arguments) => remove(&client, &arguments).await.map(|()| 0),
    };
    database.close().await;
    done
}

async fn generate(config: &Config, secrets: Secrets, arguments: &Generate, out: &mut (dyn Write + Send)) -> Result<()> {
    let sources = Sources::new(config, secrets.kek);
    let at_hand = sources.keyring().await?.keks();
    let newest = at_hand.iter().map(|kek| kek.version).max().unwrap_or_default();
    let version = arguments.version.or_else(|| newest.checked_add(1)).unwrap_or(newest);
    if at_hand.iter().any(|kek| kek.version == version) {
        let why = "there is a key of this version already; versions are not used twice";
        return Err(Error::validation(OPERATION, "kek_exists", why).with("version", version));
    }
    if arguments.pkcs11 {
        let Some(hsm) = sources.providers().pkcs11().await? else {
            let why = "no HSM is configured: [kek.pkcs11]";
            return Err(Error::validation(OPERATION, "config_invalid", why).with("key", "kek.pkcs11"));
        };
        print(out, &hsm.generate(version).await?.to_string())?;
        tell(
            "it is in the HSM. Next:\n  1. see that every server reaches the HSM; they look for new keys by themselves",
        );
    } else {
        print(out, kek::line(version, &kek::generate()?).expose().trim_end())?;
        let file = config.kek_file();
        let file = file.display();
        tell(&format!(
            "this is version {version}; it is kept nowhere yet. Next:\n  \
             1. give it to every server, beside the keys that it has: as a line of the key file ({file}, mode 0600),\n     \
                which a running server reads again by itself, or as CERTLIB_KEK_V{version}, which takes a restart;\n     \
                and keep a copy apart from the backups"
        ));
    }
    if newest > 0 {
        tell(&format!(
            "  2. server kek verify --target {version}\n  3. server kek rotate --to-version {version} --wait"
        ));
    }
    Ok(())
}

async fn status(client: &Client, json: bool, out: &mut (dyn Write + Send)) -> Result<()> {
    let status = client.keyring().await?;
    if json {
        let text = serde_json::to_string_pretty(&KeyringView::from(status));
        let text = text.map_err(|error| Error::permanent(OPERATION, "unencodable", error.to_string()))?;
        return print(out, &text);
    }
    print(out, table(&status).trim_end())
}

fn table(status: &KeyringStatus) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    for key in &status.keks {
        let _ = write!(text, "{:<8} {}", key.role.as_str(), key.kek);
        if !key.at_hand {
            text.push_str("; not at hand here");
        }
        if !key.lack.is_empty() {
            let _ = write!(text, "; lacking on {}", key.lack.join(", "));
        }
        text.push('\n');
    }
    let _ = writeln!(text, "epoch    {}", status.state.epoch);
    match &status.state.rotation {
        Some(rotation) => {
            let _ = writeln!(text, "rotation {} -> {}", rotation.from, rotation.to);
            let _ = writeln!(text, "         {}", describe(rotation));
            let _ =
                writeln!(text, "         since {}, in this phase since {}", rotation.started_at, rotation.phase_since);
        }
        None => text.push_str("rotation none\n"),
    }
    text
}

async fn verify(client: &Client, target: u32, out: &mut (dyn Write + Send)) -> Result<u8> {
    let readiness = client.check_kek(target).await?;
    let KekReadiness { kek, have, lack, .. } = &readiness;
    for node in have {
        print(out, &format!("has    {node}"))?;
    }
    for node in lack {
        print(out, &format!("lacks  {node}"))?;
    }
    if !readiness.is_ready() {
        tell(&format!(
            "{} of {} live nodes lack {kek}; give it to them: {}",
            lack.len(),
            lack.len() + have.len(),
            lack.join(", ")
        ));
        return Ok(1);
    }
    match have.len() {
        0 => tell("no server is running, so none lacks it"),
        nodes => tell(&format!("all live nodes ({nodes}) have {kek}")),
    }
    Ok(0)
}

async fn rotate(client: &Client, arguments: &Rotate) -> Result<u8> {
    let rotation = client.rotate_kek(arguments.to_version).await?;
    tell(&format!("the rotation from {} to {} has begun", rotation.from, rotation.to));
    let readiness = client.check_kek(arguments.to_version).await?;
    if !readiness.is_ready() {
        tell(&format!("it waits until these nodes have the new key: {}", readiness.lack.join(", ")));
    } else if readiness.have.is_empty() {
        tell("no server is running; it goes on when one does");
    }
    if !arguments.wait {
        tell("`server kek status` shows how far it has come");
        return Ok(0);
    }
    match watch(client.store(), &rotation).await? {
        Watched::Done => {
            tell(&format!(
                "done: every secret is under {}. The old key is retired; `server kek remove --version {}` lets it go",
                rotation.to, rotation.from.version
            ));
            Ok(0)
        }
        Watched::Interrupted => {
            tell("the rotation goes on without you; `server kek status` shows how far it has come");
            Ok(INTERRUPTED)
        }
    }
}

async fn remove(client: &Client, arguments: &Remove) -> Result<()> {
    let Remove { version, escrowed, yes } = *arguments;
    confirm(
        &format!("Remove version {version} for good? Backups that need it can only be restored with a copy of it."),
        yes,
    )?;
    client.remove_kek(version, escrowed).await?;
    tell(&format!(
        "removed: nothing needs version {version}; take it out of the environment and the key file of every server, \
         and destroy {}",
        if escrowed { "every copy but the escrowed one" } else { "every copy" }
    ));
    Ok(())
}
