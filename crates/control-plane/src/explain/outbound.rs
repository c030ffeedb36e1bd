//! The caller's side: which route takes the request, and which endpoint it is picked for.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use meshwork_model::balance::{Context, Member, Plan, Worker, pick};
use meshwork_model::format::Facts as Formatted;
use meshwork_model::hash::hash_of;
use meshwork_model::head::RequestHead;
use meshwork_model::mesh::{self, Key, Workload};
use meshwork_model::path::{Form, form, normal_host};
use meshwork_model::policy::Facts;
use meshwork_model::proxy::{
    Cluster, Criterion, Endpoint, Endpoints, FilterChain, Forward, Health, HttpConnection, Listener,
    NetworkFilter, Route, RouteAction, RouteTable, UpstreamTls, VirtualHost,
};
use meshwork_model::reason::Reason;
use meshwork_model::rewrite;
use meshwork_model::route::{Asked, Miss, Trace, select_traced};
use meshwork_xds::Dialect;

use super::answer::{ClusterAnswer, EndpointAnswer, Outbound, Outcome, PassedOver, RouteTaken};
use super::question::{Called, Question, dotted};
use super::runs::{Arriving, Runs, chain};
use super::{filters, refused, terms, words};
use crate::translate::Mesh;

/// How many requests are tried, to see how they spread.
const TRIED: u64 = 1000;
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

/// The caller's side, and where the request goes from there.
pub(super) struct Sent {
    pub(super) answer: Outbound,
    /// What ends it here.
    pub(super) ended: Option<Outcome>,
    pub(super) legs: Vec<Leg>,
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
    pub(super) now: f64,
}

/// Follows a route's search.
#[derive(Default)]
struct Searched<'t> {
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

/// Nothing is known of a request that is only thought of.
struct Unknown;

impl Formatted for Unknown {}

