//! What a node is called.

use crate::error::truncate;

/// The longest name, in bytes: with what makes it unique it is an id, and the holder of leases and claims.
const NAME_MAX: usize = 64;

/// The first of these that names something: `configured`, `CERTLIB_INSTANCE_NAME`, `POD_NAME`, `HOSTNAME`, what the
/// system says, `unknown`.
pub(super) fn from_environment(configured: &str) -> String {
    node_name(configured, |name| std::env::var(name).ok(), hostname)
}

/// What the system calls this host.
pub(super) fn hostname() -> Option<String> {
    #[cfg(target_os = "linux")]
    return Some(rustix::system::uname().nodename().to_string_lossy().into_owned());
    #[cfg(not(target_os = "linux"))]
    return std::env::var("HOSTNAME").or_else(|_| std::env::var("COMPUTERNAME")).ok();
}

/// The first candidate with a printable character, cut so that it fits into ids and tables.
pub(super) fn node_name(
    configured: &str,
    variable: impl Fn(&str) -> Option<String>,
    hostname: impl FnOnce() -> Option<String>,
) -> String {
    let variables = ["CERTLIB_INSTANCE_NAME", "POD_NAME", "HOSTNAME"].into_iter().filter_map(variable);
    std::iter::once(configured.to_owned())
        .chain(variables)
        .chain(std::iter::once_with(hostname).flatten())
        .map(|name| {
            let printable: String = name.chars().filter(|char| !char.is_control()).collect();
            let mut name = printable.trim().to_owned();
            truncate(&mut name, NAME_MAX);
            name
        })
        .find(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(&str, &str); 3] = [("CERTLIB_INSTANCE_NAME", "instance"), ("POD_NAME", "pod"), ("HOSTNAME", "host")];

    fn name(configured: &str, variables: &[(&str, &str)], hostname: Option<&str>) -> String {
        let variable =
            |wanted: &str| variables.iter().find(|(name, _)| *name == wanted).map(|(_, value)| (*value).to_owned());
        node_name(configured, variable, || hostname.map(str::to_owned))
    }

    #[test]
    fn the_first_name_counts() {
        assert_eq!(name("configured", &ALL, Some("system")), "configured");
        assert_eq!(name("", &ALL, Some("system")), "instance");
        assert_eq!(name("", &ALL[1..], Some("system")), "pod");
        assert_eq!(name("", &ALL[2..], Some("system")), "host");
        assert_eq!(name("", &[], Some("system")), "system");
        assert_eq!(name("", &[], None), "unknown");
    }

    #[test]
    fn blanks_are_passed_over_and_names_fit() {
        assert_eq!(name(" \t", &[("POD_NAME", ""), ("HOSTNAME", "\u{7}")], Some("web-1\n")), "web-1");
        assert_eq!(name(&"é".repeat(300), &[], None), "é".repeat(32));
    }

    #[test]
    fn the_system_has_a_name() {
        assert!(!from_environment("").is_empty());
    }
}
