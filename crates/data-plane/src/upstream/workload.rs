//! Connections to a workload in a network namespace of its own: through sockets that somebody made there.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use meshwork_model::proxy::{WORKLOAD_SOURCE_V4, WORKLOAD_SOURCE_V6};
use socket2::Socket;
use tokio::net::{TcpSocket, TcpStream};

/// Fresh TCP sockets of the workload's network namespace, neither bound nor connected.
///
/// A socket stays in the namespace that it was made in, whoever uses it; so the proxy connects to the workload without
/// ever entering its namespace. Asked once for each connection that is opened.
pub trait WorkloadSockets: std::fmt::Debug + Send + Sync {
    /// Takes one for this IP version; `None` while there is none. Never blocks.
    ///
    /// # Errors
    /// There will never be one again.
    fn take(&self, v6: bool) -> io::Result<Option<Socket>>;

    /// The socket that becomes readable when there is one; it does not block who reads from it.
    fn readable(&self, v6: bool) -> BorrowedFd<'_>;
}

/// Sockets of a workload, and the addresses that the proxy calls from.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    sockets: Arc<dyn WorkloadSockets>,
    from: [IpAddr; 2],
}

impl Workload {
    pub(crate) fn new(sockets: Arc<dyn WorkloadSockets>) -> Self {
        Self { sockets, from: [WORKLOAD_SOURCE_V4.into(), WORKLOAD_SOURCE_V6.into()] }
    }

    /// Connects to a program in the workload's network. Many listen on loopback of one IP version only: one that
    /// does not listen on 127.0.0.1 is looked for at `::1`.
    ///
    /// # Errors
    /// The kernel's, and that there are no sockets any more.
    pub(crate) async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let connected = self.connect_once(address).await;
        match connected {
            Err(error)
                if error.kind() == io::ErrorKind::ConnectionRefused
                    && address.is_ipv4()
                    && address.ip().is_loopback() =>
            {
                let other = SocketAddr::from((Ipv6Addr::LOCALHOST, address.port()));
                // What is said of the address that config names says more.
                self.connect_once(other).await.map_err(|_| error)
            }
            connected => connected,
        }
    }

    async fn connect_once(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let v6 = address.is_ipv6();
        let socket = self.take(v6).await?;
        socket.bind(&SocketAddr::new(self.from[usize::from(v6)], 0).into())?;
        socket.set_nonblocking(true)?;
        TcpSocket::from_std_stream(socket.into()).connect(address).await
    }

    async fn take(&self, v6: bool) -> io::Result<Socket> {
        loop {
            if let Some(socket) = self.sockets.take(v6)? {
                return Ok(socket);
            }
            // A descriptor of its own: others may be waiting here, too. It is only waited for, so that it does not
            // matter what kind of socket it is.
            let readable = UnixStream::from(self.sockets.readable(v6).try_clone_to_owned()?);
            readable.set_nonblocking(true)?;
            tokio::net::UnixStream::from_std(readable)?.readable().await?;
        }
    }
}

/// Whether two clusters are reached in the same network.
pub(crate) fn is_same(one: Option<&Workload>, other: Option<&Workload>) -> bool {
    one.map(|workload| Arc::as_ptr(&workload.sockets).cast::<()>())
        == other.map(|workload| Arc::as_ptr(&workload.sockets).cast::<()>())
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io::Write as _;
    use std::os::fd::AsFd as _;
    use std::sync::Mutex;

    use socket2::{Domain, Type};
    use tokio::net::TcpListener;

    use super::*;

    /// Sockets of this host, and a byte for each.
    #[derive(Debug)]
    struct Stock {
        sockets: Mutex<VecDeque<Socket>>,
        byte: UnixStream,
    }

    impl WorkloadSockets for Stock {
        fn take(&self, _: bool) -> io::Result<Option<Socket>> {
            Ok(self.sockets.lock().expect("whole").pop_front())
        }

        fn readable(&self, _: bool) -> BorrowedFd<'_> {
            self.byte.as_fd()
        }
    }

    fn socket(domain: Domain) -> Socket {
        Socket::new(domain, Type::STREAM, None).expect("made")
    }

    fn workload(sockets: impl IntoIterator<Item = Socket>) -> (Workload, Arc<Stock>, UnixStream) {
        let (byte, filling) = UnixStream::pair().expect("made");
        let stock = Arc::new(Stock { sockets: Mutex::new(sockets.into_iter().collect()), byte });
        let from = [IpAddr::from([127, 0, 0, 9]), Ipv6Addr::LOCALHOST.into()];
        (Workload { sockets: stock.clone(), from }, stock, filling)
    }

    #[tokio::test]
    async fn connections_come_from_an_address_that_is_not_the_programs_own() {
        let program = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let (workload, ..) = workload([socket(Domain::IPV4)]);
        let stream = workload.connect(program.local_addr().expect("bound")).await.expect("connected");
        let (_, remote) = program.accept().await.expect("accepted");
        assert_eq!(remote, stream.local_addr().expect("bound"));
        assert_eq!(remote.ip(), IpAddr::from([127, 0, 0, 9]));
    }

    #[tokio::test]
    async fn a_program_that_listens_on_the_other_loopback_is_found() {
        let program = TcpListener::bind("[::1]:0").await.expect("bound");
        let port = program.local_addr().expect("bound").port();
        let (workload, ..) = workload([socket(Domain::IPV4), socket(Domain::IPV6)]);
        workload.connect(([127, 0, 0, 1], port).into()).await.expect("connected");
        drop(program);
        let (workload, ..) = self::workload([socket(Domain::IPV4), socket(Domain::IPV6)]);
        let refused = workload.connect(([127, 0, 0, 1], port).into()).await.map(drop);
        assert_eq!(refused.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionRefused));
    }

    #[tokio::test]
    async fn a_connection_waits_for_a_socket() {
        let program = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = program.local_addr().expect("bound");
        let (workload, stock, mut filling) = workload([]);
        let filled = async {
            tokio::task::yield_now().await;
            stock.sockets.lock().expect("whole").push_back(socket(Domain::IPV4));
            filling.write_all(b"x").expect("written");
        };
        let (connected, ()) = tokio::join!(workload.connect(address), filled);
        connected.expect("connected");
    }
}
