//! Forwarding: picks an endpoint, sends the request, and moves both bodies until the response is complete.
//!
//! One task carries both sides. [`move_on`] advances one direction as far as it goes; what was taken from one side
//! leaves on the other before anybody waits, so that nothing is held back but what back-pressure demands.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use meshwork_model::format::Point;
use meshwork_model::head::{RequestHead, ResponseHead};
use meshwork_model::proxy::{self, HttpConnection};
use meshwork_telemetry::Protocol;
use tokio::time::Instant;
use tracing::debug;

use super::body::{Frame, Length};
use super::codec::{Answer, Downstream, Side, Upstream};
use super::exchange::Place;
use super::fields;
use super::filters::Passed;
use super::mirror::Copies;
use super::pace::{Pace, Progress, Turn};
use super::taken::Taken;
use crate::error::{self, Kind, ProxyError, Retry};
use crate::facts::Seen;
use crate::limits::{CONNECT_TRIES, EXCHANGE_IDLE, INTERIM_RESPONSES, STALE_RETRIES, STREAM_IDLE};
use crate::policy::Authorized;
use crate::record::{OpenConnection, Record, grpc_status};
use crate::timer::Timer;
use crate::upstream::{Host, Lease, Picked, Wanted, WorkerCluster};

/// Whether applications are told what the client asked for where that is rewritten (`x-envoy-original-path`).
const TELLS_ORIGINALS: bool = false;

/// A request that may be forwarded, and what it is forwarded with.
pub(super) struct Call<'c, 'x> {
    pub(super) place: Place<'c>,
    pub(super) action: &'c proxy::Forward,
    /// The route, and which of its clusters.
    pub(super) taken: Taken<'c>,
    pub(super) authorized: Authorized<'c>,
    pub(super) downstream: &'c mut Downstream<'x>,
    pub(super) response: &'c mut ResponseHead,
    /// Room for the request as it is forwarded, where that is not just what was judged.
    pub(super) outgoing: &'c mut RequestHead,
    pub(super) timer: &'c mut Timer,
    pub(super) record: &'c mut Record,
    /// Filters that still have a word on the response.
    pub(super) passed: Option<&'c mut Passed>,
    pub(super) course: Course,
    /// The request is forwarded as it stands in `outgoing`.
    pub(super) is_rewritten: bool,
    /// What else the route asks for.
    pub(super) extra: Option<Box<Extra>>,
}

/// What few routes ask for.
#[derive(Default)]
pub(super) struct Extra {
    /// Copies of the request.
    copies: Option<Box<Copies>>,
    /// Cookies that the client is told to bring next time.
    cookies: Vec<Vec<u8>>,
    /// What an endpoint is picked by.
    hash: Option<u64>,
}

/// How far an exchange is.
pub(super) struct Course {
    /// How far the request's body is.
    flow: Flow,
    /// Whether anybody is too slow.
    pace: Pace,
    /// How long no byte may move, where config says so.
    idle: Option<Duration>,
    is_half_closed: bool,
}

/// How far one direction is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flow {
    /// Frames may come.
    Open,
    /// All were taken; the last ones are leaving.
    Leaving,
    /// All have left.
    Ended,
    /// The other side takes no more.
    Cut,
}

/// How far one direction came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Moved {
    /// All of it has left.
    All,
    /// No more has come so far.
    SenderQuiet,
    /// No more is taken for now.
    ReceiverFull,
}

/// Another try, or the error that ends it.
enum Failed {
    Again { fresh: bool, failed: Option<Picked> },
    Over(ProxyError),
}

impl Flow {
    fn of(length: Length) -> Self {
        if length.is_empty() { Self::Leaving } else { Self::Open }
    }
}

impl Course {
    /// Of a request with a body of this length, on a connection whose client has taken `sent` bytes; `idle` is how long
    /// no byte may move, where config says so.
    pub(super) fn begin(started: Instant, length: Length, idle: Option<Duration>, sent: u64) -> Self {
        // A config that sets no limit gets the widest.
        let idle = idle.map(|idle| if idle.is_zero() { STREAM_IDLE } else { idle });
        let pace = Pace::new(started, idle.unwrap_or(EXCHANGE_IDLE), sent);
        Self { flow: Flow::of(length), pace, idle, is_half_closed: false }
    }
}

