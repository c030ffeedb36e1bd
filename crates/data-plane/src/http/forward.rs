//! Forwarding: picks an endpoint, sends the request, and moves both bodies until the response is complete.
//!
//! One task carries both sides. [`move_on`] advances one direction as far as it goes; what was taken from one side
//! leaves on the other before anybody waits, so that nothing is held back but what back-pressure demands.
//!
//! A try that fails is repeated where the route or the request asks for it (`model::retry`), until the client has seen
//! anything of its response. Besides, a request that may be repeated anyhow is sent again where it met a connection that
//! had gone stale: that is no try of its own.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use meshwork_model::flag::Flag;
use meshwork_model::format::Point;
use meshwork_model::head::{RequestHead, ResponseHead};
use meshwork_model::outlier::{Outcome, http_status_of_grpc};
use meshwork_model::path::has_dot_segment;
use meshwork_model::proxy::{self, HttpConnection, Priority};
use meshwork_model::retry::{self, Decision, Retrial, asks};
use meshwork_model::times::{self, Times};
use meshwork_telemetry::Protocol;
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::body::{Frame, Length};
use super::codec::{Answer, Downstream, Side, Upstream};
use super::exchange::Place;
use super::fields;
use super::filters::Passed;
use super::mirror::Copies;
use super::pace::{Exact, Limit, Pace, Progress, Quiet, Turn, Way};
use super::taken::Taken;
use super::tries::{self, Kept, Tries};
use crate::error::{self, Kind, ProxyError, Retry};
use crate::facts::Seen;
use crate::health;
use crate::limits::{
    EXCHANGE_IDLE, INTERIM_RESPONSES, REPLAY_BYTES, REPLAY_BYTES_MOST, STALE_RETRIES, STREAM_IDLE,
};
use crate::policy::Authorized;
use crate::record::{OpenConnection, Record, grpc_status};
use crate::timer::Timer;
use crate::upstream::{Host, Lease, Limited, Picked, Wanted, WorkerCluster};

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
    pub(super) course: Course<'c>,
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
pub(super) struct Course<'c> {
    /// How far the request's body is, on its way to the present endpoint.
    flow: Flow,
    /// Whether anybody is too slow.
    pace: Pace,
    /// How long no byte may move, where config says so.
    idle: Option<Duration>,
    /// When all of the request had come.
    taken: Option<Instant>,
    /// How long the response may take from then on.
    whole: Option<Duration>,
    /// What may be tried again; most exchanges have nothing.
    tries: Option<Box<Tries<'c>>>,
    is_half_closed: bool,
    /// The request is forwarded as it stands in `outgoing`.
    is_rewritten: bool,
    /// A time-out is answered with 204.
    is_quiet: bool,
    /// How often a stale connection may still be met.
    stale_left: u32,
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

/// A try that failed.
struct Failed {
    error: ProxyError,
    /// The connection had gone stale; a fresh one may do.
    is_stale: bool,
}

impl From<ProxyError> for Failed {
    fn from(error: ProxyError) -> Self {
        Self { error, is_stale: false }
    }
}

impl Flow {
    fn of(length: Length) -> Self {
        if length.is_empty() { Self::Leaving } else { Self::Open }
    }
}

impl Course<'_> {
    /// Of a request with a body of this length, on a connection whose client has taken `sent` bytes.
    pub(super) fn begin(started: Instant, length: Length, idle: Option<Duration>, sent: u64) -> Self {
        // A config that sets no limit gets the widest.
        let widest = idle.is_some_and(|idle| idle.is_zero()).then_some(STREAM_IDLE);
        Self {
            flow: Flow::of(length),
            pace: Pace::new(started, widest.unwrap_or(EXCHANGE_IDLE), sent),
            idle: idle.filter(|idle| !idle.is_zero()),
            // A request without a body ended when it began, which saves a look at the clock.
            taken: length.is_empty().then_some(started),
            whole: None,
            tries: None,
            is_half_closed: false,
            is_rewritten: false,
            is_quiet: false,
            stale_left: STALE_RETRIES,
        }
    }
}

