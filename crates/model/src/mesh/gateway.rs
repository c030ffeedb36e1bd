//! Gateways: where traffic from outside comes into the mesh. Source: Gateway API v1, Gateway, BackendTLSPolicy.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{Key, Labels};

/// A gateway. Source: Gateway API `Gateway`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Its class.
    pub class: Arc<str>,
    /// Its listeners, in their written order; no two have a name, or port, protocol and hostname in common.
    pub listeners: Vec<GatewayListener>,
}

/// Where a gateway listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayListener {
    /// Its name; routes name it as `sectionName`.
    pub name: Arc<str>,
    /// The host that it is for, in lowercase, `*.` in front for all below; `None` for all.
    pub hostname: Option<Arc<str>>,
    /// Its port.
    pub port: u16,
    /// What is spoken.
    pub protocol: GatewayProtocol,
    /// The namespaces whose routes may be attached.
    pub from: RouteNamespaces,
    /// The kinds of routes that may be attached; empty for all that the protocol takes.
    pub kinds: Vec<Arc<str>>,
}

/// What is spoken with a gateway's clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayProtocol {
    /// HTTP in plaintext.
    Http,
    /// HTTP by TLS, which ends here by these certificates.
    Https(Vec<Key>),
    /// TLS that passes through.
    TlsPassthrough,
    /// Bytes by TLS, which ends here by these certificates.
    TlsTerminate(Vec<Key>),
    /// Bytes.
    Tcp,
}

/// The namespaces whose routes may be attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteNamespaces {
    /// The gateway's own.
    Same,
    /// All.
    All,
    /// None.
    None,
    /// Those with these labels.
    Selected(Labels),
}

/// How a gateway reaches services that speak TLS of their own. Source: Gateway API `BackendTLSPolicy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendTls {
    /// Services of the policy's namespace, with the name of a port where it is for that alone.
    pub targets: Vec<(Arc<str>, Option<Arc<str>>)>,
    /// The name that is asked for, and that the certificate must have where `names` is empty.
    pub hostname: Arc<str>,
    /// Names of which the certificate must have one.
    pub names: Vec<BackendName>,
    /// The ConfigMap with the certificates of those who are trusted; `None` for whom the gateway's system trusts.
    pub authorities: Option<Key>,
}

/// A name in a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendName {
    /// A host.
    Host(Arc<str>),
    /// A URI.
    Uri(Arc<str>),
}

/// What the node of a gateway says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayNode {
    /// The gateway's name, in the node's own namespace.
    pub name: Arc<str>,
    /// The address that it listens on.
    pub address: IpAddr,
    /// Other addresses for single ports.
    pub binds: BTreeMap<u16, SocketAddr>,
    /// The folder with certificates and keys, absolute: `NAMESPACE/NAME/tls.crt` and `tls.key` for each.
    pub certificates: Option<Arc<str>>,
}

// === impl GatewayProtocol ===

impl GatewayProtocol {
    /// Whether requests, not bytes, are routed.
    pub fn is_http(&self) -> bool {
        matches!(self, Self::Http | Self::Https(_))
    }

    /// The certificates by which TLS ends here.
    pub fn certificates(&self) -> Option<&[Key]> {
        match self {
            Self::Https(certificates) | Self::TlsTerminate(certificates) => Some(certificates),
            Self::Http | Self::TlsPassthrough | Self::Tcp => None,
        }
    }
}

// === impl GatewayNode ===

impl GatewayNode {
    /// Where a port of the gateway is listened on.
    pub fn bind(&self, port: u16) -> SocketAddr {
        self.binds.get(&port).copied().unwrap_or_else(|| SocketAddr::new(self.address, port))
    }
}
