//! What the benches share: databases, hosts to deliver to, the engine at work, and the same work done by hand.
//!
//! - [`backend`]: databases, started for one bench.
//! - [`work`]: the queue at work, by hand and by a worker; [`floor`]: the same without certlib, the limit to compare with.
//! - [`sweeps`]: certificates that fall due; [`leaders`]: nodes that follow each other.
//! - [`hosts`]: simulated hosts in this process, and how to log in to them.
//! - [`raw`]: delivery with nothing but an SSH client, the limit to compare with.
//! - [`engine`]: a runtime with one certificate and its targets, delivered on demand.
//! - [`cipher`]: the cryptography of an envelope, by hand; [`rotation`]: many secrets moved to another key.
//! - [`noop`], [`pending`]: a module that does nothing, a CA that never answers.
//! - [`process`], [`meter`]: what this process and the databases use of the machine.
//! - [`scale`]: how much work a run of the benches is worth; [`table`]: how it is reported.

pub mod backend;
pub mod cipher;
pub mod engine;
pub mod floor;
pub mod hosts;
pub mod leaders;
pub mod meter;
pub mod noop;
pub mod pending;
pub mod process;
pub mod raw;
pub mod rotation;
pub mod scale;
pub mod sweeps;
pub mod table;
pub mod work;

use std::time::Duration;

/// The longest that anything here may take.
pub const LIMIT: Duration = Duration::from_secs(600);

/// Any error: a bench that meets one ends.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A result whose error ends the bench.
pub type Result<T, E = Error> = std::result::Result<T, E>;