impl Call<'_, '_> {
    /// Sends the request to an endpoint and waits for the response's head.
    ///
    /// # Errors
    /// The last try's.
    pub(super) async fn forward(&mut self, length: Length) -> Result<(Lease, Answer), ProxyError> {
        let worker = self.place.worker;
        let name = self.taken.cluster(self.authorized.head());
        let cluster = worker.cluster(name).ok_or_else(|| self.taken.unknown(name))?;
        self.record.note_cluster(&cluster);
        if self.taken.route.terms.is_some() {
            self.take_route()?;
        }
        self.prepare()?;
        let mut fresh = false;
        loop {
            let picked = self.pick(&cluster)?;
            fresh = match self.attempt(picked, length, fresh).await {
                Ok((lease, answer)) if self.course.tries.is_none() => return Ok((lease, answer)),
                Ok((lease, answer)) => match Box::pin(self.reconsider(&cluster, lease, answer))
                    .await
                    .map_err(|error| self.quieten(error))?
                {
                    Some(answered) => return Ok(answered),
                    None => false,
                },
                Err(Failed { is_stale: true, .. }) => {
                    self.course.stale_left -= 1;
                    true
                }
                Err(Failed { error, .. }) => {
                    Box::pin(self.try_again(&cluster, error)).await.map_err(|error| self.quieten(error))?;
                    false
                }
            };
            self.course.flow = Flow::of(length);
        }
    }

    /// Does what the route says before the first try.
    ///
    /// # Errors
    /// What would be forwarded leads out of where the route leads.
    fn take_route(&mut self) -> Result<(), ProxyError> {
        let (taken, judged, peer) = (self.taken, self.authorized.head(), self.place.peer);
        if taken.changes_request() {
            let seen = Seen::of(self.place, self.record, judged, self.downstream.protocol());
            self.authorized.rewrite(taken, &seen, self.tells_originals(), self.outgoing);
            self.note_rewritten();
            // Of `/a../c`, which a route for `/a` takes and leads to `/b/`, comes `/b/../c`: a way that nobody judged.
            let is_plain = taken.rewrites_path() && self.place.http.config.paths.rfc3986;
            if is_plain && has_dot_segment(self.outgoing.path_and_query()) {
                return Err(ProxyError::fatal(Kind::Refused("the rewritten path has a segment of dots")));
            }
        }
        let mut extra = Extra::default();
        extra.hash = taken.hash(judged, peer, &mut extra.cookies);
        extra.copies = Copies::of(taken.mirrors(), self.head(), self.action.timeout, taken.random.into());
        if extra.hash.is_some() || extra.copies.is_some() {
            self.extra = Some(Box::new(extra));
        }
        Ok(())
    }

    // --- before the first try ---

    /// Works out what time there is, what may be tried again, and what the endpoint is told of both.
    fn prepare(&mut self) -> Result<(), ProxyError> {
        let head = self.authorized.head();
        let (config, resilience) = (&self.place.http.config, &self.action.resilience);
        let asks = head.fields.iter().any(|(name, _)| name.starts_with(asks::PREFIX));
        if asks && let Some(name) = invalid_field(&config.router.strict, head) {
            return Err(ProxyError::fatal(Kind::InvalidField(name)));
        }
        let times = Times::of(self.action.timeout, resilience, head, config.router.respects_expected);
        let of_route = resilience.stream_duration.as_ref();
        let stream = times::stream_duration(config.max_stream_duration, of_route, &head.fields);
        (self.course.whole, self.course.is_quiet) = (times.whole, times.alt_response);
        self.limit(&times, stream);
        let tells_time = !config.router.is_silent && times.expected(Duration::ZERO).is_some();
        let is_grpc_limited = of_route.is_some() && head.is_grpc();
        let believes_grpc = resilience.grpc_timeout.is_some() && head.is_grpc();
        if asks || tells_time || is_grpc_limited || believes_grpc || resilience.tells_attempts_upstream {
            self.make_outgoing();
        }
        if is_grpc_limited {
            self.limit_grpc(stream);
        }
        let retrial = Retrial::begin(resilience.retry.as_deref(), self.head());
        self.course.tries = retrial.map(|retrial| {
            let most = resilience.replay_bytes.unwrap_or(REPLAY_BYTES).min(REPLAY_BYTES_MOST);
            Box::new(Tries::of(retrial, times, most))
        });
        if asks {
            for name in asks::ALL {
                self.outgoing.fields.remove(name);
            }
        }
        self.record.attempts = 1;
        self.record.tells_attempts = resilience.tells_attempts_downstream;
        self.tell(&times, None);
        Ok(())
    }

