//! `meshwork inspect`.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use serde_json::Value;

use super::output::{self, Format};
use super::table;

/// Show what a running proxy serves, trusts and counts
///
/// Asks the admin interface of a proxy on this machine: of `meshwork sidecar`, `gateway`, `run` or `proxy`, which have one where
/// they are started with --admin, or of Envoy.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  meshwork inspect
  meshwork inspect certs --admin 127.0.0.1:15005
  meshwork inspect certs -o json | jq .identity.renewal
  meshwork inspect config

Exit codes: 0 it answered, and serves where that was asked; 1 it did not; 2 the command line is wrong.")]
pub(crate) struct Inspect {
    /// What to show
    #[arg(value_enum, default_value = "ready")]
    what: What,

    /// Where the proxy's admin interface listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15000")]
    admin: SocketAddr,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
enum What {
    /// Every resource, its version, and what was refused of it
    Config,
    /// Clusters and their endpoints
    Clusters,
    /// Listeners and their addresses
    Listeners,
    /// Who it is and how renewing its certificate goes; certificates that are shown and trusted
    Certs,
    /// Metrics
    Stats,
    /// Whether it serves, and who it is
    Ready,
}

/// How long the proxy may take to answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// The longest answer: a dump of tens of thousands of resources.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

impl Inspect {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let path = match self.what {
            What::Config => "/config_dump?include_eds",
            What::Clusters => "/clusters?format=json",
            What::Listeners => "/listeners?format=json",
            What::Certs => "/certs",
            What::Stats => "/stats",
            What::Ready => "/server_info",
        };
        let text = self.fetch(path)?;
        let value = if self.what == What::Stats { stats(&text) } else { serde_json::from_str(&text)? };
        if !self.output.print(&value)? {
            output::line(self.table(&value).trim_end());
        }
        if self.what == What::Ready && value["state"] != "LIVE" {
            bail!("the proxy is not ready: {}", text_of(&value["state"]));
        }
        Ok(())
    }

    fn fetch(&self, path: &str) -> anyhow::Result<String> {
        let admin = self.admin;
        let cannot = || {
            format!(
                "cannot ask the proxy at {admin}: start it with an admin interface (--admin ADDR), and name that by --admin"
            )
        };
        let mut stream = TcpStream::connect_timeout(&admin, DEADLINE).with_context(cannot)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n")
            .with_context(cannot)?;
        let mut bytes = Vec::new();
        stream.take(MAX_BYTES).read_to_end(&mut bytes).with_context(cannot)?;
        let text = String::from_utf8_lossy(&bytes);
        let (head, body) = text.split_once("\r\n\r\n").with_context(cannot)?;
        let status = head.split_whitespace().nth(1).unwrap_or_default();
        if status != "200" {
            bail!("the proxy at {admin} answers {status}: {}", body.trim());
        }
        // Envoy answers in chunks.
        let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        Ok(if is_chunked { unchunked(body) } else { body.to_owned() })
    }

    fn table(&self, value: &Value) -> String {
        let (head, rows) = match self.what {
            What::Config => (vec!["KIND", "NAME", "VERSION", "UPDATED", "STATUS"], config(value)),
            What::Clusters => (vec!["CLUSTER", "ENDPOINT", "HEALTH"], clusters(value)),
            What::Listeners => (vec!["LISTENER", "ADDRESS"], listeners(value)),
            What::Certs => {
                let now = meshwork_xds::config_dump::time(SystemTime::now());
                let head = ["USED BY", "AS", "SUBJECT", "NAMES", "SERIAL", "FROM", "EXPIRES", "ISSUER"];
                return who(value, &now) + &table::render(&head, &certs(value, &now), output::colours());
            }
            What::Stats => (vec!["METRIC", "VALUE"], metrics(value)),
            What::Ready => (vec!["STATE", "NODE", "VERSION", "UP", "SANDBOX"], server(value)),
        };
        table::render(&head, &rows, output::colours())
    }
}

fn unchunked(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        let Some(chunk) = rest.get(..size).filter(|chunk| !chunk.is_empty()) else { break };
        text.push_str(chunk);
        body = rest.get(size + 2..).unwrap_or_default();
    }
    text
}

