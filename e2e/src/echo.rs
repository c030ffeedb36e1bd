//! A workload that says what reached it and asks others for what a test tells it to: the program `e2e-echo`, run by
//! `meshwork run`.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::captured::{Mesh, NAMESPACE, Run};
use crate::eventually;
use crate::program::tell_end;

/// A running echo.
pub struct Echo {
    name: String,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    log: PathBuf,
}

/// Where the program is: beside the binary that cargo builds for these tests.
fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("this program");
    let path = test.ancestors().nth(2).expect("a target folder").join("e2e-echo");
    assert!(path.exists(), "{} is not built: cargo build --package e2e", path.display());
    path
}

impl Echo {
    /// Starts an echo in a namespace that serves these ports; options beside them are `run`'s own.
    pub fn start(mesh: &Mesh, namespace: &str, name: &str, run: &Run<'_>, ports: &[u16]) -> Self {
        let program = mesh.copy(&binary().to_string_lossy());
        let mut words = vec![program, name.to_owned(), namespace.to_owned()];
        words.extend(ports.iter().map(u16::to_string));
        Self::of(name, mesh.scratch().join(format!("{namespace}-{name}.log")), &mut run.command(&words))
    }

    /// Starts an echo that is not in the mesh: one that a proxy beside it stands for.
    pub fn beside(mesh: &Mesh, name: &str, port: u16) -> Self {
        let mut command = Command::new(binary());
        command.args([name, NAMESPACE, &port.to_string()]);
        Self::of(name, mesh.scratch().join(format!("{name}.log")), &mut command)
    }

    fn of(name: &str, log: PathBuf, command: &mut Command) -> Self {
        let errors = File::options().create(true).append(true).open(&log).expect("a log");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {name}: {e}"));
        let input = child.stdin.take().expect("a pipe");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { name: name.to_owned(), child, input, output, log }
    }

    /// Has a task done; what tasks there are stands in `src/bin/echo/client.rs`.
    pub fn ask(&mut self, task: &Value) -> Value {
        self.tell(task);
        self.hear()
    }

    /// Gives a task, whose answer [`Self::hear`] waits for.
    pub fn tell(&mut self, task: &Value) {
        if let Err(error) = writeln!(self.input, "{task}") {
            panic!("{} ended early: {error}; {}", self.name, self.log());
        }
    }

    /// Waits for the answer of the task that was given.
    pub fn hear(&mut self) -> Value {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(1..) => {}
            ended => panic!("{} ended early: {ended:?}; {}", self.name, self.log()),
        }
        let answer = crate::json(&line);
        assert!(answer["wrong"].is_null(), "{answer}");
        answer
    }

    /// GETs a URL's path from a host, and gives the one answer.
    pub fn get(&mut self, host: &str, path: &str, headers: &Value) -> Value {
        self.ask(&json!({ "host": host, "path": path, "headers": headers }))["answers"][0].take()
    }

    /// How many requests have come here whose `x-echo-tag` is this.
    pub fn seen(&mut self, tag: &str) -> u64 {
        self.ask(&json!({ "seen": tag }))["seen"].as_u64().expect("a number")
    }

    /// Waits until a task's first answer has this status.
    pub fn eventually(&mut self, task: &Value, status: u16) -> Value {
        let mut last = Value::Null;
        let what = format!("{} gets {status} of {task}", self.name);
        eventually(&what, || {
            let answer = self.ask(task)["answers"][0].take();
            if answer["status"] != last["status"] || answer["error"] != last["error"] {
                eprintln!("{}: {} {}", self.name, answer["status"], answer["error"]);
            }
            last = answer;
            last["status"] == status
        });
        last
    }

    /// What it and its proxy have logged.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // One that has ended already is as dead as asked.
        let _ = self.child.kill();
        let _ = self.child.wait();
        tell_end(&self.log.display().to_string(), || self.log());
    }
}

/// Whether a count of successes is what chance allows: `share` (0 to 1) of `tries`, give or take 5.5 standard
/// deviations, which chance exceeds less than once in ten million times.
pub fn is_share(count: u64, tries: u64, share: f64) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "a test's counts are small")]
    let (count, tries) = (count as f64, tries as f64);
    (count - tries * share).abs() <= 5.5 * (tries * share * (1.0 - share)).sqrt()
}
