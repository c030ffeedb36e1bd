//! The sample shop: six small programs that know nothing of a mesh, and the load that buys from them.
//!
//! Each one listens on a port and calls the others at the addresses that it is given: their names, its sidecar's
//! outbound ports, or the programs themselves. They pass on the fields that tracing needs, end gracefully, and
//! hide no failure of what they call.

pub(crate) mod cart;
pub(crate) mod catalog;
pub(crate) mod checkout;
mod client;
pub(crate) mod ledger;
pub(crate) mod load;
pub(crate) mod payments;
mod server;
pub(crate) mod web;

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use http::uri::Authority;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

pub use catalog::Release;
use server::Stop;

/// What a program of the shop is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which program.
    pub role: Role,
    /// Where it listens; the load does not.
    pub listen: Option<SocketAddr>,
    /// The release that the catalog says it is: `v1` or `v2`.
    pub release: Release,
    /// Where the programs that it calls are reached.
    pub calls: Vec<Call>,
    /// Requests per second that the load sends.
    pub rate: u32,
}

/// A program of the shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The front: renders the page, takes orders. Calls catalog, cart and checkout.
    Web,
    /// What is for sale.
    Catalog,
    /// What is about to be bought.
    Cart,
    /// Turns an order into a charge and a line in the ledger. Calls payments and ledger.
    Checkout,
    /// Charges, by gRPC.
    Payments,
    /// Keeps the books, by lines over TCP.
    Ledger,
    /// The customers, some of whom try what they must not. Calls web, cart and payments.
    Load,
}

/// A name that a program calls and where it reaches it: `catalog=127.0.0.1:42000`, or `catalog=catalog:80` where the
/// mesh answers for names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The service's name.
    pub service: String,
    /// Where it is reached: a host and a port.
    pub address: Authority,
}

/// Why a program of the shop does not run.
#[derive(Debug, thiserror::Error)]
pub enum ShopError {
    /// The program needs an address to listen on.
    #[error("{0} needs --listen ADDRESS:PORT")]
    NoListen(Role),
    /// The program calls a service that it was given no address of.
    #[error("{role} calls {service}: it needs --call {service}=ADDRESS:PORT")]
    NoCall {
        /// The program.
        role: Role,
        /// The service.
        service: &'static str,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The kernel's word.
        source: std::io::Error,
    },
    /// The process cannot be told when to stop.
    #[error("cannot handle signals")]
    Signals(#[source] std::io::Error),
    /// The gRPC server failed.
    #[error("the gRPC server failed")]
    Grpc(#[from] tonic::transport::Error),
}

/// Runs a program of the shop until SIGTERM or SIGINT, then lets what is under way finish.
///
/// One thread is enough: run it on a current-thread runtime.
///
/// # Errors
/// Options that do not fit the role, or an address that is taken.
pub async fn run(options: Options) -> Result<(), ShopError> {
    let (mut terminate, mut interrupt) = signals().map_err(ShopError::Signals)?;
    let (trigger, stop) = Stop::new();
    let mut serving = std::pin::pin!(serve(options, stop));
    tokio::select! {
        ended = serving.as_mut() => return ended,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    trigger.send_replace(true);
    serving.await
}

fn signals() -> std::io::Result<(Signal, Signal)> {
    Ok((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
}

async fn serve(options: Options, stop: Stop) -> Result<(), ShopError> {
    let role = options.role;
    if role == Role::Load {
        let targets = load::Targets {
            web: options.address_of("web")?,
            cart: options.address_of("cart")?,
            payments: options.address_of("payments")?,
        };
        load::run(&targets, options.rate, load::print, stop).await;
        return Ok(());
    }
    let address = options.listen.ok_or(ShopError::NoListen(role))?;
    let listener = listen(address).map_err(|source| ShopError::Listen { address, source })?;
    tracing::info!("{role} listens on {address}");
    match role {
        Role::Web => {
            let shop = web::Web::new(web::Targets {
                catalog: options.address_of("catalog")?,
                cart: options.address_of("cart")?,
                checkout: options.address_of("checkout")?,
            });
            server::serve(listener, stop, shop).await;
        }
        Role::Catalog => server::serve(listener, stop, catalog::Catalog::new(options.release)).await,
        Role::Cart => server::serve(listener, stop, cart::Cart::default()).await,
        Role::Checkout => {
            let (payments, ledger) = (options.address_of("payments")?, options.address_of("ledger")?);
            server::serve(listener, stop, checkout::Checkout::new(&payments, ledger)).await;
        }
        Role::Payments => payments::serve(listener, stop).await?,
        Role::Ledger => ledger::serve(listener, stop).await,
        Role::Load => {}
    }
    Ok(())
}

/// Listens with `SO_REUSEADDR` and `SO_REUSEPORT`, so that a port that the demo reserved can be taken.
///
/// # Errors
/// The address is taken by another user or by a socket without `SO_REUSEPORT`.
pub(crate) fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket =
        if address.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Connections that the kernel holds until the program accepts them; the kernel's own usual limit.
const BACKLOG: u32 = 1024;

impl Options {
    fn address_of(&self, service: &'static str) -> Result<Authority, ShopError> {
        let call = self.calls.iter().find(|call| call.service == service);
        call.map(|call| call.address.clone()).ok_or(ShopError::NoCall { role: self.role, service })
    }
}

// === impl Role ===

impl Role {
    /// All programs, in the order in which traffic meets them.
    pub const ALL: [Self; 7] =
        [Self::Load, Self::Web, Self::Catalog, Self::Cart, Self::Checkout, Self::Payments, Self::Ledger];

    /// The program's name, as `meshwork shop` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Catalog => "catalog",
            Self::Cart => "cart",
            Self::Checkout => "checkout",
            Self::Payments => "payments",
            Self::Ledger => "ledger",
            Self::Load => "load",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let role = Self::ALL.into_iter().find(|role| role.name() == text);
        role.ok_or_else(|| {
            format!("{text:?} is no program of the shop: {}", Self::ALL.map(Self::name).join(", "))
        })
    }
}

// === impl Call ===

impl FromStr for Call {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('=').and_then(|(service, address)| {
            let address: Authority = address.parse().ok()?;
            address.port()?;
            Some(Self { service: service.to_owned(), address })
        });
        parsed.ok_or_else(|| format!("{text:?} is not SERVICE=HOST:PORT, such as catalog=127.0.0.1:42000"))
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.service, self.address)
    }
}

#[cfg(test)]
mod tests;
