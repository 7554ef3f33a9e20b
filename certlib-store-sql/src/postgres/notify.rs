//! Telling other processes that something became due or free, and hearing it from them.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnection, PgListener, PgPool};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The channel of jobs that became due.
pub(super) const JOBS: &str = "certlib_jobs";
/// The channel of leases that became free.
pub(super) const LEASES: &str = "certlib_leases";

/// A connection that was silent for so long is asked whether it still lives.
const SILENCE: Duration = Duration::from_secs(30);
/// How long it may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// The pauses between tries to listen again, from the first to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Who is woken, and how the others are told.
///
/// A message is `<instance> <schema>`: other schemas of the database are not ours, and what we say ourselves we know.
#[derive(Debug, Clone)]
pub(super) struct Wakeups {
    pub(super) message: Arc<str>,
    schema: Arc<str>,
    pub(super) jobs: watch::Sender<u64>,
    pub(super) leases: watch::Sender<u64>,
}

impl Wakeups {
    pub(super) fn new(schema: &str) -> Self {
        let message = format!("{:016x} {schema}", rand::random::<u64>());
        let (jobs, leases) = (watch::Sender::new(0), watch::Sender::new(0));
        Self { message: message.into(), schema: schema.into(), jobs, leases }
    }

    /// Wakes the workers of this process.
    pub(super) fn wake(&self) {
        bump(&self.jobs);
    }

    /// Wakes the candidates of this process.
    pub(super) fn vacate(&self) {
        bump(&self.leases);
    }

    /// Tells the others that a job became due, once the transaction of `connection` commits.
    pub(super) async fn tell(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        sqlx::query("SELECT pg_notify($1, $2)").bind(JOBS).bind(&*self.message).execute(connection).await.map(drop)
    }

    fn hear(&self, channel: &str, message: &str) {
        let Some((instance, schema)) = message.split_once(' ') else { return };
        let own = self.message.split_once(' ').is_some_and(|(own, _)| own == instance);
        if schema != &*self.schema || own {
            return;
        }
        match channel {
            JOBS => self.wake(),
            LEASES => self.vacate(),
            _ => {}
        }
    }
}

fn bump(counter: &watch::Sender<u64>) {
    counter.send_modify(|count| *count = count.wrapping_add(1));
}

/// Listens on a connection of `pool` until it is dropped.
#[derive(Debug)]
pub(super) struct Listener(JoinHandle<()>);

impl Listener {
    /// Returns when it listens, or when that failed and it will go on trying.
    pub(super) async fn start(pool: PgPool, wakeups: Wakeups) -> Self {
        let mut listener = listen(&pool).await.ok();
        Self(tokio::spawn(async move {
            let mut pause = PAUSES.0;
            loop {
                let Some(open) = &mut listener else {
                    tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
                    pause = (pause * 2).min(PAUSES.1);
                    listener = match listen(&pool).await {
                        Ok(listener) => Some(listener),
                        Err(sqlx::Error::PoolClosed) => return,
                        Err(error) => {
                            tracing::warn!(%error, "cannot listen to the database; falling back on polling");
                            None
                        }
                    };
                    if listener.is_some() {
                        pause = PAUSES.0;
                        // Whatever was said meanwhile was lost.
                        wakeups.wake();
                        wakeups.vacate();
                    }
                    continue;
                };
                if let Err(error) = hear(open, &wakeups).await {
                    tracing::debug!(%error, "the connection that listens is lost");
                    listener = None;
                }
            }
        }))
    }

    /// Ends it.
    pub(super) fn stop(&self) {
        self.0.abort();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn listen(pool: &PgPool) -> sqlx::Result<PgListener> {
    let mut listener = PgListener::connect_with(pool).await?;
    // A new connection is made here, where it is known that messages were missed.
    listener.eager_reconnect(false);
    listener.listen_all([JOBS, LEASES]).await?;
    Ok(listener)
}

/// Takes in one message, or finds out that the connection still lives.
async fn hear(listener: &mut PgListener, wakeups: &Wakeups) -> sqlx::Result<()> {
    match tokio::time::timeout(SILENCE, listener.try_recv()).await {
        Ok(Ok(Some(message))) => wakeups.hear(message.channel(), message.payload()),
        Ok(Ok(None)) => return Err(sqlx::Error::PoolTimedOut),
        Ok(Err(error)) => return Err(error),
        Err(_) => {
            let probe = sqlx::query("SELECT 1").execute(&mut *listener);
            tokio::time::timeout(ANSWER, probe).await.map_err(|_| sqlx::Error::PoolTimedOut)??;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_others_of_the_same_schema_are_heard() {
        let (here, there) = (Wakeups::new("certs"), Wakeups::new("certs"));
        let (jobs, leases) = (here.jobs.subscribe(), here.leases.subscribe());
        here.hear(JOBS, &here.message);
        here.hear(JOBS, &Wakeups::new("other certs").message);
        here.hear(JOBS, "nonsense");
        assert!(!jobs.has_changed().unwrap());
        here.hear(JOBS, &there.message);
        assert!(jobs.has_changed().unwrap() && !leases.has_changed().unwrap());
        here.hear(LEASES, &there.message);
        assert!(leases.has_changed().unwrap());
    }
}