    /// The request as it is forwarded.
    fn head(&self) -> &RequestHead {
        if self.course.is_rewritten { self.outgoing } else { self.authorized.head() }
    }

    /// Tells the endpoint how long the call may take, as the route says.
    fn limit_grpc(&mut self, most: Option<Duration>) {
        match most {
            Some(limit) => tries::tell_grpc(self.outgoing, limit),
            // The route takes away what limit there would be.
            None if self.place.http.config.max_stream_duration.is_some() => {
                self.outgoing.fields.remove(times::GRPC_TIMEOUT);
            }
            None => {}
        }
    }

    /// Tells the endpoint which try it is, and how long is waited for it; `timed_out`, of another try, is whether the
    /// last one was too slow.
    fn tell(&mut self, times: &Times, timed_out: Option<bool>) {
        if !self.course.is_rewritten {
            return;
        }
        let resilience = &self.action.resilience;
        if resilience.tells_attempts_upstream {
            tries::tell_attempts(&mut self.outgoing.fields, self.record.attempts);
        }
        if let Some(timed_out) = timed_out.filter(|_| resilience.tells_timeout_retries) {
            tries::tell_timeout_retry(self.outgoing, timed_out);
        }
        let elapsed = self.course.taken.filter(|_| timed_out.is_some()).map(|taken| taken.elapsed());
        let Some(expected) = times.expected(elapsed.unwrap_or_default()) else { return };
        if !self.place.http.config.router.is_silent {
            tries::tell_expected(self.outgoing, expected);
        }
        let believes_grpc = resilience.grpc_timeout.is_some() && resilience.stream_duration.is_none();
        if believes_grpc && self.outgoing.is_grpc() {
            tries::tell_grpc(self.outgoing, expected);
        }
    }

    /// Sets the limits that config or the request itself names.
    fn limit(&mut self, times: &Times, stream: Option<Duration>) {
        let (started, course) = (self.record.started, &mut self.course);
        let exact = Exact {
            stream: stream.map(|most| started + most),
            idle: course.idle.map(|most| Quiet::since(most, started)),
            upstream: times.upstream.map(Limit::of),
            per_try: times.per_try.map(Limit::of),
            per_try_idle: times.per_try_idle.map(Quiet::of),
        };
        course.pace.limit(exact.boxed());
        if let (Some(taken), Some(whole)) = (course.taken, course.whole) {
            course.pace.must_end(taken + whole);
        }
    }

    /// Changes the response's head as the route says.
    fn change_response(&mut self) {
        let request = if self.course.is_rewritten { &*self.outgoing } else { self.authorized.head() };
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
        self.make_outgoing();
        let tells = self.tells_originals();
        self.taken.set_host(self.outgoing, name.as_bytes(), tells);
    }

    /// From now on the request is forwarded as it stands in `outgoing`.
    fn make_outgoing(&mut self) {
        if !self.course.is_rewritten {
            self.outgoing.copy_from(self.authorized.head());
            self.note_rewritten();
        }
    }

    fn note_rewritten(&mut self) {
        self.course.is_rewritten = true;
        self.record.is_rewritten = true;
    }

    /// Whether applications are told what the client asked for where that is rewritten (`x-envoy-original-path`).
    fn tells_originals(&self) -> bool {
        !self.place.http.config.router.is_silent
    }

    // --- one try ---

