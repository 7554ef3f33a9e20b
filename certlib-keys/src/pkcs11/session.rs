//! Sessions with a token: a few, kept open, logged in again when they were lost.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use certlib_core::secret::KekId;
use certlib_core::{Error, Result};
use cryptoki::context::{Function, Pkcs11};
use cryptoki::error::{Error as Cryptoki, RvError};
use cryptoki::object::ObjectHandle;
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::AuthPin;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::config::{Pkcs11Config, TokenSelector};
use super::failure::{Failure, refuses_the_pin};
use super::module::Module;

/// A token, and the sessions with it.
pub(super) struct Hsm {
    module: Arc<Module>,
    pub(super) config: Pkcs11Config,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Live>>,
    /// Grows when a session was lost: older ones are not used again.
    losses: AtomicU64,
    /// The answer to the log-in that failed, and what lets one log-in happen at a time: a PIN that was refused is never
    /// tried again, whoever asks.
    refused: Mutex<Option<RvError>>,
}

/// An open session, and where it found keys. Handles die with the log-in they were found in.
pub(super) struct Live {
    pub(super) session: Session,
    pub(super) handles: HashMap<KekId, ObjectHandle>,
    since: Since,
}

/// When a session was opened: at which beginning of its library, after how many losses.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Since {
    beginning: u64,
    losses: u64,
}

/// What a session may do to the objects of a token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing but use them.
    Read,
    /// Make and delete them.
    Write,
}

impl Hsm {
    /// Loads the library. Blocks.
    pub(super) fn load(config: Pkcs11Config) -> Result<Self, Failure> {
        let module = Module::load(config.module())?;
        let permits = Arc::new(Semaphore::new(config.sessions.clamp(1, Semaphore::MAX_PERMITS)));
        let (idle, losses, refused) = (Mutex::default(), AtomicU64::new(0), Mutex::default());
        Ok(Self { module, config, permits, idle, losses, refused })
    }

    /// Does `work` with a session, on a thread that may block; a second time with a new session when the first turns out
    /// to be [lost](Failure::is_stale).
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        operation: &'static str,
        access: Access,
        work: impl Fn(&Self, &mut Live) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T> {
        let (hsm, permits, limit) = (self.clone(), self.permits.clone(), self.config.limit());
        let call = async move {
            // Held by the thread, not by this future: a call that hangs keeps its session when nobody waits any more.
            let permit = permits.acquire_owned().await;
            let task = spawn_blocking(move || {
                let _permit = permit;
                hsm.attempt(access, work)
            });
            task.await
        };
        match timeout(limit, call).await {
            Ok(Ok(outcome)) => outcome.map_err(|failure| failure.into_error(operation)),
            Ok(Err(error)) => Err(Error::permanent(operation, "hsm_unusable", "the call broke off").with_source(error)),
            Err(_) => {
                let why = "the token gave no answer in time, or had no session free";
                Err(Error::transient(operation, "hsm_timeout", why).with("seconds", limit.as_secs()))
            }
        }
    }

    fn attempt<T>(&self, access: Access, work: impl Fn(&Self, &mut Live) -> Result<T, Failure>) -> Result<T, Failure> {
        let (since, outcome) = self.attempt_once(access, &work);
        let Err(failure) = &outcome else { return outcome };
        if !failure.is_stale() {
            return outcome;
        }
        tracing::warn!(token = ?self.config.token, ?failure, "a session with the HSM was lost; opening another");
        // Of those that fail together, the first one makes the others' sessions old.
        let _ = self.losses.compare_exchange(since.losses, since.losses + 1, Ordering::AcqRel, Ordering::Acquire);
        if failure.is_after_the_end() {
            self.module.begin_again(since.beginning)?;
        }
        self.attempt_once(access, &work).1
    }

    fn attempt_once<T>(
        &self,
        access: Access,
        work: impl Fn(&Self, &mut Live) -> Result<T, Failure>,
    ) -> (Since, Result<T, Failure>) {
        // Held to the end: the library does not begin again under a session that is used.
        let beginning = self.module.beginning();
        let since = Since { beginning: *beginning, losses: self.losses.load(Ordering::Acquire) };
        let idle = if access == Access::Read { self.take(since) } else { None };
        let mut live = match idle.map_or_else(|| self.open(access, since), Ok) {
            Ok(live) => live,
            Err(failure) => return (since, Err(failure)),
        };
        let outcome = work(self, &mut live);
        match outcome {
            // Who knows what is left in it.
            Err(Failure::Token(..)) => live.close(),
            _ if access == Access::Write => live.close(),
            _ => lock(&self.idle).push(live),
        }
        (since, outcome)
    }

