//! The cases.

use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use rustix::process::Signal;

use crate::scene::{
    free_port, inside, journal, noted, pid, processes_with, role, said, shell, shell_said, start, this, until,
};

type Case = fn();

/// Every case, by what it states.
pub(crate) const ALL: &[(&str, Case)] = &[
    ("every_step_works_and_check_says_so", every_step_works_and_check_says_so),
    ("connections_to_anywhere_reach_the_proxy", connections_to_anywhere_reach_the_proxy),
    ("queries_to_anywhere_reach_the_proxy", queries_to_anywhere_reach_the_proxy),
    ("everything_else_is_refused_at_once", everything_else_is_refused_at_once),
    ("the_hosts_loopback_is_not_there", the_hosts_loopback_is_not_there),
    ("the_program_has_its_user_and_no_privileges", the_program_has_its_user_and_no_privileges),
    ("the_program_sees_its_own_processes_alone", the_program_sees_its_own_processes_alone),
    ("names_are_looked_up_by_the_proxy", names_are_looked_up_by_the_proxy),
    ("folders_of_keys_are_not_seen", folders_of_keys_are_not_seen),
    ("low_ports_and_pings_are_open", low_ports_and_pings_are_open),
    ("streams_folder_and_variables_pass_through", streams_folder_and_variables_pass_through),
    ("codes_and_signals_pass_through", codes_and_signals_pass_through),
    (
        "inbound_connections_come_from_the_sidecars_address",
        inbound_connections_come_from_the_sidecars_address,
    ),
    (
        "termination_reaches_the_program_and_then_the_sidecar",
        termination_reaches_the_program_and_then_the_sidecar,
    ),
    ("a_program_that_stays_is_killed_after_its_grace", a_program_that_stays_is_killed_after_its_grace),
    ("a_dead_sidecar_is_replaced_on_the_same_sockets", a_dead_sidecar_is_replaced_on_the_same_sockets),
    ("nothing_outlives_a_killed_supervisor", nothing_outlives_a_killed_supervisor),
    ("children_end_with_their_program", children_end_with_their_program),
    ("a_program_starts_only_when_the_proxy_is_ready", a_program_starts_only_when_the_proxy_is_ready),
    ("commands_are_probed_beside_the_program", commands_are_probed_beside_the_program),
    ("a_proxy_that_was_taken_over_has_nothing_run", a_proxy_that_was_taken_over_has_nothing_run),
    ("a_program_that_is_not_well_is_started_anew", a_program_that_is_not_well_is_started_anew),
    ("a_program_that_is_not_there_is_named", a_program_that_is_not_there_is_named),
];

fn every_step_works_and_check_says_so() {
    let output = role("check").output().expect("checked");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

fn connections_to_anywhere_reach_the_proxy() {
    let check = |to: &str, expected: &str| assert_eq!(said(&["connect", to]), expected, "{to}");
    check("240.0.0.9:80", "240.0.0.5 to 240.0.0.9:80");
    check("192.0.2.7:443", "240.0.0.5 to 192.0.2.7:443");
    check("169.254.169.254:80", "240.0.0.5 to 169.254.169.254:80");
    check("[fd6d:6573:6877::9]:80", "fd6d:6573:6877::5 to [fd6d:6573:6877::9]:80");
    check("[2001:db8::1]:443", "fd6d:6573:6877::5 to [2001:db8::1]:443");
    // Over TCP, too.
    check("192.0.2.7:53", "240.0.0.5 to 192.0.2.7:53");
    // Its own addresses are the program's.
    check("240.0.0.5:80", "ConnectionRefused");
}

fn queries_to_anywhere_reach_the_proxy() {
    for to in ["127.0.0.1:53", "127.0.0.53:53", "192.0.2.53:53", "[::1]:53", "[2001:db8::53]:53"] {
        assert_eq!(said(&["send", to]), format!("{to}: catalog"));
    }
}

fn everything_else_is_refused_at_once() {
    for to in ["192.0.2.1:123", "[2001:db8::1]:443", "224.0.0.251:5353"] {
        assert_eq!(said(&["send", to]), "PermissionDenied", "{to}");
    }
    assert_eq!(said(&["raw"]), "PermissionDenied");
}

fn the_hosts_loopback_is_not_there() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("address").to_string();
    assert_eq!(said(&["connect", &address]), "ConnectionRefused");
}

