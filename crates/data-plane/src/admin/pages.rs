//! The pages of the admin interface.

use std::fmt::Write as _;
use std::iter;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use meshwork_identity::{CertificateFacts, IdentitySource};
use meshwork_model::proxy::{Direction, Discovery, Health};
use meshwork_xds::config_dump::config_dump;

use super::{Asked, Page};
use crate::config::{ClusterConfig, Shown};
use crate::proxy::State;
use crate::upstream::{Flag, Host};

/// A page, and what it is for.
struct Entry {
    path: &'static str,
    /// Whether it changes something.
    orders: bool,
    about: &'static str,
    show: fn(&State, &Query<'_>) -> Page,
}

const PAGES: &[Entry] = &[
    Entry { path: "/", orders: false, about: "this list", show: |_, _| list() },
    Entry { path: "/help", orders: false, about: "this list", show: |_, _| list() },
    Entry { path: "/ready", orders: false, about: "whether it serves", show: |state, _| ready(state) },
    Entry {
        path: "/server_info",
        orders: false,
        about: "version, state, node",
        show: |state, _| server_info(state),
    },
    Entry {
        path: "/config_dump",
        orders: false,
        about: "what config runs (?resource=LIST, ?include_eds)",
        show: dump,
    },
    Entry {
        path: "/clusters",
        orders: false,
        about: "clusters and endpoints (?format=json)",
        show: clusters,
    },
    Entry {
        path: "/listeners",
        orders: false,
        about: "listeners and addresses (?format=json)",
        show: listeners,
    },
    Entry {
        path: "/certs",
        orders: false,
        about: "who it is, certificates that are shown and trusted, how renewing goes",
        show: |state, _| certs(state),
    },
    Entry { path: "/stats", orders: false, about: "metrics, a line each (?filter=TEXT)", show: stats },
    Entry {
        path: "/stats/prometheus",
        orders: false,
        about: "metrics for Prometheus",
        show: |state, _| metrics(state),
    },
    Entry { path: "/metrics", orders: false, about: "the same", show: |state, _| metrics(state) },
    Entry { path: "/memory", orders: false, about: "memory of the process", show: |_, _| memory() },
    Entry { path: "/logging", orders: true, about: "change what is logged (?level=LEVEL)", show: logging },
    Entry {
        path: "/drain_listeners",
        orders: true,
        about: "accept nothing more, let what has begun end (?inboundonly)",
        show: drain,
    },
    Entry {
        path: "/healthcheck/fail",
        orders: true,
        about: "answer health checks as unwell",
        show: |state, _| health(state, true),
    },
    Entry {
        path: "/healthcheck/ok",
        orders: true,
        about: "answer health checks as well again",
        show: |state, _| health(state, false),
    },
    Entry { path: "/quitquitquit", orders: true, about: "end the process", show: |state, _| quit(state) },
];

/// Answers a request.
pub(super) fn page(state: &State, asked: &Asked<'_>) -> Page {
    let text = String::from_utf8_lossy(asked.path);
    let (path, query) = text.split_once('?').unwrap_or((&text, ""));
    let Some(entry) = PAGES.iter().find(|entry| entry.path == path) else {
        return Page { status: 404, ..list() };
    };
    let is_post = asked.method == b"POST";
    if entry.orders && !is_post {
        return Page::text(405, format!("{path} changes something: ask by POST\n"));
    }
    if entry.orders && asked.by_page {
        return Page::text(403, "pages in browsers give no orders here\n".into());
    }
    if !is_post && asked.method != b"GET" {
        return Page::text(405, "only GET and POST are answered\n".into());
    }
    (entry.show)(state, &Query(query))
}

fn list() -> Page {
    let mut text = String::new();
    for entry in PAGES {
        let method = if entry.orders { "POST" } else { "GET" };
        let _ = writeln!(text, "{method:<4} {:<18} {}", entry.path, entry.about);
    }
    Page::text(200, text)
}

// --- state ---

/// Source: Envoy `ServerInfo.State`.
fn state_name(state: &State) -> &'static str {
    if state.is_draining() || state.vitals.failed.load(Ordering::Relaxed) {
        "DRAINING"
    } else if state.is_ready() {
        "LIVE"
    } else {
        "INITIALIZING"
    }
}

fn ready(state: &State) -> Page {
    let name = state_name(state);
    Page::text(if name == "LIVE" { 200 } else { 503 }, format!("{name}\n"))
}

