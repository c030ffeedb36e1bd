//! The sessions' plain types to and from the discovery protocol's messages.

use std::collections::{BTreeMap, HashMap};

use prost::Message;

use crate::node::Node;
use crate::resource::{Raw, Rejection, kind_of_type_url, type_url};
use crate::server::Protocol;
use crate::{client, pb, server};

/// What clients' messages of both protocols say.
pub(crate) trait Asking: Send + 'static {
    const PROTOCOL: Protocol;
    /// Who asks; the first message of a stream says so.
    fn node(&self) -> Option<&pb::core::Node>;
    fn type_url(&self) -> &str;
    /// Why the last response is refused.
    fn error(&self) -> Option<&pb::Status>;
}

impl Asking for pb::discovery::DeltaDiscoveryRequest {
    const PROTOCOL: Protocol = Protocol::Delta;

    fn node(&self) -> Option<&pb::core::Node> {
        self.node.as_ref()
    }
    fn type_url(&self) -> &str {
        &self.type_url
    }
    fn error(&self) -> Option<&pb::Status> {
        self.error_detail.as_ref()
    }
}

impl Asking for pb::discovery::DiscoveryRequest {
    const PROTOCOL: Protocol = Protocol::StateOfTheWorld;

    fn node(&self) -> Option<&pb::core::Node> {
        self.node.as_ref()
    }
    fn type_url(&self) -> &str {
        &self.type_url
    }
    fn error(&self) -> Option<&pb::Status> {
        self.error_detail.as_ref()
    }
}

