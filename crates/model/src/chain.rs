//! `ChainIndex`: which filter chain takes a connection.
//!
//! Criteria are looked at one after the other, each time the most specific value that a chain names; there is no way
//! back: where the chains of that value refuse the connection by a later criterion, no other takes it. Compiled once
//! per config. Source: Envoy `FilterChainMatch` and its order of criteria.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use crate::cidr::{Cidr, Ranges};
use crate::proxy::{ChainMatch, SourceType, Transport};

/// What is known of a connection when its chain is chosen.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The address that it came to, or was meant for.
    pub local: SocketAddr,
    /// Who opened it.
    pub direct: SocketAddr,
    /// On whose behalf.
    pub remote: SocketAddr,
    /// What its first bytes are, as far as they were looked at.
    pub transport: Transport,
    /// The server name that is asked for, in lowercase; empty where none is.
    pub server_name: &'a str,
    /// The protocols that are offered, in the client's order.
    pub alpn: &'a [&'a [u8]],
}

/// The chains of a listener, by what they match.
#[derive(Debug, Default)]
pub struct ChainIndex {
    /// By port; 0 is any.
    ports: HashMap<u16, Ranges<Names>>,
}

/// By exact name, by `.` and a domain, and by nothing for any.
type Names = HashMap<Arc<str>, Transports>;
/// TLS, plaintext, any.
type Transports = [Option<Protocols>; 3];
/// By protocol; by nothing for any.
type Protocols = HashMap<Arc<str>, Ranges<Sources>>;
/// Any, local, external.
type Sources = [Option<Ranges<Ports>>; 3];
/// The chain, by port; 0 is any.
type Ports = HashMap<u16, usize>;

const ANY: usize = 2;

impl ChainIndex {
    /// Takes the matches of all chains, in their order.
    ///
    /// # Errors
    /// Two chains, by their place, that would take the same connections; they may be one and the same.
    pub fn compile<'m>(matches: impl IntoIterator<Item = &'m ChainMatch>) -> Result<Self, (usize, usize)> {
        let mut index = Self::default();
        for (chain, wanted) in matches.into_iter().enumerate() {
            index.add(chain, wanted).map_err(|other| (other, chain))?;
        }
        Ok(index)
    }

    /// The place of the chain that takes a connection, if one does.
    pub fn find(&self, arrival: &Arrival<'_>) -> Option<usize> {
        // A port that is named has no way back to those that name none, either.
        let destinations = self.ports.get(&arrival.local.port()).or_else(|| self.ports.get(&0))?;
        let names = destinations.longest(arrival.local.ip())?;
        let transports = named(names, arrival.server_name)?;
        let protocols = transports[place(Some(arrival.transport))].as_ref().or(transports[ANY].as_ref())?;
        let offered = || arrival.alpn.iter().find_map(|name| protocols.get(std::str::from_utf8(name).ok()?));
        let directs = offered().or_else(|| protocols.get(""))?;
        let sources = directs.longest(arrival.direct.ip())?;
        let ranges = of_type(sources, arrival)?;
        let ports = ranges.longest(arrival.remote.ip())?;
        ports.get(&arrival.remote.port()).or_else(|| ports.get(&0)).copied()
    }

    fn add(&mut self, chain: usize, wanted: &ChainMatch) -> Result<(), usize> {
        let destinations = self.ports.entry(wanted.destination_port.unwrap_or_default()).or_default();
        for range in ranges(&wanted.destinations) {
            let names = destinations.entry(range);
            for name in texts(&wanted.server_names) {
                let key = name.strip_prefix('*').map_or_else(|| Arc::clone(&name), Arc::from);
                let transports = names.entry(key).or_default();
                let protocols = transports[place(wanted.transport)].get_or_insert_default();
                for protocol in texts(&wanted.alpn) {
                    let directs = protocols.entry(protocol).or_default();
                    for range in ranges(&wanted.direct_sources) {
                        add_source(directs.entry(range), chain, wanted)?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn add_source(sources: &mut Sources, chain: usize, wanted: &ChainMatch) -> Result<(), usize> {
    let of_type = sources[wanted.source_type as usize].get_or_insert_default();
    let any = [0];
    let wanted_ports = if wanted.source_ports.is_empty() { &any[..] } else { &wanted.source_ports };
    for range in ranges(&wanted.sources) {
        let ports = of_type.entry(range);
        for port in wanted_ports {
            if let Some(other) = ports.insert(*port, chain) {
                return Err(other);
            }
        }
    }
    Ok(())
}

/// The ranges of a list, or the one of every address where it is empty.
fn ranges(list: &[Cidr]) -> impl Iterator<Item = Option<Cidr>> {
    list.iter().copied().map(Some).chain(list.is_empty().then_some(None))
}

/// The texts of a list, or the empty one where it is empty.
fn texts(list: &[Arc<str>]) -> impl Iterator<Item = Arc<str>> {
    list.iter().cloned().chain(list.is_empty().then(Arc::default))
}

fn place(transport: Option<Transport>) -> usize {
    match transport {
        Some(Transport::Tls) => 0,
        Some(Transport::Plaintext) => 1,
        None => ANY,
    }
}

/// The exact name, then the longest domain, then none.
fn named<'n>(names: &'n Names, asked: &str) -> Option<&'n Transports> {
    names.get(asked).or_else(|| domains(asked).find_map(|domain| names.get(domain))).or_else(|| names.get(""))
}

/// The domains that a name is below, each with its dot, the longest first.
fn domains(name: &str) -> impl Iterator<Item = &str> {
    let dots = name.bytes().enumerate().skip(1).filter(|(_, byte)| *byte == b'.');
    dots.map(|(at, _)| &name[at..]).filter(|domain| domain.len() > 1)
}

fn of_type<'s>(sources: &'s Sources, arrival: &Arrival<'_>) -> Option<&'s Ranges<Ports>> {
    let [any, local, external] = sources;
    let nearer = if is_local(arrival) { local } else { external };
    nearer.as_ref().or(any.as_ref())
}

/// Whether a connection comes from the host that it is for. Source: Envoy `SAME_IP_OR_LOOPBACK`, which takes the one
/// address of loopback that everybody uses.
fn is_local(arrival: &Arrival<'_>) -> bool {
    let remote = arrival.remote.ip();
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    loopback.contains(&remote) || remote == arrival.local.ip()
}

const _: () = assert!(SourceType::Any as usize == 0 && SourceType::Local as usize == 1);
const _: () = assert!(SourceType::External as usize == 2);

#[cfg(test)]
mod tests;
