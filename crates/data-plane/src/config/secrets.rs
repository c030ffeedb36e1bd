//! Secrets by name, and the TLS configurations that are made of them and of the workload's identity.
//!
//! A configuration never changes: where a secret or a watched file does, whoever uses it has it made anew; open
//! connections go on as they are. What names a secret that has not come is not there yet: nothing is served or reached
//! with less than config asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::SystemTime;

use meshwork_identity::context::{self, Certificate, Trust};
use meshwork_identity::{CertificateFacts, ClientCertificate, IdentitySource};
use meshwork_model::proxy::{
    CertificateSource, ClientContext, Cluster, DataSource, DownstreamTls, MeshClient, MeshServer, Secret,
    SecretContent, ServerContext, TlsCertificate, TlsContext, UpstreamProtocol, UpstreamTls,
    ValidationContext,
};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tracing::warn;
use zeroize::Zeroizing;

use super::ClientTls;

/// The secret that stands for the workload's own SVID.
const OWN_SVID: &str = "default";
/// The secret that stands for the mesh's trust bundle.
const TRUST_BUNDLE: &str = "ROOTCA";
const NO_IDENTITY: &str = "TLS needs an identity, and this proxy was started without one";

/// What was made, if all that it needs is there.
#[derive(Clone)]
pub(super) enum Made<T> {
    /// It is ready.
    Ready(T),
    /// This secret has not come.
    Awaited,
}

/// What somebody shows and trusts, for people.
#[derive(Default)]
pub(crate) struct Shown {
    /// Certificates that are shown, each with where it came from.
    pub(crate) certificates: Vec<(Arc<str>, CertificateFacts)>,
    /// Authorities that are trusted.
    pub(crate) authorities: Vec<(Arc<str>, CertificateFacts)>,
}

/// The secrets, and the identity.
pub(super) struct Secrets {
    pub(super) identity: Option<Arc<IdentitySource>>,
    known: BTreeMap<Arc<str>, SecretContent>,
    /// Files that are looked at again, as they were when they were read.
    watched: BTreeMap<Arc<str>, Option<Stamp>>,
    /// Clusters of which it was said that nobody verifies their servers.
    warned: BTreeSet<Arc<str>>,
    shown: BTreeMap<String, Shown>,
}

/// What tells a file from what it was.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

/// A server's configuration.
#[derive(Clone)]
pub(crate) struct Server {
    /// For the handshake.
    pub(crate) config: Arc<ServerConfig>,
    /// Whether a client that shows a certificate has proved who it is.
    pub(crate) proves_clients: bool,
}

/// A context with all that it names at hand.
struct Loaded {
    certificates: Vec<Arc<Certificate>>,
    trust: Option<Trust>,
    shown: Shown,
}

impl Secrets {
    pub(super) fn new(identity: Option<Arc<IdentitySource>>) -> Self {
        let (known, watched) = (BTreeMap::new(), BTreeMap::new());
        Self { identity, known, watched, warned: BTreeSet::new(), shown: BTreeMap::new() }
    }

    /// Takes a secret in, if it can be used.
    ///
    /// # Errors
    /// What it holds, or a file that it names, cannot be used; the last good one stays.
    pub(super) fn put(&mut self, secret: Secret) -> Result<(), String> {
        match &secret.content {
            SecretContent::Certificate(certificate) => drop(self.certificate(certificate)?),
            SecretContent::Validation(context) => drop(self.authorities(context)?),
        }
        self.known.insert(secret.name, secret.content);
        Ok(())
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.known.remove(name);
    }

