//! What demands mTLS, who calls without, and whether demanding it would cut anybody off.
//!
//! What was heard is the hub's, and in memory: the answer says since when. Who a caller is follows from its address,
//! where the mesh knows that: of a workload, a WorkloadEntry or a pod.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use meshwork_hub::{CallerSource, PlaintextCaller, PortCounts, PortKey, PortTraffic};
use meshwork_model::mesh::{Inbound, Key, MtlsMode, Workload};
use meshwork_xds::Dialect;
use serde::{Deserialize, Serialize};

use super::Api;
use super::access::Caller;
use super::answers::dialect;
use super::failure::Failure;
use crate::translate::{Mesh, Said, mtls_said};

/// How far back is looked where nothing else is asked for.
const WITHIN: Duration = Duration::from_hours(1);
/// Names that are told of one address: on one host all workloads may have the same.
const MAX_NAMES: usize = 8;

#[derive(Deserialize)]
pub(super) struct Asked {
    /// The one namespace that is meant.
    namespace: Option<String>,
    /// How far back is looked, in seconds.
    since: Option<u64>,
}

/// Each port of each workload, and whether it could demand mTLS.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MtlsAnswer {
    /// Since when the control plane listens: it knows nothing from before.
    listening_since: String,
    within_seconds: u64,
    ports: Vec<PortAnswer>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PortAnswer {
    namespace: String,
    workload: String,
    port: u16,
    /// As a PeerAuthentication calls it.
    mode: &'static str,
    /// What said so.
    said_by: String,
    mtls: CountsAnswer,
    plaintext: CountsAnswer,
    /// The share of mTLS, 0 to 1: of requests, and of connections where there are no requests; `null` of nothing.
    mtls_share: Option<f64>,
    callers: Vec<CallerAnswer>,
    verdict: Verdict,
    words: String,
}

#[derive(Debug, Serialize)]
struct CountsAnswer {
    connections: u64,
    requests: u64,
}

/// Who called without mTLS.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CallerAnswer {
    /// The address; `other` for those that the proxy did not tell apart.
    source: String,
    /// Who has that address, where the mesh knows; several, where they share it.
    names: Vec<String>,
    connections: u64,
    open: u64,
    requests: u64,
    first_seen: String,
    last_seen: String,
}

/// Whether a port could demand mTLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Verdict {
    /// It does.
    Strict,
    /// Nobody would be cut off.
    Safe,
    /// Somebody would.
    CutOff,
    /// Nobody knows.
    Unknown,
}

pub(super) async fn mtls(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<MtlsAnswer>, Failure> {
    let Query(Asked { namespace, since }) = asked.map_err(|error| Failure::bad(error.body_text()))?;
    let within = since.map_or(WITHIN, Duration::from_secs);
    let clock = Clock::now();
    let dialects: BTreeMap<Key, Dialect> =
        api.world.proxies(|key, proxy| (key.clone(), proxy.dialect)).into_iter().collect();
    let told = Told { mesh: &api.world.mesh(), dialects, ports: api.hub.ports(clock.instant, within), clock };
    let is_meant = |of: &str| namespace.as_deref().is_none_or(|one| one == of) && caller.may_read(of);
    let mut ports = told.answers(is_meant);
    // Who else has a caller's address is for those who may read of them.
    let is_theirs = |name: &String| name.split_once('/').is_some_and(|(of, _)| caller.may_read(of));
    for called_by in ports.iter_mut().flat_map(|port| &mut port.callers) {
        called_by.names.retain(is_theirs);
    }
    Ok(Json(MtlsAnswer {
        listening_since: clock.text(api.hub.began()),
        within_seconds: within.as_secs(),
        ports,
    }))
}

/// All that the answer is made of.
struct Told<'m> {
    mesh: &'m Mesh,
    /// What proxies are there, and what they speak.
    dialects: BTreeMap<Key, Dialect>,
    ports: Vec<PortTraffic>,
    clock: Clock,
}

/// The same moment on both clocks.
#[derive(Clone, Copy)]
struct Clock {
    instant: Instant,
    time: SystemTime,
}

impl Clock {
    fn now() -> Self {
        Self { instant: Instant::now(), time: SystemTime::now() }
    }

    fn text(self, at: Instant) -> String {
        let ago = self.instant.saturating_duration_since(at);
        let time = self.time.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
        let whole = jiff::Timestamp::try_from(time).map(jiff::Timestamp::as_second);
        whole.and_then(jiff::Timestamp::from_second).map(|time| time.to_string()).unwrap_or_default()
    }
}

