//! One request and its response: **the file to open first**.
//!
//! `Exchange::proceed`, which [`Exchange::run`] wraps, is the order of phases, in full. Each phase decides by a pure
//! function of `model`, then acts; the failure of any of them ends in [`Exchange::fail`], and whatever happens is
//! recorded once, when the exchange is dropped.

use std::rc::Rc;

use meshwork_model::head::{RequestHead, ResponseHead};
use meshwork_model::proxy::RouteAction;
use meshwork_model::route;
use tokio::time::Instant;

use super::body::Length;
use super::codec::Downstream;
use super::filters::{Passed, Scene};
use super::forward::{Call, Course};
use super::lend::Heads;
use super::respond::Asked;
use super::taken::Taken;
use super::{fields, filters, respond};
use crate::config::{Chain, HttpChain};
use crate::connection::Peer;
use crate::error::{Kind, ProxyError};
use crate::policy;
use crate::record::Record;
use crate::timer::Timer;
use crate::worker::Worker;

/// One request of a connection, or of a stream.
pub(crate) struct Exchange<'x> {
    place: Place<'x>,
    downstream: Downstream<'x>,
    request: &'x mut RequestHead,
    response: &'x mut ResponseHead,
    outgoing: &'x mut RequestHead,
    timer: &'x mut Timer,
    record: Record,
    /// Filters that still have a word on the response.
    passed: Option<Box<Passed>>,
}

/// Where an exchange takes place.
#[derive(Clone, Copy)]
pub(crate) struct Place<'x> {
    /// The worker.
    pub(crate) worker: &'x Rc<Worker>,
    /// Who asks.
    pub(crate) peer: &'x Peer,
    /// What config says of the connection.
    pub(crate) chain: &'x Chain,
    /// The same, of its HTTP.
    pub(crate) http: &'x HttpChain,
}

impl<'x> Exchange<'x> {
    /// Begins with a request's head; the timer is lent, so that it is armed once and not for each request.
    pub(crate) fn new(
        place: Place<'x>,
        downstream: Downstream<'x>,
        heads: &'x mut Heads,
        timer: &'x mut Timer,
    ) -> Self {
        let record = Record::begin(place.worker, place.chain);
        let Heads { request, response, outgoing } = heads;
        Self { place, downstream, request, response, outgoing, timer, record, passed: None }
    }

    /// Carries the request to its response, or answers why not. Returns when that was; called once.
    ///
    /// Borrows, so that the exchange does not lie in its own task twice.
    pub(crate) async fn run(&mut self, length: Length) -> Instant {
        match self.proceed(length).await {
            Ok(()) => self.record.end(),
            Err(error) => Box::pin(self.fail(error)).await,
        }
    }

    async fn proceed(&mut self, length: Length) -> Result<(), ProxyError> {
        self.record.declared = length.declared();
        // Admit: not while the proxy is short of memory.
        self.place.worker.overload().admits()?;

        // Prepare: the path in the one form that is judged and forwarded; the proxy's own fields; claims about
        // identity that nobody proved are gone. From here on the request does not change.
        self.prepare(length)?;
        let Place { worker, peer, http, .. } = self.place;

        // Route: which rule takes it. That none does is said only to those who may know.
        let random = (worker.random() >> 32) as u32;
        let route = route::select(&http.routes, self.request, asked(self.place, random));
        self.judge_upgrade(route.is_some())?;

        // Authenticate: the peer proved its identity in the handshake, or has none. Nothing is left to do.

        // Filter, as the route has it: fault, CORS, JWT, rules of authorization, external authorization, local and global
        // rate limits, header mutation, health check, buffer. What comes of it is the proof that forwarding asks for; it
        // borrows the request as judged.
        let plan = http.filters.plan(route);
        let (authorized, length) = if let Some(rules) = plan.rules_alone() {
            (policy::authorize(rules, peer, &mut self.record, self.request)?, length)
        } else {
            let Self { downstream, record, passed, .. } = self;
            let scene = Scene { place: self.place, plan, route, length, downstream, record, passed };
            filters::ask(scene, self.request).await?
        };
        let route = route.ok_or_else(|| ProxyError::fatal(Kind::NoRoute))?;
        self.record.note_route(route);
        let taken = Taken::new(route, authorized.head(), random);

        // Forward: pick, connect, send; wait for the response's head.
        let action = match &route.action {
            RouteAction::Forward(action) => action,
            RouteAction::Local => return Err(ProxyError::fatal(Kind::NoRoute)),
            _ => return Box::pin(self.answer_directly(taken)).await,
        };
        let idle = action.resilience.idle_timeout.or(http.config.stream_idle_timeout);
        let sent = self.downstream.written();
        let mut call = Call {
            place: self.place,
            action,
            taken,
            authorized,
            downstream: &mut self.downstream,
            response: self.response,
            outgoing: self.outgoing,
            timer: self.timer,
            course: Course::begin(self.record.started, length, idle, sent),
            record: &mut self.record,
            passed: self.passed.as_deref_mut(),
            extra: None,
        };
        let (lease, answer) = call.forward(length).await?;

        // Respond: head and body, both directions moving until the response is complete.
        call.respond(&http.config, lease, answer).await

        // Record: once, in `drop`.
    }

