//! Ingest: a directory of YAML files into the mesh's config, with every problem that it has.
//!
//! [`read_dir`] only reads: it is what `meshwork validate` and `meshwork diagram --from` call, and what the
//! running control plane calls on each change, through `watch`. Config with an error is never applied in part.
//!
//! One module a kind; each reads the fields it honours and refuses the others by name. Sources: Kubernetes
//! API, Gateway API v1, Istio `security.istio.io/v1` and `networking.istio.io/v1`.

mod authorization_policy;
mod grpc_route;
mod http_route;
mod metadata;
mod peer_authentication;
mod reader;
mod references;
mod route;
mod service;
mod service_entry;
mod sidecar;
pub(crate) mod watch;
mod words;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use meshwork_model::mesh::{Config, Key, MtlsMode, RouteKind};
use meshwork_model::problem::{Place, Problem, Severity};

pub(crate) use metadata::is_label;

use metadata::Metadata;
use reader::{Fields, Item, Report, Room};
use references::Reference;
use words::{closest, list};
use yaml::Node;

/// What a directory holds.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The config; to be used only where [`Loaded::is_accepted`].
    pub config: Config,
    /// All problems, in the order of files and lines.
    pub problems: Vec<Problem>,
    /// Each file's text, by the name that the problems use.
    pub sources: BTreeMap<String, String>,
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
    let mut draft = Draft::default();
    match files(path) {
        Err(error) => {
            let problem = Problem::error("", "", format!("this cannot be read: {error}"), "");
            draft.problems.push(problem.at(path.display().to_string(), None));
        }
        Ok(files) => {
            if files.is_empty() {
                let problem = Problem::error("", "", "there is no .yaml file here, so the mesh is empty", "");
                draft.problems.push(problem.at(path.display().to_string(), None).warning());
            }
            for file in files {
                draft.read_file(&file);
            }
        }
    }
    draft.finish()
}

