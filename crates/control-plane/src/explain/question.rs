//! What is asked: who calls what, and how.

use std::net::IpAddr;
use std::sync::Arc;

use meshwork_model::head::RequestHead;
use meshwork_model::intake::{OF_CONNECTION, asks_to_switch};
use meshwork_model::mesh::{Key, Service, Workload};
use meshwork_model::spiffe::SpiffeId;
use serde::{Deserialize, Serialize};

use crate::ingest::is_token;
use crate::translate::Mesh;

/// A request that is to be explained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Question {
    /// `web`, `web.shop`, or a SPIFFE ID.
    pub from: String,
    /// `cart`, `cart.shop`, `cart.shop:80`, or a host outside; of a gateway the host that is asked for.
    pub to: String,
    /// `GET` where nothing is said.
    #[serde(default = "get")]
    pub method: String,
    /// Path and query; `/` where nothing is said.
    #[serde(default = "root")]
    pub path: String,
    /// Header fields, with `host` among them where it is another than that of the service.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The claims of a token that is good, apart from what config asks of claims.
    #[serde(default)]
    pub claims: Option<serde_json::Value>,
    /// Who opens the connection; the caller's own address where nothing is said.
    #[serde(default)]
    pub source_ip: Option<IpAddr>,
    /// The server name that the application asks for by TLS of its own.
    #[serde(default)]
    pub sni: Option<String>,
}

fn get() -> String {
    "GET".to_owned()
}

fn root() -> String {
    "/".to_owned()
}

/// Who asks.
#[derive(Clone, Debug)]
pub(super) enum Caller {
    /// A workload of the mesh, and others that are meant by the same words.
    Workload(Arc<Workload>, usize),
    /// Somebody of whom nothing but the identity is known.
    Identity(SpiffeId),
}

/// What is called.
#[derive(Clone, Debug)]
pub(super) enum Called {
    /// A service's port.
    Service { key: Key, port: u16 },
    /// A port of a host: outside the mesh, or as a gateway knows it.
    Host { host: String, port: u16 },
    /// A port of a host that the mesh has no name for, as a captured program calls it.
    Unknown { host: String, port: u16 },
}

/// What `connection` may say without taking a field of the request away.
const OPTIONS: &[&str] = &["close", "keep-alive", "upgrade", "te"];

/// Longer paths than proxies take are not looked at.
const MAX_PATH_BYTES: usize = 16 << 10;
const MAX_HEADERS: usize = 200;
const MAX_HEADER_BYTES: usize = 64 << 10;

impl Question {
    /// A request for `/`.
    pub fn new(from: impl Into<String>, to: impl Into<String>) -> Self {
        Self {
            from: from.into(),
            to: to.into(),
            method: get(),
            path: root(),
            headers: Vec::new(),
            claims: None,
            source_ip: None,
            sni: None,
        }
    }

