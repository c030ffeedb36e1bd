use meshwork_model::proxy::{Discovery, NetworkFilter, PathMatch, RouteAction, RouteSource};

use super::*;

const WEB: &str = include_str!("../../testdata/bootstrap/web.yaml");

fn problems(text: &str) -> Vec<String> {
    parse("web.yaml", text).unwrap_err().iter().map(ToString::to_string).collect()
}

/// Parses the good file with one text replaced, and expects these problems.
fn check(from: &str, to: &str, expected: &[&str]) {
    assert!(WEB.contains(from), "{from}");
    assert_eq!(problems(&WEB.replacen(from, to, 1)), expected, "{to}");
}

#[test]
fn a_file_with_a_listener_a_route_and_a_cluster_is_read() {
    let bootstrap = parse("web.yaml", WEB).unwrap();
    assert_eq!(bootstrap.admin, Some(([127, 0, 0, 1], 0).into()));
    let [Resource::Cluster(cluster), Resource::Listener(listener)] = bootstrap.resources.as_slice() else {
        panic!("{:?}", bootstrap.resources);
    };
    let Discovery::Static(endpoints) = &cluster.discovery else { panic!("{cluster:?}") };
    assert_eq!(endpoints.endpoints[0].address, ([127, 0, 0, 1], 9000).into());
    assert_eq!(listener.address, Some(([127, 0, 0, 1], 8080).into()));
    let NetworkFilter::Http(http) = &listener.chains[0].filter else { panic!("{listener:?}") };
    let RouteSource::Inline(table) = &http.routes else { panic!("{http:?}") };
    let route = &table.hosts()[0].routes[0];
    assert_eq!(route.matches.path, PathMatch::Prefix("/".into()));
    let RouteAction::Forward(forward) = &route.action else { panic!("{route:?}") };
    assert_eq!(forward.timeout, Some(std::time::Duration::from_millis(3500)));
}

#[test]
fn json_is_read_as_well() {
    let tree = yaml::parse("", WEB).unwrap();
    let json = serde_json::to_string_pretty(&tree.to_value()).unwrap();
    assert_eq!(parse("web.yaml", WEB), parse("web.json", &json));
}

#[test]
fn an_unknown_field_is_named_with_its_line_and_what_was_meant() {
    check(
        "timeout: 3.5s",
        "tiemout: 3.5s",
        &[
            "web.yaml:19:50: static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.\
           virtual_hosts[0].routes[0].route.tiemout: RouteAction has no field `tiemout`; did you mean `timeout`?",
        ],
    );
}

#[test]
fn a_field_that_is_not_honoured_is_refused_by_name() {
    check(
        "connect_timeout: 1s",
        "lrs_server: { self: {} }",
        &["web.yaml:26:7: static_resources.clusters[0].lrs_server: `lrs_server` is not supported"],
    );
}

#[test]
fn values_are_refused_with_what_to_write() {
    const HTTP: &str = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config";
    const ENDPOINT: &str =
        "static_resources.clusters[0].load_assignment.endpoints[0].lb_endpoints[0].endpoint";
    check(
        "address: 127.0.0.1, port_value: 9000",
        "address: localhost, port_value: 9000",
        &[&format!(
            "web.yaml:31:58: Cluster app: {ENDPOINT}.address.socket_address.address: `localhost` is not an IP address"
        )],
    );
    check(
        "connect_timeout: 1s",
        "connect_timeout: soon",
        &["web.yaml:26:24: static_resources.clusters[0].connect_timeout: failed to parse duration"],
    );
    check(
        "domains: [\"*\"]",
        "domains: [\"*\", \"*.*\"]",
        &[&format!(
            "web.yaml:16:23: Listener web: {HTTP}.route_config.virtual_hosts[0].domains[1]: `*.*` is no domain; \
             write `*`, `*.example.com`, `example.*` or `example.com`"
        )],
    );
    check(
        "address: 127.0.0.1, port_value: 0",
        "address: 0.0.0.0, port_value: 0",
        &[
            "web.yaml:2:3: admin.address: the admin interface must listen on a loopback address; write 127.0.0.1",
        ],
    );
}

#[test]
fn an_extension_that_is_not_known_is_refused() {
    check(
        "envoy.extensions.filters.http.router.v3.Router",
        "envoy.extensions.filters.http.ruoter.v3.Router",
        &[
            "web.yaml:23:23: static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters[0].\
           typed_config: the extension type `type.googleapis.com/envoy.extensions.filters.http.ruoter.v3.Router` is \
           not supported; did you mean `type.googleapis.com/envoy.extensions.filters.http.router.v3.Router`?",
        ],
    );
}