fn server_info(state: &State) -> Page {
    let uptime = state.registry.started().elapsed().unwrap_or_default().as_secs();
    Page::json(format!(
        "{{\n \"version\": {},\n \"state\": \"{}\",\n \"uptime_current_epoch\": \"{uptime}s\",\n \
         \"uptime_all_epochs\": \"{uptime}s\",\n \"hot_restart_version\": \"disabled\",\n \
         \"node\": {{\n  \"id\": {},\n  \"cluster\": {},\n  \"user_agent_name\": \"meshwork\"\n }},\n \
         \"sandbox\": {}\n}}\n",
        quoted(concat!("meshwork/", env!("CARGO_PKG_VERSION"))),
        state_name(state),
        quoted(&state.about.id),
        quoted(&state.about.cluster),
        quoted(&state.about.sandbox),
    ))
}

fn dump(state: &State, query: &Query<'_>) -> Page {
    if let Some(name) = query.names().find(|name| !["resource", "include_eds"].contains(name)) {
        return Page::text(400, format!("?{name} is not supported; ?resource=LIST and ?include_eds are\n"));
    }
    match config_dump(&state.held(), query.value("resource"), query.has("include_eds")) {
        Ok(text) => Page::json(text),
        Err(why) => Page::text(404, format!("{why}\n")),
    }
}

// --- clusters and listeners ---

fn clusters(state: &State, query: &Query<'_>) -> Page {
    let clusters = state.clusters();
    if query.value("format") != Some("json") {
        return Page::text(
            200,
            clusters.iter().map(|(config, is_static)| cluster_text(config, *is_static)).collect(),
        );
    }
    let each: Vec<String> =
        clusters.iter().map(|(config, is_static)| cluster_json(config, *is_static)).collect();
    Page::json(format!("{{\n \"cluster_statuses\": [\n{}\n ]\n}}\n", each.join(",\n")))
}

fn cluster_text(config: &ClusterConfig, is_static: bool) -> String {
    let name = &config.cluster.name;
    let mut text = format!("{name}::observability_name::{name}\n{name}::added_via_api::{}\n", !is_static);
    for host in &config.hosts.load().hosts {
        let endpoint = &host.config;
        let address = endpoint.address;
        let hostname = &endpoint.hostname;
        let flags = health_flags(host);
        let _ = writeln!(text, "{name}::{address}::hostname::{hostname}");
        let _ = writeln!(text, "{name}::{address}::health_flags::{flags}");
    }
    text
}

/// Source: Envoy, "Administration interface", `GET /clusters`.
fn health_flags(host: &Host) -> String {
    let said = |health| host.config.health == health;
    let flags = [
        ("/failed_active_hc", host.state.has(Flag::FailedCheck)),
        ("/failed_outlier_check", host.state.has(Flag::Ejected)),
        ("/failed_eds_health", said(Health::Unhealthy) || said(Health::Draining) || said(Health::Timeout)),
        ("/degraded_active_hc", host.state.has(Flag::DegradedCheck)),
        ("/degraded_eds_health", said(Health::Degraded)),
    ];
    let set: String = flags.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| *name).collect();
    if set.is_empty() { "healthy".to_owned() } else { set }
}

fn cluster_json(config: &ClusterConfig, is_static: bool) -> String {
    let set = config.hosts.load();
    let hosts: Vec<String> = set
        .hosts
        .iter()
        .map(|host| {
            let endpoint = &host.config;
            let health = match host.health() {
                Health::Unhealthy | Health::Draining | Health::Timeout => "UNHEALTHY",
                Health::Degraded => "DEGRADED",
                Health::Unknown | Health::Healthy => "HEALTHY",
            };
            format!(
                "    {{ \"address\": {{ \"socket_address\": {{ \"address\": \"{}\", \"port_value\": {} }} }}, \
                 \"health_status\": {{ \"eds_health_status\": \"{health}\" }} }}",
                endpoint.address.ip(),
                endpoint.address.port()
            )
        })
        .collect();
    let kind = match config.cluster.discovery {
        Discovery::Eds(_) => "EDS",
        Discovery::OriginalDestination => "ORIGINAL_DST",
        Discovery::Static(_) => "STATIC",
        Discovery::Dns(_) => "DNS",
    };
    format!(
        "  {{\n   \"name\": {name},\n   \"observability_name\": {name},\n   \"added_via_api\": {},\n   \
         \"discovery\": \"{kind}\",\n   \"host_statuses\": [\n{}\n   ]\n  }}",
        !is_static,
        hosts.join(",\n"),
        name = quoted(&config.cluster.name),
    )
}

fn listeners(state: &State, query: &Query<'_>) -> Page {
    let listeners = state.listeners();
    if query.value("format") != Some("json") {
        let lines = listeners.iter().map(|(name, address)| format!("{name}::{address}\n"));
        return Page::text(200, lines.collect());
    }
    let each: Vec<String> = listeners
        .iter()
        .map(|(name, address)| {
            format!(
                "  {{ \"name\": {}, \"local_address\": {{ \"socket_address\": {{ \"address\": \"{}\", \
                 \"port_value\": {} }} }} }}",
                quoted(name),
                address.ip(),
                address.port()
            )
        })
        .collect();
    Page::json(format!("{{\n \"listener_statuses\": [\n{}\n ]\n}}\n", each.join(",\n")))
}

