//! The caller's side: which route takes the request, and which endpoint it is picked for.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use meshwork_model::balance::{Context, Member, Plan, Worker, pick};
use meshwork_model::format::{Address, Facts as Formatted};
use meshwork_model::hash::hash_of;
use meshwork_model::head::RequestHead;
use meshwork_model::intake::{self, Came};
use meshwork_model::mesh::{self, Key, Workload};
use meshwork_model::path::has_dot_segment;
use meshwork_model::policy::Facts;
use meshwork_model::proxy::{
    Cluster, Criterion, Endpoint, Endpoints, FilterChain, Forward, HttpConnection, Listener, NetworkFilter,
    Route, RouteAction, RouteFilter, RouteTable, TcpProxy, Transport, UpstreamProtocol, UpstreamTls,
    VirtualHost,
};
use meshwork_model::reason::Reason;
use meshwork_model::rewrite;
use meshwork_model::route::{Asked, Miss, Trace, select_traced};
use meshwork_model::xxhash::xxhash64;
use meshwork_xds::Dialect;

use super::answer::{ClusterAnswer, EndpointAnswer, Outbound, Outcome, PassedOver, RouteTaken};
use super::question::{Called, Question, dotted};
use super::requests::{Sample, switched, unfit};
use super::runs::{Arriving, Runs, chain};
use super::tokens::Tokens;
use super::{filters, refused, terms, words};
use crate::translate::{BLACK_HOLE, Mesh, NOWHERE, VIRTUAL_OUTBOUND, sees};

/// How many requests are tried, to see how they spread.
const TRIED: u64 = 1000;
/// Shares below this are none: half of what one of those that are tried comes to.
pub(super) const LEAST_PERCENT: f64 = 0.05;
/// The most routes that are passed over and told.
const MOST_PASSED: usize = 50;

/// A part of the requests on its way to one workload.
pub(super) struct Leg {
    pub(super) workload: Key,
    /// The port that services target.
    pub(super) port: u16,
    pub(super) percent: f64,
    /// mTLS, and what the caller says in it: server name and protocols. `None` for plaintext.
    pub(super) tls: Option<(String, Vec<Arc<str>>)>,
    /// The request as it is sent; `None` for bytes.
    pub(super) head: Option<RequestHead>,
}

/// A part of the requests that gets no further than the caller's proxy.
pub(super) struct Lost {
    pub(super) percent: f64,
    pub(super) outcome: Outcome,
}

/// The caller's side, and where the request goes from there.
pub(super) struct Sent<'q> {
    pub(super) answer: Outbound,
    /// What ends it here.
    pub(super) ended: Option<Outcome>,
    pub(super) legs: Vec<Leg>,
    pub(super) lost: Vec<Lost>,
    /// What is left of the question's token.
    pub(super) tokens: Tokens<'q>,
    /// The request in the form that was judged; empty of bytes.
    pub(super) request: String,
    pub(super) notes: Vec<String>,
}

/// Who calls what.
pub(super) struct Calling<'m> {
    pub(super) mesh: &'m Mesh,
    pub(super) question: &'m Question,
    pub(super) called: &'m Called,
    pub(super) node: &'m Workload,
    pub(super) dialect: Dialect,
    pub(super) tokens: Tokens<'m>,
}

/// A share of the requests on its way to a cluster.
#[derive(Clone, Copy)]
struct Share<'s> {
    cluster: &'s str,
    percent: f64,
    /// The route, and the cluster's place in it; `None` for bytes.
    route: Option<(&'s Route, usize)>,
    /// What it is placed by, where that is a hash.
    hash: Option<u64>,
    /// The request as it is sent; `None` for bytes.
    head: Option<&'s RequestHead>,
}

/// Follows a route's search.
#[derive(Default)]
pub(super) struct Searched<'t> {
    host: Option<&'t VirtualHost>,
    missed: Vec<(&'t Route, Miss<'t>)>,
}

impl<'t> Trace<'t> for Searched<'t> {
    fn host(&mut self, host: &'t VirtualHost) {
        self.host = Some(host);
    }

    fn missed(&mut self, route: &'t Route, why: Miss<'t>) {
        self.missed.push((route, why));
    }
}

