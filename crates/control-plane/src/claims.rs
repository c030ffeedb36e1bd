//! What a node says of itself when it connects, checked against what it proved.
//!
//! Metadata keys are Istio's where Istio has one: `NAME`, `NAMESPACE`, `SERVICE_ACCOUNT`; ours are `INBOUND`,
//! `OUTBOUND`, `CAPTURE`, `GATEWAY`, `HEALTH` and, from Envoy, `SDS_DIR`. A right follows from the identity and the enrolment alone: metadata can
//! only say which of the workloads with this identity the node is, and where its ports are.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use meshwork_model::mesh::{Capture, GatewayNode, Inbound, Key, Outbound, Protocol};
use meshwork_model::spiffe::SpiffeId;
use meshwork_xds::{Dialect, Node, SdsSource};
use serde_json::Value;

use crate::ingest::is_label;

/// The claims of a node, read but for its labels, which come from its enrolment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Claims {
    pub(crate) workload: Key,
    pub(crate) inbound: Vec<Inbound>,
    pub(crate) outbound: Vec<Outbound>,
    pub(crate) capture: Option<Capture>,
    pub(crate) gateway: Option<Arc<GatewayNode>>,
    /// Whether its readiness is probed.
    pub(crate) is_probed: bool,
    pub(crate) dialect: Dialect,
    pub(crate) sds: SdsSource,
}

/// Ports in one direction; a workload with more is a gateway, which this is not.
const MAX_PORTS: usize = 1024;
/// The longest name of a region, zone or sub-zone: all who call the workload are told it.
const MAX_LOCALITY_BYTES: usize = 253;
/// The longest names of DNS, and the longest path that Linux takes. Source: RFC 1123; `PATH_MAX`.
const MAX_NAME_BYTES: usize = 253;
const MAX_PATH_BYTES: usize = 4_095;
/// Addresses that one proxy takes captured connections on: one of each IP version, and some to spare.
const MAX_CAPTURES: usize = 8;

impl Claims {
    /// Which workload a node says that it is.
    pub(crate) fn workload(peer: &SpiffeId, node: &Node) -> Option<Key> {
        let (namespace, _) = peer.namespace_and_account()?;
        Some(Key::new(namespace, node.metadata.get("NAME")?.as_str()?))
    }

    /// Reads a node's claims.
    ///
    /// # Errors
    /// A claim is missing, malformed, or contradicts the proven identity; the text is for the node's operator.
    pub(crate) fn read(peer: &SpiffeId, node: &Node) -> Result<Self, String> {
        let (namespace, account) = peer
            .namespace_and_account()
            .ok_or_else(|| format!("the identity {peer} is not a workload's of this mesh"))?;
        let claim = |name: &str| node.metadata.get(name).and_then(Value::as_str);
        for (name, proven) in [("NAMESPACE", namespace), ("SERVICE_ACCOUNT", account)] {
            if let Some(claimed) = claim(name).filter(|claimed| *claimed != proven) {
                return Err(format!(
                    "the node's metadata says {name} {claimed:?}, and its certificate {proven:?}"
                ));
            }
        }
        let name = claim("NAME").ok_or("the node's metadata has no NAME, the workload's name")?;
        if node.locality.iter().any(|part| part.len() > MAX_LOCALITY_BYTES || part.contains(char::is_control))
        {
            return Err(format!(
                "the node's locality has a part that is no name of {MAX_LOCALITY_BYTES} bytes"
            ));
        }
        let dialect = node.dialect();
        let sds = match (dialect, claim("SDS_DIR")) {
            (Dialect::Meshwork, _) => SdsSource::Named,
            (Dialect::Grpc, _) => SdsSource::Grpc,
            (Dialect::Envoy, Some(dir)) if is_path(dir) => SdsSource::Directory(dir.to_owned()),
            (Dialect::Envoy, _) => {
                return Err("the node's metadata has no SDS_DIR, the absolute directory of its secrets; \
                            `meshwork envoy-bootstrap` writes both"
                    .to_owned());
            }
        };
        Ok(Self {
            workload: Key::new(namespace, name),
            inbound: ports(&node.metadata, "INBOUND", inbound)?,
            outbound: ports(&node.metadata, "OUTBOUND", outbound)?,
            capture: capture(&node.metadata)?,
            gateway: gateway(&node.metadata)?.map(Arc::new),
            is_probed: is_probed(&node.metadata)?,
            dialect,
            sds,
        })
    }
}

fn ports<T>(metadata: &Value, name: &str, read: fn(&Value) -> Option<T>) -> Result<Vec<T>, String> {
    let list = match metadata.get(name) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) if list.len() <= MAX_PORTS => list,
        Some(_) => {
            return Err(format!("the node's metadata {name} is not a list of at most {MAX_PORTS} ports"));
        }
    };
    let read_one =
        |(i, value)| read(value).ok_or_else(|| format!("the node's metadata {name}[{i}] is not a port"));
    list.iter().enumerate().map(read_one).collect()
}