// --- certificates ---

/// How the proxy's own identity is named among those who show and trust something.
const OWN: &str = "identity";

fn certs(state: &State) -> Page {
    let now = SystemTime::now();
    let identity = state.identity();
    let own = identity.as_deref().map(|identity| entry_of(OWN, &own(identity), now));
    let others =
        state.with_shown(|shown| shown.map(|(owner, shown)| entry_of(owner, shown, now)).collect::<Vec<_>>());
    let each: Vec<String> = own.into_iter().chain(others).collect();
    let identity = identity.map(|identity| who(&identity)).unwrap_or_default();
    Page::json(format!("{{\n{identity} \"certificates\": [\n{}\n ]\n}}\n", each.join(",\n")))
}

/// What the secrets `default` and `ROOTCA` come to, which a proxy in a mesh never gets by config.
fn own(identity: &IdentitySource) -> Shown {
    let (svid, trust) = (identity.svid(), identity.trust());
    let chain = svid.chain().iter().filter_map(CertificateFacts::read);
    let certificates = chain.map(|facts| ("default".into(), facts)).collect();
    let bundles = iter::once(trust.own()).chain(trust.federated());
    let roots = bundles.flat_map(|bundle| {
        let place: Arc<str> = format!("ROOTCA of {}", bundle.trust_domain()).into();
        let roots = bundle.certificates().iter().filter_map(CertificateFacts::read);
        roots.map(move |facts| (Arc::clone(&place), facts))
    });
    Shown { certificates, authorities: roots.collect() }
}

/// Who the proxy is, and how renewing its certificate goes; Envoy has no such field.
fn who(identity: &IdentitySource) -> String {
    let time = |at: Option<SystemTime>| {
        at.map_or_else(|| "null".to_owned(), |at| quoted(&meshwork_xds::config_dump::time(at)))
    };
    let renewal = identity.renewal();
    let failure = renewal.failure.map_or_else(
        || "null".to_owned(),
        |(at, why)| format!("{{ \"at\": {}, \"why\": {} }}", time(Some(at)), quoted(&why)),
    );
    let (svid, trust) = (identity.svid(), identity.trust());
    let revoked = trust.revoked();
    format!(
        " \"identity\": {{\n  \"id\": {},\n  \"serial_number\": {},\n  \"expiration_time\": {},\n  \"is_revoked\": {},\n  \
         \"renewal\": {{ \"due\": {}, \"last\": {}, \"failure\": {failure} }}\n }},\n",
        quoted(identity.id().as_str()),
        quoted(&svid.serial()),
        time(Some(svid.not_after())),
        revoked.revokes(identity.id(), &svid.serial()),
        time(renewal.due),
        time(renewal.last),
    )
}

fn entry_of(owner: &str, shown: &Shown, now: SystemTime) -> String {
    let list = |facts: &[(Arc<str>, CertificateFacts)]| {
        let each = facts.iter().map(|(place, facts)| certificate(place, facts, now));
        each.collect::<Vec<_>>().join(",\n")
    };
    format!(
        "  {{\n   \"used_by\": {},\n   \"ca_cert\": [\n{}\n   ],\n   \"cert_chain\": [\n{}\n   ]\n  }}",
        quoted(owner),
        list(&shown.authorities),
        list(&shown.certificates)
    )
}

/// Source: Envoy `admin.v3.CertificateDetails`; subject and issuer are ours.
fn certificate(place: &str, facts: &CertificateFacts, now: SystemTime) -> String {
    let mut names: Vec<String> = Vec::new();
    names.extend(facts.dns_names.iter().map(|name| format!("{{ \"dns\": {} }}", quoted(name))));
    names.extend(facts.uris.iter().map(|uri| format!("{{ \"uri\": {} }}", quoted(uri))));
    names.extend(facts.addresses.iter().map(|ip| format!("{{ \"ip_address\": \"{ip}\" }}")));
    let days = facts.not_after.duration_since(now).unwrap_or_default().as_secs() / (24 * 60 * 60);
    format!(
        "    {{ \"path\": {}, \"subject\": {}, \"issuer\": {}, \"serial_number\": {}, \"subject_alt_names\": [{}], \
         \"days_until_expiration\": \"{days}\", \"valid_from\": \"{}\", \"expiration_time\": \"{}\" }}",
        quoted(place),
        quoted(&facts.subject),
        quoted(&facts.issuer),
        quoted(&facts.serial),
        names.join(", "),
        meshwork_xds::config_dump::time(facts.not_before),
        meshwork_xds::config_dump::time(facts.not_after),
    )
}