    /// A session that is open already.
    fn take(&self, since: Since) -> Option<Live> {
        loop {
            let live = lock(&self.idle).pop()?;
            if live.since == since {
                return Some(live);
            }
            live.retire(since);
        }
    }

    /// A session that is logged in and knows no key yet.
    fn open(&self, access: Access, since: Since) -> Result<Live, Failure> {
        let (slot, token) = self.find_token()?;
        // Closed by hand: a lost one must not be, since its handle may be another's by then.
        let session = match access {
            Access::Read => self.library().open_ro_session_no_drop(slot)?,
            Access::Write => self.library().open_rw_session_no_drop(slot)?,
        };
        let live = Live { session, handles: HashMap::new(), since };
        match self.log_in(&live.session, &token) {
            Ok(()) => Ok(live),
            Err(failure) => {
                live.close();
                Err(failure)
            }
        }
    }

    /// Whether the session may see private keys now. One log-in holds for all sessions of a process, and so does a
    /// log-out, which hides the keys without an error.
    pub(super) fn confirm_login(&self, session: &Session) -> Result<(), Failure> {
        if is_logged_in(session)? || !self.find_token()?.1.login_required() {
            return Ok(());
        }
        Err(Failure::Token(RvError::UserNotLoggedIn, Function::GetSessionInfo))
    }

    fn log_in(&self, session: &Session, token: &TokenInfo) -> Result<(), Failure> {
        let mut refused = lock(&self.refused);
        if !token.login_required() || is_logged_in(session)? {
            return Ok(());
        }
        if let Some(returned) = *refused {
            return Err(Failure::Token(returned, Function::Login));
        }
        if token.user_pin_locked() {
            return Err(Failure::Token(RvError::PinLocked, Function::Login));
        }
        if token.user_pin_final_try() {
            let why = "one more wrong PIN would lock the token; log in by hand with the right one first";
            return Err(Error::auth("pkcs11.login", "pin_final_try", why).into());
        }
        let pin = AuthPin::from(self.config.pin.expose().as_str());
        match session.login(UserType::User, Some(&pin)) {
            Ok(()) | Err(Cryptoki::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
            Err(Cryptoki::Pkcs11(returned, function)) => {
                if refuses_the_pin(returned) {
                    *refused = Some(returned);
                }
                Err(Failure::Token(returned, function))
            }
            Err(other) => Err(other.into()),
        }
    }

    /// The token that the configuration selects, wherever it is now.
    pub(super) fn find_token(&self) -> Result<(Slot, TokenInfo), Failure> {
        let mut found = Vec::new();
        let mut others = Vec::new();
        for slot in self.library().get_slots_with_token()? {
            // A token that is just being pulled out counts as none.
            let Ok(token) = self.library().get_token_info(slot) else { continue };
            let wanted = match &self.config.token {
                TokenSelector::Label(label) => token.label() == label,
                TokenSelector::Serial(serial) => token.serial_number() == serial,
                TokenSelector::Slot(id) => slot.id() == *id,
            };
            if wanted && token.token_initialized() {
                found.push((slot, token));
            } else if token.token_initialized() {
                others.push(token.label().to_owned());
            }
        }
        if found.len() > 1 {
            let why = "several tokens answer to this; select one by its serial number";
            return Err(Error::validation("pkcs11.open", "token_ambiguous", why).with("tokens", found.len()).into());
        }
        found.pop().ok_or_else(|| {
            let why = "the library shows no such token: it is away, or its name is another one";
            let error = Error::transient("pkcs11.open", "token_missing", why);
            error.with("token", format_args!("{:?}", self.config.token)).with("others", others.join(", ")).into()
        })
    }

    pub(super) fn library(&self) -> &Pkcs11 {
        &self.module.library
    }
}

impl Drop for Hsm {
    fn drop(&mut self) {
        let beginning = self.module.beginning();
        let now = Since { beginning: *beginning, losses: self.losses.load(Ordering::Acquire) };
        for live in lock(&self.idle).drain(..) {
            live.retire(now);
        }
    }
}

impl Live {
    /// Closes a session that has grown old, if its handle is still its own.
    fn retire(self, now: Since) {
        if self.since.beginning == now.beginning {
            self.close();
        }
    }

    fn close(self) {
        // There is nothing to do about one that cannot be closed, and it ends with the process.
        let _ = self.session.close();
    }
}

fn is_logged_in(session: &Session) -> Result<bool, Failure> {
    Ok(matches!(session.get_session_info()?.session_state(), SessionState::RoUser | SessionState::RwUser))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
