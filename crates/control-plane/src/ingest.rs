//! Ingest: a directory of YAML files into the mesh's config, with every problem that it has.
//!
//! [`read_dir`] only reads: it is what `meshwork validate` and `meshwork diagram --from` call, and what the
//! running control plane calls on each change, through `watch`. Config with an error is never applied in part.
//!
//! One module a kind; each reads the fields it honours and refuses the others by name. Sources: Kubernetes
//! API, Gateway API v1, Istio `security.istio.io/v1` and `networking.istio.io/v1`.

mod authorization_policy;
mod backend_tls_policy;
mod checks;
mod destination_rule;
mod document;
mod endpoint_slice;
mod extension_provider;
pub(crate) mod federation;
mod gateway;
mod grpc_route;
mod http_route;
mod istio;
mod library;
mod locate;
mod mesh_config;
mod metadata;
mod peer_authentication;
mod policy_target;
mod reader;
mod recording;
mod reference_grant;
mod references;
mod request_authentication;
mod resilience;
mod route;
mod schema;
mod secret;
mod service;
mod service_entry;
mod sidecar;
mod tcp_route;
mod telemetry;
mod texts;
mod traffic_policy;
mod virtual_service;
pub(crate) mod watch;
mod words;
mod workload_entry;
mod workload_registration;
mod yaml;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use meshwork_model::mesh::{Config, ConnectionRouteKind, RouteKind};
use meshwork_model::problem::{Code, Problem, Severity};

pub use document::is_global;
pub(crate) use document::{Document, ResourceId, documents};
pub use library::Library;
pub(crate) use metadata::is_label;
pub(crate) use route::is_token;
pub use schema::{schema_of, schemas};
pub use texts::{Named, read_named, resources, texts};
pub(crate) use words::closest;
pub use words::plural;

use library::Piece;
use metadata::Metadata;
use reader::{Fields, Item, Report, Room};
use words::list;
use yaml::Node;

/// What a directory holds.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The config; to be used only where [`Loaded::is_accepted`].
    pub config: Config,
    /// All problems, in the order of files and lines.
    pub problems: Vec<Problem>,
    /// Each file's text, by the name that the problems use.
    pub sources: BTreeMap<String, Arc<str>>,
}

impl Loaded {
    /// Whether the config may be applied: no problem is an error.
    pub fn is_accepted(&self) -> bool {
        self.problems.iter().all(|p| p.severity != Severity::Error)
    }
}

/// The most files: a directory with more is some other directory.
const MAX_FILES: usize = 10_000;
/// The most resources of all files together; the order of a large cluster.
const MAX_RESOURCES: usize = 100_000;

/// Reads every `.yaml`, `.yml` and `.json` file of a directory (not of directories in it), or one file.
///
/// Files whose names begin with a dot are left out: editors and atomic writers put theirs there.
pub fn read_dir(path: &Path) -> Loaded {
    library_of(path).loaded()
}

/// The library of a directory's files.
pub fn library_of(path: &Path) -> Library {
    let name = path.display().to_string();
    let alone = |problem: Problem, of: fn(Problem) -> Piece| {
        let piece = of(problem.of(Code::Unreadable).at(&*name, None));
        vec![(name.clone(), Some(Arc::new(piece)))]
    };
    let pieces = match files(path) {
        Err(error) => {
            let message = format!("this cannot be read: {error}");
            alone(Problem::error("", "", message, ""), Piece::unreadable)
        }
        Ok(files) if files.is_empty() => {
            let message = "there is no .yaml file here, so the mesh is empty";
            alone(Problem::error("", "", message, "").warning(), Piece::empty)
        }
        Ok(files) => {
            let mut room = Room::default();
            files.iter().map(|file| read_file(file, &mut room)).collect()
        }
    };
    Library::default().with_pieces(pieces)
}

