//! `server backup …`: writing backups, and keeping account of them.

use std::io::Write;
use std::path::PathBuf;

use certlib_core::model::Backup;
use certlib_core::secret::Kek;
use certlib_core::{Client, Result};
use clap::{Args, Subcommand};
use time::OffsetDateTime;
use time::macros::format_description;

use super::progress::Bar;
use super::{print, tell};
use crate::app::{self, Composed};
use crate::config::Config;
use crate::secrets::Secrets;

/// Writes a backup: all records, with their secrets as they are sealed. Needs no key, and contains none.
///
/// Prints the name of the file. What the backup needs to be restored is this database's keys: keep them apart from it.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct BackupCommand {
    #[command(subcommand)]
    command: Option<Account>,
    /// The file; by default `certlib-<date>T<time>Z.backup` in the working directory.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replaces a file that is there.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Subcommand)]
enum Account {
    /// Lists the backups that are kept, with the keys that each needs. They hold back the removal of those keys.
    List,
    /// Says that a backup was destroyed, so that it holds back no key any more.
    Forget {
        /// The id of the backup, as `list` shows it.
        id: String,
    },
}

/// Does what `command` says.
pub(super) async fn run(
    config: &Config,
    secrets: Secrets,
    command: BackupCommand,
    out: &mut (dyn Write + Send),
) -> Result<()> {
    let Composed { runtime, database, .. } = app::attach(config, secrets).await?;
    let client = runtime.client();
    let done = match command.command {
        None => write(&client, command.output, command.force, out).await,
        Some(Account::List) => list(&client, out).await,
        Some(Account::Forget { id }) => client.forget_backup(&id).await.map(|()| tell("forgotten")),
    };
    database.close().await;
    done
}

async fn write(client: &Client, output: Option<PathBuf>, force: bool, out: &mut (dyn Write + Send)) -> Result<()> {
    let path = output.unwrap_or_else(|| default_name(client.clock().now()));
    let bar = Bar::new(None);
    let mut progress = |at: certlib_core::backup::Progress| bar.say(format!("{} records", at.records));
    let written = client.backup_to(&path, force, &mut progress).await;
    drop(bar);
    let (header, end) = written?;
    let keks: Vec<Kek> = end.keks.iter().map(certlib_core::backup::KekUse::kek).collect();
    tell(&format!("backup {} with {} records; it is worth nothing without: {}", header.id, end.records, names(&keks)));
    print(out, &path.display().to_string())
}

fn default_name(now: OffsetDateTime) -> PathBuf {
    let format = format_description!("certlib-[year][month][day]T[hour][minute][second]Z.backup");
    now.format(&format).unwrap_or_else(|_| "certlib.backup".to_owned()).into()
}

async fn list(client: &Client, out: &mut (dyn Write + Send)) -> Result<()> {
    let backups = client.backups().await?;
    if backups.is_empty() {
        tell("no backup is kept");
    }
    for Backup { id, keks, records, taken_at } in backups {
        let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
        let taken_at = taken_at.format(&format).unwrap_or_else(|_| taken_at.to_string());
        print(out, &format!("{id}  {taken_at}  {records} records  needs {}", names(&keks)))?;
    }
    Ok(())
}

fn names(keks: &[Kek]) -> String {
    let names: Vec<_> = keks.iter().map(Kek::to_string).collect();
    if names.is_empty() { "no key".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_by_the_time() {
        let at = time::macros::datetime!(2027-01-02 03:04:05 UTC);
        assert_eq!(default_name(at), PathBuf::from("certlib-20270102T030405Z.backup"));
    }
}