fn the_program_has_its_user_and_no_privileges() {
    let status = shell_said("cat /proc/self/status; id -u; id -g");
    for line in [
        "CapEff:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapBnd:\t0000000000002400",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "{status}");
    }
    let user = rustix::process::geteuid().as_raw().to_string();
    assert!(status.ends_with(&format!("{user}\n{}", rustix::process::getegid().as_raw())), "{status}");
    // Not even in a user namespace of its own, nor from the first process, which lives in the same one.
    for text in [
        "unshare -U --map-root-user nft flush ruleset",
        "unshare -U --map-root-user ip link set lo down",
        "cat /proc/1/environ",
        "readlink /proc/1/fd/3",
        "cat /proc/1/fd/3",
        "nsenter --target 1 --user true",
    ] {
        assert!(!shell(text).status.success(), "{text}");
    }
    assert_eq!(shell_said("kill -9 1; kill -TERM 1; kill -INT 1; echo lives"), "lives");
}

fn the_program_sees_its_own_processes_alone() {
    let listed = shell_said("ls /proc | grep -c '^[0-9]*$'");
    assert!(listed.parse::<u32>().expect("number") <= 4, "{listed}");
}

fn names_are_looked_up_by_the_proxy() {
    let text = shell_said("cat /etc/resolv.conf; grep hosts: /etc/nsswitch.conf || echo hosts: files dns");
    assert!(
        text.starts_with("nameserver 127.0.0.1\nnameserver ::1\nsearch shop.svc.cluster.local "),
        "{text}"
    );
    assert!(text.ends_with("hosts: files dns"), "{text}");
}

fn folders_of_keys_are_not_seen() {
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("key.pem");
    fs::write(&key, "secret").expect("written");
    let mut command = role("run");
    command.args(["/bin/cat".as_ref(), key.as_os_str()]).env("TEST_HIDDEN", folder.path());
    let output = command.output().expect("run");
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert_eq!(fs::read_to_string(&key).expect("still there"), "secret");
}

fn low_ports_and_pings_are_open() {
    assert_eq!(shell_said("ping -c1 -W5 127.0.0.1 >/dev/null && echo pong"), "pong");
    let mut low = start(&[this().to_str().expect("text"), "inside", "listen", "127.0.0.1:80"], |_| {});
    assert_eq!(low.line(), "listening");
    low.signal(Signal::TERM);
    assert_eq!(low.ended().signal(), Some(Signal::TERM.as_raw()));
}

fn streams_folder_and_variables_pass_through() {
    let folder = tempfile::tempdir().expect("folder");
    let mut program =
        start(&["sh", "-c", "pwd; echo $GREETING; read line; echo $line; echo ill >&2"], |command| {
            command.current_dir(folder.path()).stderr(Stdio::piped());
        });
    assert_eq!(program.line(), folder.path().to_str().expect("text"));
    assert_eq!(program.line(), "hello");
    program.say("typed\n");
    assert_eq!(program.line(), "typed");
    assert!(program.ended().success());
    let mut words = String::new();
    program.child.stderr.take().expect("piped").read_to_string(&mut words).expect("text");
    assert!(words.contains("ill"), "{words}");
}

