//! Access logs.

use super::{Accepted, LABEL, accept, harmless, only, yes};

pub(super) const ACCEPTED: &[Accepted] = &[
    accept(
        "envoy.config.accesslog.v3.AccessLog",
        &[harmless("name", LABEL), only("typed_config", "file or stdout")],
    ),
    accept("envoy.extensions.access_loggers.file.v3.FileAccessLog", &[yes("path")]),
    accept("envoy.extensions.access_loggers.stream.v3.StdoutAccessLog", &[]),
];
