//! Who may ask: tokens, and the ways to get one.

pub(super) mod approle;
pub(super) mod tokens;

use std::time::Duration;

pub(super) use self::{
    approle::AppRole,
    tokens::{Token, Tokens},
};

/// A way to log in at its path.
#[derive(Default)]
pub(super) struct AuthMount {
    pub(super) role: AppRole,
}

/// What somebody who logged in gets.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub(super) policies: Vec<String>,
    /// `None`: for ever.
    pub(super) ttl: Option<Duration>,
    /// The longest it can be made to last by renewing it; `None`: no limit.
    pub(super) max_ttl: Option<Duration>,
    /// How often it can be used; 0: no limit.
    pub(super) uses: u32,
    pub(super) renewable: bool,
    pub(super) display_name: String,
}
