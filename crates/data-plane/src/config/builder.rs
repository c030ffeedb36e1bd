//! Takes resources in, one by one: checks, binds, and keeps the last good version of each.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use meshwork_identity::IdentitySource;
use meshwork_model::chain::ChainIndex;
use meshwork_model::format::Template;
use meshwork_model::policy::Rules;
use meshwork_model::proxy::{
    AccessLog, Action, Cluster, ConnectionLimit, Direction, Discovery, Dns, Endpoints, FilterChain, Gate,
    HttpConnection, Kind, Listener, LogSink, NameTable, Network, NetworkFilter, Resource, RouteAction,
    RouteSource, RouteTable, Secret, ServiceName, SocketOptions, TlsContext,
};
use meshwork_telemetry::{self as telemetry, Registry, Sink};
use meshwork_xds::config_dump::{Held, Refused};
use meshwork_xds::{Rejection, Update};
use tracing::warn;

use super::secrets::{Made, Secrets, Server, Shown};
use super::{
    Asks, Bound, Chain, ChainLog, ClusterConfig, Filter, HttpChain, Limit, ListenerConfig, ListenerCounters,
    RuntimeConfig, ServerTls, Takeover,
};
use crate::health::{self, Keeper};
use crate::http::filters::{Filters, Kept};
use crate::limits::{ACCESS_LOGS, DNS_HOSTS, HANDSHAKE, LISTENER_ADDRESSES, REFUSED};
use crate::listener::Sockets;
use crate::policy::{self, Judged};
use crate::record::NOTED;
use crate::resolver::{Followed, Resolver};
use crate::upstream::{Breakers, Hosts, Reach, Workload};

/// The last good version of every resource.
pub(crate) struct Builder {
    secrets: Secrets,
    workers: usize,
    /// The workload whose network clusters may be reached in.
    workload: Option<Workload>,
    listeners: BTreeMap<Arc<str>, Accepted>,
    tables: BTreeMap<Arc<str>, Arc<RouteTable>>,
    clusters: BTreeMap<Arc<str>, Arc<ClusterConfig>>,
    /// Endpoints that were delivered on their own, by the name they were asked for.
    delivered: BTreeMap<Arc<str>, Endpoints>,
    resolver: Resolver,
    /// Who looks after the health of hosts.
    keeper: Keeper,
    /// Clusters that are looked after.
    watched: HashMap<Arc<str>, health::Kept>,
    /// Hosts whose addresses are kept fresh, by the cluster that names them.
    followed: HashMap<Arc<str>, Followed>,
    /// Names that are answered for; whoever does reads this on its own.
    names: Arc<ArcSwapOption<NameTable>>,
    /// Sockets bound ahead of their listeners.
    reserved: HashMap<SocketAddr, Arc<Sockets>>,
    /// Access logs that listeners ask for, by sink; once opened they stay.
    logs: Vec<(LogSink, telemetry::AccessLog)>,
    registry: Arc<Registry>,
    /// What filters count.
    kept: Kept,
    versions: BTreeMap<(Kind, String), String>,
    /// Their messages, for dumps.
    messages: BTreeMap<(Kind, String), Message>,
    /// What was refused and not accepted since; no more than [`REFUSED`].
    refused: BTreeMap<(Kind, String), Refused>,
    version: u64,
}

/// A resource as it came.
#[derive(Clone)]
struct Message {
    bytes: Bytes,
    updated: SystemTime,
    is_static: bool,
}

impl Default for Message {
    fn default() -> Self {
        Self { bytes: Bytes::new(), updated: SystemTime::UNIX_EPOCH, is_static: false }
    }
}

/// A listener that passed, with what was made for it.
struct Accepted {
    listener: Listener,
    index: Arc<ChainIndex>,
    tls: Vec<Option<Made<Server>>>,
    logs: Vec<Vec<ChainLog>>,
    /// How many connections its chains may have, and have.
    limits: Vec<Vec<Arc<Limit>>>,
    counters: Arc<ListenerCounters>,
    /// Where it listens, address by address; nowhere, if it takes over what others accept.
    sockets: Vec<Arc<Sockets>>,
    /// As it last ran: it stays so while the routes that a new version names are on their way.
    running: Option<Arc<ListenerConfig>>,
}

/// Sockets whose listeners are gone, for others to take over within the same update.
type Released = HashMap<SocketAddr, Arc<Sockets>>;

