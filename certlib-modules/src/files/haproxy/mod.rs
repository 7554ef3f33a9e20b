//! HAProxy's runtime API: a running process takes a certificate over its socket, without reading its files again and
//! without a reload. The file on disk is for its next start.
//!
//! This file knows when HAProxy is told; [`runtime`] knows how.

mod runtime;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use certlib_core::error::codes;
use certlib_core::module::{EndpointCheck, Journal, RollbackOutcome, Step, Verb};
use certlib_core::secret::SecretBytes;
use certlib_core::{CertificateBundle, Error, Result, Secret};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};

use self::runtime::Runtime;
use super::apply::possible;
use super::filesystem::{FileSystem, Found};
use super::layout::Format;
use super::undo::{Change, Swap, Undo};
use super::{Delivery, FILE_LIMIT, formats, path};

/// Whom to tell that there is a new [`combined`](super::Paths::combined) file.
///
/// The socket is one that `stats socket PATH level admin` names in HAProxy's configuration, 2.2 or later. Whoever
/// delivers needs the right to write to it: with `mode 660 group haproxy` there, be in that group.
///
/// HAProxy has one transaction for all its certificates. Where several deliveries meet, one waits for the other; a
/// transaction that stays open, unchanged, for all of about three seconds counts as left behind and is aborted, whoever
/// opened it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Haproxy {
    /// The path of the socket.
    pub socket: String,
    /// The name that `show ssl cert` lists the file under; by default its path. It differs where the configuration
    /// names the file in relation to `crt-base`, and where HAProxy is in a container of its own.
    #[serde(default)]
    pub certificate: Option<String>,
}

/// What HAProxy is about to be told, and what it served until then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Commit {
    /// SHA-1 of the former leaf, lower-case hex, as HAProxy names certificates.
    pub former: String,
    /// SHA-1 of the new leaf.
    pub new: String,
}

impl Haproxy {
    /// Accepts a socket and a name that can be words of a command.
    ///
    /// # Errors
    /// `Validation`: `path_invalid`, `haproxy_name_invalid`.
    pub(super) fn check(&self, file: &str) -> Result<()> {
        path::check(&self.socket).map_err(|error| error.with("field", "haproxy.socket"))?;
        let name = self.name(file);
        if !runtime::is_plain(name) {
            return Err(Error::validation(
                "files.check",
                "haproxy_name_invalid",
                "HAProxy's commands take names of ASCII letters, digits and /._-+@:,=%~ only",
            )
            .with("name", name.chars().take(256).collect::<String>().escape_debug()));
        }
        Ok(())
    }

    fn name<'a>(&'a self, file: &'a str) -> &'a str {
        self.certificate.as_deref().unwrap_or(file)
    }
}

impl<'a> Delivery<'a> {
    /// Checks what can be checked without HAProxy.
    pub(super) fn check_haproxy(&self) -> Result<()> {
        let Some(haproxy) = &self.settings.haproxy else { return Ok(()) };
        let Some(combined) = &self.layout.paths.combined else {
            return Err(Error::validation(
                "files.check",
                "haproxy_needs_combined",
                "HAProxy reads certificate and key from one file: give the path `combined`",
            ));
        };
        haproxy.check(&combined.path)
    }

