//! How many orders an issuer may be given, and how many it was given.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::store::{Index, Record};

/// How many orders an issuer may be given in any stretch of time, for each zone by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuanceLimit {
    /// At most this many orders, at least 1.
    pub orders: u32,
    /// In any stretch of so many seconds: from a minute to 400 days. 7 days.
    #[serde(default = "week")]
    pub window_seconds: u64,
    /// The share of the orders that only renewals may use, from 0 to 0.9: new certificates must not keep old ones from
    /// being renewed.
    #[serde(default)]
    pub renewal_share: f64,
    /// The zones to count by, such as `"shop.co.uk"`: a name counts for the longest one that it ends in, and otherwise
    /// for its last two labels.
    #[serde(default)]
    pub zones: Vec<String>,
}

fn week() -> u64 {
    7 * 86_400
}

impl IssuanceLimit {
    /// At most `orders` in any 7 days, none of them reserved, by the last two labels.
    pub fn weekly(orders: u32) -> Self {
        Self { orders, window_seconds: week(), renewal_share: 0.0, zones: Vec::new() }
    }
}

/// The orders that one issuer was given for one zone lately, counted by when they were begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuanceWindow {
    /// `<issuer id>/<zone>`.
    pub id: String,
    /// The issuer.
    pub issuer_id: String,
    /// The zone.
    pub zone: String,
    /// How long a bucket counts after its end, in seconds.
    pub window_seconds: u64,
    /// Oldest first, without overlap.
    pub buckets: Vec<IssuanceBucket>,
}

/// The orders of a stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuanceBucket {
    /// From here on, in Unix seconds.
    pub start: i64,
    /// Up to here.
    pub end: i64,
    /// How many.
    pub count: u32,
}

impl IssuanceWindow {
    /// The id of the window of `issuer_id` for `zone`.
    pub fn id_of(issuer_id: &str, zone: &str) -> String {
        format!("{issuer_id}/{zone}")
    }

    /// When the oldest bucket no longer counts.
    pub fn oldest_leaves_at(&self) -> Option<OffsetDateTime> {
        let window = i64::try_from(self.window_seconds).unwrap_or(i64::MAX);
        let leaves = self.buckets.first()?.end.saturating_add(window);
        OffsetDateTime::from_unix_timestamp(leaves).ok()
    }
}

impl Record for IssuanceWindow {
    const KIND: &'static str = "issuance_window";
    const FIELDS: &'static [&'static str] = &["issuer", "trim_at"];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new().field("issuer", &*self.issuer_id).maybe("trim_at", self.oldest_leaves_at())
    }
}
