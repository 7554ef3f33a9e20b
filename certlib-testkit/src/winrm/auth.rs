//! Which logins WinRM takes, as its configuration says.

use crate::logins::{ByCertificate, Offer};

/// What a client with a certificate says it uses.
const MUTUAL: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/mutual";

/// The switches of `winrm/config/service`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) basic: bool,
    pub(super) certificate: bool,
    pub(super) negotiate: bool,
    pub(super) allow_unencrypted: bool,
}

impl Settings {
    /// What is offered, over HTTPS or without it.
    pub(super) fn offer(&self, https: bool) -> Offer {
        Offer {
            basic: (self.basic && (https || self.allow_unencrypted)).then_some("WSMAN"),
            negotiate: self.negotiate,
            certificate: (self.certificate && https).then_some(ByCertificate::Named(MUTUAL)),
        }
    }
}
