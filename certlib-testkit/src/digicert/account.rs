//! Who may ask, and for whom: keys, organizations, containers.

use serde_json::{Value, json};

use super::{
    answer::{Answer, Outcome, Refusal},
    state::State,
};
use crate::api::Call;

/// The id of the one container.
pub(super) const CONTAINER: u64 = 5;

/// What an API key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyRole {
    /// Everything, and approvals are skipped when asked for.
    Administrator,
    /// Everything but approving and skipping approvals.
    Standard,
    /// Orders and requests only.
    Orders,
    /// Reading only.
    ViewOnly,
}

impl KeyRole {
    pub(super) fn is_administrator(self) -> bool {
        self == KeyRole::Administrator
    }

    /// Whether it may send a request to a place below `area`.
    pub(super) fn permits(self, method: &str, area: &str) -> bool {
        match self {
            KeyRole::Administrator | KeyRole::Standard => true,
            KeyRole::Orders => method == "GET" || matches!(area, "order" | "certificate" | "request"),
            KeyRole::ViewOnly => method == "GET",
        }
    }

    fn shown(self) -> Value {
        match self {
            KeyRole::Administrator => json!({ "id": 1, "name": "Administrator" }),
            KeyRole::Standard => json!({ "id": 2, "name": "Standard User" }),
            KeyRole::Orders => json!({ "id": 100, "name": "Orders" }),
            KeyRole::ViewOnly => json!({ "id": 102, "name": "View Only" }),
        }
    }
}

/// An organization that certificates are ordered for.
#[derive(Clone, Debug)]
pub(super) struct Organization {
    pub(super) id: u64,
    pub(super) name: String,
    /// Whether its existence has been validated.
    pub(super) validated: bool,
}

impl Organization {
    pub(super) fn shown(&self) -> Value {
        json!({
            "id": self.id,
            "name": self.name,
            "display_name": self.name,
            "status": if self.validated { "active" } else { "pending" },
            "is_active": true,
            "city": "Lehi",
            "state": "Utah",
            "country": "us",
            "container": { "id": CONTAINER, "name": "Simulated" },
        })
    }
}

impl State {
    /// Who asks.
    pub(super) fn authenticate(&self, call: &Call) -> Result<KeyRole, Refusal> {
        let key = call.header("x-dc-devkey").unwrap_or_default();
        self.keys.get(key).copied().ok_or_else(|| Refusal::of_status(401))
    }

    /// `GET /user/me`.
    pub(super) fn me(role: KeyRole) -> Outcome {
        Ok(Answer::Json(
            200,
            json!({
                "id": 153_208,
                "username": "simulated",
                "first_name": "Simulated",
                "last_name": "User",
                "email": "user@example.com",
                "status": "active",
                "type": "standard",
                "account": { "id": 1_234_567 },
                "container": { "id": CONTAINER, "name": "Simulated" },
                "access_roles": [role.shown()],
            }),
        ))
    }

    /// `GET /organization`.
    pub(super) fn organizations(&self) -> Outcome {
        let all: Vec<Value> = self.organizations.iter().map(Organization::shown).collect();
        let page = json!({ "total": all.len(), "limit": 1000, "offset": 0 });
        Ok(Answer::Json(200, json!({ "organizations": all, "page": page })))
    }

    /// `GET /organization/{id}`, and below it `validation`.
    pub(super) fn organization(&self, id: &str, part: &[&str]) -> Outcome {
        let found = self.organizations.iter().find(|known| known.id.to_string() == id);
        let found = found.ok_or_else(|| Refusal::absent("organization"))?;
        match part {
            [] => Ok(Answer::Json(200, found.shown())),
            ["validation"] => {
                let status = if found.validated { "active" } else { "pending" };
                let one = |kind: &str| json!({ "type": kind, "status": status });
                Ok(Answer::Json(200, json!({ "validations": [one("ov"), one("ev")] })))
            }
            _ => Err(Refusal::absent("route")),
        }
    }

    /// `GET /container`.
    pub(super) fn containers() -> Outcome {
        let one = json!({ "id": CONTAINER, "parent_id": 0, "name": "Simulated", "is_active": true });
        Ok(Answer::Json(200, json!({ "containers": [one], "page": { "total": 1, "limit": 1000, "offset": 0 } })))
    }
}
