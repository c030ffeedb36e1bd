//! Routes as people write them, whatever they wrote them in: Gateway API's HTTPRoute and GRPCRoute, Istio's
//! VirtualService. Ingest makes one form of all; `translate` gives it the order of its kind.

use std::sync::Arc;
use std::time::Duration;

use super::{Export, Key, Labels, ServicePort};
use crate::fraction::Fraction;
use crate::proxy::{CorsPolicy, Fault, HeaderMatch, QueryMatch, Redirect, RetryPolicy, StringMatch};
use crate::regex::{Regex, Rewrite};

/// The kind of a route of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteKind {
    /// Gateway API HTTPRoute.
    Http,
    /// Gateway API GRPCRoute.
    Grpc,
    /// Istio VirtualService, its `http` rules: tried as they are written.
    Virtual,
}

/// The kind of a route of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConnectionRouteKind {
    /// Gateway API TLSRoute: by server name.
    Tls,
    /// Gateway API TCPRoute.
    Tcp,
    /// Istio VirtualService, its `tls` and `tcp` rules.
    Virtual,
}

/// What is called, or led to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// A service of the mesh.
    Service(Key),
    /// A host of a ServiceEntry, in lowercase.
    Host(Arc<str>),
    /// A Gateway; only ever a parent.
    Gateway(Key),
    /// Something of a kind that the mesh does not know, as it is written; only ever a backend.
    Unknown(Arc<str>),
}

/// What a route is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Whose callers it acts on.
    pub target: Target,
    /// Their port; `None` for all ports.
    pub port: Option<u16>,
    /// The name of the port, or of the Gateway's listener; `None` for all.
    pub section: Option<Arc<str>>,
}

/// A route of requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// What it is attached to.
    pub parents: Vec<Parent>,
    /// The namespaces whose callers a VirtualService acts on; other kinds are told by where they stand.
    pub export: Export,
    /// The hosts that it is for, lowercase, `*.` in front for all below; empty for all. Only a Gateway's routes look at
    /// them: in the mesh the service's address says what is meant. Source: GAMMA, "Route types".
    pub hostnames: Vec<Arc<str>>,
    /// Rules in their written order.
    pub rules: Vec<RouteRule>,
    /// When the route was made, for precedence: seconds since 1970; 0 where it does not say.
    pub age: u64,
}

/// Matches and what is done then.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteRule {
    /// Name; empty where it has none.
    pub name: Arc<str>,
    /// One of them must match; never empty.
    pub matches: Vec<RouteMatch>,
    /// What is done.
    pub action: RuleAction,
    /// Changes of headers, whatever backend is chosen.
    pub changes: HeaderChanges,
    /// The path that is sent on.
    pub path: Option<PathModifier>,
    /// The host that is sent on.
    pub host: Option<Arc<str>>,
    /// Who gets a copy.
    pub mirrors: Vec<RuleMirror>,
    /// Which origins of browsers may ask.
    pub cors: Option<Arc<CorsPolicy>>,
    /// What is made to go wrong.
    pub fault: Option<Arc<Fault>>,
    /// How long a request may take, its retries included; zero for ever, `None` for the mesh's default.
    pub timeout: Option<Duration>,
    /// How long one try may take; `None` for as long as the request.
    pub try_timeout: Option<Duration>,
    /// What is tried again; `None` for the mesh's default.
    pub retry: Option<Arc<RetryPolicy>>,
}

/// What is done with a request.
#[derive(Clone, Debug, PartialEq)]
pub enum RuleAction {
    /// It goes to one of these; empty answers 500, as Gateway API says.
    Forward(Vec<Backend>),
    /// The client is told to ask elsewhere.
    Redirect(Redirect),
    /// It is answered with this status and body.
    Respond(u16, Arc<str>),
}

/// The path that is sent on, or redirected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathModifier {
    /// This one in place of the whole path.
    Full(Arc<str>),
    /// This one in place of the matched prefix, by segment: `/` in place of `/a` makes `/b` of `/a/b`.
    Prefix(Arc<str>),
    /// This text in place of the matched prefix, letter by letter, as Istio's `rewrite.uri`.
    Text(Arc<str>),
    /// By regular expression.
    Regex(Rewrite),
}

/// Changes of a request's and a response's headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// Of the request.
    pub request: FieldChanges,
    /// Of the response.
    pub response: FieldChanges,
}

/// Changes of fields: removed first, then set, then added. Names are lowercase.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldChanges {
    /// In place of what is there.
    pub set: Vec<(Arc<str>, Arc<str>)>,
    /// Beside what is there.
    pub add: Vec<(Arc<str>, Arc<str>)>,
    /// Taken out.
    pub remove: Vec<Arc<str>>,
}

/// What a request is tested for; all must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteMatch {
    /// The path. A GRPCRoute's method match becomes `/service/method`, or the segment prefix `/service`.
    pub path: PathMatch,
    /// Whether the path's letters count as the same in either case.
    pub any_case: bool,
    /// Headers; names in lowercase, `:authority` and `:scheme` among them.
    pub headers: Vec<HeaderMatch>,
    /// Query parameters.
    pub query: Vec<QueryMatch>,
    /// The HTTP method.
    pub method: Option<StringMatch>,
    /// Labels that the caller's workload must have. Source: Istio `HTTPMatchRequest.sourceLabels`.
    pub source_labels: Labels,
    /// The namespace that the caller must be of.
    pub source_namespace: Option<Arc<str>>,
    /// The port that is called; `None` for each.
    pub port: Option<u16>,
}

