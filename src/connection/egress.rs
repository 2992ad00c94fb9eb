//! Which addresses a connection may be sent to. Asked with each address that is about to be dialled, never with a name.
//!
//! An IPv6 address can carry an IPv4 one (mapped, compatible, NAT64, 6to4, Teredo, ISATAP), which is where the packets end
//! up: both have to pass. Link-local addresses and the metadata services of clouds are refused under every policy: they give
//! credentials to whoever asks. What is refused can be opened by `egress.allow`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What one connection may dial.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Egress {
    /// `[security] egress`
    pub policy: EgressPolicy,
    /// `egress.allow`: what is open all the same. A range that is always refused is opened by a range within it alone, so
    /// that `0.0.0.0/0` does not open the metadata service by accident.
    pub allow: Vec<IpNet>,
}

/// `[security] egress`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EgressPolicy {
    /// Anything but link-local addresses and the metadata services of clouds.
    #[default]
    Open,
    /// Addresses of the public internet alone.
    Public,
}

/// Why an address may not be dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    address: IpAddr,
    /// What the address leads to, where that is another one.
    inner: Option<IpAddr>,
    /// What kind of address it is, with its range.
    what: &'static str,
    range: IpNet,
    always: bool,
}

impl Egress {
    /// Whether an address may be dialled.
    ///
    /// # Errors
    /// The rule that refuses it and the setting that opens it.
    pub fn check(&self, address: IpAddr) -> Result<(), Blocked> {
        let blocked = |inner: IpAddr, rule: &Rule| Blocked {
            address,
            inner: (inner != address).then_some(inner),
            what: rule.what,
            range: rule.range,
            always: rule.always,
        };
        let inners = [Some(address.to_canonical()), embedded(address)];
        // What is refused always says more than its range.
        let by_policy = |address| self.refused_by_policy(address);
        let rules: [&dyn Fn(IpAddr) -> Option<Rule>; 2] = [&always_refused, &by_policy];
        for rule_of in rules {
            for inner in inners.into_iter().flatten() {
                if let Some(rule) = rule_of(inner).filter(|rule| !self.allows(inner, rule)) {
                    return Err(blocked(inner, &rule));
                }
            }
        }
        Ok(())
    }

    fn refused_by_policy(&self, address: IpAddr) -> Option<Rule> {
        match self.policy {
            EgressPolicy::Open => None,
            EgressPolicy::Public => not_public(address),
        }
    }

    fn allows(&self, address: IpAddr, rule: &Rule) -> bool {
        self.allow.iter().any(|allowed| {
            let narrow = !rule.always || allowed.prefix_len() >= rule.range.prefix_len();
            allowed.contains(&address) && narrow
        })
    }
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.address)?;
        if let Some(inner) = self.inner {
            write!(f, "leads to {inner}, which ")?;
        }
        write!(f, "is {} ({}), ", self.what, self.range)?;
        match self.always {
            true => f.write_str("refused under any [security] egress")?,
            false => f.write_str("refused by [security] egress = \"public\"")?,
        }
        write!(f, "; egress.allow = [\"{}\"] opens it", self.inner.unwrap_or(self.address))
    }
}

/// One range of addresses that is refused.
#[derive(Clone, Copy, Debug)]
struct Rule {
    range: IpNet,
    what: &'static str,
    always: bool,
}

const fn v4(octets: [u8; 4], prefix: u8) -> IpNet {
    let [a, b, c, d] = octets;
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix))
}

const fn v6(segments: [u16; 8], prefix: u8) -> IpNet {
    let [a, b, c, d, e, f, g, h] = segments;
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix))
}

/// Metadata services and link-local addresses. The single ones come first: their name says more.
const ALWAYS: &[(IpNet, &str)] = &[
    (v4([169, 254, 169, 254], 32), "the metadata service of a cloud"),
    (v4([169, 254, 170, 2], 32), "the credentials service of ECS"),
    (v4([169, 254, 170, 23], 32), "the credentials service of EKS"),
    (v4([100, 100, 100, 200], 32), "the metadata service of Alibaba Cloud"),
    (v4([168, 63, 129, 16], 32), "the wire server of Azure"),
    (v4([192, 0, 0, 192], 32), "the metadata service of Oracle Cloud"),
    (v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128), "the metadata service of AWS"),
    (v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23], 128), "the credentials service of EKS"),
    (v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128), "the metadata service of Google Cloud"),
    (v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128), "the metadata service of Scaleway"),
    (v4([169, 254, 0, 0], 16), "a link-local address"),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), "a link-local address"),
];

