use std::sync::Arc;
use std::time::Duration;

use super::{Criterion, DomainIndex, Resilience, RouteFilter, StringMatch, without_port};
use crate::fraction::Fraction;
use crate::hash::HashPolicy;
use crate::mutation::Mutations;
use crate::regex::{Regex, Rewrite};

/// Virtual hosts with their routes.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteTable {
    /// Unique name.
    pub name: Arc<str>,
    /// Whether the port in a request's authority is passed over. Source: Envoy `ignore_port_in_host_matching`.
    pub ignores_port: bool,
    /// What is said of filters for all of its routes.
    pub filters: Vec<RouteFilter>,
    hosts: Vec<VirtualHost>,
    index: DomainIndex,
}

/// The routes of some domains.
#[derive(Clone, Debug, PartialEq)]
pub struct VirtualHost {
    /// Name, for logs and dumps.
    pub name: Arc<str>,
    /// What the request's authority is matched against.
    pub domains: Vec<Domain>,
    /// Tried in order; the first that matches wins.
    pub routes: Vec<Route>,
    /// Where requests in plaintext go, where they are not served.
    pub secure: Option<Box<Secure>>,
    /// What is said of filters for its routes.
    pub filters: Vec<RouteFilter>,
}

/// That requests in plaintext are redirected. Source: Envoy `VirtualHost.require_tls`.
#[derive(Clone, Debug, PartialEq)]
pub struct Secure {
    /// Whether requests from within (`x-envoy-internal`) are served all the same.
    pub only_external: bool,
    /// The route that redirects.
    pub route: Route,
}

impl RouteTable {
    /// A table of which nothing else is said; no two hosts share a domain.
    pub fn new(name: impl Into<Arc<str>>, hosts: Vec<VirtualHost>) -> Self {
        let index = DomainIndex::of(&hosts);
        Self { name: name.into(), ignores_port: false, filters: Vec::new(), hosts, index }
    }

    /// The virtual hosts.
    pub fn hosts(&self) -> &[VirtualHost] {
        &self.hosts
    }

    /// What is said of filters for a route: by it, by its virtual host and for the whole table, the most specific first.
    pub fn words<'t>(&'t self, host: &'t VirtualHost, route: &'t Route) -> [&'t [RouteFilter]; 3] {
        let own = route.terms.as_ref().map_or(&[][..], |terms| &terms.filters[..]);
        [own, &host.filters, &self.filters]
    }

    /// The virtual host of an authority.
    pub fn host(&self, authority: &[u8]) -> Option<&VirtualHost> {
        let authority = if self.ignores_port { without_port(authority) } else { authority };
        self.hosts.get(self.index.find(authority)?)
    }
}

impl VirtualHost {
    /// A virtual host of which nothing else is said.
    pub fn new(name: impl Into<Arc<str>>, domains: Vec<Domain>, routes: Vec<Route>) -> Self {
        Self { name: name.into(), domains, routes, secure: None, filters: Vec::new() }
    }
}

/// A pattern for a request's authority, compared without case. Source: Envoy `VirtualHost.domains`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Domain {
    /// `www.example.com`
    Exact(Arc<str>),
    /// `*.example.com` as `.example.com`: at least one character stands before it.
    Suffix(Arc<str>),
    /// `example.*` as `example.`: at least one character stands behind it.
    Prefix(Arc<str>),
    /// `*`
    Any,
}

/// A match and what to do then.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Name, for logs and dumps.
    pub name: Arc<str>,
    /// Which requests.
    pub matches: RouteMatch,
    /// What is done with them.
    pub action: RouteAction,
    /// All else that is said of them, where anything is.
    pub terms: Option<Box<RouteTerms>>,
}

