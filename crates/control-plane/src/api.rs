//! What people and the command line ask, as JSON over HTTP: on loopback, and on a Unix socket in the state directory.
//!
//! `GET /` lists what there is. Who may change config, `access` says; what changes, is written down by `audit`.

mod access;
mod answers;
mod audit;
mod ca;
mod changes;
mod connections;
mod discovery;
mod explain;
mod failure;
mod mtls;
mod objects;
mod openapi;
mod secrets;
mod status;
mod tokens;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{DefaultBodyLimit, Extension, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use meshwork_hub::{Edge, Hub};
use meshwork_model::mesh::Key;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use crate::authority::Authority;
use crate::config::Register;
use crate::room::Rooms;
use crate::topology;
use crate::world::{Proxy, World};
pub(crate) use access::Access;
use access::{Caller, Peer};
use answers::{ConfigAnswer, ProblemAnswer, ProxyAnswer, TopologyAnswer};
pub(crate) use audit::Audit;
use connections::Known;
pub(crate) use connections::listen as listen_on_socket;
use failure::Failure;

/// What the API reads and writes.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) world: Arc<World>,
    pub(crate) authority: Arc<Authority>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) register: Arc<Register>,
    pub(crate) access: Access,
    pub(crate) audit: Arc<Audit>,
    /// Room for changes that wait.
    pub(crate) writes: Arc<Semaphore>,
    /// Room for watches.
    pub(crate) watches: Arc<Semaphore>,
    /// Room for connections.
    pub(crate) rooms: Arc<Rooms>,
    /// Where discovery is served.
    pub(crate) discovery: SocketAddr,
    /// Where this is served.
    pub(crate) own: SocketAddr,
}

/// Changes that wait for each other; each holds its texts.
pub(crate) const MAX_WRITES: usize = 16;
/// Watches at once.
pub(crate) const MAX_WATCHES: usize = 128;
/// The largest body: a folder of some thousand resources.
const MAX_BODY_BYTES: usize = 16 << 20;
/// The largest question of what becomes of a request: its head.
const MAX_QUESTION_BYTES: usize = 256 << 10;
/// How long an answer may take, but for a watch: the largest config is read in seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// Serves by TCP and by the socket, for as long as it is polled.
pub(crate) async fn serve(listener: TcpListener, socket: UnixListener, api: Api) {
    let rooms = || Arc::clone(&api.rooms);
    let router = router(api.clone());
    let from_here = router.clone().layer(middleware::from_fn(demand_own_host));
    tokio::join!(
        connections::serve_tcp(listener, from_here, rooms()),
        connections::serve_socket(socket, router, rooms()),
    );
}

/// What is asked by POST, and changes nothing.
const EXPLAIN: &str = "/api/v1/explain";

/// What there is to ask for, for people.
const ROUTES: &str = "\
/api/v1/topology   who is there, which services lead to whom, who calls whom
/api/v1/diagram    the same as Mermaid text
/api/v1/edges      who calls whom, how much, how well
/api/v1/mtls       which ports demand mTLS, who calls without, and who would be cut off
/api/v1/proxies    what each proxy has accepted and refused, and whether its workload is ready
/api/v1/problems   what is wrong with the config and with workloads
/api/v1/config     the config that is applied
/api/v1/ca         the certificate authority: its roots, who signs, how far a rotation is
/api/v1/ca/revocations  who is revoked, and why
/api/v1/ca/bundle  the mesh's own bundle, for other trust domains
/apis/meshwork.dev/v1alpha1/revisions  what changed config, the newest first
/apis/meshwork.dev/v1alpha1/status     how far config has come, by proxy
/openapi/v3        all there is, changes of config among it
/ready             whether this serves
/metrics           this control plane's own, for Prometheus
";

