//! What happened in a run, in order; and the stage that everything in a run shares.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::Notify;
use tokio::time::Instant;

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Such as `"G8"`.
    pub promise: &'static str,
    pub why: String,
}

pub type Verdict = Result<(), Violation>;

/// Fails with `promise` unless it `holds`.
pub fn demand(holds: bool, promise: &'static str, why: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(Violation { promise, why: why() }) }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    at: Duration,
    who: Arc<str>,
    what: String,
}

/// Everything that happened, oldest first.
#[derive(Debug, Default)]
pub struct History {
    lines: Vec<Line>,
}

impl History {
    /// The last `count` lines, for people.
    pub fn tail(&self, count: usize) -> String {
        let mut text = String::new();
        for line in &self.lines[self.lines.len().saturating_sub(count)..] {
            let _ = writeln!(text, "{:>12.3} {:<6} {}", line.at.as_secs_f64(), line.who, line.what);
        }
        text
    }

    /// FNV-1a over all lines: equal for equal histories.
    pub fn digest(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for line in &self.lines {
            let at = line.at.as_nanos().to_le_bytes();
            for byte in at.iter().chain(line.who.as_bytes()).chain(line.what.as_bytes()) {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        hash
    }

    /// Where two histories part.
    pub fn difference(&self, other: &Self) -> String {
        let place = self.lines.iter().zip(&other.lines).position(|(one, other)| one != other);
        match place {
            Some(place) => {
                let around = |history: &Self| {
                    let lines = history.lines[place.saturating_sub(5)..=place].to_vec();
                    Self { lines }.tail(usize::MAX)
                };
                format!("line {place} differs:\n{}\n{}", around(self), around(other))
            }
            None => format!("one has {} lines, the other {}", self.lines.len(), other.lines.len()),
        }
    }

    pub fn len(&self) -> usize {
        self.lines.len()
    }
}

/// Time, chance and record of one run.
pub struct Stage {
    born: Instant,
    chance: Mutex<StdRng>,
    history: Mutex<History>,
    violation: Mutex<Option<Violation>>,
    failed: Notify,
    healed: AtomicBool,
}

impl Stage {
    pub fn new(seed: u64) -> Self {
        Self {
            born: Instant::now(),
            // Another stream than the engine's own.
            chance: Mutex::new(StdRng::seed_from_u64(seed ^ 0x5eed_5eed_5eed_5eed)),
            history: Mutex::default(),
            violation: Mutex::default(),
            failed: Notify::new(),
            healed: AtomicBool::new(true),
        }
    }

    /// True time since the start.
    pub fn now(&self) -> Duration {
        self.born.elapsed()
    }

    /// Whether something of probability `odds` happens.
    pub fn happens(&self, odds: f64) -> bool {
        odds > 0.0 && self.chance.lock().unwrap().random_bool(odds.min(1.0))
    }

    /// A number of `range`.
    pub fn draw(&self, range: std::ops::RangeInclusive<u64>) -> u64 {
        self.chance.lock().unwrap().random_range(range)
    }

    /// A duration of `range`, in milliseconds.
    pub fn millis(&self, range: std::ops::RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.draw(range))
    }

    /// One of `choices`, which must not be empty.
    pub fn pick<'a, T>(&self, choices: &'a [T]) -> &'a T {
        let last = u64::try_from(choices.len() - 1).unwrap();
        &choices[usize::try_from(self.draw(0..=last)).unwrap()]
    }

    pub fn note(&self, who: &Arc<str>, what: String) {
        let line = Line { at: self.now(), who: who.clone(), what };
        self.history.lock().unwrap().lines.push(line);
    }

    /// Ends the run if `verdict` is a violation; the first one counts.
    pub fn judge(&self, verdict: Verdict) {
        if let Err(violation) = verdict {
            let mut first = self.violation.lock().unwrap();
            if first.is_none() {
                let what = format!("VIOLATION {}: {}", violation.promise, violation.why);
                self.note(&"check".into(), what);
                *first = Some(violation);
                self.failed.notify_one();
            }
        }
    }

    /// Returns once a promise was broken.
    pub async fn broken(&self) {
        self.failed.notified().await;
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.healed.store(true, Ordering::Relaxed);
    }

    /// Begins the faults.
    pub fn break_loose(&self) {
        self.healed.store(false, Ordering::Relaxed);
    }

    pub fn is_healed(&self) -> bool {
        self.healed.load(Ordering::Relaxed)
    }

    pub fn finish(&self) -> (Option<Violation>, History) {
        (self.violation.lock().unwrap().take(), std::mem::take(&mut self.history.lock().unwrap()))
    }
}
