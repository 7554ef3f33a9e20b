//! Secrets stay where they belong. A secret of every kind goes through a whole life of certificates, and afterwards all
//! that certlib said or wrote is searched for it, in every form it could have. And the process that changes the key
//! under the secrets is looked at from outside: its memory never holds one of them in plain.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod capture;
mod hosts;
mod life;
mod memory;
mod needles;