impl Builder {
    pub(crate) fn new(
        identity: Option<Arc<IdentitySource>>,
        workers: usize,
        registry: Arc<Registry>,
        workload: Option<Workload>,
    ) -> Self {
        Self {
            secrets: Secrets::new(identity),
            workers,
            resolver: Resolver::new(workload.is_some()),
            keeper: Keeper::default(),
            watched: HashMap::new(),
            followed: HashMap::new(),
            workload,
            listeners: BTreeMap::new(),
            tables: BTreeMap::new(),
            clusters: BTreeMap::new(),
            delivered: BTreeMap::new(),
            names: Arc::default(),
            reserved: HashMap::new(),
            logs: Vec::new(),
            registry,
            kept: Kept::default(),
            versions: BTreeMap::new(),
            messages: BTreeMap::new(),
            refused: BTreeMap::new(),
            version: 0,
        }
    }

    /// Binds an address for a listener that is still to come; gives the port that the kernel chose.
    pub(crate) fn reserve(&mut self, address: SocketAddr) -> std::io::Result<SocketAddr> {
        let sockets = Arc::new(Sockets::bind(address, &SocketOptions::default(), self.workers)?);
        let address = sockets.address();
        self.reserved.insert(address, sockets);
        Ok(address)
    }

    /// Keeps sockets that somebody else made for a listener that is still to come.
    pub(crate) fn adopt(
        &mut self,
        address: SocketAddr,
        sockets: Vec<std::net::TcpListener>,
    ) -> std::io::Result<()> {
        let sockets = Sockets::adopt(address, sockets, self.workers)?;
        self.reserved.insert(address, Arc::new(sockets));
        Ok(())
    }

    /// The first address that a listener is bound to, or whose connections it takes over.
    pub(crate) fn address(&self, listener: &str) -> Option<SocketAddr> {
        let accepted = self.listeners.get(listener)?;
        accepted.sockets.first().map_or(accepted.listener.address, |sockets| Some(sockets.address()))
    }

    /// The names that are answered for, now and after each update.
    pub(crate) fn names(&self) -> Arc<ArcSwapOption<NameTable>> {
        Arc::clone(&self.names)
    }

    /// A cluster that was accepted.
    pub(crate) fn cluster(&self, name: &str) -> Option<Arc<ClusterConfig>> {
        self.clusters.get(name).map(Arc::clone)
    }

    /// Every resource as it is held, with what was refused of it since.
    pub(crate) fn held(&self) -> Vec<Held> {
        let refused = |key: &(Kind, String)| self.refused.get(key).cloned();
        let whole = self.versions.iter().map(|(key, version)| {
            let message = self.messages.get(key).cloned().unwrap_or_default();
            Held {
                kind: key.0,
                name: key.1.clone(),
                version: (!message.is_static).then(|| version.clone()),
                bytes: message.bytes,
                updated: message.updated,
                refused: refused(key),
            }
        });
        let never = self.refused.iter().filter(|(key, _)| !self.versions.contains_key(*key));
        let never = never.map(|((kind, name), refused)| Held {
            kind: *kind,
            name: name.clone(),
            version: Some(String::new()),
            bytes: Bytes::new(),
            updated: refused.at,
            refused: Some(refused.clone()),
        });
        whole.chain(never).collect()
    }

    /// Every cluster, and whether it is static.
    pub(crate) fn clusters(&self) -> Vec<(Arc<ClusterConfig>, bool)> {
        let is_static = |name: &Arc<str>| {
            self.messages.get(&(Kind::Cluster, name.to_string())).is_some_and(|message| message.is_static)
        };
        self.clusters.iter().map(|(name, config)| (Arc::clone(config), is_static(name))).collect()
    }

    /// Every listener at each of its addresses.
    pub(crate) fn addresses(&self) -> Vec<(Arc<str>, SocketAddr)> {
        let of = |accepted: &Accepted| -> Vec<(Arc<str>, SocketAddr)> {
            let name = &accepted.listener.name;
            if accepted.listener.bind_to_port {
                accepted.sockets.iter().map(|sockets| (Arc::clone(name), sockets.address())).collect()
            } else {
                addresses(&accepted.listener).map(|address| (Arc::clone(name), address)).collect()
            }
        };
        self.listeners.values().flat_map(of).collect()
    }

    /// Lets go of the listeners of a side.
    pub(crate) fn drop_listeners(&mut self, is_meant: impl Fn(Direction) -> bool) -> Arc<RuntimeConfig> {
        let meant = self.listeners.iter().filter(|(_, accepted)| is_meant(accepted.listener.direction));
        let names: Vec<Arc<str>> = meant.map(|(name, _)| Arc::clone(name)).collect();
        let mut released = Released::new();
        for name in names {
            self.remove(Kind::Listener, &name, &mut released);
        }
        self.build()
    }

