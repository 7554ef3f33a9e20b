//! What the login may do, asked before anything is tried.

use std::collections::BTreeMap;

use certlib_core::Context;
use certlib_core::error::{Error, Result};
use serde::Deserialize;
use serde_json::json;

use super::OPERATION;
use super::session::{Ask, Session};

/// A path of the API, and what must be allowed there: one of each group.
pub(super) type Need = (String, &'static [&'static [&'static str]]);

#[derive(Deserialize)]
struct Answered {
    data: BTreeMap<String, Vec<String>>,
}

/// Checks that the login may do all of this. A login that may not ask is let pass: the attempt will tell.
///
/// # Errors
/// `Auth` `vault_forbidden` with the path and what is missing; as [`Session::call`].
pub(super) async fn check(cx: &Context, session: &Session<'_>, needs: &[Need]) -> Result<()> {
    let paths: Vec<&str> = needs.iter().map(|(path, _)| path.as_str()).collect();
    let answer = session.call(cx, &Ask::post(&["sys/capabilities-self"], &json!({ "paths": paths }))?).await?;
    if !answer.is_success() {
        return Ok(());
    }
    let granted = answer.json::<Answered>()?.data;
    for (path, groups) in needs {
        let Some(names) = granted.get(path) else { continue };
        let has = |name: &&str| names.iter().any(|granted| granted == name || granted == "root");
        if let Some(missing) = groups.iter().find(|group| !group.iter().any(has)) {
            let why = "Vault does not let this login do what the delivery needs; add it to its policy";
            return Err(Error::auth(OPERATION, "vault_forbidden", why)
                .with("path", path)
                .with("missing", missing.join(" or ")));
        }
    }
    Ok(())
}