impl<'t> Searched<'t> {
    /// What is said of filters for the route that was found.
    pub(super) fn words(
        &self,
        table: Option<&'t RouteTable>,
        route: Option<&'t Route>,
    ) -> Option<[&'t [RouteFilter]; 3]> {
        Some(table?.words(self.host?, route?))
    }
}

/// What is known of a request that is only thought of.
struct Known<'h> {
    head: &'h RequestHead,
    opener: SocketAddr,
    client: SocketAddr,
}

impl Formatted for Known<'_> {
    fn request(&self) -> Option<&RequestHead> {
        Some(self.head)
    }

    fn address(&self, which: Address) -> Option<SocketAddr> {
        match which {
            Address::Remote => Some(self.client),
            Address::DirectRemote => Some(self.opener),
            _ => None,
        }
    }
}

impl<'m> Calling<'m> {
    /// Leads the request to where it leaves the caller.
    ///
    /// # Errors
    /// What is asked is no request; in words.
    pub(super) fn send(&self) -> Result<Sent<'m>, String> {
        let mut notes = Vec::new();
        let (mut names, target) = self.listener_names();
        let wanted: BTreeSet<String> = [target].into();
        let mut runs = Runs::of(self.mesh, self.node, self.dialect, &wanted);
        let is_captured = self.node.capture.is_some();
        match self.called {
            // Nobody calls it yet: what would be if it did. One that is captured calls what it has a name for.
            Called::Service { key, port } if !is_captured && runs.listener(&names).is_none() => {
                let who = dotted(&self.node.key);
                notes.push(format!(
                    "nothing of {who} leads to {}:{port} yet: its sidecar needs --outbound {}:{port}=ADDRESS, or it \
                     runs by `meshwork run`; told is what would be then",
                    dotted(key),
                    dotted(key)
                ));
                let mut node = self.node.clone();
                let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                node.outbound.push(mesh::Outbound { service: key.clone(), port: *port, bind });
                runs = Runs::of(self.mesh, &node, self.dialect, &wanted);
            }
            // A host whose ServiceEntry the caller does not see is unknown to it as any other.
            Called::Host { host, .. } if is_captured && !runs.knows(host) => {
                names = vec![VIRTUAL_OUTBOUND.to_owned()];
            }
            _ => {}
        }
        let mut sent = match runs.listener(&names) {
            Some(listener) => self.through(&runs, listener)?,
            None => Sent { ended: Some(self.unheard()), ..Sent::nothing(self.tokens) },
        };
        sent.notes.splice(0..0, notes);
        Ok(sent)
    }

    /// The names of listeners that lead there, the best first, and the target that a gRPC client would ask for.
    fn listener_names(&self) -> (Vec<String>, String) {
        let (host, port) = match self.called {
            Called::Service { key, port } => (format!("{}.svc.cluster.local", dotted(key)), *port),
            Called::Host { host, port } | Called::Unknown { host, port } => (host.clone(), *port),
        };
        let target = format!("{host}:{port}");
        let names = match self.called {
            _ if self.node.gateway.is_some() => vec![format!("gateway|{port}")],
            Called::Unknown { .. } => vec![VIRTUAL_OUTBOUND.to_owned()],
            _ => vec![format!("outbound|{port}|{host}"), format!("captured|{port}|{host}"), target.clone()],
        };
        (names, target)
    }

    fn unheard(&self) -> Outcome {
        let text = match self.called {
            Called::Host { port, .. } if self.node.gateway.is_some() => {
                format!("the gateway has no listener on port {port}")
            }
            Called::Service { key, port } if !sees(self.mesh, self.node, key, *port) => {
                format!("a Sidecar keeps {}:{port} from the caller", dotted(key))
            }
            _ => "the caller's proxy has no listener that leads there".to_owned(),
        };
        Outcome { passes: false, text, ..Outcome::default() }
    }

    fn through(&self, runs: &Runs, listener: &Listener) -> Result<Sent<'m>, String> {
        let answer = Outbound {
            listener: listener.name.to_string(),
            // Port 0 is that of a listener which is only thought of.
            address: listener.address.filter(|a| a.port() > 0).map(|a| a.to_string()).unwrap_or_default(),
            ..Outbound::default()
        };
        let mut sent = Sent { answer, ..Sent::nothing(self.tokens) };
        let server_name = self.server_name(listener);
        let arriving = Arriving {
            from: self.opener(),
            is_tls: server_name.is_some(),
            server_name: server_name.as_deref().unwrap_or_default(),
            alpn: &[],
        };
        let Some(chain) = chain(listener, &arriving) else {
            let text = "no filter chain of the listener takes such a connection".to_owned();
            sent.ended = Some(refused(None, text));
            return Ok(sent);
        };
        sent.answer.chain = chain.name.to_string();
        let facts = self.facts(listener, chain, &arriving);
        let admitted = filters::admit(&chain.gates, &facts);
        sent.answer.policies = admitted.policies;
        sent.answer.terms.extend(admitted.then);
        if admitted.refused.is_some() {
            sent.ended = admitted.refused;
            return Ok(sent);
        }
        match &chain.filter {
            NetworkFilter::Tcp(tcp) => {
                self.bytes(runs, tcp, &mut sent);
                Ok(sent.checked())
            }
            NetworkFilter::Http(_) if arriving.is_tls && chain.tls.is_none() => {
                let text = "the program speaks TLS where its proxy takes requests in plaintext".to_owned();
                sent.ended = Some(refused(Some(Reason::BadRequest), text));
                Ok(sent)
            }
            NetworkFilter::Http(http) => {
                let came = Came {
                    address: self.opener(),
                    port: listener.address.map_or(0, |address| address.port()),
                    is_tls: chain.tls.is_some(),
                    direction: listener.direction,
                    is_proven: false,
                    is_scheme_said: false,
                };
                self.requests(runs, http, &came, &facts, &mut sent)?;
                Ok(sent.checked())
            }
        }
    }

    /// What policies of a gateway look at, but for the request.
    fn facts<'f>(&self, listener: &Listener, chain: &FilterChain, arriving: &Arriving<'f>) -> Facts<'f> {
        let opener = self.opener().ip();
        let address = listener.address.filter(|address| !address.ip().is_unspecified());
        Facts {
            destination: address.map(|address| address.ip()),
            destination_port: listener.address.map_or(0, |address| address.port()),
            direct: Some(opener),
            source: Some(opener),
            remote: Some(opener),
            server_name: arriving.told(listener, chain),
            ..Facts::default()
        }
    }

    /// The name that the client asks for by TLS, where it speaks that: what is asked, or the host where only TLS is
    /// spoken with it.
    fn server_name(&self, listener: &Listener) -> Option<String> {
        let named = self.question.sni.as_ref().map(|name| name.to_ascii_lowercase());
        let takes_tls =
            |chain: &FilterChain| chain.tls.is_some() || chain.matches.transport == Some(Transport::Tls);
        named.or_else(|| match self.called {
            Called::Host { host, .. } if listener.all_chains().any(takes_tls) => {
                Some(host.to_ascii_lowercase())
            }
            _ => None,
        })
    }

    /// Who opens the connection to this proxy: the program beside it, or a client outside.
    fn opener(&self) -> SocketAddr {
        let outside = self.question.source_ip.filter(|_| self.node.gateway.is_some());
        SocketAddr::new(outside.unwrap_or(Ipv4Addr::LOCALHOST.into()), 1)
    }

    /// The host that is asked for; a client leaves out the port that its scheme has anyway.
    fn host(&self, is_tls: bool) -> String {
        let usual = if is_tls { 443 } else { 80 };
        let of = |name: String, port: u16| if port == usual { name } else { format!("{name}:{port}") };
        match self.called {
            Called::Service { key, port } => of(dotted(key), *port),
            Called::Host { host, port } | Called::Unknown { host, port } => of(host.clone(), *port),
        }
    }

    fn bytes(&self, runs: &Runs, tcp: &TcpProxy, sent: &mut Sent<'m>) {
        "the connection is forwarded".clone_into(&mut sent.answer.action);
        let weights = tcp.clusters.iter().map(|one| (&*one.name, one.weight)).collect::<Vec<_>>();
        let client = self.opener().ip().to_string();
        let hash = tcp.hashes_source.then(|| xxhash64(client.as_bytes(), 0));
        for (cluster, percent) in shares(&weights) {
            let share = Share { cluster, percent, route: None, hash, head: None };
            self.lead(runs, sent, share);
        }
    }

    fn requests(
        &self,
        runs: &Runs,
        http: &HttpConnection,
        came: &Came,
        facts: &Facts<'_>,
        sent: &mut Sent<'m>,
    ) -> Result<(), String> {
        let mut head = self.question.head(&self.host(came.is_tls))?;
        let own = self.node.inbound.first().map_or(Ipv4Addr::LOCALHOST.into(), |inbound| inbound.bind.ip());
        let client = match intake::prepare(&mut head, http, came, &mut Sample { address: own, cert: "" }) {
            Ok(client) => client,
            Err(why) => {
                sent.ended = Some(unfit(&why));
                return Ok(());
            }
        };
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        sent.request = format!("{} {}", shown(head.method()), shown(head.path_and_query()));
        let Some(table) = runs.table(http) else {
            sent.ended = Some(refused(Some(Reason::NoRoute), "its route table is not there".to_owned()));
            return Ok(());
        };
        let mut searched = Searched::default();
        let route = select_traced(table, &head, Asked::default(), &mut searched);
        sent.answer.note(&searched, &head);
        if let Some(outcome) = switched(http, &head) {
            sent.ended = Some(outcome);
            return Ok(());
        }
        let words = searched.words(Some(table), route);
        let words = words.as_ref().map_or(&[][..], |words| &words[..]);
        let asked = filters::Asked { filters: &http.filters, route, words };
        let facts = Facts { remote: Some(client.ip()), ..*facts };
        let judged = filters::judge(asked, &mut head, &facts, &mut sent.tokens);
        sent.answer.authentication = judged.authentication;
        sent.answer.policies.extend(judged.policies);
        sent.answer.terms.extend(judged.then);
        sent.ended = judged.refused;
        let Some(route) = route else {
            let text = self.no_route(table, &searched, came.is_tls);
            sent.ended.get_or_insert_with(|| refused(Some(Reason::NoRoute), text));
            return Ok(());
        };
        sent.answer.route = Some(self.taken(route));
        sent.answer.terms.extend(terms::of_route(route, http));
        let known = Known { head: &head, opener: came.address, client };
        self.act(runs, (http, route), &known, sent);
        Ok(())
    }

    fn no_route(&self, table: &RouteTable, searched: &Searched<'_>, is_tls: bool) -> String {
        if searched.host.is_some() {
            return "no route takes it".to_owned();
        }
        let hosts: Vec<&str> = table.hosts().iter().take(8).map(|host| &*host.name).collect();
        format!("no virtual host is for {}; there are {}", self.host(is_tls), hosts.join(", "))
    }

    fn act(
        &self,
        runs: &Runs,
        (http, route): (&HttpConnection, &Route),
        known: &Known<'_>,
        sent: &mut Sent<'m>,
    ) {
        match &route.action {
            RouteAction::Forward(forward) => {
                "it is forwarded".clone_into(&mut sent.answer.action);
                self.forward(runs, (http, route, forward), known, sent);
            }
            RouteAction::Direct(direct) => {
                sent.answer.action = format!("the proxy answers {} itself", direct.status);
                let text = format!("the route answers {} in the service's place", direct.status);
                let outcome =
                    Outcome { status: Some(direct.status), ..refused(Some(Reason::DirectResponse), text) };
                sent.ended.get_or_insert(outcome);
            }
            RouteAction::Redirect(redirect) => {
                let location = rewrite::location(redirect, &route.matches.path, known.head);
                let to = String::from_utf8_lossy(&location).into_owned();
                sent.answer.action = format!("it is redirected ({}) to {to}", redirect.status);
                let text = format!("the route redirects to {to}");
                let outcome =
                    Outcome { status: Some(redirect.status), ..refused(Some(Reason::DirectResponse), text) };
                sent.ended.get_or_insert(outcome);
            }
            RouteAction::Local => "the program itself handles it".clone_into(&mut sent.answer.action),
        }
    }

    fn forward(
        &self,
        runs: &Runs,
        (http, route, forward): (&HttpConnection, &Route, &Forward),
        known: &Known<'_>,
        sent: &mut Sent<'m>,
    ) {
        let head = known.head;
        let weights: Vec<(&str, u32)> =
            forward.clusters.iter().map(|cluster| (&*cluster.name, cluster.weight)).collect();
        let client = known.opener.ip().to_string();
        // What is judged places a request, not what is sent. A cookie is one that the client has just been given.
        let hash = route.terms.as_deref().and_then(|of| hash_of(&of.hash, head, &client, |_| String::new()));
        for (at, (cluster, percent)) in shares(&weights).into_iter().enumerate() {
            let mut outgoing = head.clone();
            rewrite::request(route, at, &mut outgoing, known, !http.router.is_silent);
            let (host, path) = (outgoing.authority(), outgoing.path_and_query());
            if path != head.path_and_query() || host != head.authority() {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                sent.answer.terms.push(format!("sent on as {} for {}", text(path), text(host)));
            }
            let is_rewritten = route.terms.as_ref().is_some_and(|terms| terms.path.is_some());
            if is_rewritten && http.paths.rfc3986 && has_dot_segment(path) {
                let text = "the rewritten path has a segment of dots".to_owned();
                sent.lost.push(Lost { percent, outcome: refused(Some(Reason::BadRequest), text) });
                continue;
            }
            let (route, head) = (Some((route, at)), Some(&outgoing));
            self.lead(runs, sent, Share { cluster, percent, route, hash, head });
        }
    }

    /// Leads a share of the requests to a cluster.
    fn lead(&self, runs: &Runs, sent: &mut Sent<'m>, share: Share<'_>) {
        let Share { cluster: name, percent, .. } = share;
        let mut answer = ClusterAnswer { name: name.to_owned(), percent, ..ClusterAnswer::default() };
        let Some(cluster) = runs.cluster(name) else {
            "it is not there: what goes to it fails".clone_into(&mut answer.balancing);
            sent.answer.clusters.push(answer);
            sent.lost.push(Lost { percent, outcome: share.unknown() });
            return;
        };
        answer.balancing = terms::balancing(cluster);
        answer.terms = terms::of_cluster(cluster);
        if let Some(elsewhere) = terms::elsewhere(cluster) {
            answer.terms.push(elsewhere);
            sent.answer.clusters.push(answer);
            return;
        }
        if cluster.protocol == UpstreamProtocol::Http2 && share.switches() {
            let text = "the service is called over HTTP/2, which has no upgrade".to_owned();
            sent.answer.clusters.push(answer);
            sent.lost.push(Lost { percent, outcome: share.fails(Reason::Unsupported, text) });
            return;
        }
        let nobody = Endpoints::new(name, Vec::new());
        let endpoints = runs.endpoints(cluster).unwrap_or(&nobody);
        let picks = picks(cluster, endpoints, &share);
        let missed = 100.0 - picks.iter().sum::<f64>();
        if missed > LEAST_PERCENT {
            let text = match &endpoints.endpoints[..] {
                [] if name == BLACK_HOLE => "the caller may not reach what the mesh has no name for",
                [] => "nobody is behind it",
                _ => "none of its endpoints is healthy",
            };
            let outcome = share.fails(Reason::NoEndpoint, text.to_owned());
            sent.lost.push(Lost { percent: missed * percent / 100.0, outcome });
        }
        for (endpoint, picked) in endpoints.endpoints.iter().zip(picks) {
            let of_all = picked * percent / 100.0;
            answer.endpoints.push(describe(cluster, endpoint, picked));
            if of_all > 0.0 {
                match self.leg(cluster, endpoint, of_all, share.head) {
                    Ok(leg) => sent.legs.extend(leg),
                    Err(text) => {
                        let outcome = share.fails(Reason::UpstreamIdentity, text);
                        sent.lost.push(Lost { percent: of_all, outcome });
                    }
                }
            }
        }
        sent.answer.clusters.push(answer);
    }

    /// The way to one endpoint; `None` where nobody is behind it whose side is known.
    ///
    /// # Errors
    /// It cannot be reached; in words.
    fn leg(
        &self,
        cluster: &Cluster,
        endpoint: &Endpoint,
        percent: f64,
        head: Option<&RequestHead>,
    ) -> Result<Option<Leg>, String> {
        let tls = match reach(cluster, endpoint) {
            Reach::Mtls { sni, alpn, .. } => Some((sni, alpn)),
            Reach::Plaintext => None,
            Reach::Tls => return Ok(None),
            Reach::Nothing => return Err(format!("no transport takes {}", endpoint.address)),
        };
        let Some(who) = &endpoint.workload else { return Ok(None) };
        let key = Key::new(Arc::clone(&who.namespace), Arc::clone(&who.name));
        let workload = self.mesh.workloads.get(&key);
        let inbound = workload
            .and_then(|workload| workload.inbound.iter().find(|inbound| inbound.bind == endpoint.address));
        let port = inbound.map(|inbound| inbound.port);
        Ok(port.map(|port| Leg { workload: key, port, percent, tls, head: head.cloned() }))
    }

    /// Where a route is written.
    fn taken(&self, route: &Route) -> RouteTaken {
        let config = &self.mesh.config;
        let written = config.routes.iter().find_map(|((kind, key), _)| {
            let rest = route.name.strip_prefix(&*format!("{}.{}.", key.namespace, key.name))?;
            let kind = match kind {
                mesh::RouteKind::Http => "HTTPRoute",
                mesh::RouteKind::Grpc => "GRPCRoute",
                mesh::RouteKind::Virtual => "VirtualService",
            };
            let rule = match rest.parse::<usize>() {
                Ok(index) => format!("rule {index}"),
                Err(_) => format!("rule \"{rest}\""),
            };
            Some(format!("{kind} {key}, {rule}"))
        });
        RouteTaken {
            name: route.name.to_string(),
            written: written.unwrap_or_default(),
            takes: terms::takes(&route.matches),
        }
    }
}

