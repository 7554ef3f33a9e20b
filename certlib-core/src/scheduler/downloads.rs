//! Forgets downloads that nobody has fetched in time.

use async_trait::async_trait;

use super::due::delete_due;
use super::{Sweep, SweepContext};
use crate::error::Result;
use crate::model::Download;

/// Deletes expired downloads.
#[derive(Debug, Clone, Copy)]
pub struct DownloadSweep;

#[async_trait]
impl Sweep for DownloadSweep {
    fn name(&self) -> &'static str {
        "download_cleanup"
    }

    async fn run(&self, cx: &SweepContext) -> Result<usize> {
        delete_due::<Download>(cx, "expires_at", cx.clock.now(), usize::MAX).await
    }
}