    /// Whether nothing that config names is still on its way: every listener has its routes, every cluster its endpoints.
    pub(crate) fn is_whole(&self) -> bool {
        let has_endpoints = |cluster: &ClusterConfig| match &cluster.cluster.discovery {
            Discovery::Eds(name) => self.versions.contains_key(&(Kind::Endpoints, name.to_string())),
            Discovery::Static(_) | Discovery::Dns(_) | Discovery::OriginalDestination => true,
        };
        !self.listeners.is_empty()
            && self.listeners.values().all(|accepted| accepted.running.is_some())
            && self.clusters.values().all(|cluster| has_endpoints(cluster))
    }

    /// Takes an update in. Gives what is refused, and the config to run if anything but endpoints changed.
    pub(crate) fn apply(&mut self, update: Update) -> (Vec<Rejection>, Option<Arc<RuntimeConfig>>) {
        let mut rejections = Vec::new();
        let mut released = Released::new();
        let mut is_changed = false;
        for (kind, name) in &update.removed {
            is_changed |= *kind != Kind::Endpoints;
            self.remove(*kind, name, &mut released);
        }
        for rejection in &update.unreadable {
            self.note_refused(rejection, String::new());
        }
        let mut upserts = update.upserts;
        // Secrets first: what names them is not to wait for what is here already.
        upserts.sort_by_key(|resource| (resource.kind() != Kind::Secret, resource.kind()));
        for resource in upserts {
            let (kind, name) = (resource.kind(), resource.name().to_owned());
            is_changed |= match &resource {
                Resource::Endpoints(_) => false,
                Resource::Names(table) => self.listeners.contains_key(&table.name),
                _ => true,
            };
            match self.upsert(resource, &mut released) {
                Ok(()) => {
                    let key = (kind, name);
                    let version = update.versions.get(&key).cloned();
                    let bytes = update.bytes.get(&key).cloned().unwrap_or_default().0;
                    let message = Message { bytes, updated: SystemTime::now(), is_static: version.is_none() };
                    self.refused.remove(&key);
                    self.messages.insert(key.clone(), message);
                    self.versions.insert(key, version.unwrap_or_default());
                }
                Err(why) => {
                    let version = update.versions.get(&(kind, name.clone())).cloned();
                    let rejection = Rejection { kind, name, why };
                    self.note_refused(&rejection, version.unwrap_or_default());
                    rejections.push(rejection);
                }
            }
        }
        (rejections, is_changed.then(|| self.build()))
    }

    fn note_refused(&mut self, rejection: &Rejection, version: String) {
        if self.refused.len() < REFUSED {
            let refused = Refused { why: rejection.why.clone(), version, at: SystemTime::now() };
            self.refused.insert((rejection.kind, rejection.name.clone()), refused);
        }
    }

    fn remove(&mut self, kind: Kind, name: &str, released: &mut Released) {
        let key = (kind, name.to_owned());
        self.versions.remove(&key);
        self.messages.remove(&key);
        self.refused.remove(&key);
        match kind {
            Kind::Listener => {
                self.remove_names(name);
                self.remove_listener(name, released);
            }
            Kind::Routes => drop(self.tables.remove(name)),
            Kind::Cluster => {
                self.clusters.remove(name);
                self.secrets.hide(&format!("cluster {name}"));
                self.followed.remove(name);
                self.watched.remove(name);
            }
            Kind::Endpoints => {
                self.delivered.remove(name);
                self.deliver(&Endpoints::new(name, Vec::new()));
            }
            // Whoever shows it goes on: Envoy keeps what it has, too.
            Kind::Secret => self.secrets.remove(name),
        }
    }

    fn upsert(&mut self, resource: Resource, released: &mut Released) -> Result<(), String> {
        match resource {
            Resource::Cluster(cluster) => self.upsert_cluster(cluster),
            Resource::Endpoints(endpoints) => {
                self.upsert_endpoints(endpoints);
                Ok(())
            }
            Resource::Listener(listener) => self.upsert_listener(listener, released),
            Resource::Names(table) => self.upsert_names(table, released),
            Resource::Secret(secret) => self.upsert_secret(secret),
            Resource::Routes(table) => {
                check_routes(&table)?;
                self.tables.insert(Arc::clone(&table.name), Arc::new(table));
                Ok(())
            }
        }
    }

    // --- clusters and endpoints ---

    fn upsert_endpoints(&mut self, endpoints: Endpoints) {
        self.deliver(&endpoints);
        self.delivered.insert(Arc::clone(&endpoints.cluster), endpoints);
    }

    /// Each cluster has hosts of its own, with a health of their own.
    fn deliver(&self, endpoints: &Endpoints) {
        let asks = |config: &&Arc<ClusterConfig>| matches!(&config.cluster.discovery, Discovery::Eds(name) if *name == endpoints.cluster);
        self.clusters.values().filter(asks).for_each(|config| config.hosts.replace(endpoints));
    }

