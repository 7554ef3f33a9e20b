//! The keys that seal secrets: which there are, how to change them, when to let them go.

use std::collections::BTreeMap;

use serde_json::json;

use super::Client;
use crate::error::{Error, Result};
use crate::model::{Backup, Event, KekFence, KeyringState, Node, Rotation, RotationPhase, new_id};
use crate::scheduler::{KEK_REMOVED_EVENT, ROTATION_CANCELLED_EVENT, ROTATION_STARTED_EVENT};
use crate::secret::{Kek, KekId};
use crate::store::{
    Filter, IndexValue, KEK_FIELD, PAGE_MAX, Query, RecordKind, StoreExt as _, TypedQuery, Versioned, WriteBatch,
};

/// How often somebody else may write the keyring's state at the same moment.
const TRIES: usize = 100;

/// The keys of an installation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyringStatus {
    /// What all nodes agree on, and the rotation that is under way.
    pub state: KeyringState,
    /// Every key that is spoken of there, or that this node or a live one has, by version.
    pub keks: Vec<KekStatus>,
}

/// One key-encryption key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KekStatus {
    /// The key.
    pub kek: Kek,
    /// What it is good for now.
    pub role: KekRole,
    /// Whether this node has it.
    pub at_hand: bool,
    /// The ids of the live nodes that lack it.
    pub lack: Vec<String>,
}

/// What a key-encryption key is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KekRole {
    /// It seals.
    Primary,
    /// It will seal, once every live node has it.
    Next,
    /// It sealed before; its secrets are being wrapped anew.
    Former,
    /// It seals nothing any more, and no secret is under it; kept for backups.
    Retired,
    /// It is there, and nothing uses it: not yet, or not any more.
    Spare,
}

impl KekRole {
    /// The role's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Next => "next",
            Self::Former => "former",
            Self::Retired => "retired",
            Self::Spare => "spare",
        }
    }

    fn of(kek: &KekId, state: &KeyringState) -> Self {
        if state.primary.id == *kek {
            return Self::Primary;
        }
        match &state.rotation {
            Some(rotation) if rotation.to.id == *kek => Self::Next,
            Some(rotation) if rotation.from.id == *kek => Self::Former,
            _ if state.retired.iter().any(|retired| retired.id == *kek) => Self::Retired,
            _ => Self::Spare,
        }
    }
}

/// Whether the fleet is ready for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KekReadiness {
    /// The key.
    pub kek: Kek,
    /// The ids of the live nodes that have it.
    pub have: Vec<String>,
    /// The ids of the live nodes that lack it, or have another key of that version.
    pub lack: Vec<String>,
}

impl KekReadiness {
    /// Whether every live node has it.
    pub fn is_ready(&self) -> bool {
        self.lack.is_empty()
    }
}

impl Client {
    /// The keys that seal secrets, and the rotation that is under way.
    ///
    /// # Errors
    /// `Validation` `keyring_unmanaged` when certlib does not manage the keys; as [`Store`](crate::store::Store).
    /// Cancel-safe.
    pub async fn keyring(&self) -> Result<KeyringStatus> {
        let state = self.keyring_state().await?.record;
        let nodes = self.live_nodes().await?;
        let own = self.engine.sealer.envelope().keks();
        let mut keks: Vec<Kek> = vec![state.primary.clone()];
        keks.extend(state.rotation.iter().flat_map(|rotation| [rotation.from.clone(), rotation.to.clone()]));
        keks.extend(state.retired.iter().cloned());
        keks.extend(own.iter().cloned());
        keks.extend(nodes.iter().flat_map(|node| node.keks.iter().cloned()));
        keks.sort_by_key(|kek| (kek.version, kek.id));
        keks.dedup_by_key(|kek| kek.id);
        let status = |kek: Kek| KekStatus {
            role: KekRole::of(&kek.id, &state),
            at_hand: own.iter().any(|own| own.id == kek.id),
            lack: nodes.iter().filter(|node| !has(node, &kek.id)).map(|node| node.id.clone()).collect(),
            kek,
        };
        let keks = keks.into_iter().map(status).collect();
        Ok(KeyringStatus { state, keks })
    }