fn inbound(value: &Value) -> Option<Inbound> {
    let protocol = match value.get("protocol") {
        None => None,
        Some(name) => Some(Protocol::of_name(name.as_str()?)?),
    };
    Some(Inbound {
        port: port(value)?,
        bind: address(value.get("bind")?)?,
        application: address(value.get("application")?)?,
        protocol,
    })
}

fn capture(metadata: &Value) -> Result<Option<Capture>, String> {
    let read = |value: &Value| {
        let outbound = value.get("outbound")?.as_array()?;
        let within = (1..=MAX_CAPTURES).contains(&outbound.len());
        let outbound = outbound.iter().map(address).collect::<Option<Vec<_>>>().filter(|_| within)?;
        Some(Capture { outbound, names: address(value.get("names")?)? })
    };
    match metadata.get("CAPTURE") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => read(value).map(Some).ok_or_else(|| {
            format!(
                "the node's metadata CAPTURE is not `outbound`, a list of 1 to {MAX_CAPTURES} addresses, and `names`, \
                 an address"
            )
        }),
    }
}

/// A gateway of the node's own namespace: who serves it follows from the identity.
fn gateway(metadata: &Value) -> Result<Option<GatewayNode>, String> {
    let read = |value: &Value| {
        let mut binds = BTreeMap::new();
        for one in value.get("binds").map_or(Some(&Vec::new()), Value::as_array)? {
            binds.insert(port(one)?, address(one.get("bind")?)?);
        }
        let certificates = match value.get("certificates") {
            None | Some(Value::Null) => None,
            Some(folder) => Some(folder.as_str().filter(|folder| is_path(folder))?.into()),
        };
        Some(GatewayNode {
            name: value.get("name")?.as_str().filter(|name| name.len() <= MAX_NAME_BYTES)?.into(),
            address: value.get("address")?.as_str()?.parse().ok()?,
            binds: Some(binds).filter(|binds| binds.len() <= MAX_PORTS)?,
            certificates,
        })
    };
    match metadata.get("GATEWAY") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => read(value).map(Some).ok_or_else(|| {
            "the node's metadata GATEWAY is not `name`, `address` (of IP), and where there are some `binds` (each `port` \
             and `bind`) and `certificates`, an absolute folder"
                .to_owned()
        }),
    }
}

fn is_probed(metadata: &Value) -> Result<bool, String> {
    match metadata.get("HEALTH") {
        None | Some(Value::Null) => Ok(false),
        Some(Value::String(word)) if word == "probed" => Ok(true),
        Some(_) => Err("the node's metadata HEALTH is not \"probed\"".to_owned()),
    }
}

fn outbound(value: &Value) -> Option<Outbound> {
    let (name, namespace) = value.get("service")?.as_str()?.split_once('.')?;
    if !is_label(name) || !is_label(namespace) {
        return None;
    }
    Some(Outbound {
        service: Key::new(namespace, name),
        port: port(value)?,
        bind: address(value.get("bind")?)?,
    })
}

/// An absolute path.
fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.len() <= MAX_PATH_BYTES
}

/// Numbers of a protobuf struct are floating point.
fn port(value: &Value) -> Option<u16> {
    let number = value.get("port")?.as_f64()?;
    (number.fract() == 0.0 && (1.0..=65535.0).contains(&number)).then(|| to_u16(number))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a whole number within 1 to 65535"
)]
fn to_u16(number: f64) -> u16 {
    number as u16
}

