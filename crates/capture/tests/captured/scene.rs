//! A program in the mesh, seen from outside.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use meshwork_capture::{Run, RunError, Verdict};

/// Generous: only what hangs takes as long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A command of the shell, as a probe runs it.
pub(crate) fn sh(text: &str) -> Vec<String> {
    ["sh", "-c", text].map(str::to_owned).into()
}

/// The supervisor's role: `run PROGRAM ARGS…`, with the sidecar's behaviour in the environment, and the one command that it
/// is probed by in `TEST_PROBES`.
pub(crate) fn supervise(arguments: &[String]) -> ExitCode {
    let [program, arguments @ ..] = arguments else { return ExitCode::FAILURE };
    let milliseconds = |name: &str, default| {
        let value = std::env::var(name).ok().and_then(|value| value.parse().ok());
        Duration::from_millis(value.unwrap_or(default))
    };
    let outcome = meshwork_capture::run(&Run {
        program: program.into(),
        arguments: arguments.iter().map(OsString::from).collect(),
        environment: vec![("GREETING".into(), "hello".into())],
        sidecar: std::env::current_exe().expect("path"),
        sidecar_arguments: vec!["sidecar".into()],
        sidecar_pid: None,
        workers: 2,
        probes: std::env::var("TEST_PROBES").into_iter().map(|text| sh(&text)).collect(),
        namespace: "shop".to_owned(),
        hidden: std::env::var_os("TEST_HIDDEN").into_iter().map(PathBuf::from).collect(),
        control_plane: SocketAddr::from(([127, 0, 0, 1], 1)),
        ready_timeout: milliseconds("TEST_READY_TIMEOUT", 20_000),
        grace: milliseconds("TEST_GRACE", 20_000),
        drain_time: Duration::from_secs(10),
        lifeline: None,
    });
    match outcome {
        Ok(outcome) => outcome.pass_on(),
        Err(error) => {
            eprintln!("{error}");
            match error {
                RunError::NotStarted { missing: true, .. } => ExitCode::from(127),
                _ => ExitCode::from(125),
            }
        }
    }
}

/// The role of `meshwork check`: fails where a step does.
pub(crate) fn check() -> ExitCode {
    let verdicts = meshwork_capture::check().expect("checked");
    for (step, verdict) in &verdicts {
        println!("{step}: {verdict:?}");
    }
    ExitCode::from(u8::from(verdicts.iter().any(|(_, verdict)| *verdict != Verdict::Fine)))
}

/// This binary in a role.
pub(crate) fn role(role: &str) -> Command {
    let mut command = Command::new(this());
    command.arg(role);
    command
}

pub(crate) fn this() -> PathBuf {
    std::env::current_exe().expect("path")
}

/// Runs this binary's inside role in the mesh, to its end.
pub(crate) fn inside(arguments: &[&str]) -> Output {
    let mut command = role("run");
    command.arg(this()).arg("inside").args(arguments);
    command.output().expect("run")
}

/// The same, and what it printed.
pub(crate) fn said(arguments: &[&str]) -> String {
    let output = inside(arguments);
    let words = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(output.status.success(), "{arguments:?}: {words} {}", String::from_utf8_lossy(&output.stderr));
    words
}

/// A shell command in the mesh, to its end.
pub(crate) fn shell(text: &str) -> Output {
    role("run").args(["sh", "-c", text]).output().expect("run")
}

/// What a shell command in the mesh printed.
pub(crate) fn shell_said(text: &str) -> String {
    let output = shell(text);
    assert!(output.status.success(), "{text}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

/// A program in the mesh that goes on until it is ended.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) lines: BufReader<std::process::ChildStdout>,
}

/// Starts a command in the mesh; `configure` adds to the supervisor.
pub(crate) fn start(program: &[&str], configure: impl FnOnce(&mut Command)) -> Running {
    let mut command = role("run");
    command.args(program).stdin(Stdio::piped()).stdout(Stdio::piped());
    configure(&mut command);
    let mut child = command.spawn().expect("run");
    let lines = BufReader::new(child.stdout.take().expect("piped"));
    Running { child, lines }
}

impl Running {
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("text");
        line.trim().to_owned()
    }

    pub(crate) fn say(&mut self, text: &str) {
        self.child.stdin.as_mut().expect("piped").write_all(text.as_bytes()).expect("written");
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(pid(self.child.id()), signal).expect("sent");
    }

    pub(crate) fn ended(&mut self) -> std::process::ExitStatus {
        until("it ends", || self.child.try_wait().expect("wait"))
    }
}

pub(crate) fn pid(number: u32) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(number.cast_signed()).expect("a pid")
}

/// Asks again and again until there is an answer.
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The processes whose environment has this, on the host.
pub(crate) fn processes_with(mark: &str) -> Vec<u32> {
    let all = fs::read_dir("/proc")
        .expect("proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    all.filter(|pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        *pid != std::process::id()
            && !status.contains(") Z ")
            && environment.windows(mark.len()).any(|part| part == mark.as_bytes())
    })
    .collect()
}

/// A file that the sidecar tells in what it does.
pub(crate) fn journal() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("journal");
    (folder, path)
}

/// Waits until the journal has this line so many times.
pub(crate) fn noted(path: &std::path::Path, line: &str, times: usize) {
    until(line, || {
        let text = fs::read_to_string(path).unwrap_or_default();
        (text.lines().filter(|found| *found == line).count() >= times).then_some(())
    });
}

/// A port of the host that nobody has.
pub(crate) fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("port")
}
