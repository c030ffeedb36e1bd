//! Which requests a rule takes: `HTTPMatchRequest`.

use std::sync::Arc;

use meshwork_model::mesh::{PathMatch, RouteMatch};
use meshwork_model::path::with_normal_escapes;
use meshwork_model::problem::Code;
use meshwork_model::proxy::{HeaderMatch, HeaderTest, QueryMatch, StringMatch};

use super::{Reading, is_for_the_mesh};
use crate::ingest::istio::{TextTest, at_most, field_name, string_match};
use crate::ingest::reader::{Fields, Item};

/// The most tests of one kind in one match.
const MAX_TESTS: usize = 64;

impl Reading<'_, '_> {
    /// Reads `match`; those for other gateways are left out. `None` where anything about one is wrong.
    pub(super) fn matches(&mut self, fields: &mut Fields<'_>) -> Option<Vec<RouteMatch>> {
        let matches = self.each(fields, "match", |reading, item| Some(reading.one_match(item)));
        let matches: Vec<Vec<RouteMatch>> = matches.into_iter().collect::<Option<_>>()?;
        Some(matches.into_iter().flatten().collect())
    }

    /// None of them where it is not for the mesh.
    fn one_match(&mut self, item: &Item<'_>) -> Option<Vec<RouteMatch>> {
        let mut fields = item.fields(self.report)?;
        let mut matches = RouteMatch::everything();
        let acts = is_for_the_mesh(&mut fields, self.report);
        let path = match fields.optional("uri") {
            Some(item) => self.path(&item),
            None => Some(PathMatch::Text("/".into())),
        };
        matches.any_case = fields.boolean(self.report, "ignoreUriCase").unwrap_or(false);
        for (field, name) in [("scheme", ":scheme"), ("authority", ":authority")] {
            let Some(item) = fields.optional(field) else { continue };
            if let TextTest::Is(test) = string_match(&item, self.report)? {
                matches.headers.push(header(name.into(), TextTest::Is(test)));
            }
        }
        if let Some(item) = fields.optional("method") {
            matches.method = string_match(&item, self.report)?.test();
        }
        matches.headers.extend(self.headers(&mut fields, "headers")?);
        matches.headers.extend(self.headers(&mut fields, "withoutHeaders")?.into_iter().map(without));
        matches.query = self.query(&mut fields)?;
        matches.port = fields.port(self.report, "port");
        matches.source_labels = fields.labels(self.report, "sourceLabels").unwrap_or_default();
        matches.source_namespace = fields.text(self.report, "sourceNamespace").map(|text| text.value.into());
        // A name of the match, of which nothing depends.
        fields.skip(&["name"]);
        fields.unheeded(self.report, &["statPrefix"], "");
        fields.close(self.report);
        matches.path = path?;
        Some(acts.then_some(matches).into_iter().collect())
    }

    fn path(&mut self, item: &Item<'_>) -> Option<PathMatch> {
        Some(match string_match(item, self.report)?.test() {
            None => PathMatch::Text("/".into()),
            Some(StringMatch::Exact(text)) => PathMatch::Exact(self.checked(&text, item)),
            Some(StringMatch::Prefix(text)) => PathMatch::Text(self.checked(&text, item)),
            Some(StringMatch::Regex(regex)) => PathMatch::Regex(regex),
            // Nobody can write these.
            Some(_) => return None,
        })
    }

    /// A path that the proxy's normalisation would never let through matches nothing: better said than lived with.
    fn checked(&mut self, path: &str, item: &Item<'_>) -> Arc<str> {
        let lower = path.to_ascii_lowercase();
        let dots = path.split('/').any(|segment| matches!(segment, "." | ".."));
        if !path.starts_with('/') {
            let message = "no request's path starts so: a path starts with \"/\"";
            self.report.warning_of(Code::Shadowed, &item.path, item.node.place, message, "");
        } else if dots || path.contains("//") || lower.contains("%2f") || lower.contains("%5c") {
            let message = "no request's path is such: \"//\", \"/./\", \"/../\", \"%2f\" and \"%5c\" are normalised or \
                           refused before";
            self.report.warning_of(Code::Shadowed, &item.path, item.node.place, message, "");
        } else if path.contains('?') {
            let message = "the query is no part of the path that is tested";
            let fix = "Test the query by `queryParams`";
            self.report.warning_of(Code::Shadowed, &item.path, item.node.place, message, fix);
        }
        with_normal_escapes(path).into()
    }

    fn headers(&mut self, fields: &mut Fields<'_>, name: &'static str) -> Option<Vec<HeaderMatch>> {
        let Some(mapping) = fields.mapping(self.report, name) else { return Some(Vec::new()) };
        let entries = mapping.each(self.report);
        let items: Vec<Item<'_>> = entries.iter().map(|(_, item)| item.clone()).collect();
        at_most(&items, MAX_TESTS, self.report);
        let mut headers = Vec::new();
        for (key, item) in entries.iter().take(MAX_TESTS) {
            let name = field_name(key, self.report);
            let test = string_match(item, self.report);
            if matches!(key.value, "uri" | "scheme" | "method" | "authority") {
                let message = format!("`{}` is no header: it has a field of its own", key.value);
                self.report.error(&item.path, key.place, message, "Write it beside `headers`");
                return None;
            }
            headers.push(header(name?, test?));
        }
        Some(headers)
    }

    fn query(&mut self, fields: &mut Fields<'_>) -> Option<Vec<QueryMatch>> {
        let Some(mapping) = fields.mapping(self.report, "queryParams") else { return Some(Vec::new()) };
        let mut query = Vec::new();
        for (key, item) in mapping.each(self.report).iter().take(MAX_TESTS) {
            query.push(QueryMatch { name: key.value.into(), test: string_match(item, self.report)?.test() });
        }
        Some(query)
    }
}

fn header(name: Arc<str>, test: TextTest) -> HeaderMatch {
    HeaderMatch { name, test: test.test().map_or(HeaderTest::Present, HeaderTest::Value), invert: false }
}

/// A field that is not there is without that value. Source: Istio `withoutHeaders`.
fn without(header: HeaderMatch) -> HeaderMatch {
    let test = match header.test {
        HeaderTest::Present => HeaderTest::Present,
        test => HeaderTest::OrMissing(Box::new(test)),
    };
    HeaderMatch { test, invert: true, ..header }
}