impl Calling<'_> {
    /// Leads the request to where it leaves the caller.
    ///
    /// # Errors
    /// What is asked is no request; in words.
    pub(super) fn send(&self) -> Result<Sent, String> {
        let mut notes = Vec::new();
        let (names, target) = self.listener_names();
        let wanted: BTreeSet<String> = [target].into();
        let mut runs = Runs::of(self.mesh, self.node, self.dialect, &wanted);
        if runs.listener(&names).is_none()
            && let Called::Service { key, port } = self.called
        {
            // Nobody calls it yet: what would be if it did.
            let who = dotted(&self.node.key);
            notes.push(format!(
                "nothing of {who} leads to {}:{port} yet: its sidecar needs --outbound {}:{port}=ADDRESS, or it runs by \
                 `meshwork run`; told is what would be then",
                dotted(key),
                dotted(key)
            ));
            let mut node = self.node.clone();
            let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            node.outbound.push(mesh::Outbound { service: key.clone(), port: *port, bind });
            runs = Runs::of(self.mesh, &node, self.dialect, &wanted);
        }
        let Some(listener) = runs.listener(&names) else {
            return Ok(Sent::nowhere(self.unheard(), notes));
        };
        let mut sent = self.through(&runs, listener)?;
        sent.notes.splice(0..0, notes);
        Ok(sent)
    }

    /// The names of listeners that lead there, the best first, and the target that a gRPC client would ask for.
    fn listener_names(&self) -> (Vec<String>, String) {
        let (host, port) = match self.called {
            Called::Service { key, port } => (format!("{}.svc.cluster.local", dotted(key)), *port),
            Called::Host { host, port } => (host.clone(), *port),
        };
        let target = format!("{host}:{port}");
        let mut names =
            vec![format!("outbound|{port}|{host}"), format!("captured|{port}|{host}"), target.clone()];
        if self.node.gateway.is_some() {
            names = vec![format!("gateway|{port}")];
        }
        (names, target)
    }

    fn unheard(&self) -> Outcome {
        let text = match self.called {
            Called::Host { port, .. } if self.node.gateway.is_some() => {
                format!("the gateway has no listener on port {port}")
            }
            _ => "the caller's proxy has no listener that leads there".to_owned(),
        };
        Outcome { passes: false, text, ..Outcome::default() }
    }

    fn through(&self, runs: &Runs, listener: &Listener) -> Result<Sent, String> {
        let mut answer = Outbound {
            listener: listener.name.to_string(),
            // Port 0 is that of a listener which is only thought of.
            address: listener.address.filter(|a| a.port() > 0).map(|a| a.to_string()).unwrap_or_default(),
            ..Outbound::default()
        };
        let Some(chain) = self.chain(listener) else {
            let text = "no filter chain of the listener takes such a connection".to_owned();
            let mut sent = Sent::nowhere(refused(None, text), Vec::new());
            sent.answer = answer;
            return Ok(sent);
        };
        answer.chain = chain.name.to_string();
        match &chain.filter {
            NetworkFilter::Tcp(tcp) => {
                let weights = tcp.clusters.iter().map(|one| (&*one.name, one.weight)).collect::<Vec<_>>();
                "the connection is forwarded".clone_into(&mut answer.action);
                let mut sent = Sent { answer, ..Sent::nothing() };
                for (name, percent) in shares(&weights) {
                    self.lead(runs, &mut sent, (name, percent), None, None);
                }
                Ok(sent.checked())
            }
            NetworkFilter::Http(http) => self.requests(runs, http, answer),
        }
    }

    fn chain<'l>(&self, listener: &'l Listener) -> Option<&'l FilterChain> {
        let server_name = self.server_name(listener);
        let arriving = Arriving {
            from: self.opener(),
            is_tls: server_name.is_some(),
            server_name: server_name.as_deref().unwrap_or_default(),
            alpn: &[],
        };
        chain(listener, &arriving)
    }

    /// The name that the client asks for by TLS, where it speaks that: what is asked, or what a gateway that ends TLS
    /// would be asked.
    fn server_name(&self, listener: &Listener) -> Option<String> {
        let named = self.question.sni.as_ref().map(|name| name.to_ascii_lowercase());
        let ends_tls = listener.chains.iter().any(|chain| chain.tls.is_some());
        named.or_else(|| match self.called {
            Called::Host { host, .. } if ends_tls => Some(host.to_ascii_lowercase()),
            _ => None,
        })
    }

    /// Who opens the connection to this proxy: the program beside it, or a client outside.
    fn opener(&self) -> SocketAddr {
        let outside = self.question.source_ip.filter(|_| self.node.gateway.is_some());
        SocketAddr::new(outside.unwrap_or(Ipv4Addr::LOCALHOST.into()), 1)
    }

    fn host(&self) -> String {
        let of = |name: String, port: u16| if port == 80 { name } else { format!("{name}:{port}") };
        match self.called {
            Called::Service { key, port } => of(dotted(key), *port),
            Called::Host { host, port } => of(host.clone(), *port),
        }
    }

    fn requests(&self, runs: &Runs, http: &HttpConnection, answer: Outbound) -> Result<Sent, String> {
        let mut head = self.question.head(&self.host())?;
        let mut sent = Sent { answer, ..Sent::nothing() };
        if let Err(why) = normalize(&mut head, http) {
            sent.ended = Some(refused(Some(Reason::BadRequest), why));
            return Ok(sent);
        }
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        sent.request = format!("{} {}", shown(head.method()), shown(head.path_and_query()));
        let Some(table) = runs.table(http) else {
            sent.ended = Some(refused(Some(Reason::NoRoute), "its route table is not there".to_owned()));
            return Ok(sent);
        };
        let mut searched = Searched::default();
        let found = select_traced(table, &head, Asked::default(), &mut searched);
        sent.answer.note(&searched, &head);
        let opener = self.opener();
        let facts = Facts {
            direct: Some(opener.ip()),
            source: Some(opener.ip()),
            remote: Some(opener.ip()),
            server_name: self.question.sni.as_deref(),
            head: Some(&head),
            ..Facts::default()
        };
        let judged = filters::judge(&http.filters, &facts, self.question.claims.as_ref(), self.now)?;
        sent.answer.policies = judged.policies;
        sent.ended = judged.refused;
        let Some(route) = found else {
            let text = self.no_route(table, &searched);
            sent.ended.get_or_insert_with(|| refused(Some(Reason::NoRoute), text));
            return Ok(sent);
        };
        sent.answer.route = Some(self.taken(route));
        sent.answer.terms.extend(judged.then);
        sent.answer.terms.extend(terms::of_route(route, http));
        self.act(runs, route, &head, &mut sent);
        Ok(if sent.ended.is_some() { sent } else { sent.checked() })
    }

    fn no_route(&self, table: &RouteTable, searched: &Searched<'_>) -> String {
        if searched.host.is_some() {
            return "no route takes it".to_owned();
        }
        let hosts: Vec<&str> = table.hosts().iter().take(8).map(|host| &*host.name).collect();
        format!("no virtual host is for {}; there are {}", self.host(), hosts.join(", "))
    }

    fn act(&self, runs: &Runs, route: &Route, head: &RequestHead, sent: &mut Sent) {
        match &route.action {
            RouteAction::Forward(forward) => {
                "it is forwarded".clone_into(&mut sent.answer.action);
                self.forward(runs, route, forward, head, sent);
            }
            RouteAction::Direct(direct) => {
                sent.answer.action = format!("the proxy answers {} itself", direct.status);
                let text = format!("the route answers {} in the service's place", direct.status);
                let outcome =
                    Outcome { status: Some(direct.status), ..refused(Some(Reason::DirectResponse), text) };
                sent.ended.get_or_insert(outcome);
            }
            RouteAction::Redirect(redirect) => {
                let location = rewrite::location(redirect, &route.matches.path, head);
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

    fn forward(&self, runs: &Runs, route: &Route, forward: &Forward, head: &RequestHead, sent: &mut Sent) {
        let weights: Vec<(&str, u32)> =
            forward.clusters.iter().map(|cluster| (&*cluster.name, cluster.weight)).collect();
        for (at, share) in shares(&weights).into_iter().enumerate() {
            let mut outgoing = head.clone();
            rewrite::request(route, at, &mut outgoing, &Unknown, false);
            if outgoing.path_and_query() != head.path_and_query() || outgoing.authority() != head.authority()
            {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let (host, path) = (text(outgoing.authority()), text(outgoing.path_and_query()));
                sent.answer.terms.push(format!("sent on as {path} for {host}"));
            }
            self.lead(runs, sent, share, Some((route, at)), Some(&outgoing));
        }
    }

    /// Leads a share of the requests to a cluster.
    fn lead(
        &self,
        runs: &Runs,
        sent: &mut Sent,
        (name, percent): (&str, f64),
        route: Option<(&Route, usize)>,
        head: Option<&RequestHead>,
    ) {
        let mut answer = ClusterAnswer { name: name.to_owned(), percent, ..ClusterAnswer::default() };
        let Some(cluster) = runs.cluster(name) else {
            "it is not there: what goes to it fails".clone_into(&mut answer.balancing);
            sent.answer.clusters.push(answer);
            return;
        };
        answer.balancing = terms::balancing(cluster);
        answer.terms = terms::of_cluster(cluster);
        match runs.endpoints(cluster) {
            None => answer.terms.push(terms::elsewhere(cluster)),
            Some(endpoints) => {
                let picks = picks(cluster, endpoints, route, head);
                for (endpoint, share) in endpoints.endpoints.iter().zip(picks) {
                    let of_all = share * percent / 100.0;
                    answer.endpoints.push(describe(cluster, endpoint, share));
                    sent.legs.extend(self.leg(cluster, endpoint, of_all, head));
                }
            }
        }
        sent.answer.clusters.push(answer);
    }

    /// The way to one endpoint, where a workload of the mesh is behind it and somebody goes there.
    fn leg(
        &self,
        cluster: &Cluster,
        endpoint: &Endpoint,
        percent: f64,
        head: Option<&RequestHead>,
    ) -> Option<Leg> {
        let who = endpoint.workload.as_ref()?;
        let key = Key::new(Arc::clone(&who.namespace), Arc::clone(&who.name));
        let workload = self.mesh.workloads.get(&key)?;
        let inbound = workload.inbound.iter().find(|inbound| inbound.bind == endpoint.address)?;
        let tls = match reach(cluster, endpoint) {
            Reach::Mtls { sni, alpn, .. } => Some((sni, alpn)),
            Reach::Plaintext => None,
            Reach::Tls | Reach::Nothing => return None,
        };
        (percent > 0.0).then(|| Leg { workload: key, port: inbound.port, percent, tls, head: head.cloned() })
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

impl Sent {
    fn nothing() -> Self {
        Self {
            answer: Outbound::default(),
            ended: None,
            legs: Vec::new(),
            request: String::new(),
            notes: Vec::new(),
        }
    }

    /// Of somebody whose side is not known.
    pub(super) fn of_nobody(request: String, note: String) -> Self {
        Self { request, notes: vec![note], ..Self::nothing() }
    }

    fn nowhere(ended: Outcome, notes: Vec<String>) -> Self {
        Self { ended: Some(ended), notes, ..Self::nothing() }
    }

    /// Ends it where no endpoint can be reached.
    fn checked(mut self) -> Self {
        let all = || self.answer.clusters.iter().flat_map(|cluster| &cluster.endpoints);
        let is_known = self.answer.clusters.iter().any(|cluster| !cluster.endpoints.is_empty());
        let is_elsewhere = self.answer.clusters.iter().any(|cluster| {
            cluster.endpoints.is_empty()
                && cluster.terms.iter().any(|term| term.starts_with(terms::ELSEWHERE))
        });
        if !is_elsewhere && !is_known {
            self.ended = Some(refused(Some(Reason::NoEndpoint), "nobody is behind it".to_owned()));
        } else if is_known && all().all(|endpoint| endpoint.percent == 0.0) && !is_elsewhere {
            self.ended =
                Some(refused(Some(Reason::NoEndpoint), "none of its endpoints is healthy".to_owned()));
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

/// Brings path and host into the one form, as a proxy does first of all.
pub(super) fn normalize(head: &mut RequestHead, http: &HttpConnection) -> Result<(), String> {
    if let Some(host) = normal_host(head.authority(), http.hosts, 0, false) {
        head.set_authority(&host);
    }
    match form(http.paths, head.path_and_query()) {
        Form::Normal => Ok(()),
        Form::Other(normal) => {
            head.set_path_and_query(&normal);
            Ok(())
        }
        Form::Redirect(to) => Err(format!("the client is sent to {}", String::from_utf8_lossy(&to))),
        Form::Refused(why) => Err(why.to_owned()),
    }
}

/// Shares in per cent by weights.
fn shares<'n>(weights: &[(&'n str, u32)]) -> Vec<(&'n str, f64)> {
    let total: f64 = weights.iter().map(|(_, weight)| f64::from(*weight)).sum();
    let share = |weight: u32| if total > 0.0 { f64::from(weight) * 100.0 / total } else { 0.0 };
    weights.iter().map(|(name, weight)| (*name, share(*weight))).collect()
}

/// How a cluster's requests spread over its endpoints, in per cent: those of many tries, or of the one that its hash
/// leads to.
fn picks(
    cluster: &Cluster,
    endpoints: &Endpoints,
    route: Option<(&Route, usize)>,
    head: Option<&RequestHead>,
) -> Vec<f64> {
    let health = |endpoint: &Endpoint| match endpoint.health {
        Health::Unhealthy | Health::Draining | Health::Timeout => Health::Unhealthy,
        Health::Degraded => Health::Degraded,
        Health::Unknown | Health::Healthy => Health::Healthy,
    };
    let member = |endpoint| Member { endpoint, health: health(endpoint), is_excluded: false };
    let members: Vec<Member<'_>> = endpoints.endpoints.iter().map(member).collect();
    let plan = Plan::new(cluster.balancing, &cluster.spread, &endpoints.policy, &members);
    let terms = route.and_then(|(route, at)| Some((route.terms.as_deref()?, at)));
    let subset: &[Criterion] = terms.map_or(&[], |(terms, at)| {
        let own = terms.clusters.get(at).map(|cluster| &*cluster.subset).filter(|subset| !subset.is_empty());
        own.unwrap_or(&terms.subset)
    });
    let hash = terms.zip(head).and_then(|((terms, _), head)| {
        // Who the client is only the proxy knows; a cookie is one that it has just been given.
        hash_of(&terms.hash, head, "127.0.0.1", |_| String::new())
    });
    let mut worker = Worker::default();
    worker.take_over(&plan);
    let mut counts = vec![0_u32; members.len()];
    for number in 0..TRIED {
        // Spread evenly over all numbers. Source: Knuth, "Multiplicative hashing".
        let random = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let context = Context { hash, subset, avoid: None, again: 0, random };
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
