//! What a proxy tells about itself, read by those who will read it.

use std::io::Write;
use std::process::{Command, Stdio};

use e2e::mesh::Mesh;
use e2e::{eventually, http};

#[test]
fn prometheus_reads_the_metrics_and_the_access_log_is_json() {
    let mesh = Mesh::start(&[]);
    let admin = mesh.address("web-sidecar", "--admin").expect("an admin address");
    let text = http::get(admin, "/metrics").expect("metrics").text();
    assert!(text.contains("istio_requests_total{"), "{text}");
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool: cargo xtask peers");
    promtool.stdin.take().expect("stdin").write_all(text.as_bytes()).expect("written");
    let checked = promtool.wait_with_output().expect("promtool ends");
    // 3 is a remark on style: Istio's own name of its histogram has milliseconds in it.
    assert!(matches!(checked.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&checked.stderr));

    let log = mesh.arguments("web-sidecar", "--access-log").first().cloned().expect("an access log");
    eventually("requests are logged", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let mut lines = text.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
        lines.any(|l| {
            l["response_code"] == 200 && l["config_version"].is_string() && l["request_id"].is_string()
        })
    });
}
