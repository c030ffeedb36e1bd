use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// The domain in which only the mesh knows names: what it does not know there does not exist.
pub const ZONE: &str = "cluster.local";

/// The names that a proxy answers for by DNS itself. Carried as a UDP listener with Envoy's `dns_filter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameTable {
    /// Unique name of the listener.
    pub name: Arc<str>,
    /// Where it is asked.
    pub address: SocketAddr,
    /// How long an answer may be kept; 30 s at least. [`NameTable::TTL`] where there is no name.
    pub ttl: Duration,
    /// Addresses by name: lowercase, without the dot at the end; each has one at least.
    pub names: BTreeMap<Arc<str>, Vec<IpAddr>>,
}

/// What a table says of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'t> {
    /// Its addresses, of both IP versions.
    Known(&'t [IpAddr]),
    /// There is no such name.
    Absent,
    /// Others know.
    Elsewhere,
}

impl NameTable {
    /// How long an answer may be kept where nothing else is said. Source: Envoy `answer_ttl`, 300 s.
    pub const TTL: Duration = Duration::from_mins(5);

    /// Looks a name up, whatever its case, with or without the dot at the end.
    pub fn resolve(&self, name: &str) -> Answer<'_> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        match self.names.get(name.as_str()) {
            Some(addresses) => Answer::Known(addresses),
            None if is_within(&name, ZONE) => Answer::Absent,
            None => Answer::Elsewhere,
        }
    }
}

fn is_within(name: &str, zone: &str) -> bool {
    name.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case_and_the_zone_is_ours_alone() {
        let catalog = vec![IpAddr::from([240, 0, 0, 1])];
        let table = NameTable {
            name: "dns".into(),
            address: ([127, 0, 0, 1], 53).into(),
            ttl: Duration::from_secs(30),
            names: [("catalog.shop".into(), catalog.clone())].into(),
        };
        let check = |name: &str, expected: Answer<'_>| assert_eq!(table.resolve(name), expected, "{name}");
        check("catalog.shop", Answer::Known(&catalog));
        check("Catalog.SHOP.", Answer::Known(&catalog));
        check("catalog.shop.svc.cluster.local", Answer::Absent);
        check("cluster.local.", Answer::Absent);
        check("mycluster.local", Answer::Elsewhere);
        check("catalog", Answer::Elsewhere);
        check("example.com", Answer::Elsewhere);
        check("", Answer::Elsewhere);
    }
}
