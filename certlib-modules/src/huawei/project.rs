//! The project of a region, and what a refusal may have to do with it.

use certlib_core::Context;
use certlib_core::error::{Error, ErrorClass, Result};
use reqwest::Method;
use serde::Deserialize;

use super::OPERATION;
use super::client::{Call, Cloud, refused};
use super::config::Service;

/// <https://support.huaweicloud.com/intl/en-us/api-iam/iam_06_0001.html>
#[derive(Debug, Deserialize)]
struct Projects {
    projects: Vec<Project>,
}

#[derive(Debug, Deserialize)]
struct Project {
    id: String,
    name: String,
}

impl Cloud<'_> {
    /// The id of the only project that the account has in the region, sub-projects aside.
    ///
    /// # Errors
    /// `Validation` `region_unknown`, `project_ambiguous`; as [`Cloud::send`].
    pub(super) async fn find_project(&self, cx: &Context) -> Result<String> {
        let mut projects = self.projects(cx, &[("name", &self.location.region)]).await?;
        projects.retain(|project| project.name == self.location.region);
        match (projects.pop(), projects.is_empty()) {
            (Some(project), true) => Ok(project.id),
            (Some(_), false) => {
                let why = "the account has several projects in this region; configure the `project_id` that is meant";
                Err(self.about_region("project_ambiguous", why))
            }
            (None, _) => Err(self.unknown_region()),
        }
    }

    /// Says it clearly when the reason for `error` is that the region does not exist, or that the project is another
    /// region's or another account's. Anything else stays what it is.
    pub(super) async fn explain(&self, cx: &Context, error: Error) -> Error {
        let Some(id) = &self.location.project_id else { return error };
        let may_be = error.class() == ErrorClass::Validation && error.code() != "certificate_refused"
            || matches!(error.code(), "not_permitted" | "dns_failed");
        if !may_be {
            return error;
        }
        match self.projects(cx, &[]).await {
            Ok(projects) if projects.is_empty() => self.unknown_region(),
            Ok(projects) if !projects.iter().any(|project| project.id == *id) => {
                let why = "the project is not one that the account has in this region; check `project_id` and `region`";
                self.about_region("project_mismatch", why).with("project_id", id)
            }
            _ => error,
        }
    }

    /// The projects of the region, and those below it (`REGION_NAME`).
    async fn projects(&self, cx: &Context, query: &[(&str, &str)]) -> Result<Vec<Project>> {
        let call = Call { method: Method::GET, path: &["v3", "projects"], query, body: None };
        let answer = self.deliver(cx, Service::Iam, None, call).await?;
        if !answer.is_success() {
            return Err(refused(&answer, cx.clock.now()));
        }
        let Projects { mut projects } = answer.json()?;
        projects.retain(|Project { name, .. }| {
            let below = name.strip_prefix(self.location.region.as_str());
            below.is_some_and(|below| below.is_empty() || below.starts_with('_'))
        });
        Ok(projects)
    }

    fn unknown_region(&self) -> Error {
        let why = "the account has no project in this region: it does not exist, or was never opened in the console";
        self.about_region("region_unknown", why)
    }

    fn about_region(&self, code: &'static str, why: &str) -> Error {
        Error::validation(OPERATION, code, why).with("region", &self.location.region)
    }
}