fn router(api: Api) -> Router {
    let explained = get(explain::get).post(explain::post);
    Router::new()
        .route("/", get(|| async { ROUTES }))
        .route("/api/v1/topology", get(topology))
        .route("/api/v1/diagram", get(diagram))
        .route("/api/v1/edges", get(edges))
        .route("/api/v1/mtls", get(mtls::mtls))
        .route("/api/v1/proxies", get(proxies))
        .route("/api/v1/problems", get(problems))
        .route("/api/v1/config", get(config))
        .route(EXPLAIN, explained.layer(DefaultBodyLimit::max(MAX_QUESTION_BYTES)))
        .route("/ready", get(|| async { "ready\n" }))
        .route("/metrics", get(metrics))
        .route("/openapi/v3", get(openapi::document))
        .merge(of_authority())
        .merge(of_config())
        .merge(of_objects())
        .fallback(|| async {
            Failure::new(StatusCode::NOT_FOUND, "there is nothing here; / lists what there is")
        })
        .layer(middleware::from_fn(limit_time))
        .layer(middleware::from_fn_with_state(api.clone(), identify))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(api)
}

/// The certificate authority.
fn of_authority() -> Router<Api> {
    let revocations = get(ca::revocations).post(ca::revoke).delete(ca::unrevoke);
    Router::new()
        .route("/api/v1/ca", get(ca::status))
        .route("/api/v1/ca/bundle", get(ca::bundle))
        .route("/api/v1/ca/rotation", post(ca::rotation))
        .route("/api/v1/ca/revocations", revocations)
}

/// Config as a whole.
fn of_config() -> Router<Api> {
    let path = |path: &str| format!("/apis/meshwork.dev/v1alpha1/{path}");
    Router::new()
        .route(&path("apply"), post(changes::apply))
        .route(&path("delete"), post(changes::delete))
        .route(&path("rollback"), post(changes::rollback))
        .route(&path("revisions"), get(changes::revisions))
        .route(&path("revisions/{revision}"), get(changes::revision))
        .route(&path("status"), get(status::status))
        .route(&path("tokens"), post(tokens::make))
        .route(&path("tokens/{name}"), delete(tokens::end))
}

/// Resources in the Kubernetes style.
fn of_objects() -> Router<Api> {
    let one = || get(objects::get).put(objects::put).delete(objects::delete);
    Router::new()
        .route("/api", get(discovery::core))
        .route("/api/v1", get(discovery::core_resources))
        .route("/api/v1/namespaces", get(objects::list))
        .route("/api/v1/namespaces/{name}", one())
        .route("/api/v1/{plural}", get(objects::list))
        .route("/api/v1/namespaces/{namespace}/{plural}", get(objects::list))
        .route("/api/v1/namespaces/{namespace}/{plural}/{name}", one())
        .route("/apis", get(discovery::groups))
        .route("/apis/{group}", get(discovery::group))
        .route("/apis/{group}/{version}", get(discovery::group_resources))
        .route("/apis/{group}/{version}/{plural}", get(objects::list))
        .route("/apis/{group}/{version}/namespaces/{namespace}/{plural}", get(objects::list))
        .route("/apis/{group}/{version}/namespaces/{namespace}/{plural}/{name}", one())
}

/// Finds out who asks. Who would change something and does not say who they are is refused before their body is read.
async fn identify(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().copied().unwrap_or(Peer::Loopback);
    let reads = matches!(*request.method(), Method::GET | Method::HEAD) || request.uri().path() == EXPLAIN;
    let caller = api.access.caller(peer, request.headers()).await;
    let caller =
        caller.and_then(|caller| if reads { Ok(caller) } else { caller.demand_name().map(|()| caller) });
    match caller {
        Ok(caller) => {
            if let (Peer::Loopback, Some(known)) = (peer, request.extensions().get::<Known>())
                && caller.demand_name().is_ok()
            {
                known.prove(&caller.name);
            }
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(failure) => failure.into_response(),
    }
}

/// Ends what takes too long, the reading of a body included. A watch's answer is there at once, and goes on.
async fn limit_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(ANSWER_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Failure::new(StatusCode::GATEWAY_TIMEOUT, "this takes too long").into_response(),
    }
}

