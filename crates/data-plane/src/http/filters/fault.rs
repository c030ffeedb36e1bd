//! Faults on purpose: a request waits, or gets a status in the service's place.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use meshwork_model::fault;
use meshwork_model::flag::Flag;
use meshwork_model::head::RequestHead;
use meshwork_model::proxy;
use meshwork_model::reason::Reason;
use tokio::time::sleep;

use super::{Kept, LocalReply, Scene};
use crate::error::ProxyError;

/// The filter on a route.
pub(super) struct Fault {
    config: Arc<proxy::Fault>,
    /// Requests that have one now, on all workers and all routes.
    active: Arc<AtomicU32>,
}

/// A request that has a fault, until this is dropped.
pub(super) struct Active(Arc<AtomicU32>);

impl Fault {
    /// `filter` is the chain's own config, by which faults are counted; `config` is that of the route.
    pub(super) fn new(filter: &Arc<proxy::Fault>, config: &Arc<proxy::Fault>, kept: &mut Kept) -> Self {
        Self { config: Arc::clone(config), active: kept.state(filter, |_| AtomicU32::new(0)) }
    }

    /// Waits, answers, or does nothing.
    pub(super) async fn ask(&self, scene: &mut Scene<'_, '_>, head: &RequestHead) -> Result<(), ProxyError> {
        let fault = &*self.config;
        // Two requests at the same time may both be the last: the limit is one on the whole.
        let is_free = fault.max_active.is_none_or(|most| self.active.load(Ordering::Relaxed) < most);
        if !is_free || !fault::concerns(fault, head, scene.cluster()) {
            return Ok(());
        }
        let mut active = None;
        if let Some(wait) = fault::delay(fault, head, scene.place.worker.random()) {
            active = Some(Active::new(&self.active));
            scene.record.more_flags.insert(Flag::DelayInjected);
            scene.wait(sleep(wait)).await?;
        }
        let abort = fault::abort(fault, head, scene.place.worker.random());
        if active.is_some() || abort.is_some() {
            let active = active.unwrap_or_else(|| Active::new(&self.active));
            scene.passed().active.push(active);
        }
        let Some(abort) = abort else { return Ok(()) };
        let mut reply = LocalReply::new(Reason::Fault, abort.status);
        reply.grpc_status = abort.grpc_status;
        let body = fault.abort.as_ref().and_then(|abort| abort.body.as_ref());
        reply.body = body.map(|body| Bytes::copy_from_slice(body.as_bytes()));
        Err(reply.into())
    }
}

impl Active {
    fn new(count: &Arc<AtomicU32>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
