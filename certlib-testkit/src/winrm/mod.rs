//! A simulated Windows host with WinRM and IIS, inside the test's own process.

mod builder;
mod command;
mod fault;
mod history;
mod script;
mod windows;

pub use self::{
    builder::WinRmSimBuilder,
    fault::{Change, Fault, Injection, Operation},
    history::{Executed, Record},
    script::{Bootstrap, Marker, ScriptCall, ScriptMatcher, ScriptOutput},
    windows::{
        AppPool, Binding, CENTRAL_STORE, CentralStore, CertificateStores, FileInfo, FileSystem, HttpSys, IIS_APP_ID,
        Iis, ImportOptions, SNI, Service, Site, SslEntry, SslKey, StoredCertificate, Windows, WindowsError,
        WindowsResult, pfx_of, thumbprint,
    },
};
