//! The table itself. Source: the comments of Envoy's `.proto` files.

mod access_log;
mod bootstrap;
mod cluster;
mod common;
mod filter;
mod listener;
mod network;
mod rbac;
mod resilience;
mod route;
mod tls;

use super::{Accepted, Field, Support};

const fn yes(name: &'static str) -> Field {
    Field { name, support: Support::Honoured, note: "" }
}

/// Honoured within limits, which `decode` enforces.
const fn only(name: &'static str, note: &'static str) -> Field {
    Field { name, support: Support::Honoured, note }
}

const fn harmless(name: &'static str, note: &'static str) -> Field {
    Field { name, support: Support::Harmless, note }
}

/// Refused, with what to write in its place; a field that is not listed is refused, too.
const fn no(name: &'static str, note: &'static str) -> Field {
    Field { name, support: Support::Refused, note }
}

const fn accept(message: &'static str, fields: &'static [Field]) -> Accepted {
    Accepted { message, fields }
}

const STATISTICS: &str = "names statistics only";
const LABEL: &str = "a label; the type in `typed_config` decides";
const BUFFERS: &str = "buffers have fixed limits";
const FOR_OTHERS: &str = "read by other programs";

/// Every message that may occur, by what it is part of.
const PARTS: &[&[Accepted]] = &[
    bootstrap::ACCEPTED,
    common::ACCEPTED,
    listener::ACCEPTED,
    network::ACCEPTED,
    filter::ACCEPTED,
    access_log::ACCEPTED,
    rbac::ACCEPTED,
    route::ACCEPTED,
    resilience::ACCEPTED,
    cluster::ACCEPTED,
    tls::ACCEPTED,
];

/// Every message that may occur.
pub(super) fn accepted() -> impl Iterator<Item = &'static Accepted> {
    PARTS.iter().copied().flatten()
}
