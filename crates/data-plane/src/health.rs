//! What is found out about endpoints beside requests.

use meshwork_model::outlier::Outcome;

use crate::upstream::Picked;

/// Notes what came of a request or a connection; costs a look where nobody wants to know.
pub(crate) fn note(_picked: &Picked, _outcome: Outcome) {}

/// An endpoint has said itself that it is not well (`x-envoy-immediate-health-check-fail`). Where it is not asked either,
/// that means nothing.
pub(crate) fn fail(_picked: &Picked) {}
