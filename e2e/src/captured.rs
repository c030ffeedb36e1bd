//! A mesh of unmodified programs, all of it an ordinary user's: a control plane, and what `meshwork run` puts into it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::drill::Api;
use crate::leftovers::{Trace, VARIABLE};
use crate::program::Program;
use crate::{eventually, free_address, http, user};

/// The namespace of everything in these tests.
pub const NAMESPACE: &str = "shop";

/// The config of a Service whose HTTP port is that of the workload of the same name.
pub fn service(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name}, namespace: {NAMESPACE} }}\n\
         spec: {{ selector: {{ app: {name} }}, ports: [{{ name: http, port: 80, targetPort: 8080 }}] }}\n---\n"
    )
}

/// A running control plane, and a folder for what belongs to it.
pub struct Mesh {
    control_plane: Program,
    listen: SocketAddr,
    api: SocketAddr,
    trace: Trace,
    dir: TempDir,
    /// What the control plane is told beside the usual.
    arguments: Vec<String>,
    environment: Environment,
}

/// How long a command may take.
const COMMAND_SECONDS: &str = "180";

/// Variables of programs, beside the usual.
type Environment = Vec<(String, String)>;

impl Mesh {
    /// Starts a control plane with this config.
    pub fn start(config: &str) -> Self {
        Self::start_with(config, &[])
    }

    /// Starts a control plane with this config and further arguments.
    pub fn start_with(config: &str, arguments: &[&str]) -> Self {
        Self::start_in(config, arguments, &[])
    }

    /// The same, where all programs of the mesh have further variables in their environment.
    pub fn start_in(config: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("meshwork-e2e-").tempdir().expect("a folder");
        for folder in ["config", "home", "tmp", "state", "peers"] {
            std::fs::create_dir(dir.path().join(folder)).expect("a folder");
        }
        std::fs::write(dir.path().join("config/mesh.yaml"), config).expect("config");
        let binary = dir.path().join("meshwork");
        // Another file system takes no link.
        if std::fs::hard_link(crate::binary(), &binary).is_err() {
            user::copy(&crate::binary(), &binary);
        }
        user::give(dir.path());
        let (listen, api) = (free_address(), free_address());
        let trace = Trace::new(&dir.path().to_string_lossy());
        let arguments: Vec<_> = arguments.iter().map(|&a| a.to_owned()).collect();
        let environment = environment.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        let environment: Environment = environment.collect();
        let control_plane =
            control_plane(dir.path(), "control-plane", [listen, api], &arguments, &environment);
        Self { control_plane, listen, api, trace, dir, arguments, environment }
    }

    /// The folder of everything here.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a config file in one step; it takes effect by itself.
    pub fn configure(&self, name: &str, yaml: &str) {
        let new = self.scratch().join(format!("{name}.new"));
        std::fs::write(&new, yaml).expect("config");
        user::give(&new);
        std::fs::rename(&new, self.scratch().join("config").join(name)).expect("config");
    }

    /// Takes a config file away, which takes effect by itself.
    pub fn unconfigure(&self, name: &str) {
        std::fs::remove_file(self.scratch().join("config").join(name)).expect("config");
    }

    /// The errors that the control plane finds in its config; none while it does not answer.
    pub fn errors(&self) -> Vec<Value> {
        let problems = self.api("/api/v1/problems").unwrap_or_default();
        problems.as_array().into_iter().flatten().filter(|p| p["severity"] == "error").cloned().collect()
    }

    /// How often the control plane has read its config anew, and applied or refused it.
    pub fn configs(&self) -> u64 {
        let text = http::get(self.api, "/metrics").map(|answer| answer.text()).unwrap_or_default();
        let count = |line: &str| {
            line.strip_prefix("meshwork_control_plane_configs_")?.split(' ').nth(1)?.parse::<u64>().ok()
        };
        text.lines().filter_map(count).sum()
    }

    /// Where the control plane's API listens.
    pub fn api_address(&self) -> SocketAddr {
        self.api
    }

