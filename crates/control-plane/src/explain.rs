//! Explain: what becomes of one request, and why.
//!
//! The request is led through what `translate` makes for the caller's node and for the nodes behind the service, by the
//! functions that proxies run, in the order in which they run them: `model::chain`, `model::intake`,
//! `model::route::select`, the filters of `HttpFilter::applied` (`model::jwt::authenticate`,
//! `model::policy::authorize`, …), `model::rewrite`, `model::balance::pick`. Of selecting and authorizing a variant is
//! called that tells what it looks at; it is the same code. Pure: what only a running proxy knows (health by its own
//! checks, tokens of a rate limit, what a provider answers) is named as not known.

mod answer;
mod filters;
mod inbound;
mod offline;
mod outbound;
mod question;
mod requests;
mod rules;
mod runs;
mod terms;
#[cfg(test)]
mod tests;
mod text;
mod tokens;
mod words;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::SystemTime;

use meshwork_model::mesh::{Config, Key, MtlsMode, Workload};
use meshwork_model::reason::Reason;
use meshwork_model::spiffe::SpiffeId;
use meshwork_xds::Dialect;

pub use answer::{
    ClusterAnswer, EndpointAnswer, Explanation, Inbound, Outbound, Outcome, Party, PassedOver, PolicyAnswer,
    RouteTaken, RuleAnswer,
};
pub use question::Question;

use inbound::Coming;
use outbound::{Calling, LEAST_PERCENT, Leg, Lost, Sent};
use question::{Called, Caller, Way, dotted};
use tokens::Tokens;

use crate::translate::{Mesh, mtls_said};

/// The most workloads whose side is told.
const MOST_LEGS: usize = 10;

/// Explains a request in a mesh that runs; `dialect` says what a workload's proxy speaks.
///
/// # Errors
/// What is asked makes no sense: there is no such workload, service or port, or it is no request; in words.
pub(crate) fn explain(
    mesh: &Mesh,
    question: &Question,
    dialect: &dyn Fn(&Key) -> Dialect,
    now: SystemTime,
) -> Result<Explanation, String> {
    let token = question.claims.as_ref().map(tokens::of_claims).transpose()?;
    let tokens = Tokens::new(token.as_deref(), seconds(now));
    Explaining { mesh, question, dialect, tokens, is_offline: false }.all()
}

/// Explains a request in the mesh that config would make.
///
/// # Errors
/// As [`explain`].
pub fn explain_config(config: &Config, question: &Question, now: SystemTime) -> Result<Explanation, String> {
    let mesh = offline::mesh(config, &question.from, &question.to);
    let token = question.claims.as_ref().map(tokens::of_claims).transpose()?;
    let tokens = Tokens::new(token.as_deref(), seconds(now));
    let dialect = |_: &Key| Dialect::Meshwork;
    let explaining = Explaining { mesh: &mesh, question, dialect: &dialect, tokens, is_offline: true };
    let mut explanation = explaining.all()?;
    explanation.notes.push(
        "nothing runs: for each service one workload is taken to be there, under the service account that its label \
         `app` names"
            .to_owned(),
    );
    Ok(explanation)
}

fn seconds(now: SystemTime) -> f64 {
    now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

struct Explaining<'m> {
    mesh: &'m Mesh,
    question: &'m Question,
    dialect: &'m dyn Fn(&Key) -> Dialect,
    tokens: Tokens<'m>,
    is_offline: bool,
}

