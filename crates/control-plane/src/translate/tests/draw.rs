//! Resources as stable text for people, all that matters on few lines.

mod routes;
mod terms;

use std::fmt::Write as _;

use meshwork_model::proxy::{
    Balancing, ChainMatch, Cluster, Discovery, DnsHost, DownstreamTls, Endpoints, EscapedSlashes,
    FilterChain, Gate, HttpFilter, HttpFilterKind, Locality, Network, NetworkFilter, PathNormalization, Rbac,
    Resource, RouteSource, TcpCluster, UpstreamTls,
};

use self::routes::routes;

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
        let _ = writeln!(text, "    for {:?} {:?}", chain.matches.transport, chain.matches.server_names);
        if !chain.matches.alpn.is_empty() {
            let _ = writeln!(text, "    of alpn {:?}", chain.matches.alpn);
        }
    }
    if let Some(DownstreamTls::Mesh(tls)) = &chain.tls {
        let client = if tls.require_client_certificate { "demands" } else { "asks for" };
        let roots = tls.validation.as_deref().unwrap_or("none");
        let _ =
            writeln!(text, "    tls {} {client} a client of {roots}, alpn {:?}", tls.certificate, tls.alpn);
    }
    if let Some(context) = chain.tls.as_ref().and_then(DownstreamTls::context) {
        let _ = writeln!(text, "    tls {:?}, alpn {:?}", context.certificates, context.alpn);
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
            // Those that are off are on every listener.
            text.extend(http.filters.iter().filter(|filter| !filter.disabled).map(filter));
        }
        NetworkFilter::Tcp(tcp) => {
            let each = |cluster: &TcpCluster| match tcp.clusters.len() {
                1 => cluster.name.to_string(),
                _ => format!("{} {}", cluster.weight, cluster.name),
            };
            let names: Vec<_> = tcp.clusters.iter().map(each).collect();
            let _ = writeln!(text, "    tcp {}", names.join(", "));
            if tcp.idle_timeout.is_some() || tcp.longest.is_some() || tcp.hashes_source {
                let _ = writeln!(
                    text,
                    "      silent for {:?}, lives {:?}, by source: {}",
                    tcp.idle_timeout, tcp.longest, tcp.hashes_source
                );
            }
        }
    }
    let logs = match &chain.filter {
        NetworkFilter::Http(http) => &http.access_logs,
        NetworkFilter::Tcp(tcp) => &tcp.access_logs,
    };
    for log in logs {
        let _ = writeln!(text, "    logs to {:?}: {:?}", log.sink, log.filter);
    }
    for gate in &chain.gates {
        match gate {
            Gate::Rbac(rbac) => text.push_str(&policy(rbac)),
            Gate::Tried(rbac, prefix) => {
                let _ = writeln!(text, "    tried as {prefix}");
                text.push_str(&policy(rbac));
            }
            Gate::Limit(_) => panic!("{gate:?}"),
        }
    }
    text
}

fn indent(text: &str) -> String {
    text.lines().fold(String::new(), |text, line| text + "  " + line + "\n")
}

fn filter(filter: &HttpFilter) -> String {
    match &filter.kind {
        HttpFilterKind::Rbac(rbac) => {
            let rules = rbac.rules.as_deref().map(policy).unwrap_or_default();
            let tried =
                rbac.shadow.as_deref().map(|rbac| format!("    tried: {}", policy(rbac).trim_start()));
            rules + &tried.unwrap_or_default()
        }
        HttpFilterKind::Jwt(jwt) => {
            let mut text = format!("    tokens {:?}\n", jwt.rules[0].requires);
            for provider in &jwt.providers {
                let _ = writeln!(text, "      {provider:?}");
            }
            text
        }
        other => format!("    {other:?}\n"),
    }
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
    text.push_str(&terms::cluster(cluster));
    for transport in &cluster.transports {
        let mark = transport.transport.as_deref().unwrap_or("any");
        let _ = write!(text, "  transport {} for {mark}: ", transport.name);
        match &transport.tls {
            None => text.push_str("plaintext\n"),
            Some(UpstreamTls::Context(tls)) => text.push_str(&terms::context(tls)),
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
        if endpoint.weight != 1 {
            let _ = write!(text, ", weight {}", endpoint.weight);
        }
        let locality = &endpoint.place.locality;
        if *locality != Locality::default() {
            let _ = write!(text, ", at {}/{}/{}", locality.region, locality.zone, locality.sub_zone);
        }
        text.push('\n');
    }
    text
}
