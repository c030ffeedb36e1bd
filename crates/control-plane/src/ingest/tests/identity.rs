//! Who may be whom: registrations of workloads, and other trust domains.

use meshwork_model::mesh::{BundleProof, Key};

use super::*;

/// The root of `partner.example`.
const ROOT: &str = include_str!("partner.pem");

fn registration(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: meshwork.dev/v1alpha1\nkind: WorkloadRegistration\nmetadata: {{ name: {name}, namespace: {namespace} \
         }}\nspec: {{ {spec} }}\n"
    )
}

/// What is said of a text, without file, place and resource.
fn said(text: &str) -> Vec<String> {
    let line = |p: &Problem| {
        let fix = if p.fix.is_empty() { String::new() } else { format!("; {}", p.fix) };
        let severity = if p.severity == Severity::Warning { "warning: " } else { "" };
        format!("{severity}{}: {}{fix}", p.field, p.message)
    };
    load(&[("a.yaml", text)]).problems.iter().map(line).collect()
}

const AGENTS: &str = "serviceAccount: web, agents: [shop/host-agent]";

#[test]
fn a_workload_is_registered_by_what_the_kernel_tells_of_it() {
    let digest = "AB".repeat(32);
    let text = registration(
        "web",
        "shop",
        &format!(
            "{AGENTS}, selectors: {{ uid: 1000, gid: 0, executable: /usr/bin/web, sha256: {digest} }}, hint: web"
        ),
    );
    let loaded = load(&[("a.yaml", &text)]);
    assert_eq!(loaded.problems, []);
    let read = loaded.config.registrations.get(&Key::new("shop", "web")).expect("read");
    let identity = read.identity("mesh.local").expect("an identity");
    assert_eq!(identity.as_str(), "spiffe://mesh.local/ns/shop/sa/web");
    assert_eq!(read.agents, [("shop".into(), "host-agent".into())]);
    assert_eq!((read.selectors.uid, read.selectors.gid), (Some(1000), Some(0)));
    assert_eq!(read.selectors.executable.as_deref(), Some("/usr/bin/web"));
    assert_eq!(read.selectors.sha256.as_deref(), Some(&*digest.to_lowercase()));
    assert_eq!(read.hint.as_deref(), Some("web"));
}

#[test]
fn a_registration_is_whole_or_refused() {
    let check = |spec: &str, expected: &[&str]| {
        let text = registration("web", "shop", spec);
        assert_eq!(said(&text), expected, "{spec}");
        let is_read = !load(&[("a.yaml", &text)]).config.registrations.is_empty();
        assert_eq!(is_read, expected.is_empty(), "{spec}");
    };
    check(&format!("{AGENTS}, selectors: {{ gid: 7 }}"), &[]);
    check(
        "",
        &[
            "spec.serviceAccount: the field `serviceAccount` is missing",
            "spec.agents: the field `agents` is missing",
            "spec.selectors: the field `selectors` is missing",
        ],
    );
    check(
        &format!("{AGENTS}, selectors: {{}}"),
        &[
            "spec.selectors: nothing is said of the process, so that every one of the host would be the workload; Write \
           `uid`, `gid`, `executable` or `sha256`",
        ],
    );
    check(
        "serviceAccount: Web_1, agents: [shop/a], selectors: { uid: 1 }",
        &[
            "spec.serviceAccount: \"Web_1\" is not the name of a service account; Use a-z, 0-9 and '-', with a letter or \
           digit at both ends",
        ],
    );
    for agent in ["host-agent", "shop/a/b", "Shop/a", "/a", "spiffe://mesh.local/ns/shop/sa/a", "\"*/a\""] {
        let found = format!(
            "spec.agents[0]: \"{}\" is not an agent; Write it as NAMESPACE/SERVICEACCOUNT",
            agent.trim_matches('"')
        );
        check(&format!("serviceAccount: web, agents: [{agent}], selectors: {{ uid: 1 }}"), &[&found]);
    }
    check(
        "serviceAccount: web, agents: [], selectors: { uid: 1 }",
        &[
            "spec.agents: no agent may attest the workload; Name the agent of its host as NAMESPACE/SERVICEACCOUNT",
        ],
    );
    for path in ["web", "./web", "/usr/../web", "/usr//web", "/usr/", "/"] {
        let found = format!(
            "spec.selectors.executable: \"{path}\" is not the whole path of a file; Write it as /usr/bin/web: where the \
             file itself is, not a link to it"
        );
        check(&format!("{AGENTS}, selectors: {{ uid: 1, executable: {path} }}"), &[&found]);
    }
    let short = "ab".repeat(31);
    for digest in [&*short, "x", &"g".repeat(64)] {
        let found = format!(
            "spec.selectors.sha256: expected 64 hexadecimal digits, found \"{digest}\"; Write what `sha256sum` prints of \
             the executable"
        );
        check(&format!("{AGENTS}, selectors: {{ sha256: \"{digest}\" }}"), &[&found]);
    }
    check(
        &format!("{AGENTS}, selectors: {{ uid: 4294967295, pid: 7 }}"),
        &[
            "spec.selectors.uid: expected a number from 0 to 4294967294, found the number 4294967295",
            "spec.selectors.pid: there is no field `pid`; Did you mean `gid`?",
        ],
    );
}

