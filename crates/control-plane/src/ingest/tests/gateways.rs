//! Problems of gateways and of what belongs to them.

use super::*;

fn gateway(listeners: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: edge, namespace: shop }}\n\
         spec: {{ gatewayClassName: meshwork, listeners: [{listeners}] }}\n"
    )
}

fn problems(text: &str) -> Vec<String> {
    let loaded = load(&[("a.yaml", text)]);
    loaded.problems.iter().map(|p| format!("{}: {}", p.field, p.message)).collect()
}

#[test]
fn listeners_are_told_apart() {
    let check = |listeners: &str, expected: &[&str]| {
        let found: Vec<String> =
            problems(&gateway(listeners)).iter().map(|p| p.replace("spec.listeners", "")).collect();
        assert_eq!(found, expected, "{listeners}");
    };
    check("{ name: a, port: 80, protocol: HTTP }", &[]);
    check(
        "{ name: a, port: 80, protocol: HTTP }, { name: b, port: 80, protocol: HTTP, hostname: b.example }",
        &[],
    );
    check(
        "{ name: a, port: 80, protocol: HTTP }, { name: a, port: 81, protocol: HTTP }",
        &["[1]: there is a listener a already"],
    );
    check(
        "{ name: a, port: 80, protocol: HTTP }, { name: b, port: 80, protocol: HTTP }",
        &["[1]: the listener a has this port and hostname already"],
    );
    check(
        "{ name: a, port: 80, protocol: HTTP }, { name: b, port: 80, protocol: TCP }",
        &["[1]: the listener a speaks something else on this port"],
    );
    check(
        "{ name: a, port: 80, protocol: UDP }, { name: b, protocol: HTTP }",
        &["[0].protocol: \"UDP\" is not supported yet", "[1].port: the field `port` is missing"],
    );
    check(
        "{ name: a, port: 80, protocol: HTTP, hostname: 10.0.0.1 }",
        &["[0].hostname: \"10.0.0.1\" is not a hostname"],
    );
}

#[test]
fn tls_ends_by_a_certificate_or_passes_through() {
    let check = |protocol: &str, tls: &str, expected: &[&str]| {
        let listener = format!("{{ name: a, port: 443, protocol: {protocol}, {tls} }}");
        let found: Vec<String> =
            problems(&gateway(&listener)).iter().map(|p| p.replace("spec.listeners[0].", "")).collect();
        assert_eq!(found, expected, "{listener}");
    };
    check("HTTPS", "tls: { certificateRefs: [{ name: c }] }", &[]);
    check("TLS", "tls: { mode: Passthrough }", &[]);
    check("HTTPS", "tls: { mode: Passthrough }", &["tls: HTTPS ends here: it cannot pass through"]);
    check("HTTPS", "", &["tls: the field `tls` is missing"]);
    check("HTTPS", "tls: {}", &["tls.certificateRefs: TLS that ends here needs a certificate"]);
    check("HTTP", "tls: { certificateRefs: [{ name: c }] }", &["tls: this protocol has no TLS"]);
    check(
        "HTTPS",
        "tls: { certificateRefs: [{ kind: ConfigMap, name: c }, { name: ../../etc }, { name: c }] }",
        &[
            "tls.certificateRefs[0]: a certificate is a Secret",
            "tls.certificateRefs[1]: this is no name of a Secret",
        ],
    );
}

#[test]
fn routes_that_no_listener_takes_are_told() {
    let route = |parent: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: r, namespace: bank }}\n\
             spec: {{ parentRefs: [{{ namespace: shop, {parent} }}], rules: [{{}}] }}\n"
        )
    };
    let open = "{ name: a, port: 80, protocol: HTTP, allowedRoutes: { namespaces: { from: All } } }, \
                { name: b, port: 81, protocol: HTTP }";
    let check = |parent: &str, expected: &[&str]| {
        assert_eq!(problems(&format!("{}{}", gateway(open), route(parent))), expected, "{parent}");
    };
    check("name: edge", &[]);
    check("name: egde", &["spec.parentRefs[0]: there is no Gateway `egde` in the namespace `shop`"]);
    check("name: edge, port: 82", &["spec.parentRefs[0]: the Gateway `edge` has no such listener"]);
    check(
        "name: edge, sectionName: b",
        &["spec.parentRefs[0]: no listener of the Gateway `edge` takes HTTPRoutes of `bank`"],
    );
}

#[test]
fn private_keys_are_refused() {
    let secret = |data: &str| {
        format!("apiVersion: v1\nkind: Secret\nmetadata: {{ name: s }}\ntype: kubernetes.io/tls\n{data}\n")
    };
    check(&secret("data: { tls.crt: YQ== }"), &[]);
    let found = problems(&secret("data: { tls.crt: YQ==, tls.key: YQ== }"));
    assert_eq!(found, ["data.tls.key: a private key has no place in the control plane"]);
}

#[test]
fn policies_of_backends_say_who_is_trusted() {
    let check = |validation: &str, expected: &[&str]| {
        let text = with_cart(&format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{ name: b, namespace: shop }}\n\
             spec: {{ targetRefs: [{{ group: \"\", kind: Service, name: cart }}], validation: {{ {validation} }} }}\n"
        ));
        let found: Vec<String> = problems(&text).iter().map(|p| p.replace("spec.validation.", "")).collect();
        assert_eq!(found, expected, "{validation}");
    };
    check("hostname: a.example, wellKnownCACertificates: System", &[]);
    check("hostname: a.example, caCertificateRefs: [{ group: \"\", kind: ConfigMap, name: ca }]", &[]);
    check(
        "hostname: a.example",
        &[
            "caCertificateRefs: exactly one of `caCertificateRefs` and `wellKnownCACertificates` says who is trusted",
        ],
    );
    check(
        "hostname: a.example, caCertificateRefs: [{ group: \"\", kind: Secret, name: ca }]",
        &["caCertificateRefs[0].kind: authorities are in a ConfigMap"],
    );
    check(
        "hostname: a.example, wellKnownCACertificates: System, subjectAltNames: [{ type: URI, hostname: a }]",
        &["subjectAltNames[0].type: the type and the name do not fit"],
    );
}