    fn runtime(&self, fs: &'a dyn FileSystem) -> Option<Runtime<'a>> {
        let haproxy = self.settings.haproxy.as_ref()?;
        let combined = self.layout.paths.combined.as_ref()?;
        let certificate = haproxy.name(&combined.path);
        let (timeout, pause) = (self.command_timeout(), runtime::PAUSE);
        Some(Runtime { fs, socket: &haproxy.socket, certificate, timeout, pause })
    }

    /// SHA-1 of the leaf that HAProxy has in memory; `None` when no HAProxy is to be told anything.
    pub(super) async fn memory(&self, fs: &dyn FileSystem) -> Result<Option<String>> {
        match self.runtime(fs) {
            Some(runtime) => runtime.leaf().await.map(Some),
            None => Ok(None),
        }
    }

    /// The step in which HAProxy is told.
    pub(super) fn haproxy_step(&self, memory: &str, bundle: &CertificateBundle) -> Option<Step> {
        let haproxy = self.settings.haproxy.as_ref()?;
        let combined = self.layout.paths.combined.as_ref()?;
        let (socket, name) = (&haproxy.socket, haproxy.name(&combined.path));
        let new = thumbprint(bundle.leaf_der());
        let step = Step::new(Verb::Call, format!("HAProxy at {socket}: set and commit ssl cert {name}"));
        Some(step.before(format!("leaf sha1 {memory}")).after(format!("leaf sha1 {new}")))
    }

    /// Has HAProxy serve `bundle`. `recorded` is what an earlier attempt was about to do.
    ///
    /// # Errors
    /// As [`Runtime::serve`]; `Validation` `foreign_change` when somebody else gave it another certificate meanwhile.
    pub(super) async fn commit(
        &self,
        fs: &dyn FileSystem,
        bundle: &CertificateBundle,
        recorded: Option<&Commit>,
        journal: &Journal<'_, Undo>,
    ) -> Result<()> {
        let Some(runtime) = self.runtime(fs) else { return Ok(()) };
        let memory = runtime.leaf().await.map_err(possible)?;
        let new = thumbprint(bundle.leaf_der());
        match recorded {
            Some(recorded) if memory != recorded.former && memory != new => {
                return Err(possible(Error::validation(
                    "files.haproxy",
                    codes::FOREIGN_CHANGE,
                    "somebody else gave HAProxy another certificate meanwhile",
                )));
            }
            Some(_) => {}
            None => {
                let commit = Commit { former: memory, new: new.clone() };
                journal.record("commit", &Undo::Committing(commit)).await.map_err(possible)?;
            }
        }
        let pem = formats::render(Format::Combined, bundle, self.pfx()).map_err(possible)?;
        runtime.serve(&pem, &new).await.map_err(possible)
    }

    /// Why HAProxy's memory must not be taken back, if there is a reason: the code and words for it. `former` is what there
    /// is to give back.
    fn memory_refusal(
        commit: &Commit,
        former: Option<&SecretBytes>,
        memory: &str,
    ) -> Option<(&'static str, &'static str)> {
        let file = former.and_then(leaf);
        let known = [Some(&commit.former), Some(&commit.new), file.as_ref()];
        if !known.into_iter().flatten().any(|leaf| leaf == memory) {
            return Some((
                codes::FOREIGN_CHANGE,
                "HAProxy serves what is neither the new certificate nor the former one",
            ));
        }
        let lost = file.is_none() && memory != commit.former;
        lost.then_some((
            "haproxy_former_lost",
            "HAProxy's former certificate was in no file, so it cannot be given back",
        ))
    }

    /// As [`memory_refusal`](Self::memory_refusal), when files were swapped as well.
    pub(super) fn swap_refusal(commit: &Commit, swap: &Swap, memory: &str) -> Option<(&'static str, &'static str)> {
        Self::memory_refusal(commit, former(swap), memory)
    }

    /// Has HAProxy serve what was in the file before; without that, takes back what it was given and did not take.
    pub(super) async fn serve_former(&self, fs: &dyn FileSystem, swap: &Swap, commit: &Commit) -> Result<()> {
        let Some(runtime) = self.runtime(fs) else { return Ok(()) };
        let former = former(swap).and_then(|pem| Some((pem, leaf(pem)?)));
        let served = match former {
            Some((pem, leaf)) => runtime.serve(&without_empty_lines(pem), &leaf).await,
            None => runtime.withdraw(Some(&commit.new)).await,
        };
        served.map_err(possible)
    }

    /// Takes back a commit that came without a swap, because every file was as it should be: HAProxy's memory was
    /// behind, and is to be behind again. What was there can only come from the file, if somebody put it back.
    ///
    /// # Errors
    /// As [`Runtime::serve`]; as [`FileSystem::observe`].
    pub(super) async fn take_back(&self, fs: &dyn FileSystem, commit: &Commit) -> Result<RollbackOutcome> {
        let refused = |(code, reason): (&str, &str)| {
            Ok(RollbackOutcome::Refused { code: code.to_owned(), reason: reason.to_owned() })
        };
        let (Some(runtime), Some(combined)) = (self.runtime(fs), &self.layout.paths.combined) else {
            return refused(("haproxy_former_lost", "the target names no HAProxy any more, so none can be told"));
        };
        let memory = runtime.leaf().await?;
        if memory == commit.former {
            runtime.withdraw(Some(&commit.new)).await.map_err(possible)?;
            return Ok(RollbackOutcome::NothingToDo);
        }
        let former = match fs.observe(&combined.path, FILE_LIMIT).await? {
            Found::File(file) if leaf(&file.content).as_ref() == Some(&commit.former) => Some(file.content),
            _ => None,
        };
        if let Some(refusal) = Self::memory_refusal(commit, former.as_ref(), &memory) {
            return refused(refusal);
        }
        if let Some(former) = former {
            runtime.serve(&without_empty_lines(&former), &commit.former).await.map_err(possible)?;
        }
        Ok(RollbackOutcome::RolledBack)
    }

    /// Looks whether HAProxy has `bundle` in memory: a part of the proof that is left without endpoints.
    pub(super) async fn haproxy_check(
        &self,
        fs: &dyn FileSystem,
        bundle: &CertificateBundle,
    ) -> Result<Option<EndpointCheck>> {
        let Some(memory) = self.memory(fs).await? else { return Ok(None) };
        let problem = (memory != thumbprint(bundle.leaf_der())).then(|| "has another certificate in memory".to_owned());
        let leaf = problem.is_none().then(|| bundle.fingerprint());
        Ok(Some(EndpointCheck::new("haproxy", leaf, 1, problem)))
    }
}

/// Whether HAProxy, which has the leaf `memory`, need not be told of `bundle`.
pub(super) fn has(memory: Option<&str>, bundle: &CertificateBundle) -> bool {
    memory.is_none_or(|memory| memory == thumbprint(bundle.leaf_der()))
}

/// What was in the combined file before it was swapped.
fn former(swap: &Swap) -> Option<&SecretBytes> {
    let change = swap.files.iter().find(|change: &&Change| change.format == Format::Combined)?;
    Some(&change.before.as_ref()?.content)
}

/// SHA-1 of the first certificate in a PEM file, which is the one that HAProxy takes for the leaf.
fn leaf(pem: &SecretBytes) -> Option<String> {
    CertificateDer::from_pem_slice(pem.expose()).ok().map(|der| thumbprint(&der))
}

/// HAProxy takes an empty line for the end of a certificate that is sent to it.
fn without_empty_lines(pem: &SecretBytes) -> SecretBytes {
    let mut kept = Vec::with_capacity(pem.expose().len() + 1);
    for line in pem.expose().split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()) {
        kept.extend_from_slice(line);
        kept.push(b'\n');
    }
    Secret::new(kept)
}

