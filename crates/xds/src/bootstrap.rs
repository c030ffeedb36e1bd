//! An Envoy v3 bootstrap file, YAML or JSON, as the model's resources, and where more of them come from.
//!
//! A file is just another source of resources: it is judged by the same table and decoded by the same code as what
//! comes by wire. Source: Envoy `config.bootstrap.v3.Bootstrap`.

mod dynamic;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;

use meshwork_model::problem::{Code, Problem};
use meshwork_model::proxy::{Kind, Resource, Secret};
use prost::Message as _;

use crate::json::Reader;
use crate::node::Node;
use crate::path::{Path, Problems};
use crate::resource::{Raw, Update, name_of_kind};
use crate::{decode, descriptors, pb, support, yaml};

pub use dynamic::Ads;

/// What a bootstrap file says.
#[derive(Clone, Debug, PartialEq)]
pub struct Bootstrap {
    /// Who we are.
    pub node: Node,
    /// Where the admin interface listens; `None` for nowhere.
    pub admin: Option<SocketAddr>,
    /// The static resources: secrets, clusters, then listeners.
    pub resources: Vec<Resource>,
    /// Their messages, for dumps.
    pub bytes: BTreeMap<(Kind, String), Raw>,
    /// The control plane that more resources come from.
    pub ads: Option<Ads>,
}

const MESSAGE: &str = "envoy.config.bootstrap.v3.Bootstrap";
const RESPONSE: &str = "envoy.service.discovery.v3.DiscoveryResponse";

/// Parses a bootstrap; `file` is its name for problems.
///
/// # Errors
/// Everything that is wrong with it, each with its line and field path.
pub fn parse(file: &str, text: &str) -> Result<Bootstrap, Vec<Problem>> {
    let tree = yaml::parse(file, text).map_err(|problem| vec![*problem])?;
    let Some(descriptor) = descriptors::message(MESSAGE) else { return Err(Vec::new()) };
    let mut reader = Reader::new(file);
    let message = reader.message(&descriptor, &tree, &Path::Root);
    if reader.failed() {
        return Err(reader.into_problems());
    }
    let mut problems = Problems::of("");
    support::judge(&message, &mut problems);
    let mut list = problems.into_list();
    let mut bootstrap = None;
    match pb::bootstrap::Bootstrap::decode(message.encode_to_vec().as_slice()) {
        Ok(message) => bootstrap = Some(read(&message, &mut list)),
        Err(error) => list.push(Problem::error("", "", error.to_string(), "").of(Code::Refused)),
    }
    match bootstrap {
        Some(bootstrap) if list.is_empty() => Ok(bootstrap),
        _ => Err(located(list, &reader, file)),
    }
}

/// The rows of the support table that a bootstrap file uses: `message.field` of everything that is set in it, the
/// content of every `Any` included. For tests, which show by it that every honoured row is exercised.
///
/// # Errors
/// The file is no bootstrap.
pub fn rows_used(file: &str, text: &str) -> Result<BTreeSet<String>, Vec<Problem>> {
    let tree = yaml::parse(file, text).map_err(|problem| vec![*problem])?;
    let Some(descriptor) = descriptors::message(MESSAGE) else { return Err(Vec::new()) };
    let mut reader = Reader::new(file);
    let message = reader.message(&descriptor, &tree, &Path::Root);
    if reader.failed() {
        return Err(reader.into_problems());
    }
    Ok(support::rows_used(&message))
}

/// Gives every problem its place in the file, in the order of the file.
fn located(list: Vec<Problem>, reader: &Reader<'_>, file: &str) -> Vec<Problem> {
    let place = |problem: Problem| {
        let place = reader.place(&problem.field);
        problem.at(file, place)
    };
    let mut located: Vec<Problem> = list.into_iter().map(place).collect();
    located.sort_by_key(|problem| problem.place.map_or(usize::MAX, |place| place.line));
    located
}

fn read(message: &pb::bootstrap::Bootstrap, list: &mut Vec<Problem>) -> Bootstrap {
    let at = Path::Root;
    let mut problems = Problems::of("");
    let admin = message.admin.as_ref().and_then(|admin| admin.address.as_ref());
    let path = at.field("admin");
    let admin = admin
        .and_then(|address| decode::address(Some(address), &path.field("address"), &mut problems))
        .filter(|address| loopback(*address, &path, &mut problems));
    list.extend(problems.into_list());
    let mut resources = Vec::new();
    if let Some(statics) = &message.static_resources {
        static_resources(statics, &at.field("static_resources"), &mut resources, list);
    }
    unique_names(&resources, list);
    let mut problems = Problems::of("");
    let ads = dynamic::ads(message, &resources, &mut problems);
    list.extend(problems.into_list());
    let bytes = message.static_resources.as_ref().map(messages).unwrap_or_default();
    Bootstrap { node: Node::of(message.node.as_ref()), admin, resources, bytes, ads }
}

