//! gRPC's xDS bootstrap: the identity in PEM files that gRPC reads again every few seconds.
//!
//! gRPC reads key and chain one after the other; they are replaced together, by one rename: the names in the
//! directory are links through `.current`, which points to a directory with one consistent set.
//!
//! Source: gRFC A27 (bootstrap), A29 (`certificate_providers`), A65 (mTLS to the xDS server).

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use meshwork_identity::{Bundle, IdentityError, IdentitySource, Trust, files};
use serde_json::{Map, Value, json};

use super::{Node, write_on_change};

const BOOTSTRAP: &str = "bootstrap.json";
const CHAIN: &str = "cert-chain.pem";
const KEY: &str = "key.pem";
const ROOTS: &str = "bundle.pem";
/// Links to the set of files in force.
const CURRENT: &str = ".current";
/// How the directories of sets begin.
const SET: &str = ".set-";
/// The roots of each trust domain, for gRPC that knows SPIFFE: there it counts before the other file. Source: gRFC A87.
const BUNDLE_MAP: &str = "bundles.json";
/// How often gRPC looks at the files: a new root must be known to it soon after it is to us.
const REFRESH: &str = "2s";

/// What a proxyless gRPC client or server needs to join as one workload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GrpcBootstrap {
    /// The workload.
    pub node: Node,
    /// Where the control plane listens.
    pub control_plane: SocketAddr,
}

impl GrpcBootstrap {
    /// Writes the bootstrap and the PEM files into a directory; gives the path for `GRPC_XDS_BOOTSTRAP`.
    ///
    /// # Errors
    /// A file that cannot be written, or a directory without an absolute path.
    pub fn write(&self, dir: &Path, identity: &IdentitySource) -> Result<PathBuf, IdentityError> {
        files::open_private_dir(dir)?;
        let dir = dir.canonicalize().map_err(failed("resolve", dir))?;
        write_set(&dir, identity)?;
        let is_federated = identity.trust().federated().next().is_some();
        for name in [CHAIN, KEY, ROOTS].into_iter().chain(is_federated.then_some(BUNDLE_MAP)) {
            link(&Path::new(CURRENT).join(name), &dir.join(name))?;
        }
        let path = dir.join(BOOTSTRAP);
        let text = format!("{:#}\n", self.json(&dir, is_federated));
        files::write_private(&path, text.as_bytes())?;
        Ok(path)
    }

    /// Replaces the PEM files whenever the identity changes, for ever.
    ///
    /// # Cancel safety
    /// May be dropped at any time: the set is replaced whole.
    pub async fn keep_fresh(&self, dir: &Path, identity: &Arc<IdentitySource>) {
        write_on_change(identity, |identity| write_set(dir, identity)).await;
    }

    /// The file of bundles is named only where there are others than ours: without it all is as for a gRPC that does not
    /// know it.
    fn json(&self, dir: &Path, is_federated: bool) -> Value {
        let path = |name: &str| dir.join(name).display().to_string();
        let mut files = json!({
            "certificate_file": path(CHAIN),
            "private_key_file": path(KEY),
            "ca_certificate_file": path(ROOTS),
            "refresh_interval": REFRESH,
        });
        let own = files.clone();
        if is_federated {
            files["spiffe_trust_bundle_map_file"] = json!(path(BUNDLE_MAP));
        }
        json!({
            "xds_servers": [{
                "server_uri": self.control_plane.to_string(),
                "channel_creds": [{"type": "tls", "config": own}],
                "server_features": ["xds_v3"],
            }],
            "node": {
                "id": self.node.id(),
                "cluster": self.node.cluster(),
                "metadata": self.node.metadata(),
            },
            "certificate_providers": {"default": {"plugin_name": "file_watcher", "config": files}},
            "server_listener_resource_name_template": "grpc/server?xds.resource.listening_address=%s",
        })
    }
}

/// Writes a new set aside, points to it, and removes all others.
fn write_set(dir: &Path, identity: &IdentitySource) -> Result<(), IdentityError> {
    let svid = identity.svid();
    let name = format!("{SET}{}-{:08x}", svid.serial(), fastrand::u32(..));
    let set = dir.join(&name);
    files::create_private_dir(&set)?;
    files::write_private(&set.join(CHAIN), svid.chain_pem().as_bytes())?;
    files::write_private(&set.join(KEY), svid.key_pem().as_bytes())?;
    let trust = identity.trust();
    files::write_private(&set.join(ROOTS), trust.own().pem().as_bytes())?;
    files::write_private(&set.join(BUNDLE_MAP), bundle_map(&trust)?.as_bytes())?;
    link(Path::new(&name), &dir.join(CURRENT))?;
    remove_other_sets(dir, &name)
}

/// The roots of all trust domains, without the keys of tokens, which some readers refuse.
fn bundle_map(trust: &Trust) -> Result<String, IdentityError> {
    let document = |bundle: &Bundle| {
        let roots = Bundle::of_trust_domain(bundle.trust_domain(), &bundle.pem())?;
        Ok((bundle.trust_domain().to_owned(), roots.to_document(1, None)))
    };
    let all = [trust.own()].into_iter().chain(trust.federated()).filter(|bundle| !bundle.pem().is_empty());
    let domains = all.map(document).collect::<Result<Map<String, Value>, IdentityError>>()?;
    Ok(json!({ "trust_domains": domains }).to_string())
}

/// Removes the last set, and what a killed process may have left.
fn remove_other_sets(dir: &Path, keep: &str) -> Result<(), IdentityError> {
    for entry in fs::read_dir(dir).map_err(failed("read", dir))? {
        let entry = entry.map_err(failed("read", dir))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(SET) && name != keep {
            fs::remove_dir_all(entry.path()).map_err(failed("remove", &entry.path()))?;
        }
    }
    Ok(())
}

/// Makes or replaces a link, atomically.
fn link(target: &Path, path: &Path) -> Result<(), IdentityError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!(".{name}.new"));
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &aside)(error)),
        _ => {}
    }
    symlink(target, &aside).map_err(failed("link", &aside))?;
    fs::rename(&aside, path).map_err(failed("link", path))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::File { action, path, source }
}
