//! The commands that need no mesh.

use std::process::{Command, Output};

/// Runs a command that ends by itself; one that does not is ended by `timeout`, and fails with code 124.
fn run(arguments: &[&str]) -> Output {
    Command::new("timeout").arg("60").arg(e2e::binary()).args(arguments).output().expect("the binary")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn every_command_has_a_help_text() {
    let help = text(&run(&["--help"]).stdout);
    for command in [
        "demo",
        "control-plane",
        "apply",
        "diff",
        "get",
        "delete",
        "history",
        "rollback",
        "watch",
        "status",
        "schema",
        "man",
        "api-token",
        "token",
        "run",
        "check",
        "sidecar",
        "proxy",
        "envoy-bootstrap",
        "grpc-bootstrap",
        "diagram",
        "edges",
        "validate",
        "explain",
        "completions",
    ] {
        assert!(help.contains(command), "{command}: {help}");
        let output = run(&[command, "--help"]);
        assert!(output.status.success() && text(&output.stdout).contains("Usage"), "{command}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(text(&run(&["completions", shell]).stdout).contains("meshwork"), "{shell}");
    }
}

#[test]
fn the_shop_is_valid() {
    let shop = e2e::root().join("examples/shop");
    let output = run(&["validate", &shop.to_string_lossy()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn the_examples_of_traffic_are_valid() {
    let traffic = e2e::root().join("examples/traffic");
    let output = run(&["validate", "-o", "json", &traffic.to_string_lossy()]);
    assert!(output.status.success(), "{} {}", text(&output.stdout), text(&output.stderr));
    let problems = e2e::json(&text(&output.stdout));
    assert_eq!(problems.as_array().map(Vec::len), Some(0), "{problems:#}");
}

#[test]
fn a_wrong_file_is_refused_with_file_line_field_and_fix() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("route.yaml");
    let config = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: r, namespace: shop }\nspec:\n  parentRefs:\n    - { kind: Service, group: \"\", name: nowhere }\n  rules:\n    - backendRfes: []\n";
    std::fs::write(&file, config).expect("written");
    let output = run(&["validate", &dir.path().to_string_lossy()]);
    let errors = text(&output.stderr);
    assert!(!output.status.success());
    for part in ["route.yaml:8", "backendRfes", "backendRefs", "nowhere"] {
        assert!(errors.contains(part), "{part}: {errors}");
    }
    let output = run(&["validate", "-o", "json", &dir.path().to_string_lossy()]);
    let problems: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(problems.as_array().is_some_and(|p| p.iter().any(|p| p["line"] == 8)), "{problems:#}");
}

#[test]
fn a_bootstrap_field_that_we_do_not_honour_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("envoy.yaml");
    let good = std::fs::read_to_string(e2e::root().join("e2e/testdata/one-hop.yaml")).expect("the file");
    let good = good.replace("$LISTEN", "0").replace("$ADMIN", "0").replace("$ORIGIN", "1");
    std::fs::write(
        &file,
        good.replace(
            "codec_type: HTTP1",
            "codec_type: HTTP1\n                path_normalization_options: {}",
        ),
    )
    .expect("written");
    let output = run(&["proxy", "-c", &file.to_string_lossy()]);
    let errors = text(&output.stderr);
    assert!(!output.status.success());
    assert!(errors.contains("path_normalization_options") && errors.contains("envoy.yaml"), "{errors}");
}

#[test]
fn reasons_are_explained() {
    let output = run(&["explain", "mw0401"]);
    assert!(text(&output.stdout).contains("AuthorizationPolicy"));
    assert!(!run(&["explain", "MW9999"]).status.success());
}
