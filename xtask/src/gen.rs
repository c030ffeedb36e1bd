//! Generates `crates/xds/src/descriptors.bin`, the descriptors of Envoy's messages that we read and write, from them
//! and the support table `docs/envoy-support.md`; and `docs/limits.md`, `docs/cli.md`, `docs/reasons.md`, `docs/schemas/`.
//!
//! Source: the `.proto` files that the `envoy-types` crate carries, so that descriptors and compiled types are of
//! one version. What the roots do not reach is trimmed, and so are comments and options.

pub(crate) mod limits;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use prost::Message as _;
use prost_types::field_descriptor_proto::Type;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldOptions, FileDescriptorProto, FileDescriptorSet,
    MessageOptions,
};

/// The folders below the crate's `proto` from which imports are resolved.
const INCLUDES: [&str; 7] = [
    "data-plane-api",
    "xds",
    "googleapis",
    "protoc-gen-validate",
    "client_model",
    "opentelemetry-proto",
    "cel-spec/proto",
];

/// Files with messages that are carried in an `Any`, or that start everything.
const FILES: &[&str] = &[
    "envoy/config/bootstrap/v3/bootstrap.proto",
    "envoy/config/cluster/v3/cluster.proto",
    "envoy/config/endpoint/v3/endpoint.proto",
    "envoy/config/listener/v3/listener.proto",
    "envoy/config/route/v3/route.proto",
    "envoy/extensions/access_loggers/file/v3/file.proto",
    "envoy/extensions/access_loggers/stream/v3/stream.proto",
    "envoy/extensions/filters/http/buffer/v3/buffer.proto",
    "envoy/extensions/filters/http/cors/v3/cors.proto",
    "envoy/extensions/filters/http/ext_authz/v3/ext_authz.proto",
    "envoy/extensions/filters/http/fault/v3/fault.proto",
    "envoy/extensions/filters/http/header_mutation/v3/header_mutation.proto",
    "envoy/extensions/filters/http/health_check/v3/health_check.proto",
    "envoy/extensions/filters/http/jwt_authn/v3/config.proto",
    "envoy/extensions/filters/http/local_ratelimit/v3/local_rate_limit.proto",
    "envoy/extensions/filters/http/ratelimit/v3/rate_limit.proto",
    "envoy/extensions/filters/http/rbac/v3/rbac.proto",
    "envoy/extensions/filters/http/router/v3/router.proto",
    "envoy/extensions/filters/listener/http_inspector/v3/http_inspector.proto",
    "envoy/extensions/filters/listener/original_dst/v3/original_dst.proto",
    "envoy/extensions/filters/listener/proxy_protocol/v3/proxy_protocol.proto",
    "envoy/extensions/filters/listener/tls_inspector/v3/tls_inspector.proto",
    "envoy/extensions/filters/network/connection_limit/v3/connection_limit.proto",
    "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto",
    "envoy/extensions/filters/network/rbac/v3/rbac.proto",
    "envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.proto",
    "envoy/extensions/filters/udp/dns_filter/v3/dns_filter.proto",
    "envoy/extensions/formatter/req_without_query/v3/req_without_query.proto",
    "envoy/extensions/load_balancing_policies/cluster_provided/v3/cluster_provided.proto",
    "envoy/extensions/load_balancing_policies/least_request/v3/least_request.proto",
    "envoy/extensions/load_balancing_policies/maglev/v3/maglev.proto",
    "envoy/extensions/load_balancing_policies/random/v3/random.proto",
    "envoy/extensions/load_balancing_policies/ring_hash/v3/ring_hash.proto",
    "envoy/extensions/load_balancing_policies/round_robin/v3/round_robin.proto",
    "envoy/extensions/load_balancing_policies/subset/v3/subset.proto",
    "envoy/extensions/load_balancing_policies/wrr_locality/v3/wrr_locality.proto",
    "envoy/extensions/rbac/principals/mtls_authenticated/v3/mtls_authenticated.proto",
    "envoy/extensions/request_id/uuid/v3/uuid.proto",
    "envoy/extensions/retry/host/omit_canary_hosts/v3/omit_canary_hosts.proto",
    "envoy/extensions/retry/host/omit_host_metadata/v3/omit_host_metadata_config.proto",
    "envoy/extensions/retry/host/previous_hosts/v3/previous_hosts.proto",
    "envoy/extensions/retry/priority/previous_priorities/v3/previous_priorities_config.proto",
    "envoy/extensions/transport_sockets/raw_buffer/v3/raw_buffer.proto",
    "envoy/extensions/transport_sockets/tls/v3/secret.proto",
    "envoy/extensions/transport_sockets/tls/v3/tls.proto",
    "envoy/extensions/upstreams/http/v3/http_protocol_options.proto",
    "envoy/service/discovery/v3/discovery.proto",
];

