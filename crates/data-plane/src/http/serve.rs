//! An HTTP connection: finds out which version is spoken, and runs one exchange per request.
//!
//! HTTP/1: one after the other, in the connection's own task. HTTP/2: a task per stream beside the task that drives
//! the connection.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use meshwork_model::head::RequestHead;
use meshwork_model::proxy::{Codec, HttpConnection};
use meshwork_telemetry::Refusal;
use tokio::task::{JoinSet, spawn_local};
use tokio::time::Instant;
use tracing::warn;

use super::body::Length;
use super::codec::{Downstream, h1, h2};
use super::exchange::{Exchange, Place};
use super::lend::{self, Heads, LentHeads};
use crate::config::{Chain, Filter, HttpChain};
use crate::connection::{Peer, Seat};
use crate::error::{Kind, ProxyError};
use crate::limits::{
    CONNECTION_IDLE, EXCHANGE_IDLE, H2_ENDING, H2_STREAMS, HEAD_READ, LINGER, RETIRED_QUIET,
};
use crate::timer::Timer;
use crate::transport::{Rewound, Transport};

/// What an HTTP/2 client sends first. Source: RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves an HTTP connection to its end; `ahead` is what was read of it already, `alpn` the protocol
/// that the handshake agreed on.
///
/// # Errors
/// The connection broke, or the client does not speak HTTP.
pub(crate) async fn serve(
    mut seat: Seat,
    peer: Rc<Peer>,
    transport: Transport,
    ahead: BytesMut,
    alpn: Option<&[u8]>,
) -> Result<(), ProxyError> {
    let mut connection = h1::ServerConnection::resumed(ahead, transport);
    let config = &http(&seat.chain).config;
    connection.allow(head_limits(config), config.http1.trailers);
    let is_h2 = match (http(&seat.chain).config.codec, alpn) {
        (Codec::Http2, _) | (Codec::Auto, Some(b"h2")) => true,
        (Codec::Http1, _) | (Codec::Auto, Some(_)) => false,
        (Codec::Auto, None) => match begins_with_preface(&mut seat, &mut connection).await? {
            Some(is_h2) => is_h2,
            None => return Ok(()),
        },
    };
    if is_h2 {
        let (inbox, transport) = connection.into_parts();
        Box::pin(serve_h2(seat, peer, Rewound::new(inbox, transport))).await
    } else {
        serve_h1(seat, &peer, connection).await
    }
}

/// The HTTP part of a chain that was chosen for HTTP.
fn http(chain: &Chain) -> &HttpChain {
    match &chain.filter {
        Filter::Http(http) => http,
        Filter::Tcp(_) => unreachable!("a seat moves along between chains of one kind only"),
    }
}

fn idle_timeout(chain: &Chain) -> Duration {
    http(chain).config.idle_timeout.unwrap_or(CONNECTION_IDLE)
}

/// From a request's first byte to the end of its head. Source: Envoy `request_headers_timeout`, and else
/// `stream_idle_timeout`, which counts from the first byte, too.
fn head_timeout(chain: &Chain) -> Duration {
    let config = &http(chain).config;
    let idle = config.stream_idle_timeout.filter(|idle| !idle.is_zero()).unwrap_or(EXCHANGE_IDLE);
    config.request_headers_timeout.map_or(idle, |limit| limit.min(idle))
}

fn head_limits(config: &HttpConnection) -> h1::HeadLimits {
    let usual = h1::HeadLimits::default();
    h1::HeadLimits {
        bytes: config.limits.head_bytes.unwrap_or(usual.bytes),
        fields: config.limits.fields.unwrap_or(usual.fields),
    }
}

/// When a connection that begins now has to end, where config says so.
fn connection_end(chain: &Chain) -> Option<Instant> {
    http(chain).config.limits.connection_duration.map(|most| Instant::now() + most)
}

/// Reads until it is clear whether the client speaks HTTP/2; `None`: the connection is over.
async fn begins_with_preface(
    seat: &mut Seat,
    connection: &mut h1::ServerConnection,
) -> Result<Option<bool>, ProxyError> {
    let mut timer = Timer::default();
    timer.set(Some(Instant::now() + idle_timeout(&seat.chain)));
    let mut has_begun = false;
    poll_fn(|cx| {
        if let Poll::Ready(begins) = connection.poll_begins_with(cx, PREFACE) {
            return Poll::Ready(begins.map(Some));
        }
        if connection.has_begun() && !has_begun {
            has_begun = true;
            timer.set(Some(Instant::now() + head_timeout(&seat.chain)));
        }
        let is_late = timer.poll_expired(cx).is_ready();
        if is_late || !has_begun && seat.must_end() { Poll::Ready(Ok(None)) } else { Poll::Pending }
    })
    .await
}

