//! Labels of edges and outcomes, as name and value; one order and one spelling for every export.

use std::borrow::Cow;

use meshwork_model::proxy::ServiceName;

use crate::dry_run::Tried;
use crate::edge::EdgeKey;
use crate::handshake::Unproven;
use crate::inbound::Caller;
use crate::names::{self, Metric};
use crate::outcome::Outcome;
use crate::registry::Labelled;

/// A label's name and value.
pub(crate) type Label<'a> = (&'static str, Cow<'a, str>);

/// A series: its labels, and its total.
pub(crate) type Series<'a> = (Vec<Label<'a>>, u64);

/// All that is told by labels of its own: every metric with its series, and whether it only grows.
pub(crate) fn labelled(labelled: &Labelled) -> Vec<(Metric, bool, Vec<Series<'_>>)> {
    let of_ports = |is_mtls: bool, count: fn(&crate::inbound::Counts) -> u64| -> Vec<Series<'_>> {
        let meant = labelled.ports.iter().filter(|((_, caller), _)| (*caller == Caller::Mtls) == is_mtls);
        meant.map(|((port, caller), counts)| (at_port(*port, *caller), count(counts))).collect()
    };
    let trials = labelled.trials.iter().map(|(tried, count)| (trial(tried), *count));
    let unproven = labelled.unproven.iter().map(|(why, count)| (why_not(*why), *count));
    vec![
        (names::MTLS_CONNECTIONS, true, of_ports(true, |counts| counts.connections)),
        (names::MTLS_REQUESTS, true, of_ports(true, |counts| counts.requests)),
        (names::PLAINTEXT_CONNECTIONS, true, of_ports(false, |counts| counts.connections)),
        (names::PLAINTEXT_OPEN, false, of_ports(false, |counts| counts.open)),
        (names::PLAINTEXT_REQUESTS, true, of_ports(false, |counts| counts.requests)),
        (names::DRY_RUN, true, trials.collect()),
        (names::HANDSHAKES_REFUSED, true, unproven.collect()),
    ]
}

fn at_port(port: u16, caller: Caller) -> Vec<Label<'static>> {
    let mut labels = vec![(names::DESTINATION_PORT, port.to_string().into())];
    labels.extend(caller.label().map(|address| (names::SOURCE_IP, address.into())));
    labels
}

fn trial((policy, trial): &Tried) -> Vec<Label<'_>> {
    vec![(names::POLICY, (&**policy).into()), (names::VERDICT, trial.label().into())]
}

fn why_not(why: Unproven) -> Vec<Label<'static>> {
    vec![(names::WHY, why.label().into())]
}

/// The labels of an edge.
pub(crate) fn edge(key: &EdgeKey) -> Vec<Label<'_>> {
    let service = key.service.as_ref();
    vec![
        (names::REPORTER, key.reporter.label().into()),
        (names::SOURCE_WORKLOAD, known(&key.source.name)),
        (names::SOURCE_NAMESPACE, known(&key.source.namespace)),
        (names::SOURCE_PRINCIPAL, known(&key.source_principal)),
        (names::SOURCE_APP, known(&key.source.app)),
        (names::SOURCE_VERSION, known(&key.source.version)),
        (names::SERVICE, service.map_or(names::UNKNOWN.into(), host)),
        (names::SERVICE_NAME, service.map_or(names::UNKNOWN.into(), name)),
        (names::SERVICE_NAMESPACE, service.map_or(names::UNKNOWN.into(), namespace)),
        (names::DESTINATION_WORKLOAD, known(&key.destination.name)),
        (names::DESTINATION_NAMESPACE, known(&key.destination.namespace)),
        (names::DESTINATION_PRINCIPAL, known(&key.destination_principal)),
        (names::DESTINATION_APP, known(&key.destination.app)),
        (names::DESTINATION_VERSION, known(&key.destination.version)),
        (names::PROTOCOL, key.protocol.label().into()),
        (names::SECURITY, if key.mtls { names::MUTUAL_TLS } else { names::NO_TLS }.into()),
    ]
}

/// The labels of an outcome of a request.
pub(crate) fn outcome(outcome: Outcome) -> Vec<Label<'static>> {
    let Outcome::Exact { status, grpc_status, reason } = outcome else {
        return vec![(names::RESPONSE_CODE, class(outcome)), (names::RESPONSE_FLAGS, "-".into())];
    };
    let mut labels = vec![(names::RESPONSE_CODE, status.to_string().into())];
    labels.extend(grpc_status.map(|code| (names::GRPC_STATUS, code.to_string().into())));
    let words = reason.map(meshwork_model::reason::Reason::words);
    let flag = words.map_or("", |w| w.flag);
    labels.push((names::RESPONSE_FLAGS, if flag.is_empty() { "-" } else { flag }.into()));
    labels.extend(words.map(|w| (names::REASON, w.code.into())));
    labels
}

fn class(outcome: Outcome) -> Cow<'static, str> {
    match outcome {
        Outcome::Class(class @ 1..) => format!("{class}xx").into(),
        _ => "0".into(),
    }
}

fn known(text: &str) -> Cow<'_, str> {
    if text.is_empty() { names::UNKNOWN.into() } else { text.into() }
}

/// What is outside the mesh has no namespace; its name is all there is.
fn host(service: &ServiceName) -> Cow<'_, str> {
    if service.namespace.is_empty() { known(&service.name) } else { service.host().into() }
}

fn name(service: &ServiceName) -> Cow<'_, str> {
    known(&service.name)
}

fn namespace(service: &ServiceName) -> Cow<'_, str> {
    known(&service.namespace)
}
