//! What is told of a request. Fields are only ever added.

use serde::{Deserialize, Serialize};

/// What becomes of a request, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Who asks.
    pub from: Party,
    /// What is called: `cart.shop:80`.
    pub to: String,
    /// `GET /items`, the path in the form that is judged; empty of bytes.
    pub request: String,
    /// What comes of it.
    pub outcome: Outcome,
    /// The caller's side; `None` where there is none.
    pub outbound: Option<Outbound>,
    /// The side of each workload that it may reach.
    pub inbound: Vec<Inbound>,
    /// What is not as it would be, or not known.
    pub notes: Vec<String>,
}

/// A workload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Party {
    /// `web.shop`; empty where only the identity is known.
    pub workload: String,
    /// Its SPIFFE ID; empty where it has none.
    pub identity: String,
    /// `meshwork`, `envoy` or `grpc`.
    pub dialect: String,
}

/// What comes of a request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Whether it reaches the application, as far as config decides that.
    pub passes: bool,
    /// In a sentence.
    pub text: String,
    /// The status of the answer that the mesh gives in the application's place.
    pub status: Option<u16>,
    /// The code of the reason: `meshwork explain CODE` tells more.
    pub reason: Option<String>,
}

/// The caller's side.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outbound {
    /// The listener's name.
    pub listener: String,
    /// Where it listens; empty where it has no socket.
    pub address: String,
    /// The chain that takes the connection.
    pub chain: String,
    /// The virtual host; empty of bytes.
    pub virtual_host: String,
    /// The route that takes the request.
    pub route: Option<RouteTaken>,
    /// Routes before it, and why they do not.
    pub passed_over: Vec<PassedOver>,
    /// What is done: forwarded, redirected, answered.
    pub action: String,
    /// Time-outs, retries, faults and the like.
    pub terms: Vec<String>,
    /// What a gateway says of tokens; empty where nothing is said of them.
    #[serde(default)]
    pub authentication: String,
    /// Policies of a gateway.
    pub policies: Vec<PolicyAnswer>,
    /// Where it may go.
    pub clusters: Vec<ClusterAnswer>,
}

/// A route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteTaken {
    /// Its name in the proxy.
    pub name: String,
    /// The resource that it is written in, and where: `HTTPRoute shop/cart, rule 0`; empty where nobody wrote it.
    pub written: String,
    /// What it takes.
    pub takes: String,
}

/// A route that does not take the request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PassedOver {
    /// Its name.
    pub route: String,
    /// The first test that fails.
    pub why: String,
}

/// A cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterAnswer {
    /// Its name.
    pub name: String,
    /// The share of requests that goes there, in per cent.
    pub percent: f64,
    /// How one endpoint is picked.
    pub balancing: String,
    /// Limits, health checks, outliers.
    pub terms: Vec<String>,
    /// The endpoints.
    pub endpoints: Vec<EndpointAnswer>,
}

/// An endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointAnswer {
    /// Where it is reached.
    pub address: String,
    /// `cart-1.shop`; empty where that is not known.
    pub workload: String,
    /// Where it runs; empty where that is not known.
    pub zone: String,
    /// 0 is asked first.
    pub priority: u32,
    /// Its share among its like.
    pub weight: u32,
    /// What config says of its health.
    pub health: String,
    /// The share of the cluster's requests that it gets, in per cent, as far as config decides that.
    pub percent: f64,
    /// `mTLS with spiffe://…`, `plaintext`, `TLS`, `not at all`.
    pub reached_by: String,
}

/// A called workload's side.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inbound {
    /// Who is called.
    pub to: Party,
    /// The port that services target.
    pub port: u16,
    /// The share of requests that arrives here, in per cent.
    pub percent: f64,
    /// The listener's name.
    pub listener: String,
    /// The filter chain that takes the connection; empty where none does.
    pub chain: String,
    /// `STRICT, by PeerAuthentication shop/default`.
    pub mtls: String,
    /// As whom the caller comes.
    pub comes_as: String,
    /// What is said of tokens; empty where nothing is.
    pub authentication: String,
    /// What each policy says, in the order in which they are judged.
    pub policies: Vec<PolicyAnswer>,
    /// What else is done with it: providers that are asked, limits.
    pub then: Vec<String>,
    /// What comes of it.
    pub outcome: Outcome,
    /// Where the application listens.
    pub application: String,
}

/// A policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyAnswer {
    /// `shop/cart`, or the name of a rule that no policy has.
    pub policy: String,
    /// `ALLOW`, `DENY`, `AUDIT` or `CUSTOM`.
    pub action: String,
    /// Whether it decides nothing.
    pub dry_run: bool,
    /// Whether one of its rules matches.
    pub matches: bool,
    /// Its rules, as far as they were looked at.
    pub rules: Vec<RuleAnswer>,
}

/// A rule of a policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleAnswer {
    /// `rule[0]`
    pub rule: String,
    /// Whether it matches; `None` where another had matched before, so that nobody looked.
    pub matches: Option<bool>,
    /// What of it holds, or which test is the first that fails.
    pub why: String,
}