    fn upsert_cluster(&mut self, cluster: Cluster) -> Result<(), String> {
        if self.clusters.get(&cluster.name).is_some_and(|old| old.cluster == cluster) {
            return Ok(());
        }
        self.make_cluster(cluster)
    }

    fn make_cluster(&mut self, cluster: Cluster) -> Result<(), String> {
        let old = self.clusters.get(&cluster.name).cloned();
        let workload = match cluster.network {
            Network::Proxy => None,
            Network::Workload => Some(self.workload.clone().ok_or(NO_WORKLOAD)?),
        };
        let mut reaches = Vec::new();
        for (at, transport) in cluster.transports.iter().enumerate() {
            let reach = match &transport.tls {
                None => Reach::Plaintext,
                Some(tls) => {
                    let owner = format!("cluster {} [{at}]", cluster.name);
                    let made = self.secrets.client(&owner, tls, &cluster);
                    match made.map_err(|why| format!("transport_socket_matches[{at}]: {why}"))? {
                        Made::Ready(tls) => Reach::Tls(tls),
                        Made::Awaited => Reach::Nowhere,
                    }
                }
            };
            reaches.push(reach);
        }
        let hosts = old.as_ref().map(|old| Arc::clone(&old.hosts)).unwrap_or_default();
        hosts.configure(cluster.balancing, &cluster.spread);
        hosts.await_checks(!cluster.checks.is_empty());
        self.discover(&cluster, &hosts)?;
        let breakers = match &old {
            Some(old) => old.breakers.with(cluster.breakers.clone()),
            None => Breakers::new(cluster.breakers.clone(), self.workers),
        };
        let name = Arc::clone(&cluster.name);
        let config = ClusterConfig { cluster, hosts, breakers, workload, reaches };
        let config = Arc::new(config);
        self.look_after(&config, old.as_deref())?;
        self.clusters.insert(name, config);
        Ok(())
    }

    /// Has the health of a cluster's hosts looked after, where config asks for it.
    fn look_after(&mut self, config: &Arc<ClusterConfig>, old: Option<&ClusterConfig>) -> Result<(), String> {
        let what = |config: &ClusterConfig| {
            let Cluster { outliers, checks, transports, connect_timeout, .. } = &config.cluster;
            (outliers.clone(), checks.clone(), transports.clone(), *connect_timeout)
        };
        let name = &config.cluster.name;
        if old.is_some_and(|old| what(old) == what(config)) && self.watched.contains_key(name) {
            return Ok(());
        }
        self.watched.remove(name);
        let kept = self.keeper.keep(config).map_err(|error| format!("health_checks: {error}"))?;
        self.watched.extend(kept.map(|kept| (Arc::clone(name), kept)));
        Ok(())
    }

    /// Fills in a cluster's hosts, as far as they are known.
    fn discover(&mut self, cluster: &Cluster, hosts: &Arc<Hosts>) -> Result<(), String> {
        match &cluster.discovery {
            Discovery::Dns(dns) => return self.follow(&cluster.name, dns, hosts),
            Discovery::OriginalDestination => hosts.replace(&Endpoints::new("", Vec::new())),
            Discovery::Eds(name) => match self.delivered.get(name) {
                Some(endpoints) => hosts.replace(endpoints),
                None => hosts.replace(&Endpoints::new(Arc::clone(name), Vec::new())),
            },
            Discovery::Static(endpoints) => hosts.replace(endpoints),
        }
        self.followed.remove(&cluster.name);
        Ok(())
    }

    /// Keeps the addresses of a cluster's names fresh.
    fn follow(&mut self, cluster: &Arc<str>, dns: &Dns, hosts: &Arc<Hosts>) -> Result<(), String> {
        if self.followed.get(cluster).is_some_and(|followed| followed.dns == *dns) {
            return Ok(());
        }
        let others = self.followed.iter().filter(|(name, _)| *name != cluster);
        let names: usize = others.map(|(_, followed)| followed.dns.hosts.len()).sum();
        if names + dns.hosts.len() > DNS_HOSTS {
            return Err(format!("type: there are {DNS_HOSTS} clusters with a host name already"));
        }
        if !self.followed.contains_key(cluster) {
            // What stood there before it was names is not what they stand for.
            hosts.replace(&Endpoints::new("", Vec::new()));
        }
        let followed = self.resolver.follow(dns, hosts);
        let followed = followed.map_err(|error| format!("cannot look names up: {error}"))?;
        self.followed.insert(Arc::clone(cluster), followed);
        Ok(())
    }

    // --- secrets ---

    /// Takes a secret in; whoever names it has its TLS made anew.
    fn upsert_secret(&mut self, secret: Secret) -> Result<(), String> {
        let name = Arc::clone(&secret.name);
        self.secrets.put(secret)?;
        self.make_tls_anew(|context| context.secrets().any(|named| *named == name));
        Ok(())
    }

