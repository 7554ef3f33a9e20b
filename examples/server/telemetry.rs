//! Logs and metrics.

use std::sync::OnceLock;
use std::time::Duration;

use certlib_core::metrics::{JOB_DURATION, SWEEP_DURATION};
use certlib_core::{Error, Result};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::config::Config;

/// From a fast local job to an order that a CA takes its time for, in seconds.
const DURATION_BUCKETS: [f64; 12] = [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0];

/// How often samples are moved out of the recorder's buffers, which grow until then.
const UPKEEP: Duration = Duration::from_secs(5);

/// Installs the process's logger: text or JSON on standard error.
pub(crate) fn install_logger(config: &Config) -> Result<()> {
    let failed = |message: String| Error::validation("server.log", "log_invalid", message);
    let filter = EnvFilter::try_new(&config.log).map_err(|error| failed(error.to_string()))?;
    // Without `log_internal_errors(false)` a reader of standard error that has gone makes every log line panic.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    let installed = if config.log_json { builder.json().try_init() } else { builder.try_init() };
    installed.map_err(|error| failed(error.to_string()))
}

/// The process's metrics recorder, installed at the first call.
pub(crate) fn recorder() -> Result<PrometheusHandle> {
    static RECORDER: OnceLock<std::result::Result<PrometheusHandle, String>> = OnceLock::new();
    let installed = RECORDER.get_or_init(|| {
        PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full(JOB_DURATION.to_owned()), &DURATION_BUCKETS)
            .and_then(|builder| {
                builder.set_buckets_for_metric(Matcher::Full(SWEEP_DURATION.to_owned()), &DURATION_BUCKETS)
            })
            .and_then(PrometheusBuilder::install_recorder)
            .map_err(|error| error.to_string())
    });
    installed.clone().map_err(|message| Error::permanent("server.metrics", "metrics_failed", message))
}

/// Keeps the recorder's buffers small until `stop`.
pub(crate) async fn upkeep(recorder: PrometheusHandle, stop: CancellationToken) {
    let mut tick = tokio::time::interval(UPKEEP);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        recorder.run_upkeep();
    }
}
