//! The filters of an HTTP chain: what each asks of a request before it goes on, and does to its response's head.
//!
//! [`Filters`] is built with the config: for each route a [`Plan`], so that a request finds what applies to it and reads
//! no config. [`ask`] runs a plan's steps in their one order; a step lets the request pass, waits, changes it, or answers
//! in the service's place. What a step has still to say when the response comes is kept in [`Passed`].

mod authz;
mod body;
mod cors;
mod fault;
mod health;
mod jwt;
mod kept;
mod limit;

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::ptr;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use meshwork_model::head::{Fields, RequestHead, ResponseHead};
use meshwork_model::proxy::{Applied, HttpFilter, Route, RouteFilter, RouteTable};
use meshwork_model::reason::Reason;
use tokio::time::Instant;

pub(crate) use kept::Kept;
pub(crate) use limit::Tokens;

use super::body::Length;
use super::codec::Downstream;
use super::exchange::Place;
use crate::error::{Kind, ProxyError};
use crate::limits::HALF_CLOSED_QUIET;
use crate::policy::{Authorized, Judge, Judged};
use crate::record::Record;
use crate::timer::Timer;

/// The filters of a chain.
pub(crate) struct Filters {
    /// What applies where no route says anything else.
    common: Arc<Plan>,
    /// What applies to a route that says something, by its address in the table, which the chain keeps.
    special: HashMap<usize, Arc<Plan>>,
}

/// What the filters do for a route.
#[derive(Default)]
pub(crate) struct Plan {
    steps: Vec<Step>,
    /// The rules of all steps that judge, in order.
    rules: Vec<Judged>,
}

/// One filter's part.
enum Step {
    /// A fault on purpose.
    Fault(fault::Fault),
    /// What pages of other origins may do.
    Cors(cors::Cors),
    /// Tokens that the request needs.
    Jwt(jwt::Authentication),
    /// The next of the plan's rules judge.
    Judge,
    /// Another service judges.
    Authz(authz::Authorization),
    /// A rate limit that is counted here.
    LocalLimit(limit::LocalLimit),
    /// Whether the proxy is healthy.
    Health(health::Health),
    /// The whole body first, of so many bytes at most.
    Buffer(u32),
}

/// A request, what is known of it, and what a filter may do besides changing its head.
pub(crate) struct Scene<'s, 'x> {
    /// Where it takes place.
    pub(crate) place: Place<'x>,
    /// What is asked.
    pub(crate) plan: &'s Arc<Plan>,
    /// The route that takes it.
    pub(crate) route: Option<&'x Route>,
    /// How long the request's body is.
    pub(crate) length: Length,
    /// Who asks.
    pub(crate) downstream: &'s mut Downstream<'x>,
    /// What is noted of it.
    pub(crate) record: &'s mut Record,
    /// Filters that have a word on the response.
    pub(crate) passed: &'s mut Option<Box<Passed>>,
}

/// What filters that a request has passed still do to its response's head; and what ends with the request.
pub(crate) struct Passed {
    plan: Arc<Plan>,
    /// Whether they have done it.
    is_answered: bool,
    /// Counts the request among those that have a fault.
    active: Vec<fault::Active>,
    /// The origin whose page asks, where it may.
    origin: Option<Vec<u8>>,
    /// What authorization services want to be added to the response.
    authz: Vec<authz::Added>,
    /// What a rate limit says of itself.
    limit: Option<limit::Told>,
    /// Health checks that the request is one of.
    health: Vec<health::Asked>,
}

/// An answer that a filter gives in the service's place.
#[derive(Debug)]
pub(crate) struct LocalReply {
    /// Why.
    pub(crate) reason: Reason,
    /// HTTP status.
    pub(crate) status: u16,
    /// gRPC status for a gRPC call; `None` is that of the HTTP status.
    pub(crate) grpc_status: Option<u32>,
    /// Fields besides those that every answer has.
    pub(crate) fields: Fields,
    /// The body; `None` for words about the reason.
    pub(crate) body: Option<Bytes>,
    /// Whether it is the answer to what was asked, and not a refusal: the same to gRPC calls, and without words.
    pub(crate) is_plain: bool,
}

// === impl Filters ===