#[test]
fn nobody_is_registered_as_the_control_plane() {
    let text = registration("web", "meshwork-system", &format!("{AGENTS}, selectors: {{ uid: 1 }}"));
    assert_eq!(
        said(&text),
        [
            "metadata.namespace: the identities of meshwork-system belong to the control plane; Put it into the namespace \
          of the workload"
        ]
    );
    assert!(load(&[("a.yaml", &text)]).config.registrations.is_empty());
}

#[test]
fn a_process_that_is_taken_for_two_is_warned_of() {
    let one = |name: &str, account: &str, agent: &str, uid: u32| {
        registration(
            name,
            "shop",
            &format!("serviceAccount: {account}, agents: [{agent}], selectors: {{ uid: {uid} }}"),
        )
    };
    let check = |second: &str, expected: &[&str]| {
        assert_eq!(said(&format!("{}---\n{second}", one("a", "web", "shop/host", 1))), expected, "{second}");
    };
    check(
        &one("b", "db", "shop/host", 1),
        &[
            "warning: spec.selectors: the WorkloadRegistration shop/a has the same selectors for one of these agents: its \
           processes are told both identities, that one first; Select them by something that only one of the two has, as \
           its executable",
        ],
    );
    check(&one("b", "db", "shop/host", 2), &[]);
    check(&one("b", "db", "shop/other", 1), &[]);
    check(&one("b", "web", "shop/host", 1), &[]);
}

#[test]
fn agents_of_another_namespace_are_named_by_their_leave() {
    let named = registration("ledger", "bank", &format!("{AGENTS}, selectors: {{ uid: 1 }}"));
    assert_eq!(
        said(&named),
        [
            "warning: spec.agents[0]: no ReferenceGrant of the namespace `shop` lets a WorkloadRegistration of `bank` name its \
          agent `host-agent`, so that the agent is not told; Add one there, from WorkloadRegistration (group \
          meshwork.dev) to ServiceAccount (group \"\")"
        ]
    );
    let grant = "---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: { name: agents, \
                 namespace: shop }\nspec: { from: [{ group: meshwork.dev, kind: WorkloadRegistration, namespace: bank }], \
                 to: [{ group: \"\", kind: ServiceAccount, name: host-agent }] }\n";
    assert_eq!(said(&format!("{named}{grant}")), [""; 0]);
}

fn mesh_config(domains: &str) -> String {
    format!(
        "apiVersion: meshwork.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{ name: default, namespace: meshwork-system }}\n\
         spec:\n  trustDomain: mesh.local\n  federatedTrustDomains:\n{domains}"
    )
}

/// The root, as the block of a field.
fn block() -> String {
    ROOT.lines().flat_map(|line| ["        ", line, "\n"]).collect()
}