    fn pick(&mut self, cluster: &Rc<WorkerCluster>) -> Result<Picked, ProxyError> {
        let Place { worker, peer, .. } = self.place;
        let tries = self.course.tries.as_deref();
        let avoiding = tries.and_then(|tries| Some((tries, tries.avoiding()?)));
        let is_avoided = |host: &Host| avoiding.is_some_and(|(tries, policy)| tries.avoids(policy, host));
        let wanted = Wanted {
            avoid: if avoiding.is_some() { Some(&is_avoided) } else { None },
            again: avoiding.map_or(0, |(_, policy)| policy.host_attempts),
            is_h2: self.downstream.is_h2(),
            random: worker.random(),
            hash: self.extra.as_ref().and_then(|extra| extra.hash),
            subset: self.taken.subset(),
            priority: Priority::Normal,
        };
        let picked = cluster.pick_for(peer, &wanted)?;
        picked.admit(Limited::Requests)?;
        if let Some(tries) = &mut self.course.tries {
            tries.note(picked.endpoint());
        }
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
    ) -> Result<(Lease, Answer), Failed> {
        let mut lease = self.connect(picked, fresh).await?;
        health::note(&lease.picked, Outcome::Connected);
        self.course.pace.begin_try(Instant::now);
        if self.course.taken.is_some() {
            self.course.pace.await_response(Instant::now);
        }
        match self.ask(&mut lease.upstream, length).await {
            Ok(answer) => {
                self.course.pace.begin_response();
                self.course.pace.note_moved(Way::Back);
                self.note_response(&lease.picked);
                Ok((lease, answer))
            }
            Err(error) => {
                let error = lease.explain(error);
                let is_stale = self.course.stale_left > 0 && self.may_ask_again(&lease, &error, length);
                if !is_stale {
                    self.note_failure(&lease.picked, &error);
                }
                Err(Failed { error, is_stale })
            }
        }
    }

    /// What a response says of its endpoint.
    fn note_response(&self, picked: &Picked) {
        let grpc = self.response.fields.find(b"grpc-status").filter(|_| self.authorized.head().is_grpc());
        let of_grpc = grpc.and_then(retry::number).map(http_status_of_grpc);
        health::note(picked, Outcome::Response(of_grpc.unwrap_or(self.response.status)));
        if self.response.fields.find(b"x-envoy-immediate-health-check-fail").is_some() {
            health::fail(picked);
        }
    }

    /// What a failure says of its endpoint.
    fn note_failure(&self, picked: &Picked, error: &ProxyError) {
        match error.kind {
            Kind::Timeout | Kind::TryTimeout => {
                let told = if self.course.is_quiet { 204 } else { 504 };
                health::note(picked, Outcome::TimedOut(told));
            }
            _ if tries::reset_of(error).is_some() => health::note(picked, Outcome::ConnectFailed),
            _ => {}
        }
    }

    /// A time-out of which the request wants to hear nothing is another one.
    fn quieten(&self, error: ProxyError) -> ProxyError {
        match error.kind {
            Kind::Timeout | Kind::TryTimeout if self.course.is_quiet => ProxyError::fatal(Kind::QuietTimeout),
            _ => error,
        }
    }

    /// Takes a connection that waits, or opens one.
    async fn connect(&mut self, picked: Picked, fresh: bool) -> Result<Lease, ProxyError> {
        let picked = match Lease::take(picked, fresh) {
            Ok(lease) => return Ok(lease),
            Err(picked) => picked,
        };
        // Rare beside the requests that find a connection: apart, so that those do not carry its memory.
        Box::pin(self.open(picked)).await
    }

