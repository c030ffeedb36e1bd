//! Telemetry, of which access logs are read. Source: Istio `telemetry.istio.io/v1`.

use meshwork_model::mesh::{Labels, LogChoice, LogTerms, Telemetry};
use meshwork_model::problem::Code;
use meshwork_model::proxy::{Comparison, HeaderMatch, HeaderTest, LogFilter, StringMatch};

use super::policy_target::selector;
use super::reader::{Fields, Item, Report, Text};

/// The name of the provider that writes to standard output.
const PROVIDER: &str = "envoy";
/// The most parts of a filter.
const MAX_TESTS: usize = 32;

/// Reads `spec`.
pub(crate) fn read(root: &mut Fields<'_>, report: &mut Report<'_>) -> Option<Telemetry> {
    let Some(item) = root.optional("spec") else {
        return Some(Telemetry { selector: Labels::new(), logs: None });
    };
    let mut spec = item.fields(report)?;
    let selector = selector(&mut spec, report);
    let logs = spec.list(report, "accessLogging").map(|items| logs(&items, report));
    tracing(&mut spec, report);
    spec.unheeded(report, &["metrics"], "All metrics are kept, with the tags that they have");
    spec.not_yet(report, &["targetRef", "targetRefs"], "Select workloads by `selector`");
    spec.close(report);
    Some(Telemetry { selector: selector?, logs })
}

fn logs(items: &[Item<'_>], report: &mut Report<'_>) -> LogTerms {
    let mut terms = LogTerms { server: LogChoice::Off, client: LogChoice::Off };
    for item in items {
        let Some(mut fields) = item.fields(report) else { continue };
        let (server, client) = sides(&mut fields, report);
        for item in fields.list(report, "providers").unwrap_or_default() {
            let Some(mut provider) = item.fields(report) else { continue };
            let name = provider.required_text(report, "name").filter(|name| name.value != PROVIDER);
            provider.close(report);
            if let Some(name) = name {
                let message =
                    format!("the provider \"{}\" is not known: lines go to standard output", name.value);
                report.warning(&name.path, name.place, message, format!("Use `{PROVIDER}`"));
            }
        }
        let disabled = fields.boolean(report, "disabled").unwrap_or(false);
        let filter = fields.mapping(report, "filter").and_then(|mut fields| {
            let text = fields.text(report, "expression");
            fields.close(report);
            filter(&text?, report)
        });
        fields.close(report);
        let choice = || if disabled { LogChoice::Off } else { LogChoice::On(filter.clone()) };
        if server {
            terms.server = choice();
        }
        if client {
            terms.client = choice();
        }
    }
    terms
}

/// Whether requests to the workload are meant, and those of it.
fn sides(fields: &mut Fields<'_>, report: &mut Report<'_>) -> (bool, bool) {
    let Some(mut fields) = fields.mapping(report, "match") else { return (true, true) };
    let modes = [("CLIENT_AND_SERVER", (true, true)), ("SERVER", (true, false)), ("CLIENT", (false, true))];
    let mode = fields.text(report, "mode").and_then(|text| text.one_of(report, &modes, &[]));
    fields.close(report);
    mode.unwrap_or((true, true))
}

/// Of CEL what compares the response's status and the request's head: `response.code >= 400 && request.path != '/'`.
fn filter(text: &Text<'_>, report: &mut Report<'_>) -> Option<LogFilter> {
    let any: Option<Vec<LogFilter>> = text.value.split("||").map(all_of).collect();
    let filter = any.filter(|any| any.len() <= MAX_TESTS).map(|any| one(any, LogFilter::Any));
    if filter.is_none() {
        let message = "of expressions comparisons of `response.code`, `request.path`, `request.method`, `request.host` \
                       and `request.headers['…']` are honoured, joined by `&&` and `||`";
        text.error_of(Code::Unsupported, report, message, "Write it as `response.code >= 400`");
    }
    filter
}

fn all_of(text: &str) -> Option<LogFilter> {
    let all: Vec<LogFilter> = text.split("&&").map(comparison).collect::<Option<_>>()?;
    (all.len() <= MAX_TESTS).then(|| one(all, LogFilter::All))
}

fn one(mut filters: Vec<LogFilter>, several: fn(Vec<LogFilter>) -> LogFilter) -> LogFilter {
    if filters.len() == 1 { filters.swap_remove(0) } else { several(filters) }
}

fn comparison(text: &str) -> Option<LogFilter> {
    status(text).or_else(|| header(text))
}

/// `request.path == '/a'`, `request.headers['x-a'] != 'b'`
fn header(text: &str) -> Option<LogFilter> {
    let (left, invert, right) = match text.split_once("==") {
        Some((left, right)) => (left.trim(), false, right.trim()),
        None => text.split_once("!=").map(|(left, right)| (left.trim(), true, right.trim()))?,
    };
    let name = match left {
        "request.path" => ":path",
        "request.method" => ":method",
        "request.host" => ":authority",
        other => quoted(other.strip_prefix("request.headers[")?.strip_suffix(']')?)?,
    };
    let test = HeaderTest::Value(StringMatch::Exact(quoted(right)?.into()));
    Some(LogFilter::Header(HeaderMatch { name: name.to_ascii_lowercase().into(), test, invert }))
}

fn quoted(text: &str) -> Option<&str> {
    let of = |quote| text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote));
    of('\'').or_else(|| of('"')).filter(|text| !text.contains(['\'', '"', '\\']))
}

