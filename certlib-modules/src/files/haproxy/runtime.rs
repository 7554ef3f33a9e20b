//! The commands of HAProxy's runtime API, one connection each (HAProxy Management Guide, section 9.3, "ssl cert").
//!
//! What HAProxy says in words decides nothing: it is asked what it has, before and after. One transaction serves all
//! certificates, and `set ssl cert` of one certificate writes into the open transaction of another, so each step
//! looks whether the transaction is still ours.

use std::time::Duration;

use certlib_core::secret::SecretBytes;
use certlib_core::{Error, Result, Secret};
use rand::RngExt as _;
use tokio::time::sleep;

use crate::files::filesystem::FileSystem;

const OPERATION: &str = "files.haproxy";

/// How often something is tried while others have the transaction, or while HAProxy is at work on a commit and shows
/// nothing.
const TRIES: u32 = 30;

/// How often HAProxy may refuse: another client may have spoilt the first try without a trace.
const REFUSALS: u32 = 4;

/// The shortest pause between two tries; the longest is three times that.
const PAUSE_MS: u64 = 50;

/// One certificate of one HAProxy.
#[derive(Debug)]
pub(super) struct Runtime<'a> {
    pub(super) fs: &'a dyn FileSystem,
    pub(super) socket: &'a str,
    /// The name that HAProxy knows it by.
    pub(super) certificate: &'a str,
    pub(super) timeout: Duration,
}

/// What HAProxy has.
#[derive(Debug, Default, PartialEq, Eq)]
struct State {
    /// SHA-1 of the leaf of what was asked for, lower-case hex.
    leaf: Option<String>,
    /// The certificate that the open transaction is about.
    transaction: Option<String>,
    /// Whether it was HAProxy that answered.
    lists: bool,
}

/// How one try ended.
enum Try {
    Done,
    /// Others had, or spoilt, the transaction.
    Busy,
    Refused,
}

impl Runtime<'_> {
    /// SHA-1 of the leaf that it has in memory, lower-case hex.
    ///
    /// # Errors
    /// `Validation` `haproxy_certificate_unknown`; `IoPermanent` `haproxy_not_understood`; as [`FileSystem::ask`].
    pub(super) async fn leaf(&self) -> Result<String> {
        self.require_leaf(&self.look("").await?)
    }

    /// Has it serve `pem`, whose leaf has the SHA-1 `leaf`. Does no harm when it does so already.
    ///
    /// # Errors
    /// As [`leaf`](Self::leaf); `IoPermanent` `haproxy_refused`; `IoTransient` `haproxy_busy`.
    pub(super) async fn serve(&self, pem: &SecretBytes, leaf: &str) -> Result<()> {
        let mut refusals = 0;
        for attempt in 0..TRIES {
            if attempt > 0 {
                pause().await;
            }
            match self.attempt(pem, leaf).await? {
                Try::Done => return Ok(()),
                Try::Busy => {}
                Try::Refused if refusals < REFUSALS => refusals += 1,
                Try::Refused => return Err(self.refused(pem)),
            }
        }
        Err(self.place(Error::transient(OPERATION, "haproxy_busy", "others kept HAProxy's only transaction")))
    }

    async fn attempt(&self, pem: &SecretBytes, leaf: &str) -> Result<Try> {
        let before = self.look("").await?;
        self.require_leaf(&before)?;
        match before.transaction.as_deref() {
            None => {}
            // An earlier attempt may have died with it open.
            Some(name) if name == self.certificate => self.abort(name).await?,
            Some(_) => return Ok(Try::Busy),
        }
        self.set(pem).await?;
        let staged = self.look("*").await?;
        match staged.transaction.as_deref() {
            None => return Ok(Try::Refused),
            Some(name) if name != self.certificate => {
                // It began after we looked, and now has our key in it: it must not be committed.
                self.abort(name).await?;
                return Ok(Try::Busy);
            }
            Some(_) if staged.leaf.as_deref() != Some(leaf) => return Ok(Try::Busy),
            Some(_) => {}
        }
        self.command(&format!("commit ssl cert {}", self.certificate)).await?;
        let after = self.look("").await?;
        let ours_is_open = after.transaction.as_deref() == Some(self.certificate);
        if ours_is_open {
            // A commit that was refused leaves it open, for everybody to stumble over.
            self.abort(self.certificate).await?;
        }
        match (after.leaf.as_deref() == Some(leaf), ours_is_open) {
            (true, false) => Ok(Try::Done),
            (_, true) => Ok(Try::Refused),
            (false, false) => Ok(Try::Busy),
        }
    }

    /// Asks for the certificate, or with the prefix `*` for what the transaction would make of it.
    async fn look(&self, prefix: &str) -> Result<State> {
        let certificate = self.certificate;
        for attempt in 0..TRIES {
            if attempt > 0 {
                pause().await;
            }
            let answer = self.command(&format!("show ssl cert {prefix}{certificate};show ssl cert")).await?;
            let state = State::read(&String::from_utf8_lossy(&answer), &format!("{prefix}{certificate}"));
            if state.lists {
                return Ok(state);
            }
        }
        Err(self.place(Error::permanent(
            OPERATION,
            "haproxy_not_understood",
            "what answers does not show certificates: HAProxy before 2.2, a socket without `level admin`, or another program",
        )))
    }

    fn require_leaf(&self, state: &State) -> Result<String> {
        state.leaf.clone().ok_or_else(|| {
            self.place(Error::validation(
                OPERATION,
                "haproxy_certificate_unknown",
                "HAProxy has loaded no certificate of this name; its configuration has to name the file first",
            ))
        })
    }

    async fn set(&self, pem: &SecretBytes) -> Result<()> {
        let start = format!("set ssl cert {} <<\n", self.certificate);
        // Exactly as large as needed, so that growing leaves no copy of the key behind.
        let mut request = Vec::with_capacity(start.len() + pem.expose().len() + 1);
        request.extend_from_slice(start.as_bytes());
        request.extend_from_slice(pem.expose());
        // The empty line that ends it.
        request.push(b'\n');
        self.fs.ask(self.socket, &Secret::new(request), self.timeout).await.map(drop)
    }

    async fn abort(&self, name: &str) -> Result<()> {
        self.command(&format!("abort ssl cert {name}")).await.map(drop)
    }

    async fn command(&self, line: &str) -> Result<Vec<u8>> {
        self.fs.ask(self.socket, &Secret::new(format!("{line}\n").into_bytes()), self.timeout).await
    }

    fn refused(&self, pem: &SecretBytes) -> Error {
        self.place(Error::permanent(
            OPERATION,
            "haproxy_refused",
            "HAProxy does not take this certificate: certificate and key do not fit or are too weak, it is larger than \
             tune.bufsize, or the socket is not at level admin",
        ))
        .with("bytes", pem.expose().len())
    }

    fn place(&self, error: Error) -> Error {
        error.with("socket", self.socket.escape_debug()).with("certificate", self.certificate)
    }
}

