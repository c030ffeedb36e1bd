//! Access logs of the config's own: whether a request is one that a log is about, and its line.

use meshwork_model::format::Facts as _;
use meshwork_model::proxy::{Format, FormatBody, LogFilter};
use meshwork_model::route::matches_header;

use crate::facts::Seen;

/// Appends a text.
pub(crate) fn write(format: &Format, seen: &Seen<'_>, out: &mut Vec<u8>) {
    match &format.body {
        FormatBody::Text(text) if format.omit_empty => text.write_omitting(seen, out),
        FormatBody::Text(text) => text.write(seen, out),
        FormatBody::Json(json) => {
            json.write(seen, format.omit_empty, out);
            out.push(b'\n');
        }
    }
}

/// Whether a filter lets a request pass.
pub(crate) fn passes(filter: &LogFilter, seen: &Seen<'_>) -> bool {
    match filter {
        LogFilter::Status(comparison, than) => comparison.holds(seen.record.status.into(), *than),
        LogFilter::Duration(comparison, than) => {
            let milliseconds = u64::try_from(seen.record.duration().as_millis()).unwrap_or(u64::MAX);
            comparison.holds(milliseconds, *than)
        }
        LogFilter::NotHealthCheck => !seen.record.is_health_check,
        LogFilter::Traceable => false,
        LogFilter::Share(share) => share.hits(seen.worker.random()),
        LogFilter::All(filters) => filters.iter().all(|filter| passes(filter, seen)),
        LogFilter::Any(filters) => filters.iter().any(|filter| passes(filter, seen)),
        LogFilter::Header(test) => seen.request.is_some_and(|head| matches_header(test, head)),
        LogFilter::Flags(wanted) if wanted.is_empty() => !seen.flags().is_empty(),
        LogFilter::Flags(wanted) => seen.flags().intersects(*wanted),
        LogFilter::GrpcStatus { statuses, exclude } => {
            let bit = 1_u32.checked_shl(seen.grpc_status().into()).unwrap_or(0);
            (statuses & bit != 0) != *exclude
        }
        LogFilter::AtEnd(at_end) => *at_end,
    }
}