/// The special ranges of IANA's registries (RFC 6890 and those after it) that are not of the public internet.
const SPECIAL: &[(IpNet, &str)] = &[
    (v4([0, 0, 0, 0], 8), "this host's own network"),
    (v4([10, 0, 0, 0], 8), "a private address"),
    (v4([100, 64, 0, 0], 10), "a carrier's shared address"),
    (v4([127, 0, 0, 0], 8), "a loopback address"),
    (v4([172, 16, 0, 0], 12), "a private address"),
    (v4([192, 0, 0, 0], 24), "an address of IETF protocols"),
    (v4([192, 0, 2, 0], 24), "an address of documentation"),
    (v4([192, 88, 99, 0], 24), "a former 6to4 relay"),
    (v4([192, 168, 0, 0], 16), "a private address"),
    (v4([198, 18, 0, 0], 15), "an address of benchmarks"),
    (v4([198, 51, 100, 0], 24), "an address of documentation"),
    (v4([203, 0, 113, 0], 24), "an address of documentation"),
    (v4([224, 0, 0, 0], 4), "a multicast address"),
    (v4([240, 0, 0, 0], 4), "a reserved address"),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 128), "the unspecified address"),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), "a loopback address"),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 96), "an IPv4-compatible address"),
    (v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), "a local NAT64 address"),
    (v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), "a discard address"),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32), "a Teredo address"),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), "an address of IETF protocols"),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), "an address of documentation"),
    (v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), "a 6to4 address"),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), "an address of documentation"),
    (v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16), "an address of segment routing"),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), "a private address"),
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), "a site-local address"),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "a multicast address"),
];

/// NAT64's well-known prefix (RFC 6052): public where the IPv4 address in it is.
const NAT64: IpNet = v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96);
/// All that is assigned as global unicast.
const GLOBAL: IpNet = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);
const EVERYTHING: IpNet = v6([0, 0, 0, 0, 0, 0, 0, 0], 0);

fn always_refused(address: IpAddr) -> Option<Rule> {
    let (range, what) = ALWAYS.iter().find(|(range, _)| range.contains(&address))?;
    Some(Rule { range: *range, what, always: true })
}

fn not_public(address: IpAddr) -> Option<Rule> {
    if let Some((range, what)) = SPECIAL.iter().find(|(range, _)| range.contains(&address)) {
        return Some(Rule { range: *range, what, always: false });
    }
    let unassigned = address.is_ipv6() && !GLOBAL.contains(&address) && !NAT64.contains(&address);
    unassigned.then_some(Rule {
        range: EVERYTHING,
        what: "outside of the global unicast addresses",
        always: false,
    })
}

/// The IPv4 address inside of an IPv6 one; mapped ones are taken for IPv4 before.
fn embedded(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(address) = address else {
        return None;
    };
    let octets = address.octets();
    let [_, _, e, f, g, h, ..] = octets;
    let [.., s, t, u, v, w, x, y, z] = octets;
    let last = [w, x, y, z];
    let inner = match address.segments() {
        // Mapped: `to_canonical` has it. Unspecified and loopback are themselves.
        [0, 0, 0, 0, 0, 0xffff, ..] | [0, 0, 0, 0, 0, 0, 0, 0 | 1] => return None,
        // Compatible (RFC 4291), translated (RFC 2765), NAT64 (RFC 6052, RFC 8215).
        [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] | [0x64, 0xff9b, 0 | 1, ..] => last,
        // 6to4 (RFC 3056)
        [0x2002, ..] => [e, f, g, h],
        // Teredo (RFC 4380): the client's address, inverted.
        [0x2001, 0, ..] => last.map(|octet| !octet),
        // ISATAP (RFC 5214), in whatever prefix.
        _ if [t, u, v] == [0, 0x5e, 0xfe] && matches!(s, 0 | 2) => last,
        _ => return None,
    };
    Some(IpAddr::V4(Ipv4Addr::from(inner)))
}

#[cfg(test)]
mod tests;
