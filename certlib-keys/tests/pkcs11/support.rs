//! A token, and the process that uses it.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use certlib_core::Secret;
use certlib_core::secret::{Dek, Kek, KeyProvider as _};
use certlib_keys::pkcs11::{Pkcs11Config, Pkcs11Provider, TokenSelector};
use certlib_testkit::counterpart::SoftHsm;
use certlib_testkit::process;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;

const MODULE: &str = "CERTLIB_TEST_HSM_MODULE";
const LABEL: &str = "CERTLIB_TEST_HSM_LABEL";
const PIN: &str = "CERTLIB_TEST_HSM_PIN";
const STEP: &str = "CERTLIB_TEST_HSM_STEP";
const FOLDER: &str = "CERTLIB_TEST_HSM_FOLDER";
/// The library that the one of a vendor is in front of.
pub(crate) const REAL: &str = "CERTLIB_TEST_HSM_REAL";

/// The token, as the process sees it that was started for it.
pub(crate) struct Token {
    pub(crate) module: PathBuf,
    pub(crate) label: String,
    pub(crate) pin: String,
    /// Which part of the test this process is.
    pub(crate) step: String,
    /// Where the processes of a test leave things for each other.
    pub(crate) folder: PathBuf,
}

impl Token {
    /// The token that this process was started for; `None` in the process that the harness started.
    pub(crate) fn inherited() -> Option<Token> {
        let text = |name| std::env::var(name).ok();
        let module = std::env::var_os(MODULE)?.into();
        // What is logged must not contain the PIN either.
        tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_writer(std::io::stderr).init();
        Some(Token { module, label: text(LABEL)?, pin: text(PIN)?, step: text(STEP)?, folder: text(FOLDER)?.into() })
    }

    pub(crate) fn config(&self) -> Pkcs11Config {
        self.config_with_pin(&self.pin)
    }

    pub(crate) fn config_with_pin(&self, pin: &str) -> Pkcs11Config {
        Pkcs11Config::new(&self.module, TokenSelector::Label(self.label.clone()), Secret::new(pin.to_owned()))
    }

    pub(crate) async fn provider(&self) -> Arc<Pkcs11Provider> {
        Arc::new(Pkcs11Provider::open(self.config()).await.unwrap())
    }

    /// The library, as another part of this process would use it.
    pub(crate) fn library(&self) -> Pkcs11 {
        let library = Pkcs11::new(&self.module).unwrap();
        // It may have been begun already.
        let _ = library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
        library
    }

    pub(crate) fn slot(&self) -> Slot {
        let library = self.library();
        let slots = library.get_slots_with_token().unwrap();
        slots.into_iter().find(|slot| library.get_token_info(*slot).unwrap().label() == self.label).unwrap()
    }

    /// A session that may write, logged in.
    pub(crate) fn session(&self) -> Session {
        let session = self.library().open_rw_session(self.slot()).unwrap();
        let pin = AuthPin::from(self.pin.as_str());
        // One log-in holds for the whole process.
        let _ = session.login(UserType::User, Some(&pin));
        session
    }
}

/// In the process that the harness started: makes a token and runs the test `test` in another one, which gets the token
/// from here. What that says must not contain the PIN.
pub(crate) async fn in_process(test: &str) -> Option<Token> {
    if let Some(token) = Token::inherited() {
        return Some(token);
    }
    let hsm = match SoftHsm::start("certlib tests").await {
        Err(certlib_testkit::Error::LeftOut { name }) => {
            eprintln!("left out: {name}");
            return None;
        }
        other => other.unwrap(),
    };
    run(test, &hsm, hsm.module(), "").await;
    None
}

/// Runs the part `step` of the test `test` in a process with the token of `hsm`.
pub(crate) async fn run(test: &str, hsm: &SoftHsm, module: &Path, step: &str) {
    let (variable, configuration) = hsm.environment();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(variable, configuration);
    let text = |text: &str| OsString::from(text);
    for (name, value) in [
        (MODULE, module.as_os_str().to_owned()),
        (REAL, hsm.module().as_os_str().to_owned()),
        (LABEL, text(hsm.label())),
        (PIN, text(hsm.pin())),
        (STEP, text(step)),
        (FOLDER, hsm.folder().as_os_str().to_owned()),
    ] {
        command.env(name, value);
    }
    let output = process::capture(command, b"").await.unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(!said.contains(hsm.pin()), "the PIN was printed");
    assert!(output.status.success() && said.contains(" 1 passed"), "{test} {step}:\n{said}");
}

/// Says something that must not contain the PIN: the process that started this one looks for it.
pub(crate) fn say(what: &impl fmt::Debug) {
    eprintln!("{what:?} {what:#?}");
}

pub(crate) fn dek() -> Dek {
    Secret::new(std::array::from_fn(|n| u8::try_from(n).unwrap()))
}

pub(crate) async fn assert_works(provider: &Pkcs11Provider, kek: &Kek) {
    let wrapped = provider.wrap(kek, &dek(), b"place").await.unwrap();
    assert_eq!(provider.unwrap(kek, &wrapped, b"place").await.unwrap().expose(), dek().expose());
}
