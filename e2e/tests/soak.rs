//! Long and heavy: run by `cargo xtask soak`.

use std::time::{Duration, Instant};

use e2e::eventually;
use e2e::mesh::Mesh;

#[test]
#[ignore = "soak: four minutes"]
fn nothing_fails_while_the_control_plane_is_killed_ten_times() {
    let mesh = Mesh::start(&["--for", "200s", "--rate", "250"]);
    let start = Instant::now();
    for _ in 0..10 {
        let before = mesh.pid("control-plane");
        mesh.kill("control-plane");
        eventually("the control plane is back", || {
            mesh.pid("control-plane") != before && mesh.api("/api/v1/proxies").is_some()
        });
        std::thread::sleep(Duration::from_secs(10));
    }
    // What is left of the run outlasts the usual deadline of a wait.
    std::thread::sleep(Duration::from_mins(3).saturating_sub(start.elapsed()));
    let (status, report) = mesh.finish();
    assert!(status.success(), "{status} {report:#}");
    assert_eq!(report["failures"], 0, "{report:#}");
    assert_eq!(report["mtls_share"], 1.0, "{report:#}");
}
