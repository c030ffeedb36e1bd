//! What a program in the mesh has of the one who started it: terminal, streams, signals, exit code, folder, user.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use e2e::captured::{Mesh, Run};
use serde_json::{Value, json};

/// Plays a user at a terminal in which `command` runs.
fn terminal(mesh: &Mesh, steps: &Value, command: &Command) -> Value {
    let script = mesh.copy("e2e/peers/terminal.py");
    let mut outer = Command::new("/usr/bin/python3");
    e2e::user::ordinary(&mut outer, &mesh.scratch().join("home"));
    outer.arg(script).arg(steps.to_string()).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            outer.env(name, value);
        }
    }
    let output = outer.env("PS1", "ready> ").env("TERM", "dumb").output().expect("python3");
    let said = e2e::json(&String::from_utf8_lossy(&output.stdout));
    assert!(said["failed"].is_null(), "{}\n{}", said["failed"], said["seen"].as_str().unwrap_or_default());
    said
}

#[test]
fn a_shell_has_a_terminal_with_job_control() {
    let mesh = Mesh::start("");
    let steps = json!([
        ["expect", "ready> "],
        ["type", "echo $((40+2)) $(tty)\n"],
        ["expect", "42 /dev/pts/\\d+"],
        ["size", 41, 97],
        ["type", "sleep 1; stty size\n"],
        ["expect", "41 97"],
        // Ctrl-C ends what runs, and neither the shell nor the mesh around it.
        ["type", "sleep 1000.5\n"],
        ["running", "sleep", "1000.5"],
        ["type", "\u{3}"],
        ["expect", "ready> "],
        ["type", "echo $((100+$?))\n"],
        ["expect", "230"],
        // Ctrl-Z stops it, fg brings it back.
        ["type", "sleep 2000.5\n"],
        ["running", "sleep", "2000.5"],
        ["type", "\u{1a}"],
        ["expect", "Stopped"],
        ["type", "jobs\n"],
        ["expect", "Stopped +sleep 2000.5"],
        ["type", "fg\n"],
        ["expect", "fg\\s+sleep 2000.5"],
        ["type", "\u{3}"],
        ["expect", "ready> "],
        ["type", "sleep 3000 & kill %1; wait; echo $((50+5))\n"],
        ["expect", "55"],
        ["type", "exit 7\n"],
    ]);
    let said =
        terminal(&mesh, &steps, &mesh.workload("shell").command(&["bash", "--norc", "--noprofile", "-i"]));
    assert_eq!(said["code"], 7, "{said:#}");
    let seen = said["seen"].as_str().unwrap_or_default();
    assert!(!seen.contains("no job control"), "{seen}");
}

#[test]
fn ctrl_c_and_ctrl_z_at_the_terminal_reach_the_program_as_if_nothing_were_between() {
    let mut mesh = Mesh::start("");
    let command = mesh.workload("sleeper").command(&["sleep", "1000.125"]);
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    let steps = json!([
        ["expect", "ready> "],
        ["type", words.join(" ") + "\n"],
        ["running", "sleep", "1000.125"],
        ["type", "\u{1a}"],
        ["expect", "Stopped"],
        ["expect", "ready> "],
        ["type", "fg\n"],
        ["expect", "sleep"],
        ["type", "\u{3}"],
        ["expect", "ready> "],
        ["type", "echo $((100+$?))\n"],
        ["expect", "230"],
        ["type", "exit 0\n"],
    ]);
    let mut shell = Command::new("bash");
    shell.args(["--norc", "--noprofile", "-i"]).env(e2e::leftovers::VARIABLE, mesh.scratch());
    let said = terminal(&mesh, &steps, &shell);
    assert_eq!(said["code"], 0, "{said:#}");
    mesh.nothing_is_left();
}