// === impl Share ===

impl Share<'_> {
    /// What comes of it where its cluster is not there.
    fn unknown(&self) -> Outcome {
        let text = match self.cluster {
            NOWHERE => "a backend of the route is not there".to_owned(),
            name => format!("the cluster {name} is not there"),
        };
        let outcome = self.fails(Reason::NoCluster, text);
        let said = self.route.and_then(|(route, _)| route.terms.as_deref()?.unknown_cluster_status);
        Outcome { status: said.or(outcome.status), ..outcome }
    }

    /// A failure; a connection of bytes is closed, and nobody answered.
    fn fails(&self, reason: Reason, text: String) -> Outcome {
        let outcome = refused(Some(reason), text);
        if self.route.is_some() { outcome } else { Outcome { status: None, ..outcome } }
    }

    /// Whether the connection is to become one of another protocol.
    fn switches(&self) -> bool {
        self.head.is_some_and(|head| !head.upgrade().is_empty())
    }

    /// Which endpoints it is for, where the cluster has subsets.
    fn subset(&self) -> &[Criterion] {
        let terms = self.route.and_then(|(route, at)| Some((route.terms.as_deref()?, at)));
        terms.map_or(&[], |(terms, at)| terms.subset(at))
    }
}

// === impl Sent ===

impl<'q> Sent<'q> {
    fn nothing(tokens: Tokens<'q>) -> Self {
        Self {
            answer: Outbound::default(),
            ended: None,
            legs: Vec::new(),
            lost: Vec::new(),
            tokens,
            request: String::new(),
            notes: Vec::new(),
        }
    }

