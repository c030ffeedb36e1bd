//! Programs that run beside a test and end with it.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::eventually;

/// A running program; killed when dropped. Its output is shown when the test panics.
pub struct Program {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Program {
    /// Starts a program; its output goes to `<dir>/<name>.log`.
    pub fn start(name: &str, dir: &Path, command: &mut Command) -> Self {
        let log = dir.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).expect("a log file");
        let errors = file.try_clone().expect("a second handle");
        let child = command.stdin(Stdio::null()).stdout(file).stderr(errors).spawn();
        let child = child.unwrap_or_else(|e| panic!("cannot start {name}: {e}"));
        Self { name: name.to_owned(), log, child }
    }

    /// Starts the binary under test.
    pub fn meshwork<'a>(name: &str, dir: &Path, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        Self::start(name, dir, Command::new(crate::binary()).args(arguments))
    }

    /// Starts Envoy on a bootstrap file.
    pub fn envoy(name: &str, dir: &Path, bootstrap: &Path) -> Self {
        let mut command = Command::new(crate::peer("venv/bin/envoy"));
        command
            .args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"])
            .args(["--file-flush-interval-msec", "50", "-c"])
            .arg(bootstrap);
        Self::start(name, dir, &mut command)
    }

    /// Waits until something accepts connections there.
    pub fn listens(&mut self, address: SocketAddr) {
        let name = self.name.clone();
        eventually(&format!("{name} listens on {address}"), || {
            assert!(self.alive(), "{name} ended early: {}", self.output());
            TcpStream::connect(address).is_ok()
        });
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// How it ended; `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child")
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it as `kill -9` does.
    pub fn kill(&mut self) {
        // A program that has ended already is as dead as asked.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end, as `kill` does, and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        let status = Command::new("kill").arg(self.child.id().to_string()).status().expect("kill");
        assert!(status.success(), "kill {}", self.name);
        let mut ended = None;
        eventually(&format!("{} ends when asked to", self.name), || {
            ended = self.child.try_wait().expect("a child");
            ended.is_some()
        });
        ended.expect("a status")
    }

    /// All that it has written so far.
    pub fn output(&self) -> String {
        std::fs::read(&self.log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
        tell_end(&self.name, || self.output());
    }
}

/// Where the test panics, shows the end of what a program has logged.
pub(crate) fn tell_end(name: &str, log: impl FnOnce() -> String) {
    if std::thread::panicking() {
        let log = log();
        eprintln!("--- the end of {name}'s output");
        let from = log.lines().count().saturating_sub(40);
        for line in log.lines().skip(from) {
            eprintln!("{line}");
        }
    }
}

/// Runs a program to its end and returns what it printed; panics with its errors where it failed.
pub fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("cannot start: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{} {:?} failed: {}\n{text}\n{}",
        command.get_program().display(),
        command.get_args().collect::<Vec<_>>(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}
