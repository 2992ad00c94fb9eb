use super::*;
use crate::connection::Target;

fn check(policy: EgressPolicy, allow: &[&str], address: &str) -> Result<(), String> {
    let allow = allow.iter().map(|range| range.parse().unwrap()).collect();
    let egress = Egress { policy, allow };
    egress.check(address.parse().unwrap()).map_err(|blocked| blocked.to_string())
}

/// An address, a word of what it is, whether `open` takes it.
const CASES: &[(&str, &str, bool)] = &[
    // Metadata and link-local: refused always.
    ("169.254.169.254", "metadata", false),
    ("169.254.170.2", "ECS", false),
    ("169.254.170.23", "EKS", false),
    ("169.254.0.1", "link-local", false),
    ("169.254.255.255", "link-local", false),
    ("100.100.100.200", "Alibaba", false),
    ("168.63.129.16", "Azure", false),
    ("192.0.0.192", "Oracle", false),
    ("fd00:ec2::254", "AWS", false),
    ("fd00:ec2::23", "EKS", false),
    ("fd20:ce::254", "Google", false),
    ("fd00:42::42", "Scaleway", false),
    ("fe80::1", "link-local", false),
    ("febf:ffff::1", "link-local", false),
    // The same in disguise.
    ("::ffff:169.254.169.254", "metadata", false),
    ("::169.254.169.254", "metadata", false),
    ("::ffff:0:169.254.169.254", "metadata", false),
    ("64:ff9b::169.254.169.254", "metadata", false),
    ("64:ff9b:1::169.254.169.254", "metadata", false),
    ("2002:a9fe:a9fe::1", "metadata", false),
    // Teredo inverts the client's address.
    ("2001:0:4136:e378:8000:63bf:5601:5601", "metadata", false),
    ("2001:db8::5efe:169.254.169.254", "metadata", false),
    ("2001:db8::200:5efe:169.254.169.254", "metadata", false),
    // Special ranges: open to a sidecar, not public.
    ("0.0.0.0", "own network", true),
    ("0.255.255.255", "own network", true),
    ("10.0.0.0", "private", true),
    ("10.255.255.255", "private", true),
    ("100.64.0.0", "carrier", true),
    ("100.127.255.255", "carrier", true),
    ("127.0.0.1", "loopback", true),
    ("127.255.255.255", "loopback", true),
    ("172.16.0.0", "private", true),
    ("172.31.255.255", "private", true),
    ("192.0.0.1", "IETF", true),
    ("192.0.2.1", "documentation", true),
    ("192.88.99.1", "6to4 relay", true),
    ("192.168.0.1", "private", true),
    ("192.168.255.255", "private", true),
    ("198.18.0.0", "benchmarks", true),
    ("198.19.255.255", "benchmarks", true),
    ("198.51.100.1", "documentation", true),
    ("203.0.113.1", "documentation", true),
    ("224.0.0.1", "multicast", true),
    ("239.255.255.255", "multicast", true),
    ("240.0.0.1", "reserved", true),
    ("255.255.255.255", "reserved", true),
    ("::", "unspecified", true),
    ("::1", "loopback", true),
    ("::8.8.8.8", "compatible", true),
    ("::ffff:10.0.0.1", "private", true),
    ("::ffff:127.0.0.1", "loopback", true),
    ("64:ff9b::10.0.0.1", "private", true),
    ("64:ff9b:1::8.8.8.8", "local NAT64", true),
    ("100::1", "discard", true),
    ("2001::1", "Teredo", true),
    ("2001:10::1", "IETF", true),
    ("2001:1ff::1", "IETF", true),
    ("2001:db8::1", "documentation", true),
    ("2002:808:808::1", "6to4", true),
    ("2002:a00:1::1", "6to4", true),
    ("2600::5efe:10.0.0.1", "private", true),
    ("3fff::1", "documentation", true),
    ("5f00::1", "segment routing", true),
    ("fc00::1", "private", true),
    ("fdff::1", "private", true),
    ("fec0::1", "site-local", true),
    ("ff02::1", "multicast", true),
    ("4000::1", "outside", true),
    ("::ffff:0:8.8.8.8", "outside", true),
];

#[test]
fn special_addresses_are_refused_by_their_policy() {
    for (address, word, open) in CASES {
        assert_eq!(check(EgressPolicy::Open, &[], address).is_ok(), *open, "{address}");
        let refused = check(EgressPolicy::Public, &[], address).unwrap_err();
        assert!(refused.contains(word), "{refused}");
        let shown = address.parse::<IpAddr>().unwrap().to_string();
        assert!(refused.starts_with(&shown), "{refused}");
        assert!(refused.contains("egress.allow = [\""), "{refused}");
        assert_eq!(refused.contains("any [security]"), !open, "{refused}");
    }
    assert!(CASES.len() > 60);
}