    /// Opens a connection, unless the client leaves meanwhile, or its time is over.
    async fn open(&mut self, picked: Picked) -> Result<Lease, ProxyError> {
        let Place { worker, peer, .. } = self.place;
        let is_grpc = self.authorized.head().is_grpc();
        let protocol = if is_grpc { Protocol::Grpc } else { Protocol::Http };
        let opened = |picked: &Picked| OpenConnection::opened(worker, peer, picked, protocol);
        let mut opening = pin!(Lease::open(picked, opened));
        self.timer.set(Some(self.course.pace.next_look()));
        let lease = poll_fn(|cx| match opening.as_mut().poll(cx) {
            Poll::Ready(lease) => Poll::Ready(Ok(lease)),
            Poll::Pending => {
                // The client cannot go on sending before there is a connection.
                self.course.pace.hold_up();
                self.poll_interrupted(cx, Turn::Anyone).map(Err)
            }
        });
        match lease.await {
            Ok(Ok(lease)) => Ok(lease),
            Ok(Err((error, picked))) => {
                debug!(endpoint = %picked.endpoint().config.address, error = %error.kind, "cannot connect");
                self.note_failure(&picked, &error);
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    // --- between tries ---

    /// Whether a response is the one, or there is another try; then it is time for that.
    async fn reconsider(
        &mut self,
        cluster: &WorkerCluster,
        lease: Lease,
        answer: Answer,
    ) -> Result<Option<(Lease, Answer)>, ProxyError> {
        let Answer::Final(shape) = answer else { return Ok(Some((lease, answer))) };
        let Some(retrial) = self.course.tries.as_deref_mut().and_then(Tries::retrial) else {
            return Ok(Some((lease, answer)));
        };
        let decision = retrial.after_response(self.response.status, &self.response.fields);
        if !self.admits_retry(cluster, decision) {
            return Ok(Some((lease, answer)));
        }
        let wait = self.wait_before_next(true);
        if shape.empty && self.course.flow == Flow::Ended {
            lease.release(Instant::now());
        } else {
            drop(lease);
        }
        self.begin_again(wait, false).await?;
        Ok(None)
    }

    /// Whether there is another try after this failure; then it is time for that.
    ///
    /// # Errors
    /// The failure, or what ended the waiting.
    async fn try_again(&mut self, cluster: &WorkerCluster, error: ProxyError) -> Result<(), ProxyError> {
        let reset = tries::reset_of(&error);
        let (Some(reset), Some(tries)) = (reset, self.course.tries.as_deref_mut()) else { return Err(error) };
        let Some(retrial) = tries.retrial() else { return Err(error) };
        let decision = retrial.after_reset(reset);
        if !self.admits_retry(cluster, decision) {
            if matches!(error.kind, Kind::TryTimeout) {
                self.record.words = Some("upstream_per_try_timeout");
            }
            return Err(error);
        }
        let wait = self.wait_before_next(false);
        self.begin_again(wait, matches!(error.kind, Kind::TryTimeout)).await
    }

    /// How long to wait before the next try.
    fn wait_before_next(&mut self, answered: bool) -> Duration {
        let random = self.place.worker.random();
        let fields = answered.then_some(&self.response.fields);
        let retrial = self.course.tries.as_deref_mut().and_then(Tries::retrial);
        retrial.map_or(Duration::ZERO, |retrial| tries::wait(retrial, fields, random))
    }

    /// Waits, and makes everything ready for another try.
    async fn begin_again(&mut self, wait: Duration, timed_out: bool) -> Result<(), ProxyError> {
        self.course.pace.end_try();
        self.wait(wait).await?;
        self.record.attempts += 1;
        let resilience = &self.action.resilience;
        if resilience.tells_timeout_retries && !self.course.is_rewritten {
            self.make_outgoing();
        }
        let Some(tries) = self.course.tries.as_deref_mut() else { return Ok(()) };
        tries.again();
        let times = tries.times;
        self.tell(&times, Some(timed_out));
        Ok(())
    }

    /// Waits, unless the client leaves meanwhile, or its time is over.
    async fn wait(&mut self, wait: Duration) -> Result<(), ProxyError> {
        let mut over = pin!(sleep(wait));
        self.timer.set(Some(self.course.pace.next_look()));
        poll_fn(|cx| match over.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Ok(())),
            Poll::Pending => {
                self.course.pace.hold_up();
                self.poll_interrupted(cx, Turn::Anyone).map(Err)
            }
        })
        .await
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
            _ if !lease.is_reused => false,
            Retry::Safe => length.is_empty() || self.course.flow == Flow::Open && self.record.bytes_in == 0,
            Retry::IfRepeatable => length.is_empty() && is_idempotent(self.authorized.head()),
            Retry::Never => false,
        }
    }

