//! Real programs and simulators to test certlib, and the services that embed it, against.
//!
//! Two families live here:
//!
//! * [`counterpart`] starts the real thing on 127.0.0.1: OpenSSH, nginx, HAProxy, Apache, mail servers, OpenLDAP, two ACME
//!   certificate authorities, BIND, databases and a Kubernetes API server. A test talks to the program that production
//!   talks to, quirks included.
//! * Simulators run inside the test process, keep state, and misbehave on demand: [`simhost`] is servers with SSH and TLS,
//!   by the thousand; [`winrm`] a Windows host with WinRM and IIS; [`f5`] a BIG-IP; [`netscaler`] a NetScaler ADC; [`vault`]
//!   a HashiCorp Vault; [`huawei`] the certificate services of Huawei Cloud; [`sectigo`] Sectigo's certificate
//!   manager; [`entrust`] the services of Entrust.
//!
//! # Where the programs come from
//!
//! Every program is [located](locate) before it is started: an environment variable such as `CERTLIB_SSHD`, then
//! `PATH`, then the cache directory of this crate, and finally it is installed (Debian packages, a Python package into a
//! private environment, or a build from source). A program that can neither be found nor installed **fails** the test with a message
//! that says what to install. Only `CERTLIB_WITHOUT=nginx,bind` leaves counterparts out, on purpose and visibly; see
//! [`require!`].
//!
//! # Example
//!
//! ```no_run
//! use certlib_testkit::{counterpart::{CertificateFiles, Nginx}, pki::TestCa, require};
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() {
//!     let ca = TestCa::new("example root").unwrap();
//!     let folder = tempfile::tempdir().unwrap();
//!     let files = CertificateFiles::new(folder.path());
//!     files.write(&ca.issue(&["localhost"]).unwrap()).unwrap();
//!
//!     let nginx = require!(Nginx::start(&files).await);
//!
//!     let renewed = ca.issue(&["localhost"]).unwrap();
//!     files.write(&renewed).unwrap();
//!     nginx.reload().await.unwrap();
//!     nginx.await_served(&renewed.fingerprint).await.unwrap();
//!     nginx.stop().await.unwrap();
//! }
//! ```
//!
//! Everything a counterpart writes lives in a temporary directory that disappears with it, every port is chosen by
//! the kernel, and no process outlives its guard: not even when the test process is killed.

pub mod counterpart;
pub mod entrust;
mod error;
pub mod f5;
mod http_server;
pub mod huawei;
pub mod locate;
pub mod netscaler;
pub mod pki;
pub mod ports;
pub mod process;
pub mod sectigo;
pub mod simhost;
pub mod tls;
pub mod vault;
pub mod winrm;

pub use error::{Error, Result};

/// Takes the value out of a [`Result`], or ends the calling test early when the counterpart was left out on purpose.
///
/// * `Ok(value)` gives the value.
/// * [`Error::LeftOut`], which exists only when `CERTLIB_WITHOUT` names the counterpart, prints `left out: NAME` to
///   standard error and returns from the enclosing function (which must return `()`).
/// * Any other error panics with its message: a missing program is a failure, never a silent skip.
#[macro_export]
macro_rules! require {
    ($result:expr) => {
        match $result {
            ::core::result::Result::Ok(value) => value,
            ::core::result::Result::Err($crate::Error::LeftOut { name }) => {
                ::std::eprintln!("left out: {name}");
                return;
            }
            ::core::result::Result::Err(error) => ::core::panic!("{error}"),
        }
    };
}