#[test]
fn trust_domains_are_federated_by_bundle_or_endpoint() {
    let text = mesh_config(&format!(
        "    - trustDomain: partner.example\n      bundle: |\n{}      bundleEndpoint: {{ url: \
         \"https://bundle.partner.example:8443/\", profile: https_spiffe, spiffeId: spiffe://partner.example/server }}\n    \
         - {{ trustDomain: other.example, bundleEndpoint: {{ url: \"https://other.example\", profile: https_web }} }}\n",
        block()
    ));
    let loaded = load(&[("a.yaml", &text)]);
    assert_eq!(loaded.problems, []);
    let [partner, other] = &loaded.config.defaults.federated[..] else { panic!("two") };
    assert_eq!(&*partner.trust_domain, "partner.example");
    assert!(partner.bundle.as_deref().is_some_and(|bundle| bundle.starts_with("-----BEGIN")));
    let endpoint = partner.endpoint.as_ref().expect("an endpoint");
    assert_eq!(
        (&*endpoint.url.host, endpoint.url.port, &*endpoint.url.path),
        ("bundle.partner.example", 8443, "/")
    );
    assert!(matches!(&endpoint.proof, BundleProof::Spiffe(id) if id.trust_domain() == "partner.example"));
    assert_eq!(other.bundle, None);
    assert_eq!(other.endpoint.as_ref().map(|endpoint| &endpoint.proof), Some(&BundleProof::Web));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of mistakes")]
fn a_federated_trust_domain_is_whole_or_refused() {
    let check = |domain: &str, expected: &[&str]| {
        let text = mesh_config(&format!("    - {{ {domain} }}\n"));
        assert_eq!(said(&text), expected, "{domain}");
    };
    let at = |what: &str| format!("spec.federatedTrustDomains[0]{what}");
    check(
        "trustDomain: partner.example",
        &[&at(
            ": nothing says which authorities the trust domain has; Write `bundle`, or `bundleEndpoint`, or both",
        )],
    );
    let web = "bundleEndpoint: { url: \"https://a.example/\", profile: https_web }";
    check(&format!("trustDomain: partner.example, {web}"), &[]);
    check(
        &format!("trustDomain: spiffe://partner.example, {web}"),
        &[&at(
            ".trustDomain: \"spiffe://partner.example\" is not a trust domain; Write it as partner.example, without \
               spiffe:// and without a path",
        )],
    );
    check(
        &format!("trustDomain: mesh.local, {web}"),
        &[&at(
            ".trustDomain: mesh.local is the mesh's own trust domain; Leave it out: it is trusted in any case",
        )],
    );
    check(
        "trustDomain: partner.example, bundle: nothing",
        &[&at(
            ".bundle: this is no bundle of partner.example: no usable certificate in the PEM text; Write what the trust \
               domain's bundle endpoint answers, or its root certificates as PEM",
        )],
    );
    for url in
        ["http://a.example/", "https://user@a.example/", "https://a.example/#b", "a.example", "file:///a"]
    {
        check(
            &format!(
                "trustDomain: partner.example, bundleEndpoint: {{ url: \"{url}\", profile: https_web }}"
            ),
            &[&at(&format!(
                ".bundleEndpoint.url: \"{url}\" is not the address of a bundle; Write it as \
                 https://bundle.partner.example/, without a user and without a fragment"
            ))],
        );
    }
    let spiffe = |rest: &str| {
        format!(
            "trustDomain: partner.example, bundleEndpoint: {{ url: \"https://a.example/\", profile: https_spiffe{rest} }}"
        )
    };
    check(
        &spiffe(""),
        &[&at(
            ".bundleEndpoint.spiffeId: the field `spiffeId` is missing; Write the identity of who serves the bundle",
        )],
    );
    check(
        &spiffe(", spiffeId: \"spiffe://partner.example/server\""),
        &[&at(
            ".bundleEndpoint.spiffeId: the endpoint proves this by a bundle of partner.example, which nobody has yet; \
               Write its first bundle in `bundle`; it is kept up to date from then on",
        )],
    );
    check(
        &spiffe(", spiffeId: \"spiffe://third.example/server\""),
        &[&at(
            ".bundleEndpoint.spiffeId: the trust domain third.example is not federated, so that nobody proves this; \
               Write that trust domain as well",
        )],
    );
    check(&spiffe(", spiffeId: \"spiffe://mesh.local/server\""), &[]);
    check(
        "trustDomain: partner.example, bundleEndpoint: { url: \"https://a.example/\", profile: https_web, spiffeId: \
         \"spiffe://partner.example/server\" }",
        &[&at(
            ".bundleEndpoint.spiffeId: by https_web, the endpoint proves its host and no identity; Leave it out, or use \
               the profile \"https_spiffe\"",
        )],
    );
    let twice = format!("trustDomain: partner.example, {web}");
    assert_eq!(
        said(&mesh_config(&format!("    - {{ {twice} }}\n    - {{ {twice} }}\n"))),
        [
            "spec.federatedTrustDomains[1].trustDomain: the trust domain partner.example is there already; Write each once"
        ]
    );
}