fn address(value: &Value) -> Option<SocketAddr> {
    value.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(user_agent: &str, metadata: Value) -> Result<Claims, String> {
        let peer = SpiffeId::workload("mesh.local", "shop", "cart").expect("valid");
        Claims::read(&peer, &Node { user_agent: user_agent.to_owned(), metadata, ..Node::default() })
    }

    #[test]
    fn a_node_says_which_workload_it_is_and_where_its_ports_are() {
        let claims = read(
            "meshwork",
            json!({
                "NAME": "cart-1", "NAMESPACE": "shop", "SERVICE_ACCOUNT": "cart", "LABELS": {"app": "lies"},
                "INBOUND": [{
                    "port": 8080.0, "bind": "127.0.0.1:41000", "application": "127.0.0.1:9000", "protocol": "grpc"
                }],
                "OUTBOUND": [{"port": 80, "bind": "[::1]:42000", "service": "catalog.shop"}],
                "CAPTURE": {"outbound": ["127.0.0.1:15001", "[::1]:15001"], "names": "127.0.0.1:15053"},
                "GATEWAY": {
                    "name": "edge", "address": "0.0.0.0", "binds": [{"port": 80, "bind": "0.0.0.0:8080"}],
                    "certificates": "/etc/certs",
                },
                "HEALTH": "probed",
            }),
        )
        .expect("valid");
        assert_eq!(claims.workload, Key::new("shop", "cart-1"));
        assert_eq!((claims.inbound[0].port, claims.inbound[0].protocol), (8080, Some(Protocol::Grpc)));
        let capture = claims.capture.expect("captured");
        assert_eq!((capture.outbound.len(), capture.names.port(), claims.is_probed), (2, 15053, true));
        let gateway = claims.gateway.expect("a gateway");
        assert_eq!((&*gateway.name, gateway.bind(80).port(), gateway.bind(443).port()), ("edge", 8080, 443));
        assert_eq!(claims.outbound[0].service, Key::new("shop", "catalog"));
        assert_eq!((claims.dialect, claims.sds), (Dialect::Meshwork, SdsSource::Named));
        let envoy = read("envoy", json!({"NAME": "cart-1", "SDS_DIR": "/var/x"})).expect("valid");
        assert_eq!(envoy.sds, SdsSource::Directory("/var/x".to_owned()));
        assert_eq!((envoy.capture, envoy.is_probed), (None, false));
    }

    #[test]
    fn where_a_node_runs_has_a_name() {
        let peer = SpiffeId::workload("mesh.local", "shop", "cart").expect("valid");
        let read = |zone: String| {
            let locality = [String::new(), zone, String::new()];
            let node = Node {
                user_agent: "meshwork".to_owned(),
                metadata: json!({"NAME": "cart-1"}),
                locality,
                ..Node::default()
            };
            Claims::read(&peer, &node)
        };
        assert!(read("z".repeat(MAX_LOCALITY_BYTES)).is_ok());
        for zone in ["z".repeat(MAX_LOCALITY_BYTES + 1), "a\u{1b}[2J".to_owned()] {
            assert!(read(zone).expect_err("refused").contains("locality"));
        }
    }

    #[test]
    fn claims_that_contradict_the_certificate_are_refused() {
        let check = |user_agent: &str, metadata: Value, expected: &str| {
            let error = read(user_agent, metadata).expect_err("refused");
            assert!(error.contains(expected), "{error}");
        };
        check("meshwork", json!({}), "no NAME");
        check("meshwork", json!(null), "no NAME");
        check("meshwork", json!({"NAME": "x", "NAMESPACE": "bank"}), "\"bank\"");
        check("meshwork", json!({"NAME": "x", "SERVICE_ACCOUNT": "web"}), "\"web\"");
        check("envoy", json!({"NAME": "x"}), "SDS_DIR");
        check("envoy", json!({"NAME": "x", "SDS_DIR": "relative"}), "SDS_DIR");
        check("envoy", json!({"NAME": "x", "SDS_DIR": format!("/{}", "a".repeat(5_000))}), "SDS_DIR");
        check("meshwork", json!({"NAME": "x", "INBOUND": 1}), "INBOUND is not");
        for service in ["cart", "Cart.shop", "cart.shop.svc", &format!("{}.shop", "a".repeat(64))] {
            let port = json!({"port": 80, "bind": "127.0.0.1:1", "service": service});
            check("meshwork", json!({"NAME": "x", "OUTBOUND": [port]}), "OUTBOUND[0] is not");
        }
        check("meshwork", json!({"NAME": "x", "HEALTH": true}), "HEALTH is not");
        for capture in [
            json!(1),
            json!({"outbound": [], "names": "127.0.0.1:53"}),
            json!({"outbound": ["127.0.0.1:1"], "names": "dns"}),
            json!({"outbound": vec!["127.0.0.1:1"; 9], "names": "127.0.0.1:53"}),
        ] {
            check("meshwork", json!({"NAME": "x", "CAPTURE": capture}), "CAPTURE is not");
        }
        for gateway in [
            json!("edge"),
            json!({"name": "edge", "address": "somewhere"}),
            json!({"name": "e".repeat(254), "address": "0.0.0.0"}),
            json!({"name": "edge", "address": "0.0.0.0", "certificates": "relative"}),
            json!({"name": "edge", "address": "0.0.0.0", "binds": [{"port": 80}]}),
        ] {
            check("meshwork", json!({"NAME": "x", "GATEWAY": gateway}), "GATEWAY is not");
        }
        let port = json!({
            "port": 1, "bind": "127.0.0.1:1", "application": "127.0.0.1:2", "protocol": "gopher"
        });
        check("meshwork", json!({"NAME": "x", "INBOUND": [port]}), "INBOUND[0] is not");
        for port in [json!({}), json!({"port": 0.5}), json!({"port": 70000}), json!({"port": 1, "bind": "x"})]
        {
            check("meshwork", json!({"NAME": "x", "OUTBOUND": [port]}), "OUTBOUND[0] is not");
        }
    }
}