// --- rows ---

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The lists of a dump, with the kind of what is in each, and the field that holds it.
const LISTS: &[(&str, &str, &str)] = &[
    ("static_clusters", "cluster", "cluster"),
    ("dynamic_active_clusters", "cluster", "cluster"),
    ("static_listeners", "listener", "listener"),
    ("dynamic_listeners", "listener", "listener"),
    ("static_route_configs", "routes", "route_config"),
    ("dynamic_route_configs", "routes", "route_config"),
    ("static_secrets", "secret", "secret"),
    ("dynamic_active_secrets", "secret", "secret"),
    ("static_endpoint_configs", "endpoints", "endpoint_config"),
    ("dynamic_endpoint_configs", "endpoints", "endpoint_config"),
];

fn config(value: &Value) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for config in items(&value["configs"]) {
        for (list, kind, field) in LISTS {
            for entry in items(&config[*list]) {
                let state = if entry["active_state"].is_null() { entry } else { &entry["active_state"] };
                let resource = &state[*field];
                let names = [&entry["name"], &resource["name"], &resource["cluster_name"]];
                let name = names.into_iter().map(text_of).find(|name| !name.is_empty()).unwrap_or_default();
                let version = if list.starts_with("static") {
                    "static".to_owned()
                } else {
                    text_of(&state["version_info"])
                };
                let status = match text_of(&entry["error_state"]["details"]) {
                    why if why.is_empty() => "applied".to_owned(),
                    why => format!("REFUSED: {why}"),
                };
                rows.push(vec![(*kind).to_owned(), name, version, text_of(&state["last_updated"]), status]);
            }
        }
    }
    rows
}

fn address(value: &Value) -> String {
    let socket = &value["socket_address"];
    format!("{}:{}", text_of(&socket["address"]), text_of(&socket["port_value"]))
}

fn clusters(value: &Value) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for cluster in items(&value["cluster_statuses"]) {
        let name = text_of(&cluster["name"]);
        let before = rows.len();
        for host in items(&cluster["host_statuses"]) {
            let health = text_of(&host["health_status"]["eds_health_status"]);
            rows.push(vec![name.clone(), address(&host["address"]), health]);
        }
        if rows.len() == before {
            rows.push(vec![name, "-".to_owned(), "-".to_owned()]);
        }
    }
    rows
}

fn listeners(value: &Value) -> Vec<Vec<String>> {
    let row = |listener: &Value| vec![text_of(&listener["name"]), address(&listener["local_address"])];
    items(&value["listener_statuses"]).map(row).collect()
}

/// Who a proxy of ours is, and how renewing its certificate goes; nothing of Envoy, which does not say.
fn who(value: &Value, now: &str) -> String {
    let identity = &value["identity"];
    let Some(id) = identity["id"].as_str() else { return String::new() };
    let mut text = format!("identity  {id}");
    if identity["is_revoked"] == true {
        text.push_str("  REVOKED");
    }
    let until = text_of(&identity["expiration_time"]);
    let serial = text_of(&identity["serial_number"]);
    let _ = write!(text, "\nshows     certificate {serial}, {}", until_when(&until, now));
    let renewal = &identity["renewal"];
    let last = match renewal["last"].as_str() {
        Some(last) => format!("got at {last}"),
        None => "got before this process started".to_owned(),
    };
    let next = match renewal["due"].as_str() {
        Some(due) => format!("next try about {due}"),
        None => "the next one is read from its files".to_owned(),
    };
    let _ = write!(text, "\nrenewal   {last}; {next}");
    if let Some(why) = renewal["failure"]["why"].as_str() {
        let at = text_of(&renewal["failure"]["at"]);
        let _ = write!(text, "\nfailed    last at {at}: {why}");
    }
    text + "\n\n"
}

/// Whether a certificate is good still. Times of one form are compared as text, to the second.
fn until_when(until: &str, now: &str) -> String {
    const SECONDS: usize = "2026-01-01T00:00:00".len();
    let is_over = until.get(..SECONDS).zip(now.get(..SECONDS)).is_some_and(|(until, now)| until < now);
    if is_over { format!("EXPIRED at {until}") } else { format!("until {until}") }
}

