//! `meshwork gateway`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context;
use meshwork_model::mesh::GatewayNode;

use super::sidecar::Sidecar;

/// Run a gateway: where traffic from outside comes into the mesh
///
/// Enrols as a workload and serves the Gateway of that name in its own namespace: what it listens on, and where requests
/// go from there, is said by Gateway, HTTPRoute, GRPCRoute, TLSRoute and TCPRoute. The certificates that its listeners
/// name as Secrets are files of this host; no private key comes from the control plane.
#[derive(clap::Args)]
pub(crate) struct Gateway {
    /// The Gateway's name; its namespace is that of the join token
    #[arg(long = "gateway", value_name = "NAME")]
    resource: String,

    /// The folder with certificates: NAMESPACE/NAME/tls.crt and tls.key for each Secret that a listener names; read again
    /// when they change
    #[arg(long, value_name = "DIR")]
    certificates: Option<PathBuf>,

    /// The address that the Gateway's ports are listened on
    #[arg(long, value_name = "IP", default_value_t = IpAddr::from(Ipv4Addr::UNSPECIFIED))]
    address: IpAddr,

    /// Another address for one port, as PORT=ADDR:PORT, where this host's is another or takes privileges; may be repeated
    #[arg(long = "listen", value_name = "PORT=ADDR")]
    binds: Vec<Bind>,

    #[command(flatten)]
    sidecar: Sidecar,
}

/// `PORT=ADDR:PORT`
#[derive(Clone)]
struct Bind(u16, SocketAddr);

impl Gateway {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let certificates = self.certificates.map(|folder| {
            let absolute = std::fs::canonicalize(&folder);
            absolute.with_context(|| format!("cannot read the folder of certificates {}", folder.display()))
        });
        let certificates = certificates.transpose()?;
        let certificates =
            certificates.map(|folder| folder.to_str().map(Into::into).context("its path is not UTF-8"));
        let node = GatewayNode {
            name: self.resource.into(),
            address: self.address,
            binds: self.binds.into_iter().map(|Bind(port, bind)| (port, bind)).collect(),
            certificates: certificates.transpose()?,
        };
        self.sidecar.run_as(Some(node))
    }
}

impl FromStr for Bind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("{text:?} is not PORT=ADDR:PORT, such as 80=0.0.0.0:8080");
        let (port, bind) = text.split_once('=').ok_or_else(expected)?;
        Ok(Self(port.parse().map_err(|_| expected())?, bind.parse().map_err(|_| expected())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_ports_are_read_or_refused_in_words() {
        let Bind(port, bind) = "80=0.0.0.0:8080".parse().expect("valid");
        assert_eq!((port, bind.port()), (80, 8080));
        for bad in ["", "80", "80=8080", "http=0.0.0.0:80"] {
            assert!(bad.parse::<Bind>().is_err(), "{bad}");
        }
    }
}