// === HTTP/1 ===

/// Serves HTTP/1. Not `async` itself, for then what it takes would lie in the connection's task twice.
fn serve_h1(
    mut seat: Seat,
    peer: &Peer,
    mut connection: h1::ServerConnection,
) -> impl Future<Output = Result<(), ProxyError>> {
    let end = connection_end(&seat.chain);
    async move {
        let mut timer = Timer::default();
        let mut since = Instant::now();
        let mut served = 0_u32;
        loop {
            let idle = since + idle_timeout(&seat.chain);
            timer.set(Some(end.map_or(idle, |end| end.min(idle))));
            let next = next_request(&mut seat, &mut connection, &mut timer, since).await;
            served = served.saturating_add(1);
            let is_last = http(&seat.chain).config.limits.requests.is_some_and(|most| served >= most);
            if is_last || end.is_some_and(|end| end <= Instant::now()) {
                connection.close_after_answer();
            }
            if seat.must_end() || seat.is_retired() || seat.worker.overload().is_shedding() {
                connection.close_after_answer();
            }
            let (mut heads, asked) = match next {
                Ok(None) => break,
                // The config that the connection was accepted under is gone: nothing is judged by it any more.
                Ok(Some(_)) if seat.move_along().is_err() => break,
                Ok(Some((heads, length))) => (heads, Ok(length)),
                // Nothing can be said to one who is not there.
                Err(ProxyError { kind: Kind::DownstreamGone | Kind::DownstreamBroken(_), .. }) => {
                    return Ok(());
                }
                Err(error) => {
                    connection.give_up();
                    (lend::heads(), Err(error))
                }
            };
            let chain = &*seat.chain;
            let place = Place { worker: &seat.worker, peer, chain, http: http(chain) };
            let mut exchange = Exchange::new(place, Downstream::h1(&mut connection), &mut heads, &mut timer);
            since = match asked {
                Ok(length) => exchange.run(length).await,
                Err(error) => Box::pin(exchange.fail(error)).await,
            };
            drop(exchange);
            if !connection.is_reusable() {
                break;
            }
            connection.rest();
        }
        let linger = http(&seat.chain).config.delayed_close_timeout.unwrap_or(LINGER);
        Box::pin(connection.close(linger)).await;
        Ok(())
    }
}

/// Waits for a request; `None` when the connection is over: the client left, or nothing came for too long (for a while,
/// where it is retired) after `since`, or it has to end.
async fn next_request(
    seat: &mut Seat,
    connection: &mut h1::ServerConnection,
    timer: &mut Timer,
    since: Instant,
) -> Result<Option<(LentHeads, Length)>, ProxyError> {
    let mut has_begun = false;
    poll_fn(|cx| {
        if let Poll::Ready(next) = connection.poll_request(cx) {
            return Poll::Ready(next);
        }
        if connection.has_begun() && !has_begun {
            has_begun = true;
            timer.set(Some(Instant::now() + head_timeout(&seat.chain)));
        }
        if !has_begun && seat.is_retired() {
            timer.hasten(since + RETIRED_QUIET);
        }
        if timer.poll_expired(cx).is_ready() {
            let late = ProxyError::fatal(Kind::RequestTimeout);
            return Poll::Ready(if has_begun { Err(late) } else { Ok(None) });
        }
        if !has_begun && seat.must_end() { Poll::Ready(Ok(None)) } else { Poll::Pending }
    })
    .await
}

// === HTTP/2 ===

