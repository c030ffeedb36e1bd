//! Tests of headers and of parameters of the query.

use std::sync::Arc;

use meshwork_model::problem::Code;
use meshwork_model::proxy::{HeaderMatch, HeaderTest, QueryMatch, StringMatch};
use meshwork_model::regex::Regex;

use super::{is_token, limited};
use crate::ingest::reader::{Fields, Item, Report, Text};

/// The most tests of one kind of one match. Source: Gateway API, `HTTPRouteMatch.headers`, `queryParams`.
const MAX_TESTS: usize = 16;

/// Reads the header tests of a match: lowercase names.
pub(crate) fn headers(fields: &mut Fields<'_>, report: &mut Report<'_>) -> Vec<HeaderMatch> {
    let mut headers: Vec<HeaderMatch> = Vec::new();
    for item in limited(fields, report, "headers", MAX_TESTS) {
        let Some((name, test)) = one(&item, "header", report) else { continue };
        let name: Arc<str> = name.to_ascii_lowercase().into();
        if headers.iter().any(|earlier| earlier.name == name) {
            twice(&item, "header", &name, report);
            continue;
        }
        headers.push(HeaderMatch { name, test: HeaderTest::Value(test), invert: false });
    }
    headers
}

/// Reads the tests of parameters of the query.
pub(crate) fn query(fields: &mut Fields<'_>, report: &mut Report<'_>) -> Vec<QueryMatch> {
    let mut query: Vec<QueryMatch> = Vec::new();
    for item in limited(fields, report, "queryParams", MAX_TESTS) {
        let Some((name, test)) = one(&item, "query parameter", report) else { continue };
        if query.iter().any(|earlier| *earlier.name == *name) {
            twice(&item, "query parameter", name, report);
            continue;
        }
        query.push(QueryMatch { name: name.into(), test: Some(test) });
    }
    query
}

/// Of several tests of one name the first counts. Source: Gateway API, `HTTPHeaderMatch.name`.
fn twice(item: &Item<'_>, what: &str, name: &str, report: &mut Report<'_>) {
    let message = format!("the {what} {name} is tested already in this match, so this test is passed over");
    report.warning_of(Code::Duplicate, &item.path, item.node.place, message, "Leave one of the tests out");
}

fn one<'n>(item: &Item<'n>, what: &str, report: &mut Report<'_>) -> Option<(&'n str, StringMatch)> {
    let mut fields = item.fields(report)?;
    let is_regex = match fields.text(report, "type") {
        Some(kind) => kind.one_of(report, &[("Exact", false), ("RegularExpression", true)], &[]),
        None => Some(false),
    };
    let name = fields.required_text(report, "name");
    let value = fields.required_text(report, "value");
    fields.close(report);
    let name = name?;
    if !is_token(name.value) {
        name.error(report, format!("\"{}\" is not a {what}'s name", name.value), "");
        return None;
    }
    let value = value?;
    let test = if is_regex? {
        StringMatch::Regex(regex(&value, report)?)
    } else {
        StringMatch::Exact(value.value.into())
    };
    Some((name.value, test))
}

/// Reads a regular expression for a whole text.
pub(crate) fn regex(text: &Text<'_>, report: &mut Report<'_>) -> Option<Regex> {
    /// The longest: that of a path, of a header's value or of a query parameter's in Gateway API.
    const MAX_BYTES: usize = 4096;
    let read = if text.value.len() > MAX_BYTES {
        Err(format!("it has more than {MAX_BYTES} bytes"))
    } else {
        Regex::new(text.value)
    };
    match read {
        Ok(regex) => Some(regex),
        Err(why) => {
            let message = format!("this is no regular expression that the mesh takes: {why}");
            text.error_of(Code::Regex, report, message, "Write it in the syntax of RE2");
            None
        }
    }
}
