//! A pass over all records with secrets, page by page, each page one commit.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;

use super::{ENVELOPE_UNREADABLE_EVENT, Held, Mover};
use crate::error::{Error, Result};
use crate::metrics;
use crate::model::{Event, RotationCursor};
use crate::secret::{KekId, Sealed};
use crate::store::{
    AnyRecord, Cursor, Filter, IndexValue, KEK_FIELD, PAGE_MAX, Query, RawRecord, RecordKind, SealedField,
};

/// How many records one commit moves on.
const PAGE: usize = 200;
/// How many data keys are wrapped at the same time: what a remote key provider is asked for at once.
const AT_ONCE: usize = 16;
/// How many secrets that cannot be unwrapped are spoken of in each pass.
const TOLD_MAX: u64 = 20;

/// Which records a pass looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Those under this key.
    Under(KekId),
    /// All of the kinds that have secrets.
    Everything,
}

impl Scope {
    pub(super) fn query(self, kind: &'static str, after: Option<String>, limit: usize) -> Query {
        let filters = match self {
            Self::Under(kek) => vec![Filter::Equal(KEK_FIELD, IndexValue::Text(kek.to_string()))],
            Self::Everything => Vec::new(),
        };
        let after = after.map(|id| Cursor { value: None, id });
        Query { kind, filters, order_by: None, descending: false, limit, after }
    }
}

/// A page that was looked at.
#[derive(Default)]
struct Dealt {
    /// Wrapped anew, to be written.
    moved: Vec<Box<dyn AnyRecord>>,
    /// How many unwrap under the key that seals.
    verified: u64,
    bad: Vec<Bad>,
}

enum One {
    Moved(Box<dyn AnyRecord>),
    Verified,
    /// It has no secret.
    Plain,
    Bad(Bad),
}

/// A secret that cannot be unwrapped.
struct Bad {
    id: String,
    project: String,
    error: Error,
}

impl Mover {
    /// How many secrets are under `kek`; `None` if this node may no longer lead.
    pub(super) async fn count(&self, kek: &KekId) -> Result<Option<u64>> {
        let mut count = 0;
        for kind in self.shared.kinds.iter() {
            let mut after = None;
            loop {
                if self.cx.is_over() {
                    return Ok(None);
                }
                tokio::task::yield_now().await;
                let page = self.cx.store.query(&Scope::Under(*kek).query(kind.name(), after, PAGE_MAX)).await?;
                count += page.records.len() as u64;
                match page.next {
                    Some(next) => after = Some(next.id),
                    None => break,
                }
            }
        }
        Ok(Some(count))
    }

    /// Goes on from the cursor to the end; `false` if this node may no longer lead. What is not under the new key is
    /// wrapped anew, and what is, verified.
    pub(super) async fn walk(&self, held: &mut Held, scope: Scope) -> Result<bool> {
        let start = held.rotation.cursor.clone();
        for kind in self.shared.kinds.iter() {
            let mut after = None;
            if let Some(start) = &start {
                match kind.name().cmp(&*start.kind) {
                    std::cmp::Ordering::Less => continue,
                    std::cmp::Ordering::Equal => after.clone_from(&start.after),
                    std::cmp::Ordering::Greater => {}
                }
            }
            if scope == Scope::Everything && !self.has_secrets(kind.name()).await? {
                continue;
            }
            loop {
                if self.cx.is_over() {
                    return Ok(false);
                }
                // A store in memory never waits, and neither do keys in memory: others want their turn.
                tokio::task::yield_now().await;
                self.check_keys(held)?;
                let page = self.cx.store.query(&scope.query(kind.name(), after, PAGE)).await?;
                if let Some(last) = page.records.last().map(|raw| raw.id.clone()) {
                    let dealt = self.deal(held, kind, scope, page.records).await?;
                    self.keep(held, kind.name(), last, dealt).await?;
                }
                match page.next {
                    Some(next) => after = Some(next.id),
                    None => break,
                }
            }
        }
        Ok(true)
    }

    async fn has_secrets(&self, kind: &'static str) -> Result<bool> {
        let query = Query { order_by: Some(KEK_FIELD), ..Scope::Everything.query(kind, None, 1) };
        Ok(!self.cx.store.query(&query).await?.records.is_empty())
    }

    async fn deal(&self, held: &Held, kind: &dyn RecordKind, scope: Scope, page: Vec<RawRecord>) -> Result<Dealt> {
        let ones = stream::iter(page).map(|raw| self.deal_with(held, kind, scope, raw));
        let ones: Vec<One> = ones.buffered(AT_ONCE).try_collect().await?;
        let mut dealt = Dealt::default();
        for one in ones {
            match one {
                One::Moved(record) => dealt.moved.push(record),
                One::Verified => dealt.verified += 1,
                One::Plain => {}
                One::Bad(bad) => dealt.bad.push(bad),
            }
        }
        Ok(dealt)
    }

