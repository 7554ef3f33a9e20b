//! What the simulated certificate authorities with an HTTP API of their own share: a clock to move, faults, a record of
//! the requests, and the way from one to the other.

mod call;
mod clock;
mod fault;
mod history;
mod server;

pub(crate) use self::{
    call::Call,
    clock::Clock,
    fault::meet,
    server::{Api, Gateway, halved, random_hex},
};
pub use self::{
    fault::{Fault, Injection},
    history::Record,
};