    /// What does not work out stays as it was; the next change of what it names is the next chance.
    fn make_tls_anew(&mut self, is_concerned: impl Fn(&TlsContext) -> bool) {
        for (name, accepted) in &mut self.listeners {
            for (at, chain) in accepted.listener.all_chains().enumerate() {
                let Some(tls) = &chain.tls else { continue };
                if !tls.context().is_some_and(&is_concerned) {
                    continue;
                }
                match self.secrets.server(&format!("listener {name} [{at}]"), tls) {
                    Ok(made) => accepted.tls[at] = Some(made),
                    Err(why) => warn!(listener = %name, chain = at, "its TLS stays as it was: {why}"),
                }
            }
        }
        let concerned = |config: &&Arc<ClusterConfig>| {
            let transports = config.cluster.transports.iter();
            transports.filter_map(|transport| transport.tls.as_ref()?.context()).any(&is_concerned)
        };
        let concerned: Vec<Cluster> =
            self.clusters.values().filter(concerned).map(|config| config.cluster.clone()).collect();
        for cluster in concerned {
            let name = Arc::clone(&cluster.name);
            if let Err(why) = self.make_cluster(cluster) {
                warn!(cluster = %name, "its TLS stays as it was: {why}");
            }
        }
    }

    /// Looks at watched files of certificates; gives the config to run where some changed.
    pub(crate) fn look_at_files(&mut self) -> Option<Arc<RuntimeConfig>> {
        if !self.secrets.files_changed() {
            return None;
        }
        self.make_tls_anew(|_| true);
        Some(self.build())
    }

    /// The files that secrets come from.
    pub(crate) fn secret_files(&self) -> BTreeSet<String> {
        let listeners = self.listeners.values().flat_map(|accepted| accepted.listener.all_chains());
        let servers = listeners.filter_map(|chain| chain.tls.as_ref()?.context());
        let clusters = self.clusters.values().flat_map(|config| &config.cluster.transports);
        let clients = clusters.filter_map(|transport| transport.tls.as_ref()?.context());
        Secrets::files(servers.chain(clients))
    }

    /// The proxy's own identity, where it has one.
    pub(crate) fn identity(&self) -> Option<&Arc<IdentitySource>> {
        self.secrets.identity.as_ref()
    }

    /// What listeners and clusters show and trust.
    pub(crate) fn shown(&self) -> impl Iterator<Item = (&str, &Shown)> {
        self.secrets.shown()
    }

    // --- names ---

    /// There is one table: two could say different things of one name.
    fn upsert_names(&mut self, table: NameTable, released: &mut Released) -> Result<(), String> {
        let other = self.names.load().as_ref().map(|names| Arc::clone(&names.name));
        if let Some(other) = other.filter(|other| *other != table.name) {
            return Err(format!("names are answered for by the listener {other}; there can be one"));
        }
        self.remove_listener(&table.name, released);
        self.names.store(Some(Arc::new(table)));
        Ok(())
    }

    fn remove_names(&mut self, name: &str) {
        if self.names.load().as_ref().is_some_and(|names| &*names.name == name) {
            self.names.store(None);
        }
    }

    // --- listeners ---

    fn remove_listener(&mut self, name: &str, released: &mut Released) {
        self.secrets.hide(&format!("listener {name}"));
        if let Some(gone) = self.listeners.remove(name) {
            released.extend(gone.sockets.into_iter().map(|sockets| (sockets.address(), sockets)));
        }
    }

    fn upsert_listener(&mut self, listener: Listener, released: &mut Released) -> Result<(), String> {
        check_chains(&listener)?;
        let index = ChainIndex::compile(listener.chains.iter().map(|chain| &chain.matches));
        let index = index.map_err(|(first, second)| {
            format!("filter_chains[{second}] takes connections that filter_chains[{first}] takes as well")
        })?;
        let (mut tls, mut logs) = (Vec::new(), Vec::new());
        for (at, chain) in listener.all_chains().enumerate() {
            let owner = format!("listener {} [{at}]", listener.name);
            let made = chain.tls.as_ref().map(|tls| self.secrets.server(&owner, tls)).transpose();
            tls.push(made.map_err(|why| format!("{}.transport_socket: {why}", place(&listener, at)))?);
            let opened = self.open_logs(&chain.filter);
            logs.push(opened.map_err(|why| format!("{}.access_log: {why}", place(&listener, at)))?);
        }
        let sockets = self.bind(&listener, released)?;
        self.remove_names(&listener.name);
        // What runs stays only where it is.
        let stays = |old: &Accepted| {
            old.sockets.len() == sockets.len()
                && old.sockets.iter().zip(&sockets).all(|(old, new)| Arc::ptr_eq(old, new))
                && (listener.bind_to_port || addresses(&old.listener).eq(addresses(&listener)))
        };
        let old = self.listeners.remove(&listener.name);
        let counters = old.as_ref().map(|old| Arc::clone(&old.counters)).unwrap_or_default();
        let limits = limits(&listener, old.as_ref());
        let running = old.filter(stays).and_then(|old| old.running);
        let name = Arc::clone(&listener.name);
        let index = Arc::new(index);
        let accepted = Accepted { listener, index, tls, logs, limits, counters, sockets, running };
        self.listeners.insert(name, accepted);
        Ok(())
    }

