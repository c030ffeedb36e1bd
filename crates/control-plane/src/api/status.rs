//! How far config has come: what each proxy runs, and what became of each route.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use meshwork_model::mesh::{ConnectionRouteKind, GatewayListener, Key, RouteKind, Target, Workload};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Api;
use super::access::Caller;
use super::answers::{RefusedAnswer, dialect};
use super::failure::Failure;
use crate::attachment::gateways;
use crate::ingest::ResourceId;
use crate::status::{Condition, Known, ParentStatus};
use crate::translate::Mesh;

#[derive(Deserialize)]
pub(super) struct Asked {
    revision: Option<u64>,
}

/// How far a revision has come.
#[derive(Serialize)]
pub(super) struct StatusAnswer {
    revision: u64,
    proxies: Vec<ProxyStatus>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProxyStatus {
    namespace: String,
    name: String,
    connected: bool,
    dialect: &'static str,
    state: &'static str,
    /// The newest revision of config that it runs, or has acknowledged.
    revision: u64,
    version: String,
    refused: Vec<RefusedAnswer>,
    stale_seconds: f64,
}

pub(super) async fn status(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<StatusAnswer>, Failure> {
    let Query(Asked { revision }) = asked.map_err(|error| Failure::bad(error.body_text()))?;
    let newest = api.register.revision();
    let revision = revision.unwrap_or(newest).min(newest);
    let proxies = api.world.statuses(|key, proxy, status| {
        caller.may_read(&key.namespace).then(|| ProxyStatus {
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            connected: proxy.connected,
            dialect: dialect(proxy.dialect),
            state: status.stage.word(),
            revision: status.revision,
            version: proxy.version(),
            refused: RefusedAnswer::of(proxy),
            stale_seconds: status.stale.as_secs_f64(),
        })
    });
    Ok(Json(StatusAnswer { revision, proxies: proxies.into_iter().flatten().collect() }))
}

/// The API group of Gateway.
const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// Who says what became of a route. Source: Gateway API, `RouteParentStatus.controllerName`.
const CONTROLLER: &str = "meshwork.dev/mesh";

/// The status of a resource that has one: what became of a route, for each Service and Gateway that it is attached to; what became of a Gateway.
pub(super) fn of_object(api: &Api, id: &ResourceId) -> Option<Value> {
    let mesh = api.world.mesh();
    let known = Known { config: &mesh.config, implied: &mesh.implied };
    let statuses = match &*id.kind {
        "HTTPRoute" => known.of_requests(RouteKind::Http, &id.key),
        "GRPCRoute" => known.of_requests(RouteKind::Grpc, &id.key),
        "TLSRoute" => known.of_connections(ConnectionRouteKind::Tls, &id.key),
        "TCPRoute" => known.of_connections(ConnectionRouteKind::Tcp, &id.key),
        "Gateway" => return of_gateway(&mesh, &id.key),
        _ => return None,
    };
    let parents: Vec<Value> = statuses.iter().filter_map(of_parent).collect();
    (!parents.is_empty()).then(|| json!({ "parents": parents }))
}

fn of_parent(status: &ParentStatus) -> Option<Value> {
    let (group, kind, key) = match &status.parent.target {
        Target::Service(key) => ("", "Service", key),
        Target::Gateway(key) => (GATEWAY_GROUP, "Gateway", key),
        Target::Host(_) | Target::Unknown(_) => return None,
    };
    let mut parent =
        json!({ "group": group, "kind": kind, "namespace": &*key.namespace, "name": &*key.name });
    if let Some(fields) = parent.as_object_mut() {
        fields.extend(status.parent.port.map(|port| ("port".to_owned(), port.into())));
        fields.extend(status.parent.section.as_deref().map(|name| ("sectionName".to_owned(), name.into())));
    }
    let conditions = [condition("Accepted", &status.accepted), condition("ResolvedRefs", &status.resolved)];
    Some(json!({ "parentRef": parent, "controllerName": CONTROLLER, "conditions": conditions }))
}

/// What became of a gateway: whether a node serves it, and for each listener how many routes are attached.
fn of_gateway(mesh: &Mesh, key: &Key) -> Option<Value> {
    let gateway = mesh.config.gateways.get(key)?;
    let serves = |workload: &Workload| {
        workload.key.namespace == key.namespace
            && workload.gateway.as_ref().is_some_and(|node| node.name == key.name)
    };
    let programmed = if mesh.workloads.values().any(|workload| serves(workload)) {
        Condition::good("Programmed")
    } else {
        Condition::bad("Pending", "no `meshwork gateway` serves it".to_owned())
    };
    let listener = |listener: &GatewayListener| {
        let kind = |kind: &str| json!({ "group": GATEWAY_GROUP, "kind": kind });
        let foreign = listener.protocol.certificates().unwrap_or_default();
        let resolved = match foreign.iter().find(|one| !gateways::may_use(&mesh.config, key, one)) {
            None => Condition::good("ResolvedRefs"),
            Some(one) => {
                let message = format!(
                    "no ReferenceGrant of {} lets the Gateway use its Secret {}",
                    one.namespace, one.name
                );
                Condition::bad("RefNotPermitted", message)
            }
        };
        json!({
            "name": &*listener.name,
            "attachedRoutes": gateways::attached_routes(&mesh.config, key, listener),
            "supportedKinds": gateways::supported(listener).into_iter().map(kind).collect::<Vec<_>>(),
            "conditions": [
                condition("Accepted", &Condition::good("Accepted")),
                condition("ResolvedRefs", &resolved),
                condition("Programmed", &programmed),
            ],
        })
    };
    Some(json!({
        "conditions": [condition("Accepted", &Condition::good("Accepted")), condition("Programmed", &programmed)],
        "listeners": gateway.listeners.iter().map(listener).collect::<Vec<_>>(),
    }))
}

fn condition(kind: &str, condition: &Condition) -> Value {
    let status = if condition.holds { "True" } else { "False" };
    json!({ "type": kind, "status": status, "reason": condition.reason, "message": condition.message })
}