impl Told<'_> {
    fn answers(&self, is_meant: impl Fn(&str) -> bool) -> Vec<PortAnswer> {
        let names = names(self.mesh);
        let meant = self.mesh.workloads.values().filter(|workload| is_meant(&workload.key.namespace));
        let ports =
            meant.flat_map(|workload| workload.inbound.iter().map(move |inbound| (workload, inbound)));
        ports.map(|(workload, inbound)| self.answer(workload, inbound, &names)).collect()
    }

    fn answer(
        &self,
        workload: &Workload,
        inbound: &Inbound,
        names: &BTreeMap<IpAddr, BTreeSet<String>>,
    ) -> PortAnswer {
        let (mode, said) = mtls_said(self.mesh, workload, inbound.port);
        let traffic = self.traffic(workload, inbound.port);
        // What was not told apart by port may be of any.
        let others = self.traffic(workload, 0).into_iter().flat_map(|port| &port.callers);
        let callers: Vec<&PlaintextCaller> =
            traffic.into_iter().flat_map(|port| &port.callers).chain(others).collect();
        let (mtls, plaintext) = traffic.map_or_else(Default::default, |port| (port.mtls, port.plaintext));
        let has_mtls = traffic.is_some_and(|port| port.mtls_seen.is_some());
        let (verdict, words) = self.verdict(workload, mode, callers.len(), has_mtls);
        PortAnswer {
            namespace: workload.key.namespace.to_string(),
            workload: workload.key.name.to_string(),
            port: inbound.port,
            mode: word(mode),
            said_by: match said {
                Said::Policy(key) => format!("PeerAuthentication {key}"),
                Said::MeshConfig => "MeshConfig".to_owned(),
                Said::Default => "the mesh's default".to_owned(),
            },
            mtls_share: share(mtls, plaintext),
            mtls: mtls.into(),
            plaintext: plaintext.into(),
            callers: callers.into_iter().map(|caller| self.caller(caller, names)).collect(),
            verdict,
            words,
        }
    }

    fn traffic(&self, workload: &Workload, port: u16) -> Option<&PortTraffic> {
        let is_of = |key: &PortKey| {
            key.port == port && key.namespace == workload.key.namespace && key.workload == workload.key.name
        };
        self.ports.iter().find(|traffic| is_of(&traffic.key))
    }

    fn verdict(
        &self,
        workload: &Workload,
        mode: MtlsMode,
        callers: usize,
        has_mtls: bool,
    ) -> (Verdict, String) {
        let dialect_of = self.dialects.get(&workload.key).copied();
        match (mode, dialect_of) {
            (MtlsMode::Strict, _) => (Verdict::Strict, "strict already".to_owned()),
            (_, Some(foreign @ (Dialect::Envoy | Dialect::Grpc))) => {
                let words = format!("its proxy does not count this ({})", dialect(foreign));
                (Verdict::Unknown, words)
            }
            (MtlsMode::Disable, _) if callers > 0 => {
                let words = format!(
                    "{} in plaintext, as the port has it; make it PERMISSIVE first, and look who stays so",
                    number_of(callers, "call", "calls")
                );
                (Verdict::CutOff, words)
            }
            _ if callers > 0 => {
                (Verdict::CutOff, format!("{} be cut off", number_of(callers, "would", "would")))
            }
            _ if has_mtls => (Verdict::Safe, "strict is safe".to_owned()),
            _ => (Verdict::Unknown, "no traffic seen: cannot tell".to_owned()),
        }
    }

    fn caller(&self, caller: &PlaintextCaller, names: &BTreeMap<IpAddr, BTreeSet<String>>) -> CallerAnswer {
        let (source, of) = match caller.source {
            CallerSource::Address(address) => (address.to_string(), names.get(&address)),
            CallerSource::Others => ("other".to_owned(), None),
        };
        CallerAnswer {
            source,
            names: of.into_iter().flatten().take(MAX_NAMES).cloned().collect(),
            connections: caller.counts.connections,
            open: caller.open,
            requests: caller.counts.requests,
            first_seen: self.clock.text(caller.first_seen),
            last_seen: self.clock.text(caller.last_seen),
        }
    }
}

/// `1 caller would`, `2 callers would`.
fn number_of(callers: usize, many: &str, one: &str) -> String {
    if callers == 1 { format!("1 caller {one}") } else { format!("{callers} callers {many}") }
}

/// Who has which address.
fn names(mesh: &Mesh) -> BTreeMap<IpAddr, BTreeSet<String>> {
    let mut names: BTreeMap<IpAddr, BTreeSet<String>> = BTreeMap::new();
    let mut add = |address: IpAddr, name: String| {
        let address = address.to_canonical();
        // From loopback any program of the workload's host calls.
        if !address.is_loopback() && !address.is_unspecified() {
            names.entry(address).or_default().insert(name);
        }
    };
    for workload in mesh.workloads.values() {
        for inbound in &workload.inbound {
            add(inbound.bind.ip(), workload.key.to_string());
        }
    }
    for (key, entry) in &mesh.config.workload_entries {
        add(entry.address, format!("{key} (WorkloadEntry)"));
    }
    for (key, slice) in &mesh.config.endpoint_slices {
        for endpoint in &slice.endpoints {
            let pod = endpoint.workload.as_ref().map(|name| Key::new(key.namespace.clone(), name.clone()));
            let known = pod.as_ref().filter(|pod| mesh.workloads.contains_key(*pod));
            match (known, pod.as_ref(), &slice.service) {
                (Some(workload), ..) => add(endpoint.address, workload.to_string()),
                (None, Some(pod), _) => add(endpoint.address, format!("{pod} (pod)")),
                (None, None, Some(service)) => {
                    add(endpoint.address, format!("{}/{service} (endpoint)", key.namespace));
                }
                (None, None, None) => {}
            }
        }
    }
    names
}

fn word(mode: MtlsMode) -> &'static str {
    match mode {
        MtlsMode::Strict => "STRICT",
        MtlsMode::Permissive => "PERMISSIVE",
        MtlsMode::Disable => "DISABLE",
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share is an estimate")]
fn share(mtls: PortCounts, plaintext: PortCounts) -> Option<f64> {
    let of = |mtls: u64, plaintext: u64| {
        let all = mtls.saturating_add(plaintext);
        (all > 0).then(|| mtls as f64 / all as f64)
    };
    let of_requests = of(mtls.requests, plaintext.requests);
    of_requests.or_else(|| of(mtls.connections, plaintext.connections))
}

impl From<PortCounts> for CountsAnswer {
    fn from(counts: PortCounts) -> Self {
        Self { connections: counts.connections, requests: counts.requests }
    }
}

#[cfg(test)]
mod tests;