impl Call<'_, '_> {
    /// Sends the request to an endpoint and waits for the response's head.
    ///
    /// What never reached the application is tried again, on another endpoint where there is one.
    ///
    /// # Errors
    /// The last try's.
    pub(super) async fn forward(&mut self, length: Length) -> Result<(Lease, Answer), ProxyError> {
        let worker = self.place.worker;
        let name = self.taken.cluster(self.authorized.head());
        let cluster = worker.cluster(name).ok_or_else(|| self.taken.unknown(name))?;
        self.record.note_cluster(&cluster);
        if self.taken.route.terms.is_some() {
            self.take_route();
        }
        let retry = self.action.resilience.retry.as_deref();
        let retry = retry.filter(|retry| retry.on.has(proxy::RetryOn::CONNECT_FAILURE));
        let connects = retry.map_or(0, |retry| retry.retries).min(CONNECT_TRIES);
        let (mut connects_left, mut stale_left) = (connects, STALE_RETRIES);
        let (mut fresh, mut failed) = (false, None);
        loop {
            let picked = self.pick(&cluster, failed.as_ref())?;
            match self.attempt(picked, length, fresh, &mut connects_left, &mut stale_left).await {
                Ok(answered) => return Ok(answered),
                Err(Failed::Over(error)) => return Err(error),
                Err(Failed::Again { fresh: f, failed: g }) => (fresh, failed) = (f, g),
            }
        }
    }

    /// Does what the route says before the first try.
    fn take_route(&mut self) {
        let (taken, judged, peer) = (self.taken, self.authorized.head(), self.place.peer);
        if taken.changes_request() {
            let seen = Seen::of(self.place, self.record, judged, self.downstream.protocol());
            self.authorized.rewrite(taken, &seen, TELLS_ORIGINALS, self.outgoing);
            self.is_rewritten = true;
        }
        let mut extra = Extra::default();
        extra.hash = taken.hash(judged, peer, &mut extra.cookies);
        extra.copies = Copies::of(taken.mirrors(), self.head(), self.action.timeout, taken.random.into());
        if extra.hash.is_some() || extra.copies.is_some() {
            self.extra = Some(Box::new(extra));
        }
    }

    /// The request as it is forwarded.
    fn head(&self) -> &RequestHead {
        if self.is_rewritten { self.outgoing } else { self.authorized.head() }
    }

    /// Changes the response's head as the route says.
    fn change_response(&mut self) {
        let request = if self.is_rewritten { &*self.outgoing } else { self.authorized.head() };
        let seen = Seen::of(self.place, self.record, request, self.downstream.protocol());
        self.taken.change_response(self.response, &seen);
        for cookie in self.extra.iter().flat_map(|extra| &extra.cookies) {
            self.response.fields.push(b"set-cookie", cookie);
        }
    }

    /// The endpoint's name becomes the host, where it has one.
    fn name_endpoint(&mut self, picked: &Picked) {
        let name = &picked.endpoint().config.hostname;
        if name.is_empty() {
            return;
        }
        if !self.is_rewritten {
            self.outgoing.copy_from(self.authorized.head());
            self.is_rewritten = true;
        }
        self.taken.set_host(self.outgoing, name.as_bytes(), TELLS_ORIGINALS);
    }

    fn pick(&mut self, cluster: &Rc<WorkerCluster>, failed: Option<&Picked>) -> Result<Picked, ProxyError> {
        let Place { worker, peer, .. } = self.place;
        let has_failed = |host: &Host| failed.is_some_and(|failed| failed.is_of(host));
        let avoid: Option<&dyn Fn(&Host) -> bool> = if failed.is_some() { Some(&has_failed) } else { None };
        let wanted = Wanted {
            avoid,
            again: u32::MAX,
            is_h2: self.downstream.is_h2(),
            random: worker.random(),
            hash: self.extra.as_ref().and_then(|extra| extra.hash),
            subset: self.taken.subset(),
        };
        let picked = cluster.pick_for(peer, &wanted)?;
        if self.taken.wants_endpoint_name() {
            self.name_endpoint(&picked);
        }
        self.record.note_endpoint(&picked);
        Ok(picked)
    }