fn read_file(path: &Path, room: &mut Room) -> (String, Option<Arc<Piece>>) {
    let file = path.display().to_string();
    let piece = match read_text(path) {
        Ok(text) => Piece::read(&file, text.into(), room),
        Err(message) => {
            let problem = Problem::error("", "", message, "").of(Code::Unreadable);
            Piece::unreadable(problem.at(&*file, None))
        }
    };
    (file, Some(Arc::new(piece)))
}

/// Reads texts as if they were the files of a directory.
#[cfg(test)]
pub(crate) fn read_texts(sources: BTreeMap<String, String>) -> Loaded {
    Library::default().with(sources.into_iter().map(|(file, text)| (file, Some(text.into())))).loaded()
}

fn files(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if std::fs::metadata(path)?.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        if is_config_file(&path) && path.is_file() {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(std::io::Error::other(format!("more than {MAX_FILES} files")));
        }
    }
    files.sort();
    Ok(files)
}

fn is_config_file(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
}

impl Piece {
    fn read(file: &str, text: Arc<str>, room: &mut Room) -> Self {
        let mut piece = Self::default();
        match yaml::parse(&text) {
            Ok(documents) => {
                for document in &documents {
                    piece.read_document(file, document, room);
                }
            }
            Err(problem) => {
                piece.is_incomplete = true;
                let place = problem.place;
                piece.problems.push(problem.at(file, place));
            }
        }
        piece.text = Some(text);
        piece
    }

    /// Reads a document; of a list, as `kubectl get -o yaml` writes it, each item.
    fn read_document(&mut self, file: &str, document: &Node, room: &mut Room) {
        if let Some(items) = document.items_of_list() {
            for item in items {
                self.read_document(file, item, room);
            }
            return;
        }
        self.resources += 1;
        let mut report = Report::new(file, *room);
        self.read_resource(document, &mut report);
        let (problems, left) = report.finish();
        self.problems.extend(problems);
        *room = left;
    }

    fn read_resource(&mut self, document: &Node, report: &mut Report<'_>) {
        let Some(mut root) = Item::new(document, "").fields(report) else { return };
        let Some(kind) = kind(&mut root, report) else { return };
        report.name_resource(kind.name().to_owned());
        root.skip(&["status"]);
        if kind.is_global() {
            self.read_global(kind, &mut root, report);
            root.close(report);
            return;
        }
        let Some(metadata) = metadata::read(&mut root, report) else { return };
        report.name_resource(format!("{} {}", kind.name(), metadata.key));
        self.origins.push((kind.name(), metadata.key.clone(), metadata.place));
        self.read_kind(kind, &mut root, &metadata, report);
        root.close(report);
    }

    /// Reads a resource without a namespace.
    fn read_global(&mut self, kind: Kind, root: &mut Fields<'_>, report: &mut Report<'_>) {
        let global = metadata::read_global(root, report);
        if kind == Kind::GatewayClass {
            gateway::read_class(root, report);
        } else if let Some((name, labels)) = global {
            self.config.namespaces.insert(name, labels);
        }
        // What a namespace may have in its spec is Kubernetes' own.
        root.skip(&["spec"]);
    }