    /// Of somebody whose side is not known.
    pub(super) fn of_nobody(request: String, note: String, tokens: Tokens<'q>) -> Self {
        Self { request, notes: vec![note], ..Self::nothing(tokens) }
    }

    /// Ends it where all of it is lost.
    fn checked(mut self) -> Self {
        let lost: f64 = self.lost.iter().map(|lost| lost.percent).sum();
        if self.ended.is_none() && lost > 100.0 - LEAST_PERCENT {
            self.ended = self.lost.first().map(|lost| lost.outcome.clone());
        }
        self
    }
}

impl Outbound {
    fn note(&mut self, searched: &Searched<'_>, head: &RequestHead) {
        if let Some(host) = searched.host {
            let domains: Vec<String> = host.domains.iter().take(8).map(terms::domain).collect();
            self.virtual_host = format!("{} (for {})", host.name, domains.join(", "));
        }
        let passed = searched.missed.iter().take(MOST_PASSED);
        self.passed_over = passed
            .map(|(route, why)| PassedOver { route: route.name.to_string(), why: words::miss(*why, head) })
            .collect();
    }
}

/// Shares in per cent by weights.
fn shares<'n>(weights: &[(&'n str, u32)]) -> Vec<(&'n str, f64)> {
    let total: f64 = weights.iter().map(|(_, weight)| f64::from(*weight)).sum();
    let share = |weight: u32| if total > 0.0 { f64::from(weight) * 100.0 / total } else { 0.0 };
    weights.iter().map(|(name, weight)| (*name, share(*weight))).collect()
}

