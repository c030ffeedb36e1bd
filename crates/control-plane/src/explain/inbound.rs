//! The called workload's side: what its proxy says of a request that arrives.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use meshwork_model::client;
use meshwork_model::head::RequestHead;
use meshwork_model::mesh::{MtlsMode, Workload};
use meshwork_model::policy::Facts;
use meshwork_model::proxy::{FilterChain, HttpConnection, Listener, NetworkFilter, RouteAction};
use meshwork_model::reason::Reason;
use meshwork_model::route::{Asked, select};
use meshwork_model::spiffe::SpiffeId;
use meshwork_xds::Dialect;

use super::answer::{Inbound, Outcome};
use super::filters::{self, Through};
use super::outbound::{Leg, normalize};
use super::question::Question;
use super::runs::{Arriving, Runs, chain};
use super::{party, refused};
use crate::translate::{Mesh, Said, mtls_said};

/// What a caller is to those that it reaches.
pub(super) struct Coming<'m> {
    pub(super) mesh: &'m Mesh,
    pub(super) question: &'m Question,
    pub(super) identity: &'m SpiffeId,
    pub(super) source: IpAddr,
    pub(super) now: f64,
}

impl Coming<'_> {
    /// What becomes of the requests that reach one workload.
    ///
    /// # Errors
    /// The claims are no claims; in words.
    pub(super) fn arrive(&self, leg: &Leg, dialect: Dialect) -> Result<Option<Inbound>, String> {
        let Some(node) = self.mesh.workloads.get(&leg.workload) else { return Ok(None) };
        let Some(inbound) = node.inbound.iter().find(|inbound| inbound.port == leg.port) else {
            return Ok(None);
        };
        // A gRPC server judges by the rules that a sidecar would have.
        let read_as = if dialect == Dialect::Grpc { Dialect::Meshwork } else { dialect };
        let runs = Runs::of(self.mesh, node, read_as, &BTreeSet::new());
        let mut answer = Inbound {
            to: party(node, dialect),
            port: leg.port,
            percent: leg.percent,
            listener: format!("inbound|{}", leg.port),
            mtls: self.mtls(node, leg.port),
            comes_as: match &leg.tls {
                Some(_) => self.identity.to_string(),
                None => "nobody: in plaintext".to_owned(),
            },
            application: inbound.application.to_string(),
            ..Inbound::default()
        };
        let listener = runs.listener(std::slice::from_ref(&answer.listener));
        let through = match listener {
            None => Through::ended(refused(None, "its proxy does not serve that port".to_owned())),
            Some(listener) => self.through(listener, leg, &mut answer)?,
        };
        answer.authentication = through.authentication;
        answer.policies = through.policies;
        answer.then = through.then;
        answer.outcome = through.refused.unwrap_or_else(|| Outcome {
            passes: true,
            text: format!("it reaches the application at {}", answer.application),
            ..Outcome::default()
        });
        Ok(Some(answer))
    }

    /// What is demanded of callers, and who says so.
    fn mtls(&self, node: &Workload, port: u16) -> String {
        let (mode, said) = mtls_said(self.mesh, node, port);
        let mode = match mode {
            MtlsMode::Strict => "STRICT",
            MtlsMode::Permissive => "PERMISSIVE",
            MtlsMode::Disable => "DISABLE",
        };
        match said {
            Said::Policy(key) => format!("{mode}, by PeerAuthentication {key}"),
            Said::MeshConfig => format!("{mode}, by the MeshConfig"),
            Said::Default => format!("{mode}, since nothing says otherwise"),
        }
    }

    fn through(&self, listener: &Listener, leg: &Leg, answer: &mut Inbound) -> Result<Through, String> {
        let opener = SocketAddr::new(self.source, 1);
        let server_name = leg.tls.as_ref().map(|(name, _)| name.as_str()).unwrap_or_default();
        let alpn: Vec<&[u8]> =
            leg.tls.iter().flat_map(|(_, offered)| offered).map(|name| name.as_bytes()).collect();
        let arriving = Arriving { from: opener, is_tls: leg.tls.is_some(), server_name, alpn: &alpn };
        let Some(chain) = chain(listener, &arriving) else {
            return Ok(Through::ended(refused(None, "no filter chain takes such a connection".to_owned())));
        };
        answer.chain = chain.name.to_string();
        if chain.tls.is_some() && leg.tls.is_none() {
            let text = "it comes in plaintext, and mTLS is demanded: the handshake fails".to_owned();
            return Ok(Through::ended(refused(None, text)));
        }
        let proven = leg.tls.as_ref().filter(|_| chain.tls.is_some()).map(|_| self.identity);
        let believed = || self.mesh.config.defaults.federated.iter().map(|domain| &domain.trust_domain);
        let of = self.identity.trust_domain();
        if proven.is_some() && of != &*self.mesh.trust_domain && !believed().any(|domain| &**domain == of) {
            let text = format!("the trust domain {of} is not believed: the handshake fails");
            return Ok(Through::ended(refused(None, text)));
        }
        if proven.is_some_and(|identity| self.mesh.revoked.contains(identity)) {
            let text = format!("{} is revoked: the handshake fails", self.identity);
            return Ok(Through::ended(refused(Some(Reason::Untrusted), text)));
        }
        let facts = Facts {
            peer: proven,
            destination: listener.address.map(|address| address.ip()),
            destination_port: listener.address.map_or(0, |address| address.port()),
            direct: Some(self.source),
            source: Some(self.source),
            remote: Some(self.source),
            server_name: Some(server_name).filter(|name| !name.is_empty()),
            ..Facts::default()
        };
        self.filters(chain, leg, &facts, opener)
    }

    fn filters(
        &self,
        chain: &FilterChain,
        leg: &Leg,
        facts: &Facts<'_>,
        opener: SocketAddr,
    ) -> Result<Through, String> {
        let mut through = filters::admit(&chain.gates, facts);
        if through.refused.is_some() {
            return Ok(through);
        }
        let (NetworkFilter::Http(http), Some(sent)) = (&chain.filter, &leg.head) else { return Ok(through) };
        let mut head = sent.clone();
        if let Err(why) = normalize(&mut head, http) {
            through.refused = Some(refused(Some(Reason::BadRequest), why));
            return Ok(through);
        }
        let client = client::told(&head, &http.clients, opener).address.unwrap_or(opener);
        let facts = Facts { remote: Some(client.ip()), head: Some(&head), ..*facts };
        let of_requests = filters::judge(&http.filters, &facts, self.question.claims.as_ref(), self.now)?;
        through.authentication = of_requests.authentication;
        through.policies.extend(of_requests.policies);
        through.then.extend(of_requests.then);
        through.refused = of_requests.refused;
        if through.refused.is_none() && !is_routed(http, &head) {
            through.refused = Some(refused(Some(Reason::NoRoute), "no route takes it there".to_owned()));
        }
        Ok(through)
    }
}

/// Whether a route of an inbound listener takes a request: all are part of it.
fn is_routed(http: &HttpConnection, head: &RequestHead) -> bool {
    let meshwork_model::proxy::RouteSource::Inline(table) = &http.routes else { return true };
    select(table, head, Asked::default())
        .is_some_and(|route| matches!(route.action, RouteAction::Forward(_) | RouteAction::Local))
}

impl Through {
    fn ended(outcome: Outcome) -> Self {
        Self { refused: Some(outcome), ..Self::default() }
    }
}
