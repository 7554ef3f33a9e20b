//! Identity and access management: projects and accounts.

use serde_json::json;

use super::{
    answer::{Answer, Outcome, Refusal},
    call::Call,
    state::State,
};

/// The account's id.
pub(super) const ACCOUNT: &str = "d78cbac186b744899480f25bd022f468";

pub(super) fn handle(state: &State, call: &Call, path: &[&str]) -> Outcome {
    match (call.method.as_str(), path) {
        ("GET", ["projects"]) => {
            let wanted = call.param("name");
            let projects: Vec<_> = state
                .projects
                .iter()
                .filter(|project| wanted.is_none_or(|wanted| project.region == wanted))
                .map(|project| {
                    json!({
                        "id": project.id,
                        "name": project.region,
                        "domain_id": ACCOUNT,
                        "parent_id": ACCOUNT,
                        "is_domain": false,
                        "enabled": true,
                        "description": "",
                        "links": { "self": format!("/v3/projects/{}", project.id) },
                    })
                })
                .collect();
            let links = json!({ "next": null, "previous": null, "self": "/v3/projects" });
            Ok(Answer::ok(json!({ "projects": projects, "links": links })))
        }
        ("GET", ["auth", "domains"]) => {
            let account =
                json!({ "id": ACCOUNT, "name": "simulated", "enabled": true, "description": "", "links": {} });
            Ok(Answer::ok(json!({ "domains": [account], "links": {} })))
        }
        _ => Err(Refusal::no_such_api()),
    }
}
