//! Resources as stable text for people, all that matters on few lines.

use std::fmt::Write as _;

use meshwork_model::proxy::EscapedSlashes;
use meshwork_model::proxy::{
    Balancing, ChainMatch, Cluster, Discovery, DnsHost, Domain, DownstreamTls, Endpoints, FilterChain, Gate,
    HeaderTest, HttpFilter, Network, NetworkFilter, PathMatch, PathNormalization, Rbac, Resource, Route,
    RouteAction, RouteSource, RouteTable, StringMatch, UpstreamTls,
};

pub(super) fn resources(resources: &[Resource]) -> String {
    resources.iter().map(resource).collect::<Vec<_>>().join("\n")
}

fn resource(resource: &Resource) -> String {
    match resource {
        Resource::Cluster(cluster) => self::cluster(cluster),
        Resource::Endpoints(endpoints) => self::endpoints("endpoints", endpoints),
        Resource::Names(table) => {
            let name = |(name, addresses)| format!("  {name}: {addresses:?}\n");
            let names: String = table.names.iter().map(name).collect();
            format!("names {} ({}, {:?})\n{names}", table.name, table.address, table.ttl)
        }
        Resource::Secret(_) => panic!("secrets do not cross xDS"),
        Resource::Routes(table) => format!("routes {}\n{}", table.name, routes(table)),
        Resource::Listener(listener) => {
            let address = listener.address.map_or("no address".to_owned(), |a| a.to_string());
            let more: Vec<String> = listener.additional_addresses.iter().map(ToString::to_string).collect();
            let more = if more.is_empty() { String::new() } else { format!(" and {}", more.join(" and ")) };
            let sockets = if listener.bind_to_port { "" } else { ", no sockets" };
            let hands_over = if listener.use_original_dst { ", hands over" } else { "" };
            let mut text = format!(
                "listener {} ({:?}, {address}{more}{sockets}{hands_over})\n",
                listener.name, listener.direction
            );
            for one in &listener.chains {
                text.push_str(&chain(one));
            }
            text
        }
    }
}

fn chain(chain: &FilterChain) -> String {
    let mut text = format!("  chain {}\n", chain.name);
    if chain.matches != ChainMatch::default() {
        assert!(chain.matches.alpn.is_empty());
        let _ = writeln!(text, "    for {:?} {:?}", chain.matches.transport, chain.matches.server_names);
    }
    if let Some(DownstreamTls::Mesh(tls)) = &chain.tls {
        let client = if tls.require_client_certificate { "demands" } else { "asks for" };
        let roots = tls.validation.as_deref().unwrap_or("none");
        let _ =
            writeln!(text, "    tls {} {client} a client of {roots}, alpn {:?}", tls.certificate, tls.alpn);
    }
    match &chain.filter {
        NetworkFilter::Http(http) => {
            let paths = http.paths;
            let is_safe =
                paths.rfc3986 && paths.merge_slashes && paths.escaped_slashes == EscapedSlashes::Reject;
            let is_untouched = paths == PathNormalization::default() && !http.generate_request_id;
            assert!(is_untouched && chain.name.as_ref() == "outside" || is_safe && http.generate_request_id);
            let source = match &http.routes {
                RouteSource::Named(name) => format!("routes {name}\n"),
                RouteSource::Inline(table) => format!("routes inline\n{}", indent(&routes(table))),
            };
            let _ = writeln!(text, "    http {:?} {}", http.codec, source.trim_end());
            for rbac in http.filters.iter().filter_map(HttpFilter::policy) {
                text.push_str(&policy(rbac));
            }
        }
        NetworkFilter::Tcp(tcp) => {
            let names: Vec<_> = tcp.clusters.iter().map(|cluster| &*cluster.name).collect();
            let _ = writeln!(text, "    tcp {}", names.join(" "));
        }
    }
    for gate in &chain.gates {
        let Gate::Rbac(rbac) = gate else { panic!("{gate:?}") };
        text.push_str(&policy(rbac));
    }
    text
}

fn indent(text: &str) -> String {
    text.lines().fold(String::new(), |text, line| text + "  " + line + "\n")
}

fn policy(rbac: &Rbac) -> String {
    let mut text = format!("    {:?}\n", rbac.action);
    for rule in &rbac.rules {
        let _ = writeln!(text, "      {}", rule.name);
        let _ = writeln!(text, "        who  {:?}", rule.principals);
        let _ = writeln!(text, "        what {:?}", rule.permissions);
    }
    text
}

