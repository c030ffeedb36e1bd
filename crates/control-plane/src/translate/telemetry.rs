//! Access logs that Telemetry asks for, put into a node's listeners.
//!
//! What selects the workload goes before what is for its namespace, and that before what is for the mesh. Source: Istio
//! `telemetry.istio.io/v1` Telemetry.

use std::sync::Arc;

use meshwork_model::format::Template;
use meshwork_model::mesh::{Key, LogChoice, LogTerms, Workload, selects};
use meshwork_model::proxy::{AccessLog, Direction, Format, FormatBody, Listener, LogSink, NetworkFilter};

use super::Mesh;

/// A line of a request, or of a connection. Source: Istio's default format, as far as it is known here.
const LINE: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
                    %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
                    \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \
                    \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% \
                    %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// Has a node's listener log what it is asked to.
pub(super) fn apply(mesh: &Mesh, node: &Workload, listener: &mut Listener) {
    let Some(terms) = terms(mesh, node) else { return };
    let choice = if listener.direction == Direction::Inbound { &terms.server } else { &terms.client };
    let LogChoice::On(filter) = choice else { return };
    let Ok(line) = Template::parse(LINE) else { return };
    let format = Format { body: FormatBody::Text(line), omit_empty: false, content_type: None };
    let log = AccessLog { sink: LogSink::Stdout, format, filter: filter.clone() };
    for chain in listener.chains.iter_mut().chain(&mut listener.default_chain) {
        match &mut chain.filter {
            NetworkFilter::Http(http) => Arc::make_mut(http).access_logs.push(log.clone()),
            NetworkFilter::Tcp(tcp) => Arc::make_mut(tcp).access_logs.push(log.clone()),
        }
    }
}

fn terms<'m>(mesh: &'m Mesh, node: &Workload) -> Option<&'m LogTerms> {
    let all = &mesh.config.telemetries;
    if all.is_empty() {
        return None;
    }
    let here = |namespace: &str| {
        let from = Key::new(namespace, "");
        let namespace = Arc::clone(&from.namespace);
        let here = all.range(from..).take_while(move |(key, _)| key.namespace == namespace);
        here.filter_map(|(_, telemetry)| Some((telemetry, telemetry.logs.as_ref()?)))
    };
    let own = &*node.key.namespace;
    let selecting =
        here(own).find(|(one, _)| !one.selector.is_empty() && selects(&one.selector, &node.labels));
    let whole = |namespace| here(namespace).find(|(one, _)| one.selector.is_empty());
    let found = selecting.or_else(|| whole(own)).or_else(|| whole(crate::SYSTEM_NAMESPACE));
    found.map(|(_, logs)| logs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_a_format() {
        assert_eq!(Template::parse(LINE).map(drop), Ok(()));
    }
}
