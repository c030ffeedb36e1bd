//! A workload that runs whatever programs a test asks for, one after the other.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use serde_json::{Value, json};

use crate::captured::Run;
use crate::eventually;
use crate::program::tell_end;

/// A running workload, whose program starts other programs.
pub struct Inside {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    log: PathBuf,
}

/// What came of a program.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its exit code, or the negative number of the signal that ended it.
    pub code: i64,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Inside {
    /// Starts a workload without a service.
    pub fn start(mesh: &crate::captured::Mesh, name: &str) -> Self {
        Self::of(mesh, name, &mesh.workload(name))
    }

    /// Starts a workload with these options.
    pub fn of(mesh: &crate::captured::Mesh, name: &str, run: &Run<'_>) -> Self {
        let script = mesh.copy("e2e/peers/inside.py");
        let log = mesh.scratch().join(format!("{name}.log"));
        let errors = File::options().create(true).append(true).open(&log).expect("a log");
        let mut command = run.command(&["/usr/bin/python3", &script]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {name}: {e}"));
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, input, output, log }
    }

    /// Runs a program inside, to its end.
    pub fn run(&mut self, program: &[&str]) -> Said {
        let answer = self.ask(&json!(program));
        let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
        Said {
            code: answer["code"].as_i64().expect("a code"),
            stdout: text("stdout"),
            stderr: text("stderr"),
        }
    }

    /// Runs a program inside, which must succeed, and returns what it printed.
    pub fn output(&mut self, program: &[&str]) -> String {
        let said = self.run(program);
        assert_eq!(said.code, 0, "{program:?}: {said:#?}\n{}", self.log());
        said.stdout
    }

    /// Runs a program inside until it succeeds: what it calls may not be there yet.
    pub fn eventually(&mut self, program: &[&str]) -> String {
        let mut said = None;
        let log = self.log.clone();
        eventually(&format!("{program:?} succeeds; see {}", log.display()), || {
            let now = self.run(program);
            if now.code != 0 && said.as_ref().is_none_or(|s: &Said| s.stderr != now.stderr) {
                eprintln!("not yet: {program:?}: {now:?}");
            }
            let done = now.code == 0;
            said = Some(now);
            done
        });
        said.expect("an answer").stdout
    }

    /// The process id of its `meshwork run`.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it and its proxy have logged.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    /// Lets it end by itself, as a program does whose input ends; gives the exit code.
    pub fn end(mut self) -> Option<i32> {
        self.input = None;
        let mut status = None;
        eventually("it ends with its input", || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        status.expect("a status").code()
    }

    fn ask(&mut self, request: &Value) -> Value {
        let input = self.input.as_mut().expect("a pipe");
        let mut line = String::new();
        let sent = writeln!(input, "{request}").and_then(|()| self.output.read_line(&mut line));
        match sent {
            Ok(n @ 1..) => serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e} in {n} bytes: {line}")),
            failed => panic!("it ended early: {failed:?}; {}", self.log()),
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // One that has ended already is as dead as asked.
        let _ = self.child.kill();
        let _ = self.child.wait();
        tell_end(&self.log.display().to_string(), || self.log());
    }
}