    fn open_logs(&mut self, filter: &NetworkFilter) -> Result<Vec<ChainLog>, String> {
        let logs = match filter {
            NetworkFilter::Http(http) => &http.access_logs,
            NetworkFilter::Tcp(tcp) => &tcp.access_logs,
        };
        logs.iter().map(|log| self.open_log(log)).collect()
    }

    fn open_log(&mut self, wanted: &AccessLog) -> Result<ChainLog, String> {
        let config = wanted.clone();
        if let Some(number) = self.logs.iter().position(|(sink, _)| *sink == wanted.sink) {
            return Ok(ChainLog { number, log: self.logs[number].1.clone(), config });
        }
        if self.logs.len() >= ACCESS_LOGS {
            return Err(format!("there are {ACCESS_LOGS} different ones already"));
        }
        let sink = match &wanted.sink {
            LogSink::File(path) => Sink::File(PathBuf::from(&**path)),
            LogSink::Stdout => Sink::Stdout,
            LogSink::Stderr => Sink::Stderr,
        };
        let opened = telemetry::AccessLog::open(&sink, &self.registry);
        let log = opened.map_err(|error| format!("cannot open {:?}: {error}", wanted.sink))?;
        self.logs.push((wanted.sink.clone(), log.clone()));
        Ok(ChainLog { number: self.logs.len() - 1, log, config })
    }

    /// The sockets of a listener, or none where it is to have none.
    fn bind(&self, listener: &Listener, released: &mut Released) -> Result<Vec<Arc<Sockets>>, String> {
        if listener.address.is_none() {
            return Err("it has no address; API listeners are for gRPC clients".into());
        }
        if addresses(listener).count() > LISTENER_ADDRESSES {
            return Err(format!("additional_addresses: there are more than {LISTENER_ADDRESSES} addresses"));
        }
        let mut sockets = Vec::new();
        for address in addresses(listener) {
            if listener.bind_to_port {
                sockets.push(self.bind_one(listener, address, &sockets, released)?);
            } else {
                self.check_destination(&listener.name, address)?;
            }
        }
        Ok(sockets)
    }

    /// What was meant for an address is taken over by one listener.
    fn check_destination(&self, name: &Arc<str>, address: SocketAddr) -> Result<(), String> {
        if address.port() == 0 {
            return Err(format!("address {address}: a listener that does not bind needs a port"));
        }
        let takes = |other: &&Accepted| {
            other.listener.name != *name
                && !other.listener.bind_to_port
                && addresses(&other.listener).any(|theirs| theirs == address)
        };
        match self.listeners.values().find(takes) {
            Some(other) => {
                Err(format!("address {address} is taken over by the listener {}", other.listener.name))
            }
            None => Ok(()),
        }
    }

    fn bind_one(
        &self,
        listener: &Listener,
        address: SocketAddr,
        others: &[Arc<Sockets>],
        released: &mut Released,
    ) -> Result<Arc<Sockets>, String> {
        let name = &listener.name;
        if others.iter().any(|other| other.address() == address) {
            return Err(format!("address {address} is listed twice"));
        }
        if let Some(old) = self.listeners.get(name) {
            let kept = addresses(&old.listener).zip(&old.sockets).find(|(asked, sockets)| {
                (*asked == address || sockets.address() == address)
                    && !others.iter().any(|other| Arc::ptr_eq(other, sockets))
            });
            if kept.is_some() && old.listener.socket != listener.socket {
                return Err(format!(
                    "the sockets on {address} stay as they were made; name the listener anew"
                ));
            }
            if let Some((_, sockets)) = kept {
                return Ok(Arc::clone(sockets));
            }
        }
        let has = |accepted: &&Accepted| accepted.sockets.iter().any(|sockets| sockets.address() == address);
        if let Some(other) = self.listeners.values().filter(|other| other.listener.name != *name).find(has) {
            return Err(format!("address {address} is that of the listener {}", other.listener.name));
        }
        if let Some(sockets) = self.reserved.get(&address) {
            return Ok(Arc::clone(sockets));
        }
        if let Some(sockets) = released.remove(&address) {
            return Ok(sockets);
        }
        let bound = Sockets::bind(address, &listener.socket, self.workers);
        bound.map(Arc::new).map_err(|error| format!("cannot listen on {address}: {error}"))
    }

