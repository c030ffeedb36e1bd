//! One question to one server: over UDP, and over TCP where UDP does not do.
//!
//! The socket is connected, so that the kernel drops what others send; its port and the id are random. What arrives in
//! spite of that and is no answer to the question is passed over, a few times.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use hickory_proto::op::{Message, ResponseCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use super::content::Content;
use super::limits::{QUERY_BYTES, STRAYS};
use super::query::{Question, decode};

/// Why a server was of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Unreachable(#[from] io::Error),
    #[error("it says {0}")]
    Declined(ResponseCode),
    #[error("its answer cannot be read")]
    Unreadable,
}

/// What a message from a server is to a question.
#[derive(Debug)]
enum Received {
    Answer(Message),
    /// Under our id, but not to be read.
    Garbage,
    /// Of somebody who guesses, or late.
    Stray,
}

/// Asks a server, without EDNS if it does not know that.
///
/// # Cancel safety
///
/// Dropping it closes the socket; a late answer reaches nobody.
pub(super) async fn ask(server: SocketAddr, question: Question) -> Result<Content, Failure> {
    let question = &question;
    let mut message = transmit(server, question, true).await?;
    // BADVERS is 16, which hickory reads as BADSIG.
    if matches!(message.response_code, ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADSIG) {
        message = transmit(server, question, false).await?;
    }
    match message.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain | ResponseCode::YXDomain => {
            Content::of_reply(question, message).ok_or(Failure::Unreadable)
        }
        code => Err(Failure::Declined(code)),
    }
}

async fn transmit(server: SocketAddr, question: &Question, edns: bool) -> Result<Message, Failure> {
    let query = question.message(edns);
    let bytes = query.to_vec().map_err(|_| Failure::Unreadable)?;
    let id = query.metadata.id;
    match over_udp(server, question, id, &bytes).await? {
        Some(message) => Ok(message),
        None => over_tcp(server, question, id, &bytes).await,
    }
}

/// `None` where TCP is to be tried: the answer is longer, or cannot be told from guesses.
async fn over_udp(
    server: SocketAddr,
    question: &Question,
    id: u16,
    query: &[u8],
) -> Result<Option<Message>, Failure> {
    let any = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; QUERY_BYTES];
    for _ in 0..STRAYS {
        let length = socket.recv(&mut buffer).await?;
        match Received::of(&buffer[..length], question, id) {
            Received::Answer(message) if message.truncation => return Ok(None),
            Received::Answer(message) => return Ok(Some(message)),
            Received::Garbage => return Ok(None),
            Received::Stray => {}
        }
    }
    Ok(None)
}

async fn over_tcp(
    server: SocketAddr,
    question: &Question,
    id: u16,
    query: &[u8],
) -> Result<Message, Failure> {
    let mut stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let length = u16::try_from(query.len()).map_err(|_| Failure::Unreadable)?;
    stream.write_all(&[&length.to_be_bytes()[..], query].concat()).await?;
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await?;
    match Received::of(&bytes, question, id) {
        Received::Answer(message) => Ok(message),
        Received::Garbage | Received::Stray => Err(Failure::Unreadable),
    }
}

impl Received {
    fn of(bytes: &[u8], question: &Question, id: u16) -> Self {
        if !bytes.starts_with(&id.to_be_bytes()) {
            return Self::Stray;
        }
        match decode(bytes) {
            Some(message) if question.is_answered_by(id, &message) => Self::Answer(message),
            Some(_) => Self::Stray,
            None => Self::Garbage,
        }
    }
}

#[cfg(test)]
pub(super) fn is_accepted(bytes: &[u8], question: &Question, id: u16) -> Option<Content> {
    match Received::of(bytes, question, id) {
        Received::Answer(message) => Content::of_reply(question, message),
        Received::Garbage | Received::Stray => None,
    }
}
