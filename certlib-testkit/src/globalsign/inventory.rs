//! Counters, quotas, and lists of certificates.

use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::{
    answer::{Answer, Outcome, Refusal},
    certificates::Certificate,
    state::State,
};
use crate::api::Call;

/// The most things on one page.
pub(super) const PER_PAGE: usize = 100;
/// The longest time that one list looks at.
const WINDOW: Duration = Duration::days(30);

impl State {
    /// `GET /counters/certificates/{which}`.
    pub(super) fn counter(&self, which: &str) -> Outcome {
        let count = match which {
            "issued" => self.certificates.len(),
            "revoked" => self.certificates.values().filter(|certificate| certificate.revoked.is_some()).count(),
            _ => return Err(Refusal::absent("resource")),
        };
        Ok(Answer::ok(json!({ "value": count })))
    }

    /// `GET /stats/{which}`. What was accepted counts as issued, even while it cannot be read.
    pub(super) fn stats(&self, which: &str, call: &Call) -> Outcome {
        let now = self.clock.now();
        let moment: fn(&Certificate) -> Option<OffsetDateTime> = match which {
            "issued" => |certificate| Some(certificate.issued),
            "expiring" => |certificate| Some(certificate.till),
            "revoked" => |certificate| certificate.revoked,
            _ => return Err(Refusal::absent("resource")),
        };
        let ahead = which == "expiring";
        let time = |name: &str, default: OffsetDateTime| call.number(name, default.unix_timestamp());
        let from = time("from", if ahead { now } else { now - WINDOW });
        let to = time("to", if ahead { now + WINDOW } else { now });
        if to < from || to - from > WINDOW.whole_seconds() {
            return Err(Refusal::unfit("from, to: not a window of 30 days or less"));
        }
        let within = |at: OffsetDateTime| (from..=to).contains(&at.unix_timestamp());
        let mut found: Vec<_> =
            self.certificates.iter().filter(|(_, found)| moment(found).is_some_and(within)).collect();
        found.sort_by_key(|(serial, certificate)| (moment(certificate), (*serial).clone()));
        let items = found.into_iter().map(|(serial, certificate)| {
            json!({
                "serial_number": serial,
                "not_before": certificate.from.unix_timestamp(),
                "not_after": certificate.till.unix_timestamp(),
            })
        });
        page(call, items.collect(), self.settings.page)
    }
}

/// The page of all these that is asked for, with so many entries at most.
pub(super) fn page(call: &Call, all: Vec<Value>, most: usize) -> Outcome {
    let (page, per_page) = (call.number("page", 1_usize), call.number("per_page", PER_PAGE));
    if page == 0 || per_page == 0 || per_page > PER_PAGE {
        return Err(Refusal::unfit(format!("page, per_page: from 1 on, and at most {PER_PAGE} on a page")));
    }
    let (total, per_page) = (all.len(), per_page.min(most));
    Ok(Answer::page(all.into_iter().skip((page - 1).saturating_mul(per_page)).take(per_page).collect(), total))
}