async fn serve_h2(mut seat: Seat, peer: Rc<Peer>, transport: Rewound) -> Result<(), ProxyError> {
    let config = Arc::clone(&http(&seat.chain).config);
    let beginning = tokio::time::timeout(HEAD_READ, h2::ServerConnection::begin(transport, &config)).await;
    let most_streams = config.http2.most_streams.unwrap_or(H2_STREAMS);
    let last = connection_end(&seat.chain);
    let mut served = 0_u32;
    let mut connection = beginning.map_err(|_| ProxyError::fatal(Kind::RequestTimeout))??;
    // Aborts what is left of the streams when the connection ends.
    let mut streams = JoinSet::new();
    let mut timer = Timer::default();
    // When the connection is broken off, once it has been asked to end: a client need not answer that.
    let mut ending = None;
    let mut is_retired = false;
    let ended = loop {
        let idle = Instant::now() + idle_timeout(&seat.chain);
        timer.set(Some(ending.unwrap_or(last.map_or(idle, |last| last.min(idle)))));
        let mut head = RequestHead::default();
        let next = poll_fn(|cx| {
            while let Poll::Ready(Some(_)) = streams.poll_join_next(cx) {}
            let must_end = seat.must_end();
            if seat.is_retired() && !is_retired {
                // Streams that are under way have the time that they need.
                connection.end_gracefully();
                is_retired = true;
            }
            if timer.poll_expired(cx).is_ready() {
                if ending.is_some() {
                    return Poll::Ready(None);
                }
                if streams.is_empty() || last.is_some_and(|last| last <= Instant::now()) {
                    end(&mut connection, &mut ending);
                }
                timer.set(Some(ending.unwrap_or_else(|| Instant::now() + idle_timeout(&seat.chain))));
                let _ = timer.poll_expired(cx);
            } else if must_end && ending.is_none() {
                end(&mut connection, &mut ending);
                timer.set(ending);
                let _ = timer.poll_expired(cx);
            }
            connection.poll_request(cx, &mut head)
        });
        let (mut stream, length) = match next.await {
            None => break Ok(()),
            Some(Err(error)) if matches!(error.kind, Kind::Flood(_)) => break Err(error),
            Some(request) => request?,
        };
        // What the client sent before it knew that the connection ends is served, but only under the config of now.
        if streams.len() >= most_streams as usize || seat.move_along().is_err() {
            stream.refuse();
            continue;
        }
        served = served.saturating_add(1);
        if config.limits.requests.is_some_and(|most| served >= most) && ending.is_none() {
            end(&mut connection, &mut ending);
        }
        let chain = Arc::clone(&seat.chain);
        let stream = serve_stream(Rc::clone(&seat.worker), Rc::clone(&peer), chain, stream, head, length);
        streams.spawn_local(stream);
    };
    if let Err(flood) = &ended {
        note_flood(&seat, &peer, flood);
        drop(spawn_local(connection.close()));
    }
    // The connection is over for new requests; what its streams still have to write was driven above.
    drop(spawn_local(async move { while streams.join_next().await.is_some() {} }));
    ended
}

/// Counts a connection that its client has flooded, and tells of it.
fn note_flood(seat: &Seat, peer: &Peer, flood: &ProxyError) {
    seat.worker.registry.count_refusal(Refusal::Flood);
    if let Some(untold) = seat.worker.floods.arises() {
        warn!(remote = %peer.address, untold, "ended a connection: {} (MW0109)", flood.kind);
    }
}

/// Asks the client to go elsewhere, and sets when the connection is broken off.
fn end(connection: &mut h2::ServerConnection, ending: &mut Option<Instant>) {
    connection.end_gracefully();
    *ending = Some(Instant::now() + H2_ENDING);
}

async fn serve_stream(
    worker: Rc<crate::worker::Worker>,
    peer: Rc<Peer>,
    chain: Arc<Chain>,
    stream: h2::ServerStream,
    request: RequestHead,
    length: Result<Length, ProxyError>,
) {
    let mut heads = Heads { request, ..Heads::default() };
    let mut timer = Timer::default();
    let place = Place { worker: &worker, peer: &peer, chain: &chain, http: http(&chain) };
    let mut exchange = Exchange::new(place, Downstream::h2(stream), &mut heads, &mut timer);
    match length {
        Ok(length) => exchange.run(length).await,
        Err(error) => exchange.fail(error).await,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Past it, an idle connection would cost more than the aim of 4.5 KiB, its socket's and its timer's registration
    /// included.
    const RESIDENT_BYTES: usize = 2304;

    fn size_of_future<A, B, C, F: Future>(_: impl FnOnce(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_task_of_a_connection_is_small() {
        let size = size_of_future::<Seat, &'static Peer, h1::ServerConnection, _>(serve_h1);
        assert!(size <= RESIDENT_BYTES, "{size} bytes: put a rare part into a box of its own");
    }
}
