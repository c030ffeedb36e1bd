//! What a rule does with a request: `HTTPRoute` of a VirtualService.

use std::sync::Arc;

use meshwork_model::fraction::Fraction;
use meshwork_model::mesh::{Backend, PathModifier, RouteRule, RuleAction, RuleMirror};
use meshwork_model::problem::Code;
use meshwork_model::proxy::{CorsPolicy, PathRewrite, Redirect, RedirectPath, StringMatch};
use meshwork_model::regex::Rewrite;

use super::Reading;
use crate::ingest::istio::{at_most, duration, share, string_match};
use crate::ingest::reader::{Fields, Item};

/// The most origins of a policy for browsers.
const MAX_ORIGINS: usize = 100;

impl Reading<'_, '_> {
    /// Reads `route`, `redirect` or `directResponse`, of which there is one.
    pub(super) fn action(&mut self, fields: &mut Fields<'_>, item: &Item<'_>) -> Option<RuleAction> {
        let names = ["route", "redirect", "directResponse"];
        let there = names.into_iter().filter(|&name| fields.optional(name).is_some()).count();
        let route = self.route(fields).map(RuleAction::Forward);
        let redirect = self.redirect(fields).map(RuleAction::Redirect);
        let respond = self.respond(fields);
        // What a delegate would say is refused with it.
        if there == 0 && fields.optional("delegate").is_none() {
            let message = "the rule does not say what becomes of a request";
            let fix = "Write `route`, `redirect` or `directResponse`";
            self.report.error_of(Code::MissingField, &item.path, item.node.place, message, fix);
        }
        if there > 1 {
            let message = "of `route`, `redirect` and `directResponse` there is one";
            self.report.error_of(
                Code::Conflict,
                &item.path,
                item.node.place,
                message,
                "Leave the others out",
            );
        }
        route.or(redirect).or(respond)
    }

    fn route(&mut self, fields: &mut Fields<'_>) -> Option<Vec<Backend>> {
        let items = fields.list(self.report, "route")?;
        let mut backends = self.weighted(&items)?;
        if let [only] = &mut backends[..] {
            only.weight = 1;
        } else if backends.iter().all(|backend| backend.weight == 0) {
            let message = "all weights are 0, so that no request could be forwarded";
            let fix = "Give one destination a weight over 0";
            self.report.error(&fields.path_of("route"), fields.place_of("route"), message, fix);
        }
        Some(backends)
    }