    // --- the whole ---

    fn build(&mut self) -> Arc<RuntimeConfig> {
        self.version += 1;
        self.kept.sweep();
        let (tables, clusters, kept) = (&self.tables, &self.clusters, &mut self.kept);
        let (mut listeners, mut destinations) = (HashMap::new(), HashMap::new());
        for accepted in self.listeners.values_mut() {
            if let Some(config) = accepted.build(tables, clusters, kept) {
                accepted.running = Some(Arc::new(config));
            }
            if !accepted.listener.bind_to_port {
                let takeover = || accepted.running.clone().map_or(Takeover::Awaited, Takeover::By);
                destinations.extend(addresses(&accepted.listener).map(|address| (address, takeover())));
            } else if let Some(running) = &accepted.running {
                let bound = |sockets| Bound { sockets, listener: Arc::clone(running) };
                let each = accepted.sockets.iter().cloned();
                listeners.extend(each.map(|sockets| (sockets.address(), bound(sockets))));
            }
        }
        Arc::new(RuntimeConfig {
            version: self.version,
            version_text: self.version.to_string().into(),
            listeners,
            destinations,
            clusters: self.clusters.clone(),
        })
    }
}

const NO_WORKLOAD: &str = "upstream_bind_config: this proxy serves no workload in a network of its own";

impl Accepted {
    /// `None` while routes or secrets that it names have not come.
    fn build(
        &self,
        tables: &BTreeMap<Arc<str>, Arc<RouteTable>>,
        clusters: &BTreeMap<Arc<str>, Arc<ClusterConfig>>,
        kept: &mut Kept,
    ) -> Option<ListenerConfig> {
        let mut chains = Vec::new();
        for (at, chain) in self.listener.all_chains().enumerate() {
            let filter = match &chain.filter {
                NetworkFilter::Http(http) => Filter::Http(http_chain(http, tables, kept)?),
                NetworkFilter::Tcp(tcp) => Filter::Tcp(Arc::clone(tcp)),
            };
            let made = match &self.tls[at] {
                None => None,
                Some(Made::Ready(made)) => Some(made),
                Some(Made::Awaited) => return None,
            };
            let tls = chain.tls.as_ref().zip(made);
            chains.push(Arc::new(Chain {
                name: Arc::clone(&chain.name),
                matches: (at < self.listener.chains.len()).then(|| chain.matches.clone()),
                tls: tls.map(|(source, made)| ServerTls { source: source.clone(), made: made.clone() }),
                handshake_timeout: chain.handshake_timeout.unwrap_or(HANDSHAKE),
                rules: rules(chain, kept),
                tried: tried(chain, kept),
                limits: self.limits[at].clone(),
                service: service(&filter, clusters),
                filter,
                asks: asks(&self.logs[at]),
                logs: self.logs[at].clone(),
            }));
        }
        let default_chain = self.listener.default_chain.as_ref().and_then(|_| chains.pop());
        Some(ListenerConfig {
            name: Arc::clone(&self.listener.name),
            direction: self.listener.direction,
            port: workload_port(&self.listener.name),
            use_original_dst: self.listener.use_original_dst,
            filters: self.listener.filters.clone(),
            filters_timeout: self.listener.filters_timeout,
            continue_on_filters_timeout: self.listener.continue_on_filters_timeout,
            chains,
            index: Arc::clone(&self.index),
            default_chain,
            counters: Arc::clone(&self.counters),
        })
    }
}

/// The workload's port that a listener is named after, as Istio and our control plane name those of the inbound side.
fn workload_port(name: &str) -> Option<u16> {
    name.strip_prefix("inbound|")?.split('|').next()?.parse().ok()
}

/// Whom a chain lets in.
fn rules(chain: &FilterChain, kept: &mut Kept) -> Vec<Rules> {
    let of_gate = |gate: &Gate| match gate {
        Gate::Rbac(rbac) => Some(policy::indexed(rbac, kept)),
        Gate::Tried(..) | Gate::Limit(_) => None,
    };
    chain.gates.iter().filter_map(of_gate).collect()
}

/// Rules of a chain of bytes that decide nothing.
fn tried(chain: &FilterChain, kept: &mut Kept) -> Vec<Judged> {
    let decides = |gate: &'_ Gate| match gate {
        Gate::Rbac(rbac) if rbac.action == Action::Allow => Some(Arc::clone(rbac)),
        _ => None,
    };
    let allow = chain.gates.iter().find_map(decides);
    let of_gate = |gate: &Gate| match gate {
        Gate::Rbac(rbac) if rbac.action == Action::Log => Some(Judged::tried(Some(rbac), None, kept)),
        Gate::Tried(rbac, prefix) => {
            let beside = allow.as_ref().filter(|_| rbac.action == Action::Allow);
            Some(Judged::tried(beside, Some((rbac, prefix)), kept))
        }
        Gate::Rbac(_) | Gate::Limit(_) => None,
    };
    chain.gates.iter().filter_map(of_gate).collect()
}

