//! A request of the proxy's own: to a cluster by name, over the worker's pools, with a bounded answer.
//!
//! For services that a filter asks (external authorization, rate limits) and for keys that are fetched. The request has
//! one whole body, and so has its answer; whoever stops waiting ends both. No filter and no route has a word on it.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use meshwork_model::head::{Fields, RequestHead, ResponseHead};
use meshwork_model::times::{GRPC_TIMEOUT, grpc_timeout_text};
use tokio::time::timeout;

use super::body::{Frame, Length};
use super::codec::{Answer, Side as _, Upstream};
use crate::error::{Kind, ProxyError, Retry};
use crate::limits::{CALL_BYTES, INTERIM_RESPONSES, STALE_RETRIES};
use crate::record::OpenConnection;
use crate::upstream::Lease;
use crate::worker::Worker;

const GRPC: &[u8] = b"application/grpc";

/// A request of the proxy's own.
pub(crate) struct Call<'a> {
    /// The cluster that is asked.
    pub(crate) cluster: &'a str,
    /// The request's head; it may say that there is no body, where one is expected.
    pub(crate) head: &'a RequestHead,
    /// Its body.
    pub(crate) body: Bytes,
    /// How long the answer is waited for, connecting included.
    pub(crate) timeout: Duration,
}

/// What came back.
#[derive(Default)]
pub(crate) struct Answered {
    /// The response's head.
    pub(crate) head: ResponseHead,
    /// Its body, of [`CALL_BYTES`] at most.
    pub(crate) body: Bytes,
    /// Its trailers.
    pub(crate) trailers: Fields,
}

/// Asks, and waits for the whole answer.
///
/// # Errors
/// Nobody could be asked, or no whole answer came in time. A status is none.
///
/// # Cancel safety
/// Dropped, it ends the request; its connection is not used again.
pub(crate) async fn call(worker: &Rc<Worker>, ask: &Call<'_>) -> Result<Answered, ProxyError> {
    let answered = timeout(ask.timeout, try_twice(worker, ask)).await;
    answered.unwrap_or_else(|_| Err(ProxyError::fatal(Kind::Timeout)))
}

/// Makes a unary gRPC call.
///
/// # Errors
/// As [`call`]; also where the service gives a status other than OK.
pub(crate) async fn grpc(
    worker: &Rc<Worker>,
    cluster: &str,
    authority: Option<&str>,
    method: &str,
    message: &[u8],
    timeout: Duration,
) -> Result<Bytes, ProxyError> {
    let mut head = RequestHead::default();
    head.set_method(b"POST");
    head.set_authority(authority.unwrap_or(cluster).as_bytes());
    head.set_path_and_query(method.as_bytes());
    head.fields.push(b"te", b"trailers");
    head.fields.push(b"content-type", GRPC);
    let (count, unit) = grpc_timeout_text(timeout);
    head.fields.push(GRPC_TIMEOUT, format!("{count}{}", char::from(unit)).as_bytes());
    let mut body = BytesMut::with_capacity(message.len() + 5);
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len()).map_err(|_| too_long())?);
    body.put_slice(message);
    let answered = call(worker, &Call { cluster, head: &head, body: body.freeze(), timeout }).await?;
    answered.grpc_message()
}

/// A pooled connection may have gone stale; then the request is sent on a new one.
async fn try_twice(worker: &Rc<Worker>, ask: &Call<'_>) -> Result<Answered, ProxyError> {
    let mut left = STALE_RETRIES;
    loop {
        match attempt(worker, ask, left < STALE_RETRIES).await {
            Err(error) if left > 0 && error.retry != Retry::Never => left -= 1,
            ended => return ended,
        }
    }
}

async fn attempt(worker: &Rc<Worker>, ask: &Call<'_>, fresh: bool) -> Result<Answered, ProxyError> {
    let unknown = || ProxyError::fatal(Kind::NoCluster(ask.cluster.into()));
    let cluster = worker.cluster(ask.cluster).ok_or_else(unknown)?;
    let picked = cluster.pick_own(worker.random())?;
    let mut lease = match Lease::take(picked, fresh) {
        Ok(lease) => lease,
        Err(picked) => {
            Lease::open(picked, |_| OpenConnection::uncounted()).await.map_err(|(error, _)| error)?
        }
    };
    let mut talk = Talk { answered: Answered::default(), body: Some(&ask.body), is_answered: false };
    talk.send_head(&mut lease.upstream, ask.head)?;
    let sent = poll_fn(|cx| talk.poll(cx, &mut lease.upstream)).await;
    match sent {
        Ok(()) => {
            lease.release(tokio::time::Instant::now());
            Ok(talk.answered)
        }
        // One that had served before may have been closed meanwhile.
        Err(error) if error.retry == Retry::IfRepeatable && !lease.is_reused => {
            Err(ProxyError { retry: Retry::Never, ..error })
        }
        Err(error) => Err(error),
    }
}