/// The messages from which all others are reached.
const ROOTS: &[&str] = &[
    "envoy.config.bootstrap.v3.Bootstrap",
    "envoy.config.cluster.v3.Cluster",
    "envoy.config.endpoint.v3.ClusterLoadAssignment",
    "envoy.config.listener.v3.Listener",
    "envoy.config.route.v3.FilterConfig",
    "envoy.config.route.v3.RouteConfiguration",
    "envoy.extensions.access_loggers.file.v3.FileAccessLog",
    "envoy.extensions.access_loggers.stream.v3.StderrAccessLog",
    "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
    "envoy.extensions.filters.http.buffer.v3.Buffer",
    "envoy.extensions.filters.http.buffer.v3.BufferPerRoute",
    "envoy.extensions.filters.http.cors.v3.Cors",
    "envoy.extensions.filters.http.cors.v3.CorsPolicy",
    "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
    "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
    "envoy.extensions.filters.http.fault.v3.HTTPFault",
    "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
    "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute",
    "envoy.extensions.filters.http.health_check.v3.HealthCheck",
    "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
    "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig",
    "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
    "envoy.extensions.filters.http.ratelimit.v3.RateLimit",
    "envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute",
    "envoy.extensions.filters.http.rbac.v3.RBAC",
    "envoy.extensions.filters.http.rbac.v3.RBACPerRoute",
    "envoy.extensions.filters.http.router.v3.Router",
    "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
    "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
    "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
    "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
    "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    "envoy.extensions.filters.network.rbac.v3.RBAC",
    "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
    "envoy.extensions.filters.udp.dns_filter.v3.DnsFilterConfig",
    "envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery",
    "envoy.extensions.load_balancing_policies.cluster_provided.v3.ClusterProvided",
    "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
    "envoy.extensions.load_balancing_policies.maglev.v3.Maglev",
    "envoy.extensions.load_balancing_policies.random.v3.Random",
    "envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash",
    "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
    "envoy.extensions.load_balancing_policies.subset.v3.Subset",
    "envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality",
    "envoy.extensions.rbac.principals.mtls_authenticated.v3.Config",
    "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig",
    "envoy.extensions.retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate",
    "envoy.extensions.retry.host.omit_host_metadata.v3.OmitHostMetadataConfig",
    "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
    "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
    "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
    "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
    "envoy.extensions.transport_sockets.tls.v3.Secret",
    "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    "envoy.service.discovery.v3.DeltaDiscoveryResponse",
    "envoy.service.discovery.v3.DiscoveryResponse",
];

/// Where the descriptors go, from the workspace's root.
const OUTPUT: &str = "crates/xds/src/descriptors.bin";

/// Generates everything anew.
///
/// # Errors
/// `envoy-types` or one of its files is missing, or a file does not compile.
pub(crate) fn run() -> Result<()> {
    let metadata = cargo_metadata()?;
    let protos = envoy_types(&metadata)?.join("proto");
    let includes: Vec<PathBuf> = INCLUDES.iter().map(|folder| protos.join(folder)).collect();
    let compiled = compile(&includes)?;
    let trimmed = trim(compiled)?;
    let root = metadata["workspace_root"].as_str().context("cargo metadata names no workspace root")?;
    limits::write(Path::new(root))?;
    let output = Path::new(root).join(OUTPUT);
    std::fs::write(&output, trimmed.encode_to_vec())
        .with_context(|| format!("writing {}", output.display()))?;
    documentation()
}