fn routes(table: &RouteTable) -> String {
    let mut text = String::new();
    for host in table.hosts() {
        if host.domains != [Domain::Any] {
            let _ = writeln!(text, "  for {:?}", host.domains);
        }
        for one in &host.routes {
            let _ = writeln!(text, "  {}", route(one));
        }
    }
    text
}

fn route(route: &Route) -> String {
    let mut text = match &route.matches.path {
        PathMatch::Exact(path) => format!("exactly {path}"),
        PathMatch::Prefix(path) => format!("{path}*"),
        PathMatch::SegmentPrefix(path) => format!("{path} or below"),
        PathMatch::Regex(regex) => format!("{regex:?}"),
        PathMatch::Connect => "CONNECT".to_owned(),
    };
    for header in &route.matches.headers {
        assert!(!header.invert);
        match &header.test {
            HeaderTest::Value(StringMatch::Exact(value)) => {
                let _ = write!(text, ", {} = {value}", header.name);
            }
            other => {
                let _ = write!(text, ", {} {other:?}", header.name);
            }
        }
    }
    match &route.action {
        RouteAction::Forward(forward) => {
            let timeout = forward.timeout.map_or("no timeout".to_owned(), |t| format!("{t:?}"));
            let retries = forward.resilience.retry.as_ref().map_or(0, |retry| retry.retries);
            let _ = write!(text, " [{}] > {timeout}, {retries} retries", route.name);
            for cluster in &forward.clusters {
                let _ = write!(text, "\n    {} {}", cluster.weight, cluster.name);
            }
        }
        RouteAction::Direct(direct) => {
            let _ = write!(text, " [{}] > {} {:?}", route.name, direct.status, direct.body);
        }
        RouteAction::Redirect(redirect) => {
            let _ = write!(text, " [{}] > {redirect:?}", route.name);
        }
        RouteAction::Local => text.push_str(" > local"),
    }
    text
}

fn balancing(balancing: Balancing) -> &'static str {
    match balancing {
        Balancing::RoundRobin(_) => "RoundRobin",
        Balancing::Random => "Random",
        Balancing::LeastRequest(_) => "LeastRequest",
        Balancing::RingHash(_) => "RingHash",
        Balancing::Maglev(_) => "Maglev",
    }
}

fn cluster(cluster: &Cluster) -> String {
    let service =
        cluster.service.as_ref().map_or("no service".to_owned(), |s| format!("{}/{}", s.namespace, s.name));
    let network = if cluster.network == Network::Workload { ", in the workload's network" } else { "" };
    let mut text = format!(
        "cluster {} ({service}, {:?}, {}, connects in {:?}{network})\n",
        cluster.name,
        cluster.protocol,
        balancing(cluster.balancing),
        cluster.connect_timeout
    );
    match &cluster.discovery {
        Discovery::Eds(name) => assert_eq!(name, &cluster.name),
        Discovery::Static(endpoints) => text.push_str(&indent(&self::endpoints("static", endpoints))),
        Discovery::Dns(dns) => {
            for DnsHost { host, port } in dns.hosts.iter().map(|named| &named.host) {
                let _ = writeln!(text, "  by DNS: {host}:{port}");
            }
        }
        Discovery::OriginalDestination => text.push_str("  where it was meant to go\n"),
    }
    for transport in &cluster.transports {
        let mark = transport.transport.as_deref().unwrap_or("any");
        let _ = write!(text, "  transport {} for {mark}: ", transport.name);
        match &transport.tls {
            None => text.push_str("plaintext\n"),
            Some(UpstreamTls::Context(_)) => panic!("the mesh makes no such TLS"),
            Some(UpstreamTls::Mesh(tls)) => {
                let certificate = tls.certificate.as_deref().unwrap_or("no certificate");
                let identities: Vec<&str> =
                    tls.identities.iter().map(meshwork_model::spiffe::SpiffeId::as_str).collect();
                let _ = writeln!(
                    text,
                    "{certificate} under {}, to {identities:?}, alpn {:?}",
                    tls.validation, tls.alpn
                );
            }
        }
    }
    text
}

fn endpoints(what: &str, endpoints: &Endpoints) -> String {
    let mut text = format!("{what} {}\n", endpoints.cluster);
    for endpoint in &endpoints.endpoints {
        let transport = endpoint.transport.as_deref().unwrap_or("no mark");
        let _ = write!(text, "  {} {transport}", endpoint.address);
        if let Some(w) = &endpoint.workload {
            let _ = write!(text, " {};{};{};{}", w.name, w.namespace, w.app, w.version);
        }
        text.push('\n');
    }
    text
}
