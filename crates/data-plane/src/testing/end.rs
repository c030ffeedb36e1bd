//! What a test holds of a connection: it writes bytes and reads messages, and believes nothing.

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::time::timeout;

use super::{MemorySocket, settle};

/// A test's end of a connection with the proxy, or the half of it that reads.
pub(crate) struct End<S = MemorySocket> {
    pub(crate) socket: S,
    /// What was read and belongs to no message yet.
    pub(crate) left: Vec<u8>,
}

/// A message, its body decoded.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: String,
}

/// Why there is no whole message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The connection ended cleanly before its first byte.
    Closed,
    /// It ended within the message.
    Short,
    /// It was reset.
    Reset,
}

/// How a body's end is known.
enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

impl End {
    pub(crate) fn new(socket: MemorySocket) -> Self {
        Self { socket, left: Vec::new() }
    }

    /// Sends all of it.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).await.expect("the proxy reads");
    }

    /// Ends this direction; the other goes on.
    pub(crate) async fn finish(&mut self) {
        self.socket.shutdown().await.expect("open");
    }

    /// Whether nothing comes, once everything has gone on that could.
    pub(crate) async fn has_nothing(&mut self) -> bool {
        settle().await;
        self.left.is_empty() && poll_fn(|cx| Poll::Ready(self.socket.poll_read_ready(cx).is_pending())).await
    }

    /// Whether the connection ends by itself, in one way or the other, without any time passing.
    pub(crate) async fn is_over(&mut self) -> bool {
        timeout(Duration::from_millis(1), self.rest()).await.is_ok()
    }

    /// Both halves, for tests that read and write at the same time.
    pub(crate) fn split(self) -> (End<ReadHalf<MemorySocket>>, WriteHalf<MemorySocket>) {
        let (reading, writing) = split(self.socket);
        (End { socket: reading, left: self.left }, writing)
    }
}

impl<S: AsyncRead + Unpin> End<S> {
    /// The next message, whole.
    pub(crate) async fn receive(&mut self) -> Message {
        self.try_receive(false).await.expect("a message")
    }

    /// The next message, or why there is none; the answer to HEAD has no body, whatever it says.
    pub(crate) async fn try_receive(&mut self, is_to_head: bool) -> Result<Message, Cut> {
        let mut message = self.receive_head().await?;
        if !is_to_head && !matches!(message.status(), Some(100..200 | 204 | 304)) {
            self.receive_body(&mut message).await?;
        }
        Ok(message)
    }

    /// The next message's head.
    pub(crate) async fn receive_head(&mut self) -> Result<Message, Cut> {
        Ok(Message { head: self.head().await?, ..Message::default() })
    }

    /// The body behind a head.
    pub(crate) async fn receive_body(&mut self, message: &mut Message) -> Result<(), Cut> {
        match message.framing() {
            Framing::Length(length) => message.body = self.take(length).await?,
            Framing::Chunked => self.chunks(message).await?,
            Framing::UntilClose => message.body = self.rest().await?,
        }
        Ok(())
    }

    /// All bytes until the connection ends.
    pub(crate) async fn rest(&mut self) -> Result<Vec<u8>, Cut> {
        self.read_all().await?;
        Ok(std::mem::take(&mut self.left))
    }

    /// Reads until the connection ends; what came is in [`Self::left`], however it ended.
    pub(crate) async fn read_all(&mut self) -> Result<(), Cut> {
        while self.fill().await? {}
        Ok(())
    }

    /// So many bytes.
    pub(crate) async fn take(&mut self, length: usize) -> Result<Vec<u8>, Cut> {
        while self.left.len() < length {
            self.fill().await?.then_some(()).ok_or(Cut::Short)?;
        }
        Ok(self.left.drain(..length).collect())
    }

    /// A head, and so many bytes of what follows.
    pub(crate) async fn receive_head_and(&mut self, length: usize) -> String {
        self.head().await.expect("a head");
        String::from_utf8(self.take(length).await.expect("bytes")).expect("text")
    }

    async fn head(&mut self) -> Result<String, Cut> {
        let end = loop {
            if let Some(at) = self.left.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill().await? {
                return Err(if self.left.is_empty() { Cut::Closed } else { Cut::Short });
            }
        };
        Ok(String::from_utf8(self.left.drain(..end).collect()).expect("text"))
    }

    async fn chunks(&mut self, message: &mut Message) -> Result<(), Cut> {
        loop {
            let line = self.line().await?;
            let digits = line.trim_end().split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(digits, 16).expect("a chunk size");
            if size == 0 {
                break;
            }
            message.body.extend(self.take(size).await?);
            assert_eq!(self.take(2).await?, b"\r\n");
        }
        loop {
            match self.line().await?.as_str() {
                "\r\n" => return Ok(()),
                trailer => message.trailers += trailer,
            }
        }
    }

    async fn line(&mut self) -> Result<String, Cut> {
        loop {
            if let Some(at) = self.left.iter().position(|b| *b == b'\n') {
                return Ok(String::from_utf8(self.left.drain(..=at).collect()).expect("text"));
            }
            self.fill().await?.then_some(()).ok_or(Cut::Short)?;
        }
    }

    async fn fill(&mut self) -> Result<bool, Cut> {
        match self.socket.read_buf(&mut self.left).await {
            Ok(read) => Ok(read > 0),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Err(Cut::Reset),
            Err(error) => panic!("{error}"),
        }
    }
}

impl Message {
    /// The status, of a response.
    pub(crate) fn status(&self) -> Option<u16> {
        self.head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
    }

    /// The body as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// Source: RFC 9112 §6.3.
    fn framing(&self) -> Framing {
        if let Some(coding) = self.header("transfer-encoding") {
            assert_eq!((coding, self.header("content-length")), ("chunked", None));
            return Framing::Chunked;
        }
        match self.header("content-length") {
            Some(length) => Framing::Length(length.parse().expect("a number")),
            None if self.status().is_some() => Framing::UntilClose,
            None => Framing::Length(0),
        }
    }
}
