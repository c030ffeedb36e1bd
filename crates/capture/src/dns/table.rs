//! What the mesh itself answers: the names of its table, the addresses behind them, and that in its own zone there is
//! nothing else.

use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, PTR, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use meshwork_model::address::VirtualAddress;
use meshwork_model::proxy::{Answer, NameTable, ZONE};

use super::content::Content;
use super::limits::TTL_ABSENT_IN_MESH;
use crate::addresses;

/// Seconds that `localhost` may be remembered: it does not change.
const TTL_LOCALHOST: u32 = 3600;

/// Answers a question; `None` where others know.
pub(super) fn answer(name: &Name, record: RecordType, table: Option<&NameTable>) -> Option<Content> {
    if name.is_localhost() {
        // The workload's own loopback, and nobody else's business. Source: RFC 6761 §6.3.
        return Some(known(name, record, &LOOPBACK, TTL_LOCALHOST));
    }
    if let Some(address) = reversed(name) {
        return reverse(name, record, address, table);
    }
    let Some(table) = table else {
        return zone().zone_of(name).then(|| Content::empty(ResponseCode::ServFail));
    };
    let text = name.to_ascii();
    match table.resolve(&text) {
        Answer::Known(addresses) => Some(known(name, record, addresses, seconds(table.ttl))),
        Answer::Absent if is_above_a_name(&text, table) => Some(nothing(name, ResponseCode::NoError)),
        Answer::Absent => Some(nothing(name, ResponseCode::NXDomain)),
        Answer::Elsewhere => None,
    }
}

const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

fn known(name: &Name, record: RecordType, addresses: &[IpAddr], ttl: u32) -> Content {
    let any = record == RecordType::ANY;
    let data = addresses.iter().filter_map(|address| match address {
        IpAddr::V4(address) if any || record == RecordType::A => Some(RData::A(A(*address))),
        IpAddr::V6(address) if any || record == RecordType::AAAA => Some(RData::AAAA(AAAA(*address))),
        _ => None,
    });
    found(name, ttl, data)
}

/// Records of one name, or that it has none of the type asked for.
fn found(name: &Name, ttl: u32, data: impl Iterator<Item = RData>) -> Content {
    let answers: Vec<_> = data.map(|data| Record::from_rdata(name.clone(), ttl, data)).collect();
    if answers.is_empty() {
        return nothing(name, ResponseCode::NoError);
    }
    Content { code: ResponseCode::NoError, authoritative: true, answers, authorities: Vec::new() }
}

fn nothing(name: &Name, code: ResponseCode) -> Content {
    let zone = zone();
    let apex = if zone.zone_of(name) { zone } else { name.clone() };
    let server = Name::from_ascii("ns.dns.cluster.local.").unwrap_or_default();
    let person = Name::from_ascii("hostmaster.cluster.local.").unwrap_or_default();
    let soa = SOA::new(server, person, 1, 7200, 1800, 86400, TTL_ABSENT_IN_MESH);
    let authorities = vec![Record::from_rdata(apex, TTL_ABSENT_IN_MESH, RData::SOA(soa))];
    Content { code, authoritative: true, answers: Vec::new(), authorities }
}

