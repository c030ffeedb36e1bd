//! What authorization costs a request, by the number of policies: `model::policy::authorize` alone, in this process.
//!
//! Each shape is a thousand and more policies as people write them, or as they are worst. The request has a proven peer,
//! a dozen header fields and a token's claims, and is allowed by one of the last policies. Beside it stands the search
//! through all policies, which says the same. What a whole proxy pays, the scenario `policies` tells.

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use meshwork_model::head::RequestHead;
use meshwork_model::metadata::{Metadata, Value};
use meshwork_model::policy::{Facts, Rules, Verdict, authorize, authorize_traced};
use meshwork_model::proxy::{
    Action, HeaderMatch, HeaderTest, MetadataMatch, Permission, Principal, Rbac, Rule, StringMatch,
    ValueMatch,
};
use meshwork_model::regex::Regex;
use meshwork_model::spiffe::SpiffeId;
use serde::Serialize;

use crate::process;
use crate::statistics::spread;

/// How many policies there are.
const COUNTS: [usize; 5] = [1, 10, 100, 1000, 10_000];
/// How long one round of one figure takes.
const ROUND: Duration = Duration::from_millis(30);
const ROUNDS: usize = 7;
/// Requests between two looks at the clock.
const BATCH: u32 = 64;

/// What was measured of one shape and one number of policies.
#[derive(Serialize)]
pub(crate) struct Outcome {
    shape: &'static str,
    policies: usize,
    /// Nanoseconds for a request.
    ns: f64,
    /// The same, where every policy is looked at.
    all_ns: f64,
    /// Policies that every request is judged by all the same.
    unindexed: usize,
    /// Milliseconds for the index, once for each config.
    index_ms: f64,
}

/// One policy of a shape; the last of them is the one that allows the request.
type Make = fn(usize) -> (Permission, Principal);

const SHAPES: [(&str, Make); 8] = [
    ("callers differ, each with a path and a method", callers),
    ("path prefixes differ, one caller", prefixes),
    ("path templates differ", templates),
    ("path suffixes differ", suffixes),
    ("hosts differ", hosts),
    ("values of one header differ", values),
    ("claims differ", claims),
    ("all that is not something (not looked up)", negations),
];

/// Measures all shapes; tells what it is at.
pub(crate) fn run(tell: &dyn Fn(&str)) -> anyhow::Result<Vec<Outcome>> {
    process::prepare()?;
    let mut outcomes = Vec::new();
    for (shape, make) in SHAPES {
        tell(shape);
        for policies in COUNTS {
            outcomes.push(measure(shape, make, policies)?);
        }
    }
    Ok(outcomes)
}

/// A line for each shape, a column for each number of policies.
pub(crate) fn table(outcomes: &[Outcome]) -> String {
    let mut text = "| ns a request; in brackets, by looking at all".to_owned();
    for policies in COUNTS {
        let _ = write!(text, " | {policies}");
    }
    text.push_str(" | index of the most, ms |\n|---");
    text.push_str(&"|--:".repeat(COUNTS.len() + 1));
    text.push_str("|\n");
    for (shape, _) in SHAPES {
        let _ = write!(text, "| {shape}");
        let of_shape: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.shape == shape).collect();
        for outcome in &of_shape {
            let _ = write!(text, " | {:.0} ({:.0})", outcome.ns, outcome.all_ns);
        }
        let index = of_shape.last().map_or(0.0, |outcome| outcome.index_ms);
        let _ = writeln!(text, " | {index:.1} |");
    }
    text
}

fn measure(shape: &'static str, make: Make, policies: usize) -> anyhow::Result<Outcome> {
    let rule = |at: usize| {
        // The request is made for number 1, which is the last but a few.
        let (permission, principal) = make(policies - at);
        let name = format!("ns[shop]-policy[p{at:05}]-rule[0]").into();
        Rule { name, permissions: vec![permission], principals: vec![principal] }
    };
    let rbac = Arc::new(Rbac { action: Action::Allow, rules: (0..policies).map(rule).collect() });
    let start = Instant::now();
    let rules = Rules::new(Arc::clone(&rbac));
    let index_ms = start.elapsed().as_secs_f64() * 1000.0;
    let asked = Asked::new()?;
    let facts = asked.facts();
    let verdict = authorize([&rules], &facts);
    ensure!(matches!(verdict, Verdict::Allowed(Some(_))), "{shape}: {verdict:?}");
    ensure!(verdict == authorize_traced([&*rbac], &facts, &mut ()), "{shape}: two verdicts");
    let ns = time(|| {
        black_box(authorize([black_box(&rules)], black_box(&facts)));
    });
    let all_ns = time(|| {
        black_box(authorize_traced([black_box(&*rbac)], black_box(&facts), &mut ()));
    });
    Ok(Outcome { shape, policies, ns, all_ns, unindexed: rules.unindexed(), index_ms })
}

