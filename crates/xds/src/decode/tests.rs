//! What is refused of the fields that say where connections were meant to go, and how names are looked up.

use crate::bootstrap;

/// The first problem of a bootstrap whose only resource this is.
fn check(kind: &str, resource: &str, expected: &str) {
    let indented = resource.replace('\n', "\n      ");
    let text = format!("static_resources:\n  {kind}:\n    -\n      {indented}\n");
    let problems = bootstrap::parse("web.yaml", &text).err().unwrap_or_default();
    let first =
        problems.first().map(|p| format!("{}: {}; {}", p.field, p.message, p.fix)).unwrap_or_default();
    assert!(
        if expected.is_empty() { first.is_empty() } else { first.contains(expected) },
        "{resource}\n{first}"
    );
}

const UDP: &str = "name: names
address: {socket_address: {protocol: UDP, address: 127.0.0.1, port_value: 53}}
";

fn names(domains: &str) -> String {
    format!(
        "{UDP}listener_filters:
- name: dns
  typed_config:
    '@type': type.googleapis.com/envoy.extensions.filters.udp.dns_filter.v3.DnsFilterConfig
    stat_prefix: dns
    server_config: {{inline_dns_table: {{virtual_domains: [{domains}]}}}}
"
    )
}

#[test]
fn a_table_of_names_says_what_it_cannot_honour() {
    let check = |domains: &str, expected: &str| check("listeners", &names(domains), expected);
    check("", "");
    check("{name: A.b., endpoint: {address_list: {address: [240.0.0.1]}}}", "");
    check("{name: '*.b', endpoint: {address_list: {address: [240.0.0.1]}}}", "wildcards");
    check(
        "{name: a, endpoint: {address_list: {address: [cart]}}}",
        "address[0]: `cart` is not an IP address",
    );
    check("{name: a, endpoint: {address_list: {address: []}}}", "a name needs an address");
    check("{name: a, endpoint: {cluster_name: cart}}", "write `address_list`");
    check("{name: a, answer_ttl: 1s, endpoint: {address_list: {address: [240.0.0.1]}}}", "30 s at least");
    let a = "{name: a, endpoint: {address_list: {address: [240.0.0.1]}}}";
    check(&format!("{a}, {a}"), "listed twice");
    let b = "{name: b, answer_ttl: 30s, endpoint: {address_list: {address: [240.0.0.1]}}}";
    check(&format!("{a}, {b}"), "kept for the same time");
    super::tests::check("listeners", UDP, "a UDP listener answers for names");
    super::tests::check("listeners", &format!("{}use_original_dst: true\n", names("")), "not for UDP");
}

#[test]
fn what_leads_elsewhere_says_what_it_cannot_honour() {
    let check = |rest: &str, expected: &str| {
        check("clusters", &format!("name: c\nconnect_timeout: 1s\n{rest}"), expected);
    };
    let endpoint = |address: &str| {
        format!("{{endpoint: {{address: {{socket_address: {{address: {address}, port_value: 443}}}}}}}}")
    };
    let at = |kind: &str, endpoints: &str| {
        format!(
            "type: {kind}\nload_assignment: {{cluster_name: c, endpoints: [{{lb_endpoints: [{endpoints}]}}]}}\n"
        )
    };
    check(&at("LOGICAL_DNS", &endpoint("api.example.com")), "");
    check(&at("LOGICAL_DNS", &endpoint("10.0.0.1")), "");
    check(&at("STRICT_DNS", &endpoint("api.example.com")), "");
    check(&at("STATIC", &endpoint("api.example.com")), "is not an IP address");
    check(&at("LOGICAL_DNS", &endpoint("'a b'")), "neither a host name nor an IP address");
    let two = format!("{}, {}", endpoint("a.example.com"), endpoint("b.example.com"));
    check(&at("LOGICAL_DNS", &two), "there is one endpoint");
    check("type: ORIGINAL_DST\nlb_policy: CLUSTER_PROVIDED\n", "");
    check("type: ORIGINAL_DST\n", "write CLUSTER_PROVIDED");
    check(&format!("lb_policy: CLUSTER_PROVIDED\n{}", at("STATIC", &endpoint("10.0.0.1"))), "balancing");
    check(
        &format!("lb_policy: CLUSTER_PROVIDED\n{}", at("ORIGINAL_DST", &endpoint("10.0.0.1"))),
        "leave it out",
    );
    let from = |source: &str| {
        format!("{}upstream_bind_config: {{source_address: {source}}}\n", at("STATIC", &endpoint("10.0.0.1")))
    };
    check(&from("{address: 198.18.0.2, port_value: 0, network_namespace_filepath: workload}"), "");
    check(&from("{address: 198.18.0.2, port_value: 0}"), "write `workload`");
    check(
        &from("{address: 127.0.0.1, port_value: 0, network_namespace_filepath: workload}"),
        "write 198.18.0.2",
    );
}

#[test]
fn listeners_by_original_destination_say_what_they_cannot_honour() {
    let tcp = "filters: [{name: tcp, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: c}}]";
    let check = |rest: &str, matches: &str, expected: &str| {
        let at = "name: l\naddress: {socket_address: {address: 127.0.0.1, port_value: 0}}\n";
        let text = format!("{at}filter_chains:\n- filter_chain_match: {{{matches}}}\n  {tcp}\n{rest}");
        check("listeners", &text, expected);
    };
    let original = "listener_filters: [{name: o, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst}}]\n";
    check("use_original_dst: true\nbind_to_port: false\n", "", "");
    check(&format!("use_original_dst: true\n{original}"), "", "");
    check(original, "", "");
    let namespace = "additional_addresses: [{address: {socket_address: {address: '::1', port_value: 0, network_namespace_filepath: /x}}}]\n";
    check(namespace, "", "only `upstream_bind_config` may name one");
    check("", "server_names: [A.example.com, '*.example.com']", "");
    check("", "server_names: ['*']", "is no server name");
    check("", "server_names: ['w*.example.com']", "is no server name");
}