    /// Sends the request and waits for the head of the response, passing interim ones on.
    async fn ask(&mut self, upstream: &mut Upstream, length: Length) -> Result<Answer, ProxyError> {
        let upgrade = self.downstream.upgrade().filter(|_| length.is_empty());
        let head = if self.course.is_rewritten { &*self.outgoing } else { self.authorized.head() };
        upstream.send_head(head, length, upgrade)?;
        let mut was_open = true;
        let mut interim_left = INTERIM_RESPONSES;
        self.timer.set(Some(self.course.pace.next_look()));
        poll_fn(|cx| {
            self.poll_request(cx, upstream)?;
            if was_open && self.course.flow == Flow::Ended {
                was_open = false;
                self.record.note(Point::RequestEnd);
                self.record.note(Point::SendEnd);
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
        // What the client has seen of a try is not taken back.
        self.course.tries = None;
        self.course.pace.note_moved(Way::Back);
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
        // There is no other try, and nothing of the request is kept for it: a tunnel's bytes least of all.
        self.course.tries = None;
        self.record.status = self.response.status;
        if self.taken.route.terms.is_some() {
            self.change_response();
        }
        self.tell_client(config);
        let response = &mut *self.response;
        if let Some(passed) = &mut self.passed {
            passed.answer(self.authorized.head(), response);
        }
        fields::prepare_response(response, config, self.authorized.head());
        self.record.upstream_protocol = lease.upstream.protocol();
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
        let done = poll_fn(|cx| match self.poll_response(cx, &mut lease.upstream, &mut back)? {
            Moved::All => Poll::Ready(Ok(())),
            stalled => {
                self.poll_request(cx, &mut lease.upstream)?;
                let is_clients = stalled == Moved::ReceiverFull && self.downstream.has_to_take();
                self.poll_interrupted(cx, if is_clients { Turn::ClientTakes } else { Turn::Anyone }).map(Err)
            }
        });
        if let Err(error) = done.await {
            let error = lease.explain(error);
            self.note_failure(&lease.picked, &error);
            return Err(error);
        }
        self.record.note(Point::ResponseEnd);
        self.record.note(Point::AnswerEnd);
        if self.course.flow != Flow::Ended {
            // The response came before the request's end: nobody wants the rest of it.
            self.downstream.abandon_request();
        }
        lease.release(self.record.end());
        Ok(())
    }

    /// Tells the client how long the endpoint took, and at which try it was.
    fn tell_client(&mut self, config: &HttpConnection) {
        if self.action.resilience.tells_attempts_downstream {
            tries::tell_attempts(&mut self.response.fields, self.record.attempts);
        }
        if let Some(taken) = self.course.taken.filter(|_| !config.router.is_silent) {
            let millis = u64::try_from(taken.elapsed().as_millis()).unwrap_or(u64::MAX);
            let mut digits = itoa::Buffer::new();
            self.response.fields.set(b"x-envoy-upstream-service-time", digits.format(millis).as_bytes());
        }
    }

    /// Carries another protocol's bytes, each direction to its own end.
    async fn tunnel(&mut self, mut lease: Lease) -> Result<(), ProxyError> {
        self.downstream.switch(self.response)?;
        let limits = self.course.pace.take_limits();
        self.course.pace = Pace::new(Instant::now(), STREAM_IDLE, self.sent());
        self.course.pace.limit(limits);
        self.course.pace.note_moved(Way::Back);
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
        let mut has_moved = false;
        let moved = move_on(cx, upstream, self.downstream, back, |frame| {
            has_moved = true;
            match frame {
                Frame::Data(data) => record.bytes_out += data.len() as u64,
                Frame::Trailers(trailers) => record.note_trailers(trailers),
            }
        });
        if has_moved {
            self.course.pace.note_moved(Way::Back);
        }
        moved
    }

    /// Moves the request's body. That the upstream takes no more of it is not the end: its response may be on its way.
    fn poll_request(&mut self, cx: &mut Context<'_>, upstream: &mut Upstream) -> Result<(), ProxyError> {
        let moved = self.move_request(cx, upstream);
        if self.course.taken.is_none() && matches!(self.course.flow, Flow::Leaving | Flow::Ended) {
            self.await_response();
        }
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

    /// First what was kept of it, then what comes.
    fn move_request(&mut self, cx: &mut Context<'_>, upstream: &mut Upstream) -> Result<Moved, ProxyError> {
        let Self { course, record, downstream, extra, .. } = self;
        let mut tries = course.tries.as_deref_mut();
        if let Some(tries) = tries.as_deref_mut().filter(|_| course.flow == Flow::Open)
            && replay(cx, &mut tries.kept, upstream, course.taken.is_some(), &mut course.flow)?.is_pending()
        {
            return Ok(Moved::ReceiverFull);
        }
        let mut has_moved = false;
        let moved = move_on(cx, &mut **downstream, upstream, &mut course.flow, |frame| {
            has_moved = true;
            if let Frame::Data(data) = frame {
                record.bytes_in += data.len() as u64;
            }
            if let Some(tries) = tries.as_deref_mut() {
                tries.keep(frame);
            }
            if let Some(copies) = extra.as_mut().map(|extra| &mut extra.copies)
                && copies.as_mut().is_some_and(|copies| !copies.note(frame))
            {
                *copies = None;
            }
        });
        if has_moved {
            course.pace.note_moved(Way::There);
        }
        moved
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
            let progress = Progress {
                received: self.record.bytes_in,
                sent: self.sent(),
                turn,
                taken: self.course.taken.is_some(),
            };
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

    /// All of the request has come: the response's time begins.
    fn await_response(&mut self) {
        let now = Instant::now();
        self.course.taken = Some(now);
        if let Some(whole) = self.course.whole {
            self.course.pace.must_end(now + whole);
        }
        self.course.pace.await_response(|| now);
        self.timer.set(Some(self.course.pace.next_look()));
    }

    /// Whether another try is decided on, and the cluster's limit of them allows it.
    fn admits_retry(&mut self, cluster: &WorkerCluster, decision: Decision) -> bool {
        let Some(tries) = &mut self.course.tries else { return false };
        // The last retry, if this was one, is over.
        tries.held = None;
        match decision {
            Decision::No => false,
            Decision::UsedUp => {
                self.record.more_flags.insert(Flag::UpstreamRetryLimitExceeded);
                false
            }
            Decision::Again => {
                let (worker, priority) = (self.place.worker.index, Priority::Normal);
                if let Ok(held) = cluster.config().breakers.enter(worker, priority, Limited::Retries) {
                    tries.held = held;
                    true
                } else {
                    self.record.more_flags.insert(Flag::UpstreamOverflow);
                    false
                }
            }
        }
    }
}

/// Sends what was kept of a body; where that is all of it, ends it.
fn replay(
    cx: &mut Context<'_>,
    kept: &mut Kept,
    upstream: &mut Upstream,
    taken: bool,
    flow: &mut Flow,
) -> Result<Poll<()>, ProxyError> {
    while kept.has_more() {
        if upstream.poll_ready(cx)?.is_pending() {
            return Ok(Poll::Pending);
        }
        if let Some(piece) = kept.next() {
            upstream.send(Frame::Data(piece))?;
        }
    }
    if taken {
        if let Some(trailers) = kept.trailers() {
            if upstream.poll_ready(cx)?.is_pending() {
                return Ok(Poll::Pending);
            }
            upstream.send(Frame::Trailers(trailers))?;
        }
        upstream.finish()?;
        *flow = Flow::Leaving;
    }
    Ok(Poll::Ready(()))
}

/// The first of these fields whose value says nothing that could be meant.
fn invalid_field(strict: &[Arc<str>], head: &RequestHead) -> Option<Arc<str>> {
    let is_valid = |name: &[u8], value: &[u8]| match name {
        asks::RETRY_ON => retry::is_valid_list(value, false),
        asks::RETRY_GRPC_ON => retry::is_valid_list(value, true),
        _ => retry::number(value).is_some(),
    };
    let is_bad = |name: &&Arc<str>| {
        head.fields.find(name.as_bytes()).is_some_and(|value| !is_valid(name.as_bytes(), value))
    };
    strict.iter().find(is_bad).cloned()
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
