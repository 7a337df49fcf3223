//! Addresses that a notification has no business at: link-local ones, where clouds serve their metadata and keys, and
//! those that are no single host. They are refused where a name was resolved for the connection itself, so that a name
//! whose address changes between a check and a connection gains nothing.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::super::Fault;

/// Where EC2 serves its metadata over IPv6, outside of any link-local range.
const EC2_METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Whether a notification may go to this address.
///
/// # Errors
/// Why not.
pub fn check_address(ip: IpAddr) -> Result<(), String> {
    let why = match ip {
        IpAddr::V4(ip) => special_v4(ip),
        IpAddr::V6(ip) => match embedded(ip) {
            Some(v4) => special_v4(v4).or(special_v6(ip)),
            None => special_v6(ip),
        },
    };
    match why {
        None => Ok(()),
        Some(why) => Err(format!("{ip} is {why}")),
    }
}

fn special_v4(ip: Ipv4Addr) -> Option<&'static str> {
    match ip.octets() {
        [169, 254, ..] => Some("a link-local address, where clouds serve metadata"),
        [0, ..] => Some("no address of a host"),
        [255, 255, 255, 255] => Some("the broadcast address"),
        _ if ip.is_multicast() => Some("a multicast address"),
        _ => None,
    }
}

fn special_v6(ip: Ipv6Addr) -> Option<&'static str> {
    if ip.is_unicast_link_local() {
        Some("a link-local address")
    } else if ip == EC2_METADATA {
        Some("the address of a cloud's metadata")
    } else if ip.is_unspecified() {
        Some("no address of a host")
    } else if ip.is_multicast() {
        Some("a multicast address")
    } else {
        None
    }
}

/// The IPv4 address that packets to this one reach: mapped (`::ffff:…`), compatible (`::…`) or NAT64 (`64:ff9b::…`).
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = ip.segments();
    let low = Ipv4Addr::from(((s[6] as u32) << 16) | s[7] as u32);
    match s {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(low),
        // `::` and `::1` are addresses of their own.
        [0, 0, 0, 0, 0, 0, ..] if low.to_bits() > 1 => Some(low),
        _ => None,
    }
}

/// Refuses a URL whose host is such an address as it is written; names are for the [`Resolver`].
pub(super) fn check_host(url: &Url) -> Result<(), String> {
    let host = url.host_str().unwrap_or_default();
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    // The URL's parser has brought every way to write an address into the plain one.
    bare.parse::<IpAddr>().map_or(Ok(()), check_address)
}

pub(super) fn fault(why: String) -> Fault {
    Fault::new(why).help("if it is meant: allow_special_addresses = true")
}

/// The addresses of a name or the address that is written, without those that are refused.
pub(in super::super) async fn lookup(host: &str, port: u16, allow: bool) -> Result<Vec<SocketAddr>, String> {
    let all: Vec<SocketAddr> =
        tokio::net::lookup_host((host, port)).await.map_err(|e| e.to_string())?.collect();
    let mut refused = None;
    let mut good = Vec::new();
    for address in all {
        match check_address(address.ip()) {
            Err(why) if !allow => refused = Some(why),
            _ => good.push(address),
        }
    }
    match refused {
        Some(why) if good.is_empty() => Err(format!("{why}; refused unless allow_special_addresses = true")),
        _ if good.is_empty() => Err("the name has no address".into()),
        _ => Ok(good),
    }
}

/// Resolves names for connections, with [`lookup`].
#[derive(Debug)]
pub(super) struct Resolver {
    allow: bool,
}

impl Resolver {
    pub(super) fn new(allow: bool) -> Resolver {
        Resolver { allow }
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow = self.allow;
        Box::pin(async move {
            let found = lookup(name.as_str(), 0, allow).await;
            found.map(|a| Box::new(a.into_iter()) as Addrs).map_err(Box::<dyn Error + Send + Sync>::from)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused() {
        for ip in [
            "169.254.169.254",
            "169.254.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "239.255.255.250",
            "255.255.255.255",
            "fe80::1",
            "febf::1",
            "fd00:ec2::254",
            "::",
            "ff02::1",
            "::ffff:169.254.169.254",
            "::ffff:0.0.0.0",
            "::ffff:224.0.0.1",
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
        ] {
            assert!(check_address(ip.parse().unwrap()).is_err(), "{ip}");
        }
        for ip in [
            "127.0.0.1",
            "::1",
            "10.0.0.1",
            "192.168.1.1",
            "169.253.1.1",
            "169.255.1.1",
            "1.0.0.0",
            "223.255.255.255",
            "fd00:ec2::253",
            "fec0::1",
            "2001:db8::1",
            "::ffff:10.0.0.1",
            "64:ff9b::808:808",
        ] {
            assert_eq!(check_address(ip.parse().unwrap()), Ok(()), "{ip}");
        }
    }

    #[test]
    fn every_way_to_write_an_address_is_seen() {
        for url in [
            "http://169.254.169.254/latest",
            "http://0xa9fea9fe/",
            "http://2852039166/",
            "http://0251.0376.0251.0376/",
            "http://169.254.43518/",
            "http://[::ffff:169.254.169.254]/",
            "http://[fe80::1]:80/",
            "http://0/",
            "http://①⑥⑨.254.169.254/",
        ] {
            assert!(check_host(&Url::parse(url).unwrap()).is_err(), "{url}");
        }
        for url in ["http://localhost/", "http://127.0.0.1/", "https://hooks.example/x"] {
            assert_eq!(check_host(&Url::parse(url).unwrap()), Ok(()), "{url}");
        }
    }

    #[test]
    fn resolved_addresses_are_checked() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let look = |host: &str, allow| runtime.block_on(lookup(host, 1, allow));
        assert!(look("169.254.169.254", false).unwrap_err().contains("allow_special_addresses"));
        assert_eq!(look("169.254.169.254", true).unwrap().len(), 1);
        assert_eq!(look("127.0.0.1", false).unwrap(), ["127.0.0.1:1".parse().unwrap()]);
    }
}