// --- metrics ---

fn metrics(state: &State) -> Page {
    Page {
        status: 200,
        media_type: b"text/plain; version=0.0.4; charset=utf-8",
        text: state.registry.prometheus_text(),
    }
}

/// The same values as for Prometheus, in Envoy's lines.
fn stats(state: &State, query: &Query<'_>) -> Page {
    let filter = query.value("filter").unwrap_or_default();
    let text = state.registry.prometheus_text();
    let lines = text.lines().filter(|line| !line.starts_with('#') && line.contains(filter));
    let lines = lines.filter_map(|line| line.rsplit_once(' '));
    let mut out = String::new();
    for (name, value) in lines {
        let _ = writeln!(out, "{name}: {value}");
    }
    Page::text(200, out)
}

fn memory() -> Page {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.trim_start_matches(':').split_whitespace().next());
        number.and_then(|number| number.parse::<u64>().ok()).unwrap_or_default() * 1024
    };
    let (resident, data) = (kib("VmRSS"), kib("VmData"));
    Page::json(format!("{{\n \"allocated\": \"{resident}\",\n \"heap_size\": \"{data}\"\n}}\n"))
}

// --- orders ---

fn logging(state: &State, query: &Query<'_>) -> Page {
    let Some(set) = &state.set_log else {
        return Page::text(501, "the log is not this process's to set\n".into());
    };
    let Some(level) = query.value("level").filter(|level| !level.is_empty()) else {
        return Page::text(400, "write ?level=LEVEL: error, warn, info, debug or trace\n".into());
    };
    match set.call(level) {
        Ok(()) => Page::text(200, format!("level: {level}\n")),
        Err(why) => Page::text(400, format!("{why}\n")),
    }
}

fn drain(state: &State, query: &Query<'_>) -> Page {
    if query.has("inboundonly") {
        state.drop_listeners(|direction| direction == Direction::Inbound);
    } else {
        state.begin_drain();
    }
    Page::text(200, "OK\n".into())
}

fn health(state: &State, failed: bool) -> Page {
    state.vitals.failed.store(failed, Ordering::Relaxed);
    Page::text(200, "OK\n".into())
}

fn quit(state: &State) -> Page {
    state.vitals.quit.notify_one();
    Page::text(200, "OK\n".into())
}

// --- texts ---

/// What follows the `?`.
struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    fn pairs(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let pairs = self.0.split('&').filter(|pair| !pair.is_empty());
        pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }

    fn names(&self) -> impl Iterator<Item = &'a str> {
        self.pairs().map(|(name, _)| name)
    }

    fn has(&self, name: &str) -> bool {
        self.names().any(|found| found == name)
    }

    fn value(&self, name: &str) -> Option<&'a str> {
        self.pairs().find(|(found, _)| *found == name).map(|(_, value)| value)
    }
}

/// A JSON string. Source: RFC 8259 §7.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_json_whatever_they_say() {
        assert_eq!(quoted("a\"\\\n"), "\"a\\\"\\\\\\u000a\"");
    }

    #[test]
    fn who_the_proxy_is_is_told_without_its_key() {
        let (identity, _) = crate::testing::config::identity();
        let epoch = SystemTime::UNIX_EPOCH;
        identity.note_renewal(|renewal| {
            renewal.due = Some(epoch);
            renewal.failure = Some((epoch, "nobody \"there\"".to_owned()));
        });
        let shown = own(&identity);
        let text = who(&identity) + &entry_of(OWN, &shown, epoch);
        let serial = identity.svid().serial();
        for part in [
            "\"id\": \"spiffe://mesh.local/ns/shop/sa/cart\"",
            &format!("\"serial_number\": \"{serial}\""),
            "\"is_revoked\": false",
            "\"due\": \"1970-01-01T00:00:00Z\", \"last\": null",
            "\"failure\": { \"at\": \"1970-01-01T00:00:00Z\", \"why\": \"nobody \\\"there\\\"\" }",
            "\"used_by\": \"identity\"",
            "\"path\": \"ROOTCA of mesh.local\"",
            "\"path\": \"default\"",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        let (last, root) = (shown.certificates.last().expect("a chain"), &shown.authorities[0]);
        assert_eq!(last.1.issuer, root.1.subject, "the chain leads to the root");
        assert!(!text.contains("KEY"), "{text}");
    }

    #[test]
    fn a_query_is_read() {
        let query = Query("resource=dynamic_listeners&include_eds");
        assert_eq!(query.value("resource"), Some("dynamic_listeners"));
        assert!(query.has("include_eds") && !query.has("mask"));
    }
}
