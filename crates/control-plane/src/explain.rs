//! Explain: what becomes of one request, and why.
//!
//! The request is led through what `translate` makes for the caller's node and for the nodes behind the service, by the
//! functions that proxies run: `model::chain`, `model::route::select`, `model::balance::pick`, `model::policy::authorize`.
//! Of the last two kinds a variant is called that tells what it looks at; it is the same code. Pure: what only a running
//! proxy knows (health by its own checks, tokens of a rate limit, what a provider answers) is named as not known.

mod answer;
mod filters;
mod inbound;
mod offline;
mod outbound;
mod question;
mod rules;
mod runs;
mod terms;
#[cfg(test)]
mod tests;
mod text;
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
use outbound::{Calling, Leg, Sent};
use question::{Called, Caller, dotted};

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
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    Explaining { mesh, question, dialect, now, is_offline: false }.all()
}

/// Explains a request in the mesh that config would make.
///
/// # Errors
/// As [`explain`].
pub fn explain_config(config: &Config, question: &Question, now: SystemTime) -> Result<Explanation, String> {
    let mesh = offline::mesh(config, &question.from, &question.to);
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let dialect = |_: &Key| Dialect::Meshwork;
    let mut explanation =
        Explaining { mesh: &mesh, question, dialect: &dialect, now, is_offline: true }.all()?;
    explanation.notes.push(
        "nothing runs: for each service one workload is taken to be there, under the service account that its label \
         `app` names"
            .to_owned(),
    );
    Ok(explanation)
}

struct Explaining<'m> {
    mesh: &'m Mesh,
    question: &'m Question,
    dialect: &'m dyn Fn(&Key) -> Dialect,
    now: f64,
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
        let called = question.called(mesh, &node.key.namespace, node.gateway.is_some())?;
        let calling = Calling { mesh, question, called: &called, node, dialect, now: self.now };
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
        self.finish(party(node, dialect), &called, sent, &node.identity, source)
    }

    /// Somebody of whom nothing but an identity is known: each workload is told as they would find it.
    fn of_nobody(&self, identity: &SpiffeId) -> Result<Explanation, String> {
        let (mesh, question) = (self.mesh, self.question);
        let called = question.called(mesh, "", false)?;
        let Called::Service { key, port } = &called else {
            return Err(
                "what an identity may do is judged at services of the mesh; name a workload as the caller"
                    .to_owned(),
            );
        };
        let host = if *port == 80 { dotted(key) } else { format!("{}:{port}", dotted(key)) };
        let head = question.head(&host)?;
        let request = format!("{} {}", question.method, question.path);
        let mut sent = Sent::of_nobody(
            request,
            format!("no workload has the identity {identity}: its own side is not known"),
        );
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
        self.finish(from, &called, sent, identity, source)
    }

    fn finish(
        &self,
        from: Party,
        called: &Called,
        sent: Sent,
        identity: &SpiffeId,
        source: IpAddr,
    ) -> Result<Explanation, String> {
        let coming = Coming { mesh: self.mesh, question: self.question, identity, source, now: self.now };
        let mut notes = sent.notes;
        let mut legs = sent.legs;
        legs.sort_by(|a, b| b.percent.total_cmp(&a.percent).then_with(|| a.workload.cmp(&b.workload)));
        if legs.len() > MOST_LEGS {
            notes.push(format!("of {} workloads the {MOST_LEGS} that get the most are told", legs.len()));
            legs.truncate(MOST_LEGS);
        }
        let mut inbound = Vec::new();
        if sent.ended.is_none() {
            for leg in &legs {
                inbound.extend(coming.arrive(leg, (self.dialect)(&leg.workload))?);
            }
        }
        let outcome = sent.ended.unwrap_or_else(|| together(&inbound));
        let outbound = Some(sent.answer).filter(|answer| *answer != Outbound::default());
        let to = match called {
            Called::Service { key, port } => format!("{}:{port}", dotted(key)),
            Called::Host { host, port } => format!("{host}:{port}"),
        };
        Ok(Explanation { from, to, request: sent.request, outcome, outbound, inbound, notes })
    }
}

/// What comes of all requests together.
fn together(inbound: &[Inbound]) -> Outcome {
    let refused: Vec<&Inbound> = inbound.iter().filter(|one| !one.outcome.passes).collect();
    let names = |some: &[&Inbound]| {
        let names: Vec<&str> = some.iter().map(|one| &*one.to.workload).collect();
        names.join(", ")
    };
    match (inbound, &refused[..]) {
        ([], _) => Outcome {
            passes: true,
            text: "it leaves for endpoints that are no workloads of the mesh".to_owned(),
            ..Outcome::default()
        },
        (all, []) => Outcome {
            passes: true,
            text: format!("it reaches {}", names(&all.iter().collect::<Vec<_>>())),
            ..Outcome::default()
        },
        (all, [first, ..]) if all.len() == refused.len() => Outcome {
            text: format!("{} refuses it: {}", first.to.workload, first.outcome.text),
            ..first.outcome.clone()
        },
        (_, [first, ..]) => {
            let percent: f64 = refused.iter().map(|one| one.percent).sum();
            let text = format!(
                "{percent:.0} % of such requests are refused, by {}: {}",
                names(&refused),
                first.outcome.text
            );
            Outcome { text, ..first.outcome.clone() }
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