#[test]
fn exit_codes_and_signals_pass_through() {
    let mut mesh = Mesh::start("");
    let run = || -> Run<'_> { mesh.workload("program") };
    assert_eq!(run().finish(&["sh", "-c", "exit 42"]).status.code(), Some(42));
    assert_eq!(run().finish(&["true"]).status.code(), Some(0));
    assert_eq!(run().finish(&["sh", "-c", "kill -TERM $$"]).status.signal(), Some(15));
    assert_eq!(run().finish(&["sh", "-c", "kill -KILL $$"]).status.signal(), Some(9));
    let missing = run().finish(&["/no/such/program"]);
    assert_eq!(missing.status.code(), Some(127), "{missing:?}");
    assert!(missing.stderr.contains("/no/such/program"), "{missing:?}");
    let forbidden = run().finish(&[mesh.file("plain", "no program\n")]);
    assert_eq!(forbidden.status.code(), Some(126), "{forbidden:?}");

    // A program that handles TERM ends as it wants to.
    let script = "trap 'echo asked; exit 3' TERM; echo up; while :; do sleep 0.1; done";
    for (signal, expected) in [("TERM", Some(3)), ("HUP", None)] {
        let mut program = run().start(&["sh", "-c", script]);
        e2e::eventually("it is up", || program.output().contains("up\n"));
        let sent = Command::new("kill").args(["-s", signal, &program.id().to_string()]).status();
        assert!(sent.expect("kill").success());
        let mut ended = None;
        e2e::eventually("it ends", || {
            ended = program.ended();
            ended.is_some()
        });
        let ended = ended.expect("a status");
        assert_eq!(ended.code(), expected, "{signal}: {ended} {}", program.output());
        assert_eq!(ended.signal(), (signal == "HUP").then_some(1), "{ended}");
        std::fs::remove_file(mesh.scratch().join("program.log")).expect("a log");
    }
    mesh.nothing_is_left();
}

#[test]
fn streams_folder_environment_and_user_are_the_callers() {
    let mesh = Mesh::start("");
    let script = "cat; pwd; id -u; echo $GIVEN $HOME; echo to-errors >&2; ls /proc/self/fd | wc -l";
    let mut command =
        mesh.workload("program").options(&["--env", "GIVEN=this"]).command(&["sh", "-c", script]);
    let folder = mesh.file("here/empty", "").replace("/empty", "");
    command.current_dir(&folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("meshwork");
    child.stdin.take().expect("a pipe").write_all(b"through the pipe\n").expect("written");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    let user = e2e::program::output(e2e::user::ordinary(&mut Command::new("id"), mesh.scratch()).arg("-u"));
    let home = mesh.scratch().join("home");
    // No descriptors but the standard streams, whatever the caller left open, and that of the folder.
    let expected = format!("through the pipe\n{folder}\n{user}this {}\n4\n", home.display());
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    assert!(String::from_utf8_lossy(&output.stderr).contains("to-errors\n"), "{output:?}");
}

#[test]
fn the_proxy_is_ready_before_the_program_starts() {
    let mesh = Mesh::start("");
    let catalog = mesh.workload("catalog").service("catalog").port(8080);
    let folder = mesh.file("catalog/items", "teapot\n").replace("/items", "");
    let _catalog = catalog.start(&["/usr/bin/python3", "-m", "http.server", "8080", "--directory", &folder]);
    let call = ["curl", "-sSf", "http://catalog:8080/items"];
    e2e::eventually("the catalog serves", || mesh.workload("waiter").finish(&call).status.success());
    // The very first thing that a program does may be a call.
    for caller in ["first", "second", "third"] {
        let said = mesh.workload(caller).finish(&call);
        assert!(said.status.success(), "{said:?}");
    }
}

#[test]
fn without_a_control_plane_the_program_does_not_start_and_the_reason_is_told() {
    let mut mesh = Mesh::start("");
    let run = mesh.workload("program").options(&["--ready-timeout", "5s"]);
    let mut command = run.command(&["echo", "started"]);
    mesh.control_plane().kill();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("meshwork");
    let mut ended = None;
    e2e::eventually("it gives up, or is asked to", || {
        ended = child.try_wait().expect("a child");
        ended.is_some()
    });
    let output = child.wait_with_output().expect("it has ended");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(errors.contains("control plane"), "{errors}");
}