    /// Writes a file for a program to read.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.scratch().join("home").join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(&path, text).expect("a file");
        user::give(&self.scratch().join("home"));
        path.to_string_lossy().into_owned()
    }

    /// A copy of a file or folder below the repository's root.
    pub fn copy(&self, from: &str) -> String {
        let from = crate::root().join(from);
        assert!(from.exists(), "{} is not there: cargo xtask peers", from.display());
        let to = self.scratch().join("peers").join(from.file_name().expect("a name"));
        if !to.exists() {
            user::copy(&from, &to);
            user::give(&to);
        }
        to.to_string_lossy().into_owned()
    }

    /// A workload to be run.
    pub fn workload<'a>(&'a self, name: &'a str) -> Run<'a> {
        Run { mesh: self, name, namespace: NAMESPACE, options: Vec::new() }
    }

    /// The arguments with which a workload enrols that `run` does not start: a new token, the control plane, a folder.
    pub fn enrolment(&self, workload: &str, labels: &[&str]) -> Vec<String> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let state = self.path("state/control-plane");
        let labels: Vec<_> = labels.iter().flat_map(|label| ["--label", label]).collect();
        let token = self.file(&format!("{workload}.token"), &self.token(workload, &labels));
        let own = self.path(&format!("home/{workload}"));
        std::fs::create_dir_all(&own).expect("a folder");
        user::give(&own);
        let mut arguments = vec!["--control-plane".to_owned(), self.listen.to_string()];
        arguments.extend(["--trust-bundle".to_owned(), text(&state.join("bundle.pem"))]);
        arguments.extend(["--state".to_owned(), text(&own.join("state"))]);
        arguments.extend(["--workload".to_owned(), workload.to_owned(), "--token-file".to_owned(), token]);
        arguments
    }

    /// Starts a sidecar that is told its ports, as a new workload that services select by `app`: its own name.
    pub fn explicit(&self, workload: &str, options: &[&str]) -> Program {
        let label = format!("app={workload}");
        let mut command = self.meshwork();
        command.arg("sidecar").args(self.enrolment(workload, &[&label]));
        command.args(["--label", &label]).args(options);
        Program::start(workload, self.scratch(), &mut command)
    }

    /// Starts such a sidecar anew, with what its state folder has.
    pub fn explicit_again(&self, workload: &str, options: &[&str]) -> Program {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let mut command = self.meshwork();
        command.args(["sidecar", "--workload", workload, "--control-plane", &self.listen.to_string()]);
        command.args(["--trust-bundle", &text(self.path("state/control-plane/bundle.pem"))]);
        command.args(["--state", &text(self.state_of(workload))]);
        command.args(["--label", &format!("app={workload}")]).args(options);
        Program::start(workload, self.scratch(), &mut command)
    }

    /// The state folder of a workload that [`Self::enrolment`] is for.
    pub fn state_of(&self, workload: &str) -> PathBuf {
        self.path(&format!("home/{workload}/state"))
    }

    /// The folder of the control plane's state.
    pub fn control_plane_state(&self) -> PathBuf {
        self.path("state/control-plane")
    }

    /// Where the control plane takes proxies.
    pub fn listen_address(&self) -> SocketAddr {
        self.listen
    }

    /// A join token for a workload and the service account of its name; options beside them are the command's own.
    pub fn token(&self, workload: &str, options: &[&str]) -> String {
        let mut command = self.meshwork();
        command.args(["token", "create", "--namespace", NAMESPACE, "--service-account", workload]);
        command.args(["--workload", workload, "--state"]).arg(self.path("state/control-plane")).args(options);
        crate::program::output(&mut command).trim().to_owned()
    }

    /// GETs JSON from the control plane's API; `None` while it does not answer.
    pub fn api(&self, path: &str) -> Option<Value> {
        let answer = http::get(self.api, path).ok()?;
        (answer.status == 200).then(|| serde_json::from_slice(&answer.body).ok()).flatten()
    }

    /// Where the control plane listens.
    pub fn control_plane_ports(&self) -> [u16; 2] {
        [self.listen.port(), self.api.port()]
    }

    /// Whether a workload is one of the mesh: whether its lease lasts.
    pub fn has(&self, workload: &str) -> bool {
        let config = self.api("/api/v1/config").unwrap_or_default();
        let workloads = config["workloads"].as_array().cloned().unwrap_or_default();
        workloads.iter().any(|w| w.as_str().is_some_and(|w| w.split(['.', '/']).any(|part| part == workload)))
    }

    /// What the control plane knows of a workload's proxy.
    pub fn proxy(&self, name: &str) -> Option<Value> {
        self.api("/api/v1/proxies")?.as_array()?.iter().find(|p| p["name"] == name).cloned()
    }

    /// The edge from a workload to a service.
    pub fn edge(&self, from: &str, to: &str) -> Option<Value> {
        self.api("/api/v1/edges")?.as_array()?.iter().find(|e| e["from"] == from && e["to"] == to).cloned()
    }

    /// The process of a workload's sidecar.
    pub fn sidecar(&self, workload: &str) -> Option<u32> {
        let state = self.path(&format!("state/{workload}")).to_string_lossy().into_owned();
        self.trace.processes().into_iter().find(|id| {
            let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
            words.iter().any(|w| w == "sidecar") && words.iter().any(|w| *w == state)
        })
    }

    /// The process that runs a program of a workload, by the beginning of its command line.
    pub fn process(&self, words: &[&str]) -> Option<u32> {
        let wanted = words.join("\0") + "\0";
        self.trace.processes().into_iter().find(|id| {
            std::fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|line| line.starts_with(wanted.as_bytes()))
        })
    }

    /// Notes what the programs hold, for [`Self::nothing_is_left`].
    pub fn trace(&mut self) -> &mut Trace {
        &mut self.trace
    }

    /// The control plane's process.
    pub fn control_plane(&mut self) -> &mut Program {
        &mut self.control_plane
    }

    /// Kills the control plane as `kill -9` does, and starts it anew on the same state.
    pub fn restart_control_plane(&mut self) {
        self.control_plane.kill();
        self.start_control_plane();
    }

    /// Kills the control plane as `kill -9` does, and starts it anew with further arguments on the same state.
    pub fn restart_control_plane_with(&mut self, arguments: &[&str]) {
        self.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self.restart_control_plane();
    }

    /// Starts the control plane anew, which has ended, on the same state.
    pub fn start_control_plane(&mut self) {
        let at = [self.listen, self.api];
        self.control_plane =
            control_plane(self.dir.path(), "control-plane", at, &self.arguments, &self.environment);
    }

    /// Starts a further control plane of the same CA, with the same further arguments and a state folder of its own.
    pub fn beside(&self, name: &str, listen: SocketAddr, api: SocketAddr) -> (Program, Api) {
        let ca = self.path("state/control-plane/ca").to_string_lossy().into_owned();
        let arguments = [&self.arguments[..], &["--ca".to_owned(), ca]].concat();
        let program = control_plane(self.dir.path(), name, [listen, api], &arguments, &self.environment);
        (program, Api { address: api, state: self.path(&format!("state/{name}")) })
    }

    /// Ends the control plane, and panics where anything of any program is left.
    pub fn nothing_is_left(&mut self) {
        self.trace.look();
        self.control_plane.terminate();
        let mut left = Vec::new();
        eventually(&format!("nothing is left of {:?}", self.trace), || {
            left = self.trace.left();
            left.is_empty()
        });
        let temporary = std::fs::read_dir(self.scratch().join("tmp")).expect("a folder");
        let temporary: Vec<_> = temporary.filter_map(Result::ok).map(|f| f.path()).collect();
        assert!(temporary.is_empty(), "{temporary:?}");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch().join(name)
    }

    /// Runs a command of the binary that asks this control plane by its socket, to its end, which has to come in time.
    pub fn cli(&self, words: &[&str]) -> Finished {
        let mut command = Command::new("timeout");
        self.ordinary(&mut command);
        command.args(["--kill-after=5", COMMAND_SECONDS]).arg(self.path("meshwork")).args(words).arg("--api");
        command.arg(format!("unix:{}", self.path("state/control-plane/api.sock").display()));
        Finished::of(&mut command)
    }

    /// Runs such a command, which must succeed, and reads what it prints as JSON.
    pub fn cli_json(&self, words: &[&str]) -> Value {
        let finished = self.cli(&[words, &["-o", "json"]].concat());
        assert!(finished.status.success(), "{words:?}: {finished:#?}");
        crate::json(&finished.stdout)
    }

    /// The control plane's API, as who has its token.
    pub fn drilled(&self) -> Api {
        Api { address: self.api, state: self.path("state/control-plane") }
    }

    /// A command of the binary, as the ordinary user types it.
    pub fn meshwork(&self) -> Command {
        let mut command = Command::new(self.path("meshwork"));
        self.ordinary(&mut command);
        command
    }

    fn ordinary(&self, command: &mut Command) {
        ordinary(command, self.scratch());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
    }
}

