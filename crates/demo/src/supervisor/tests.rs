//! Processes of a shell stand in for those of the mesh.

use super::*;

/// Deadline for what takes milliseconds on an idle machine.
const LIVENESS: Duration = Duration::from_mins(1);

struct Shell {
    supervisor: Supervisor,
    events: mpsc::Receiver<Event>,
    directory: Directory,
}

fn shell() -> Shell {
    let directory = Directory::create(None).expect("a folder");
    let (supervisor, events) = Supervisor::new("/bin/sh".into(), directory.clone()).expect("a pipe");
    Shell { supervisor, events, directory }
}

impl Shell {
    fn start(&mut self, name: &str, script: &str) {
        let arguments = vec!["-c".into(), script.into()];
        self.supervisor.start(Program { name: name.to_owned(), arguments, talks: true });
    }

    async fn next(&mut self) -> Event {
        tokio::time::timeout(LIVENESS, self.events.recv()).await.expect("an event").expect("a supervisor")
    }

    /// The next line that the process says.
    async fn line(&mut self) -> String {
        loop {
            if let Event::Line { line, .. } = self.next().await {
                return line;
            }
        }
    }

    async fn close(mut self) {
        tokio::time::timeout(LIVENESS, self.supervisor.stop_all(LIVENESS)).await.expect("all end");
        self.directory.remove().expect("removal");
    }
}

#[tokio::test]
async fn a_process_that_is_killed_is_started_again_with_a_new_id() {
    let mut shell = shell();
    shell.start("web", "echo trouble >&2; echo $$; exec cat");
    let first = shell.line().await;
    let pid = std::fs::read_to_string(shell.directory.pid("web")).expect("a pid file");
    assert_eq!(pid.trim(), first);
    let raw = Pid::from_raw(first.parse().expect("a number")).expect("a process");
    kill_process(raw, Signal::KILL).expect("killed");
    assert_eq!(shell.next().await, Event::Died { name: "web".into(), how: "was killed by signal 9".into() });
    let Event::Restarted { pid, .. } = shell.next().await else { panic!("not started again") };
    assert_eq!(shell.line().await, pid.to_string());
    assert_eq!(shell.directory.tail("web"), "trouble\ntrouble");
    shell.close().await;
}

#[tokio::test]
async fn what_a_process_says_last_is_heard_and_its_end_is_no_death() {
    let mut shell = shell();
    shell.start("load", "trap 'echo last; exit 3' TERM; echo first; while :; do sleep 0.05; done");
    assert_eq!(shell.line().await, "first");
    tokio::time::timeout(LIVENESS, shell.supervisor.stop("load", LIVENESS)).await.expect("an end");
    assert_eq!(shell.line().await, "last");
    assert!(shell.events.try_recv().is_err(), "a process that was told to end did not die");
    assert_eq!(shell.supervisor.count(), 0);
    shell.close().await;
}

#[tokio::test]
async fn a_process_that_will_not_end_is_killed_after_its_grace() {
    let mut shell = shell();
    // The lifeline is its standard input: it holds on for longer than any grace.
    shell.start("deaf", "trap '' TERM; echo up; exec cat");
    assert_eq!(shell.line().await, "up");
    let stopped = shell.supervisor.stop("deaf", Duration::from_millis(50));
    tokio::time::timeout(LIVENESS, stopped).await.expect("an end");
    shell.close().await;
}

#[tokio::test]
async fn a_supervisor_that_is_dropped_leaves_no_process() {
    let mut shell = shell();
    shell.start("web", "echo $$; exec cat");
    let pid = Pid::from_raw(shell.line().await.parse().expect("a number")).expect("a process");
    drop(shell.supervisor);
    let gone = async {
        // The runtime reaps it; until then it is there.
        while rustix::process::test_kill_process(pid).is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIVENESS, gone).await.expect("no process");
    shell.directory.remove().expect("removal");
}

#[tokio::test]
async fn a_binary_that_is_not_there_is_told() {
    let directory = Directory::create(None).expect("a folder");
    let (mut supervisor, mut events) =
        Supervisor::new("/nonexistent/meshwork".into(), directory.clone()).expect("a pipe");
    supervisor.start(Program { name: "web".into(), arguments: Vec::new(), talks: false });
    let Some(Event::Died { how, .. }) = events.recv().await else { panic!("not told") };
    assert!(how.starts_with("cannot be started: "), "{how}");
    supervisor.stop_all(LIVENESS).await;
    directory.remove().expect("removal");
}

#[test]
fn ends_are_told_in_words() {
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(in_words(ExitStatus::from_raw(3 << 8)), "exited with 3");
    assert_eq!(in_words(ExitStatus::from_raw(9)), "was killed by signal 9");
}