    fn read_kind(&mut self, kind: Kind, root: &mut Fields<'_>, metadata: &Metadata, report: &mut Report<'_>) {
        let key = metadata.key.clone();
        let age = metadata.created.unwrap_or(self.resources as u64);
        let config = &mut self.config;
        let references = &mut self.references;
        match kind {
            Kind::Namespace | Kind::GatewayClass => {}
            Kind::ConfigMap => {
                config.authorities.extend(secret::read_config_map(root, report).map(|ca| (key, ca)));
            }
            Kind::Secret => secret::read(root, report),
            Kind::Gateway => {
                config.gateways.extend(gateway::read(root, metadata, report).map(|g| (key, g)));
            }
            Kind::BackendTlsPolicy => {
                let read = backend_tls_policy::read(root, metadata, report, references);
                config.backend_tls.extend(read.map(|policy| (key, policy)));
            }
            Kind::ServiceAccount => {
                root.skip(&["automountServiceAccountToken", "imagePullSecrets", "secrets"]);
                self.accounts.insert(key);
            }
            Kind::Service => {
                config.services.extend(service::read(root, report).map(|s| (key, s)));
            }
            Kind::EndpointSlice => {
                let read = endpoint_slice::read(root, report).map(Arc::new);
                config.endpoint_slices.extend(read.map(|slice| (key, slice)));
            }
            Kind::HttpRoute => {
                let route = http_route::read(root, metadata, age, report, references);
                config.routes.extend(route.map(|r| ((RouteKind::Http, key), r)));
            }
            Kind::GrpcRoute => {
                let route = grpc_route::read(root, metadata, age, report, references);
                config.routes.extend(route.map(|r| ((RouteKind::Grpc, key), r)));
            }
            Kind::TlsRoute | Kind::TcpRoute => {
                let is_tls = kind == Kind::TlsRoute;
                let kind = if is_tls { ConnectionRouteKind::Tls } else { ConnectionRouteKind::Tcp };
                let route = tcp_route::read(root, kind, metadata, age, report, references);
                config.connection_routes.extend(route.map(|r| ((kind, key), r)));
            }
            Kind::ReferenceGrant => {
                config.reference_grants.extend(reference_grant::read(root, report).map(|g| (key, g)));
            }
            Kind::PeerAuthentication => {
                let read = peer_authentication::read(root, report);
                config.peer_authentications.extend(read.map(|p| (key, p)));
            }
            Kind::AuthorizationPolicy => {
                let read = authorization_policy::read(root, metadata, report, references);
                config.authorization_policies.extend(read.map(|p| (key, p)));
            }
            Kind::RequestAuthentication => {
                let read = request_authentication::read(root, metadata, report, references);
                config.request_authentications.extend(read.map(|r| (key, r)));
            }
            Kind::VirtualService
            | Kind::DestinationRule
            | Kind::TrafficPolicy
            | Kind::MeshConfig
            | Kind::ServiceEntry
            | Kind::WorkloadEntry
            | Kind::WorkloadRegistration
            | Kind::Telemetry
            | Kind::Sidecar => self.read_traffic(kind, root, metadata, report),
        }
    }

    /// Istio's traffic kinds and our own two.
    fn read_traffic(
        &mut self,
        kind: Kind,
        root: &mut Fields<'_>,
        metadata: &Metadata,
        report: &mut Report<'_>,
    ) {
        let key = metadata.key.clone();
        let age = metadata.created.unwrap_or(self.resources as u64);
        let config = &mut self.config;
        let references = &mut self.references;
        match kind {
            Kind::VirtualService => {
                let Some(read) = virtual_service::read(root, metadata, age, report, references) else {
                    return;
                };
                let connections = read.connections.map(|r| ((ConnectionRouteKind::Virtual, key.clone()), r));
                config.connection_routes.extend(connections);
                config.routes.extend(read.route.map(|r| ((RouteKind::Virtual, key), r)));
            }
            Kind::DestinationRule => {
                let read = destination_rule::read(root, metadata, age, report, references);
                config.destination_rules.extend(read.map(|rule| (key, rule)));
            }
            Kind::TrafficPolicy => {
                let read = traffic_policy::read(root, metadata, age, report, references);
                config.traffic_policies.extend(read.map(|policy| (key, policy)));
            }
            Kind::MeshConfig => {
                config.defaults = mesh_config::read(root, metadata, report).unwrap_or_default();
            }
            Kind::ServiceEntry => {
                config.service_entries.extend(service_entry::read(root, metadata, report).map(|e| (key, e)));
            }
            Kind::Telemetry => {
                config.telemetries.extend(telemetry::read(root, report).map(|t| (key, t)));
            }
            Kind::WorkloadEntry => {
                config.workload_entries.extend(workload_entry::read(root, report).map(|e| (key, e)));
            }
            Kind::WorkloadRegistration => {
                let read = workload_registration::read(root, metadata, report).map(Arc::new);
                config.registrations.extend(read.map(|registration| (key, registration)));
            }
            Kind::Sidecar => {
                let read = sidecar::read(root, metadata, report, references);
                config.sidecars.extend(read.map(|sidecar| (key, sidecar)));
            }
            _ => {}
        }
    }
}

