//! Labels of edges and outcomes, as name and value; one order and one spelling for every export.

use std::borrow::Cow;

use meshwork_model::proxy::ServiceName;

use crate::edge::EdgeKey;
use crate::names;
use crate::outcome::Outcome;

/// A label's name and value.
pub(crate) type Label<'a> = (&'static str, Cow<'a, str>);

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