/// Has nobody answered who asks for another host, or from a page of one.
async fn demand_own_host(request: Request, next: Next) -> Response {
    match foreign(&request) {
        Some(why) => (StatusCode::FORBIDDEN, why).into_response(),
        None => next.run(request).await,
    }
}

/// Why a request is none of ours: a web page in a browser of this host can make it ask any loopback port, also under the page's
/// own host name (DNS rebinding). So whoever asks must name a loopback host, and no page but ours has anything to ask.
///
/// Source: RFC 6454 §7, `Origin`; W3C Fetch Metadata Request Headers.
fn foreign(request: &Request) -> Option<&'static str> {
    let field = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
    let host = field("host").unwrap_or_default();
    let name = host.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map_or(host, |(name, _)| name);
    if !matches!(name, "localhost" | "127.0.0.1" | "[::1]") {
        return Some("ask for this by a loopback address or localhost\n");
    }
    let is_foreign = field("origin").is_some_and(|origin| origin.strip_prefix("http://") != Some(host));
    // Browsers say so also of what they ask without an origin: images, scripts. Following a link shows the page nothing.
    let is_embedded = matches!(field("sec-fetch-site"), Some("cross-site" | "same-site"))
        && field("sec-fetch-mode") != Some("navigate");
    (is_foreign || is_embedded).then_some("a page of another origin may not ask for this\n")
}

impl Api {
    /// What somebody may see of who is there, and who calls whom.
    fn topology(&self, caller: &Caller) -> meshwork_diagram::Topology {
        let edges = self.edges(caller);
        let mut all = topology::live(&self.world, &edges, &self.discovery.to_string(), &self.own.to_string());
        all.pods.retain(|pod| caller.may_read(&pod.namespace));
        all.services.retain(|service| caller.may_read(&service.namespace));
        all
    }

    /// The calls from and to what somebody may read.
    fn edges(&self, caller: &Caller) -> Vec<Edge> {
        let mut edges = self.hub.edges(Instant::now());
        edges.retain(|edge| caller.may_read(&edge.from_namespace) || caller.may_read(&edge.to_namespace));
        edges
    }
}

async fn topology(State(api): State<Api>, Extension(caller): Extension<Caller>) -> Json<TopologyAnswer> {
    Json(TopologyAnswer::of(&api.topology(&caller)))
}

async fn diagram(State(api): State<Api>, Extension(caller): Extension<Caller>) -> String {
    meshwork_diagram::mermaid(&api.topology(&caller))
}

async fn edges(State(api): State<Api>, Extension(caller): Extension<Caller>) -> Json<Vec<Edge>> {
    Json(api.edges(&caller))
}

async fn proxies(State(api): State<Api>, Extension(caller): Extension<Caller>) -> Json<Vec<ProxyAnswer>> {
    let mesh = api.world.mesh();
    let answer = |key: &Key, proxy: &Proxy| {
        caller.may_read(&key.namespace).then(|| ProxyAnswer::of(key, proxy, &mesh))
    };
    Json(api.world.proxies(answer).into_iter().flatten().collect())
}

async fn problems(State(api): State<Api>, Extension(caller): Extension<Caller>) -> Json<Vec<ProblemAnswer>> {
    let problems = api.authority.problems().into_iter().chain(api.world.problems());
    let visible = problems.filter(|problem| caller.may_see(problem));
    Json(visible.map(|problem| ProblemAnswer::of(&problem).shown(&caller)).collect())
}

async fn config(State(api): State<Api>, Extension(caller): Extension<Caller>) -> Json<ConfigAnswer> {
    Json(ConfigAnswer::of(&api.world.mesh(), |namespace| caller.may_read(namespace)))
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
    let gauges = api.authority.gauges();
    let gauges = gauges.into_iter().map(|(name, value, help)| (name, "gauge", value, help));
    let text: String = rows.into_iter().chain(gauges).chain(api.rooms.metrics()).map(row).collect();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

#[cfg(test)]
mod tests;
