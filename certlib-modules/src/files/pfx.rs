//! How PKCS#12 files are made, as locations say it.

pub use certlib_core::bundle::Pkcs12Profile as PfxProfile;
use serde::Deserialize;

/// How PKCS#12 files are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct PfxOptions {
    /// Which algorithms protect it.
    pub profile: PfxProfile,
}
