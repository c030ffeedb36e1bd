//! The client of an ADS stream, as it introduces itself.

use serde_json::Value;

use crate::{metadata, pb};

/// How resources are written for a client, from its user agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Our own proxy: secrets by name, no workarounds.
    Meshwork,
    /// Envoy: secrets from files.
    Envoy,
    /// Proxyless gRPC: certificate provider instances, API listeners, no matches of transports.
    Grpc,
}

/// The client of an ADS stream. Source: Envoy `config.core.v3.Node`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Node {
    /// Unique among the clients of a control plane: `sidecar~catalog-v1.shop`.
    pub id: String,
    /// The group that it belongs to; may be empty.
    pub cluster: String,
    /// Program name: `meshwork`, `envoy`, `gRPC C-core`.
    pub user_agent: String,
    /// Program version; may be empty.
    pub user_agent_version: String,
    /// What it says of itself, a JSON object. Informative: no right follows from it.
    pub metadata: Value,
    /// Where it runs: region, zone and sub-zone; each may be empty.
    pub locality: [String; 3],
}

/// How our own proxy introduces itself.
pub const USER_AGENT: &str = "meshwork";

impl Dialect {
    /// The dialect of the program with this user agent; unknown programs are taken for Envoy.
    pub fn of_user_agent(user_agent: &str) -> Self {
        if user_agent == USER_AGENT {
            Self::Meshwork
        } else if user_agent.to_ascii_lowercase().starts_with("grpc") {
            Self::Grpc
        } else {
            Self::Envoy
        }
    }
}

impl Node {
    /// The dialect that the client speaks.
    pub fn dialect(&self) -> Dialect {
        Dialect::of_user_agent(&self.user_agent)
    }
}

impl Node {
    /// Reads a node; nothing is a node without a name.
    pub(crate) fn of(message: Option<&pb::core::Node>) -> Self {
        use pb::core::node::UserAgentVersionType::UserAgentVersion;
        let Some(message) = message else { return Self::default() };
        let user_agent_version = match &message.user_agent_version_type {
            Some(UserAgentVersion(version)) => version.clone(),
            _ => String::new(),
        };
        Self {
            id: message.id.clone(),
            cluster: message.cluster.clone(),
            user_agent: message.user_agent_name.clone(),
            user_agent_version,
            metadata: message.metadata.as_ref().map_or(Value::Null, metadata::to_json),
            locality: message.locality.as_ref().map_or_else(Default::default, |locality| {
                [locality.region.clone(), locality.zone.clone(), locality.sub_zone.clone()]
            }),
        }
    }

    /// Writes the node.
    pub(crate) fn to_message(&self) -> pb::core::Node {
        use pb::core::node::UserAgentVersionType::UserAgentVersion;
        pb::core::Node {
            id: self.id.clone(),
            cluster: self.cluster.clone(),
            metadata: self.metadata.is_object().then(|| metadata::from_json(&self.metadata)),
            locality: self.locality.iter().any(|part| !part.is_empty()).then(|| {
                let [region, zone, sub_zone] = self.locality.clone();
                pb::core::Locality { region, zone, sub_zone }
            }),
            user_agent_name: self.user_agent.clone(),
            user_agent_version_type: (!self.user_agent_version.is_empty())
                .then(|| UserAgentVersion(self.user_agent_version.clone())),
            ..pb::core::Node::default()
        }
    }
}