    async fn deal_with(&self, held: &Held, kind: &dyn RecordKind, scope: Scope, raw: RawRecord) -> Result<One> {
        let bad = |project: &str, error| One::Bad(Bad { id: raw.id.clone(), project: project.to_owned(), error });
        let mut record = match kind.decode(&raw) {
            Ok(record) => record,
            Err(error) => return Ok(bad("", error)),
        };
        let Some(field) = record.sealed() else {
            let why = "this record is known to have a secret, but does not";
            return Ok(match scope {
                Scope::Under(_) => bad("", Error::permanent("rotation", "secret_missing", why)),
                Scope::Everything => One::Plain,
            });
        };
        let to = held.rotation.to.id;
        let result = if field.sealed.kek() == Some(to) {
            self.shared.envelope.verify(field.sealed, &field.aad).await.map(|()| None)
        } else {
            self.rewrap_one(field, &to).await.map(Some)
        };
        match result {
            Ok(None) => Ok(One::Verified),
            Ok(Some(sealed)) => match record.replace_sealed(sealed) {
                Ok(()) => Ok(One::Moved(record)),
                Err(error) => Ok(bad("", error)),
            },
            Err(error) if self.is_beyond_help(held, field.sealed, &error) => Ok(bad(field.aad.tenant, error)),
            Err(error) => Err(error),
        }
    }

    async fn rewrap_one(&self, field: SealedField<'_>, to: &KekId) -> Result<Sealed> {
        let envelope = &self.shared.envelope;
        let sealed = envelope.rewrap(field.sealed, &field.aad).await?;
        if sealed.kek() == Some(*to) {
            return Ok(sealed);
        }
        // This node looked which key seals before that changed, and had it seal only now.
        envelope.promote(to)?;
        let sealed = envelope.rewrap(field.sealed, &field.aad).await?;
        if sealed.kek() == Some(*to) {
            return Ok(sealed);
        }
        Err(Error::transient("rotation", "primary_moved", "somebody else says which key this node seals with"))
    }

    /// Whether the secret itself is at fault, and not a key or its provider.
    fn is_beyond_help(&self, held: &Held, sealed: &Sealed, error: &Error) -> bool {
        match error.code() {
            "envelope_invalid" | "envelope_rejected" | "commitment_mismatch" => true,
            "kek_unknown" => {
                let at_hand = |kek: KekId| self.shared.envelope.keks().iter().any(|own| own.id == kek);
                let expected = [held.rotation.from.id, held.rotation.to.id];
                sealed.kek().is_none_or(|kek| !expected.contains(&kek) && !at_hand(kek))
            }
            _ => false,
        }
    }

    /// Writes what was moved, and how far the pass has come. A part that somebody else wrote to meanwhile is halved
    /// until what is left is the record that they wrote, which stays as they want it.
    async fn keep(&self, held: &mut Held, kind: &'static str, last: String, dealt: Dealt) -> Result<()> {
        self.tell(held, kind, &dealt.bad).await?;
        let mut open = vec![&dealt.moved[..]];
        while let Some(part) = open.pop() {
            let mut next = held.rotation.clone();
            next.rewrapped += part.len() as u64;
            next.note = None;
            if open.is_empty() {
                next.cursor = Some(RotationCursor { kind: kind.to_owned(), after: Some(last.clone()) });
                next.verified += dealt.verified;
                next.unreadable += dealt.bad.len() as u64;
            }
            let batch = part.iter().try_fold(self.cx.batch(), |batch, record| record.update_in(batch))?;
            let former = std::mem::replace(&mut held.rotation, next);
            match self.save(held, batch).await {
                Ok(()) => metrics::rewrapped(part.len() as u64),
                Err(error) if error.is_conflict() => {
                    held.rotation = former;
                    match (self.refresh(held).await?, part) {
                        (true, _) => open.push(part),
                        (false, []) => return Err(error),
                        (false, [_]) if open.is_empty() => open.push(&[]),
                        (false, [_]) => {}
                        (false, _) => {
                            let (left, right) = part.split_at(part.len() / 2);
                            open.extend([right, left]);
                        }
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether the keyring's state was written by somebody else: then it is as it is now.
    ///
    /// # Errors
    /// `conflict` when this is no longer the same rotation in the same phase.
    async fn refresh(&self, held: &mut Held) -> Result<bool> {
        let gone = || Error::validation("rotation", crate::error::codes::CONFLICT, "the rotation is another one now");
        let now = self.load().await?.ok_or_else(gone)?;
        if now.rotation.id != held.rotation.id || now.rotation.phase != held.rotation.phase {
            return Err(gone());
        }
        let is_new = now.state.revision != held.state.revision;
        *held = now;
        Ok(is_new)
    }

    /// Speaks of secrets that cannot be unwrapped, once for each rotation.
    async fn tell(&self, held: &Held, kind: &'static str, bad: &[Bad]) -> Result<()> {
        let left = usize::try_from(TOLD_MAX.saturating_sub(held.rotation.unreadable)).unwrap_or(0);
        for Bad { id, project, error } in bad.iter().take(left) {
            tracing::error!(kind, %id, project, %error, "a secret cannot be unwrapped");
            let rotation = &held.rotation;
            let data = json!({
                "rotation": rotation.id,
                "kind": kind,
                "id": id,
                "project": project,
                "code": error.code(),
                "severity": crate::model::Severity::Error,
            });
            let event = Event::new("", ENVELOPE_UNREADABLE_EVENT, id, data, self.now())
                .once(&format!("{}/{kind}", rotation.id), rotation.started_at);
            match self.cx.commit(self.cx.batch().insert(&event)?).await {
                Err(error) if !error.is_conflict() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}