/// Reads texts that were read before, as if they were the files of a directory.
pub(crate) fn read_texts(sources: BTreeMap<String, String>) -> Loaded {
    let mut draft = Draft::default();
    for (file, text) in sources {
        draft.read_text(file, text);
    }
    draft.finish()
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

/// Config while it is read.
#[derive(Debug, Default)]
struct Draft {
    loaded: Loaded,
    problems: Vec<Problem>,
    room: Room,
    references: Vec<Reference>,
    accounts: BTreeSet<Key>,
    /// Where each resource was first seen, by kind and key.
    origins: BTreeMap<(&'static str, Key), (String, Place)>,
    resources: usize,
    /// A file could not be read: what refers to its resources is not to blame.
    incomplete: bool,
}

impl Draft {
    fn read_file(&mut self, path: &Path) {
        let file = path.display().to_string();
        match read_text(path) {
            Ok(text) => self.read_text(file, text),
            Err(message) => {
                self.incomplete = true;
                self.problems.push(Problem::error("", "", message, "").at(file, None));
            }
        }
    }

    fn read_text(&mut self, file: String, text: String) {
        match yaml::parse(&text) {
            Ok(documents) => {
                for document in &documents {
                    self.read_document(&file, document);
                }
            }
            Err(problem) => {
                self.incomplete = true;
                let place = problem.place;
                self.problems.push(problem.at(&*file, place));
            }
        }
        self.loaded.sources.insert(file, text);
    }

    fn read_document(&mut self, file: &str, document: &Node) {
        self.resources += 1;
        if self.resources > MAX_RESOURCES {
            if self.resources == MAX_RESOURCES + 1 {
                let message = format!("there are more than {MAX_RESOURCES} resources");
                self.problems.push(Problem::error("", "", message, "").at(file, Some(document.place)));
            }
            return;
        }
        let mut report = Report::new(file, self.room);
        self.read_resource(document, &mut report);
        let (problems, room) = report.finish();
        self.problems.extend(problems);
        self.room = room;
    }

    fn read_resource(&mut self, document: &Node, report: &mut Report<'_>) {
        let Some(mut root) = Item::new(document, "").fields(report) else { return };
        let Some(kind) = kind(&mut root, report) else { return };
        report.name_resource(kind.name().to_owned());
        root.skip(&["status"]);
        if kind == Kind::Namespace {
            metadata::read_global(&mut root, report);
            // What a namespace may have in its spec is Kubernetes' own.
            root.skip(&["spec"]);
            root.close(report);
            return;
        }
        let Some(metadata) = metadata::read(&mut root, report) else { return };
        report.name_resource(format!("{} {}", kind.name(), metadata.key));
        self.check_duplicate(kind, &metadata, report);
        self.read_kind(kind, &mut root, &metadata, report);
        root.close(report);
    }

    fn read_kind(&mut self, kind: Kind, root: &mut Fields<'_>, metadata: &Metadata, report: &mut Report<'_>) {
        let key = metadata.key.clone();
        let age = self.resources as u64;
        let config = &mut self.loaded.config;
        let references = &mut self.references;
        match kind {
            Kind::Namespace => {}
            Kind::ServiceAccount => {
                root.skip(&["automountServiceAccountToken", "imagePullSecrets", "secrets"]);
                self.accounts.insert(key);
            }
            Kind::Service => {
                config.services.extend(service::read(root, report).map(|s| (key, s)));
            }
            Kind::HttpRoute => {
                let route = http_route::read(root, metadata, age, report, references);
                config.routes.extend(route.map(|r| ((RouteKind::Http, key), r)));
            }
            Kind::GrpcRoute => {
                let route = grpc_route::read(root, metadata, age, report, references);
                config.routes.extend(route.map(|r| ((RouteKind::Grpc, key), r)));
            }
            Kind::PeerAuthentication => {
                let read = peer_authentication::read(root, report);
                config.peer_authentications.extend(read.map(|p| (key, p)));
            }
            Kind::AuthorizationPolicy => {
                let read = authorization_policy::read(root, metadata, report, references);
                config.authorization_policies.extend(read.map(|p| (key, p)));
            }
            Kind::ServiceEntry => {
                config.service_entries.extend(service_entry::read(root, report).map(|e| (key, e)));
            }
            Kind::Sidecar => {
                config.outside = sidecar::read(root, metadata, report).unwrap_or_default();
            }
        }
    }

    fn check_duplicate(&mut self, kind: Kind, metadata: &Metadata, report: &mut Report<'_>) {
        let origin = (report.file().to_owned(), metadata.place);
        let origins = &mut self.origins;
        match origins.entry((kind.name(), metadata.key.clone())) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(origin);
            }
            std::collections::btree_map::Entry::Occupied(entry) => {
                let (file, place) = entry.get();
                let message = format!("this resource is at {file}:{} already", place.line);
                report.error("metadata.name", metadata.place, message, "Rename or remove one of them");
            }
        }
    }

    fn finish(mut self) -> Loaded {
        if !self.incomplete {
            let config = &self.loaded.config;
            let found = references::check(&self.references, config, &self.accounts);
            self.room.take(&mut self.problems, found);
        }
        let mut found = self.check_peer_authentications();
        found.extend(self.check_hosts());
        self.room.take(&mut self.problems, found);
        self.problems.sort_by(|a, b| place_of(a).cmp(&place_of(b)));
        Loaded { problems: self.problems, ..self.loaded }
    }

    /// Two resources for the same workloads would leave it to chance which one counts.
    fn check_peer_authentications(&self) -> Vec<Problem> {
        let mut seen: BTreeMap<_, (&Key, MtlsMode)> = BTreeMap::new();
        let mut problems = Vec::new();
        for (key, peer) in &self.loaded.config.peer_authentications {
            let (first, mode) = *seen.entry((&key.namespace, &peer.selector)).or_insert((key, peer.mode));
            if mode != peer.mode {
                let message = format!("{first} selects the same workloads and says otherwise");
                let problem =
                    Problem::error(format!("PeerAuthentication {key}"), "spec.mtls.mode", message, "");
                problems.push(self.at_origin(Kind::PeerAuthentication, key, problem));
            }
        }
        problems
    }

    /// A host has one virtual address, so one entry says where it is.
    fn check_hosts(&self) -> Vec<Problem> {
        let mut seen: BTreeMap<&str, &Key> = BTreeMap::new();
        let mut problems = Vec::new();
        for (key, entry) in &self.loaded.config.service_entries {
            for (i, host) in entry.hosts.iter().enumerate() {
                let first = *seen.entry(host).or_insert(key);
                if first != key || entry.hosts[..i].contains(host) {
                    let message = format!("the ServiceEntry {first} has the host {host} already");
                    let field = format!("spec.hosts[{i}]");
                    let fix = "Leave it out of one of them";
                    let problem = Problem::error(format!("ServiceEntry {key}"), field, message, fix);
                    problems.push(self.at_origin(Kind::ServiceEntry, key, problem));
                }
            }
        }
        problems
    }

    fn at_origin(&self, kind: Kind, key: &Key, problem: Problem) -> Problem {
        match self.origins.get(&(kind.name(), key.clone())) {
            Some((file, place)) => problem.at(&**file, Some(*place)),
            None => problem,
        }
    }
}