impl Filters {
    /// What a chain's filters do for each route of its table.
    pub(crate) fn new(filters: &[HttpFilter], table: &RouteTable, kept: &mut Kept) -> Self {
        let common = Arc::new(Plan::of(filters, &[], kept));
        let mut special = HashMap::new();
        if !filters.is_empty() {
            for (route, words) in words(table) {
                if words.iter().any(|words| !words.is_empty()) {
                    let plan = Plan::of(filters, &words, kept);
                    special.insert(ptr::from_ref(route).addr(), Arc::new(plan));
                }
            }
        }
        Self { common, special }
    }

    /// What applies to a request that this route takes, or none does.
    pub(crate) fn plan(&self, route: Option<&Route>) -> &Arc<Plan> {
        if self.special.is_empty() {
            return &self.common;
        }
        let found = route.and_then(|route| self.special.get(&ptr::from_ref(route).addr()));
        found.unwrap_or(&self.common)
    }
}

/// Each route of a table, with what it and what stands above it say of filters, the most specific first.
fn words(table: &RouteTable) -> impl Iterator<Item = (&Route, [&[RouteFilter]; 3])> {
    table.hosts().iter().flat_map(move |host| {
        let each = host.routes.iter().chain(host.secure.as_ref().map(|secure| &secure.route));
        each.map(move |route| (route, table.words(host, route)))
    })
}

// === impl Plan ===

impl Plan {
    /// `words` is what routes say of the filters, the most specific first.
    fn of(filters: &[HttpFilter], words: &[&[RouteFilter]], kept: &mut Kept) -> Self {
        let mut plan = Self::default();
        for applied in filters.iter().filter_map(|filter| filter.applied(words)) {
            plan.push(&applied, kept);
        }
        plan
    }

    fn push(&mut self, applied: &Applied<'_>, kept: &mut Kept) {
        self.steps.push(match applied {
            Applied::Cors(policies) => Step::Cors(cors::Cors::new(policies)),
            Applied::Fault { own, config } => Step::Fault(fault::Fault::new(own, config, kept)),
            Applied::Jwt(config, word) => Step::Jwt(jwt::Authentication::new(config, *word, kept)),
            Applied::Rbac(rules) => {
                self.rules.push(Judged::new(rules, kept));
                Step::Judge
            }
            Applied::ExtAuthz(config, settings) => {
                let settings = settings.cloned().unwrap_or_default();
                Step::Authz(authz::Authorization::new(config, settings))
            }
            Applied::LocalRateLimit(limit) => Step::LocalLimit(limit::LocalLimit::new(limit, kept)),
            Applied::HealthCheck(filter) => Step::Health(health::Health::new(filter, kept)),
            Applied::Buffer(most) => Step::Buffer(*most),
        });
    }

    /// The rules, where nothing else is asked.
    pub(crate) fn rules_alone(&self) -> Option<&[Judged]> {
        (self.steps.len() == self.rules.len()).then_some(&*self.rules)
    }
}

/// Asks each filter in turn.
///
/// # Errors
/// The first filter's that does not let the request pass, or answers it.
///
/// Boxed, so that exchanges without filters do not carry its memory.
pub(crate) fn ask<'s, 'x: 's, 'h: 's>(scene: Scene<'s, 'x>, request: &'h mut RequestHead) -> Asking<'s, 'h> {
    Box::pin(ask_all(scene, request))
}

/// Filters that are asked.
pub(crate) type Asking<'s, 'h> =
    Pin<Box<dyn Future<Output = Result<(Authorized<'h>, Length), ProxyError>> + 's>>;

async fn ask_all<'h>(
    mut scene: Scene<'_, '_>,
    request: &'h mut RequestHead,
) -> Result<(Authorized<'h>, Length), ProxyError> {
    let (plan, peer) = (Arc::clone(scene.plan), scene.place.peer);
    let facts = scene.record.facts(peer);
    let mut judge = Judge::new(&plan.rules);
    for step in &plan.steps {
        match step {
            Step::Fault(fault) => fault.ask(&mut scene, request).await?,
            Step::Cors(policies) => policies.ask(&mut scene, request)?,
            Step::Jwt(tokens) => tokens.ask(&mut scene, request).await?,
            Step::Judge => judge.next(&facts, scene.record, request)?,
            Step::Authz(service) => service.ask(&mut scene, request).await?,
            Step::LocalLimit(limit) => limit.ask(&mut scene)?,
            Step::Health(health) => health.ask(&mut scene, request)?,
            Step::Buffer(most) => body::hold(&mut scene, request, *most as usize).await?,
        }
    }
    // Some may have taken a while: who asks is still trusted.
    peer.admit()?;
    Ok((judge.authorize(&facts, scene.record, request)?, scene.length))
}

