//! The key-encryption keys: which there are, which seals, and how far a rotation has come.

use axum::Json;
use axum::extract::{Extension, State};
use certlib_core::client::{KekStatus, KeyringStatus};
use certlib_core::model::Rotation;
use certlib_core::secret::Kek;
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::AppState;
use crate::auth::{ApiToken, TokenRole};
use crate::problem::{Problems, Result};

/// The keys of the installation. Never a key itself.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeyringView {
    /// Grows whenever another key begins to seal.
    epoch: u64,
    /// The key that seals.
    primary: KekView,
    /// Keys that seal nothing any more and under which nothing is stored; kept for backups.
    retired: Vec<KekView>,
    /// The rotation that is under way.
    rotation: Option<RotationView>,
    /// All keys that are spoken of here or that a living process has.
    keys: Vec<KeyView>,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

/// A key, without the key.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KekView {
    version: u32,
    /// Tells two keys apart and gives nothing away: 64 hex digits.
    fingerprint: String,
    /// `local`, `pkcs11`, `vault-transit`.
    provider: String,
}

/// A key and who has it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeyView {
    #[serde(flatten)]
    kek: KekView,
    /// `primary`, `next`, `former`, `retired`, `spare`.
    role: String,
    /// Whether whoever answers this has it.
    at_hand: bool,
    /// The living processes that lack it, by id.
    lacking: Vec<String>,
}

/// A rotation from one key to another.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RotationView {
    id: String,
    from: KekView,
    to: KekView,
    /// `prepare`, `rewrap`, `settle`, `verify`.
    phase: String,
    /// How many secrets were under the old key when it began to seal no more.
    total: u64,
    /// How many secrets have moved to the new key.
    rewrapped: u64,
    /// How many secrets were verified under the keys that stay.
    verified: u64,
    /// How many secrets cannot be unwrapped, so that the rotation cannot end.
    unreadable: u64,
    /// What it waits for, or what it met last.
    note: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    started_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    phase_since: OffsetDateTime,
}

impl From<KeyringStatus> for KeyringView {
    fn from(status: KeyringStatus) -> Self {
        let KeyringStatus { state, keks, .. } = status;
        Self {
            epoch: state.epoch,
            primary: state.primary.into(),
            retired: state.retired.into_iter().map(KekView::from).collect(),
            rotation: state.rotation.map(RotationView::from),
            keys: keks.into_iter().map(KeyView::from).collect(),
            updated_at: state.updated_at,
        }
    }
}

impl From<Kek> for KekView {
    fn from(Kek { id, version, provider }: Kek) -> Self {
        Self { version, fingerprint: id.to_string(), provider }
    }
}

impl From<KekStatus> for KeyView {
    fn from(status: KekStatus) -> Self {
        let KekStatus { kek, role, at_hand, lack, .. } = status;
        Self { kek: kek.into(), role: role.as_str().to_owned(), at_hand, lacking: lack }
    }
}

impl From<Rotation> for RotationView {
    fn from(rotation: Rotation) -> Self {
        Self {
            id: rotation.id,
            from: rotation.from.into(),
            to: rotation.to.into(),
            phase: rotation.phase.as_str().to_owned(),
            total: rotation.total,
            rewrapped: rotation.rewrapped,
            verified: rotation.verified,
            unreadable: rotation.unreadable,
            note: rotation.note,
            started_at: rotation.started_at,
            phase_since: rotation.phase_since,
        }
    }
}

/// The key-encryption keys, and the rotation that is under way. Needs an admin token for all projects.
#[utoipa::path(get, path = "/api/v1/settings/keyring", tag = "settings", security(("token" = [])),
    responses((status = 200, body = KeyringView), Problems))]
pub(super) async fn keyring(
    State(state): State<AppState>,
    Extension(token): Extension<ApiToken>,
) -> Result<Json<KeyringView>> {
    token.require_all_projects()?;
    token.require(TokenRole::Admin)?;
    Ok(Json(state.client.keyring().await?.into()))
}