    /// Which live nodes have the key of this version: before a rotation to it is begun.
    ///
    /// # Errors
    /// `Validation` `kek_unknown` when neither this node nor a live one has a key of this version; `kek_ambiguous` when
    /// this node has none and others have different ones; as [`Store`](crate::store::Store). Cancel-safe.
    pub async fn check_kek(&self, version: u32) -> Result<KekReadiness> {
        let nodes = self.live_nodes().await?;
        let kek = self.find_kek(version, &nodes)?;
        let (have, lack): (Vec<_>, Vec<_>) = nodes.iter().partition(|node| has(node, &kek.id));
        let ids = |nodes: Vec<&Node>| nodes.into_iter().map(|node| node.id.clone()).collect();
        Ok(KekReadiness { have: ids(have), lack: ids(lack), kek })
    }

    /// Begins to move all secrets to the key of this version. The leader does the work, and waits until every live node
    /// has the key before it seals anything; [`Client::keyring`] tells how far it has come.
    ///
    /// # Errors
    /// `Validation` `rotation_unfinished`, with its phase, while another is under way; `kek_is_primary` when the key
    /// seals already; `kek_unknown` and `kek_ambiguous` as [`Client::check_kek`]; as [`Client::keyring`].
    pub async fn rotate_kek(&self, to_version: u32) -> Result<Rotation> {
        let nodes = self.live_nodes().await?;
        let mut tries = 0;
        loop {
            let (batch, rotation) = self.begin_rotation(self.keyring_state().await?, to_version, &nodes)?;
            if self.is_committed(batch, &mut tries).await? {
                return Ok(rotation);
            }
        }
    }

    /// Gives up a rotation before the new key seals.
    ///
    /// # Errors
    /// `Validation` `not_found` when there is none; `rotation_promoted`, with its phase, when the new key seals already:
    /// then rotate back once it has finished; as [`Client::keyring`].
    pub async fn cancel_rotation(&self) -> Result<()> {
        let mut tries = 0;
        loop {
            let batch = self.end_rotation(self.keyring_state().await?).await?;
            if self.is_committed(batch, &mut tries).await? {
                return Ok(());
            }
        }
    }

    /// Lets a retired key go: afterwards no node needs it, and it can be taken out of their configuration and destroyed.
    /// `escrowed` says that it is kept elsewhere, for the backups whose secrets are sealed with it.
    ///
    /// # Errors
    /// `Validation` `kek_is_primary`; `rotation_unfinished` when a rotation needs it; `kek_unknown` when it is not
    /// retired; `kek_in_use`, with how many, when secrets are under it, so that another rotation is needed;
    /// `kek_node_behind`, with the nodes, when a live one does not know yet which key seals; `kek_in_backup`, with how
    /// many, when kept backups need it and it is not `escrowed`; `kinds_unknown` when other programs keep kinds of record
    /// here that this one was not [told](crate::runtime::RuntimeBuilder::record) of; as [`Client::keyring`].
    pub async fn remove_kek(&self, version: u32, escrowed: bool) -> Result<()> {
        let mut tries = 0;
        loop {
            let batch = self.removal(self.keyring_state().await?, version, escrowed).await?;
            if self.is_committed(batch, &mut tries).await? {
                return Ok(());
            }
        }
    }

    /// Whether this node has every key that a stored secret is under: to be asked before it takes on work. Costs a few
    /// small queries when all is well.
    ///
    /// # Errors
    /// `Validation` `kek_orphaned`, with the keys and how many secrets are under them: the store belongs to another
    /// keyring, or a key was taken away too early; as [`Store`](crate::store::Store). Cancel-safe.
    pub async fn check_keyring(&self) -> Result<()> {
        let mut own: Vec<_> = self.engine.sealer.envelope().keks().iter().map(|kek| kek.id.to_string()).collect();
        if own.is_empty() {
            return Ok(());
        }
        own.sort();
        let mut orphaned = BTreeMap::new();
        for kind in self.engine.kinds.iter() {
            self.add_orphaned(kind, &own, &mut orphaned).await?;
        }
        if orphaned.is_empty() {
            return Ok(());
        }
        let keks: Vec<_> =
            orphaned.keys().map(|kek| kek.map_or_else(|| "unreadable".to_owned(), |kek| kek.short())).collect();
        let why =
            "this node lacks keys that stored secrets are sealed with; give it the keys that belong to this store";
        Err(Error::validation("keyring.check", "kek_orphaned", why)
            .with("count", orphaned.values().sum::<u64>())
            .with("kek", keks.join(", ")))
    }

