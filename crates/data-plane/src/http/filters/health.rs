//! Answers to who asks whether this proxy is healthy.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use meshwork_model::head::{RequestHead, ResponseHead};
use meshwork_model::proxy::HealthCheckFilter;
use meshwork_model::reason::Reason;
use meshwork_model::route::matches_header;
use tokio::time::Instant;

use super::{Kept, LocalReply, Scene};
use crate::error::ProxyError;
use crate::proxy::NodeLabels;

/// Who answers a health check, for checks that want to know. Source: Envoy `HttpHealthCheck.service_name_matcher`.
const CLUSTER: &[u8] = b"x-envoy-upstream-healthchecked-cluster";

/// Tells a proxy in front to send nothing more at once, and not only after its next check.
const FAILED: &[u8] = b"x-envoy-immediate-health-check-fail";

/// The filter on a route.
pub(super) struct Health {
    config: Arc<HealthCheckFilter>,
    cached: Arc<Cached>,
}

/// A request on whose response a filter has a say; each has its own.
#[derive(Default)]
pub(super) struct Asked {
    /// Who answers, where it asks for health.
    node: Option<Arc<NodeLabels>>,
    /// Whether an operator says that the proxy is unwell.
    is_failed: bool,
    /// Where the answer is kept, and for how long.
    keeps: Option<(Arc<Cached>, Duration)>,
}

/// What the application last said.
struct Cached {
    begun: Instant,
    /// Its status, and in the higher bits until when that stands, in milliseconds.
    answer: AtomicU64,
}

impl Health {
    pub(super) fn new(config: &Arc<HealthCheckFilter>, kept: &mut Kept) -> Self {
        let cached = kept.state(config, |_| Cached { begun: Instant::now(), answer: AtomicU64::new(0) });
        Self { config: Arc::clone(config), cached }
    }

    /// Answers, or lets the application do so.
    pub(super) fn ask(&self, scene: &mut Scene<'_, '_>, head: &RequestHead) -> Result<(), ProxyError> {
        let worker = scene.place.worker;
        let is_failed = worker.is_failed();
        if !self.config.headers.iter().all(|test| matches_header(test, head)) {
            if is_failed {
                scene.passed().health.push(Asked { is_failed, ..Asked::default() });
            }
            return Ok(());
        }
        let keeps = self.config.cache.map(|time| (Arc::clone(&self.cached), time));
        scene.passed().health.push(Asked { node: Some(Arc::clone(&worker.node)), is_failed, keeps });
        scene.record.is_health_check = true;
        let is_healthy = |(name, least): &(Arc<str>, f64)| {
            worker.cluster(name).is_some_and(|cluster| cluster.healthy_percent() >= *least)
        };
        let status = match (self.config.pass_through, self.cached.status()) {
            _ if is_failed || worker.is_draining() => 503,
            (true, Some(status)) => status,
            (true, None) => return Ok(()),
            (false, _) if self.config.least_healthy.iter().all(is_healthy) => 200,
            (false, _) => 503,
        };
        let reason = if status == 200 { Reason::DirectResponse } else { Reason::Unhealthy };
        Err(LocalReply { is_plain: true, ..LocalReply::new(reason, status) }.into())
    }
}

impl Asked {
    /// Says who answers, and keeps what the application said.
    pub(super) fn answer(&self, response: &mut ResponseHead) {
        if self.is_failed {
            response.fields.set(FAILED, b"true");
        }
        if let Some(node) = self.node.as_ref().filter(|node| !node.cluster.is_empty()) {
            response.fields.set(CLUSTER, node.cluster.as_bytes());
        }
        if let Some((cached, time)) = &self.keeps
            && cached.status().is_none()
        {
            cached.keep(response.status, *time);
        }
    }
}

impl Cached {
    fn keep(&self, status: u16, time: Duration) {
        let until = (self.begun.elapsed() + time).as_millis();
        let until = u64::try_from(until).unwrap_or(u64::MAX >> 16);
        self.answer.store(until << 16 | u64::from(status), Ordering::Relaxed);
    }

    fn status(&self) -> Option<u16> {
        let answer = self.answer.load(Ordering::Relaxed);
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        (answer >> 16 > now).then(|| u16::try_from(answer & 0xffff).unwrap_or(0))
    }
}
