//! The filters of an HTTP chain: what each asks of a request before it goes on, and does to its response's head.
//!
//! [`Filters`] is built with the config: for each route a [`Plan`], so that a request finds what applies to it and reads
//! no config. [`ask`] runs a plan's steps in their one order; a step lets the request pass, waits, changes it, or answers
//! in the service's place. What a step has still to say when the response comes is kept in [`Passed`].

use std::collections::HashMap;
use std::ptr;
use std::sync::Arc;

use meshwork_model::head::{RequestHead, ResponseHead};
use meshwork_model::policy::Facts;
use meshwork_model::proxy::{HttpFilter, HttpFilterKind, HttpRbac, Route};

use super::body::Length;
use crate::error::ProxyError;
use crate::policy::{Authorized, Judge};

/// The filters of a chain.
pub(crate) struct Filters {
    /// What applies where no route says anything else.
    common: Arc<Plan>,
    /// What applies to a route or a weighted cluster that says something, by its address in the table.
    special: HashMap<usize, Arc<Plan>>,
}

/// What the filters do for a route.
#[derive(Default)]
pub(crate) struct Plan {
    steps: Vec<Step>,
    /// The rules of all steps that judge, in order.
    rules: Vec<HttpRbac>,
    /// Whether there is nothing but rules.
    is_rules_alone: bool,
}

/// One filter's part.
enum Step {
    /// The next of the plan's rules judge.
    Judge,
}

/// What a request is asked with.
pub(crate) struct Scene<'p, 'f> {
    /// What is asked.
    pub(crate) plan: &'p Plan,
    /// What rules look at besides the request itself.
    pub(crate) facts: Facts<'f>,
    /// How long the request's body is.
    pub(crate) length: Length,
    /// Filters that have a word on the response.
    pub(crate) passed: &'f mut Option<Box<Passed<'p>>>,
}

/// What filters that a request has passed still do to its response's head.
pub(crate) struct Passed<'p> {
    plan: &'p Plan,
}

// === impl Filters ===

impl Filters {
    /// Of a chain whose routes say nothing of filters.
    pub(crate) fn new(filters: &[HttpFilter]) -> Self {
        let on = filters.iter().filter(|filter| !filter.disabled);
        Self { common: Arc::new(Plan::of(on.map(|filter| &filter.kind))), special: HashMap::new() }
    }

    /// What applies to a request that this route takes, or none does.
    pub(crate) fn plan(&self, route: Option<&Route>) -> &Plan {
        if self.special.is_empty() {
            return &self.common;
        }
        let found = route.and_then(|route| self.special.get(&ptr::from_ref(route).addr()));
        found.unwrap_or(&self.common)
    }
}

// === impl Plan ===

impl Plan {
    fn of<'c>(kinds: impl Iterator<Item = &'c HttpFilterKind>) -> Self {
        let mut plan = Self { is_rules_alone: true, ..Self::default() };
        for kind in kinds {
            match kind {
                HttpFilterKind::Rbac(rules) => {
                    plan.steps.push(Step::Judge);
                    plan.rules.push(rules.clone());
                }
            }
        }
        plan
    }

    /// The rules, where nothing else is asked.
    pub(crate) fn rules_alone(&self) -> Option<&[HttpRbac]> {
        self.is_rules_alone.then_some(&*self.rules)
    }
}

/// Asks each filter in turn.
///
/// # Errors
/// The first filter's that does not let the request pass, or answers it.
pub(crate) async fn ask<'h>(
    scene: Scene<'_, '_>,
    request: &'h mut RequestHead,
) -> Result<(Authorized<'h>, Length), ProxyError> {
    let Scene { plan, facts, length, .. } = scene;
    let mut judge = Judge::new(&plan.rules);
    for step in &plan.steps {
        match step {
            Step::Judge => judge.next(&facts, request)?,
        }
    }
    Ok((judge.authorize(&facts, request)?, length))
}

// === impl Passed ===

impl Passed<'_> {
    /// Lets the filters change a response's head before it is sent, the last one first.
    pub(crate) fn answer(&mut self, _request: &RequestHead, _response: &mut ResponseHead) {
        for step in self.plan.steps.iter().rev() {
            match step {
                Step::Judge => {}
            }
        }
    }
}