/// SHA-1, lower-case hex: a name here, and no proof.
fn thumbprint(der: &[u8]) -> String {
    digest(&SHA1_FOR_LEGACY_USE_ONLY, der).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_command_would_misread_are_refused() {
        let haproxy = |name: &str| Haproxy { socket: "/run/h.sock".into(), certificate: Some(name.into()) };
        for name in ["site.pem", "/etc/haproxy/a-b_c.pem", "@store/site"] {
            haproxy(name).check("/x").unwrap();
        }
        for name in ["", "a b", "a;b", "a\\b", "a\nb", "<<", "a\"", "*a", "ü"] {
            assert_eq!(haproxy(name).check("/x").unwrap_err().code(), "haproxy_name_invalid", "{name:?}");
        }
        let default = Haproxy { socket: "/run/h.sock".into(), certificate: None };
        assert_eq!(default.check("/a b").unwrap_err().code(), "haproxy_name_invalid");
        let relative = Haproxy { socket: "h.sock".into(), certificate: None };
        assert_eq!(relative.check("/a").unwrap_err().code(), "path_invalid");
    }

    #[test]
    fn empty_lines_go_and_the_first_certificate_is_the_leaf() {
        let bundle = crate::files::testing::shared_bundle();
        let pem = format!("# comment\r\n\r\n{}\n \n{}", bundle.leaf_pem(), bundle.chain_pem());
        let pem = Secret::new(pem.into_bytes());
        let kept = without_empty_lines(&pem);
        let text = std::str::from_utf8(kept.expose()).unwrap();
        assert_eq!(text, format!("# comment\n{}{}", bundle.leaf_pem(), bundle.chain_pem()));
        assert_eq!(leaf(&kept), Some(thumbprint(bundle.leaf_der())));
        assert_eq!(leaf(&Secret::new(b"nothing".to_vec())), None);
    }
}
