//! `server restore`: a backup into an empty database, and whether keys and data belong together.

use std::io::Write;
use std::path::{Path, PathBuf};

use certlib_core::backup::{KeyReport, Progress, RestoreOptions, RestoreReport, Stage, check_backup};
use certlib_core::{Error, Result, classify};
use clap::Args;
use tokio::fs::File;

use super::progress::Bar;
use super::{print, tell};
use crate::app::{self, Composed};
use crate::config::Config;
use crate::secrets::Secrets;

const OPERATION: &str = "server.restore";

/// Restores a backup into an empty database, after checking it and whether the keys at hand open every secret in it.
///
/// Give this command the keys of the database that the backup is of; no server may run on the new one yet. If it is
/// interrupted, run it again with the same backup.
///
/// With --check nothing is changed: the exit code says whether traffic could be served.
#[derive(Debug, Args)]
pub(super) struct RestoreCommand {
    /// The backup.
    #[arg(required_unless_present = "store")]
    file: Option<PathBuf>,
    /// Only checks, and changes nothing.
    #[arg(long)]
    check: bool,
    /// Checks the database instead of a file, for instance after a snapshot of its own was restored.
    #[arg(long, requires = "check", conflicts_with = "file")]
    store: bool,
}

/// Does what `command` says; returns the exit code.
pub(super) async fn run(
    config: &Config,
    secrets: Secrets,
    command: RestoreCommand,
    out: &mut (dyn Write + Send),
) -> Result<u8> {
    match command.file {
        Some(file) if command.check => verdict(&check_file(config, secrets, &file).await?, out),
        Some(file) => restore(config, secrets, &file, out).await.map(|()| 0),
        None => verdict(&check_database(config, secrets).await?, out),
    }
}

async fn check_file(config: &Config, secrets: Secrets, path: &Path) -> Result<KeyReport> {
    let envelope = app::envelope(config, secrets).await?;
    let (file, length) = open(path).await?;
    let bar = Bar::new(Some(length));
    check_backup(file, &app::record_kinds(), &envelope, &mut |at| show(&bar, length, at)).await
}

async fn check_database(config: &Config, secrets: Secrets) -> Result<KeyReport> {
    let Composed { runtime, database, .. } = app::attach(config, secrets).await?;
    let bar = Bar::new(None);
    let report = runtime.client().check_store(&mut |at| show(&bar, 0, at)).await;
    database.close().await;
    report
}

async fn restore(config: &Config, secrets: Secrets, path: &Path, out: &mut (dyn Write + Send)) -> Result<()> {
    let (mut file, length) = open(path).await?;
    let Composed { runtime, database, .. } = app::attach_to_new(config, secrets).await?;
    let bar = Bar::new(Some(length));
    let options = RestoreOptions::default();
    let restored = runtime.client().restore(&mut file, &options, &mut |at| show(&bar, length, at)).await;
    drop(bar);
    database.close().await;
    let RestoreReport { checked, records, resumed, leader_epoch, to_issue, .. } = restored?;
    print(out, &checked.to_string())?;
    let how = if resumed { "restored, going on from where it was interrupted" } else { "restored" };
    tell(&format!("{how}: {records} records. Start the servers"));
    tell(&format!(
        "if one refuses to lead because the database went back in time: `server raise-leader-epoch --floor N`, where N \
         is what it has seen; the backup knew {leader_epoch}"
    ));
    for waiting in to_issue {
        tell(&format!("ask for it again: certificate {} of project {}", waiting.certificate, waiting.project));
    }
    Ok(())
}

async fn open(path: &Path) -> Result<(File, u64)> {
    let unreadable = |error: std::io::Error| {
        let class = classify::io(error.kind());
        Error::new(class, OPERATION, "io_failed", "the backup cannot be read")
            .with("file", path.display())
            .with_source(error)
    };
    let file = File::open(path).await.map_err(unreadable)?;
    let length = file.metadata().await.map_err(unreadable)?.len();
    Ok((file, length))
}

fn verdict(report: &KeyReport, out: &mut (dyn Write + Send)) -> Result<u8> {
    print(out, &report.to_string())?;
    Ok(u8::from(!report.may_serve()))
}

fn show(bar: &Bar, length: u64, at: Progress) {
    let what = match at.stage {
        Stage::Restore => "restored",
        Stage::Count => "counted",
        _ => "checked",
    };
    bar.show(at.bytes, (length > 0).then_some(length), format!("{} records {what}", at.records));
}
