//! Proving delivery.

use certlib_core::module::{EndpointCheck, Validation};
use certlib_core::{CertificateBundle, Context, Result};
use futures::future::join_all;

use super::Delivery;
use super::survey::Item;
use crate::files::{formats, verdict};
use crate::probe;
use crate::winrm::host::{Found, Host};

impl Delivery<'_> {
    /// Asks every endpoint which certificate it serves; `None` without endpoints.
    pub(crate) async fn probe(&self, cx: &Context, bundle: &CertificateBundle) -> Option<Validation> {
        if self.endpoints.is_empty() {
            return None;
        }
        let expected = bundle.fingerprint();
        Some(verdict(join_all(self.endpoints.iter().map(|endpoint| probe::check(cx, endpoint, expected))).await))
    }

    /// Reads every file back and compares content and access list: the proof that is left without endpoints.
    ///
    /// # Errors
    /// As [`plan`](Delivery::plan).
    pub(crate) async fn read_back(&self, host: &mut Host<'_>, bundle: &CertificateBundle) -> Result<EndpointCheck> {
        let items = self.survey(host, bundle).await?;
        let problems: Vec<String> = items.iter().filter_map(|item| self.problem(item, bundle)).collect();
        let problem = (!problems.is_empty()).then(|| problems.join("; "));
        let leaf = problem.is_none().then(|| bundle.fingerprint());
        Ok(EndpointCheck::new("files", leaf, 1, problem))
    }

    fn problem(&self, item: &Item<'_>, bundle: &CertificateBundle) -> Option<String> {
        let problem = match &item.found {
            _ if item.keep => return None,
            Found::Absent => "is missing",
            Found::File(file) if formats::holds(item.format, &file.content, &item.content, bundle, self.pfx()) => {
                "has another access list"
            }
            Found::File(_) => "has other content",
        };
        Some(format!("{} {problem}", item.output.path.escape_debug()))
    }
}