/// Whether a name stands above others: then it exists, though it has no records. Source: RFC 8020.
fn is_above_a_name(name: &str, table: &NameTable) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let is_above = |other: &str| other.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.'));
    table.names.keys().any(|other| is_above(other))
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` stands for.
fn reversed(name: &Name) -> Option<IpAddr> {
    let network = name.parse_arpa_name().ok()?;
    (network.prefix_len() == network.max_prefix_len()).then(|| network.addr())
}

fn reverse(name: &Name, record: RecordType, address: IpAddr, table: Option<&NameTable>) -> Option<Content> {
    let wanted = record == RecordType::PTR || record == RecordType::ANY;
    let pointer = |to: &str| Name::from_ascii(format!("{to}.")).ok().map(|to| RData::PTR(PTR(to)));
    let answer = |to: &str, ttl| found(name, ttl, pointer(to).filter(|_| wanted).into_iter());
    if LOOPBACK.contains(&address) {
        return Some(answer("localhost", TTL_LOCALHOST));
    }
    match table.and_then(|table| Some((table, best_name(table, address)?))) {
        Some((table, best)) => Some(answer(best, seconds(table.ttl))),
        // Nobody else has names for them.
        None => is_virtual(address).then(|| nothing(name, ResponseCode::NXDomain)),
    }
}

/// Of all names of an address the one that holds everywhere: within the zone rather than short for it; then the
/// shortest.
fn best_name(table: &NameTable, address: IpAddr) -> Option<&str> {
    let names = table.names.iter().filter(|(_, addresses)| addresses.contains(&address));
    names
        .map(|(name, _)| &**name)
        .max_by_key(|name| (name.ends_with(ZONE), Reverse(name.len()), Reverse(*name)))
}

/// Whether an address is of those that the control plane gives out, or one that only the workload's namespace has:
/// programs look up who connects to them, and wait for the answer.
fn is_virtual(address: IpAddr) -> bool {
    let in_namespace = addresses::WORKLOAD.contains(&address) || addresses::SIDECAR.contains(&address);
    in_namespace || VirtualAddress::of_ip(address).is_some()
}

fn zone() -> Name {
    Name::from_ascii(format!("{ZONE}.")).unwrap_or_default()
}

fn seconds(ttl: Duration) -> u32 {
    u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> NameTable {
        let catalog: Vec<IpAddr> = vec!["240.0.0.1".parse().unwrap(), "fd6d:6573:6877::1".parse().unwrap()];
        let old: Vec<IpAddr> = vec!["240.0.0.2".parse().unwrap()];
        let names = [
            ("catalog.shop", catalog.clone()),
            ("catalog.shop.svc.cluster.local", catalog.clone()),
            ("catalog-0.catalog.shop.svc.cluster.local", vec!["240.0.0.3".parse().unwrap()]),
            ("catalog", catalog),
            ("api.example.com", old),
        ];
        NameTable {
            name: "names".into(),
            address: ([127, 0, 0, 1], 15053).into(),
            ttl: Duration::from_secs(30),
            names: names.into_iter().map(|(name, addresses)| (name.into(), addresses)).collect(),
        }
    }

    /// `code` and the data of the answers, or of the SOA's owner where there are none.
    fn said(content: Option<Content>) -> String {
        let Some(content) = content else { return "elsewhere".into() };
        let data: Vec<_> = content.answers.iter().map(|r| format!("{} {}", r.ttl, r.data)).collect();
        let soa: Vec<_> = content.authorities.iter().map(|r| format!("soa {}", r.name)).collect();
        format!("{:?} {}", content.code, [data, soa].concat().join(", ")).trim_end().to_owned()
    }

    #[test]
    fn the_mesh_answers_for_its_own_names_and_addresses() {
        let table = table();
        let check = |name: &str, record: RecordType, expected: &str| {
            let name = Name::from_ascii(format!("{name}.")).unwrap();
            assert_eq!(said(answer(&name, record, Some(&table))), expected, "{name} {record}");
        };
        check("catalog.shop", RecordType::A, "NoError 30 240.0.0.1");
        check("CataLog.shop.SVC.cluster.local", RecordType::AAAA, "NoError 30 fd6d:6573:6877::1");
        check("catalog", RecordType::ANY, "NoError 30 240.0.0.1, 30 fd6d:6573:6877::1");
        check("catalog.shop.svc.cluster.local", RecordType::MX, "NoError soa cluster.local.");
        check("api.example.com", RecordType::AAAA, "NoError soa api.example.com.");
        check("api.example.com", RecordType::HTTPS, "NoError soa api.example.com.");
        check("www.example.com", RecordType::A, "elsewhere");
        check("cart.shop.svc.cluster.local", RecordType::A, "NXDomain soa cluster.local.");
        check("shop.svc.cluster.local", RecordType::A, "NoError soa cluster.local.");
        check("cluster.local", RecordType::NS, "NoError soa cluster.local.");
        check("og.shop.svc.cluster.local", RecordType::A, "NXDomain soa cluster.local.");
        check("localhost", RecordType::A, "NoError 3600 127.0.0.1");
        check("x.localhost", RecordType::AAAA, "NoError 3600 ::1");
        check("localhost", RecordType::MX, "NoError soa localhost.");
        check("1.0.0.240.in-addr.arpa", RecordType::PTR, "NoError 30 catalog.shop.svc.cluster.local.");
        check("1.0.0.240.IN-ADDR.ARPA", RecordType::A, "NoError soa 1.0.0.240.IN-ADDR.ARPA.");
        check("2.0.0.240.in-addr.arpa", RecordType::PTR, "NoError 30 api.example.com.");
        check("9.0.0.240.in-addr.arpa", RecordType::PTR, "NXDomain soa 9.0.0.240.in-addr.arpa.");
        check("2.0.18.198.in-addr.arpa", RecordType::PTR, "NXDomain soa 2.0.18.198.in-addr.arpa.");
        check("1.0.0.127.in-addr.arpa", RecordType::PTR, "NoError 3600 localhost.");
        check("0.240.in-addr.arpa", RecordType::PTR, "elsewhere");
        check("8.8.8.8.in-addr.arpa", RecordType::PTR, "elsewhere");
        check("x.8.8.8.in-addr.arpa", RecordType::PTR, "elsewhere");
        let six: String = "1"
            .chars()
            .chain("0".repeat(19).chars())
            .chain("7786".chars())
            .chain("3756d6df".chars())
            .flat_map(|c| [c, '.'])
            .collect();
        check(&format!("{six}ip6.arpa"), RecordType::PTR, "NoError 30 catalog.shop.svc.cluster.local.");
        check(
            &format!("{}ip6.arpa", six.replacen('1', "2", 1)),
            RecordType::PTR,
            &format!("NXDomain soa {}ip6.arpa.", six.replacen('1', "2", 1)),
        );
    }

    #[test]
    fn before_there_is_a_table_no_name_of_the_mesh_is_said_to_be_absent() {
        let check = |name: &str, expected: &str| {
            let name = Name::from_ascii(name).unwrap();
            assert_eq!(said(answer(&name, RecordType::A, None)), expected, "{name}");
        };
        check("catalog.shop.svc.cluster.local.", "ServFail");
        check("example.com.", "elsewhere");
        check("localhost.", "NoError 3600 127.0.0.1");
    }
}
