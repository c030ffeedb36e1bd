//! Envoy's bootstrap: ADS over mTLS, the identity by file SDS.
//!
//! Source: envoy.config.bootstrap.v3.Bootstrap; Envoy's "Secret discovery service", file-based.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use meshwork_identity::{Bundle, IdentityError, IdentitySource, SpiffeId, Trust, files};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{Node, write_on_change};

const BOOTSTRAP: &str = "bootstrap.yaml";
/// The SDS name of the SVID is `default`, the file is called after it; so are the roots, `ROOTCA`.
const SVID: &str = "default.yaml";
const ROOTS: &str = "ROOTCA.yaml";

/// What Envoy needs to join as the data plane of one workload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EnvoyBootstrap {
    /// The workload.
    pub node: Node,
    /// Where the control plane listens.
    pub control_plane: SocketAddr,
    /// Who the control plane is.
    pub server: SpiffeId,
    /// Where Envoy's admin interface listens.
    pub admin: SocketAddr,
}

impl EnvoyBootstrap {
    /// Writes the bootstrap and the secrets into a directory; gives the path for `envoy -c`.
    ///
    /// # Errors
    /// A file that cannot be written, or a directory without an absolute path.
    pub fn write(&self, dir: &Path, identity: &IdentitySource) -> Result<PathBuf, IdentityError> {
        files::open_private_dir(dir)?;
        let dir = dir.canonicalize().map_err(|source| file_error("resolve", dir, source))?;
        write_secrets(&dir, identity)?;
        let path = dir.join(BOOTSTRAP);
        files::write_private(&path, self.text(&dir).as_bytes())?;
        Ok(path)
    }

    /// Writes the secrets anew whenever the identity changes, for ever. Envoy watches the directory.
    ///
    /// # Cancel safety
    /// May be dropped at any time: each file is replaced whole.
    pub async fn keep_fresh(&self, dir: &Path, identity: &Arc<IdentitySource>) {
        write_on_change(identity, |identity| write_secrets(dir, identity)).await;
    }

    fn text(&self, dir: &Path) -> String {
        let mut metadata = self.node.metadata();
        metadata["SDS_DIR"] = json!(dir.display().to_string());
        TEMPLATE
            .replace("@ID@", &quoted(&self.node.id()))
            .replace("@CLUSTER@", &quoted(&self.node.cluster()))
            .replace("@METADATA@", &metadata.to_string())
            .replace("@ADMIN@", &socket_address(self.admin))
            .replace("@CONTROL_PLANE@", &socket_address(self.control_plane))
            .replace("@SERVER@", &quoted(self.server.as_str()))
            .replace("@SVID@", &quoted(&dir.join(SVID).display().to_string()))
            .replace("@ROOTS@", &quoted(&dir.join(ROOTS).display().to_string()))
            .replace("@DIR@", &quoted(&dir.display().to_string()))
    }
}

fn write_secrets(dir: &Path, identity: &IdentitySource) -> Result<(), IdentityError> {
    let svid = identity.svid();
    let key = svid.key_pem();
    // Roots first: what is signed under a new one is not shown before it.
    files::write_private(&dir.join(ROOTS), roots(&identity.trust()).as_bytes())?;
    let chain = SVID_TEMPLATE.replace("@CHAIN@", &quoted(&svid.chain_pem()));
    let (before, after) = chain.split_once("@KEY@").unwrap_or((chain.as_str(), ""));
    // As long as it will be: growing it would leave a copy of the key behind.
    let mut secret = Zeroizing::new(String::with_capacity(chain.len() + 2 * key.len()));
    secret.push_str(before);
    push_quoted(&key, &mut secret);
    secret.push_str(after);
    files::write_private(&dir.join(SVID), secret.as_bytes())
}

/// As [`quoted`], of PEM text, which has nothing to escape but its line breaks.
fn push_quoted(pem: &str, into: &mut String) {
    into.push('"');
    for (at, line) in pem.split('\n').enumerate() {
        into.push_str(if at == 0 { "" } else { "\\n" });
        into.push_str(line);
    }
    into.push('"');
}

/// Whom Envoy believes: our own roots; with federated trust domains, each peer by the roots of its own.
fn roots(trust: &Trust) -> String {
    if trust.federated().next().is_none() {
        return ROOTS_TEMPLATE.replace("@ROOTS@", &quoted(&trust.own().pem()));
    }
    let domain = |bundle: &Bundle| json!({"name": bundle.trust_domain(), "trust_bundle": {"inline_string": bundle.pem()}});
    let domains: Vec<Value> = [trust.own()].into_iter().chain(trust.federated()).map(domain).collect();
    DOMAINS_TEMPLATE.replace("@DOMAINS@", &Value::from(domains).to_string())
}

/// A JSON string, which is a YAML string, too.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn socket_address(address: SocketAddr) -> String {
    format!("{{address: {}, port_value: {}}}", quoted(&address.ip().to_string()), address.port())
}

fn file_error(action: &'static str, path: &Path, source: std::io::Error) -> IdentityError {
    IdentityError::File { action, path: path.to_owned(), source }
}

const TEMPLATE: &str = r#"# Joins this Envoy to the mesh. Written by `meshwork envoy-bootstrap`; the secrets beside it are kept fresh.
node:
  id: @ID@
  cluster: @CLUSTER@
  metadata: @METADATA@
admin:
  address:
    socket_address: @ADMIN@
dynamic_resources:
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services:
    - envoy_grpc:
        cluster_name: xds
        retry_policy:
          retry_back_off: {base_interval: 0.25s, max_interval: 5s}
  lds_config: {resource_api_version: V3, ads: {}}
  cds_config: {resource_api_version: V3, ads: {}}
static_resources:
  clusters:
  - name: xds
    type: STATIC
    connect_timeout: 5s
    load_assignment:
      cluster_name: xds
      endpoints:
      - lb_endpoints:
        - endpoint:
            address:
              socket_address: @CONTROL_PLANE@
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config:
          http2_protocol_options:
            connection_keepalive: {interval: 10s, timeout: 10s}
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context:
          tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}
          alpn_protocols: [h2]
          tls_certificate_sds_secret_configs:
          - name: default
            sds_config:
              resource_api_version: V3
              path_config_source: {path: @SVID@, watched_directory: {path: @DIR@}}
          combined_validation_context:
            default_validation_context:
              match_typed_subject_alt_names:
              - san_type: URI
                matcher: {exact: @SERVER@}
            validation_context_sds_secret_config:
              name: ROOTCA
              sds_config:
                resource_api_version: V3
                path_config_source: {path: @ROOTS@, watched_directory: {path: @DIR@}}
"#;

const SVID_TEMPLATE: &str = r#"resources:
- "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
  name: default
  tls_certificate:
    certificate_chain: {inline_string: @CHAIN@}
    private_key: {inline_string: @KEY@}
"#;

const ROOTS_TEMPLATE: &str = r#"resources:
- "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
  name: ROOTCA
  validation_context:
    trusted_ca: {inline_string: @ROOTS@}
"#;

const DOMAINS_TEMPLATE: &str = r#"resources:
- "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
  name: ROOTCA
  validation_context:
    custom_validator_config:
      name: envoy.tls.cert_validator.spiffe
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig
        trust_domains: @DOMAINS@
"#;
