//! One request and its response: **the file to open first**.
//!
//! `Exchange::proceed`, which [`Exchange::run`] wraps, is the order of phases, in full. Each phase decides by a pure function of `model`, then acts;
//! the failure of any of them ends in [`Exchange::fail`], and whatever happens is recorded once, when the exchange is
//! dropped.

use std::rc::Rc;

use meshwork_model::head::{RequestHead, ResponseHead};
use meshwork_model::proxy::RouteAction;
use meshwork_model::route;

use super::body::Length;
use super::codec::Downstream;
use super::{fields, forward, path, respond};
use crate::config::{Chain, HttpChain};
use crate::connection::Peer;
use crate::error::{Kind, ProxyError};
use crate::policy;
use crate::record::Record;
use crate::timer::Timer;
use crate::worker::Worker;

/// One request of a connection, or of a stream.
pub(crate) struct Exchange<'x> {
    worker: &'x Rc<Worker>,
    peer: &'x Peer,
    chain: &'x Chain,
    http: &'x HttpChain,
    downstream: Downstream<'x>,
    request: &'x mut RequestHead,
    scratch: &'x mut Scratch,
    record: Record,
}

/// What a connection lends to its exchanges, so that they allocate nothing.
#[derive(Default)]
pub(crate) struct Scratch {
    /// The response's head.
    pub(crate) response: ResponseHead,
    /// Deadlines of the connection and its exchanges.
    pub(crate) timer: Timer,
}

impl<'x> Exchange<'x> {
    /// Begins with a request's head.
    pub(crate) fn new(
        worker: &'x Rc<Worker>,
        peer: &'x Peer,
        chain: &'x Chain,
        http: &'x HttpChain,
        downstream: Downstream<'x>,
        request: &'x mut RequestHead,
        scratch: &'x mut Scratch,
    ) -> Self {
        let record = Record::begin(worker, chain);
        Self { worker, peer, chain, http, downstream, request, scratch, record }
    }

    /// Carries the request to its response, or answers why not.
    pub(crate) async fn run(mut self, length: Length) {
        if let Err(error) = self.proceed(length).await {
            Box::pin(self.fail(error)).await;
        }
    }

    async fn proceed(&mut self, length: Length) -> Result<(), ProxyError> {
        // Admit: not while the proxy is short of memory.
        self.worker.overload().admits()?;

        // Prepare: the path in the one form that is judged and forwarded; the proxy's own fields; claims about
        // identity that nobody proved are gone. From here on the request does not change.
        self.prepare()?;
        let (request, http) = (&*self.request, self.http);

        // Route: which rule takes it. That none does is said only to those who may know.
        let route = route::select(&http.routes, request);

        // Authenticate: the peer proved its identity in the handshake, or has none.
        let caller = self.peer.id.as_ref();

        // Authorize: the proof that forwarding asks for; it borrows the request as judged.
        let authorized = policy::authorize(&http.policies, caller, self.peer.port, request)?;
        let route = route.ok_or_else(|| ProxyError::fatal(Kind::NoRoute))?;
        self.record.note_route(&route.name);

        // Forward: pick, connect, send; wait for the response's head.
        let action = match &route.action {
            RouteAction::Forward(action) => action,
            RouteAction::Direct(answer) => return self.answer_directly(answer).await,
            RouteAction::Local => return Err(ProxyError::fatal(Kind::NoRoute)),
        };
        let mut call = forward::Call {
            worker: self.worker,
            peer: self.peer,
            action,
            authorized,
            downstream: &mut self.downstream,
            scratch: self.scratch,
            record: &mut self.record,
            flow: forward::Flow::of(length),
        };
        let (lease, answer) = call.forward(length).await?;

        // Respond: head and body, both directions moving until the response is complete.
        call.respond(&http.config, lease, answer).await

        // Record: once, in `drop`.
    }

    fn prepare(&mut self) -> Result<(), ProxyError> {
        if self.request.method() == b"CONNECT" {
            return Err(ProxyError::fatal(Kind::Unsupported("CONNECT is not forwarded")));
        }
        let config = &self.http.config;
        let normal = path::normalize(config.paths, self.request.path_and_query())
            .map_err(|_| ProxyError::fatal(Kind::Refused("the path has an escaped slash")))?;
        if let Some(normal) = normal {
            self.request.set_path_and_query(&normal);
        }
        let (request, peer) = (&mut *self.request, self.peer);
        self.worker.with_random(|random| fields::prepare_request(request, config, peer, random));
        Ok(())
    }

    async fn answer_directly(
        &mut self,
        answer: &meshwork_model::proxy::DirectResponse,
    ) -> Result<(), ProxyError> {
        let head = &mut self.scratch.response;
        let to = respond::Asked::of(self.request);
        respond::directly(&mut self.downstream, head, to, &self.http.config, answer, &mut self.record).await
    }

    /// Answers why the request was not carried, or breaks the response off where it has begun.
    pub(crate) async fn fail(mut self, error: ProxyError) {
        let to = respond::Asked::of(self.request);
        let head = &mut self.scratch.response;
        respond::refuse(&mut self.downstream, head, to, &self.http.config, &error, &mut self.record).await;
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        let protocol = self.downstream.protocol();
        self.record.write_request(self.worker, self.peer, self.chain, self.request, protocol);
    }
}