// === impl Scene ===

impl Scene<'_, '_> {
    /// The one cluster that the request goes to, as far as the route says so.
    fn cluster(&self) -> Option<&str> {
        self.route?.cluster()
    }

    /// What is kept for the response.
    fn passed(&mut self) -> &mut Passed {
        let plan = &self.plan;
        self.passed.get_or_insert_with(|| {
            Box::new(Passed {
                plan: Arc::clone(plan),
                is_answered: false,
                active: Vec::new(),
                origin: None,
                authz: Vec::new(),
                limit: None,
                health: Vec::new(),
            })
        })
    }

    /// Waits for something, unless the client leaves meanwhile.
    async fn wait<T>(&mut self, what: impl Future<Output = T>) -> Result<T, ProxyError> {
        let mut what = pin!(what);
        let downstream = &mut *self.downstream;
        // One that has ended its direction has left, as far as anybody can tell before it is answered.
        let mut quiet = Timer::default();
        let mut is_half_closed = false;
        poll_fn(|cx| {
            if let Poll::Ready(done) = what.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            if downstream.tells_when_gone()
                && let Poll::Ready(gone) = downstream.poll_gone(cx)
            {
                return Poll::Ready(Err(gone));
            }
            if downstream.is_half_closed() && !is_half_closed {
                is_half_closed = true;
                quiet.set(Some(Instant::now() + HALF_CLOSED_QUIET));
            }
            quiet.poll_expired(cx).map(|()| Err(ProxyError::fatal(Kind::DownstreamGone)))
        })
        .await
    }
}

// === impl Passed ===

impl Passed {
    /// Lets the filters change a response's head before it is sent, the last one first; once.
    pub(crate) fn answer(&mut self, _request: &RequestHead, response: &mut ResponseHead) {
        if std::mem::replace(&mut self.is_answered, true) {
            return;
        }
        let plan = Arc::clone(&self.plan);
        for step in plan.steps.iter().rev() {
            match step {
                Step::Health(_) => {
                    if let Some(asked) = self.health.pop() {
                        asked.answer(response);
                    }
                }
                Step::LocalLimit(_) => {
                    if let Some(told) = self.limit.take() {
                        told.tell(response);
                    }
                }
                Step::Cors(policies) => {
                    if let Some(origin) = &self.origin {
                        policies.answer(origin, response);
                    }
                }
                Step::Authz(_) => {
                    if let Some(added) = self.authz.pop() {
                        added.answer(response);
                    }
                }
                Step::Fault(_) | Step::Jwt(_) | Step::Judge | Step::Buffer(_) => {}
            }
        }
    }
}

// === impl LocalReply ===

impl LocalReply {
    /// A refusal with words about its reason.
    pub(crate) fn new(reason: Reason, status: u16) -> Self {
        let fields = Fields::default();
        Self { reason, status, grpc_status: None, fields, body: None, is_plain: false }
    }

    /// The gRPC status. Source: grpc `http-grpc-status-mapping.md`, as Envoy has it.
    pub(crate) fn grpc_status(&self) -> u8 {
        let of_status = match self.status {
            400 => 13,
            401 => 16,
            403 => 7,
            404 => 12,
            429 | 502..=504 => 14,
            _ => 2,
        };
        self.grpc_status.map_or(of_status, |status| u8::try_from(status).unwrap_or(u8::MAX))
    }

    /// Completes the head of an answer that was begun as all are.
    pub(crate) fn finish(&self, head: &mut ResponseHead) {
        if self.is_plain {
            head.fields.clear();
        }
        for (name, value) in self.fields.iter() {
            head.fields.set(name, value);
        }
    }
}

impl From<LocalReply> for ProxyError {
    fn from(reply: LocalReply) -> Self {
        Self::fatal(Kind::Answered(Box::new(reply)))
    }
}