/// The limits of each chain; those who came under an equal one of the old version count.
fn limits(listener: &Listener, old: Option<&Accepted>) -> Vec<Vec<Arc<Limit>>> {
    let of_old = |chain: &FilterChain| {
        let chains = old.into_iter().flat_map(|old| old.listener.all_chains().zip(&old.limits));
        let mut same = chains.filter(|(other, _)| other.name == chain.name && other.matches == chain.matches);
        same.next().map_or(&[][..], |(_, limits)| limits)
    };
    let of_chain = |chain: &FilterChain| {
        let wanted = chain.gates.iter().filter_map(|gate| match gate {
            Gate::Limit(limit) => Some(*limit),
            Gate::Rbac(_) | Gate::Tried(..) => None,
        });
        let kept = of_old(chain);
        let one = |(at, wanted): (usize, ConnectionLimit)| {
            let kept = kept.get(at).filter(|kept| kept.config == wanted);
            kept.map_or_else(|| Limit::new(wanted), Arc::clone)
        };
        wanted.enumerate().map(one).collect()
    };
    listener.all_chains().map(of_chain).collect()
}

/// How config calls a chain.
fn place(listener: &Listener, at: usize) -> String {
    if at < listener.chains.len() { format!("filter_chains[{at}]") } else { "default_filter_chain".into() }
}

fn http_chain(
    http: &Arc<HttpConnection>,
    tables: &BTreeMap<Arc<str>, Arc<RouteTable>>,
    kept: &mut Kept,
) -> Option<HttpChain> {
    let routes = match &http.routes {
        RouteSource::Inline(table) => Arc::clone(table),
        RouteSource::Named(name) => Arc::clone(tables.get(name)?),
    };
    let filters = Filters::new(&http.filters, &routes, kept);
    Some(HttpChain { config: Arc::clone(http), routes, filters })
}

/// What logs ask for.
fn asks(logs: &[ChainLog]) -> Asks {
    let mut asks = Asks::default();
    for log in logs {
        let any = |test: &dyn Fn(&Template) -> bool| log.config.format.any(test);
        asks.times |= any(&|template| template.asks_when(&NOTED));
        asks.trailers |= any(&Template::reads_trailers);
    }
    asks
}

/// The service of the first cluster behind a filter that has one.
fn service(filter: &Filter, clusters: &BTreeMap<Arc<str>, Arc<ClusterConfig>>) -> Option<ServiceName> {
    let of = |name: &Arc<str>| clusters.get(name)?.cluster.service.clone();
    match filter {
        Filter::Tcp(tcp) => tcp.clusters.iter().find_map(|cluster| of(&cluster.name)),
        Filter::Http(http) => {
            http.routes.hosts().iter().flat_map(|host| &host.routes).find_map(|route| match &route.action {
                RouteAction::Forward(forward) => forward.clusters.iter().find_map(|c| of(&c.name)),
                RouteAction::Direct(_) | RouteAction::Redirect(_) | RouteAction::Local => None,
            })
        }
    }
}

/// All addresses of a listener.
fn addresses(listener: &Listener) -> impl Iterator<Item = SocketAddr> {
    listener.address.into_iter().chain(listener.additional_addresses.iter().copied())
}

// --- checks ---

fn check_routes(table: &RouteTable) -> Result<(), String> {
    for host in table.hosts() {
        for (at, route) in host.routes.iter().enumerate() {
            let field = || format!("virtual_hosts[{}].routes[{at}]", host.name);
            match &route.action {
                RouteAction::Local => {
                    return Err(format!(
                        "{}: non_forwarding_action is for servers, not for a proxy",
                        field()
                    ));
                }
                RouteAction::Forward(forward) if forward.clusters.iter().all(|c| c.weight == 0) => {
                    return Err(format!("{}: no cluster has a weight above 0", field()));
                }
                RouteAction::Forward(_) | RouteAction::Direct(_) | RouteAction::Redirect(_) => {}
            }
        }
    }
    Ok(())
}

fn check_chains(listener: &Listener) -> Result<(), String> {
    for (at, chain) in listener.all_chains().enumerate() {
        if let NetworkFilter::Http(http) = &chain.filter
            && let RouteSource::Inline(table) = &http.routes
        {
            check_routes(table).map_err(|why| format!("{}: {why}", place(listener, at)))?;
        }
    }
    Ok(())
}
