//! Progress bars, on a terminal only.

use std::time::Duration;

use certlib_core::client::DistributionStatus;
use certlib_core::model::{TargetPhase, TargetStatus};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// One line for what is going on, one for the run.
pub(super) struct Progress {
    lines: MultiProgress,
    stage: ProgressBar,
    run: ProgressBar,
}

impl Progress {
    pub(super) fn new(visible: bool) -> Self {
        let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let lines = MultiProgress::with_draw_target(target);
        let stage = lines.add(ProgressBar::new_spinner());
        stage.enable_steady_tick(Duration::from_millis(100));
        let run = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("  {bar:40} {pos}/{len} {msg}") {
            run.set_style(style);
        }
        Self { lines, stage, run }
    }

    /// Says what is going on.
    pub(super) fn stage(&self, what: impl Into<String>) {
        self.stage.set_message(what.into());
    }

    /// Shows how the run stands.
    pub(super) fn show(&self, status: &DistributionStatus) {
        if self.run.length() == Some(0) {
            self.run.set_length(u64::try_from(status.run.summary.targets).unwrap_or(u64::MAX));
            self.lines.add(self.run.clone());
        }
        let count = |wanted| status.targets.iter().filter(|target| target.status == wanted).count();
        let done = status.targets.iter().filter(|target| target.phase == TargetPhase::Done).count();
        self.run.set_position(u64::try_from(done).unwrap_or(u64::MAX));
        self.run.set_message(format!(
            "{} validated, {} rolled back, {} failed",
            count(TargetStatus::Validated),
            count(TargetStatus::RolledBack),
            count(TargetStatus::Failed),
        ));
    }

    /// Takes the lines off the terminal again.
    pub(super) fn finish(&self) {
        self.run.finish_and_clear();
        self.stage.finish_and_clear();
    }
}

impl Drop for Progress {
    /// An error message should not share its line with a bar.
    fn drop(&mut self) {
        self.finish();
    }
}