/// Asks over an upstream that is nobody else's, and waits for the whole answer.
///
/// # Errors
/// No whole answer came.
pub(crate) async fn exchange(
    upstream: &mut Upstream,
    head: &RequestHead,
    body: &Bytes,
) -> Result<Answered, ProxyError> {
    let mut talk = Talk { answered: Answered::default(), body: Some(body), is_answered: false };
    talk.send_head(upstream, head)?;
    poll_fn(|cx| talk.poll(cx, upstream)).await?;
    Ok(talk.answered)
}

/// A request on its way, and its answer.
struct Talk<'a> {
    answered: Answered,
    /// What has not been sent.
    body: Option<&'a Bytes>,
    is_answered: bool,
}

impl Talk<'_> {
    fn send_head(&self, upstream: &mut Upstream, head: &RequestHead) -> Result<(), ProxyError> {
        let says_length = || head.fields.find(b"content-length").is_some();
        let length = match self.body {
            // A message is one of a stream, even where it is the only one.
            Some(_) if head.fields.find(b"content-type") == Some(GRPC) => Length::Unknown,
            Some(body) if !body.is_empty() || says_length() => Length::Known(body.len() as u64),
            _ => Length::None,
        };
        upstream.send_head(head, length, None)
    }

    /// Ready when the answer is whole.
    fn poll(&mut self, cx: &mut Context<'_>, upstream: &mut Upstream) -> Poll<Result<(), ProxyError>> {
        self.poll_send(cx, upstream)?;
        let mut interim = 0;
        while !self.is_answered {
            match std::task::ready!(upstream.poll_head(cx, &mut self.answered.head))? {
                Answer::Final(_) => self.is_answered = true,
                Answer::Interim if interim < INTERIM_RESPONSES => interim += 1,
                Answer::Interim | Answer::Switched => {
                    return Poll::Ready(Err(ProxyError::fatal(Kind::BadResponse("no answer".into()))));
                }
            }
        }
        let mut whole = BytesMut::from(std::mem::take(&mut self.answered.body));
        let ended = loop {
            match upstream.poll_frame(cx)? {
                Poll::Pending => break Poll::Pending,
                Poll::Ready(None) => break Poll::Ready(Ok(())),
                Poll::Ready(Some(Frame::Trailers(trailers))) => self.answered.trailers = trailers,
                Poll::Ready(Some(Frame::Data(data))) if whole.len() + data.len() > CALL_BYTES => {
                    return Poll::Ready(Err(too_long()));
                }
                Poll::Ready(Some(Frame::Data(data))) => whole.put_slice(&data),
            }
        };
        self.answered.body = whole.freeze();
        ended
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, upstream: &mut Upstream) -> Result<(), ProxyError> {
        if let Some(body) = self.body
            && upstream.poll_ready(cx)?.is_ready()
        {
            if !body.is_empty() {
                upstream.send(Frame::Data(body.clone()))?;
            }
            upstream.finish()?;
            self.body = None;
        }
        // What comes back says more than that it took no more.
        let _ = upstream.poll_flush(cx)?;
        Ok(())
    }
}

impl Answered {
    /// The one message of a gRPC answer.
    pub(crate) fn grpc_message(mut self) -> Result<Bytes, ProxyError> {
        let bad = |what: String| ProxyError::fatal(Kind::BadResponse(what.into()));
        if self.head.status != 200 {
            return Err(bad(format!("the gRPC service answered with the HTTP status {}", self.head.status)));
        }
        let status = self.trailers.find(b"grpc-status").or_else(|| self.head.fields.find(b"grpc-status"));
        if status != Some(b"0") {
            let status = String::from_utf8_lossy(status.unwrap_or(b"none")).into_owned();
            return Err(bad(format!("the gRPC service answered with the status {status}")));
        }
        if self.body.len() < 5 || self.body.get_u8() != 0 {
            return Err(bad("the gRPC service sent no message, or a compressed one".into()));
        }
        let length = self.body.get_u32() as usize;
        if self.body.len() != length {
            return Err(bad("the gRPC service did not send one message".into()));
        }
        Ok(self.body)
    }
}

fn too_long() -> ProxyError {
    ProxyError::fatal(Kind::BadResponse("the message is too long".into()))
}