fn messages(statics: &pb::bootstrap::bootstrap::StaticResources) -> BTreeMap<(Kind, String), Raw> {
    let clusters = statics.clusters.iter().map(|it| ((Kind::Cluster, it.name.clone()), it.encode_to_vec()));
    let listeners =
        statics.listeners.iter().map(|it| ((Kind::Listener, it.name.clone()), it.encode_to_vec()));
    let secrets = statics
        .secrets
        .iter()
        .map(|it| ((Kind::Secret, format!("{}{}", Secret::STATIC, it.name)), it.encode_to_vec()));
    clusters.chain(listeners).chain(secrets).map(|(key, bytes)| (key, Raw(bytes.into()))).collect()
}

/// Parses a file that secrets come from: a `DiscoveryResponse`, YAML or JSON. Each is known by the file's path and its
/// own name.
///
/// # Errors
/// Everything that is wrong with it, each with its line and field path.
pub fn secrets(path: &str, text: &str) -> Result<Update, Vec<Problem>> {
    let tree = yaml::parse(path, text).map_err(|problem| vec![*problem])?;
    let Some(descriptor) = descriptors::message(RESPONSE) else { return Err(Vec::new()) };
    let mut reader = Reader::new(path);
    let message = reader.message(&descriptor, &tree, &Path::Root);
    if reader.failed() {
        return Err(reader.into_problems());
    }
    let garbled =
        |error: prost::DecodeError| vec![Problem::error("", "", error.to_string(), "").of(Code::Refused)];
    let response = pb::discovery::DiscoveryResponse::decode(message.encode_to_vec().as_slice());
    let response = response.map_err(garbled)?;
    let (mut update, mut list) = (Update::default(), Vec::new());
    for any in response.resources {
        match decode::decode(&any.type_url, &any.value) {
            Ok(Resource::Secret(secret)) => {
                let name = Secret::in_file(path, &secret.name);
                let key = (Kind::Secret, name.to_string());
                update.versions.insert(key.clone(), response.version_info.clone());
                update.bytes.insert(key, Raw(any.value.into()));
                update.upserts.push(Resource::Secret(Secret { name, ..secret }));
            }
            Ok(other) => {
                let text = "only secrets come from a file";
                list.push(Problem::error(name_of_kind(other.kind()), "", text, "").of(Code::Refused));
            }
            Err(problems) => list.extend(problems),
        }
    }
    if list.is_empty() { Ok(update) } else { Err(located(list, &reader, path)) }
}

/// The admin interface shows everything and has no authentication.
fn loopback(address: SocketAddr, at: &Path<'_>, problems: &mut Problems) -> bool {
    if !address.ip().is_loopback() {
        let text = "the admin interface must listen on a loopback address";
        problems.error::<()>(&at.field("address"), text, "write 127.0.0.1");
    }
    address.ip().is_loopback()
}

fn static_resources(
    statics: &pb::bootstrap::bootstrap::StaticResources,
    at: &Path<'_>,
    resources: &mut Vec<Resource>,
    list: &mut Vec<Problem>,
) {
    let path = at.field("secrets");
    for (index, message) in statics.secrets.iter().enumerate() {
        let mut problems = Problems::of(format!("Secret {}", message.name));
        let secret = decode::static_secret(message, &path.index(index), &mut problems);
        resources.extend(secret.map(Resource::Secret));
        list.extend(problems.into_list());
    }
    let path = at.field("clusters");
    for (index, message) in statics.clusters.iter().enumerate() {
        let mut problems = Problems::of(format!("Cluster {}", message.name));
        resources.extend(decode::cluster(message, &path.index(index), &mut problems).map(Resource::Cluster));
        list.extend(problems.into_list());
    }
    let path = at.field("listeners");
    for (index, message) in statics.listeners.iter().enumerate() {
        let mut problems = Problems::of(format!("Listener {}", message.name));
        resources.extend(decode::listener(message, &path.index(index), &mut problems));
        list.extend(problems.into_list());
    }
}

fn unique_names(resources: &[Resource], list: &mut Vec<Problem>) {
    let mut seen: HashSet<(Kind, &str)> = HashSet::new();
    for resource in resources {
        if !seen.insert((resource.kind(), resource.name())) {
            let name = format!("{} {}", name_of_kind(resource.kind()), resource.name());
            let message = "the name is taken by another";
            list.push(Problem::error(name, "", message, "give each its own name").of(Code::Duplicate));
        }
    }
}

#[cfg(test)]
mod tests;
