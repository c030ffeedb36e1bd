//! Who runs in the demo, who calls whom, and on which ports of this machine.
//!
//! The ports that services show to their callers are those of `examples/shop`; a test holds the two together.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::Mode;
use crate::ports::Reservations;
use crate::shop::{Release, Role};

/// The namespace of all workloads.
pub(crate) const NAMESPACE: &str = "shop";

/// The port of the services behind the front, which speak HTTP.
const HTTP: u16 = 80;
/// The port that all workloads that speak HTTP serve, and the port of the front's service.
const HTTP_TARGET: u16 = 8080;
/// The port of payments, which speaks gRPC.
const GRPC: u16 = 50051;
/// The port of the ledger.
const LEDGER: u16 = 9000;

/// A workload: one program of the shop and its sidecar.
#[derive(Debug)]
pub(crate) struct Workload {
    /// Unique name.
    pub(crate) name: &'static str,
    /// The label `app`, and the service account.
    pub(crate) app: &'static str,
    /// The label `version`.
    pub(crate) version: &'static str,
    /// The program.
    pub(crate) role: Role,
    /// Its release, where it is the catalog.
    pub(crate) release: Release,
    /// The port that it serves in the mesh; the load serves none.
    pub(crate) inbound: Option<u16>,
    /// The service ports that it calls.
    pub(crate) calls: &'static [(&'static str, u16)],
}

/// The shop, in the order in which it is shown.
pub(crate) const SHOP: [Workload; 8] = [
    workload("load", Role::Load, None, &[("web", HTTP_TARGET), ("cart", HTTP), ("payments", GRPC)]),
    workload("web", Role::Web, Some(HTTP_TARGET), &[("catalog", HTTP), ("cart", HTTP), ("checkout", HTTP)]),
    Workload { app: "catalog", ..workload("catalog-v1", Role::Catalog, Some(HTTP_TARGET), &[]) },
    Workload {
        app: "catalog",
        version: "v2",
        release: Release::V2,
        ..workload("catalog-v2", Role::Catalog, Some(HTTP_TARGET), &[])
    },
    workload("cart", Role::Cart, Some(HTTP_TARGET), &[]),
    workload("checkout", Role::Checkout, Some(HTTP_TARGET), &[("payments", GRPC), ("ledger", LEDGER)]),
    workload("payments", Role::Payments, Some(GRPC), &[]),
    workload("ledger", Role::Ledger, Some(LEDGER), &[]),
];

const fn workload(
    name: &'static str,
    role: Role,
    inbound: Option<u16>,
    calls: &'static [(&'static str, u16)],
) -> Workload {
    Workload { name, app: name, version: "v1", role, release: Release::V1, inbound, calls }
}

/// The control plane's ports.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    /// For proxies.
    pub(crate) listen: SocketAddr,
    /// For people and the demo.
    pub(crate) api: SocketAddr,
}

/// A workload's ports on this machine.
#[derive(Debug)]
pub(crate) struct Placement {
    /// The workload.
    pub(crate) workload: &'static Workload,
    /// The sidecar's admin port.
    pub(crate) admin: SocketAddr,
    /// How its traffic reaches the sidecar.
    pub(crate) way: Way,
}

/// How a workload's traffic reaches its sidecar.
#[derive(Debug)]
pub(crate) enum Way {
    /// By ports of this machine that the program is told.
    Ports {
        /// Where the sidecar takes connections for the program, and where the program listens.
        inbound: Option<Inbound>,
        /// Where the sidecar takes connections from the program, in the order of [`Workload::calls`].
        outbound: Vec<SocketAddr>,
    },
    /// All of it, from a network namespace of the workload's own: ports and names are those of the services.
    Namespace,
}

/// Both addresses of an inbound port.
#[derive(Debug)]
pub(crate) struct Inbound {
    /// The port that services target.
    pub(crate) port: u16,
    /// The sidecar's.
    pub(crate) bind: SocketAddr,
    /// The program's.
    pub(crate) application: SocketAddr,
}