/// What is said of a route's requests and responses besides where they go.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct RouteTerms {
    /// Changes of heads, in the order in which they are made: with all levels in it, but for the clusters'.
    pub changes: HeadChanges,
    /// What becomes of the path.
    pub path: Option<PathRewrite>,
    /// What becomes of the host.
    pub host: Option<HostRewrite>,
    /// Whether the host that was asked for is told in `x-forwarded-host` where it is rewritten.
    pub appends_forwarded_host: bool,
    /// The header field whose number selects among weighted clusters, in place of a random one.
    pub random_header: Option<Arc<str>>,
    /// The status for a cluster that is not there, in place of 503.
    pub unknown_cluster_status: Option<u16>,
    /// What endpoints are picked by, where a cluster balances by hash.
    pub hash: Vec<HashPolicy>,
    /// Who else gets a copy of the request.
    pub mirrors: Vec<Mirror>,
    /// Which endpoints are picked among, where a cluster has subsets: sorted by key.
    pub subset: Vec<Criterion>,
    /// What is said of filters.
    pub filters: Vec<RouteFilter>,
    /// What is said of each of [`Forward::clusters`], in their order; empty where nothing is of any.
    pub clusters: Vec<ClusterTerms>,
}

/// Changes of heads, in the order in which they are made.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct HeadChanges {
    /// Of the request's.
    pub request: Vec<Arc<Mutations>>,
    /// Of the response's.
    pub response: Vec<Arc<Mutations>>,
}

/// What is said of one of several clusters.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ClusterTerms {
    /// The header field that names the cluster, in place of its name.
    pub named_by: Option<Arc<str>>,
    /// Which of its endpoints, in place of what the route says: sorted by key, with all that the route asks for and this
    /// does not.
    pub subset: Vec<Criterion>,
    /// The host that it is asked for.
    pub host: Option<Arc<str>>,
    /// Changes that are made before the route's own.
    pub changes: HeadChanges,
    /// What is said of filters.
    pub filters: Vec<RouteFilter>,
}

/// What becomes of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// This stands in place of what the route matched.
    Matched(Arc<str>),
    /// What is found is replaced; the query stays.
    Regex(Rewrite),
}

/// What becomes of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostRewrite {
    /// It is this.
    Literal(Arc<str>),
    /// It is what a header field says, where that is there.
    Header(Arc<str>),
    /// It is what this makes of the path.
    Path(Rewrite),
    /// It is the endpoint's name, where that has one.
    Endpoint,
}

/// Who gets a copy of a request. Source: Envoy `RequestMirrorPolicy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The cluster.
    pub cluster: MirrorTo,
    /// Of how many requests.
    pub fraction: Fraction,
    /// Whether the host is asked for as it is, without `-shadow` at its end.
    pub keeps_host: bool,
}

/// The cluster that gets a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MirrorTo {
    /// This one.
    Cluster(Arc<str>),
    /// The one that a header field of the request names.
    Header(Arc<str>),
}

impl RouteTerms {
    /// Which endpoints are picked among for the cluster at this place, where that has subsets.
    pub fn subset(&self, at: usize) -> &[Criterion] {
        let own = self.clusters.get(at).map(|cluster| &*cluster.subset).filter(|subset| !subset.is_empty());
        own.unwrap_or(&self.subset)
    }
}

impl Route {
    /// A route of which nothing else is said.
    pub fn new(name: impl Into<Arc<str>>, matches: RouteMatch, action: RouteAction) -> Self {
        Self { name: name.into(), matches, action, terms: None }
    }

