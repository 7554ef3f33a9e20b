//! Shares of the connection pool, so that nobody can take another's.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use certlib_core::error::{Effect, Error, Result};
use certlib_core::queue::Lane;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::error::timed_out;

/// The right to have a number of calls under way at the same time; each uses one connection.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    permits: Arc<Semaphore>,
    timeout: Duration,
}

/// The gates of one pool.
#[derive(Debug)]
pub(crate) struct Gates {
    shared: Gate,
    lanes: [Gate; Lane::ALL.len()],
}

impl Gates {
    /// Divides a pool of `connections`: one for the change stream, a quarter of the rest for whoever is not in a lane,
    /// and equal shares for the lanes.
    pub(crate) fn new(connections: u32, timeout: Duration) -> Self {
        let gate = |permits: usize| Gate { permits: Arc::new(Semaphore::new(permits.max(1))), timeout };
        let usable = usize::try_from(connections).unwrap_or(usize::MAX).saturating_sub(1).min(Semaphore::MAX_PERMITS);
        let lane = (usable - usable / 4) / Lane::ALL.len();
        let lanes = std::array::from_fn(|_| gate(lane));
        Self { shared: gate(usable - lane * Lane::ALL.len()), lanes }
    }

    pub(crate) fn shared(&self) -> Gate {
        self.shared.clone()
    }

    pub(crate) fn lane(&self, lane: Lane) -> Gate {
        let place = Lane::ALL.iter().position(|one| *one == lane);
        place.and_then(|place| self.lanes.get(place)).unwrap_or(&self.shared).clone()
    }
}

impl Gate {
    /// A call that only reads.
    pub(crate) async fn read<T>(&self, operation: &'static str, call: impl Future<Output = Result<T>>) -> Result<T> {
        self.pass(operation, Effect::None, call).await
    }

    /// A call that writes: if it is given up, its effect is in doubt.
    pub(crate) async fn write<T>(&self, operation: &'static str, call: impl Future<Output = Result<T>>) -> Result<T> {
        self.pass(operation, Effect::Possible, call).await
    }

    async fn pass<T>(
        &self,
        operation: &'static str,
        effect: Effect,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + self.timeout;
        let busy = || Error::transient(operation, "database_busy", "too many calls at the same time");
        let _permit = match timeout_at(deadline, self.permits.acquire()).await {
            Ok(permit) => permit.map_err(|_| busy())?,
            Err(_) => return Err(busy()),
        };
        match timeout_at(deadline, call).await {
            Ok(result) => result,
            Err(_) => Err(timed_out(operation).with_effect(effect)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_fit_into_the_pool() {
        for connections in [8, 9, 16, 24, 100, 1000] {
            let gates = Gates::new(connections, Duration::ZERO);
            let shares: Vec<usize> = Lane::ALL.map(|lane| gates.lane(lane).permits.available_permits()).to_vec();
            let sum = shares.iter().sum::<usize>() + gates.shared().permits.available_permits();
            assert_eq!(sum + 1, connections as usize);
            assert!(shares.iter().all(|share| *share >= 1 && *share == shares[0]), "{connections}: {shares:?}");
            assert!(gates.shared().permits.available_permits() >= 2);
        }
    }

    #[tokio::test]
    async fn a_full_lane_is_busy_and_no_other() {
        let gates = Gates::new(8, Duration::from_millis(100));
        let full = gates.lane(Lane::Issuance);
        let stuck = tokio::spawn(async move { full.write("stuck", std::future::pending::<Result<()>>()).await });
        tokio::task::yield_now().await;
        let next = gates.lane(Lane::Issuance);
        let busy = next.read("next", async { Ok(()) });
        gates.lane(Lane::Discovery).read("other", async { Ok(()) }).await.unwrap();
        gates.shared().read("shared", async { Ok(()) }).await.unwrap();
        let stuck = async { stuck.await.unwrap().unwrap_err() };
        let (busy, stuck) = tokio::join!(busy, stuck);
        assert_eq!((stuck.code(), stuck.effect()), ("timeout", Effect::Possible));
        // Whoever waited had the same deadline, and either got in or was told.
        assert!(busy.is_ok() || busy.is_err_and(|error| error.code() == "database_busy"));
    }
}