fn read_text(path: &Path) -> Result<String, String> {
    let size = std::fs::metadata(path).map_err(|e| format!("this cannot be read: {e}"))?.len();
    if size > yaml::MAX_FILE_BYTES {
        return Err(format!("a file has at most {} bytes, this one has {size}", yaml::MAX_FILE_BYTES));
    }
    let bytes = std::fs::read(path).map_err(|e| format!("this cannot be read: {e}"))?;
    String::from_utf8(bytes).map_err(|e| format!("this is not UTF-8: {e}"))
}

/// The kinds that the mesh honours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Namespace,
    ServiceAccount,
    ConfigMap,
    Secret,
    GatewayClass,
    Gateway,
    BackendTlsPolicy,
    Service,
    EndpointSlice,
    HttpRoute,
    GrpcRoute,
    TlsRoute,
    TcpRoute,
    ReferenceGrant,
    PeerAuthentication,
    AuthorizationPolicy,
    RequestAuthentication,
    VirtualService,
    DestinationRule,
    ServiceEntry,
    WorkloadEntry,
    Sidecar,
    Telemetry,
    TrafficPolicy,
    WorkloadRegistration,
    MeshConfig,
}

const CORE: &[&str] = &["v1"];
const DISCOVERY: &[&str] = &["discovery.k8s.io/v1"];
const GATEWAY: &[&str] = &["gateway.networking.k8s.io/v1"];
/// What all of a kind's versions have in common is its schema here.
const TLS_ROUTE: &[&str] = &[
    "gateway.networking.k8s.io/v1",
    "gateway.networking.k8s.io/v1alpha3",
    "gateway.networking.k8s.io/v1alpha2",
];
const TCP_ROUTE: &[&str] = &["gateway.networking.k8s.io/v1alpha2", "gateway.networking.k8s.io/v1"];
const GRANT: &[&str] = &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"];
/// Both versions have the same schema.
const SECURITY: &[&str] = &["security.istio.io/v1", "security.istio.io/v1beta1"];

/// All three have the same schema.
const NETWORKING: &[&str] =
    &["networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"];

const TELEMETRY: &[&str] = &["telemetry.istio.io/v1", "telemetry.istio.io/v1alpha1"];
/// Our own.
const MESHWORK: &[&str] = &["meshwork.dev/v1alpha1"];

/// Each kind with its name and API versions.
const KINDS: &[(Kind, &str, &[&str])] = &[
    (Kind::Namespace, "Namespace", CORE),
    (Kind::ServiceAccount, "ServiceAccount", CORE),
    (Kind::ConfigMap, "ConfigMap", CORE),
    (Kind::Secret, "Secret", CORE),
    (Kind::Service, "Service", CORE),
    (Kind::EndpointSlice, "EndpointSlice", DISCOVERY),
    (Kind::GatewayClass, "GatewayClass", GATEWAY),
    (Kind::Gateway, "Gateway", GATEWAY),
    (Kind::BackendTlsPolicy, "BackendTLSPolicy", GATEWAY),
    (Kind::HttpRoute, "HTTPRoute", GATEWAY),
    (Kind::GrpcRoute, "GRPCRoute", GATEWAY),
    (Kind::TlsRoute, "TLSRoute", TLS_ROUTE),
    (Kind::TcpRoute, "TCPRoute", TCP_ROUTE),
    (Kind::ReferenceGrant, "ReferenceGrant", GRANT),
    (Kind::PeerAuthentication, "PeerAuthentication", SECURITY),
    (Kind::AuthorizationPolicy, "AuthorizationPolicy", SECURITY),
    (Kind::RequestAuthentication, "RequestAuthentication", SECURITY),
    (Kind::VirtualService, "VirtualService", NETWORKING),
    (Kind::DestinationRule, "DestinationRule", NETWORKING),
    (Kind::ServiceEntry, "ServiceEntry", NETWORKING),
    (Kind::WorkloadEntry, "WorkloadEntry", NETWORKING),
    (Kind::Sidecar, "Sidecar", NETWORKING),
    (Kind::Telemetry, "Telemetry", TELEMETRY),
    (Kind::TrafficPolicy, "TrafficPolicy", MESHWORK),
    (Kind::WorkloadRegistration, "WorkloadRegistration", MESHWORK),
    (Kind::MeshConfig, "MeshConfig", MESHWORK),
];

