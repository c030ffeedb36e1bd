//! Faults on purpose.

use std::sync::Arc;

use meshwork_model::proxy::{AbortBy, DelayBy, Fault, FaultAbort, FaultDelay};

use super::super::{duration, route};
use super::share;
use crate::path::{Path, Problems};
use crate::pb;

/// The filter, or what a route has in its place.
pub(super) fn fault(
    message: &pb::fault::HttpFault,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Arc<Fault>> {
    let delay = match &message.delay {
        Some(message) => Some(delay(message, &at.field("delay"), problems)?),
        None => None,
    };
    let abort = match &message.abort {
        Some(message) => Some(abort(message, &at.field("abort"), problems)?),
        None => None,
    };
    Some(Arc::new(Fault {
        delay,
        abort,
        upstream_cluster: message.upstream_cluster.as_str().into(),
        headers: route::headers(&message.headers, &at.field("headers"), problems)?,
        downstream_nodes: message.downstream_nodes.iter().map(|node| node.as_str().into()).collect(),
        max_active: message.max_active_faults.map(|most| most.value),
    }))
}

fn delay(
    message: &pb::common_fault::FaultDelay,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<FaultDelay> {
    use pb::common_fault::fault_delay::FaultDelaySecifier as By;
    let by = match &message.fault_delay_secifier {
        Some(By::FixedDelay(wait)) => match duration(*wait, &at.field("fixed_delay"), problems)? {
            wait if wait.is_zero() => {
                return problems.error(&at.field("fixed_delay"), "this must be more than 0s", "");
            }
            wait => DelayBy::Fixed(wait),
        },
        Some(By::HeaderDelay(_)) => DelayBy::Header,
        None => return problems.error(at, "the delay is missing", "write `fixed_delay` or `header_delay`"),
    };
    Some(FaultDelay { by, share: share(message.percentage.as_ref()) })
}

fn abort(message: &pb::fault::FaultAbort, at: &Path<'_>, problems: &mut Problems) -> Option<FaultAbort> {
    use pb::fault::fault_abort::ErrorType;
    let by = match &message.error_type {
        Some(ErrorType::HttpStatus(status)) => match u16::try_from(*status) {
            Ok(status) if (200..600).contains(&status) => AbortBy::Http(status),
            _ => return problems.error(&at.field("http_status"), format!("{status} is no status"), ""),
        },
        Some(ErrorType::GrpcStatus(status)) => AbortBy::Grpc(*status),
        Some(ErrorType::HeaderAbort(_)) => AbortBy::Header,
        None => return problems.error(at, "the status is missing", "write `http_status`"),
    };
    let body = (!message.response_body.is_empty()).then(|| message.response_body.as_str().into());
    Some(FaultAbort { by, share: share(message.percentage.as_ref()), body })
}
