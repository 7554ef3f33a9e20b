//! Everything that this process logs and measures.

use std::io;
use std::sync::{Arc, LazyLock, Mutex};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::fmt::MakeWriter;

/// What was logged, at the finest level there is, and what was measured.
pub(crate) struct Captured {
    log: Log,
    metrics: PrometheusHandle,
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Captured {
    pub(crate) fn log(&self) -> Vec<u8> {
        self.log.0.lock().unwrap().clone()
    }

    pub(crate) fn metrics(&self) -> String {
        self.metrics.render()
    }
}

/// Begins to capture at the first call; also what other crates say, and what `log` carries.
pub(crate) fn captured() -> &'static Captured {
    static CAPTURED: LazyLock<Captured> = LazyLock::new(|| {
        let log = Log::default();
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
            .with_ansi(false)
            .with_writer(log.clone())
            .init();
        Captured { log, metrics: PrometheusBuilder::new().install_recorder().unwrap() }
    });
    &CAPTURED
}