/// Kinds that stand beside config in real manifests and are none of the mesh's: what runs, and how.
const FOREIGN: &[&str] = &[
    "ClusterRole",
    "ClusterRoleBinding",
    "CronJob",
    "CustomResourceDefinition",
    "DaemonSet",
    "Deployment",
    "Endpoints",
    "Event",
    "GatewayClass",
    "HorizontalPodAutoscaler",
    "Job",
    "Lease",
    "LimitRange",
    "NetworkPolicy",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Pod",
    "PodDisruptionBudget",
    "PodMonitor",
    "PriorityClass",
    "ReplicaSet",
    "ResourceQuota",
    "Role",
    "RoleBinding",
    "ServiceMonitor",
    "StatefulSet",
    "StorageClass",
];

/// Kinds that people will try: known, and not honoured yet. Without what they say the mesh would do something else.
const KINDS_NOT_YET: &[&str] = &["EnvoyFilter", "Ingress"];

/// Each kind's name and API versions, the one to prefer first.
pub fn kinds() -> impl Iterator<Item = (&'static str, &'static [&'static str])> {
    KINDS.iter().map(|(_, name, versions)| (*name, *versions))
}

impl Kind {
    fn is_global(self) -> bool {
        is_global(self.name())
    }

    fn name(self) -> &'static str {
        KINDS.iter().find(|(kind, ..)| *kind == self).map_or("", |(_, name, _)| name)
    }
}

fn kind(root: &mut Fields<'_>, report: &mut Report<'_>) -> Option<Kind> {
    let version = root.required_text(report, "apiVersion");
    let kind = root.required_text(report, "kind")?;
    let version = version?;
    let Some((found, name, versions)) = KINDS.iter().find(|(_, name, _)| *name == kind.value) else {
        let names: Vec<&str> = KINDS.iter().map(|(_, name, _)| *name).collect();
        if FOREIGN.contains(&kind.value) {
            kind.warning(report, format!("a {} is no config of the mesh, and is left out", kind.value), "");
        } else if KINDS_NOT_YET.contains(&kind.value) {
            let fix = format!("Take it out of this directory; the mesh reads {}", list(&names));
            let message = format!("the kind {} is not supported yet", kind.value);
            kind.error_of(Code::Unsupported, report, message, fix);
        } else {
            let fix = match closest(kind.value, &names) {
                Some(name) => format!("Did you mean {name}?"),
                None => format!("The mesh reads {}", list(&names)),
            };
            kind.error_of(Code::UnknownKind, report, format!("there is no kind {}", kind.value), fix);
        }
        return None;
    };
    if kind.value == "Gateway" && NETWORKING.contains(&version.value) {
        let message = "Istio's Gateway is not honoured, and is left out";
        kind.warning(report, message, "Write a Gateway of gateway.networking.k8s.io, and HTTPRoutes for it");
        return None;
    }
    if !versions.contains(&version.value) {
        let message = format!("expected {} for {name}, found \"{}\"", list(versions), version.value);
        version.error_of(Code::UnknownKind, report, message, "");
        return None;
    }
    Some(*found)
}

#[cfg(test)]
mod tests;
