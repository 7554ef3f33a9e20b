//! Times, processor time, and what the disk costs.

use std::fs::OpenOptions;
use std::io::{Seek as _, Write as _};
use std::time::{Duration, Instant};

use crate::{Result, process};

/// What a piece of work took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// From its beginning to its end.
    pub wall: Duration,
    /// Processor time of this process.
    pub client: Duration,
    /// Processor time of the database's processes.
    pub server: Duration,
}

/// Takes the time of one piece of work.
#[derive(Debug)]
pub struct Meter {
    began: Instant,
    client: Duration,
    server: Duration,
}

impl Meter {
    /// The work begins now.
    ///
    /// # Errors
    /// Where Linux does not say what processes use.
    pub fn start() -> Result<Self> {
        Ok(Self { client: process::cpu()?, server: process::cpu_of_servers()?, began: Instant::now() })
    }

    /// The work ends now.
    ///
    /// # Errors
    /// Where Linux does not say what processes use.
    pub fn stop(self) -> Result<Cost> {
        Ok(Cost {
            wall: self.began.elapsed(),
            client: process::cpu()? - self.client,
            server: process::cpu_of_servers()?.saturating_sub(self.server),
        })
    }
}

/// The costs of the same work, round after round.
#[derive(Debug, Clone, Default)]
pub struct Rounds(Vec<Cost>);

impl Rounds {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a round.
    pub fn push(&mut self, cost: Cost) {
        self.0.push(cost);
    }

    /// The median of each part by itself.
    #[must_use]
    pub fn median(&self) -> Cost {
        let of = |part: fn(&Cost) -> Duration| quantile(&mut self.0.iter().map(part).collect::<Vec<_>>(), 0.5);
        Cost { wall: of(|cost| cost.wall), client: of(|cost| cost.client), server: of(|cost| cost.server) }
    }
}

/// The smallest duration that this share of all does not exceed; zero if there is none.
pub fn quantile(durations: &mut [Duration], share: f64) -> Duration {
    durations.sort();
    let rank = (durations.len() as f64 * share).ceil() as usize;
    durations.get(rank.saturating_sub(1)).or(durations.last()).copied().unwrap_or_default()
}

/// What it costs here to have one page of a file on the disk: the median of `count` times.
///
/// # Errors
/// When the directory for temporary files cannot be written.
pub fn disk_sync(count: usize) -> Result<Duration> {
    let folder = tempfile::tempdir()?;
    let mut file = OpenOptions::new().create_new(true).write(true).open(folder.path().join("page"))?;
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        file.rewind()?;
        file.write_all(&[0x5a; 8192])?;
        let began = Instant::now();
        file.sync_data()?;
        took.push(began.elapsed());
    }
    Ok(quantile(&mut took, 0.5))
}

/// The load of this machine over the last minute and how many processors it has.
///
/// # Errors
/// Where there is no `/proc/loadavg`.
pub fn machine() -> Result<String> {
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let load = load.split_whitespace().next().unwrap_or("?");
    let processors = std::thread::available_parallelism()?;
    let sync = disk_sync(200)?;
    Ok(format!("{processors} processors, load {load}, fdatasync of a page {:.0} us", sync.as_secs_f64() * 1e6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_members() {
        let mut times: Vec<_> = (1..=100).rev().map(Duration::from_millis).collect();
        for (share, millis) in [(0.0, 1), (0.5, 50), (0.99, 99), (1.0, 100)] {
            assert_eq!(quantile(&mut times, share), Duration::from_millis(millis), "{share}");
        }
        assert_eq!(quantile(&mut [], 0.5), Duration::ZERO);
    }

    #[test]
    fn the_machine_can_be_described() {
        assert!(disk_sync(3).unwrap() > Duration::ZERO);
        assert!(machine().unwrap().contains("fdatasync"));
    }
}