fn ordinary(command: &mut Command, scratch: &Path) {
    user::ordinary(command, &scratch.join("home"));
    command.env("TMPDIR", scratch.join("tmp")).env(VARIABLE, scratch);
}

fn control_plane(
    dir: &Path,
    name: &str,
    [listen, api]: [SocketAddr; 2],
    more: &[String],
    environment: &Environment,
) -> Program {
    let mut command = Command::new(dir.join("meshwork"));
    command.arg("control-plane").arg("--config").arg(dir.join("config"));
    command.arg("--state").arg(dir.join("state").join(name));
    command.args(["--listen", &listen.to_string(), "--api", &api.to_string()]).args(more);
    ordinary(&mut command, dir);
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    let mut program = Program::start(name, dir, &mut command);
    program.listens(listen);
    program.listens(api);
    program
}

/// A workload to be run: its options, then its program.
pub struct Run<'a> {
    mesh: &'a Mesh,
    name: &'a str,
    namespace: &'a str,
    options: Vec<String>,
}

impl<'a> Run<'a> {
    /// The namespace that it is of, in place of [`NAMESPACE`].
    #[must_use]
    pub fn namespace(self, namespace: &'a str) -> Self {
        Self { namespace, ..self }
    }

    /// The service that it is one of.
    #[must_use]
    pub fn service(self, name: &str) -> Self {
        self.options(&["--service", name])
    }