fn place_of(problem: &Problem) -> (&str, usize, usize) {
    let place = problem.place.unwrap_or_default();
    (&problem.file, place.line, place.column)
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
    Service,
    HttpRoute,
    GrpcRoute,
    PeerAuthentication,
    AuthorizationPolicy,
    ServiceEntry,
    Sidecar,
}

const CORE: &[&str] = &["v1"];
const GATEWAY: &[&str] = &["gateway.networking.k8s.io/v1"];
/// Both versions have the same schema.
const SECURITY: &[&str] = &["security.istio.io/v1", "security.istio.io/v1beta1"];

/// All three have the same schema.
const NETWORKING: &[&str] =
    &["networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"];

/// Each kind with its name and API versions.
const KINDS: &[(Kind, &str, &[&str])] = &[
    (Kind::Namespace, "Namespace", CORE),
    (Kind::ServiceAccount, "ServiceAccount", CORE),
    (Kind::Service, "Service", CORE),
    (Kind::HttpRoute, "HTTPRoute", GATEWAY),
    (Kind::GrpcRoute, "GRPCRoute", GATEWAY),
    (Kind::PeerAuthentication, "PeerAuthentication", SECURITY),
    (Kind::AuthorizationPolicy, "AuthorizationPolicy", SECURITY),
    (Kind::ServiceEntry, "ServiceEntry", NETWORKING),
    (Kind::Sidecar, "Sidecar", NETWORKING),
];

/// Kinds that people will try: known, and not honoured yet.
const KINDS_NOT_YET: &[&str] = &[
    "ConfigMap",
    "Deployment",
    "DestinationRule",
    "EndpointSlice",
    "EnvoyFilter",
    "Gateway",
    "List",
    "Pod",
    "ReferenceGrant",
    "RequestAuthentication",
    "Secret",
    "StatefulSet",
    "TCPRoute",
    "TLSRoute",
    "Telemetry",
    "TrafficPolicy",
    "VirtualService",
    "WorkloadEntry",
];

impl Kind {
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
        if KINDS_NOT_YET.contains(&kind.value) {
            let fix = format!("Take it out of this directory; the mesh reads {}", list(&names));
            kind.error(report, format!("the kind {} is not supported yet", kind.value), fix);
        } else {
            let fix = match closest(kind.value, &names) {
                Some(name) => format!("Did you mean {name}?"),
                None => format!("The mesh reads {}", list(&names)),
            };
            kind.error(report, format!("there is no kind {}", kind.value), fix);
        }
        return None;
    };
    if !versions.contains(&version.value) {
        let message = format!("expected {} for {name}, found \"{}\"", list(versions), version.value);
        version.error(report, message, "");
        return None;
    }
    Some(*found)
}

#[cfg(test)]
mod tests;
