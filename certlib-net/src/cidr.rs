//! Blocks of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use certlib_core::error::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A block of IPv4 or IPv6 addresses, such as `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    network: IpAddr,
    length: u8,
}

impl Cidr {
    pub(super) const fn v4(network: [u8; 4], length: u8) -> Self {
        let [a, b, c, d] = network;
        Self { network: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), length }
    }

    pub(super) const fn v6(network: [u16; 8], length: u8) -> Self {
        let [a, b, c, d, e, f, g, h] = network;
        Self { network: IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)), length }
    }

    /// Whether `addr` lies in the block. Families do not mix: an IPv4-mapped IPv6 address is IPv6 here.
    pub fn contains(&self, addr: IpAddr) -> bool {
        match (self.network, addr) {
            (IpAddr::V4(network), IpAddr::V4(addr)) => (network.to_bits() ^ addr.to_bits()) & self.mask_v4() == 0,
            (IpAddr::V6(network), IpAddr::V6(addr)) => (network.to_bits() ^ addr.to_bits()) & self.mask_v6() == 0,
            _ => false,
        }
    }

    fn mask_v4(&self) -> u32 {
        // A shift by the full width is no number: the empty prefix has no bits.
        u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0)
    }

    fn mask_v6(&self) -> u128 {
        u128::MAX.checked_shl(128 - u32::from(self.length)).unwrap_or(0)
    }

    fn has_host_bits(&self) -> bool {
        match self.network {
            IpAddr::V4(network) => network.to_bits() & !self.mask_v4() != 0,
            IpAddr::V6(network) => network.to_bits() & !self.mask_v6() != 0,
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

impl FromStr for Cidr {
    type Err = Error;

    /// Reads `address/length`, or an address alone for a block of one.
    ///
    /// # Errors
    /// `Validation` `cidr_invalid`, also when the address is not the first of its block: `10.0.0.1/8` is a mistake
    /// about either the address or the length.
    fn from_str(text: &str) -> Result<Self> {
        let invalid = |why| Error::validation("net.address", "cidr_invalid", why).with("cidr", text.escape_debug());
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let network: IpAddr = address.parse().map_err(|_| invalid("not an IP address, or address/length"))?;
        let widest = if network.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => widest,
            Some(digits) if digits.len() <= 3 && digits.bytes().all(|byte| byte.is_ascii_digit()) => digits
                .parse()
                .ok()
                .filter(|length| *length <= widest)
                .ok_or_else(|| invalid("the length is too long"))?,
            Some(_) => return Err(invalid("the length is not a number")),
        };
        let cidr = Self { network, length };
        if cidr.has_host_bits() {
            return Err(invalid("the address is not the first of the block"));
        }
        Ok(cidr)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(block: &str, addr: &str) -> bool {
        block.parse::<Cidr>().unwrap().contains(addr.parse().unwrap())
    }

    #[test]
    fn edges_of_blocks() {
        assert!(contains("10.0.0.0/8", "10.255.255.255"));
        assert!(!contains("10.0.0.0/8", "11.0.0.0"));
        assert!(contains("0.0.0.0/0", "255.1.2.3"));
        assert!(!contains("0.0.0.0/0", "::1"));
        assert!(contains("::/0", "ffff::"));
        assert!(contains("fc00::/7", "fdff::1"));
        assert!(!contains("fc00::/7", "fe00::"));
        assert!(contains("192.0.2.7", "192.0.2.7"));
        assert!(!contains("192.0.2.7", "192.0.2.6"));
    }

    #[test]
    fn bad_blocks_are_refused() {
        for text in
            ["", "/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0.1/8", "::/129", "fe80::1%eth0", "010.0.0.0/8"]
        {
            assert_eq!(text.parse::<Cidr>().unwrap_err().code(), "cidr_invalid", "{text}");
        }
    }

    #[test]
    fn text_survives() {
        for text in ["10.0.0.0/8", "fc00::/7", "0.0.0.0/0"] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
        }
    }
}