#[test]
fn an_unknown_filter_may_be_left_out_if_it_is_optional() {
    let filter = "http_filters:\n                  - name: other\n                    is_optional: true\n                    \
                  typed_config: { \"@type\": type.googleapis.com/other.v1.Other, key: value }";
    let bootstrap = parse("web.yaml", &WEB.replace("http_filters:", filter)).unwrap();
    assert_eq!(bootstrap.resources, parse("web.yaml", WEB).unwrap().resources);
}

#[test]
fn problems_are_collected_in_the_order_of_the_file() {
    let text = WEB.replace("domains: [\"*\"]", "domains: []").replace("type: STATIC", "type: ORIGINAL_DST");
    let text = text.replace("connect_timeout: 1s", "connect_timeout: 0s");
    let lines: Vec<String> = problems(&text).iter().map(|problem| problem[..12].to_owned()).collect();
    assert_eq!(lines, ["web.yaml:16:", "web.yaml:26:"]);
}

#[test]
fn names_are_unique() {
    let cluster = WEB[WEB.find("    - name: app").unwrap()..].to_owned();
    assert_eq!(
        problems(&format!("{WEB}{cluster}")),
        ["web.yaml: Cluster app: the name is taken by another; give each its own name"]
    );
}

#[test]
fn what_is_no_yaml_is_refused_with_its_line() {
    let problems = parse("web.yaml", "a: [1,\nb: }").unwrap_err();
    assert!(problems[0].place.is_some(), "{problems:?}");
    assert!(problems[0].message.starts_with("this is not YAML: "), "{problems:?}");
}

const ADS: &str = "node: { id: web-1, cluster: web, locality: { zone: z } }
dynamic_resources:
  ads_config:
    api_type: GRPC
    transport_api_version: V3
    grpc_services:
      - envoy_grpc: { cluster_name: app }
        initial_metadata: [{ key: X-Token, value: secret }]
    set_node_on_first_message_only: true
  cds_config: { ads: {}, resource_api_version: V3, initial_fetch_timeout: 0s }
  lds_config: { ads: {} }
";

#[test]
fn a_control_plane_is_read() {
    let bootstrap = parse("web.yaml", &format!("{ADS}{WEB}")).unwrap();
    assert_eq!(bootstrap.node.locality, ["", "z", ""]);
    let expected = Ads {
        protocol: crate::client::Protocol::StateOfTheWorld,
        cluster: "app".into(),
        authority: "app".into(),
        metadata: vec![("x-token".to_owned(), "secret".to_owned())],
        everything: vec![Kind::Cluster, Kind::Listener],
    };
    assert_eq!(bootstrap.ads, Some(expected));
}

#[test]
fn a_control_plane_that_cannot_be_reached_so_is_refused() {
    let check = |from: &str, to: &str, expected: &str| {
        let text = format!("{ADS}{WEB}");
        assert!(text.contains(from), "{from}");
        let found = problems(&text.replacen(from, to, 1));
        assert!(found.iter().any(|found| found.contains(expected)), "{to}: {found:?}");
    };
    check("api_type: GRPC", "api_type: REST", "write GRPC or DELTA_GRPC");
    check("transport_api_version: V3", "transport_api_version: V2", "write V3");
    check("cluster_name: app", "cluster_name: apq", "there is no static cluster `apq`");
    check("node: { id: web-1, cluster: web", "node: { id: web-1", "write `node:");
    check("  cds_config: { ads: {}", "  cds_config: { path: /x", "only ADS is supported");
    check("value: secret", "value: \"%HOSTNAME%\"", "only plain text");
    check(
        "    set_node",
        "    rate_limit_settings: {}\n    set_node",
        "`rate_limit_settings` is not supported",
    );
}

#[test]
fn what_comes_by_ads_needs_a_control_plane() {
    let text = WEB.replace(
        "name: app\n      connect",
        "name: app\n      type: EDS\n      eds_cluster_config: { eds_config: { ads: {} } }\n      connect",
    );
    let text = text[..text.find("      load_assignment").unwrap()].to_owned();
    let found = problems(&text);
    assert!(found.len() == 1 && found[0].contains("`ads_config`"), "{found:?}");
}

#[test]
fn rows_used_are_those_of_the_file_and_of_what_it_holds() {
    let text = r#"
admin: { address: { socket_address: { address: 127.0.0.1, port_value: 1 } } }
static_resources:
  listeners:
    - filter_chains:
        - filters:
            - typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
                cluster: a
"#;
    let rows = rows_used("a.yaml", text).unwrap();
    for row in [
        "envoy.config.bootstrap.v3.Admin.address",
        "envoy.config.listener.v3.Filter.typed_config",
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.cluster",
    ] {
        assert!(rows.contains(row), "{row}: {rows:?}");
    }
    assert!(!rows.contains("envoy.config.listener.v3.Listener.name"));
}

