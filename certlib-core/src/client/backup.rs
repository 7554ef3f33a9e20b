//! Backups: taken, kept account of, checked, restored.

use std::path::Path;

use tokio::io::{AsyncRead, AsyncSeek, AsyncWrite};

use super::Client;
use crate::backup::{self, BackupEnd, BackupHeader, KeyReport, OnProgress, PartFile, RestoreOptions, RestoreReport};
use crate::error::{Error, Result};
use crate::model::Backup;
use crate::store::{StoreExt as _, TypedQuery, WriteBatch};

impl Client {
    /// Writes a backup of everything to `out`, as the [module](crate::backup) says; it is whole once this returns. Works
    /// while nodes are at work, and needs no key. Returns its first and its last line.
    ///
    /// A [`Backup`] is recorded with it: while that is kept, no key is removed without which the backup is worth nothing.
    /// After an error it is taken back, unless the last line may have been written; after a drop of the future, or a
    /// crash, it stays until [`Client::forget_backup`].
    ///
    /// # Errors
    /// As [`Store`](crate::store::Store); `io_failed` of `out`, by its class; `IoTransient` `keyring_changed` when another
    /// key began to seal meanwhile: take it again; `Validation` `kinds_unknown` when other programs keep kinds of record
    /// here that this one was not [told](crate::runtime::RuntimeBuilder::record) of; `IoPermanent` `record_unreadable`, `backup_line_too_long` or
    /// `backup_too_deep` with the record.
    pub async fn backup(
        &self,
        out: &mut (dyn AsyncWrite + Unpin + Send),
        progress: OnProgress<'_>,
    ) -> Result<(BackupHeader, BackupEnd)> {
        backup::write(&self.engine, out, progress).await
    }

    /// [`Client::backup`] into the file `path`, which only its owner may read and which appears once it is whole and
    /// durable. A file that is there is replaced only if `overwrite`; what was recorded of it stays.
    ///
    /// # Errors
    /// As [`Client::backup`]; `Validation` `backup_exists`; `io_failed`, by its class.
    pub async fn backup_to(
        &self,
        path: &Path,
        overwrite: bool,
        progress: OnProgress<'_>,
    ) -> Result<(BackupHeader, BackupEnd)> {
        let mut file = PartFile::create(path, overwrite).await?;
        let lines = backup::write(&self.engine, file.file(), progress).await?;
        if let Err(error) = file.finish().await {
            if let Err(kept) = self.forget_backup(&lines.0.id).await {
                tracing::warn!(error = %kept, backup = lines.0.id, "there is a record of a backup without a file");
            }
            return Err(error);
        }
        Ok(lines)
    }

    /// The backups that are kept, as far as certlib was told, oldest first.
    ///
    /// # Errors
    /// As [`Store`](crate::store::Store). Cancel-safe.
    pub async fn backups(&self) -> Result<Vec<Backup>> {
        let query = TypedQuery::<Backup>::new().order_by("taken_at");
        Ok(self.engine.store.list_all(query).await?.into_iter().map(|backup| backup.record).collect())
    }

    /// Tells that a backup was thrown away: the keys that only it needed may be removed now.
    ///
    /// # Errors
    /// `not_found`; as [`Store`](crate::store::Store).
    pub async fn forget_backup(&self, id: &str) -> Result<()> {
        if self.engine.store.find::<Backup>(id).await?.is_none() {
            return Err(Error::not_found("backup.forget", format_args!("backup {}", id.escape_debug())));
        }
        self.engine.store.commit(WriteBatch::new().delete::<Backup>(id)).await.map(drop)
    }

    /// Checks whether the keys at hand open every secret in the store, decrypting none: before a restored store, of
    /// whatever make the backup was, is given traffic. Reads all of it.
    ///
    /// # Errors
    /// As [`Store`](crate::store::Store); `Network`, `IoTransient` or `Auth` when a key provider is away. Cancel-safe.
    pub async fn check_store(&self, progress: OnProgress<'_>) -> Result<KeyReport> {
        let engine = &self.engine;
        backup::check_store(&engine.store, &engine.kinds, &**engine.sealer.envelope(), progress).await
    }

    /// Fails if a restore into the store was begun and not finished: to be asked before a node is started.
    ///
    /// # Errors
    /// `Validation` `restore_unfinished`, with the backup; as [`Store`](crate::store::Store). Cancel-safe.
    pub async fn check_restored(&self) -> Result<()> {
        backup::check_finished(&self.engine.store).await
    }

    /// Checks all of a backup, as [`check_backup`](crate::backup::check_backup) does, and then writes it into the store.
    /// The store must hold nothing but what the first look at it leaves there, and no node may be at work on it. A
    /// restore that was interrupted is finished by running it again with the same backup.
    ///
    /// Not cancel-safe: dropped, it leaves a part behind, and [`Client::check_restored`] says so.
    ///
    /// # Errors
    /// Before anything is written: as `check_backup` and [`KeyReport::verdict`]; `store_not_empty` with what was
    /// `found`; `store_in_use` with the node; `restore_unfinished` when another backup was begun. From then on
    /// `restore_interrupted`, with the class of its source and [`Effect::Possible`](crate::Effect::Possible).
    pub async fn restore<R: AsyncRead + AsyncSeek + Unpin + Send>(
        &self,
        input: &mut R,
        options: &RestoreOptions,
        progress: OnProgress<'_>,
    ) -> Result<RestoreReport> {
        backup::restore(&self.engine, input, options, progress).await
    }
}
