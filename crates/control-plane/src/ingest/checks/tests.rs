use super::super::read_texts;
use meshwork_model::problem::{Code, Problem};

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: { name: cart, namespace: shop }
spec: { selector: { app: cart }, ports: [{ name: http, port: 80 }, { name: http-b, port: 81 }] }
";

/// The problems of one code, each as one line without its file.
fn check(code: Code, text: &str, expected: &[&str]) {
    let loaded = read_texts([("a.yaml".to_owned(), format!("{SERVICES}{text}"))].into());
    let of_code = loaded.problems.iter().filter(|problem| problem.code == code);
    let found: Vec<String> =
        of_code.map(|p| Problem { file: String::new(), ..p.clone() }.to_string()).collect();
    assert_eq!(found, expected, "{text}\n{:#?}", loaded.problems);
}

fn http(name: &str, namespace: &str, port: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: {name}, namespace: \
         {namespace} }}\nspec:\n  parentRefs: [{{ group: \"\", kind: Service, name: cart, namespace: shop{port} }}]\n  \
         rules: [{rules}]\n"
    )
}

const TO_CART: &str = "backendRefs: [{ name: cart, port: 80 }]";

fn rule(path: &str) -> String {
    format!("{{ matches: [{{ path: {{ value: {path} }} }}], {TO_CART} }}")
}

#[test]
fn a_rule_whose_match_another_has_never_acts() {
    let two = http("a", "shop", "", &format!("{}, {}", rule("/a"), rule("/a/")));
    check(
        Code::Shadowed,
        &two,
        &[
            "HTTPRoute shop/a: spec.rules[1]: the rule spec.rules[0] matches all that this rule does, and goes before it; \
           Make that one narrower, or take one of them out",
        ],
    );
    let apart = http("a", "shop", "", &format!("{}, {}", rule("/a"), rule("/b")));
    check(Code::Shadowed, &apart, &[]);
    let of_two = http("a", "shop", "", &rule("/a")) + &http("b", "shop", ", port: 80", &rule("/a"));
    check(
        Code::Shadowed,
        &of_two,
        &[
            "HTTPRoute shop/b: spec.rules[0]: the rule spec.rules[0] of the HTTPRoute shop/a matches all that this rule \
           does, and goes before it; Make that one narrower, or take one of them out",
        ],
    );
}

#[test]
fn rules_that_act_elsewhere_shadow_nothing() {
    let ports = http("a", "shop", ", port: 80", &rule("/a")) + &http("b", "shop", ", port: 81", &rule("/a"));
    check(Code::Shadowed, &ports, &[]);
    // Those of a consumer act on its own callers only.
    let grant = "---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: { name: g, namespace: \
                 shop }\nspec: { from: [], to: [] }\n";
    let consumer = http("a", "shop", "", &rule("/a")) + &http("b", "web", "", &rule("/a")) + grant;
    check(Code::Shadowed, &consumer, &[]);
}

fn virtual_service(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: {name}, namespace: {namespace} \
         }}\nspec:\n  hosts: [cart.shop.svc.cluster.local]\n{spec}"
    )
}

const ROUTE: &str = "route: [{ destination: { host: cart.shop.svc.cluster.local, port: { number: 80 } } }]";

#[test]
fn rules_behind_one_for_all_never_act() {
    let rules = |first: &str, second: &str| {
        virtual_service(
            "v",
            "shop",
            &format!("  http:\n    - {{ {first}{ROUTE} }}\n    - {{ {second}{ROUTE} }}\n"),
        )
    };
    let shadowed = "VirtualService shop/v: spec.http[1]: the rule spec.http[0] matches all that this rule does, and goes \
                    before it; Make that one narrower, or take one of them out";
    check(Code::Shadowed, &rules("", "match: [{ uri: { prefix: /a } }], "), &[shadowed]);
    check(
        Code::Shadowed,
        &rules("match: [{ uri: { prefix: /a } }], ", "match: [{ uri: { exact: /ab } }], "),
        &[shadowed],
    );
    check(Code::Shadowed, &rules("match: [{ uri: { prefix: /a } }], ", ""), &[]);
    check(
        Code::Shadowed,
        &rules(
            "match: [{ uri: { prefix: /a }, method: { exact: GET } }], ",
            "match: [{ uri: { exact: /ab } }], ",
        ),
        &[],
    );
}

#[test]
fn two_namespaces_do_not_claim_one_host() {
    let rule = format!("  http: [{{ {ROUTE} }}]\n");
    let one = virtual_service("v", "shop", &rule);
    let other = virtual_service("w", "web", &rule);
    check(
        Code::ClaimedTwice,
        &format!("{one}{other}"),
        &[
            "VirtualService web/w: spec.hosts[0]: the VirtualService shop/v of another namespace says what becomes of the \
           Service shop/cart already; Leave it to one of them, or keep them apart by `exportTo`",
        ],
    );
    let own = |namespace: &str| virtual_service("v", namespace, &format!("  exportTo: [\".\"]\n{rule}"));
    check(Code::ClaimedTwice, &format!("{}{}", own("shop"), own("web")), &[]);
    // Its own says what becomes of a namespace's requests, and keeps nobody else from saying it for all others.
    check(Code::ClaimedTwice, &format!("{}{}", own("web"), virtual_service("w", "shop", &rule)), &[]);
    let to =
        |namespace: &str, to: &str| virtual_service("v", namespace, &format!("  exportTo: [{to}]\n{rule}"));
    check(Code::ClaimedTwice, &format!("{}{}", to("shop", "\".\", web"), to("web", "\".\", shop")), &[]);
    check(
        Code::ClaimedTwice,
        &format!("{}{}", to("shop", "bank, web"), to("web", "bank")),
        &[
            "VirtualService web/v: spec.hosts[0]: the VirtualService shop/v of another namespace says what becomes of the \
           Service shop/cart already; Leave it to one of them, or keep them apart by `exportTo`",
        ],
    );
}

#[test]
fn a_policy_for_labels_that_nothing_called_has_is_told() {
    let policy = |labels: &str| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{ name: p, namespace: shop \
             }}\nspec: {{ selector: {{ matchLabels: {{ {labels} }} }}, rules: [{{}}] }}\n"
        )
    };
    let told = "AuthorizationPolicy shop/p: spec.selector.matchLabels: no Service selects workloads with the labels \
                app=crat; Correct the labels: as it is, the policy acts on nothing that is called";
    check(Code::SelectsNothing, &policy("app: crat"), &[told]);
    check(Code::SelectsNothing, &policy("app: cart"), &[]);
    check(Code::SelectsNothing, &policy("app: cart, version: v2"), &[]);
    // By other labels, workloads may be known to nobody but their tokens.
    check(Code::SelectsNothing, &policy("team: payments"), &[]);
    check(Code::SelectsNothing, &policy("meshwork.dev/service: wares"), &[]);
}
