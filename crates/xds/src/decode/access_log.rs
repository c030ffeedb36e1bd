//! Access logs that the config asks for.

use meshwork_model::proxy::AccessLog;

use super::{is, required, unpack};
use crate::path::{Path, Problems};
use crate::pb;

/// The sinks of a connection's access logs.
pub(super) fn sinks(
    logs: &[pb::accesslog::AccessLog],
    at: &Path<'_>,
    problems: &mut Problems,
) -> Vec<AccessLog> {
    use pb::accesslog::access_log::ConfigType::TypedConfig;
    let mut sinks = Vec::new();
    for (index, log) in logs.iter().enumerate() {
        let Some(TypedConfig(any)) = &log.config_type else { continue };
        if let Some(file) = unpack::<pb::FileAccessLog>(any) {
            let at = at.index(index);
            let path = required(&file.path, &at.field("typed_config").field("path"), problems);
            sinks.extend(path.map(|path| AccessLog::File(path.into())));
        } else if is::<pb::StdoutAccessLog>(any) {
            sinks.push(AccessLog::Stdout);
        } else {
            problems.error::<()>(&at.index(index), "this access log is not supported", "");
        }
    }
    sinks
}