fn status(text: &str) -> Option<LogFilter> {
    let rest = text.trim().strip_prefix("response.code")?.trim_start();
    let (operator, number) = rest.split_at(rest.find(|c: char| c.is_ascii_digit() || c == ' ')?);
    let number: u64 = number.trim().parse().ok()?;
    Some(match operator {
        ">=" => LogFilter::Status(Comparison::AtLeast, number),
        ">" => LogFilter::Status(Comparison::AtLeast, number + 1),
        "<=" => LogFilter::Status(Comparison::AtMost, number),
        "<" => LogFilter::Status(Comparison::AtMost, number.saturating_sub(1)),
        "==" => LogFilter::Status(Comparison::Equal, number),
        "!=" => LogFilter::Status(Comparison::NotEqual, number),
        _ => return None,
    })
}

/// Trace context is passed on, whatever is said of spans; none is exported.
fn tracing(spec: &mut Fields<'_>, report: &mut Report<'_>) {
    for item in spec.list(report, "tracing").unwrap_or_default() {
        let Some(mut fields) = item.fields(report) else { continue };
        sides(&mut fields, report);
        let disabled = fields.boolean(report, "disableSpanReporting").unwrap_or(false);
        if !disabled {
            let message = "no spans are exported: trace context is passed on as it is";
            report.warning(&item.path, item.node.place, message, "Set `disableSpanReporting: true`");
        }
        fields.skip(&[
            "providers",
            "randomSamplingPercentage",
            "customTags",
            "useRequestIdForTraceSampling",
            "enableIstioTags",
        ]);
        fields.close(report);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_compare_the_status() {
        let status = LogFilter::Status;
        let check = |text: &str, expected: Option<LogFilter>| {
            let any: Option<Vec<LogFilter>> = text.split("||").map(all_of).collect();
            assert_eq!(any.map(|any| one(any, LogFilter::Any)), expected, "{text}");
        };
        check("response.code >= 400", Some(status(Comparison::AtLeast, 400)));
        check("response.code>400", Some(status(Comparison::AtLeast, 401)));
        check(
            "response.code == 200 || response.code >= 500 && response.code != 503",
            Some(LogFilter::Any(vec![
                status(Comparison::Equal, 200),
                LogFilter::All(vec![status(Comparison::AtLeast, 500), status(Comparison::NotEqual, 503)]),
            ])),
        );
        let path = HeaderTest::Value(StringMatch::Exact("/a".into()));
        let header = |name: &str, invert| HeaderMatch { name: name.into(), test: path.clone(), invert };
        check("request.path == '/a'", Some(LogFilter::Header(header(":path", false))));
        check("request.headers[\"X-A\"] != '/a'", Some(LogFilter::Header(header("x-a", true))));
        check("request.path == /a", None);
        check("request.time == '/a'", None);
        check("response.code", None);
        check("response.code = 1", None);
    }
}
