//! What is asked: who calls what, and how.

use std::net::IpAddr;
use std::sync::Arc;

use meshwork_model::head::RequestHead;
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
}

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

    /// The request's head, for this host where it names none itself.
    ///
    /// # Errors
    /// What is asked is no request; in words.
    pub(super) fn head(&self, host: &str) -> Result<RequestHead, String> {
        if !is_token(&self.method) || self.method.len() > 64 {
            return Err(format!(
                "{:?} is no method; the method stands before the path: GET /items",
                self.method
            ));
        }
        let is_text = |text: &str| text.bytes().all(|b| (0x21..0x7f).contains(&b) && b != b'#');
        let is_path = self.path.starts_with('/') || self.path == "*" && self.method == "OPTIONS";
        if !is_path || !is_text(&self.path) || self.path.len() > MAX_PATH_BYTES {
            let expected = "a path starts with \"/\" and has no spaces, no \"#\" and no other letters than those of ASCII";
            return Err(format!("{:?} is no path: {expected}", self.path));
        }
        let bytes: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if self.headers.len() > MAX_HEADERS || bytes > MAX_HEADER_BYTES {
            return Err("there are more header fields than a proxy takes".to_owned());
        }
        let mut head = RequestHead::default();
        head.set_method(self.method.as_bytes());
        head.set_authority(host.as_bytes());
        head.set_path_and_query(self.path.as_bytes());
        for (name, value) in &self.headers {
            if !is_token(name) || value.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
                return Err(format!("`{name}: {value}` is no header field; write it as `name: value`"));
            }
            if name.eq_ignore_ascii_case("host") {
                head.set_authority(value.trim().as_bytes());
            } else {
                head.fields.push(name.as_bytes(), value.trim().as_bytes());
            }
        }
        Ok(head)
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
    pub(super) fn called(&self, mesh: &Mesh, namespace: &str, from_gateway: bool) -> Result<Called, String> {
        let (host, port) = match self.to.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
            Some((host, Ok(port))) => (host, Some(port)),
            Some((_, Err(_))) => return Err(format!("{:?}: what follows the colon is no port", self.to)),
            None => (self.to.as_str(), None),
        };
        if from_gateway {
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
            (None, _) => {
                Err(format!("there is no service {host}, and no ServiceEntry of that host{}", known(mesh)))
            }
        }
    }
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
