//! Profiles that have nothing to do with certificates: those that every BIG-IP has, to be looked at and used by name.

use serde_json::{Value, json};

use super::{answer::link, call::Call, name};

/// Paths below `tm/ltm`, what the objects are called there, and the objects.
const FACTORY: &[(&[&str], &str, &[&str])] = &[
    (&["profile", "dhcpv4"], "dhcpv4", &["/Common/dhcpv4", "/Common/dhcpv4_fwd"]),
    (&["profile", "dhcpv6"], "dhcpv6", &["/Common/dhcpv6", "/Common/dhcpv6_fwd"]),
    (&["profile", "diameter"], "diameter", &["/Common/diameter"]),
    (&["profile", "fasthttp"], "fasthttp", &["/Common/fasthttp"]),
    (&["profile", "fastl4"], "fastl4", &["/Common/fastL4"]),
    (&["profile", "http"], "http", &["/Common/http"]),
    (&["profile", "sip"], "sip", &["/Common/sip"]),
    (&["profile", "tcp"], "tcp", &["/Common/f5-tcp-lan", "/Common/f5-tcp-wan", "/Common/tcp"]),
    (&["profile", "udp"], "udp", &["/Common/udp"]),
    (&["message-routing", "sip", "profile", "session"], "session", &["/Common/sipsession"]),
];

/// The kind of the collection that a call asks for, and what is in it; `None` for any other call.
pub(super) fn collection(call: &Call) -> Option<(String, Vec<Value>)> {
    let route = call.route();
    let (["tm", "ltm"], rest) = route.split_at_checked(2)? else { return None };
    let (path, kind, names) = FACTORY.iter().find(|(path, ..)| *path == rest)?;
    let whole = format!("tm:ltm:{}:{kind}", path.join(":"));
    let shown = names.iter().map(|name| {
        let mut fields = name::fields(name);
        fields.insert("kind".to_owned(), json!(format!("{whole}state")));
        let own = format!("tm/ltm/{}/{}", path.join("/"), name::to_url(name));
        fields.insert("selfLink".to_owned(), json!(link(&own)));
        Value::Object(fields)
    });
    Some((format!("{whole}collectionstate"), shown.collect()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn profiles_of_other_kinds_are_listed() {
        let of = |path: &str| collection(&Call::new("GET", path, Bytes::new()));
        let (kind, items) = of("tm/ltm/profile/tcp/").unwrap();
        assert_eq!((kind.as_str(), items.len()), ("tm:ltm:profile:tcp:tcpcollectionstate", 3));
        assert!(items.iter().any(|item| item["fullPath"] == "/Common/tcp"));
        assert!(of("tm/ltm/message-routing/sip/profile/session").is_some());
        assert!(of("tm/ltm/profile/client-ssl").is_none() && of("tm").is_none());
    }
}