    async fn attempt(
        &mut self,
        picked: Picked,
        length: Length,
        fresh: bool,
        connects_left: &mut u32,
        stale_left: &mut u32,
    ) -> Result<(Lease, Answer), Failed> {
        let mut lease = self.connect(picked, fresh, connects_left).await?;
        match self.ask(&mut lease.upstream, length).await {
            Ok(answer) => Ok((lease, answer)),
            Err(error) if *stale_left > 0 && self.may_ask_again(&lease, &error, length) => {
                *stale_left -= 1;
                self.course.flow = Flow::of(length);
                Err(Failed::Again { fresh: true, failed: None })
            }
            Err(error) => Err(Failed::Over(error)),
        }
    }

    /// Takes a connection that waits, or opens one.
    async fn connect(
        &mut self,
        picked: Picked,
        fresh: bool,
        connects_left: &mut u32,
    ) -> Result<Lease, Failed> {
        let picked = match Lease::take(picked, fresh) {
            Ok(lease) => return Ok(lease),
            Err(picked) => picked,
        };
        // Rare beside the requests that find a connection: apart, so that those do not carry its memory.
        Box::pin(self.open(picked, fresh, connects_left)).await
    }

    /// Opens a connection, unless the client leaves meanwhile.
    async fn open(&mut self, picked: Picked, fresh: bool, connects_left: &mut u32) -> Result<Lease, Failed> {
        let Place { worker, peer, .. } = self.place;
        let is_grpc = self.authorized.head().is_grpc();
        let protocol = if is_grpc { Protocol::Grpc } else { Protocol::Http };
        let opened = |picked: &Picked| OpenConnection::opened(worker, peer, picked, protocol);
        let mut opening = pin!(Lease::open(picked, opened));
        let lease = poll_fn(|cx| match opening.as_mut().poll(cx) {
            Poll::Ready(lease) => Poll::Ready(Ok(lease)),
            Poll::Pending if self.downstream.is_request_ended() => self.poll_left(cx).map(Err),
            Poll::Pending => Poll::Pending,
        });
        match lease.await {
            Ok(Ok(lease)) => Ok(lease),
            Ok(Err((error, picked))) if error.retry == Retry::Safe && *connects_left > 0 => {
                *connects_left -= 1;
                debug!(endpoint = %picked.endpoint().config.address, error = %error.kind, "tries another");
                Err(Failed::Again { fresh, failed: Some(picked) })
            }
            Ok(Err((error, _))) | Err(error) => Err(Failed::Over(error)),
        }
    }

