//! Identifiers as Windows writes them.

/// A random identifier in the form that Windows writes, lower case.
pub(crate) fn guid() -> String {
    let digits = format!("{:032x}", rand::random::<u128>());
    let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
    parts.join("-")
}
