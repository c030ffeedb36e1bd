//! Ports of this machine, reserved for as long as the demo runs.
//!
//! A reservation is a socket that is bound and never listens: the kernel gives its port to nobody who asks for any
//! port, and a child that asks for this one, with `SO_REUSEADDR` or `SO_REUSEPORT`, gets it. So a component that is
//! killed comes back on the same port, and two demos on one machine do not meet.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

/// Loopback ports that belong to this process.
#[derive(Debug, Default)]
pub(crate) struct Reservations {
    held: Vec<Socket>,
}

impl Reservations {
    /// Reserves a port that was free.
    ///
    /// # Errors
    /// No port or no file descriptor is left.
    pub(crate) fn reserve(&mut self) -> std::io::Result<SocketAddr> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let address = socket
            .local_addr()?
            .as_socket()
            .ok_or_else(|| std::io::Error::other("the kernel bound no IP address"))?;
        self.held.push(socket);
        Ok(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn ports_are_distinct_and_nobody_is_given_them() {
        let mut reservations = Reservations::default();
        let ports: BTreeSet<u16> = (0..64).map(|_| reservations.reserve().expect("port").port()).collect();
        assert_eq!(ports.len(), 64);
        let one = SocketAddr::from((Ipv4Addr::LOCALHOST, *ports.first().expect("a port")));
        let stranger = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        assert!(stranger.bind(&one.into()).is_err(), "a stranger took a reserved port");
        assert!(TcpStream::connect(one).is_err(), "a reserved port took a connection");
    }

    #[test]
    fn a_component_that_shares_no_port_takes_its_own_too() {
        let mut reservations = Reservations::default();
        let address = reservations.reserve().expect("port");
        for _ in 0..3 {
            let listener = TcpListener::bind(address).expect("the reserved port");
            assert!(TcpListener::bind(address).is_err(), "two components on one port");
            let dialled = TcpStream::connect(address).expect("a connection");
            let (accepted, _) = listener.accept().expect("a connection");
            accepted.shutdown(std::net::Shutdown::Both).expect("closed first, to be the side that waits");
            assert_eq!(dialled.peer_addr().expect("an address"), address);
        }
    }

    #[test]
    fn a_component_takes_its_port_again_and_again() {
        let mut reservations = Reservations::default();
        let address = reservations.reserve().expect("port");
        for _ in 0..3 {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async {
                let listener = crate::shop::listen(address).expect("the reserved port");
                let (dialled, accepted) =
                    tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
                assert!(dialled.is_ok() && accepted.is_ok());
            });
        }
    }
}