/// Google's standard error detail, by which we say of each resource why it was refused.
/// Source: googleapis `google/rpc/error_details.proto`.
#[derive(Clone, PartialEq, prost::Message)]
struct BadRequest {
    #[prost(message, repeated, tag = "1")]
    field_violations: Vec<FieldViolation>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FieldViolation {
    /// The resource's name.
    #[prost(string, tag = "1")]
    field: String,
    #[prost(string, tag = "2")]
    description: String,
}

const BAD_REQUEST: &str = "type.googleapis.com/google.rpc.BadRequest";
/// gRPC's `CANCELLED`.
const CANCELLED: i32 = 1;
/// gRPC's `INVALID_ARGUMENT`.
const INVALID_ARGUMENT: i32 = 3;
/// gRPC's `UNAVAILABLE`.
const UNAVAILABLE: i32 = 14;

/// The type of requests that ask for nothing, and say how a workload is: not ready, where they carry an error.
/// Source: Istio `pilot/pkg/xds/v3/model.go`, `HealthInfoType`.
const HEALTH: &str = "type.googleapis.com/istio.v1.HealthInformation";

/// Reads what a message of this type says of a workload's health; `None` for another type.
pub(super) fn health(type_url: &str, error: Option<&pb::Status>) -> Option<client::Health> {
    (type_url == HEALTH).then(|| match error {
        None => client::Health::Ready,
        Some(status) if status.code == CANCELLED => client::Health::Leaving,
        Some(status) => client::Health::Unready(status.message.as_str().into()),
    })
}

/// Writes a report of health.
pub(super) fn delta_health(
    health: &client::Health,
    node: Option<&Node>,
) -> pb::discovery::DeltaDiscoveryRequest {
    pb::discovery::DeltaDiscoveryRequest {
        node: node.map(Node::to_message),
        type_url: HEALTH.to_owned(),
        error_detail: from_health(health),
        ..pb::discovery::DeltaDiscoveryRequest::default()
    }
}

/// Writes a report of health, with state of the world.
pub(super) fn whole_health(health: &client::Health, node: Option<&Node>) -> pb::discovery::DiscoveryRequest {
    pb::discovery::DiscoveryRequest {
        node: node.map(Node::to_message),
        type_url: HEALTH.to_owned(),
        error_detail: from_health(health),
        ..pb::discovery::DiscoveryRequest::default()
    }
}

fn from_health(health: &client::Health) -> Option<pb::Status> {
    let status = |code, message: &str| pb::Status { code, message: message.to_owned(), details: Vec::new() };
    match health {
        client::Health::Ready => None,
        client::Health::Unready(why) => Some(status(UNAVAILABLE, why)),
        client::Health::Leaving => Some(status(CANCELLED, "it leaves")),
    }
}

/// Reads a delta request; `None` for a type that we do not serve.
pub(super) fn from_delta(message: pb::discovery::DeltaDiscoveryRequest) -> Option<server::Request> {
    let kind = kind_of_type_url(&message.type_url)?;
    Some(server::Request {
        kind,
        nonce: message.response_nonce,
        refusal: message.error_detail.map(|status| from_status(kind, status)),
        names: server::Names::Change {
            subscribe: message.resource_names_subscribe,
            unsubscribe: message.resource_names_unsubscribe,
            have: message.initial_resource_versions.into_iter().collect(),
        },
    })
}

/// Reads a state-of-the-world request; `None` for a type that we do not serve.
pub(super) fn from_whole(message: pb::discovery::DiscoveryRequest) -> Option<server::Request> {
    let kind = kind_of_type_url(&message.type_url)?;
    Some(server::Request {
        kind,
        nonce: message.response_nonce,
        refusal: message.error_detail.map(|status| from_status(kind, status)),
        names: server::Names::All(message.resource_names),
    })
}

fn from_status(kind: meshwork_model::proxy::Kind, status: pb::Status) -> server::Refusal {
    let details = status.details.iter().filter(|any| any.type_url == BAD_REQUEST);
    let rejections = details
        .filter_map(|any| BadRequest::decode(any.value.as_slice()).ok())
        .flat_map(|details| details.field_violations)
        .map(|violation| Rejection { kind, name: violation.field, why: violation.description })
        .collect();
    server::Refusal { message: status.message, rejections }
}

fn to_status(refusal: server::Refusal) -> pb::Status {
    let violation =
        |rejection: Rejection| FieldViolation { field: rejection.name, description: rejection.why };
    let details = BadRequest { field_violations: refusal.rejections.into_iter().map(violation).collect() };
    pb::Status {
        code: INVALID_ARGUMENT,
        message: refusal.message,
        details: vec![pb::Any { type_url: BAD_REQUEST.to_owned(), value: details.encode_to_vec() }],
    }
}

/// Writes a delta response.
pub(super) fn to_delta(response: server::Response) -> pb::discovery::DeltaDiscoveryResponse {
    let resource = |encoded: &crate::Encoded| pb::discovery::Resource {
        name: encoded.name.to_string(),
        version: encoded.version.to_string(),
        resource: Some(any(encoded)),
        ..pb::discovery::Resource::default()
    };
    pb::discovery::DeltaDiscoveryResponse {
        system_version_info: response.version,
        resources: response.resources.iter().map(|encoded| resource(encoded)).collect(),
        type_url: type_url(response.kind).to_owned(),
        removed_resources: response.removed,
        nonce: response.nonce,
        ..pb::discovery::DeltaDiscoveryResponse::default()
    }
}

/// Writes a state-of-the-world response.
pub(super) fn to_whole(response: server::Response) -> pb::discovery::DiscoveryResponse {
    pb::discovery::DiscoveryResponse {
        version_info: response.version,
        resources: response.resources.iter().map(|encoded| any(encoded)).collect(),
        type_url: type_url(response.kind).to_owned(),
        nonce: response.nonce,
        ..pb::discovery::DiscoveryResponse::default()
    }
}

fn any(encoded: &crate::Encoded) -> pb::Any {
    pb::Any { type_url: encoded.type_url().to_owned(), value: encoded.bytes.to_vec() }
}

/// Writes a client's request; the first one of a stream carries the node.
pub(super) fn delta_request(
    request: server::Request,
    node: Option<&Node>,
) -> pb::discovery::DeltaDiscoveryRequest {
    let (subscribe, unsubscribe, have) = match request.names {
        server::Names::Change { subscribe, unsubscribe, have } => (subscribe, unsubscribe, have),
        server::Names::All(names) => (names, Vec::new(), BTreeMap::new()),
    };
    pb::discovery::DeltaDiscoveryRequest {
        node: node.map(Node::to_message),
        type_url: type_url(request.kind).to_owned(),
        resource_names_subscribe: subscribe,
        resource_names_unsubscribe: unsubscribe,
        initial_resource_versions: have.into_iter().collect::<HashMap<_, _>>(),
        response_nonce: request.nonce,
        error_detail: request.refusal.map(to_status),
        ..pb::discovery::DeltaDiscoveryRequest::default()
    }
}

/// Writes a client's state-of-the-world request; `accepted` is the version of its last response that was good.
pub(super) fn whole_request(
    request: server::Request,
    accepted: &str,
    node: Option<&Node>,
) -> pb::discovery::DiscoveryRequest {
    let resource_names = match request.names {
        server::Names::All(names) => names,
        server::Names::Change { subscribe, .. } => subscribe,
    };
    pb::discovery::DiscoveryRequest {
        version_info: accepted.to_owned(),
        node: node.map(Node::to_message),
        type_url: type_url(request.kind).to_owned(),
        resource_names,
        response_nonce: request.nonce,
        error_detail: request.refusal.map(to_status),
        ..pb::discovery::DiscoveryRequest::default()
    }
}

/// Reads a delta response; `None` for a type that we did not ask for.
pub(super) fn delta_response(message: pb::discovery::DeltaDiscoveryResponse) -> Option<client::Response> {
    let kind = kind_of_type_url(&message.type_url)?;
    Some(client::Response {
        kind,
        nonce: message.nonce,
        version: message.system_version_info,
        resources: message.resources.into_iter().map(carried).collect(),
        removed: message.removed_resources,
    })
}

fn carried(resource: pb::discovery::Resource) -> client::Carried {
    let any = resource.resource.unwrap_or_default();
    client::Carried {
        name: resource.name,
        version: resource.version,
        type_url: any.type_url,
        bytes: Raw(any.value.into()),
    }
}

/// The type of resources that carry their own name. Source: xDS protocol, "`Resource` wrapper".
const WRAPPER: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

/// What every resource begins with, whatever its type.
#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

/// Reads a state-of-the-world response; `None` for a type that we did not ask for.
pub(super) fn whole_response(message: pb::discovery::DiscoveryResponse) -> Option<client::Response> {
    let kind = kind_of_type_url(&message.type_url)?;
    let version = message.version_info;
    let carried = |any: pb::Any| {
        let any = match pb::discovery::Resource::decode(any.value.as_slice()) {
            Ok(wrapped) if any.type_url == WRAPPER => wrapped.resource.unwrap_or_default(),
            _ => any,
        };
        let name = Named::decode(any.value.as_slice()).map(|named| named.name).unwrap_or_default();
        client::Carried {
            name,
            version: version.clone(),
            type_url: any.type_url,
            bytes: Raw(any.value.into()),
        }
    };
    Some(client::Response {
        kind,
        nonce: message.nonce,
        resources: message.resources.into_iter().map(carried).collect(),
        version: version.clone(),
        removed: Vec::new(),
    })
}