    /// The one cluster that its requests go to, as far as it says so.
    pub fn cluster(&self) -> Option<&str> {
        match &self.action {
            RouteAction::Forward(forward) => match &*forward.clusters {
                [cluster] => Some(&cluster.name),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Which requests a route takes: all of its tests hold.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteMatch {
    /// Test of the path, without query.
    pub path: PathMatch,
    /// Whether the case of the path's letters counts.
    pub any_case: bool,
    /// Whether what follows a `;` in the path is passed over.
    pub ignores_parameters: bool,
    /// Tests of header fields, and of `:method` and `:authority`.
    pub headers: Vec<HeaderMatch>,
    /// Tests of parameters of the query.
    pub query: Vec<QueryMatch>,
    /// Whether it takes gRPC calls only.
    pub only_grpc: bool,
    /// The share of requests that it takes.
    pub fraction: Option<Fraction>,
    /// Whether the client must, or must not, have shown a certificate.
    pub shows_certificate: Option<bool>,
    /// Whether the client's certificate must, or must not, have been verified.
    pub is_verified: Option<bool>,
}

/// A test of a parameter of the query; of several the first counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryMatch {
    /// Its name.
    pub name: Arc<str>,
    /// The test of its value; `None` for that it is there.
    pub test: Option<StringMatch>,
}

impl RouteMatch {
    /// Tests of path and header fields only.
    pub fn new(path: PathMatch, headers: Vec<HeaderMatch>) -> Self {
        Self {
            path,
            any_case: false,
            ignores_parameters: false,
            headers,
            query: Vec::new(),
            only_grpc: false,
            fraction: None,
            shows_certificate: None,
            is_verified: None,
        }
    }
}

/// A test of the path, without query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// The whole path.
    Exact(Arc<str>),
    /// The path starts so, byte by byte. Source: Envoy `prefix`.
    Prefix(Arc<str>),
    /// The path is this, or goes on with `/`; no trailing slash. Source: Envoy `path_separated_prefix`.
    SegmentPrefix(Arc<str>),
    /// The whole path is such, case counts.
    Regex(Regex),
    /// The method is CONNECT, whose requests have no path and match nothing else. Source: Envoy `connect_matcher`.
    Connect,
}

/// A test of a header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Lowercase field name, `:method`, `:path`, `:authority` or `:scheme`.
    pub name: Arc<str>,
    /// The test; of several values one that passes it is enough.
    pub test: HeaderTest,
    /// Whether the test must fail. A field that is missing fails all but [`HeaderTest::Present`], inverted or not.
    pub invert: bool,
}

/// What a header field's value is tested for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderTest {
    /// The field is there.
    Present,
    /// The value matches.
    Value(StringMatch),
    /// The value is a decimal number from `start` up to, but not including, `end`.
    Range {
        /// The least.
        start: i64,
        /// What is too much.
        end: i64,
    },
    /// The test within, for which a field that is missing is there and empty. Source: Envoy
    /// `treat_missing_header_as_empty`.
    OrMissing(Box<HeaderTest>),
}

/// What is done with a request.
#[derive(Clone, Debug, PartialEq)]
pub enum RouteAction {
    /// It is forwarded.
    Forward(Forward),
    /// The proxy answers.
    Direct(DirectResponse),
    /// The client is sent elsewhere.
    Redirect(Redirect),
    /// The server itself handles it (proxyless gRPC servers). Source: Envoy `non_forwarding_action`.
    Local,
}

/// Where and how a request is forwarded.
#[derive(Clone, Debug, PartialEq)]
pub struct Forward {
    /// One cluster, or several by weight; never empty, and the weights' sum is over 0.
    pub clusters: Vec<WeightedCluster>,
    /// From the request's end to the response's end; `None` waits for ever.
    pub timeout: Option<Duration>,
    /// What else limits it, and what is tried again.
    pub resilience: Resilience,
}

/// A cluster and its share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedCluster {
    /// Name of the cluster.
    pub name: Arc<str>,
    /// Share in the sum of weights.
    pub weight: u32,
}

/// An answer that the proxy gives itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectResponse {
    /// Status code.
    pub status: u16,
    /// Body, sent as `text/plain`.
    pub body: Arc<str>,
}

/// Where a client is sent. Source: Envoy `RedirectAction`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Another scheme.
    pub scheme: Option<Arc<str>>,
    /// Another host, with its port where it has one.
    pub host: Option<Arc<str>>,
    /// Another port.
    pub port: Option<u16>,
    /// Another path.
    pub path: RedirectPath,
    /// Whether the query is left out.
    pub strip_query: bool,
    /// Whether the port that was asked for stays in any case.
    pub keeps_port: bool,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// The path that a client is sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedirectPath {
    /// The one that was asked for.
    Same,
    /// This; with a query in it, in place of the one that was asked for.
    Path(Arc<str>),
    /// What this makes of it.
    Rewrite(PathRewrite),
}

impl Default for Redirect {
    fn default() -> Self {
        let path = RedirectPath::Same;
        Self {
            scheme: None,
            host: None,
            port: None,
            path,
            strip_query: false,
            keeps_port: false,
            status: 301,
        }
    }
}
