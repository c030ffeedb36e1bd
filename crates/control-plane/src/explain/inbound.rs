//! The called workload's side: what its proxy says of a request that arrives.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use meshwork_model::head::RequestHead;
use meshwork_model::intake::{self, Came};
use meshwork_model::mesh::{MtlsMode, Workload};
use meshwork_model::policy::Facts;
use meshwork_model::proxy::{HttpConnection, Listener, NetworkFilter, Route, RouteAction};
use meshwork_model::reason::Reason;
use meshwork_model::route::{Asked, select_traced};
use meshwork_model::spiffe::SpiffeId;
use meshwork_xds::Dialect;

use super::answer::{Inbound, Outcome};
use super::filters::{self, Through};
use super::outbound::{Leg, Searched};
use super::requests::{Sample, switched, unfit};
use super::runs::{Arriving, Runs, chain};
use super::tokens::Tokens;
use super::{party, refused};
use crate::translate::{Mesh, Said, mtls_said};

/// What a caller is to those that it reaches.
pub(super) struct Coming<'m> {
    pub(super) mesh: &'m Mesh,
    pub(super) identity: &'m SpiffeId,
    pub(super) source: IpAddr,
    pub(super) tokens: Tokens<'m>,
}

impl Coming<'_> {
    /// What becomes of the requests that reach one workload.
    pub(super) fn arrive(&self, leg: &Leg, dialect: Dialect) -> Option<Inbound> {
        let node = self.mesh.workloads.get(&leg.workload)?;
        let inbound = node.inbound.iter().find(|inbound| inbound.port == leg.port)?;
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
            Some(listener) => self.through(&runs, listener, leg, &mut answer),
        };
        answer.authentication = through.authentication;
        answer.policies = through.policies;
        answer.then = through.then;
        answer.outcome = through.refused.unwrap_or_else(|| Outcome {
            passes: true,
            text: format!("it reaches the application at {}", answer.application),
            ..Outcome::default()
        });
        Some(answer)
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

    fn through(&self, runs: &Runs, listener: &Listener, leg: &Leg, answer: &mut Inbound) -> Through {
        let opener = SocketAddr::new(self.source, 1);
        let server_name = leg.tls.as_ref().map(|(name, _)| name.as_str()).unwrap_or_default();
        let alpn: Vec<&[u8]> =
            leg.tls.iter().flat_map(|(_, offered)| offered).map(|name| name.as_bytes()).collect();
        let arriving = Arriving { from: opener, is_tls: leg.tls.is_some(), server_name, alpn: &alpn };
        let Some(chain) = chain(listener, &arriving) else {
            return Through::ended(refused(None, "no filter chain takes such a connection".to_owned()));
        };
        answer.chain = chain.name.to_string();
        if chain.tls.is_some() && leg.tls.is_none() {
            let text = "it comes in plaintext, and mTLS is demanded: the handshake fails".to_owned();
            return Through::ended(refused(None, text));
        }
        let proven = leg.tls.as_ref().filter(|_| chain.tls.is_some()).map(|_| self.identity);
        if proven.is_none() && leg.tls.is_some() {
            "nobody: its TLS ends at the application".clone_into(&mut answer.comes_as);
        }
        if let Some(why) = proven.and_then(|identity| self.distrusted(identity)) {
            // The caller's proxy is not let in, and tells its program so, where that asks by requests.
            let outcome = refused(Some(Reason::UpstreamIdentity), why);
            let status = outcome.status.filter(|_| leg.head.is_some());
            return Through::ended(Outcome { status, ..outcome });
        }
        let address = listener.address.filter(|address| !address.ip().is_unspecified());
        let facts = Facts {
            peer: proven,
            destination: address.map(|address| address.ip()),
            destination_port: listener.address.map_or(0, |address| address.port()),
            direct: Some(self.source),
            source: Some(self.source),
            remote: Some(self.source),
            server_name: arriving.told(listener, chain),
            ..Facts::default()
        };
        let admitted = filters::admit(&chain.gates, &facts);
        if admitted.refused.is_some() {
            return admitted;
        }
        match (&chain.filter, &leg.head) {
            (NetworkFilter::Http(http), Some(sent)) => {
                let came = Came {
                    address: opener,
                    port: facts.destination_port,
                    is_tls: chain.tls.is_some(),
                    direction: listener.direction,
                    is_proven: proven.is_some(),
                    is_scheme_said: false,
                };
                let own = format!("By={};URI={}", answer.to.identity, self.identity);
                let own = Sample { address: self.source, cert: &own };
                self.requests(runs, http, (sent, came, own), &facts, admitted)
            }
            (NetworkFilter::Http(_), None) => {
                let mut admitted = admitted;
                admitted.then.push("its proxy takes requests there, and these are bytes".to_owned());
                admitted
            }
            (NetworkFilter::Tcp(_), _) => admitted,
        }
    }

    /// Why an identity is not believed, where it is not.
    fn distrusted(&self, identity: &SpiffeId) -> Option<String> {
        let of = identity.trust_domain();
        let mut believed = self.mesh.config.defaults.federated.iter().map(|domain| &*domain.trust_domain);
        if of != &*self.mesh.trust_domain && !believed.any(|domain| domain == of) {
            return Some(format!("the trust domain {of} is not believed: the handshake fails"));
        }
        let is_revoked = self.mesh.revoked.contains(identity);
        is_revoked.then(|| format!("{identity} is revoked: the handshake fails"))
    }

    fn requests(
        &self,
        runs: &Runs,
        http: &HttpConnection,
        (sent, came, mut own): (&RequestHead, Came, Sample<'_>),
        facts: &Facts<'_>,
        mut through: Through,
    ) -> Through {
        let mut head = sent.clone();
        let client = match intake::prepare(&mut head, http, &came, &mut own) {
            Ok(client) => client,
            Err(why) => {
                through.refused = Some(unfit(&why));
                return through;
            }
        };
        let mut searched = Searched::default();
        let table = runs.table(http);
        let route = table.and_then(|table| select_traced(table, &head, Asked::default(), &mut searched));
        if let Some(outcome) = switched(http, &head) {
            through.refused = Some(outcome);
            return through;
        }
        let words = searched.words(table, route);
        let words = words.as_ref().map_or(&[][..], |words| &words[..]);
        let asked = filters::Asked { filters: &http.filters, route, words };
        let facts = Facts { remote: Some(client.ip()), ..*facts };
        let of_requests = filters::judge(asked, &mut head, &facts, &mut { self.tokens });
        through.authentication = of_requests.authentication;
        through.policies.extend(of_requests.policies);
        through.then.extend(of_requests.then);
        through.refused = of_requests.refused;
        let is_taken = |route: &Route| matches!(route.action, RouteAction::Forward(_) | RouteAction::Local);
        if through.refused.is_none() && !route.is_some_and(is_taken) {
            through.refused = Some(refused(Some(Reason::NoRoute), "no route takes it there".to_owned()));
        }
        through
    }
}

impl Through {
    fn ended(outcome: Outcome) -> Self {
        Self { refused: Some(outcome), ..Self::default() }
    }
}
