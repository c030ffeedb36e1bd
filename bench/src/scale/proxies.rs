//! Simulated proxies: real discovery streams over mTLS, each with an identity of its own, that take everything, and read
//! and run nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use meshwork_agent::{Enrolment, channel, control_plane_id, enrol as enrol_one};
use meshwork_control_plane::store::{Store, TokenRequest};
use meshwork_identity::IdentitySource;
use meshwork_model::proxy::Kind;
use meshwork_xds::client::{Carried, Response};
use meshwork_xds::grpc::follow;
use meshwork_xds::{Node, USER_AGENT};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use super::config::{NAMESPACE, Size};

const TRUST_DOMAIN: &str = "mesh.local";
/// Workloads that enrol at the same time.
const ENROL_AT_ONCE: usize = 8;
const TOKEN_LIFETIME: Duration = Duration::from_mins(30);

/// Makes an identity for every proxy.
pub(super) async fn enrol(
    size: Size,
    dir: &Path,
    control_plane: SocketAddr,
) -> anyhow::Result<Vec<Arc<IdentitySource>>> {
    let store = Store::open(&dir.join("state"))?;
    let mut running = JoinSet::new();
    let mut all = BTreeMap::new();
    for n in 0..size.proxies {
        let token = store.create_token(&TokenRequest {
            namespace: NAMESPACE.to_owned(),
            service_account: format!("p{n}"),
            workload: format!("p{n}"),
            labels: [("app".to_owned(), format!("p{n}"))].into(),
            ttl: TOKEN_LIFETIME,
        })?;
        let enrolment = Enrolment {
            control_plane,
            trust_bundle: dir.join("state/bundle.pem"),
            token: Some(token),
            state: dir.join(format!("p{n}")),
            lifetime: None,
        };
        running.spawn(async move { (n, enrol_one(&enrolment).await.map(|enrolled| enrolled.identity)) });
        if running.len() >= ENROL_AT_ONCE {
            take(&mut running, &mut all).await?;
        }
    }
    while !running.is_empty() {
        take(&mut running, &mut all).await?;
    }
    Ok(all.into_values().collect())
}

type Enrolled = (usize, Result<Arc<IdentitySource>, meshwork_agent::EnrolError>);

async fn take(
    running: &mut JoinSet<Enrolled>,
    all: &mut BTreeMap<usize, Arc<IdentitySource>>,
) -> anyhow::Result<()> {
    let (n, enrolled) = running.join_next().await.context("nobody enrols")??;
    all.insert(n, enrolled?);
    Ok(())
}

/// All simulated proxies.
pub(super) struct Proxies {
    awaited: Arc<Mutex<Awaited>>,
    reports: mpsc::Receiver<Report>,
    count: usize,
    /// Ends all streams when it is dropped.
    _running: JoinSet<()>,
}

/// What proxies report when it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    Nothing,
    /// An address among a service's endpoints.
    Endpoint {
        service: usize,
        address: IpAddr,
    },
    /// All of its route tables in a new version.
    Tables,
}

enum Report {
    /// It has all of its config.
    InSync(Instant),
    /// It has what is awaited.
    Has(Instant),
}

impl Proxies {
    /// Opens all streams at once.
    pub(super) fn connect(size: Size, identities: &[Arc<IdentitySource>], address: SocketAddr) -> Self {
        let (tell, reports) = mpsc::channel(2 * size.proxies);
        let awaited = Arc::new(Mutex::new(Awaited::Nothing));
        let mut running = JoinSet::new();
        for (n, identity) in identities.iter().enumerate() {
            let proxy = Proxy::new(size.called(n).count(), tell.clone(), Arc::clone(&awaited));
            running.spawn(proxy.run(size, n, Arc::clone(identity), address));
        }
        Self { awaited, reports, count: size.proxies, _running: running }
    }

    /// Waits until every proxy has all of its config.
    pub(super) async fn in_sync(&mut self, patience: Duration) -> anyhow::Result<Instant> {
        self.reported(self.count, patience).await.context("proxies do not come into sync")
    }

    /// From now on proxies report when they have that address.
    pub(super) fn expect(&mut self, service: usize, address: IpAddr) {
        *lock(&self.awaited) = Awaited::Endpoint { service, address };
    }

    /// From now on proxies report when all of their tables have changed.
    pub(super) fn expect_tables(&mut self) {
        *lock(&self.awaited) = Awaited::Tables;
    }

