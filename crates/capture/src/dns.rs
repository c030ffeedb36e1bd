//! The DNS server of a captured workload: the names of the mesh from its own table, all others from the host's
//! resolvers.
//!
//! It owns its sockets (those on which the workload's queries arrive) and a cache; it reads the table through a closure
//! whenever it is asked, and the host's `resolv.conf` when that changes. It is not on the path of a request and runs on
//! the cold runtime: one future, which spawns nothing, so that dropping it ends all of it.
//!
//! ```text
//! server      bytes of a client → query; UDP, TCP, sizes, idle connections
//! ├─ query    what was asked, and how it wants its answer
//! ├─ table    what the mesh itself answers. Pure
//! └─ forward  everything else: cache, identical questions at once, order of servers
//!    ├─ cache     answers by TTL. Pure
//!    ├─ exchange  one question to one server, over UDP and TCP; what is no answer to it is passed over
//!    ├─ content   what of an upstream's message is kept. Pure
//!    └─ resolvers which servers the host uses
//! ```
//!
//! Both the workload and the servers upstream are strangers here: their bytes are parsed by hickory-proto, nothing that
//! they send costs more than `limits` says, and of an upstream's answer only what was asked for is passed on.
//! Sources: RFC 1035, 2181, 2308, 5452, 6761, 6891, 7766, 9520.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;

use meshwork_model::proxy::NameTable;

mod cache;
mod content;
mod exchange;
mod forward;
mod limits;
mod query;
mod resolvers;
mod server;
mod table;
#[cfg(test)]
mod tests;

/// Where queries arrive. Of each kind there may be several, say one per IP version.
#[derive(Debug)]
pub struct Sockets {
    /// Bound UDP sockets.
    pub udp: Vec<UdpSocket>,
    /// Listening TCP sockets.
    pub tcp: Vec<TcpListener>,
}

/// What the server needs to know besides the names.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Who is asked about names that the mesh does not know.
    pub resolvers: Resolvers,
}

/// The DNS servers upstream.
#[derive(Clone, Debug)]
pub enum Resolvers {
    /// Those of a file in the format of resolv.conf(5), which is read again when it has changed.
    File(PathBuf),
    /// These, in this order.
    Fixed(Vec<SocketAddr>),
}

impl Default for Resolvers {
    fn default() -> Self {
        Self::File("/etc/resolv.conf".into())
    }
}

/// Answers queries for ever.
///
/// `names` is asked for the table with each query; while there is none, names of the mesh's own zone are answered with
/// SERVFAIL (so that nobody remembers them as absent), and others are forwarded.
///
/// # Errors
///
/// When tokio cannot take one of the sockets.
///
/// # Cancel safety
///
/// Dropping the future closes the sockets and gives up what is being answered.
pub async fn serve(
    sockets: Sockets,
    names: impl Fn() -> Option<Arc<NameTable>> + Send + Sync + 'static,
    options: Options,
) -> io::Result<Infallible> {
    let forwarder = forward::Forwarder::new(options.resolvers);
    server::Server::new(Box::new(names), forwarder).run(sockets).await
}
