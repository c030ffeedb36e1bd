//! The control plane that a bootstrap names: `dynamic_resources`.

use std::sync::Arc;

use meshwork_model::proxy::{Discovery, Kind, Resource};

use crate::client;
use crate::decode;
use crate::path::{Path, Problems};
use crate::pb;
use crate::server::Protocol;

/// A control plane that resources come from. Source: Envoy `Bootstrap.DynamicResources.ads_config`.
#[derive(Clone, Debug, PartialEq)]
pub struct Ads {
    /// What is spoken.
    pub protocol: Protocol,
    /// The static cluster that leads there.
    pub cluster: Arc<str>,
    /// The authority that requests name.
    pub authority: Arc<str>,
    /// Metadata that every stream begins with: lowercase names, texts.
    pub metadata: Vec<(String, String)>,
    /// The kinds of which everything is wanted, of clusters and listeners.
    pub everything: Vec<Kind>,
}

/// Reads where resources come from; `None` where nothing is asked for there.
pub(super) fn ads(
    message: &pb::bootstrap::Bootstrap,
    resources: &[Resource],
    problems: &mut Problems,
) -> Option<Ads> {
    let at = Path::Root;
    let at = at.field("dynamic_resources");
    let dynamic = message.dynamic_resources.clone().unwrap_or_default();
    let mut everything = Vec::new();
    for (kind, field, source) in [
        (Kind::Cluster, "cds_config", &dynamic.cds_config),
        (Kind::Listener, "lds_config", &dynamic.lds_config),
    ] {
        if source.is_some() && decode::only_ads(source.as_ref(), &at.field(field), problems).is_some() {
            everything.push(kind);
        }
    }
    let Some(config) = &dynamic.ads_config else {
        if !everything.is_empty() || resources.iter().any(client::leads_further) {
            let fix = "write which control plane in `ads_config`";
            return problems.error(&at, "resources are to come by ADS, and nothing says from where", fix);
        }
        return None;
    };
    let needs_node = message.node.as_ref().is_none_or(|node| node.id.is_empty() || node.cluster.is_empty());
    if needs_node {
        let root = Path::Root;
        let fix = "write `node: { id: …, cluster: … }`";
        return problems.error(&root.field("node"), "a control plane is to know who asks", fix);
    }
    let mut ads = api(config, &at.field("ads_config"), problems)?;
    if !resources.iter().any(|resource| is_cluster(resource, &ads.cluster)) {
        let text = format!("there is no static cluster `{}`", ads.cluster);
        return problems.error(&at.field("ads_config"), text, "add it to `static_resources`");
    }
    ads.everything = everything;
    Some(ads)
}

fn is_cluster(resource: &Resource, name: &str) -> bool {
    matches!(resource, Resource::Cluster(cluster)
        if &*cluster.name == name && !matches!(cluster.discovery, Discovery::Eds(_)))
}

fn api(config: &pb::core::ApiConfigSource, at: &Path<'_>, problems: &mut Problems) -> Option<Ads> {
    use pb::core::api_config_source::ApiType;
    let protocol = match ApiType::try_from(config.api_type) {
        Ok(ApiType::Grpc) => Protocol::StateOfTheWorld,
        Ok(ApiType::DeltaGrpc) => Protocol::Delta,
        _ => {
            let fix = "write GRPC or DELTA_GRPC";
            return problems.error(&at.field("api_type"), "this way to fetch config is not supported", fix);
        }
    };
    if config.transport_api_version != pb::core::ApiVersion::V3 as i32 {
        let at = at.field("transport_api_version");
        return problems.error(&at, "only the third version of xDS is spoken", "write V3");
    }
    let at = at.field("grpc_services");
    let [service] = config.grpc_services.as_slice() else {
        return problems.error(&at, "one service is expected", "name the cluster of the control plane");
    };
    let at = at.index(0);
    let Some(pb::core::grpc_service::TargetSpecifier::EnvoyGrpc(target)) = &service.target_specifier else {
        return problems.error(&at, "the target is missing", "write `envoy_grpc: { cluster_name: … }`");
    };
    let envoy = at.field("envoy_grpc");
    let cluster = decode::required(&target.cluster_name, &envoy.field("cluster_name"), problems)?;
    let authority = if target.authority.is_empty() { cluster } else { &target.authority };
    let metadata = metadata(&service.initial_metadata, &at.field("initial_metadata"), problems)?;
    let (cluster, authority) = (cluster.into(), authority.into());
    Some(Ads { protocol, cluster, authority, metadata, everything: Vec::new() })
}

fn metadata(
    values: &[pb::core::HeaderValue],
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Vec<(String, String)>> {
    let mut metadata = Vec::new();
    for (index, value) in values.iter().enumerate() {
        let at = at.index(index);
        let name = decode::required(&value.key, &at.field("key"), problems)?;
        let is_plain = |text: &str| text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if !is_plain(&value.value) || value.value.contains('%') {
            let text = "only plain text can be sent, without `%`";
            return problems.error(&at.field("value"), text, "");
        }
        metadata.push((name.to_ascii_lowercase(), value.value.clone()));
    }
    Some(metadata)
}
