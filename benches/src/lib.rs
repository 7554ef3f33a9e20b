//! What the benches share: hosts to deliver to, the engine at work, and the same work done by hand.
//!
//! - [`hosts`]: simulated hosts in this process, and how to log in to them.
//! - [`raw`]: delivery with nothing but an SSH client, the limit to compare with.
//! - [`engine`]: a runtime with one certificate and its targets, delivered on demand.
//! - [`noop`], [`pending`]: a module that does nothing, a CA that never answers.
//! - [`process`]: what this process uses of the machine.
//! - [`scale`]: how much work a run of the benches is worth.

pub mod engine;
pub mod hosts;
pub mod noop;
pub mod pending;
pub mod process;
pub mod raw;
pub mod scale;

/// Any error: a bench that meets one ends.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A result whose error ends the bench.
pub type Result<T, E = Error> = std::result::Result<T, E>;