fn codes_and_signals_pass_through() {
    let check = |text: &str, code: Option<i32>, signal: Option<i32>| {
        let status = shell(text).status;
        assert_eq!((status.code(), status.signal()), (code, signal), "{text}");
    };
    check("exit 0", Some(0), None);
    check("exit 42", Some(42), None);
    check("exit 255", Some(255), None);
    check("kill -TERM $$", None, Some(15));
    check("kill -KILL $$", None, Some(9));
    check("kill -PIPE $$", None, Some(13));
    check("kill -SEGV $$", None, Some(11));
}

fn inbound_connections_come_from_the_sidecars_address() {
    let port = free_port().to_string();
    let mut program =
        start(&[this().to_str().expect("text"), "inside", "listen", "127.0.0.1:8080"], |command| {
            command.env("TEST_INBOUND", &port);
        });
    assert_eq!(program.line(), "listening");
    // More than the stock holds.
    for _ in 0..40 {
        let mut said = String::new();
        TcpStream::connect(&port).expect("connected").read_to_string(&mut said).expect("text");
        assert_eq!(said, "198.18.0.2\n");
    }
    program.signal(Signal::TERM);
    program.ended();
}

fn termination_reaches_the_program_and_then_the_sidecar() {
    let (_folder, path) = journal();
    let script = "trap 'echo bye; exit 3' TERM; echo started; while :; do sleep 0.05; done";
    let mut program = start(&["sh", "-c", script], |command| {
        command.env("TEST_JOURNAL", &path);
    });
    assert_eq!(program.line(), "started");
    program.signal(Signal::TERM);
    assert_eq!(program.line(), "bye");
    assert_eq!(program.ended().code(), Some(3));
    assert_eq!(fs::read_to_string(&path).expect("journal"), "started\nterminated\n");
}

fn a_program_that_stays_is_killed_after_its_grace() {
    let mut program =
        start(&["sh", "-c", "trap '' TERM; echo started; while :; do sleep 0.05; done"], |command| {
            command.env("TEST_GRACE", "200");
        });
    assert_eq!(program.line(), "started");
    program.signal(Signal::TERM);
    assert_eq!(program.ended().signal(), Some(9));
}

fn a_dead_sidecar_is_replaced_on_the_same_sockets() {
    let (_folder, path) = journal();
    let this = this();
    let script = format!("echo started; while read to; do {} inside connect $to; done", this.display());
    let mark = format!("TEST_MARK=sidecar{}", std::process::id());
    let mut program = start(&["sh", "-c", &script], |command| {
        command.env("TEST_JOURNAL", &path).env("TEST_MARK", &mark["TEST_MARK=".len()..]);
    });
    assert_eq!(program.line(), "started");
    for times in 1..4 {
        noted(&path, "started", times);
        program.say("192.0.2.1:80\n");
        assert_eq!(program.line(), "240.0.0.5 to 192.0.2.1:80");
        let sidecars = sidecars_of(program.child.id());
        assert_eq!(sidecars.len(), 1, "{sidecars:?}");
        rustix::process::kill_process(pid(sidecars[0]), Signal::KILL).expect("killed");
        until("it is gone", || (sidecars_of(program.child.id()) != sidecars).then_some(()));
    }
    program.signal(Signal::KILL);
    program.ended();
}

/// The supervisor's children that are sidecars.
fn sidecars_of(supervisor: u32) -> Vec<u32> {
    let children =
        fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).unwrap_or_default();
    let all = children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
    all.filter(|pid: &u32| {
        fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().ends_with(b"\0sidecar\0")
    })
    .collect()
}

fn nothing_outlives_a_killed_supervisor() {
    let (_folder, path) = journal();
    let mark = format!("killed-{}-{}", std::process::id(), rustix::process::geteuid().as_raw());
    // A child that leaves its session, too.
    let script = "setsid sleep 1000 & sleep 1000 & trap '' TERM HUP INT; echo started; wait";
    let mut program = start(&["sh", "-c", script], |command| {
        command.env("TEST_JOURNAL", &path).env("TEST_MARK", &mark);
    });
    assert_eq!(program.line(), "started");
    assert!(processes_with(&mark).len() >= 2);
    program.signal(Signal::KILL);
    program.ended();
    noted(&path, "terminated", 1);
    until("nothing is left", || processes_with(&mark).is_empty().then_some(()));
}

