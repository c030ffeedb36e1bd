//! The workload's side: queries over UDP and TCP, each answered when its answer is there, in whatever order.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::{join, join_all, pending};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use meshwork_model::proxy::NameTable;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::Sockets;
use super::forward::Forwarder;
use super::limits::{CONNECTION_IDLE, CONNECTIONS, PIPELINED, QUERY_BYTES, SOCKET_PAUSE};
use super::query::{Asked, Transport, Unanswerable};
use super::table;

/// Where the current table comes from.
pub(super) type Names = Box<dyn Fn() -> Option<Arc<NameTable>> + Send + Sync>;

pub(super) struct Server {
    names: Names,
    forwarder: Arc<Forwarder>,
    /// One permit per TCP connection.
    connections: Semaphore,
}

impl Server {
    pub(super) fn new(names: Names, forwarder: Arc<Forwarder>) -> Self {
        Self { names, forwarder, connections: Semaphore::new(CONNECTIONS) }
    }

    pub(super) async fn run(self, sockets: Sockets) -> io::Result<Infallible> {
        let udp: Vec<_> = sockets.udp.into_iter().map(udp_socket).collect::<io::Result<_>>()?;
        let tcp: Vec<_> = sockets.tcp.into_iter().map(tcp_listener).collect::<io::Result<_>>()?;
        let over_udp = join_all(udp.iter().map(|socket| self.over_udp(socket)));
        let over_tcp = join_all(tcp.iter().map(|listener| self.over_tcp(listener)));
        join(over_udp, over_tcp).await;
        // They do not end, but there may be none.
        pending().await
    }

    /// The answer to a query: at once where the mesh knows it. `None` where there is nothing to say.
    async fn answer(&self, asked: Result<Asked, Unanswerable>) -> Option<Vec<u8>> {
        let asked = match asked {
            Ok(asked) => asked,
            Err(Unanswerable::With(reply)) => return Some(reply),
            Err(Unanswerable::Silently) => return None,
        };
        let table = (self.names)();
        let content = match table::answer(asked.name(), asked.record(), table.as_deref()) {
            Some(content) => Arc::new(content),
            None => self.forwarder.look_up(asked.question()).await,
        };
        Some(asked.reply(&content))
    }

    async fn over_udp(&self, socket: &UdpSocket) -> Infallible {
        let mut buffer = vec![0; QUERY_BYTES];
        // As many as the forwarder lets wait: all others have their answer before the next query is taken.
        let mut waiting = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some((client, reply)) = waiting.next() => send(socket, client, reply).await,
                received = socket.recv_from(&mut buffer) => match received {
                    Ok((length, client)) => {
                        let asked = Asked::read(&buffer[..length], Transport::Udp);
                        waiting.push(async move { (client, self.answer(asked).await) });
                    }
                    Err(_) => sleep(SOCKET_PAUSE).await,
                },
            }
        }
    }

    async fn over_tcp(&self, listener: &TcpListener) -> Infallible {
        let mut open = FuturesUnordered::new();
        loop {
            let accept = async { (self.connections.acquire().await, listener.accept().await) };
            tokio::select! {
                accepted = accept => match accepted {
                    (place, Ok((stream, _))) => open.push(async move {
                        let _place = place;
                        self.connection(stream).await;
                    }),
                    (_, Err(_)) => sleep(SOCKET_PAUSE).await,
                },
                Some(()) = open.next() => {}
            }
        }
    }

    /// Answers queries of a connection until its client has no more, is idle, or does not take its answers.
    async fn connection(&self, mut stream: TcpStream) {
        let mut inbox = Vec::new();
        let mut waiting = FuturesUnordered::new();
        let mut ended = false;
        loop {
            while waiting.len() < PIPELINED {
                match take_query(&mut inbox) {
                    Ok(Some(query)) => waiting.push(self.answer(Asked::read(&query, Transport::Tcp))),
                    Ok(None) => break,
                    Err(TooLong) => return,
                }
            }
            if ended && waiting.is_empty() {
                return;
            }
            let reply = tokio::select! {
                read = timeout(CONNECTION_IDLE, stream.read_buf(&mut inbox)), if !ended && waiting.len() < PIPELINED => {
                    // Whoever is still waited for is answered; nothing more is read.
                    ended = !matches!(read, Ok(Ok(1..)));
                    continue;
                }
                Some(reply) = waiting.next() => reply,
            };
            let Some(frame) = reply.as_deref().and_then(frame) else { continue };
            if !matches!(timeout(CONNECTION_IDLE, stream.write_all(&frame)).await, Ok(Ok(()))) {
                return;
            }
        }
    }
}

fn udp_socket(socket: std::net::UdpSocket) -> io::Result<UdpSocket> {
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

fn tcp_listener(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// A client that has gone, or whose network does not take the answer, asks again.
async fn send(socket: &UdpSocket, client: SocketAddr, reply: Option<Vec<u8>>) {
    if let Some(reply) = reply {
        let _ = socket.send_to(&reply, client).await;
    }
}

/// A query that is longer than any is.
#[derive(Debug, PartialEq, Eq)]
struct TooLong;

/// Takes the next whole query out of what has been received. Source: RFC 1035 §4.2.2.
fn take_query(inbox: &mut Vec<u8>) -> Result<Option<Vec<u8>>, TooLong> {
    let Some((length, rest)) = inbox.split_first_chunk() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes(*length));
    if length > QUERY_BYTES {
        return Err(TooLong);
    }
    let Some(query) = rest.get(..length).map(<[u8]>::to_vec) else { return Ok(None) };
    inbox.drain(..2 + length);
    Ok(Some(query))
}

fn frame(reply: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(reply.len()).ok()?;
    Some([&length.to_be_bytes()[..], reply].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_taken_whole_from_whatever_has_come() {
        let check = |inbox: &[u8], expected: Result<Option<&[u8]>, TooLong>, rest: &[u8]| {
            let mut bytes = inbox.to_vec();
            assert_eq!(take_query(&mut bytes), expected.map(|query| query.map(<[u8]>::to_vec)));
            assert_eq!(bytes, rest);
        };
        check(&[], Ok(None), &[]);
        check(&[0], Ok(None), &[0]);
        check(&[0, 2, 7], Ok(None), &[0, 2, 7]);
        check(&[0, 2, 7, 8, 0, 1], Ok(Some(&[7, 8])), &[0, 1]);
        check(&[0, 0, 5], Ok(Some(&[])), &[5]);
        check(&[0x10, 1, 5], Err(TooLong), &[0x10, 1, 5]);
    }
}