/// Everything with its ports.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The binary that all processes run.
    pub(crate) binary: PathBuf,
    /// The control plane.
    pub(crate) control_plane: ControlPlane,
    /// The workloads, in the order of [`SHOP`].
    pub(crate) placements: Vec<Placement>,
}

impl Plan {
    /// Reserves all ports.
    ///
    /// # Errors
    /// No port or no file descriptor is left.
    pub(crate) fn reserve(binary: PathBuf, mode: Mode, ports: &mut Reservations) -> std::io::Result<Self> {
        let control_plane = ControlPlane { listen: ports.reserve()?, api: ports.reserve()? };
        let placements = SHOP.iter().map(|workload| Placement::reserve(workload, mode, ports));
        Ok(Self { binary, control_plane, placements: placements.collect::<Result<_, _>>()? })
    }
}

impl Placement {
    fn reserve(workload: &'static Workload, mode: Mode, ports: &mut Reservations) -> std::io::Result<Self> {
        let way = match mode {
            Mode::Explicit => Way::reserve(workload, ports)?,
            Mode::Namespace => Way::Namespace,
        };
        Ok(Self { workload, admin: ports.reserve()?, way })
    }

    /// Both addresses of its inbound port, where they are this machine's.
    pub(crate) fn inbound(&self) -> Option<&Inbound> {
        match &self.way {
            Way::Ports { inbound, .. } => inbound.as_ref(),
            Way::Namespace => None,
        }
    }
}

impl Way {
    fn reserve(workload: &Workload, ports: &mut Reservations) -> std::io::Result<Self> {
        let inbound = match workload.inbound {
            Some(port) => Some(Inbound { port, bind: ports.reserve()?, application: ports.reserve()? }),
            None => None,
        };
        let outbound = workload.calls.iter().map(|_| ports.reserve()).collect::<Result<_, _>>()?;
        Ok(Self::Ports { inbound, outbound })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assets;

    /// Whether a service of `examples/shop` has a port, and leads to a target port.
    fn has(service: &str, port: u16, target: u16) -> bool {
        let name = format!("\n  name: {service}\n");
        let documents = assets::SHOP.iter().flat_map(|(_, text)| text.split("\n---"));
        let mut services = documents.filter(|text| text.contains("kind: Service\n") && text.contains(&name));
        services.any(|text| {
            let words: Vec<&str> = text.split([' ', ',', '\n']).collect();
            let says = |name: &str, port: u16| words.windows(2).any(|pair| pair == [name, &port.to_string()]);
            says("port:", port)
                && (says("targetPort:", target) || !text.contains("targetPort") && target == port)
        })
    }

    #[test]
    fn the_plan_uses_the_ports_of_the_shops_services() {
        for workload in &SHOP {
            if let Some(target) = workload.inbound {
                let (_, port) = SHOP
                    .iter()
                    .flat_map(|caller| caller.calls)
                    .find(|(service, _)| *service == workload.app)
                    .expect("a caller");
                assert!(has(workload.app, *port, target), "{} {port} {target}", workload.app);
            }
        }
        assert!(!has("web", 80, 80));
        assert!(!has("cart", 80, 80));
    }

    impl Plan {
        /// A plan of processes that nobody starts.
        pub(crate) fn of_mode(mode: Mode) -> Self {
            Self::reserve("/opt/meshwork".into(), mode, &mut Reservations::default()).expect("ports")
        }
    }

    #[test]
    fn no_two_listeners_share_a_port() {
        let plan = Plan::of_mode(Mode::Explicit);
        let mut ports = vec![plan.control_plane.listen, plan.control_plane.api];
        for placement in &plan.placements {
            ports.push(placement.admin);
            let Way::Ports { inbound, outbound } = &placement.way else { panic!("{placement:?}") };
            ports.extend(inbound.iter().flat_map(|inbound| [inbound.bind, inbound.application]));
            ports.extend(outbound);
        }
        let distinct: std::collections::BTreeSet<_> = ports.iter().collect();
        assert_eq!((distinct.len(), ports.len()), (32, 32));
    }
}
