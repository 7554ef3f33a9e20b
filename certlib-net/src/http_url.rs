//! URLs that every parser reads the same way.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use certlib_core::error::{Error, Result};
use url::{Host, Url};

/// The longest URL, in bytes.
const LONGEST: usize = 2048;

/// Ports of services that would make something of an HTTP request they were never meant to get, after the list of
/// bad ports in the WHATWG fetch standard.
const BAD_PORTS: [u16; 32] = [
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 79, 110, 111, 119, 139, 143, 389, 465, 587,
    636, 993, 995, 6379,
];

/// The URL of an outbound request.
///
/// Stricter than the URL standard: what browsers repair (a decimal number as a host, backslashes, user names, dots of
/// other scripts) is refused, because it is where two parsers disagree about the host. `Display` and `Debug` leave out
/// the query, which often holds a token.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpUrl {
    url: Url,
    host: String,
    address: Option<IpAddr>,
    port: u16,
}

impl HttpUrl {
    /// Reads a URL: `https`, or `http` if `allow_http`.
    ///
    /// The host is a DNS name in ASCII (use the `xn--` form for others), a dotted IPv4 address, or an IPv6 address in
    /// brackets.
    ///
    /// # Errors
    /// `Validation` `url_invalid` with `reason`; the URL itself is not quoted.
    pub fn parse(text: &str, allow_http: bool) -> Result<Self> {
        if text.len() > LONGEST {
            return Err(invalid("it is longer than 2048 bytes"));
        }
        if let Some(bad) = text.bytes().find(|byte| !byte.is_ascii_graphic() || b"\\\"<>^`{|}".contains(byte)) {
            return Err(invalid("it has a character that must be percent-encoded").with("byte", format!("{bad:#04x}")));
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| invalid("it has no scheme"))?;
        let default_port = match scheme.to_ascii_lowercase().as_str() {
            "https" => 443,
            "http" if allow_http => 80,
            "http" => return Err(invalid("the scheme is http, which `allow_http` does not admit")),
            _ => return Err(invalid("the scheme is not https")),
        };
        if rest.contains('#') {
            return Err(invalid("it has a fragment, which is never sent"));
        }
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err(invalid("it has a user name; logins belong to the credential"));
        }
        let (host_text, port_text) = split_port(authority)?;
        let (host, address) = host(host_text)?;
        let port = match port_text {
            None => default_port,
            Some(text) => port(text)?,
        };
        if BAD_PORTS.contains(&port) {
            return Err(invalid("the port belongs to another protocol").with("port", port));
        }
        let url = Url::parse(text).map_err(|error| invalid("it cannot be read").with_source(error))?;
        let agreed = match (url.host(), address) {
            (Some(Host::Domain(domain)), None) => domain == host,
            (Some(Host::Ipv4(v4)), Some(address)) => address == v4,
            (Some(Host::Ipv6(v6)), Some(address)) => address == v6,
            _ => false,
        };
        if !agreed || url.port_or_known_default() != Some(port) {
            return Err(invalid("its host or port can be read in more than one way"));
        }
        Ok(Self { url, host, address, port })
    }

    /// The URL.
    pub fn as_url(&self) -> &Url {
        &self.url
    }

    /// The host, lower case, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The address, when the host is one rather than a name.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// The port, the scheme's own when the URL names none.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the request is encrypted.
    pub fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.url.authority();
        write!(f, "{}://{authority}{}", self.url.scheme(), self.url.path())?;
        if self.url.query().is_some() { f.write_str("?..") } else { Ok(()) }
    }
}

impl fmt::Debug for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpUrl({self})")
    }
}

fn invalid(reason: &'static str) -> Error {
    Error::validation("net.url", "url_invalid", "the URL cannot be used").with("reason", reason)
}

fn split_port(authority: &str) -> Result<(&str, Option<&str>)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (inside, after) = rest.split_once(']').ok_or_else(|| invalid("a bracket is not closed"))?;
        let host = &authority[..inside.len() + 2];
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err(invalid("there is text after the address")),
        };
    }
    Ok(match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    })
}

fn port(text: &str) -> Result<u16> {
    let plain =
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain).ok_or_else(|| invalid("the port is not a number from 1 to 65535"))
}

fn host(text: &str) -> Result<(String, Option<IpAddr>)> {
    if let Some(inside) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let address: Ipv6Addr = inside.parse().map_err(|_| invalid("the host is not an IPv6 address"))?;
        return Ok((inside.to_ascii_lowercase(), Some(address.into())));
    }
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Ok((text.to_owned(), Some(address.into())));
    }
    if text.is_empty() || text.len() > 253 {
        return Err(invalid("the host is missing or too long"));
    }
    let labels: Vec<&str> = text.split('.').collect();
    if !labels.iter().all(|label| is_label(label)) {
        return Err(invalid("the host is not a DNS name in ASCII without a dot at the end"));
    }
    let last = labels.last().copied().unwrap_or_default();
    // 127.1, 0x7f.1 and 2130706433 are addresses to some parsers and names to others.
    if last.bytes().all(|byte| byte.is_ascii_digit()) || last.to_ascii_lowercase().starts_with("0x") {
        return Err(invalid("the host looks like an address but is not written as four numbers"));
    }
    Ok((text.to_ascii_lowercase(), None))
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use certlib_testkit::attacks::URLS;

    use super::*;

    #[test]
    fn what_parsers_could_disagree_about_is_refused() {
        for text in URLS {
            let error = HttpUrl::parse(text, false).unwrap_err();
            assert_eq!(error.code(), "url_invalid", "{text}");
        }
        assert!(HttpUrl::parse(&format!("https://good/{}", "a".repeat(LONGEST)), false).is_err());
        assert!(HttpUrl::parse(&format!("https://{}/", ["a"; 140].join(".")), false).is_err());
    }

    #[test]
    fn good_urls_are_read() {
        let url = HttpUrl::parse("HTTPS://Hook.Example.com:8443/a%2Fb?token=canary", false).unwrap();
        assert_eq!((url.host(), url.port(), url.address(), url.is_https()), ("hook.example.com", 8443, None, true));
        assert_eq!(url.to_string(), "https://hook.example.com:8443/a%2Fb?..");
        assert!(!format!("{url:?}").contains("canary"));
        assert_eq!(url.as_url().query(), Some("token=canary"));

        let url = HttpUrl::parse("https://[2606:4700::1]/", false).unwrap();
        assert_eq!((url.host(), url.port()), ("2606:4700::1", 443));
        assert_eq!(url.address(), Some("2606:4700::1".parse().unwrap()));

        let url = HttpUrl::parse("http://10.0.0.1", true).unwrap();
        assert_eq!((url.address(), url.port(), url.is_https()), (Some("10.0.0.1".parse().unwrap()), 80, false));
        assert!(HttpUrl::parse("https://xn--bcher-kva.example/hook_1", false).is_ok());
    }
}
