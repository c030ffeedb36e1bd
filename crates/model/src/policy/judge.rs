//! Whether a rule applies. Nothing else judges.

use std::net::IpAddr;

use super::Facts;
use crate::cidr::Cidr;
use crate::metadata::matches_metadata;
use crate::proxy::{Permission, Principal, Rule, StringMatch};
use crate::route::{matches_each_value, matches_header, matches_text};

/// Is told what is tested, and what came of it. That of `()` is nothing, and costs nothing.
pub trait Trace {
    /// A test begins; tests that it consists of follow before it ends, as far as they matter.
    fn begin(&mut self, _test: Test<'_>) {}

    /// The test that began last ends.
    fn end(&mut self, _holds: bool) {}
}

impl Trace for () {}

/// What is tested.
#[derive(Clone, Copy, Debug)]
pub enum Test<'t> {
    /// Whether a rule applies.
    Rule(&'t Rule),
    /// What is asked for.
    Permission(&'t Permission),
    /// Who asks.
    Principal(&'t Principal),
}

/// Whether one of a rule's permissions and one of its principals hold.
pub(super) fn applies<T: Trace>(rule: &Rule, facts: &Facts<'_>, trace: &mut T) -> bool {
    trace.begin(Test::Rule(rule));
    let applies = rule.permissions.iter().any(|p| permits(p, facts, trace))
        && rule.principals.iter().any(|p| is(p, facts, trace));
    trace.end(applies);
    applies
}

fn permits<T: Trace>(permission: &Permission, facts: &Facts<'_>, trace: &mut T) -> bool {
    trace.begin(Test::Permission(permission));
    let holds = match permission {
        Permission::Any => true,
        Permission::All(all) => all.iter().all(|p| permits(p, facts, trace)),
        Permission::OneOf(any) => any.iter().any(|p| permits(p, facts, trace)),
        Permission::Not(p) => !permits(p, facts, trace),
        Permission::Path(text) => facts.head.is_some_and(|head| matches_text(text, head.path())),
        Permission::Header(test) => facts.head.is_some_and(|head| matches_header(test, head)),
        Permission::DestinationAddress(range) => is_in(range, facts.destination),
        Permission::DestinationPort(port) => facts.destination_port == *port,
        Permission::DestinationPorts { start, end } => {
            (*start..*end).contains(&facts.destination_port.into())
        }
        Permission::ServerName(text) => matches_text(text, facts.server_name.unwrap_or_default().as_bytes()),
        Permission::Metadata(test) => matches_metadata(test, facts.metadata),
    };
    trace.end(holds);
    holds
}

fn is<T: Trace>(principal: &Principal, facts: &Facts<'_>, trace: &mut T) -> bool {
    trace.begin(Test::Principal(principal));
    let holds = match principal {
        Principal::Any => true,
        Principal::All(all) => all.iter().all(|p| is(p, facts, trace)),
        Principal::OneOf(any) => any.iter().any(|p| is(p, facts, trace)),
        Principal::Not(p) => !is(p, facts, trace),
        Principal::Authenticated(None) => facts.peer.is_some() || facts.names.is_some(),
        Principal::Authenticated(Some(text)) => is_named(text, facts),
        Principal::DirectAddress(range) => is_in(range, facts.direct),
        Principal::RemoteAddress(range) => is_in(range, facts.remote),
        Principal::SourceAddress(range) => is_in(range, facts.source),
        Principal::Header(test) => facts.head.is_some_and(|head| matches_header(test, head)),
        Principal::EachValue { name, tests } => {
            facts.head.is_some_and(|head| matches_each_value(name, tests, head))
        }
        Principal::Path(text) => facts.head.is_some_and(|head| matches_text(text, head.path())),
        Principal::Metadata(test) => matches_metadata(test, facts.metadata),
    };
    trace.end(holds);
    holds
}

/// Whether one of the peer's names passes. Source: Envoy `Principal.Authenticated.principal_name`.
fn is_named(text: &StringMatch, facts: &Facts<'_>) -> bool {
    let mut passes = false;
    each_name(facts, |name| passes |= matches_text(text, name));
    passes
}

/// The names of a peer: those in its certificate, or the identity that it proved.
pub(super) fn each_name(facts: &Facts<'_>, mut visit: impl FnMut(&[u8])) {
    let Some(names) = &facts.names else {
        if let Some(peer) = facts.peer {
            visit(peer.as_str().as_bytes());
        }
        return;
    };
    for name in names.uris.iter().chain(names.dns_names) {
        visit(name.as_bytes());
    }
    visit(names.subject.as_bytes());
}

/// Whether an address is in a range: one of IPv4 that a socket of IPv6 tells (`::ffff:10.0.0.1`) is one of IPv4.
fn is_in(range: &Cidr, address: Option<IpAddr>) -> bool {
    address.is_some_and(|address| range.contains(address.to_canonical()))
}