impl Explaining<'_> {
    fn all(&self) -> Result<Explanation, String> {
        match self.question.caller(self.mesh)? {
            Caller::Workload(node, others) => self.of_workload(&node, others),
            Caller::Identity(identity) => self.of_nobody(&identity),
        }
    }

    fn of_workload(&self, node: &Arc<Workload>, others: usize) -> Result<Explanation, String> {
        let (mesh, question) = (self.mesh, self.question);
        let dialect = (self.dialect)(&node.key);
        let called = question.called(mesh, &node.key.namespace, Way::of(node))?;
        let calling = Calling { mesh, question, called: &called, node, dialect, tokens: self.tokens };
        let mut sent = calling.send()?;
        if self.is_offline {
            // Nobody calls anything where nothing runs.
            sent.notes.clear();
        }
        if others > 0 {
            let text =
                format!("{} is one of {}; the others are asked for by name", dotted(&node.key), others + 1);
            sent.notes.push(text);
        }
        let source = question.source_ip.filter(|_| node.gateway.is_none());
        let own = || node.inbound.first().map(|inbound| inbound.bind.ip());
        let source = source.or_else(own).unwrap_or(Ipv4Addr::LOCALHOST.into());
        Ok(self.finish(party(node, dialect), &called, sent, &node.identity, source))
    }

    /// Somebody of whom nothing but an identity is known: each workload is told as they would find it.
    fn of_nobody(&self, identity: &SpiffeId) -> Result<Explanation, String> {
        let (mesh, question) = (self.mesh, self.question);
        let called = question.called(mesh, "", Way::Anywhere)?;
        let Called::Service { key, port } = &called else {
            return Err(
                "what an identity may do is judged at services of the mesh; name a workload as the caller"
                    .to_owned(),
            );
        };
        let host = if *port == 80 { dotted(key) } else { format!("{}:{port}", dotted(key)) };
        let head = question.head(&host)?;
        let request = format!("{} {}", question.method, question.path);
        let note = format!("no workload has the identity {identity}: its own side is not known");
        let mut sent = Sent::of_nobody(request, note, self.tokens);
        if let Some((_, service)) = mesh.service(key) {
            let ports = service.ports.iter().filter(|one| one.port == *port);
            let behind: Vec<_> = ports
                .flat_map(|port| mesh.behind(key).filter_map(|w| Some((w, port.inbound(w)?, port.protocol))))
                .collect();
            for (workload, inbound, protocol) in &behind {
                let is_plain = mtls_said(mesh, workload, inbound.port).0 == MtlsMode::Disable;
                sent.legs.push(Leg {
                    workload: workload.key.clone(),
                    port: inbound.port,
                    percent: 100.0 / number(behind.len()),
                    tls: (!is_plain).then(|| (String::new(), vec!["istio".into(), "h2".into()])),
                    head: protocol.is_http().then(|| head.clone()),
                });
            }
        }
        if sent.legs.is_empty() {
            sent.ended = Some(refused(Some(Reason::NoEndpoint), "nobody is behind it".to_owned()));
        }
        let from = Party { identity: identity.to_string(), ..Party::default() };
        let source = question.source_ip.unwrap_or(Ipv4Addr::LOCALHOST.into());
        Ok(self.finish(from, &called, sent, identity, source))
    }

    fn finish(
        &self,
        from: Party,
        called: &Called,
        sent: Sent<'_>,
        identity: &SpiffeId,
        source: IpAddr,
    ) -> Explanation {
        let coming = Coming { mesh: self.mesh, identity, source, tokens: sent.tokens };
        let mut notes = sent.notes;
        let mut legs = sent.legs;
        legs.sort_by(|a, b| b.percent.total_cmp(&a.percent).then_with(|| a.workload.cmp(&b.workload)));
        if legs.len() > MOST_LEGS {
            notes.push(format!("of {} workloads the {MOST_LEGS} that get the most are told", legs.len()));
            legs.truncate(MOST_LEGS);
        }
        let mut inbound = Vec::new();
        if sent.ended.is_none() {
            inbound.extend(legs.iter().filter_map(|leg| coming.arrive(leg, (self.dialect)(&leg.workload))));
        }
        let outcome = sent.ended.unwrap_or_else(|| together(&inbound, &sent.lost));
        let outbound = Some(sent.answer).filter(|answer| *answer != Outbound::default());
        let to = match called {
            Called::Service { key, port } => format!("{}:{port}", dotted(key)),
            Called::Host { host, port } | Called::Unknown { host, port } => format!("{host}:{port}"),
        };
        Explanation { from, to, request: sent.request, outcome, outbound, inbound, notes }
    }
}

/// What comes of all requests together.
fn together(inbound: &[Inbound], lost: &[Lost]) -> Outcome {
    let refused: Vec<&Inbound> = inbound.iter().filter(|one| !one.outcome.passes).collect();
    let names = |some: &[&Inbound]| {
        let names: Vec<&str> = some.iter().map(|one| &*one.to.workload).collect();
        names.join(", ")
    };
    let lost_percent: f64 = lost.iter().map(|lost| lost.percent).sum();
    let is_whole = lost_percent < LEAST_PERCENT;
    match (inbound, &refused[..], lost) {
        ([], _, _) if is_whole => Outcome {
            passes: true,
            text: "it leaves for endpoints that are no workloads of the mesh".to_owned(),
            ..Outcome::default()
        },
        (all, [], _) if is_whole => Outcome {
            passes: true,
            text: format!("it reaches {}", names(&all.iter().collect::<Vec<_>>())),
            ..Outcome::default()
        },
        (all, [first, ..], _) if is_whole && all.len() == refused.len() => Outcome {
            text: format!("{} refuses it: {}", first.to.workload, first.outcome.text),
            ..first.outcome.clone()
        },
        (_, [first, ..], _) => {
            let percent = lost_percent + refused.iter().map(|one| one.percent).sum::<f64>();
            let text = format!(
                "{percent:.0} % of such requests are refused, by {}: {}",
                names(&refused),
                first.outcome.text
            );
            Outcome { text, ..first.outcome.clone() }
        }
        (_, [], lost) => {
            let first = lost.first().map(|lost| lost.outcome.clone()).unwrap_or_default();
            let text = format!("{lost_percent:.0} % of such requests go nowhere: {}", first.text);
            Outcome { text, ..first }
        }
    }
}

/// A refusal, with what the mesh answers then.
fn refused(reason: Option<Reason>, text: String) -> Outcome {
    let words = reason.map(Reason::words);
    Outcome {
        passes: false,
        text,
        status: words.map(|words| words.status).filter(|status| *status > 0),
        reason: words.map(|words| words.code.to_owned()),
    }
}

/// A workload, by name.
fn party(node: &Workload, dialect: Dialect) -> Party {
    let dialect = match dialect {
        Dialect::Meshwork => "meshwork",
        Dialect::Envoy => "envoy",
        Dialect::Grpc => "grpc",
    };
    Party { workload: dotted(&node.key), identity: node.identity.to_string(), dialect: dialect.to_owned() }
}

#[expect(clippy::cast_precision_loss, reason = "a service has far less than 2^52 workloads")]
fn number(count: usize) -> f64 {
    count as f64
}