const SOCKET: &str = "        transport_socket:
            name: tls
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
              require_client_certificate: true
              common_tls_context:
                alpn_protocols: [h2]
                tls_params: { tls_maximum_protocol_version: TLSv1_2, cipher_suites: [ECDHE-RSA-AES128-GCM-SHA256] }
                tls_certificates:
                  - certificate_chain: { filename: chain.pem }
                    private_key: { inline_string: KEY }
                validation_context:
                  trusted_ca: { filename: ca.pem }
                  verify_certificate_hash: [HASH]
                  match_typed_subject_alt_names: [{ san_type: DNS, matcher: { exact: a.example.com } }]
";
const HASH: &str =
    "df:6f:f7:2f:e9:11:65:21:26:8f:6f:2d:d4:96:6f:51:df:47:98:83:fe:70:37:b3:9f:75:91:6a:c3:04:9d:1a";

fn with_tls() -> String {
    let chains = "      filter_chains:\n        - filters:";
    assert!(WEB.contains(chains));
    let socket = SOCKET.replace("HASH", &format!("\"{HASH}\""));
    WEB.replace(chains, &format!("      filter_chains:\n        - {}          filters:", socket.trim_start()))
}

#[test]
fn tls_is_read_with_envoys_meaning() {
    use meshwork_model::proxy::{
        CertificateSource, CipherSuite, DataSource, DownstreamTls, SanKind, TlsVersion,
    };
    let bootstrap = parse("web.yaml", &with_tls()).unwrap_or_else(|problems| panic!("{problems:?}"));
    let Resource::Listener(listener) = &bootstrap.resources[1] else { panic!("{:?}", bootstrap.resources) };
    let Some(DownstreamTls::Context(context)) = &listener.chains[0].tls else { panic!("{listener:?}") };
    assert!(context.require_client_certificate);
    let common = &context.common;
    assert_eq!(common.versions, (TlsVersion::Tls12, TlsVersion::Tls12));
    assert_eq!(common.cipher_suites, [CipherSuite::RsaAes128]);
    let [CertificateSource::Inline(certificate)] = common.certificates.as_slice() else {
        panic!("{common:?}")
    };
    assert_eq!(certificate.chain, DataSource::File("chain.pem".into()));
    let DataSource::Inline(key) = &certificate.key else { panic!("{certificate:?}") };
    assert_eq!(key.open(), b"KEY");
    assert!(!format!("{bootstrap:?}").contains("KEY"), "keys are shown to nobody");
    let rules = &common.validation.as_ref().unwrap().fixed;
    assert_eq!((rules.hashes[0][0], rules.hashes[0][31]), (0xdf, 0x1a));
    assert_eq!(rules.names[0].kind, Some(SanKind::Dns));
}

#[test]
fn tls_that_cannot_be_had_is_refused_by_name() {
    let check = |from: &str, to: &str, expected: &str| {
        let text = with_tls();
        assert!(text.contains(from), "{from}");
        let found = problems(&text.replacen(from, to, 1));
        assert!(found.iter().any(|found| found.contains(expected)), "{to}: {found:?}");
    };
    check("TLSv1_2", "TLSv1_1", "versions older than 1.2 are not spoken");
    check("ECDHE-RSA-AES128-GCM-SHA256", "AES128-SHA", "`AES128-SHA` is not supported");
    check("cipher_suites", "signature_algorithms", "`signature_algorithms` is not supported");
    check("private_key: { inline_string: KEY }", "password: { inline_string: p }", "without a password");
    check("private_key: { inline_string: KEY }", "watched_directory: { path: . }", "a chain and its key");
    check("san_type: DNS", "san_type: OTHER_NAME", "names of this kind are not supported");
    check("trusted_ca: { filename: ca.pem }", "allow_expired_certificate: true", "no authority is trusted");
    check(HASH, "ab", "`ab` is no SHA-256");
    check(
        "trusted_ca: {",
        "max_verify_depth: 1\n                  trusted_ca: {",
        "`max_verify_depth` is not supported",
    );
}

#[test]
fn secrets_stand_in_the_file_or_in_files_of_their_own() {
    let file = "resources: [{ \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret, name: c, \
                validation_context: { trusted_ca: { filename: ca.pem } } }]";
    let update = secrets("/etc/sds.yaml", file).unwrap();
    assert_eq!(update.upserts[0].name(), "file:/etc/sds.yaml#c");
    let found = secrets("/etc/sds.yaml", &file.replace("trusted_ca", "trusted_cb")).unwrap_err();
    assert!(found[0].to_string().contains("did you mean `trusted_ca`?"), "{found:?}");
    let named = |name: &str| {
        WEB.replace("static_resources:", &format!("static_resources:\n  secrets: [{{ name: {name}, validation_context: {{ trusted_ca: {{ filename: ca.pem }} }} }}]"))
    };
    assert_eq!(parse("web.yaml", &named("c")).unwrap().resources[0].name(), "static:c");
    assert!(problems(&named("ROOTCA"))[0].contains("the workload's own identity"));
}
