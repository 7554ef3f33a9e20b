//! `server download …`: promises a file to whoever is given the token, once.

use std::io::Write;
use std::time::Duration;

use certlib_core::Result;
use certlib_core::export::{ExportFormat, ExportOptions};
use clap::{Args, Subcommand};
use time::format_description::well_known::Rfc3339;

use super::{print, tell};
use crate::api::path_of;
use crate::app::{self, Composed};
use crate::config::Config;
use crate::secrets::Secrets;

#[derive(Debug, Subcommand)]
pub(super) enum DownloadCommand {
    /// Makes a token and prints the path where the file can be fetched, once and without login.
    Create(What),
}

#[derive(Debug, Args)]
pub(super) struct What {
    /// The project.
    #[arg(long)]
    project: String,
    /// The certificate's id.
    #[arg(long)]
    certificate: String,
    /// Which version; the live one, or else the newest, by default.
    #[arg(long)]
    version: Option<u32>,
    /// `fullchain`, `chain`, `leaf`, `key`, `der`, `pkcs12` or `pkcs12-legacy`.
    #[arg(long, default_value_t)]
    format: ExportFormat,
    /// With the private key. It has to be said, also for formats that cannot be without.
    #[arg(long)]
    with_key: bool,
    /// The name of the entry in a PKCS#12 file; the first name of the certificate by default.
    #[arg(long)]
    alias: Option<String>,
    /// For how long, in seconds: at most 7 days.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    ttl: u64,
}

/// Does what `command` says.
pub(super) async fn run(
    config: &Config,
    secrets: Secrets,
    command: DownloadCommand,
    out: &mut (dyn Write + Send),
) -> Result<()> {
    let DownloadCommand::Create(What { project, certificate, version, format, with_key, alias, ttl }) = command;
    let Composed { runtime, database, .. } = app::attach(config, secrets).await?;
    let what = ExportOptions { version, format, with_key, alias };
    let done = runtime.client().create_download(&project, &certificate, what, Duration::from_secs(ttl)).await;
    database.close().await;
    let promised = done?;
    let until = promised.expires_at.format(&Rfc3339).unwrap_or_default();
    tell(&format!("version {} as {}, once, until {until}", promised.version, promised.format));
    print(out, &path_of(&promised.token))
}