    /// Ready when the client has left, as far as that can be told while nothing is sent to it.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<ProxyError> {
        if let Poll::Ready(gone) = self.downstream.poll_gone(cx) {
            return Poll::Ready(gone);
        }
        self.note_half_close();
        if !self.course.is_half_closed {
            return Poll::Pending;
        }
        self.timer.poll_expired(cx).map(|()| ProxyError::fatal(Kind::DownstreamGone))
    }

    /// From now on the client may be gone, if it has ended its direction.
    fn note_half_close(&mut self) {
        if self.downstream.is_half_closed() && !self.course.is_half_closed {
            self.course.is_half_closed = true;
            self.course.pace.half_close(Instant::now(), self.sent());
            self.timer.set(Some(self.course.pace.next_look()));
        }
    }

    /// A request may go out twice only if it has had no effect for sure, or may have it twice; and only while all of it
    /// is still here.
    fn may_ask_again(&self, lease: &Lease, error: &ProxyError, length: Length) -> bool {
        match error.retry {
            Retry::Safe => length.is_empty() || self.course.flow == Flow::Open && self.record.bytes_in == 0,
            Retry::IfRepeatable => {
                lease.is_reused && length.is_empty() && is_idempotent(self.authorized.head())
            }
            Retry::Never => false,
        }
    }

    /// Sends the request and waits for the head of the response, passing interim ones on.
    async fn ask(&mut self, upstream: &mut Upstream, length: Length) -> Result<Answer, ProxyError> {
        let upgrade = self.downstream.upgrade().filter(|_| length.is_empty());
        upstream.send_head(self.head(), length, upgrade)?;
        let mut interim_left = INTERIM_RESPONSES;
        let mut was_open = true;
        self.timer.set(Some(self.course.pace.next_look()));
        poll_fn(|cx| {
            self.poll_request(cx, upstream)?;
            if was_open && self.course.flow == Flow::Ended {
                was_open = false;
                self.record.note(Point::RequestEnd);
                self.record.note(Point::SendEnd);
                self.await_response();
            }
            while let Poll::Ready(answer) = upstream.poll_head(cx, self.response) {
                match answer? {
                    Answer::Interim if interim_left > 0 => {
                        interim_left -= 1;
                        self.pass_interim(cx)?;
                    }
                    Answer::Interim => {
                        let what = "too many interim responses";
                        return Poll::Ready(Err(ProxyError::fatal(Kind::BadResponse(what.into()))));
                    }
                    answer => return Poll::Ready(Ok(answer)),
                }
            }
            self.poll_interrupted(cx, Turn::Anyone).map(Err)
        })
        .await
    }

    fn pass_interim(&mut self, cx: &mut Context<'_>) -> Result<(), ProxyError> {
        self.downstream.send_interim(self.response)?;
        // What does not leave now leaves with what follows.
        let _ = self.downstream.poll_flush(cx)?;
        if self.course.flow == Flow::Open {
            // It may be what the client has waited for: its time begins now.
            self.course.pace.hold_up();
        }
        Ok(())
    }

    /// Sends the response, head and body.
    ///
    /// # Errors
    /// Either side broke off; the client sees that the response is not complete.
    pub(super) async fn respond(
        &mut self,
        config: &HttpConnection,
        mut lease: Lease,
        answer: Answer,
    ) -> Result<(), ProxyError> {
        if self.taken.route.terms.is_some() {
            self.change_response();
        }
        let response = &mut *self.response;
        if let Some(passed) = &mut self.passed {
            passed.answer(self.authorized.head(), response);
        }
        fields::prepare_response(response, config, self.authorized.head());
        self.record.note(Point::ResponseBegin);
        self.record.note(Point::AnswerBegin);
        self.record.status = response.status;
        self.record.grpc_status = grpc_status(&response.fields);
        if self.place.worker.is_draining() {
            self.downstream.close_after_answer();
        }
        let shape = match answer {
            Answer::Final(shape) => shape,
            Answer::Interim | Answer::Switched => return self.tunnel(lease).await,
        };
        self.downstream.send_head(response, shape)?;
        let mut back = if shape.empty { Flow::Leaving } else { Flow::Open };
        poll_fn(|cx| match self.poll_response(cx, &mut lease.upstream, &mut back)? {
            Moved::All => Poll::Ready(Ok(())),
            stalled => {
                self.poll_request(cx, &mut lease.upstream)?;
                let is_clients = stalled == Moved::ReceiverFull && self.downstream.has_to_take();
                self.poll_interrupted(cx, if is_clients { Turn::ClientTakes } else { Turn::Anyone }).map(Err)
            }
        })
        .await?;
        self.record.note(Point::ResponseEnd);
        self.record.note(Point::AnswerEnd);
        if self.course.flow != Flow::Ended {
            // The response came before the request's end: nobody wants the rest of it.
            self.downstream.abandon_request();
        }
        lease.release(self.record.end());
        Ok(())
    }

    /// Carries another protocol's bytes, each direction to its own end.
    async fn tunnel(&mut self, mut lease: Lease) -> Result<(), ProxyError> {
        self.downstream.switch(self.response)?;
        let idle = self.course.idle.unwrap_or(STREAM_IDLE);
        self.course.pace = Pace::new(Instant::now(), idle, self.sent());
        self.timer.set(Some(self.course.pace.next_look()));
        self.course.flow = Flow::Open;
        let mut back = Flow::Open;
        poll_fn(|cx| {
            let moved = self.poll_response(cx, &mut lease.upstream, &mut back)?;
            self.poll_request(cx, &mut lease.upstream)?;
            if moved == Moved::All && matches!(self.course.flow, Flow::Ended | Flow::Cut) {
                return Poll::Ready(Ok(()));
            }
            // Both sides may be as slow as they like.
            self.poll_interrupted(cx, Turn::Anyone).map(Err)
        })
        .await
    }

    /// Moves the response's body.
    fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        upstream: &mut Upstream,
        back: &mut Flow,
    ) -> Result<Moved, ProxyError> {
        let record = &mut *self.record;
        move_on(cx, upstream, self.downstream, back, |frame| match frame {
            Frame::Data(data) => record.bytes_out += data.len() as u64,
            Frame::Trailers(trailers) => record.note_trailers(trailers),
        })
    }

    /// Moves the request's body. That the upstream takes no more of it is not the end: its response may be on its way.
    fn poll_request(&mut self, cx: &mut Context<'_>, upstream: &mut Upstream) -> Result<(), ProxyError> {
        let (record, extra) = (&mut *self.record, &mut self.extra);
        let moved = move_on(cx, self.downstream, upstream, &mut self.course.flow, |frame| {
            if let Frame::Data(data) = frame {
                record.bytes_in += data.len() as u64;
            }
            if let Some(copies) = extra.as_mut().map(|extra| &mut extra.copies)
                && copies.as_mut().is_some_and(|copies| !copies.note(frame))
            {
                *copies = None;
            }
        });
        match moved {
            Ok(Moved::ReceiverFull) => self.course.pace.hold_up(),
            Ok(Moved::SenderQuiet) => {}
            Ok(Moved::All) => {
                if let Some(copies) = self.extra.as_mut().and_then(|extra| extra.copies.take()) {
                    copies.go(self.place.worker);
                }
            }
            Err(error) if error.side() == error::Side::Upstream => self.course.flow = Flow::Cut,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Ready when the client has left, or somebody was too slow.
    fn poll_interrupted(&mut self, cx: &mut Context<'_>, turn: Turn) -> Poll<ProxyError> {
        if self.downstream.tells_when_gone()
            && let Poll::Ready(gone) = self.downstream.poll_gone(cx)
        {
            return Poll::Ready(gone);
        }
        self.note_half_close();
        loop {
            ready!(self.timer.poll_expired(cx));
            let turn = if self.downstream.has_to_send() { Turn::ClientSends } else { turn };
            let progress = Progress { received: self.record.bytes_in, sent: self.sent(), turn };
            if let Err(late) = self.course.pace.look(Instant::now(), progress) {
                return Poll::Ready(ProxyError::fatal(late));
            }
            self.timer.set(Some(self.course.pace.next_look()));
        }
    }

    /// What the client has taken, counted so that it grows with every byte.
    fn sent(&self) -> u64 {
        self.record.bytes_out + self.downstream.written()
    }

    /// The route's time-out counts from the request's end to the response's.
    fn await_response(&mut self) {
        if let Some(limit) = self.action.timeout {
            // A request without a body ended when it began, which saves a look at the clock.
            let end = if self.record.bytes_in == 0 { self.record.started } else { Instant::now() };
            self.course.pace.must_end(end + limit);
            self.timer.set(Some(self.course.pace.next_look()));
        }
    }
}

/// Moves one direction as far as it goes. What was taken is handed on before anybody waits for more.
fn move_on<F: Side, T: Side>(
    cx: &mut Context<'_>,
    from: &mut F,
    to: &mut T,
    flow: &mut Flow,
    mut note: impl FnMut(&Frame),
) -> Result<Moved, ProxyError> {
    while *flow == Flow::Open {
        if to.poll_ready(cx)?.is_pending() {
            return Ok(Moved::ReceiverFull);
        }
        match from.poll_frame(cx)? {
            Poll::Ready(Some(frame)) => {
                note(&frame);
                to.send(frame)?;
            }
            Poll::Ready(None) => {
                to.finish()?;
                *flow = Flow::Leaving;
            }
            Poll::Pending if to.poll_flush(cx)?.is_pending() => return Ok(Moved::ReceiverFull),
            Poll::Pending => return Ok(Moved::SenderQuiet),
        }
    }
    if *flow == Flow::Leaving {
        if to.poll_flush(cx)?.is_pending() {
            return Ok(Moved::ReceiverFull);
        }
        *flow = Flow::Ended;
    }
    Ok(Moved::All)
}

/// Source: RFC 9110 §9.2.2.
fn is_idempotent(head: &RequestHead) -> bool {
    matches!(head.method(), b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE")
}