    /// When the last of so many proxies had what is awaited.
    pub(super) async fn all_have(&mut self, users: usize, patience: Duration) -> anyhow::Result<Instant> {
        self.reported(users, patience).await.context("a change does not reach all proxies")
    }

    async fn reported(&mut self, users: usize, patience: Duration) -> anyhow::Result<Instant> {
        let deadline = tokio::time::Instant::now() + patience;
        let mut last = Instant::now();
        for n in 0..users {
            let report = timeout_at(deadline, self.reports.recv()).await;
            let report = report.with_context(|| format!("{n} of {users} have it after {patience:?}"))?;
            match report.context("all streams have ended")? {
                Report::InSync(at) | Report::Has(at) => last = at,
            }
        }
        ensure!(self.reports.try_recv().is_err(), "more than {users} proxies have it");
        Ok(last)
    }
}

/// One simulated proxy.
struct Proxy {
    tell: mpsc::Sender<Report>,
    awaited: Arc<Mutex<Awaited>>,
    has: BTreeMap<Kind, BTreeSet<String>>,
    is_in_sync: bool,
    /// Tables that have changed since that is awaited.
    tables: BTreeSet<String>,
    reported: Awaited,
    /// How many services it calls.
    calls: usize,
}

impl Proxy {
    fn new(calls: usize, tell: mpsc::Sender<Report>, awaited: Arc<Mutex<Awaited>>) -> Self {
        let (has, tables) = (BTreeMap::new(), BTreeSet::new());
        Self { tell, awaited, has, is_in_sync: false, tables, reported: Awaited::Nothing, calls }
    }

    async fn run(mut self, size: Size, n: usize, identity: Arc<IdentitySource>, address: SocketAddr) {
        let Some(server) = control_plane_id(TRUST_DOMAIN) else { return };
        let calls = size.called(n).enumerate().map(|(i, service)| {
            let bind = format!("127.0.0.1:{}", 20_000 + i);
            json!({"port": 80, "bind": bind, "service": format!("s{service}.{NAMESPACE}")})
        });
        let name = format!("p{n}");
        let metadata = json!({"NAME": name, "NAMESPACE": NAMESPACE, "OUTBOUND": calls.collect::<Vec<_>>()});
        let id = format!("sidecar~{name}.{NAMESPACE}");
        let node = Node { id, user_agent: USER_AGENT.to_owned(), metadata, ..Node::default() };
        let channel = channel(&identity, address, &server);
        // A stream that fails leaves its proxy silent, which fails the run.
        let _ = follow(channel, &node, |response| self.take(response)).await;
    }

    /// Looks at what comes; what is in the clusters, and routes to them, are wanted by their names.
    fn take(&mut self, response: &Response) -> Vec<(Kind, Vec<String>)> {
        let awaited = *lock(&self.awaited);
        let mut new = Vec::new();
        for resource in &response.resources {
            if self.has.entry(response.kind).or_default().insert(resource.name.clone()) {
                new.push(resource.name.clone());
            }
            if self.is_awaited(response.kind, resource, awaited) && self.reported != awaited {
                self.reported = awaited;
                let _ = self.tell.try_send(Report::Has(Instant::now()));
            }
        }
        let kinds = [Kind::Cluster, Kind::Endpoints, Kind::Listener, Kind::Routes];
        let has_all = |kind| self.has.get(kind).is_some_and(|names| names.len() >= self.calls);
        if !self.is_in_sync && kinds.iter().all(has_all) {
            self.is_in_sync = true;
            let _ = self.tell.try_send(Report::InSync(Instant::now()));
        }
        if response.kind == Kind::Cluster && !new.is_empty() {
            return vec![(Kind::Endpoints, new.clone()), (Kind::Routes, new)];
        }
        Vec::new()
    }

    fn is_awaited(&mut self, kind: Kind, resource: &Carried, awaited: Awaited) -> bool {
        match (awaited, kind) {
            (Awaited::Endpoint { service, address }, Kind::Endpoints) => {
                let address = address.to_string();
                resource.name == format!("outbound|80||s{service}.{NAMESPACE}.svc.cluster.local")
                    && resource.bytes.0.windows(address.len()).any(|text| text == address.as_bytes())
            }
            (Awaited::Tables, Kind::Routes) => {
                self.tables.insert(resource.name.clone());
                self.tables.len() >= self.calls
            }
            _ => false,
        }
    }
}

fn lock(awaited: &Mutex<Awaited>) -> std::sync::MutexGuard<'_, Awaited> {
    awaited.lock().unwrap_or_else(PoisonError::into_inner)
}