#[test]
fn addresses_beside_the_special_ranges_are_public() {
    let public = [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.0.3.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "203.0.112.255",
        "203.0.114.0",
        "223.255.255.255",
        "2600::1",
        "2001:200::1",
        "2001:4860:4860::8888",
        "2003::1",
        "3ffe::1",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
        "2600::5efe:8.8.8.8",
    ];
    for address in public {
        for policy in [EgressPolicy::Open, EgressPolicy::Public] {
            assert_eq!(check(policy, &[], address), Ok(()), "{address}");
        }
    }
}

#[test]
fn allowed_ranges_open_what_is_refused() {
    let public = EgressPolicy::Public;
    assert_eq!(check(public, &["10.0.0.0/8"], "10.1.2.3"), Ok(()));
    assert_eq!(check(public, &["10.0.0.0/8"], "::ffff:10.1.2.3"), Ok(()));
    assert!(check(public, &["10.0.0.0/8"], "11.1.2.3").is_ok());
    assert!(check(public, &["10.0.0.0/8"], "172.16.0.1").is_err());
    // The outer address and the inner one have to pass.
    assert!(check(public, &["10.0.0.0/8"], "2002:a00:1::1").is_err());
    assert!(check(public, &["2002::/16"], "2002:a00:1::1").is_err());
    assert_eq!(check(public, &["2002::/16", "10.0.0.0/8"], "2002:a00:1::1"), Ok(()));
    for policy in [EgressPolicy::Open, public] {
        for wide in [&["0.0.0.0/0"][..], &["168.0.0.0/6"], &["::/0"]] {
            assert!(check(policy, wide, "169.254.169.254").is_err(), "{wide:?}");
        }
        assert!(check(policy, &["169.254.0.0/16"], "169.254.169.254").is_err());
        assert_eq!(check(policy, &["169.254.169.254/32"], "169.254.169.254"), Ok(()));
        assert_eq!(check(policy, &["169.254.0.0/16"], "169.254.1.1"), Ok(()));
        assert!(check(policy, &["169.254.169.254/32"], "169.254.1.1").is_err());
        assert_eq!(check(policy, &["fe80::/10"], "fe80::1"), Ok(()));
    }
}

#[test]
fn the_message_names_the_rule_and_the_setting() {
    let refused = check(EgressPolicy::Public, &[], "::ffff:10.0.0.5").unwrap_err();
    let expected = "::ffff:10.0.0.5 leads to 10.0.0.5, which is a private address (10.0.0.0/8), refused by [security] egress = \"public\"; egress.allow = [\"10.0.0.5\"] opens it";
    assert_eq!(refused, expected);
    let refused = check(EgressPolicy::Open, &[], "169.254.169.254").unwrap_err();
    let expected = "169.254.169.254 is the metadata service of a cloud (169.254.169.254/32), refused under any [security] egress; egress.allow = [\"169.254.169.254\"] opens it";
    assert_eq!(refused, expected);
}

/// Hosts in odd notations are addresses before anybody asks a resolver (WHATWG URL, host parsing).
#[test]
fn odd_notations_of_addresses_are_seen_through() {
    for (host, address) in [
        ("0x7f.1", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("0xa9fea9fe", "169.254.169.254"),
        ("169.254.43518", "169.254.169.254"),
        ("0xa9.0xfe.0xa9.0xfe", "169.254.169.254"),
        ("127.1", "127.0.0.1"),
        ("127.0.0.0x", "127.0.0.0"),
        ("127.0.0.1.", "127.0.0.1"),
        ("①②⑦.0.0.1", "127.0.0.1"),
        ("[::ffff:7f00:1]", "::ffff:127.0.0.1"),
        ("[0:0::1]", "::1"),
    ] {
        let target = Target::parse(&format!("http://{host}/")).unwrap();
        let found: IpAddr = target.host.parse().unwrap_or_else(|_| panic!("{host}: {target:?}"));
        assert_eq!(found, address.parse::<IpAddr>().unwrap(), "{host}");
        let egress = Egress { policy: EgressPolicy::Public, allow: Vec::new() };
        assert!(egress.check(found).is_err(), "{host}");
    }
    for host in ["256.0.0.1", "0x100000000", "1.2.3.4.5"] {
        assert!(Target::parse(&format!("http://{host}/")).is_err(), "{host}");
    }
}