fn certs(value: &Value, now: &str) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for entry in items(&value["certificates"]) {
        for (list, role) in [("cert_chain", "shown"), ("ca_cert", "trusted")] {
            for certificate in items(&entry[list]) {
                let names = items(&certificate["subject_alt_names"]);
                let names = names.filter_map(|name| name.as_object()?.values().next().map(text_of));
                let until = until_when(&text_of(&certificate["expiration_time"]), now);
                rows.push(vec![
                    text_of(&entry["used_by"]),
                    role.to_owned(),
                    text_of(&certificate["subject"]),
                    names.collect::<Vec<_>>().join(" "),
                    text_of(&certificate["serial_number"]),
                    text_of(&certificate["valid_from"]),
                    until.strip_prefix("until ").unwrap_or(&until).to_owned(),
                    text_of(&certificate["issuer"]),
                ]);
            }
        }
    }
    rows
}

fn stats(text: &str) -> Value {
    let pairs = text.lines().filter_map(|line| line.rsplit_once(": "));
    pairs.map(|(name, value)| (name.to_owned(), Value::String(value.to_owned()))).collect()
}

fn metrics(value: &Value) -> Vec<Vec<String>> {
    let pairs = value.as_object().into_iter().flatten();
    pairs.map(|(name, value)| vec![name.clone(), text_of(value)]).collect()
}

fn server(value: &Value) -> Vec<Vec<String>> {
    let fields = [
        &value["state"],
        &value["node"]["id"],
        &value["version"],
        &value["uptime_current_epoch"],
        &value["sandbox"],
    ];
    vec![fields.into_iter().map(text_of).collect()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_is_aligned_and_refusals_stand_out() {
        let dump = json!({ "configs": [
            { "static_clusters": [{ "cluster": { "name": "a" }, "last_updated": "now" }] },
            { "dynamic_listeners": [{ "name": "web", "error_state": { "details": "no" } }] },
        ] });
        let rows = config(&dump);
        let head = ["KIND", "NAME", "VERSION", "UPDATED", "STATUS"];
        let expected = "KIND      NAME  VERSION  UPDATED  STATUS\n\
                        cluster   a     static   now      applied\n\
                        listener  web                     REFUSED: no\n";
        assert_eq!(table::render(&head, &rows, false), expected);
        assert!(table::render(&head, &rows, true).contains("\u{1b}[31mlistener"));
    }

    #[test]
    fn who_a_proxy_is_is_told_and_what_has_expired_stands_out() {
        let now = "2026-06-01T00:00:00Z";
        let told = json!({
            "identity": {
                "id": "spiffe://mesh.local/ns/shop/sa/web", "serial_number": "5f3a", "is_revoked": false,
                "expiration_time": "2026-06-02T00:00:00.500Z",
                "renewal": { "due": "2026-06-01T12:00:00Z", "last": null, "failure": null },
            },
            "certificates": [
                { "used_by": "identity", "cert_chain": [{ "serial_number": "5f3a", "issuer": "CN=one", "subject": "",
                  "subject_alt_names": [{ "uri": "spiffe://mesh.local/ns/shop/sa/web" }],
                  "valid_from": "2026-05-31T00:00:00Z", "expiration_time": "2026-06-02T00:00:00Z" }],
                  "ca_cert": [{ "expiration_time": "2026-05-31T23:59:59Z", "subject": "CN=root" }] },
            ],
        });
        assert_eq!(
            who(&told, now),
            "identity  spiffe://mesh.local/ns/shop/sa/web\n\
             shows     certificate 5f3a, until 2026-06-02T00:00:00.500Z\n\
             renewal   got before this process started; next try about 2026-06-01T12:00:00Z\n\n"
        );
        let rows = certs(&told, now);
        assert_eq!(rows[0][3..5], ["spiffe://mesh.local/ns/shop/sa/web", "5f3a"]);
        assert_eq!(rows[0][5..], ["2026-05-31T00:00:00Z", "2026-06-02T00:00:00Z", "CN=one"]);
        assert_eq!(rows[1][6], "EXPIRED at 2026-05-31T23:59:59Z");
        let mut told = told;
        told["identity"]["is_revoked"] = true.into();
        let failure = json!({ "at": "2026-05-31T20:00:00Z", "why": "nobody answers" });
        told["identity"]["renewal"]["failure"] = failure;
        let told = who(&told, now);
        assert!(told.contains("web  REVOKED\n"), "{told}");
        assert!(told.contains("\nfailed    last at 2026-05-31T20:00:00Z: nobody answers\n"), "{told}");
        assert_eq!(who(&json!({ "certificates": [] }), now), "");
    }

    #[test]
    fn chunks_are_put_together() {
        assert_eq!(unchunked("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), "abcde");
    }
}