/// A test of the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// `Exact`
    Exact(Arc<str>),
    /// `PathPrefix`, by segment; `/` matches all.
    Prefix(Arc<str>),
    /// A prefix letter by letter, as Istio's.
    Text(Arc<str>),
    /// A regular expression for the whole path.
    Regex(Regex),
}

/// Where a rule leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// To whom.
    pub target: Target,
    /// Its port; 0 where a VirtualService does not say, see [`Backend::port_of`].
    pub port: u16,
    /// A subset of its endpoints, by the name that a DestinationRule gives it.
    pub subset: Option<Arc<str>>,
    /// Share in the sum of weights; 0 takes none.
    pub weight: u32,
    /// Changes of headers for requests that go here.
    pub changes: HeaderChanges,
    /// Whether it may not be led to: no ReferenceGrant allows it. Its share is answered with 500.
    pub forbidden: bool,
}

/// Who gets a copy of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleMirror {
    /// Who.
    pub to: Backend,
    /// Of how many requests.
    pub share: Fraction,
}

/// A route of connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionRoute {
    /// What it is attached to.
    pub parents: Vec<Parent>,
    /// The namespaces whose callers a VirtualService acts on; other kinds are told by where they stand.
    pub export: Export,
    /// Rules in their written order.
    pub rules: Vec<ConnectionRule>,
    /// When the route was made, for precedence: as [`Route::age`].
    pub age: u64,
}

/// Where connections go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionRule {
    /// Server names (SNI), lowercase, `*.` in front for all below; empty for all connections.
    pub server_names: Vec<Arc<str>>,
    /// The port that is called; `None` for each.
    pub port: Option<u16>,
    /// Labels that the caller's workload must have.
    pub source_labels: Labels,
    /// The namespace that the caller must be of.
    pub source_namespace: Option<Arc<str>>,
    /// Where they go.
    pub backends: Vec<Backend>,
}

impl RouteKind {
    /// The kind's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
            Self::Virtual => "VirtualService",
        }
    }
}

impl ConnectionRouteKind {
    /// The kind's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
            Self::Virtual => "VirtualService",
        }
    }
}

impl Parent {
    /// All ports of a target.
    pub fn all_of(target: Target) -> Self {
        Self { target, port: None, section: None }
    }

    /// Whether it names this port of its target, by number and by name.
    pub fn names(&self, port: &ServicePort) -> bool {
        self.port.is_none_or(|number| number == port.port)
            && self.section.as_ref().is_none_or(|name| *name == port.name)
    }
}

impl RouteRule {
    /// A rule that forwards, and changes nothing.
    pub fn forward(name: impl Into<Arc<str>>, matches: Vec<RouteMatch>, backends: Vec<Backend>) -> Self {
        Self {
            name: name.into(),
            matches,
            action: RuleAction::Forward(backends),
            changes: HeaderChanges::default(),
            path: None,
            host: None,
            mirrors: Vec::new(),
            cors: None,
            fault: None,
            timeout: None,
            try_timeout: None,
            retry: None,
        }
    }

    /// Where it leads; empty where it does not forward.
    pub fn backends(&self) -> &[Backend] {
        match &self.action {
            RuleAction::Forward(backends) => backends,
            RuleAction::Redirect(_) | RuleAction::Respond(..) => &[],
        }
    }
}

impl RouteMatch {
    /// A test of the path alone.
    pub fn path(path: PathMatch) -> Self {
        Self {
            path,
            any_case: false,
            headers: Vec::new(),
            query: Vec::new(),
            method: None,
            source_labels: Labels::new(),
            source_namespace: None,
            port: None,
        }
    }

    /// Everything.
    pub fn everything() -> Self {
        Self::path(PathMatch::Prefix("/".into()))
    }
}

impl Backend {
    /// All of a service, with a weight.
    pub fn service(service: Key, port: u16, weight: u32) -> Self {
        let target = Target::Service(service);
        Self { target, port, subset: None, weight, changes: HeaderChanges::default(), forbidden: false }
    }

    /// The port that is meant: its own, else the only one that the target has, else the one that was called. Source:
    /// Istio `Destination.port`.
    pub fn port_of(&self, ports: impl IntoIterator<Item = u16>, called: u16) -> u16 {
        if self.port != 0 {
            return self.port;
        }
        let mut ports = ports.into_iter();
        match (ports.next(), ports.next()) {
            (Some(only), None) => only,
            _ => called,
        }
    }
}

impl HeaderChanges {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.request.is_empty() && self.response.is_empty()
    }
}

impl FieldChanges {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

impl Target {
    /// The service, where it is one.
    pub fn as_service(&self) -> Option<&Key> {
        match self {
            Self::Service(key) => Some(key),
            Self::Host(_) | Self::Gateway(_) | Self::Unknown(_) => None,
        }
    }
}