    /// Destinations with weights; `None` where one is wrong.
    pub(super) fn weighted(&mut self, items: &[Item<'_>]) -> Option<Vec<Backend>> {
        at_most(items, super::MAX_ITEMS, self.report);
        let read: Vec<_> = items.iter().take(super::MAX_ITEMS).map(|item| self.one_weighted(item)).collect();
        read.into_iter().collect()
    }

    fn one_weighted(&mut self, item: &Item<'_>) -> Option<Backend> {
        /// Weights are shares of this, or of whatever their sum is.
        const MAX_WEIGHT: i64 = 1_000_000;
        let mut fields = item.fields(self.report)?;
        let destination =
            fields.required(self.report, "destination").and_then(|item| self.destination(&item));
        let weight = fields.integer(self.report, "weight", 0..=MAX_WEIGHT).unwrap_or(0);
        let changes = self.changes(&mut fields);
        fields.close(self.report);
        Some(Backend { weight: u32::try_from(weight).unwrap_or(0), changes, ..destination? })
    }

    fn redirect(&mut self, fields: &mut Fields<'_>) -> Option<Redirect> {
        let mut fields = fields.mapping(self.report, "redirect")?;
        let path = fields.text(self.report, "uri").map(|text| match text.value.strip_prefix("%PREFIX()%") {
            Some(rest) => RedirectPath::Rewrite(PathRewrite::Matched(rest.into())),
            None => RedirectPath::Path(text.value.into()),
        });
        let host = fields.text(self.report, "authority").map(|text| Arc::from(text.value));
        let scheme = fields.text(self.report, "scheme");
        let scheme =
            scheme.and_then(|text| text.one_of(self.report, &[("http", "http"), ("https", "https")], &[]));
        let port = fields.port(self.report, "port");
        let derived = [("FROM_PROTOCOL_DEFAULT", false), ("FROM_REQUEST_PORT", true)];
        let keeps_port = fields.text(self.report, "derivePort");
        let keeps_port = keeps_port.and_then(|text| text.one_of(self.report, &derived, &[]));
        let status = fields.integer(self.report, "redirectCode", 300..=399).unwrap_or(301);
        if !matches!(status, 301 | 302 | 303 | 307 | 308) {
            let path = fields.path_of("redirectCode");
            let message = format!("{status} is none of 301, 302, 303, 307 and 308");
            self.report.error_of(Code::NotOneOf, &path, fields.place_of("redirectCode"), message, "");
        }
        fields.close(self.report);
        Some(Redirect {
            scheme: scheme.map(Into::into),
            host,
            port,
            path: path.unwrap_or(RedirectPath::Same),
            strip_query: false,
            keeps_port: keeps_port.unwrap_or(false),
            status: u16::try_from(status).unwrap_or(301),
        })
    }

    fn respond(&mut self, fields: &mut Fields<'_>) -> Option<RuleAction> {
        let mut fields = fields.mapping(self.report, "directResponse")?;
        fields.required(self.report, "status");
        let status = fields.integer(self.report, "status", 200..=599);
        let mut text = "";
        if let Some(mut body) = fields.mapping(self.report, "body") {
            text = body.text(self.report, "string").map_or("", |text| text.value);
            body.not_yet(self.report, &["bytes"], "Write `string`");
            body.close(self.report);
        }
        fields.close(self.report);
        Some(RuleAction::Respond(u16::try_from(status?).ok()?, text.into()))
    }

    /// Reads `rewrite` into what is sent on.
    pub(super) fn rewrite(&mut self, fields: &mut Fields<'_>, rule: &mut RouteRule) {
        let Some(mut fields) = fields.mapping(self.report, "rewrite") else { return };
        let uri = fields.text(self.report, "uri").map(|text| PathModifier::Text(text.value.into()));
        rule.host = fields.text(self.report, "authority").map(|text| text.value.into());
        let mut by_regex = None;
        if let Some(mut regex) = fields.mapping(self.report, "uriRegexRewrite") {
            let pattern = regex.required_text(self.report, "match");
            let substitution = regex.required_text(self.report, "rewrite");
            regex.close(self.report);
            if let (Some(pattern), Some(substitution)) = (pattern, substitution) {
                match Rewrite::new(pattern.value, substitution.value) {
                    Ok(rewrite) => by_regex = Some(PathModifier::Regex(rewrite)),
                    Err(why) => {
                        let message = format!("this regular expression is refused: {why}");
                        pattern.error_of(Code::Regex, self.report, message, "");
                    }
                }
            }
        }
        if uri.is_some() && by_regex.is_some() {
            let (path, message) = (fields.path_of("uri"), "of `uri` and `uriRegexRewrite` there is one");
            self.report.error_of(
                Code::Conflict,
                &path,
                fields.place_of("uri"),
                message,
                "Leave the other out",
            );
        }
        rule.path = uri.or(by_regex);
        fields.close(self.report);
    }

    /// Reads `mirror` and `mirrors`.
    pub(super) fn mirrors(&mut self, fields: &mut Fields<'_>) -> Vec<RuleMirror> {
        let share_of = |reading: &mut Self, fields: &mut Fields<'_>, name| {
            share(fields, reading.report, name, "mirrorPercent").unwrap_or(Fraction::ALL)
        };
        let share = share_of(self, fields, "mirrorPercentage");
        let single = fields.optional("mirror").and_then(|item| self.destination(&item));
        let mut mirrors: Vec<RuleMirror> = single.map(|to| RuleMirror { to, share }).into_iter().collect();
        mirrors.extend(self.each(fields, "mirrors", |reading, item| {
            let mut fields = item.fields(reading.report)?;
            let destination = fields.required(reading.report, "destination");
            let to = destination.and_then(|item| reading.destination(&item));
            let share = share_of(reading, &mut fields, "percentage");
            fields.close(reading.report);
            Some(RuleMirror { to: to?, share })
        }));
        mirrors
    }

    /// Reads `corsPolicy`.
    pub(super) fn cors(&mut self, fields: &mut Fields<'_>) -> Option<Arc<CorsPolicy>> {
        let mut fields = fields.mapping(self.report, "corsPolicy")?;
        let origins = fields.list(self.report, "allowOrigins").unwrap_or_default();
        at_most(&origins, MAX_ORIGINS, self.report);
        let mut allow_origins = Vec::new();
        for item in origins.iter().take(MAX_ORIGINS) {
            let any = || StringMatch::Prefix("".into());
            allow_origins.extend(string_match(item, self.report).map(|test| test.test().unwrap_or_else(any)));
        }
        for item in fields.list(self.report, "allowOrigin").unwrap_or_default() {
            allow_origins.extend(item.text(self.report).map(|text| match text.value {
                "*" => StringMatch::Prefix("".into()),
                origin => StringMatch::Exact(origin.into()),
            }));
        }
        let preflights = [("UNSPECIFIED", true), ("FORWARD", true), ("IGNORE", false)];
        let others = fields.text(self.report, "unmatchedPreflights");
        let policy = CorsPolicy {
            allow_origins,
            allow_methods: self.joined(&mut fields, "allowMethods"),
            allow_headers: self.joined(&mut fields, "allowHeaders"),
            expose_headers: self.joined(&mut fields, "exposeHeaders"),
            max_age: duration(&mut fields, self.report, "maxAge")
                .map_or_else(|| "".into(), |age| age.as_secs().to_string().into()),
            allow_credentials: fields.boolean(self.report, "allowCredentials"),
            allow_private_network: None,
            forward_others: others.and_then(|text| text.one_of(self.report, &preflights, &[])),
            enabled: Fraction::ALL,
            shadow: Fraction { numerator: 0, denominator: 100 },
        };
        fields.close(self.report);
        Some(Arc::new(policy))
    }

    fn joined(&mut self, fields: &mut Fields<'_>, name: &'static str) -> Arc<str> {
        let items = fields.list(self.report, name).unwrap_or_default();
        let texts = items.iter().filter_map(|item| item.text(self.report).map(|text| text.value));
        texts.collect::<Vec<_>>().join(",").into()
    }
}