    /// A port that the program listens on, with HTTP on it.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        self.options(&["--port", &port.to_string()])
    }

    /// A port that the program listens on, with something else on it.
    #[must_use]
    pub fn port_of(self, port: u16, protocol: &str) -> Self {
        self.options(&["--port", &format!("{port}/{protocol}")])
    }

    /// Further options.
    #[must_use]
    pub fn options(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(|&o| o.to_owned()));
        self
    }

    /// The command that runs this program in the mesh.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, program: &[S]) -> Command {
        let mesh = self.mesh;
        let folder = if self.namespace == NAMESPACE { String::new() } else { format!("{}-", self.namespace) };
        let state = mesh.path(&format!("state/{folder}{}", self.name));
        let mut command = mesh.meshwork();
        command.args(["run", "--name", self.name, "--namespace", self.namespace]);
        command.args(["--service-account", self.name]);
        command.args(["--control-plane", &mesh.listen.to_string(), "--push-metrics", "1s", "--workers", "1"]);
        command.arg("--mesh").arg(mesh.path("state/control-plane"));
        command.arg("--state").arg(state).args(&self.options).arg("--").args(program);
        command
    }

    /// Starts the program; what it and its proxy say is in one log.
    pub fn start<S: AsRef<std::ffi::OsStr>>(self, program: &[S]) -> Program {
        Program::start(self.name, self.mesh.scratch(), &mut self.command(program))
    }

    /// Runs the program to its end.
    pub fn finish<S: AsRef<std::ffi::OsStr>>(self, program: &[S]) -> Finished {
        Finished::of(&mut self.command(program))
    }
}

/// How a program ended, and what it said.
#[derive(Debug)]
pub struct Finished {
    /// How `meshwork run` ended.
    pub status: ExitStatus,
    /// What was written to standard output.
    pub stdout: String,
    /// What was written to standard error.
    pub stderr: String,
}

impl Finished {
    /// Runs a command to its end.
    fn of(command: &mut Command) -> Self {
        let output = command.stdin(Stdio::null()).output().expect("meshwork");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}