/// Nanoseconds for one call: the median of some rounds.
fn time(mut call: impl FnMut()) -> f64 {
    let mut round = || {
        let (start, mut calls) = (Instant::now(), 0);
        while start.elapsed() < ROUND {
            (0..BATCH).for_each(|_| call());
            calls += BATCH;
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(calls)
    };
    let rounds: Vec<f64> = (0..ROUNDS).map(|_| round()).collect();
    spread(&rounds).map_or(0.0, |spread| spread.median)
}

// === shapes; each policy allows what the request is where its number is 1 ===

fn exact(text: &str) -> StringMatch {
    StringMatch::Exact(text.into())
}

fn caller(at: usize) -> Principal {
    let id = format!("spiffe://mesh.local/ns/shop/sa/caller-{at}");
    Principal::Authenticated(Some(exact(&id)))
}

fn header(name: &str, test: StringMatch) -> HeaderMatch {
    HeaderMatch { name: name.into(), test: HeaderTest::Value(test), invert: false }
}

fn callers(at: usize) -> (Permission, Principal) {
    let path = Permission::Path(StringMatch::Prefix("/items/".into()));
    let method = Permission::OneOf(
        ["GET", "HEAD"].map(|name| Permission::Header(header(":method", exact(name)))).into(),
    );
    (Permission::All(vec![method, path]), Principal::OneOf(vec![caller(at), caller(at + 100_000)]))
}

fn of_path(test: StringMatch) -> (Permission, Principal) {
    (Permission::Path(test), caller(1))
}

fn prefixes(at: usize) -> (Permission, Principal) {
    of_path(StringMatch::Prefix(format!("/items/{at}/").into()))
}

fn templates(at: usize) -> (Permission, Principal) {
    let pattern = format!(r"\/items\/{at}\/[^/]+");
    of_path(Regex::new(&pattern).map_or_else(|_| exact(&pattern), StringMatch::Regex))
}

fn suffixes(at: usize) -> (Permission, Principal) {
    of_path(StringMatch::Suffix(format!("/detail-{at}").into()))
}

fn hosts(at: usize) -> (Permission, Principal) {
    let host = StringMatch::AnyCase(Box::new(exact(&format!("tenant-{at}.example.com"))));
    (Permission::Header(header(":authority", host)), caller(1))
}

fn values(at: usize) -> (Permission, Principal) {
    let field = Principal::EachValue { name: "x-tenant".into(), tests: vec![exact(&format!("t{at}"))] };
    (Permission::Any, Principal::All(vec![caller(1), field]))
}

fn claims(at: usize) -> (Permission, Principal) {
    let claim = MetadataMatch {
        filter: "envoy.filters.http.jwt_authn".into(),
        path: vec!["payload".into(), "groups".into()],
        value: ValueMatch::OneOf(Box::new(ValueMatch::Text(exact(&format!("g{at}"))))),
        invert: false,
    };
    (Permission::Any, Principal::All(vec![caller(1), Principal::Metadata(claim)]))
}

fn negations(at: usize) -> (Permission, Principal) {
    // Only the last one does not ask for what the request has.
    let text = if at == 1 { "/none" } else { "/items/1/detail-1" };
    (Permission::Not(Box::new(Permission::Path(exact(text)))), Principal::Any)
}

/// The request.
struct Asked {
    peer: SpiffeId,
    uris: Vec<String>,
    metadata: Metadata,
    head: RequestHead,
}

impl Asked {
    fn new() -> anyhow::Result<Self> {
        let peer = SpiffeId::workload("mesh.local", "shop", "caller-1")?;
        let mut head = RequestHead::default();
        head.set_method(b"GET");
        head.set_authority(b"tenant-1.example.com");
        head.set_path_and_query(b"/items/1/detail-1?page=2");
        let uuid = "0f9619ff-8b86-4d01-b42d-00cf4fc964ff";
        for (name, value) in [
            ("accept", "application/json"),
            ("accept-encoding", "gzip, br"),
            ("accept-language", "en-GB,en;q=0.9"),
            ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
            ("x-request-id", uuid),
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-for", "203.0.113.7"),
            ("x-tenant", "t1"),
            ("cookie", "session=0123456789abcdef0123456789abcdef; theme=dark"),
            ("cache-control", "no-cache"),
            ("referer", "https://tenant-1.example.com/items/1"),
        ] {
            head.fields.push(name.as_bytes(), value.as_bytes());
        }
        let mut metadata = Metadata::default();
        let groups = ["users", "g1"].map(|group| Value::Text(group.into()));
        let claims =
            [("groups".into(), Value::List(groups.into())), ("sub".into(), Value::Text(uuid.into()))];
        metadata.set("envoy.filters.http.jwt_authn", "payload", Value::Map(claims.into()));
        Ok(Self { uris: vec![peer.as_str().to_owned()], peer, metadata, head })
    }

    fn facts(&self) -> Facts<'_> {
        let address = Some([10, 1, 2, 3].into());
        Facts {
            peer: Some(&self.peer),
            names: Some(meshwork_model::policy::Names { uris: &self.uris, dns_names: &[], subject: "" }),
            destination: address,
            destination_port: 8080,
            direct: address,
            source: address,
            remote: address,
            server_name: Some("outbound_.80_._.cart.shop.svc.cluster.local"),
            metadata: Some(&self.metadata),
            head: Some(&self.head),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shape_allows_its_request_by_one_policy_of_many() {
        for (shape, make) in SHAPES {
            let rule = |at: usize| {
                let (permission, principal) = make(100 - at);
                Rule {
                    name: format!("{at}").into(),
                    permissions: vec![permission],
                    principals: vec![principal],
                }
            };
            let rules =
                Rules::new(Arc::new(Rbac { action: Action::Allow, rules: (0..100).map(rule).collect() }));
            let asked = Asked::new().expect("valid");
            let verdict = authorize([&rules], &asked.facts());
            assert_eq!(verdict, Verdict::Allowed(Some(&"99".into())), "{shape}");
            let unindexed = if shape.contains("not looked up") { 100 } else { 0 };
            assert_eq!(rules.unindexed(), unindexed, "{shape}");
        }
    }
}
