//! The IANA special-purpose address registries, as data.
//!
//! Sources: "IANA IPv4 Special-Purpose Address Registry", "IANA IPv6 Special-Purpose Address Registry", and the
//! multicast blocks of the address space registries. Blocks that the registries call globally reachable are left out,
//! except where a block that is not lies around them: those anycast services take no HTTP requests.

use std::net::{IpAddr, Ipv4Addr};

use super::cidr::Cidr;

/// The newest allocation in the registries as embedded here, year and month.
pub const REGISTRY_DATE: &str = "2025-04";

/// What may admit a special block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// Nothing.
    Never,
    /// The allow-list.
    AllowList,
    /// The loopback switch.
    LoopbackSwitch,
}

/// A block that is not the public Internet.
#[derive(Debug)]
pub(super) struct Special {
    block: Cidr,
    /// The rule's stable name.
    pub(super) rule: &'static str,
    pub(super) admission: Admission,
}

const fn special(block: Cidr, rule: &'static str, admission: Admission) -> Special {
    Special { block, rule, admission }
}

use Admission::{AllowList, LoopbackSwitch, Never};

/// The services by which cloud machines learn their own secrets. They lie in blocks that the allow-list may admit, or
/// in public ones, so they come first.
static METADATA: [Special; 6] = [
    special(Cidr::v4([169, 254, 169, 254], 32), "metadata", Never),
    special(Cidr::v4([100, 100, 100, 200], 32), "metadata", Never),
    special(Cidr::v4([192, 0, 0, 192], 32), "metadata", Never),
    special(Cidr::v4([168, 63, 129, 16], 32), "metadata", Never),
    special(Cidr::v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32), "metadata", Never),
    special(Cidr::v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0], 32), "metadata", Never),
];

static IPV4: [Special; 16] = [
    special(Cidr::v4([0, 0, 0, 0], 8), "this_network", Never),
    special(Cidr::v4([10, 0, 0, 0], 8), "private", AllowList),
    special(Cidr::v4([100, 64, 0, 0], 10), "shared", AllowList),
    special(Cidr::v4([127, 0, 0, 0], 8), "loopback", LoopbackSwitch),
    special(Cidr::v4([169, 254, 0, 0], 16), "link_local", Never),
    special(Cidr::v4([172, 16, 0, 0], 12), "private", AllowList),
    special(Cidr::v4([192, 0, 0, 0], 24), "protocol_assignments", Never),
    special(Cidr::v4([192, 0, 2, 0], 24), "documentation", Never),
    special(Cidr::v4([192, 88, 99, 0], 24), "6to4_relay", Never),
    special(Cidr::v4([192, 168, 0, 0], 16), "private", AllowList),
    special(Cidr::v4([198, 18, 0, 0], 15), "benchmarking", AllowList),
    special(Cidr::v4([198, 51, 100, 0], 24), "documentation", Never),
    special(Cidr::v4([203, 0, 113, 0], 24), "documentation", Never),
    special(Cidr::v4([224, 0, 0, 0], 4), "multicast", Never),
    special(Cidr::v4([255, 255, 255, 255], 32), "broadcast", Never),
    special(Cidr::v4([240, 0, 0, 0], 4), "reserved", Never),
];

static IPV6: [Special; 15] = [
    special(Cidr::v6([0, 0, 0, 0, 0, 0, 0, 1], 128), "loopback", LoopbackSwitch),
    special(Cidr::v6([0, 0, 0, 0, 0, 0, 0, 0], 128), "unspecified", Never),
    special(Cidr::v6([0, 0, 0, 0, 0, 0, 0, 0], 96), "ipv4_compatible", Never),
    special(Cidr::v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), "local_nat64", Never),
    special(Cidr::v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), "discard", Never),
    special(Cidr::v6([0x100, 0, 0, 1, 0, 0, 0, 0], 64), "dummy", Never),
    special(Cidr::v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), "protocol_assignments", Never),
    special(Cidr::v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), "documentation", Never),
    special(Cidr::v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), "6to4", Never),
    special(Cidr::v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), "documentation", Never),
    special(Cidr::v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16), "segment_routing", Never),
    special(Cidr::v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), "unique_local", AllowList),
    special(Cidr::v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), "link_local", Never),
    special(Cidr::v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), "site_local", Never),
    special(Cidr::v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "multicast", Never),
];

/// All that IANA has opened for global unicast; the rest of IPv6 is reserved.
const GLOBAL_UNICAST: Cidr = Cidr::v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);
/// The well-known NAT64 prefix (RFC 6052): globally reachable, as far as the IPv4 address inside is.
const NAT64: Cidr = Cidr::v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96);
static RESERVED: Special = special(Cidr::v6([0, 0, 0, 0, 0, 0, 0, 0], 0), "reserved", Never);

/// The rule about `addr`, or `None` when it is the public Internet. IPv4-mapped addresses are for the caller to unwrap.
pub(super) fn lookup(addr: IpAddr) -> Option<&'static Special> {
    let table: &'static [Special] = if addr.is_ipv4() { &IPV4 } else { &IPV6 };
    let known = METADATA.iter().chain(table).find(|special| special.block.contains(addr));
    if known.is_some() || addr.is_ipv4() || GLOBAL_UNICAST.contains(addr) || NAT64.contains(addr) {
        return known;
    }
    Some(&RESERVED)
}

/// The IPv4 address that a translator or a tunnel would reach through `addr`, which is not an IPv4-mapped one.
pub(super) fn embedded(addr: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = addr else { return None };
    let [_, high, low, _, _, _, last_high, last_low] = v6.segments();
    let join = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match lookup(addr).map(|special| special.rule) {
        None if NAT64.contains(addr) => Some(join(last_high, last_low)),
        Some("ipv4_compatible") => Some(join(last_high, last_low)),
        Some("6to4") => Some(join(high, low)),
        _ => None,
    }
}