    fn prepare(&mut self, length: Length) -> Result<(), ProxyError> {
        let Place { worker, peer, http, .. } = self.place;
        let config = &http.config;
        let request = &mut *self.request;
        let protocol = self.downstream.protocol();
        if protocol == "HTTP/1.0" {
            fields::admit_http_10(request, &config.http1)?;
        }
        let is_chunked = length == Length::Unknown && !self.downstream.is_h2();
        let upgrade = self.downstream.upgrade().unwrap_or_default();
        request.note_codec(length.declared(), is_chunked, upgrade);
        let uri =
            worker.node.identity.as_ref().filter(|_| peer.is_tls).map(meshwork_identity::SpiffeId::as_str);
        let own = fields::Identity { uri, is_scheme_said: protocol == "HTTP/2" };
        let client =
            worker.with_random(|random| fields::prepare_request(request, config, peer, &own, random))?;
        self.record.client = Some(client);
        Ok(())
    }

    /// Switching to another protocol is for those that config names, and CONNECT for routes that match it.
    fn judge_upgrade(&mut self, is_routed: bool) -> Result<(), ProxyError> {
        if self.downstream.upgrade().is_none() && self.request.method() != b"CONNECT" {
            return Ok(());
        }
        // What the client sent ahead was meant for another, and is no request.
        self.may_switch(is_routed).inspect_err(|_| self.downstream.close_after_answer())
    }

    fn may_switch(&self, is_routed: bool) -> Result<(), ProxyError> {
        let config = &self.place.http.config;
        if self.request.method() == b"CONNECT" {
            return match is_routed {
                true if config.carries_connect() && self.downstream.can_switch() => Ok(()),
                true => Err(ProxyError::fatal(Kind::UpgradeRefused)),
                false => Err(ProxyError::fatal(Kind::NoRoute)),
            };
        }
        match self.downstream.upgrade() {
            Some(protocol) if !config.carries(protocol) => Err(ProxyError::fatal(Kind::UpgradeRefused)),
            _ => Ok(()),
        }
    }

    async fn answer_directly(&mut self, taken: Taken<'x>) -> Result<(), ProxyError> {
        let place = self.place;
        let to = Asked { request: self.request, passed: self.passed.as_deref_mut() };
        respond::directly(&mut self.downstream, self.response, to, place, taken, &mut self.record).await
    }

    /// Answers why the request was not carried, or breaks the response off where it has begun. Returns when that was.
    pub(crate) async fn fail(&mut self, error: ProxyError) -> Instant {
        let place = self.place;
        let to = Asked { request: self.request, passed: self.passed.as_deref_mut() };
        respond::refuse(&mut self.downstream, self.response, to, place, &error, &mut self.record).await;
        self.record.end()
    }
}

/// What of a request decides its route and is in none of its bytes.
fn asked(place: Place<'_>, random: u32) -> route::Asked {
    let shows_certificate = !place.peer.certificates().is_empty();
    // One that is not verified ends the handshake, unless config lets such in: then nothing is known of any.
    let proves = || place.chain.tls.as_ref().is_some_and(|tls| tls.made.proves_clients);
    route::Asked { random: random.into(), shows_certificate, is_verified: shows_certificate && proves() }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        let protocol = self.downstream.protocol();
        let Place { worker, peer, chain, .. } = self.place;
        self.record.note_cut(peer);
        let heads = (&*self.request, &*self.outgoing, &*self.response);
        self.record.write_request(worker, peer, chain, heads, protocol);
    }
}