fn children_end_with_their_program() {
    let mark = format!("ended-{}-{}", std::process::id(), rustix::process::geteuid().as_raw());
    let output =
        role("run").args(["sh", "-c", "setsid sleep 1000 & exit 4"]).env("TEST_MARK", &mark).output();
    assert_eq!(output.expect("run").status.code(), Some(4));
    assert_eq!(processes_with(&mark), Vec::<u32>::new());
}

fn a_program_starts_only_when_the_proxy_is_ready() {
    let (_folder, path) = journal();
    let mut command = role("run");
    command.args(["echo", "started"]).env("TEST_NEVER_READY", "1").env("TEST_READY_TIMEOUT", "500");
    let output = command.env("TEST_JOURNAL", &path).output().expect("run");
    assert_eq!((output.status.code(), output.stdout), (Some(125), Vec::new()));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("the control plane at 127.0.0.1:1"), "{words}");
    assert_eq!(fs::read_to_string(&path).expect("journal"), "started\nterminated\n");
}

fn commands_are_probed_beside_the_program() {
    let check = |command: &str, expected: &str| {
        let (_folder, path) = journal();
        let mut program = start(&["sleep", "1000"], |run| {
            run.env("TEST_JOURNAL", &path).env("TEST_PROBE", command).env("TEST_PROBES", command);
        });
        noted(&path, &format!(r#"{{"probed":{{"id":7,"failure":{expected}}}}}"#), 1);
        program.signal(Signal::TERM);
        program.ended();
    };
    check("test $(ls /proc | grep -c '^[0-9]*$') -lt 8", "null");
    check("exit 5", r#""it ended with code 5""#);
    check("sleep 1000 & wait", r#""it took too long""#);
}

fn a_proxy_that_was_taken_over_has_nothing_run() {
    for probes in ["", "true"] {
        let (folder, path) = journal();
        let made = folder.path().join("made");
        let mut program = start(&["sleep", "1000"], |run| {
            run.env("TEST_JOURNAL", &path).env("TEST_PROBE", format!("touch {}", made.display()));
            if !probes.is_empty() {
                run.env("TEST_PROBES", probes);
            }
        });
        let failure = "it is none of the commands that this workload is probed by";
        noted(&path, &format!(r#"{{"probed":{{"id":7,"failure":"{failure}"}}}}"#), 1);
        assert!(!made.exists(), "{probes:?}");
        program.signal(Signal::TERM);
        program.ended();
    }
}

fn a_program_that_is_not_well_is_started_anew() {
    let (folder, path) = journal();
    let now = folder.path().join("now");
    let script =
        "setsid sleep 1000 & trap 'echo bye; exit 3' TERM; echo started; while :; do sleep 0.05; done";
    let mut program = start(&["sh", "-c", script], |command| {
        command.env("TEST_RESTART", &now).env("TEST_JOURNAL", &path);
    });
    assert_eq!(program.line(), "started");
    fs::write(&now, "").expect("written");
    assert_eq!(program.line(), "bye");
    assert_eq!(program.line(), "started");
    program.signal(Signal::TERM);
    assert_eq!(program.line(), "bye");
    assert_eq!(program.ended().code(), Some(3));
    assert_eq!(fs::read_to_string(&path).expect("journal"), "started\nterminated\n");
}

fn a_program_that_is_not_there_is_named() {
    let output = role("run").arg("no-such-program").env("PATH", "/usr/bin:/bin").output().expect("run");
    assert_eq!(output.status.code(), Some(127));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("cannot start no-such-program"), "{words}");
    assert!(!inside(&["nonsense"]).status.success());
}