/// Compiles each file on its own: names in it are looked up among what it imports, not among what others do.
fn compile(includes: &[PathBuf]) -> Result<FileDescriptorSet> {
    let mut all = BTreeMap::new();
    for file in FILES {
        let mut compiler = protox::Compiler::new(includes)?;
        compiler.include_imports(true).include_source_info(false);
        compiler.open_file(file).with_context(|| format!("compiling {file}"))?;
        let compiled = compiler.file_descriptor_set().file;
        all.extend(compiled.into_iter().map(|file| (file.name().to_owned(), file)));
    }
    Ok(FileDescriptorSet { file: all.into_values().collect() })
}

/// Has the crates' own golden tests write the documentation: what it is made of is linked there, not here.
fn documentation() -> Result<()> {
    for (package, target, tests) in
        [("meshwork-xds", "--lib", "support::"), ("meshwork", "--bins", "cli::pages::")]
    {
        let arguments = ["test", "--quiet", "--package", package, target, tests];
        let status = Command::new("cargo").args(arguments).env("UPDATE", "1").status()?;
        if !status.success() {
            bail!("the tests {tests} of {package}, which write documentation, fail");
        }
    }
    Ok(())
}

fn cargo_metadata() -> Result<serde_json::Value> {
    let output = Command::new("cargo").args(["metadata", "--format-version", "1"]).output()?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The folder of the `envoy-types` crate.
fn envoy_types(metadata: &serde_json::Value) -> Result<PathBuf> {
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let manifest = packages
        .iter()
        .find(|package| package["name"] == "envoy-types")
        .and_then(|package| package["manifest_path"].as_str())
        .context("the workspace does not depend on envoy-types")?;
    Ok(Path::new(manifest).parent().context("a manifest has a folder")?.to_owned())
}

/// A message or an enum, and where it is.
#[derive(Default)]
struct Index {
    /// For each full name: the types that its fields have.
    uses: BTreeMap<String, Vec<String>>,
    /// For each full name: the file that defines it.
    file: BTreeMap<String, String>,
}

impl Index {
    fn of(set: &FileDescriptorSet) -> Self {
        let mut index = Self::default();
        for file in &set.file {
            let package = file.package();
            for message in &file.message_type {
                index.add_message(package, file.name(), message);
            }
            for item in &file.enum_type {
                index.add(package, file.name(), item.name(), Vec::new());
            }
        }
        index
    }

    fn add(&mut self, scope: &str, file: &str, name: &str, uses: Vec<String>) {
        let full = join(scope, name);
        self.file.insert(full.clone(), file.to_owned());
        self.uses.insert(full, uses);
    }

    fn add_message(&mut self, scope: &str, file: &str, message: &DescriptorProto) {
        let uses = message.field.iter().filter_map(|field| field.type_name.as_deref());
        self.add(scope, file, message.name(), uses.map(strip_dot).collect());
        let full = join(scope, message.name());
        for nested in &message.nested_type {
            self.add_message(&full, file, nested);
        }
        for nested in &message.enum_type {
            self.add(&full, file, nested.name(), Vec::new());
        }
    }

    /// Everything that the roots reach.
    fn reached(&self) -> Result<BTreeSet<String>> {
        let mut reached = BTreeSet::new();
        let mut open: Vec<String> = ROOTS.iter().map(|&root| root.to_owned()).collect();
        while let Some(name) = open.pop() {
            let uses = self.uses.get(&name).with_context(|| format!("no message or enum named {name}"))?;
            if reached.insert(name) {
                open.extend(uses.iter().cloned());
            }
        }
        Ok(reached)
    }
}

fn join(scope: &str, name: &str) -> String {
    format!("{scope}.{name}")
}

fn strip_dot(name: &str) -> String {
    name.trim_start_matches('.').to_owned()
}

/// Drops what the roots do not reach, and all that reflection does not need.
fn trim(set: FileDescriptorSet) -> Result<FileDescriptorSet> {
    let index = Index::of(&set);
    let reached = index.reached()?;
    let files = set.file.into_iter().map(|file| trim_file(file, &index, &reached));
    Ok(FileDescriptorSet {
        file: files.filter(|f| !f.message_type.is_empty() || !f.enum_type.is_empty()).collect(),
    })
}

fn trim_file(file: FileDescriptorProto, index: &Index, reached: &BTreeSet<String>) -> FileDescriptorProto {
    let package = file.package().to_owned();
    let name = file.name().to_owned();
    let message_type: Vec<DescriptorProto> = file
        .message_type
        .into_iter()
        .filter_map(|message| trim_message(message, &package, reached))
        .collect();
    let mut needed = BTreeSet::new();
    for message in &message_type {
        dependencies(message, index, &mut needed);
    }
    needed.remove(&name);
    FileDescriptorProto {
        name: Some(name),
        dependency: needed.into_iter().collect(),
        message_type,
        enum_type: trim_enums(file.enum_type, &package, reached),
        package: file.package,
        syntax: file.syntax,
        ..FileDescriptorProto::default()
    }
}

/// Keeps a message that is reached whole; one that only holds a reached one, as an empty shell.
fn trim_message(
    message: DescriptorProto,
    scope: &str,
    reached: &BTreeSet<String>,
) -> Option<DescriptorProto> {
    let full = join(scope, message.name());
    let whole = reached.contains(&full);
    let nested_type: Vec<DescriptorProto> =
        message.nested_type.into_iter().filter_map(|nested| trim_message(nested, &full, reached)).collect();
    let enum_type = trim_enums(message.enum_type, &full, reached);
    if !whole && nested_type.is_empty() && enum_type.is_empty() {
        return None;
    }
    let map_entry = message.options.as_ref().and_then(|options| options.map_entry);
    let mut trimmed = DescriptorProto {
        name: message.name,
        nested_type,
        enum_type,
        options: map_entry
            .map(|entry| MessageOptions { map_entry: Some(entry), ..MessageOptions::default() }),
        ..DescriptorProto::default()
    };
    if whole {
        trimmed.field = message.field;
        trimmed.oneof_decl = message.oneof_decl;
        for field in &mut trimmed.field {
            field.options = field.options.take().and_then(|options| trim_field_options(&options));
            field.json_name = None;
        }
        for oneof in &mut trimmed.oneof_decl {
            oneof.options = None;
        }
    }
    Some(trimmed)
}

fn trim_field_options(options: &FieldOptions) -> Option<FieldOptions> {
    if options.deprecated.is_none() && options.packed.is_none() {
        return None;
    }
    Some(FieldOptions { deprecated: options.deprecated, packed: options.packed, ..FieldOptions::default() })
}

fn trim_enums(
    enums: Vec<EnumDescriptorProto>,
    scope: &str,
    reached: &BTreeSet<String>,
) -> Vec<EnumDescriptorProto> {
    let kept = enums.into_iter().filter(|item| reached.contains(&join(scope, item.name())));
    kept.map(|mut item| {
        for value in &mut item.value {
            value.options = None;
        }
        let alias = item.options.take().and_then(|options| options.allow_alias);
        item.options =
            alias.map(|alias| prost_types::EnumOptions { allow_alias: Some(alias), ..Default::default() });
        item
    })
    .collect()
}

/// The files in which the types of a message's fields are.
fn dependencies(message: &DescriptorProto, index: &Index, needed: &mut BTreeSet<String>) {
    for field in &message.field {
        if matches!(field.r#type(), Type::Message | Type::Enum | Type::Group)
            && let Some(file) = index.file.get(&strip_dot(field.type_name()))
        {
            needed.insert(file.clone());
        }
    }
    for nested in &message.nested_type {
        dependencies(nested, index, needed);
    }
}
