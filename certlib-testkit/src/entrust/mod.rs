//! Simulated services of Entrust, inside the test's own process.
//!
//! Entrust has two products with nothing in common but the name, and so there are two simulators: [`EcsSim`] is the
//! Enterprise API of Entrust Certificate Services, for public TLS certificates, and [`CagwSim`] a CA Gateway, in front of
//! private authorities. Both speak HTTPS only, want a client certificate, sign with an authority of their own below a root
//! of their own, and misbehave on demand: [`Fault`] for single requests, [`Flaw`](crate::pki::Flaw) for certificates.
//!
//! ```
//! use certlib_testkit::{entrust::{EcsSim, EcsStatus, Fault, Injection}, tls};
//!
//! # async fn example() -> certlib_testkit::Result<()> {
//! let sim = EcsSim::builder().pending_polls(2).start().await?;
//! sim.inject(Injection::new(Fault::Maintenance).on("GET", "/application/version").times(1));
//! // Give sim.url(), the user with the key, and the client certificate to what is to be tested.
//! let http = tls::http_client(sim.ca_pem())?;
//! let version = || http.get(format!("{}/application/version", sim.url())).basic_auth(EcsSim::USER, Some(EcsSim::KEY));
//! assert_eq!(version().send().await.unwrap().status(), 503);
//! assert_eq!(version().send().await.unwrap().status(), 403, "without a client certificate");
//! assert!(sim.orders().iter().all(|order| order.status != EcsStatus::Active));
//! assert_eq!(sim.history().len(), 2);
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```

mod cagw;
mod call;
mod ecs;
mod history;
mod period;
mod server;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use self::{
    cagw::{CagwEnrollment, CagwSim, CagwSimBuilder, CagwStatus},
    ecs::{EcsOrder, EcsSim, EcsSimBuilder, EcsStatus},
    history::Record,
};
pub use crate::api::{Fault, Injection};

/// Locks a mutex; a test that panicked elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
