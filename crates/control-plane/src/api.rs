//! What people and the command line ask, as JSON over HTTP on loopback. Nothing here changes anything.
//!
//! `GET /` lists what there is.

mod answers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use meshwork_hub::{Edge, Hub};
use tokio::net::TcpListener;

use crate::topology;
use crate::world::World;
use answers::{ConfigAnswer, ProblemAnswer, ProxyAnswer, TopologyAnswer};

/// What the API reads.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) world: Arc<World>,
    pub(crate) hub: Arc<Hub>,
    /// Where discovery is served.
    pub(crate) discovery: SocketAddr,
    /// Where this is served.
    pub(crate) own: SocketAddr,
}

/// Serves until the listener fails.
///
/// # Errors
/// The listener fails.
pub(crate) async fn serve(listener: TcpListener, api: Api) -> std::io::Result<()> {
    axum::serve(listener, router(api)).await
}

/// What there is to ask for, for people.
const ROUTES: &str = "\
/api/v1/topology   who is there, which services lead to whom, who calls whom
/api/v1/diagram    the same as Mermaid text
/api/v1/edges      who calls whom, how much, how well
/api/v1/proxies    what each proxy has accepted and refused, and whether its workload is ready
/api/v1/problems   what is wrong with the config and with workloads
/api/v1/config     the config that is applied
/ready             whether this serves
/metrics           this control plane's own, for Prometheus
";

fn router(api: Api) -> Router {
    Router::new()
        .route("/", get(|| async { ROUTES }))
        .route("/api/v1/topology", get(topology))
        .route("/api/v1/diagram", get(diagram))
        .route("/api/v1/edges", get(edges))
        .route("/api/v1/proxies", get(proxies))
        .route("/api/v1/problems", get(problems))
        .route("/api/v1/config", get(config))
        .route("/ready", get(|| async { "ready\n" }))
        .route("/metrics", get(metrics))
        .fallback(|| async { (StatusCode::NOT_FOUND, "there is nothing here; / lists what there is\n") })
        .layer(middleware::from_fn(demand_loopback_host))
        .with_state(api)
}

/// A web page in a browser of this host can make it ask any loopback port under the page's own host name (DNS
/// rebinding): whoever asks must name a loopback host.
async fn demand_loopback_host(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map_or(host, |(name, _)| name);
    if matches!(name, "localhost" | "127.0.0.1" | "[::1]") {
        next.run(request).await
    } else {
        (StatusCode::FORBIDDEN, "ask for this by a loopback address or localhost\n").into_response()
    }
}

impl Api {
    fn topology(&self) -> meshwork_diagram::Topology {
        let edges = self.hub.edges(Instant::now());
        topology::live(&self.world, &edges, &self.discovery.to_string(), &self.own.to_string())
    }
}

async fn topology(State(api): State<Api>) -> Json<TopologyAnswer> {
    Json(TopologyAnswer::of(&api.topology()))
}

async fn diagram(State(api): State<Api>) -> String {
    meshwork_diagram::mermaid(&api.topology())
}

async fn edges(State(api): State<Api>) -> Json<Vec<Edge>> {
    Json(api.hub.edges(Instant::now()))
}

async fn proxies(State(api): State<Api>) -> Json<Vec<ProxyAnswer>> {
    let mesh = api.world.mesh();
    Json(api.world.proxies(|key, proxy| ProxyAnswer::of(key, proxy, &mesh)))
}

async fn problems(State(api): State<Api>) -> Json<Vec<ProblemAnswer>> {
    Json(api.world.problems().iter().map(ProblemAnswer::of).collect())
}

async fn config(State(api): State<Api>) -> Json<ConfigAnswer> {
    Json(ConfigAnswer::of(&api.world.mesh()))
}

async fn metrics(State(api): State<Api>) -> Response {
    let counters = api.world.counters();
    let connected = api.world.proxies(|_, proxy| proxy.connected).into_iter().filter(|c| *c).count() as u64;
    let rows = [
        ("connected_nodes", "gauge", connected, "Proxies with a discovery stream."),
        ("streams_total", "counter", counters.streams, "Discovery streams that were opened."),
        ("streams_denied_total", "counter", counters.denied_streams, "Discovery streams that were refused."),
        ("pushes_total", "counter", counters.pushes, "Snapshots that were given to a proxy."),
        ("acks_total", "counter", counters.acknowledged, "Responses that a proxy accepted."),
        ("nacks_total", "counter", counters.refused, "Responses that a proxy refused."),
        (
            "configs_applied_total",
            "counter",
            counters.configs_applied,
            "Versions of config that were applied.",
        ),
        ("configs_refused_total", "counter", counters.configs_refused, "Versions of config with an error."),
    ];
    let row = |(name, kind, value, help): (&str, &str, u64, &str)| {
        let name = format!("meshwork_control_plane_{name}");
        format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n")
    };
    let text: String = rows.into_iter().map(row).collect();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

#[cfg(test)]
mod tests;