    /// The request's head as a proxy reads it, for this host where it names none itself.
    ///
    /// # Errors
    /// What is asked is no request; in words.
    pub(super) fn head(&self, host: &str) -> Result<RequestHead, String> {
        self.check_line()?;
        let bytes: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if self.headers.len() > MAX_HEADERS || bytes > MAX_HEADER_BYTES {
            return Err("there are more header fields than a proxy takes".to_owned());
        }
        let mut head = RequestHead::default();
        head.set_method(self.method.as_bytes());
        head.set_authority(host.as_bytes());
        head.set_path_and_query(self.path.as_bytes());
        let mut length: Option<u64> = None;
        let (mut hosts, mut upgrade, mut switches, mut is_chunked) = (0, "", false, false);
        for (name, value) in &self.headers {
            let value = value.trim_matches([' ', '\t']);
            if !is_token(name) || value.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
                return Err(format!("`{name}: {value}` is no header field; write it as `name: value`"));
            }
            match name.to_ascii_lowercase().as_str() {
                "host" if hosts == 0 && is_host(value) => {
                    hosts += 1;
                    head.set_authority(value.as_bytes());
                }
                "host" => return Err(format!("`{name}: {value}`: a request names one host, and its port")),
                "content-length" => match value.parse() {
                    Ok(bytes) if length.is_none() => length = Some(bytes),
                    _ => return Err(format!("`{name}: {value}`: a request has one length, in bytes")),
                },
                "transfer-encoding" => is_chunked = value.eq_ignore_ascii_case("chunked"),
                "upgrade" => upgrade = value,
                "connection" if options(value).any(|option| !OPTIONS.contains(&&*option)) => {
                    return Err(format!("`{name}: {value}` takes fields away; leave out it and them"));
                }
                "connection" => switches |= options(value).any(|option| option == "upgrade"),
                "te" if !value.eq_ignore_ascii_case("trailers") => {}
                known if OF_CONNECTION.contains(&known) => {}
                _ => head.fields.push(name.as_bytes(), value.as_bytes()),
            }
        }
        // As the codec reads it: both fields have to say so, and a body stands in the way.
        let switches = switches && length.unwrap_or(0) == 0 && asks_to_switch(upgrade.as_bytes());
        head.note_codec(length, is_chunked, if switches { upgrade.as_bytes() } else { b"" });
        Ok(head)
    }

    /// Whether method and path are such.
    fn check_line(&self) -> Result<(), String> {
        if !is_token(&self.method) || self.method.len() > 64 {
            return Err(format!(
                "{:?} is no method; the method stands before the path: GET /items",
                self.method
            ));
        }
        if self.method == "CONNECT" {
            return Err("CONNECT asks for no path; no route of the mesh takes it".to_owned());
        }
        let is_text = |text: &str| text.bytes().all(|b| (0x21..0x7f).contains(&b) && b != b'#');
        let is_path = self.path.starts_with('/') || self.path == "*" && self.method == "OPTIONS";
        if !is_path || !is_text(&self.path) || self.path.len() > MAX_PATH_BYTES {
            let expected = "a path starts with \"/\" and has no spaces, no \"#\" and no other letters than those of ASCII";
            return Err(format!("{:?} is no path: {expected}", self.path));
        }
        Ok(())
    }

    /// Finds who asks.
    ///
    /// # Errors
    /// There is nobody of that name, or several; in words.
    pub(super) fn caller(&self, mesh: &Mesh) -> Result<Caller, String> {
        if self.from.starts_with("spiffe://") {
            let id = SpiffeId::parse(&self.from).map_err(|error| format!("{}: {error}", self.from))?;
            let all: Vec<_> = mesh.workloads.values().filter(|workload| workload.identity == id).collect();
            return Ok(match &all[..] {
                [] => Caller::Identity(id),
                [first, others @ ..] => Caller::Workload(Arc::clone(first), others.len()),
            });
        }
        let (name, namespace) = cut(&self.from);
        let here = |workload: &&Arc<Workload>| namespace.is_none_or(|ns| ns == &*workload.key.namespace);
        let account = format!("/sa/{name}");
        let meant: [&dyn Fn(&Workload) -> bool; 3] = [
            &|workload| &*workload.key.name == name,
            &|workload| workload.labels.get("app").is_some_and(|app| app == name),
            &|workload| workload.identity.as_str().ends_with(&account),
        ];
        let of = |is: &dyn Fn(&Workload) -> bool| -> Vec<&Arc<Workload>> {
            mesh.workloads.values().filter(here).filter(|workload| is(workload)).collect()
        };
        let found = meant.iter().map(|is| of(*is)).find(|all| !all.is_empty()).unwrap_or_default();
        match &found[..] {
            [] => Err(nobody(&self.from, mesh)),
            [first, others @ ..] if others.iter().all(|w| w.key.namespace == first.key.namespace) => {
                Ok(Caller::Workload(Arc::clone(first), others.len()))
            }
            several => {
                let names: Vec<String> = several.iter().take(8).map(|w| dotted(&w.key)).collect();
                Err(format!("{} is several: {}; name one of them", self.from, names.join(", ")))
            }
        }
    }

    /// Finds what is called; `namespace` is the caller's.
    ///
    /// # Errors
    /// There is no such service, host or port; in words.
    pub(super) fn called(&self, mesh: &Mesh, namespace: &str, way: Way) -> Result<Called, String> {
        let (host, port) = match self.to.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
            Some((host, Ok(port))) => (host, Some(port)),
            Some((_, Err(_))) => return Err(format!("{:?}: what follows the colon is no port", self.to)),
            None => (self.to.as_str(), None),
        };
        // The case of a name's letters does not count.
        let host = &*host.to_ascii_lowercase();
        if way == Way::Gateway {
            return Ok(Called::Host { host: host.to_owned(), port: port.unwrap_or(80) });
        }
        let (name, of) = cut(host.strip_suffix(".svc.cluster.local").unwrap_or(host));
        if let Some((key, service)) = service(mesh, name, of, namespace) {
            let port = port_of(&key, service, port)?;
            return Ok(Called::Service { key, port });
        }
        let entries = mesh.config.service_entries.iter();
        let entry =
            entries.map(|(_, entry)| entry).find(|entry| entry.hosts.iter().any(|one| **one == *host));
        match (entry, port) {
            (Some(_), Some(port)) => Ok(Called::Host { host: host.to_owned(), port }),
            (Some(entry), None) => {
                let port = entry.ports.first().map_or(443, |port| port.number);
                Ok(Called::Host { host: host.to_owned(), port })
            }
            // What has a dot is meant for a host: other words are mostly services whose names are written wrongly.
            (None, port) if way == Way::Captured && host.contains(['.', ':']) => {
                Ok(Called::Unknown { host: host.to_owned(), port: port.unwrap_or(443) })
            }
            (None, _) => {
                Err(format!("there is no service {host}, and no ServiceEntry of that host{}", known(mesh)))
            }
        }
    }
}

