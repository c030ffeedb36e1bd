//! A whole mesh for a test: the demo, as a user runs it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use serde_json::Value;
use tempfile::TempDir;

use crate::program::{Program, output};
use crate::{eventually, http};

/// A running demo.
pub struct Mesh {
    demo: Program,
    dir: TempDir,
}

impl Mesh {
    /// Starts a demo and waits until traffic flows.
    pub fn start(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("mesh");
        let folder = folder.to_string_lossy();
        let report = dir.path().join("report.json");
        let report = report.to_string_lossy();
        let mut all = vec!["demo", "--dir", &folder, "--report", &report];
        all.extend(arguments);
        let demo = Program::meshwork("demo", dir.path(), all);
        let mut mesh = Self { demo, dir };
        eventually("traffic flows in the demo", || {
            assert!(mesh.demo.alive(), "the demo ended early: {}", mesh.demo.output());
            mesh.folder().join("run/control-plane.pid").exists() && mesh.edge("web", "cart").is_some()
        });
        mesh
    }

    /// The demo's folder.
    pub fn folder(&self) -> PathBuf {
        self.dir.path().join("mesh")
    }

    /// A folder for the test's own files, which goes with the mesh.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// A config file of the shop.
    pub fn config(&self, name: &str) -> PathBuf {
        self.folder().join("config").join(name)
    }

    /// The id of a process, by its name in the demo.
    pub fn pid(&self, name: &str) -> Option<u32> {
        std::fs::read_to_string(self.folder().join("run").join(format!("{name}.pid")))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// The ids of all processes of the mesh, the demo itself included.
    pub fn pids(&self) -> Vec<u32> {
        let files = std::fs::read_dir(self.folder().join("run")).expect("a folder");
        let names = files.filter_map(|f| Some(f.ok()?.path().file_stem()?.to_string_lossy().into_owned()));
        names.filter_map(|name| self.pid(&name)).chain([self.demo.id()]).collect()
    }

    /// The values of an option in a process's command line.
    pub fn arguments(&self, process: &str, option: &str) -> Vec<String> {
        let Some(id) = self.pid(process) else { return Vec::new() };
        let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let words: Vec<_> =
            line.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
        words.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1].clone()).collect()
    }

    /// The address in the only value of an option.
    pub fn address(&self, process: &str, option: &str) -> Option<SocketAddr> {
        self.arguments(process, option).first()?.parse().ok()
    }

    /// GETs JSON from the control plane's API; `None` while it does not answer.
    pub fn api(&self, path: &str) -> Option<Value> {
        let answer = http::get(self.address("control-plane", "--api")?, path).ok()?;
        (answer.status == 200).then(|| serde_json::from_slice(&answer.body).ok()).flatten()
    }

    /// The edge from a workload to a service that has carried requests.
    pub fn edge(&self, from: &str, to: &str) -> Option<Value> {
        let edges = self.api("/api/v1/edges")?;
        edges.as_array()?.iter().find(|e| e["from"] == from && e["to"] == to && e["requests"] != 0).cloned()
    }

    /// The arguments with which a further workload enrols: a new token, the control plane, a state folder.
    pub fn enrolment(&self, account: &str, workload: &str, app: &str) -> Vec<String> {
        let state = self.folder().join("state/control-plane");
        let file = self.scratch().join(format!("{workload}.token"));
        write_token(&state, &file, [account, workload, app]);
        let control_plane = self.address("control-plane", "--listen").expect("a control plane").to_string();
        let path = |p: PathBuf| p.to_string_lossy().into_owned();
        let mut arguments = vec!["--control-plane".to_owned(), control_plane];
        arguments.extend(["--trust-bundle".to_owned(), path(state.join("bundle.pem"))]);
        arguments.extend(["--state".to_owned(), path(self.scratch().join(format!("{workload}.state")))]);
        arguments.extend([
            "--workload".to_owned(),
            workload.to_owned(),
            "--token-file".to_owned(),
            path(file),
        ]);
        arguments
    }

    /// Kills a process of the mesh as `kill -9` does.
    pub fn kill(&self, name: &str) {
        let id = self.pid(name).expect("a process of this name");
        output(Command::new("kill").args(["-9", &id.to_string()]));
    }

    /// Kills the demo itself as `kill -9` does.
    pub fn kill_demo(&mut self) {
        self.demo.kill();
    }

    /// Asks the demo to end, and gives its report.
    pub fn stop(mut self) -> (ExitStatus, Value) {
        let status = self.demo.terminate();
        (status, self.report())
    }

    /// Waits until a demo with `--for` has ended, and gives its report.
    pub fn finish(mut self) -> (ExitStatus, Value) {
        let mut status = None;
        eventually("the demo ends by itself", || {
            status = self.demo.ended();
            status.is_some()
        });
        (status.expect("a status"), self.report())
    }

    fn report(&self) -> Value {
        let text = std::fs::read_to_string(self.scratch().join("report.json"));
        let text = text.unwrap_or_else(|e| panic!("no report: {e}; {}", self.demo.output()));
        serde_json::from_str(&text).expect("JSON")
    }
}

/// Makes a join token of the namespace `shop` for a service account, a workload and its label `app`.
pub fn write_token(state: &Path, file: &Path, [account, workload, app]: [&str; 3]) {
    let token = output(
        Command::new(crate::binary())
            .args([
                "token",
                "create",
                "--namespace",
                "shop",
                "--service-account",
                account,
                "--workload",
                workload,
            ])
            .args(["--label", &format!("app={app}"), "--state"])
            .arg(state),
    );
    std::fs::write(file, token).expect("a token file");
}
