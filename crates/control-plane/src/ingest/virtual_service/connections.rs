//! Where connections go: `TLSRoute` and `TCPRoute` of a VirtualService.

use std::sync::Arc;

use meshwork_model::mesh::{ConnectionRule, Labels};
use meshwork_model::problem::Code;

use super::{Reading, is_for_the_mesh};
use crate::ingest::reader::Item;

impl Reading<'_, '_> {
    /// Reads one rule: one for each of its matches. Those for other gateways are left out.
    pub(super) fn connection(&mut self, item: &Item<'_>, by_name: bool) -> Vec<ConnectionRule> {
        let Some(mut fields) = item.fields(self.report) else { return Vec::new() };
        let matches = match fields.optional("match") {
            Some(_) => self.each(&mut fields, "match", |reading, item| Some(reading.one(item, by_name))),
            None if by_name => {
                fields.required(self.report, "match");
                Vec::new()
            }
            None => vec![Some(everything())],
        };
        fields.required(self.report, "route");
        let items = fields.list(self.report, "route").unwrap_or_default();
        let backends = self.weighted(&items);
        fields.close(self.report);
        let Some(mut backends) = backends else { return Vec::new() };
        if let Some(item) = backends.iter().position(|b| !b.changes.is_empty()).and_then(|i| items.get(i)) {
            let message = "bytes have no headers to change";
            self.report.error_of(Code::UnknownField, &item.path, item.node.place, message, "Leave them out");
        }
        if let [only] = &mut backends[..] {
            only.weight = 1;
        }
        let rule = |rule| ConnectionRule { backends: backends.clone(), ..rule };
        matches.into_iter().flatten().map(rule).collect()
    }

    fn one(&mut self, item: &Item<'_>, by_name: bool) -> Option<ConnectionRule> {
        let mut fields = item.fields(self.report)?;
        let acts = is_for_the_mesh(&mut fields, self.report);
        let mut server_names: Vec<Arc<str>> = Vec::new();
        if by_name {
            fields.required(self.report, "sniHosts");
            server_names = self.each(&mut fields, "sniHosts", |reading, item| {
                Some(item.text(reading.report)?.value.to_ascii_lowercase().into())
            });
        }
        let port = fields.port(self.report, "port");
        let source_labels = fields.labels(self.report, "sourceLabels").unwrap_or_default();
        let source_namespace = fields.text(self.report, "sourceNamespace").map(|text| text.value.into());
        fields.not_yet(self.report, &["destinationSubnets", "sourceSubnet"], "Match by `port`");
        fields.close(self.report);
        let rule =
            ConnectionRule { server_names, port, source_labels, source_namespace, backends: Vec::new() };
        Some(rule).filter(|_| acts)
    }
}

fn everything() -> ConnectionRule {
    ConnectionRule {
        server_names: Vec::new(),
        port: None,
        source_labels: Labels::new(),
        source_namespace: None,
        backends: Vec::new(),
    }
}