    /// The files that secrets come from, of those that these contexts name.
    pub(super) fn files<'a>(contexts: impl Iterator<Item = &'a TlsContext>) -> BTreeSet<String> {
        let names = contexts.flat_map(TlsContext::secrets);
        names.filter_map(|name| Secret::file_of(name).map(ToOwned::to_owned)).collect()
    }

    /// What listeners and clusters show and trust.
    pub(super) fn shown(&self) -> impl Iterator<Item = (&str, &Shown)> {
        self.shown.iter().map(|(owner, shown)| (owner.as_str(), shown))
    }

    /// Forgets what an owner shows.
    pub(super) fn hide(&mut self, owner: &str) {
        self.shown.retain(|key, _| key.strip_prefix(owner).is_none_or(|rest| !rest.starts_with(" [")));
    }

    /// Whether a watched file is another than it was; told once per change.
    pub(super) fn files_changed(&mut self) -> bool {
        let mut changed = false;
        for (path, seen) in &mut self.watched {
            let now = stamp(path);
            changed |= *seen != now;
            *seen = now;
        }
        changed
    }

    // --- servers ---

    /// A server's configuration.
    ///
    /// # Errors
    /// It asks for what cannot be had.
    pub(super) fn server(&mut self, owner: &str, tls: &DownstreamTls) -> Result<Made<Server>, String> {
        match tls {
            DownstreamTls::Mesh(mesh) => self.mesh_server(mesh).map(Made::Ready),
            DownstreamTls::Context(context) => self.context_server(owner, context),
        }
    }

    fn mesh_server(&self, tls: &MeshServer) -> Result<Server, String> {
        let identity = self.identity.as_ref().ok_or(NO_IDENTITY)?;
        check_own(Some(&tls.certificate), tls.validation.as_deref())?;
        let client = match (&tls.validation, tls.require_client_certificate) {
            (Some(_), true) => ClientCertificate::Required,
            (Some(_), false) => ClientCertificate::Optional,
            (None, true) => return Err("a client certificate is required, but nothing to judge it by".into()),
            (None, false) => ClientCertificate::None,
        };
        if !tls.allowed.is_empty() && client != ClientCertificate::Required {
            return Err("client identities are listed, but no client certificate is required".into());
        }
        let config = identity.server_config(&protocols(&tls.alpn), client);
        Ok(Server { config, proves_clients: true })
    }

    fn context_server(&mut self, owner: &str, context: &ServerContext) -> Result<Made<Server>, String> {
        let Made::Ready(loaded) = self.load(&context.common)? else { return Ok(Made::Awaited) };
        let config = context::server_config(context, loaded.certificates, loaded.trust.as_ref());
        let proves_clients = loaded.trust.as_ref().is_some_and(Trust::proves);
        self.shown.insert(owner.to_owned(), loaded.shown);
        let config = config.map_err(|error| error.to_string())?;
        Ok(Made::Ready(Server { config, proves_clients }))
    }

    // --- clients ---

    /// A client's configuration.
    ///
    /// # Errors
    /// It asks for what cannot be had.
    pub(super) fn client(
        &mut self,
        owner: &str,
        tls: &UpstreamTls,
        cluster: &Cluster,
    ) -> Result<Made<Arc<ClientTls>>, String> {
        match tls {
            UpstreamTls::Mesh(mesh) => self.mesh_client(mesh).map(Made::Ready),
            UpstreamTls::Context(context) => self.context_client(owner, context, cluster),
        }
    }

    fn mesh_client(&self, tls: &MeshClient) -> Result<Arc<ClientTls>, String> {
        let identity = self.identity.as_ref().ok_or(NO_IDENTITY)?;
        check_own(tls.certificate.as_deref(), Some(&tls.validation))?;
        if tls.certificate.is_none() {
            return Err("TLS without a client certificate is not supported; name the secret `default`".into());
        }
        if tls.identities.is_empty() {
            return Err("no identity is expected of the server; list at least one URI SAN".into());
        }
        let config = identity.client_config(&tls.identities, &protocols(&tls.alpn));
        let server_name = server_name(&tls.sni)?;
        Ok(Arc::new(ClientTls { config, server_name, by_host: false, is_of_mesh: true }))
    }

    fn context_client(
        &mut self,
        owner: &str,
        context: &ClientContext,
        cluster: &Cluster,
    ) -> Result<Made<Arc<ClientTls>>, String> {
        let mut context = context.clone();
        if context.common.alpn.is_empty() && cluster.protocol == UpstreamProtocol::Http2 {
            // Source: Envoy offers what the cluster speaks where nothing is written.
            context.common.alpn = vec!["h2".into()];
        }
        if context.validates_sni && context.sni.is_empty() && !context.auto_host_sni {
            return Err(
                "auto_sni_san_validation: no server name is sent that a certificate could be for".into()
            );
        }
        let server_name = server_name(&context.sni)?;
        let Made::Ready(loaded) = self.load(&context.common)? else { return Ok(Made::Awaited) };
        if !loaded.trust.as_ref().is_some_and(Trust::judges) && self.warned.insert(Arc::clone(&cluster.name))
        {
            warn!(cluster = %cluster.name, "nobody verifies its servers: the config names no `trusted_ca` for them");
        }
        let certificate = loaded.certificates.into_iter().next();
        let config = context::client_config(&context, certificate, loaded.trust.as_ref());
        let config = config.map_err(|error| error.to_string())?;
        self.shown.insert(owner.to_owned(), loaded.shown);
        let by_host = context.auto_host_sni;
        Ok(Made::Ready(Arc::new(ClientTls { config, server_name, by_host, is_of_mesh: false })))
    }

    // --- what both name ---

    fn load(&mut self, context: &TlsContext) -> Result<Made<Loaded>, String> {
        let mut loaded = Loaded { certificates: Vec::new(), trust: None, shown: Shown::default() };
        for (at, source) in context.certificates.iter().enumerate() {
            let source = match source {
                CertificateSource::Inline(certificate) => Arc::clone(certificate),
                CertificateSource::Secret(name) => match self.secret(name)? {
                    Made::Ready(SecretContent::Certificate(certificate)) => certificate,
                    Made::Ready(SecretContent::Validation(_)) => {
                        return Err(format!("the secret {name:?} is no certificate"));
                    }
                    Made::Awaited => return Ok(Made::Awaited),
                },
            };
            let certificate =
                self.certificate(&source).map_err(|why| format!("tls_certificates[{at}]: {why}"))?;
            loaded.shown.certificates.push((place(&source.chain), certificate.facts().clone()));
            loaded.certificates.push(Arc::new(certificate));
        }
        let Some(validation) = &context.validation else { return Ok(Made::Ready(loaded)) };
        let rules = match &validation.secret {
            None => Arc::clone(&validation.fixed),
            Some(name) => match self.secret(name)? {
                Made::Ready(SecretContent::Validation(secret)) => Arc::new(validation.fixed.merged(&secret)),
                Made::Ready(SecretContent::Certificate(_)) => {
                    return Err(format!("the secret {name:?} is a certificate, and nothing to judge one by"));
                }
                Made::Awaited => return Ok(Made::Awaited),
            },
        };
        let authorities = self.authorities(&rules)?;
        let trust = Trust::new(&rules, authorities.as_ref().map(|bytes| bytes.as_slice()));
        let trust = trust.map_err(|error| format!("validation_context: {error}"))?;
        if let Some(source) = &rules.trusted_ca {
            let facts = trust.authorities().iter().map(|facts| (place(source), facts.clone()));
            loaded.shown.authorities.extend(facts);
        }
        loaded.trust = Some(trust);
        Ok(Made::Ready(loaded))
    }

    fn secret(&self, name: &str) -> Result<Made<SecretContent>, String> {
        match (self.known.get(name), name.strip_prefix(Secret::STATIC)) {
            (Some(content), _) => Ok(Made::Ready(content.clone())),
            (None, Some(name)) => Err(format!("there is no static secret {name:?}")),
            (None, None) => Ok(Made::Awaited),
        }
    }

    fn certificate(&mut self, certificate: &TlsCertificate) -> Result<Certificate, String> {
        let chain = self.read(&certificate.chain, certificate.is_watched)?;
        let key = self.read(&certificate.key, certificate.is_watched)?;
        Certificate::from_pem(&chain, &key).map_err(|error| format!("{}: {error}", place(&certificate.chain)))
    }

    fn authorities(&mut self, rules: &ValidationContext) -> Result<Option<Zeroizing<Vec<u8>>>, String> {
        let Some(source) = &rules.trusted_ca else { return Ok(None) };
        let bytes = self.read(source, rules.is_watched)?;
        let only = ValidationContext::default();
        Trust::new(&only, Some(&bytes)).map_err(|error| format!("{}: {error}", place(source)))?;
        Ok(Some(bytes))
    }

    fn read(&mut self, source: &DataSource, is_watched: bool) -> Result<Zeroizing<Vec<u8>>, String> {
        let path = match source {
            DataSource::Inline(bytes) => return Ok(Zeroizing::new(bytes.open().to_vec())),
            DataSource::File(path) => path,
        };
        if is_watched {
            self.watched.insert(Arc::clone(path), stamp(path));
        }
        fs::read(&**path).map(Zeroizing::new).map_err(|error| format!("cannot read {path}: {error}"))
    }
}

/// Where something came from, for people. Source: Envoy writes `<inline>`.
fn place(source: &DataSource) -> Arc<str> {
    match source {
        DataSource::Inline(_) => "<inline>".into(),
        DataSource::File(path) => Arc::clone(path),
    }
}

fn stamp(path: &str) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    Some(Stamp { modified: found.modified().ok(), length: found.len(), inode: found.ino() })
}

fn server_name(sni: &str) -> Result<Option<ServerName<'static>>, String> {
    if sni.is_empty() {
        return Ok(None);
    }
    ServerName::try_from(sni.to_owned()).map(Some).map_err(|_| format!("sni {sni:?} is not a name"))
}

fn protocols(alpn: &[Arc<str>]) -> Vec<&[u8]> {
    alpn.iter().map(|name| name.as_bytes()).collect()
}

fn check_own(certificate: Option<&str>, validation: Option<&str>) -> Result<(), String> {
    for (name, known) in [(certificate, OWN_SVID), (validation, TRUST_BUNDLE)] {
        if let Some(name) = name
            && name != known
        {
            return Err(format!("the secret {name:?} is not known; only {known:?} stands here"));
        }
    }
    Ok(())
}