/// How a cluster's requests spread over its endpoints, in per cent: those of many tries, or of the one that their hash
/// leads to.
fn picks(cluster: &Cluster, endpoints: &Endpoints, share: &Share<'_>) -> Vec<f64> {
    let each = endpoints.endpoints.iter();
    let members: Vec<Member<'_>> = each
        .map(|endpoint| Member { endpoint, health: endpoint.health.counted(), is_excluded: false })
        .collect();
    let plan = Plan::new(cluster.balancing, &cluster.spread, &endpoints.policy, &members);
    let mut worker = Worker::default();
    worker.take_over(&plan);
    let mut counts = vec![0_u32; members.len()];
    for number in 0..TRIED {
        // Spread evenly over all numbers. Source: Knuth, "Multiplicative hashing".
        let random = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let context = Context { hash: share.hash, subset: share.subset(), avoid: None, again: 0, random };
        if let Some(count) = pick(&plan, &mut worker, &context).and_then(|picked| counts.get_mut(picked)) {
            *count += 1;
        }
    }
    let percent = |count: u32| f64::from(count) * 100.0 / 1000.0;
    counts.into_iter().map(percent).collect()
}

/// How an endpoint is reached.
enum Reach {
    Mtls { identities: Vec<String>, sni: String, alpn: Vec<Arc<str>> },
    Tls,
    Plaintext,
    Nothing,
}