/// How a caller's program asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// At ports of its proxy, or in nobody knows what way.
    Anywhere,
    /// At whatever address it likes: all that leaves it meets its proxy.
    Captured,
    /// From outside, at the gateway that the caller is.
    Gateway,
}

impl Way {
    pub(super) fn of(node: &Workload) -> Self {
        match (&node.gateway, &node.capture) {
            (Some(_), _) => Self::Gateway,
            (None, Some(_)) => Self::Captured,
            (None, None) => Self::Anywhere,
        }
    }
}

/// Whether proxies take a text for a host and its port: there is no user in it, and nothing else that peers read in
/// different ways.
fn is_host(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b".-_~:[]".contains(&byte);
    !text.is_empty() && text.bytes().all(is_part)
}

/// What a `connection` field says.
fn options(value: &str) -> impl Iterator<Item = String> {
    value.split(',').map(|word| word.trim().to_ascii_lowercase()).filter(|word| !word.is_empty())
}

/// A name, and its namespace where one is said.
fn cut(text: &str) -> (&str, Option<&str>) {
    text.split_once('.').map_or((text, None), |(name, namespace)| (name, Some(namespace)))
}

/// `web.shop`
pub(super) fn dotted(key: &Key) -> String {
    format!("{}.{}", key.name, key.namespace)
}

/// The service of the caller's namespace, or the only one of its name.
fn service<'m>(mesh: &'m Mesh, name: &str, of: Option<&str>, namespace: &str) -> Option<(Key, &'m Service)> {
    let find = |namespace: &str| {
        let found = mesh.service(&Key::new(namespace, name));
        found.map(|(key, service)| (key.clone(), service))
    };
    match of {
        Some(of) => find(of),
        None => find(namespace).or_else(|| {
            let mut all = mesh.services().filter(|(key, _)| &*key.name == name);
            let only = all.next().filter(|_| all.next().is_none());
            only.map(|(key, service)| (key.clone(), service))
        }),
    }
}

fn port_of(key: &Key, service: &Service, asked: Option<u16>) -> Result<u16, String> {
    let listed = || service.ports.iter().map(|port| port.port.to_string()).collect::<Vec<_>>().join(", ");
    match asked {
        Some(port) if service.ports.iter().any(|one| one.port == port) => Ok(port),
        Some(port) => Err(format!("{} has no port {port}; it has {}", dotted(key), listed())),
        None => match &service.ports[..] {
            [] => Err(format!("{} has no port", dotted(key))),
            [only] => Ok(only.port),
            several => {
                let mut http = several.iter().filter(|port| port.protocol.is_http());
                let only = http.next().filter(|_| http.next().is_none());
                only.map(|port| port.port).ok_or_else(|| {
                    format!("{} has several ports: write one of {} behind a colon", dotted(key), listed())
                })
            }
        },
    }
}

fn nobody(name: &str, mesh: &Mesh) -> String {
    let names: Vec<String> = mesh.workloads.keys().take(8).map(dotted).collect();
    let there = match mesh.workloads.len() {
        0 => "there are no workloads".to_owned(),
        1..=8 => format!("there are {}", names.join(", ")),
        more => format!("there are {more}, among them {}", names.join(", ")),
    };
    format!("there is no workload {name}: {there}; a SPIFFE ID stands for somebody who is not there")
}

fn known(mesh: &Mesh) -> String {
    let names: Vec<String> = mesh.services().take(8).map(|(key, _)| dotted(key)).collect();
    if names.is_empty() { String::new() } else { format!("; services are {}", names.join(", ")) }
}