async fn pause() {
    let pause = rand::rng().random_range(PAUSE_MS..=3 * PAUSE_MS);
    sleep(Duration::from_millis(pause)).await;
}

impl State {
    /// Reads the answer to `show ssl cert NAME;show ssl cert`.
    fn read(answer: &str, name: &str) -> Self {
        let mut state = Self::default();
        let (mut shown, mut after_heading) = (false, false);
        for line in answer.lines() {
            if after_heading {
                state.transaction = line.strip_prefix('*').map(str::to_owned);
            }
            after_heading = line == "# transaction";
            state.lists |= line == "# transaction" || line == "# filename";
            if let Some(filename) = line.strip_prefix("Filename: ") {
                shown = filename == name;
            } else if let Some(leaf) = line.strip_prefix("SHA1 FingerPrint: ").filter(|_| shown) {
                state.leaf = Some(leaf.to_ascii_lowercase());
            }
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_haproxy_2_6() {
        let details = |name: &str| {
            format!(
                "Filename: {name}\nStatus: Used\nSerial: 35D1\nAlgorithm: EC256\n\
                 SHA1 FingerPrint: A3AA7798BA9929691C36751E7418617E07C9172A\nSubject: /CN=localhost\n\n"
            )
        };
        let leaf = Some("a3aa7798ba9929691c36751e7418617e07c9172a".to_owned());
        let list = "# filename\n/a.pem\n/b.pem\n\n";
        let known = State::read(&(details("/a.pem") + list), "/a.pem");
        assert_eq!(known, State { leaf: leaf.clone(), transaction: None, lists: true });
        let open = format!("{}# transaction\n*/b.pem\n{list}", details("*/a.pem"));
        let open = State::read(&open, "*/a.pem");
        assert_eq!(open, State { leaf, transaction: Some("/b.pem".into()), lists: true });
        let unknown = State::read(&format!("Can't display the certificate\n\n{list}"), "/c.pem");
        assert_eq!(unknown, State { leaf: None, transaction: None, lists: true });
        // Another program, or somebody else's certificate.
        assert_eq!(State::read("220 mail ESMTP\n", "/a.pem"), State::default());
        assert_eq!(State::read(&(details("/b.pem") + list), "/a.pem").leaf, None);
    }
}