    /// Commits a change of the keyring's state; `false` when somebody else wrote it meanwhile.
    async fn is_committed(&self, batch: WriteBatch, tries: &mut usize) -> Result<bool> {
        match self.engine.store.commit(batch).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_conflict() && *tries < TRIES => {
                *tries += 1;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn begin_rotation(
        &self,
        mut state: Versioned<KeyringState>,
        to_version: u32,
        nodes: &[Node],
    ) -> Result<(WriteBatch, Rotation)> {
        const OPERATION: &str = "keyring.rotate";
        if let Some(rotation) = &state.rotation {
            return Err(unfinished(OPERATION, rotation));
        }
        let to = self.find_kek(to_version, nodes)?;
        if to.id == state.primary.id {
            return Err(is_primary(OPERATION, &to));
        }
        let now = self.engine.clock.now();
        let rotation = Rotation {
            id: new_id(),
            from: state.primary.clone(),
            to,
            phase: RotationPhase::Prepare,
            cursor: None,
            total: 0,
            rewrapped: 0,
            verified: 0,
            unreadable: 0,
            note: None,
            started_at: now,
            phase_since: now,
        };
        let data = json!({ "from": rotation.from, "to": rotation.to });
        let event = Event::new("", ROTATION_STARTED_EVENT, &rotation.id, data, now);
        state.rotation = Some(rotation.clone());
        state.updated_at = now;
        let mut batch = WriteBatch::new().update(&state)?.insert(&event)?;
        for fence in KekFence::of(&rotation.to.id) {
            batch = batch.insert(&fence)?;
        }
        Ok((batch, rotation))
    }

    async fn end_rotation(&self, mut state: Versioned<KeyringState>) -> Result<WriteBatch> {
        const OPERATION: &str = "keyring.cancel";
        let rotation = state.rotation.take().ok_or_else(|| Error::not_found(OPERATION, "a rotation to cancel"))?;
        if rotation.phase != RotationPhase::Prepare {
            let why = "the new key seals already: let the rotation finish, and rotate back";
            return Err(Error::validation(OPERATION, "rotation_promoted", why)
                .with("phase", rotation.phase.as_str())
                .with("to", &rotation.to));
        }
        // Whoever sealed with it all the same, as a host with an envelope of its own may, needs it to be kept.
        let is_kept = state.retired.iter().any(|kek| kek.id == rotation.to.id);
        if !is_kept && self.count_under(&rotation.to.id).await?.0 > 0 {
            state.retired.push(rotation.to.clone());
        }
        let now = self.engine.clock.now();
        state.updated_at = now;
        let data = json!({ "from": rotation.from, "to": rotation.to });
        let event = Event::new("", ROTATION_CANCELLED_EVENT, &rotation.id, data, now);
        let batch = WriteBatch::new().update(&state)?.insert(&event)?;
        Ok(without_fences(batch, &rotation.to.id))
    }

    async fn removal(&self, mut state: Versioned<KeyringState>, version: u32, escrowed: bool) -> Result<WriteBatch> {
        const OPERATION: &str = "keyring.remove";
        let kek = retired(&state, version)?;
        if let Some(kinds) = state.unknown_kinds(&self.engine.kinds) {
            let why =
                "other programs keep records here of kinds that this one does not know: remove the key from there";
            return Err(Error::validation(OPERATION, "kinds_unknown", why).with("kinds", kinds));
        }
        let mut behind = self.live_nodes().await?;
        behind.retain(|node| node.keyring_epoch < state.epoch);
        if !behind.is_empty() {
            let why = "not every live node knows which key seals";
            let ids: Vec<_> = behind.iter().map(|node| &*node.id).collect();
            return Err(Error::validation(OPERATION, "kek_node_behind", why).with("nodes", ids.join(", ")));
        }
        let (secrets, kinds) = self.count_under(&kek.id).await?;
        if secrets > 0 {
            let why = "secrets are under this key: rotate once more, which moves them";
            return Err(Error::validation(OPERATION, "kek_in_use", why)
                .with("kek", &kek)
                .with("secrets", secrets)
                .with("kinds", kinds));
        }
        if !escrowed {
            self.refuse_if_in_backup(&kek).await?;
        }
        let now = self.engine.clock.now();
        state.retired.retain(|retired| retired.id != kek.id);
        state.updated_at = now;
        let data = json!({ "kek": kek, "escrowed": escrowed });
        let event = Event::new("", KEK_REMOVED_EVENT, &kek.id.to_string(), data, now);
        let batch = WriteBatch::new().update(&state)?.insert(&event)?;
        Ok(without_fences(batch, &kek.id))
    }

    async fn keyring_state(&self) -> Result<Versioned<KeyringState>> {
        let find = || self.engine.store.find::<KeyringState>(KeyringState::ID);
        if let Some(state) = find().await? {
            return Ok(state);
        }
        self.engine.sealer.look().await?;
        find().await?.ok_or_else(|| {
            let why = "certlib does not manage the keys of this envelope, or this node has none";
            Error::validation("keyring.load", "keyring_unmanaged", why)
        })
    }

    async fn live_nodes(&self) -> Result<Vec<Node>> {
        let nodes = self.engine.store.list_all(TypedQuery::<Node>::new()).await?;
        let now = self.engine.clock.now();
        Ok(nodes.into_iter().map(|node| node.record).filter(|node| !node.is_stale(now)).collect())
    }

    fn find_kek(&self, version: u32, nodes: &[Node]) -> Result<Kek> {
        const OPERATION: &str = "keyring.find";
        let own = self.engine.sealer.envelope().keks();
        if let Some(kek) = own.into_iter().find(|kek| kek.version == version) {
            return Ok(kek);
        }
        let mut found: Vec<_> =
            nodes.iter().flat_map(|node| &node.keks).filter(|kek| kek.version == version).cloned().collect();
        found.sort_by_key(|kek| kek.id);
        found.dedup_by_key(|kek| kek.id);
        match &*found {
            [kek] => Ok(kek.clone()),
            [] => Err(Error::validation(OPERATION, "kek_unknown", "no node has a key of this version")
                .with("version", version)),
            [one, other, ..] => {
                let why = "nodes have different keys of this version";
                Err(Error::validation(OPERATION, "kek_ambiguous", why).with("one", one).with("other", other))
            }
        }
    }

    async fn refuse_if_in_backup(&self, kek: &Kek) -> Result<()> {
        let backups = self.engine.store.list_all(TypedQuery::<Backup>::new()).await?;
        let needing: Vec<_> =
            backups.iter().filter(|backup| backup.keks.iter().any(|needed| needed.id == kek.id)).collect();
        let Some(newest) = needing.iter().max_by_key(|backup| backup.taken_at) else { return Ok(()) };
        let why = "kept backups cannot be restored without this key: keep it elsewhere, or delete them";
        Err(Error::validation("keyring.remove", "kek_in_backup", why)
            .with("kek", kek)
            .with("backups", needing.len())
            .with("newest", &newest.id))
    }

    /// How many secrets are under `kek`, and of which kinds their records are.
    async fn count_under(&self, kek: &KekId) -> Result<(u64, String)> {
        let (mut secrets, mut kinds) = (0, Vec::new());
        for kind in self.engine.kinds.iter() {
            let count = self.count_of(kind.name(), &kek.to_string()).await?;
            if count > 0 {
                secrets += count;
                kinds.push(kind.name());
            }
        }
        Ok((secrets, kinds.join(" ")))
    }

    async fn count_of(&self, kind: &'static str, kek: &str) -> Result<u64> {
        let mut query = query(kind, Filter::Equal(KEK_FIELD, IndexValue::Text(kek.to_owned())), PAGE_MAX);
        let mut count = 0;
        loop {
            let page = self.engine.store.query(&query).await?;
            count += page.records.len() as u64;
            match page.next {
                Some(next) => query.after = Some(next),
                None => return Ok(count),
            }
        }
    }

    /// Adds how many secrets of one kind are under other keys than `own`, which are sorted: they are in the gaps.
    async fn add_orphaned(
        &self,
        kind: &dyn RecordKind,
        own: &[String],
        orphaned: &mut BTreeMap<Option<KekId>, u64>,
    ) -> Result<()> {
        let ends = own.iter().map(|id| just_before(id)).chain([AFTER_ALL.to_owned()]);
        let starts = [String::new()].into_iter().chain(own.iter().map(|id| format!("{id}{AFTER_ALL}")));
        for (start, end) in starts.zip(ends) {
            let mut query = query(kind.name(), Filter::AtLeast(KEK_FIELD, IndexValue::Text(start)), PAGE_MAX);
            query.filters.push(Filter::AtMost(KEK_FIELD, IndexValue::Text(end)));
            query.order_by = Some(KEK_FIELD);
            loop {
                let page = self.engine.store.query(&query).await?;
                for raw in &page.records {
                    let kek = kind.decode(raw).ok().and_then(|record| record.sealed()?.sealed.kek());
                    *orphaned.entry(kek).or_default() += 1;
                }
                match page.next {
                    Some(next) => query.after = Some(next),
                    None => break,
                }
            }
        }
        Ok(())
    }
}

/// Sorts behind every id of a key; put behind one, right behind it.
const AFTER_ALL: &str = "~";

/// Sorts right before `id`, which is hexadecimal: no other id of its length is in between.
fn just_before(id: &str) -> String {
    let (rest, last) = id.split_at(id.len().saturating_sub(1));
    let before = last.bytes().next().map_or('/', |digit| char::from(digit.saturating_sub(1)));
    format!("{rest}{before}")
}

fn query(kind: &'static str, filter: Filter, limit: usize) -> Query {
    Query { kind, filters: vec![filter], order_by: None, descending: false, limit, after: None }
}

fn has(node: &Node, kek: &KekId) -> bool {
    node.keks.iter().any(|own| own.id == *kek)
}

fn unfinished(operation: &'static str, rotation: &Rotation) -> Error {
    let why = "a rotation is under way; let it finish, or cancel it while it prepares";
    Error::validation(operation, "rotation_unfinished", why)
        .with("phase", rotation.phase.as_str())
        .with("from", &rotation.from)
        .with("to", &rotation.to)
        .with("note", rotation.note.as_deref().unwrap_or("none"))
}

fn is_primary(operation: &'static str, kek: &Kek) -> Error {
    Error::validation(operation, "kek_is_primary", "this is the key that seals").with("kek", kek)
}

/// The retired key of this version.
fn retired(state: &KeyringState, version: u32) -> Result<Kek> {
    const OPERATION: &str = "keyring.remove";
    if state.primary.version == version {
        return Err(is_primary(OPERATION, &state.primary));
    }
    if let Some(rotation) = &state.rotation
        && [&rotation.from, &rotation.to].iter().any(|kek| kek.version == version)
    {
        return Err(unfinished(OPERATION, rotation));
    }
    state.retired.iter().find(|kek| kek.version == version).cloned().ok_or_else(|| {
        let why = "there is no retired key of this version";
        Error::validation(OPERATION, "kek_unknown", why).with("version", version)
    })
}

/// Afterwards nothing can be stored under `kek`.
fn without_fences(batch: WriteBatch, kek: &KekId) -> WriteBatch {
    KekFence::of(kek).fold(batch, |batch, fence| batch.delete::<KekFence>(&fence.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_fits_between_an_id_and_what_sorts_right_before_it() {
        let ids = ["00", "0f", "10", "9f", "a0", "af", "fe", "ff"];
        for id in ids {
            let before = just_before(id);
            for other in ids {
                assert_eq!(other <= &*before, other < id, "{other} {id}");
                assert_eq!(*other >= *format!("{id}{AFTER_ALL}"), other > id, "{other} {id}");
            }
            assert!(id < AFTER_ALL);
        }
    }
}
