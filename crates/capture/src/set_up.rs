//! Making a workload's network: every step that is taken inside of its namespaces, before the program starts.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::addresses::{SIDECAR, WORKLOAD};
use crate::mounts;
use crate::namespace::Maps;
use crate::netlink::{self, Request, Routing};
use crate::privileges;
use crate::refused;
use crate::rules;
use crate::sockets::Sockets;
use crate::steps::{Missing, Step, Tried};
use crate::stock::Supply;

/// What the network is to be like.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// How many sockets listen on each address.
    pub(crate) workers: usize,
    /// The mesh's namespace in which names are looked up first.
    pub(crate) namespace: String,
    /// Folders that the program does not see.
    pub(crate) hidden: Vec<PathBuf>,
}

/// What was made.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) sockets: Sockets,
    pub(crate) refused: Option<OwnedFd>,
    pub(crate) supplies: [Supply; 2],
    pub(crate) stock: [OwnedFd; 2],
}

/// Takes every step, also after one failed: each is told of. What was made is there if nothing is missing.
pub(crate) fn set_up(plan: &Plan) -> (Vec<Tried>, Option<Made>) {
    let mut tried = Vec::with_capacity(Step::ALL.len());
    let mut note = |step, outcome: &io::Result<()>| tried.push(Tried::new(step, outcome));
    note(Step::Network, &network());
    note(Step::Settings, &settings());
    let sockets = Sockets::listen(plan.workers);
    note(Step::Sockets, &sockets.as_ref().map(|_| ()).map_err(copy));
    let ruled = privileges::lend_net_admin().and_then(|()| rules::load());
    note(Step::Rules, &ruled);
    if let (Ok(sockets), Ok(())) = (&sockets, &ruled) {
        note(Step::Steering, &sockets.try_steering());
    }
    let refused = refused::open();
    note(Step::Log, &refused.as_ref().map(|_| ()).map_err(copy));
    note(Step::Names, &mounts::names(&plan.namespace));
    note(Step::Hidden, &mounts::hide(&plan.hidden));
    note(Step::Proc, &mounts::proc());
    if Missing::any(&tried) {
        return (tried, None);
    }
    let made = sockets.and_then(|sockets| {
        let ((supply4, stock4), (supply6, stock6)) = (Supply::open(false)?, Supply::open(true)?);
        let refused = refused.ok();
        Ok(Made { sockets, refused, supplies: [supply4, supply6], stock: [stock4, stock6] })
    });
    if let Err(error) = &made {
        tried.push(Tried::new::<()>(Step::Sockets, &Err(copy(error))));
    }
    (tried, made.ok())
}

/// An error for another reader.
fn copy(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}

fn network() -> io::Result<()> {
    // A host without IPv6 on its interfaces may still have it here.
    for interface in ["all", "lo"] {
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"), "0");
    }
    let routing = Routing::open()?;
    routing.ask(Request::loopback_up())?;
    for address in SIDECAR.into_iter().filter(|address| netlink::has(*address)) {
        routing.ask(Request::address(address))?;
    }
    give(&routing, &WORKLOAD)
}

/// Gives the workload its own addresses: what it sends comes from them.
///
/// # Errors
/// The kernel does not take an address.
pub(crate) fn own(addresses: &[IpAddr]) -> io::Result<()> {
    give(&Routing::open()?, addresses)
}

fn give(routing: &Routing, addresses: &[IpAddr]) -> io::Result<()> {
    for address in addresses.iter().filter(|address| netlink::has(**address)) {
        routing.ask(Request::address(*address))?;
        routing.ask(Request::default_route(*address))?;
    }
    Ok(())
}

fn settings() -> io::Result<()> {
    fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")?;
    if let Some((first, last)) = Maps::groups(&fs::read_to_string("/proc/self/gid_map")?) {
        fs::write("/proc/sys/net/ipv4/ping_group_range", format!("{first} {last}"))?;
    }
    Ok(())
}
