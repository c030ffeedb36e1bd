use std::sync::Arc;
use std::time::Duration;

use super::{Resilience, StringMatch};

/// Virtual hosts with their routes.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteTable {
    /// Unique name.
    pub name: Arc<str>,
    /// Virtual hosts; no two share a domain.
    pub hosts: Vec<VirtualHost>,
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
}

/// A pattern for a request's authority, compared without case. Source: Envoy `VirtualHost.domains`.
#[derive(Clone, Debug, PartialEq, Eq)]
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
}

/// Which requests a route takes: all of its tests hold.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteMatch {
    /// Test of the path, without query.
    pub path: PathMatch,
    /// Tests of header fields, and of `:method` and `:authority`.
    pub headers: Vec<HeaderMatch>,
}

/// A test of the path, without query; case counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// The whole path.
    Exact(Arc<str>),
    /// The path starts so, byte by byte. Source: Envoy `prefix`.
    Prefix(Arc<str>),
    /// The path is this, or goes on with `/`; no trailing slash. Source: Envoy `path_separated_prefix`.
    SegmentPrefix(Arc<str>),
    /// The method is CONNECT, whose requests have no path and match nothing else. Source: Envoy `connect_matcher`.
    Connect,
}

/// A test of a header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Lowercase field name, `:method`, `:path`, `:authority` or `:scheme`.
    pub name: Arc<str>,
    /// The test; of several values, joined by `,`, as Envoy does.
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