fn reach(cluster: &Cluster, endpoint: &Endpoint) -> Reach {
    if cluster.transports.is_empty() {
        return Reach::Plaintext;
    }
    let Some(transport) = cluster.transports.iter().find(|transport| transport.takes(endpoint)) else {
        return Reach::Nothing;
    };
    match &transport.tls {
        None => Reach::Plaintext,
        Some(UpstreamTls::Context(_)) => Reach::Tls,
        Some(UpstreamTls::Mesh(client)) => Reach::Mtls {
            identities: client.identities.iter().map(|id| id.as_str().to_owned()).collect(),
            sni: client.sni.to_string(),
            alpn: client.alpn.clone(),
        },
    }
}

fn describe(cluster: &Cluster, endpoint: &Endpoint, percent: f64) -> EndpointAnswer {
    let workload = endpoint.workload.as_ref().map(|who| format!("{}.{}", who.name, who.namespace));
    EndpointAnswer {
        address: endpoint.address.to_string(),
        workload: workload.unwrap_or_default(),
        zone: endpoint.place.locality.zone.to_string(),
        priority: endpoint.place.priority,
        weight: endpoint.weight,
        health: terms::health(endpoint.health).to_owned(),
        percent,
        reached_by: match reach(cluster, endpoint) {
            Reach::Mtls { identities, .. } => format!("mTLS with {}", identities.join(" or ")),
            Reach::Tls => "TLS".to_owned(),
            Reach::Plaintext => "plaintext".to_owned(),
            Reach::Nothing => "not at all: no transport takes it".to_owned(),
        },
    }
}
