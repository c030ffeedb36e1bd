//! `meshwork agent`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Subcommand;
use meshwork_agent::enrol;
use meshwork_agent::host::{self, Socket};
use meshwork_capture::sandbox::Needs;
use meshwork_identity::files::create_private_dir;
use serde_json::Value;

use super::output::{self, Format};
use super::workload::Joining;
use super::{runtime, table};
use crate::sandbox::Sandbox;
use crate::signals;

/// Where programs look for an agent of the host.
const OF_HOST: &str = "/run/meshwork/agent.sock";
/// Where they look for one of their user, below `$XDG_RUNTIME_DIR`.
const OF_USER: &str = "meshwork/agent.sock";

/// Serve the workloads of this host their identities: SPIFFE's Workload API, and SDS for Envoy
///
/// Enrols as a workload of its own. Which process is which workload is said by each `WorkloadRegistration` that names this
/// agent; it attests callers by what the kernel says of them: user, group, executable and its hash.
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  meshwork token create -n shop --service-account host-agent --workload agent --out agent.token
  meshwork agent --token-file agent.token --trust-bundle bundle.pem --state /var/lib/meshwork-agent
  meshwork agent status

Then: SPIFFE_ENDPOINT_SOCKET=unix:///run/meshwork/agent.sock, for any SPIFFE library; which program gets what is said by \
WorkloadRegistrations (docs/agent.md).

Exit codes: 0 it was asked to end; 1 it cannot serve, and says why; 2 the command line is wrong."
)]
pub(crate) struct Agent {
    #[command(subcommand)]
    command: Option<AgentCommand>,

    // These three are not within each other: clap does not see then that the outer one is there.
    #[command(flatten)]
    joining: Option<Joining>,

    #[command(flatten)]
    serve: Option<Serve>,

    #[command(flatten)]
    sandbox: Sandbox,
}

#[derive(Subcommand)]
enum AgentCommand {
    Status(Status),
}

/// Show what an agent holds, and who asks: for root and the agent's own user
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  meshwork agent status
  meshwork agent status --socket /run/meshwork/agent.sock -o json | jq .identity.renewal

Exit codes: 0 it answered; 1 it did not; 2 the command line is wrong.")]
struct Status {
    /// The agent's socket; `$XDG_RUNTIME_DIR/meshwork/agent.sock` or, as root, `/run/meshwork/agent.sock` where it is left out
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

#[derive(clap::Args)]
struct Serve {
    /// The folder that keeps the agent's own key and certificate; nothing of a workload's is written
    #[arg(long, value_name = "DIR")]
    state: PathBuf,

    /// The agent's name, the same as in its join token
    #[arg(long = "workload", value_name = "NAME", default_value = "agent")]
    name: String,

    /// Where workloads find the agent; `$XDG_RUNTIME_DIR/meshwork/agent.sock` or, as root, `/run/meshwork/agent.sock` where it
    /// is left out
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// Who may connect, as file permissions; who gets an identity is said by registrations alone; 666 as root, else 600,
    /// where it is left out
    #[arg(long, value_name = "MODE", value_parser = mode)]
    socket_mode: Option<u32>,
}

/// Parses permissions: `660`, `0666`.
fn mode(text: &str) -> Result<u32, String> {
    let expected = || format!("{text:?} are no permissions: three octal digits, such as 660");
    let digits = text.strip_prefix('0').unwrap_or(text);
    if digits.len() != 3 {
        return Err(expected());
    }
    u32::from_str_radix(digits, 8).map_err(|_| expected())
}

/// The socket of the agent that is nearest: as root that of the host, else that of the user.
fn socket(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    if rustix::process::geteuid().is_root() {
        return Ok(OF_HOST.into());
    }
    let folder = std::env::var_os("XDG_RUNTIME_DIR").filter(|value| !value.is_empty());
    let folder = folder.context("XDG_RUNTIME_DIR is not set: name the agent's socket by --socket")?;
    Ok(PathBuf::from(folder).join(OF_USER))
}

impl Agent {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match (self.command, self.joining, self.serve) {
            (Some(AgentCommand::Status(status)), ..) => status.run(),
            (None, Some(joining), Some(serve)) => serve.run(&joining, &self.sandbox),
            (None, ..) => anyhow::bail!("--trust-bundle and --state are needed; see `meshwork agent --help`"),
        }
    }
}

impl Serve {
    fn run(self, joining: &Joining, sandbox: &Sandbox) -> anyhow::Result<()> {
        let default = if rustix::process::geteuid().is_root() { 0o666 } else { 0o600 };
        let mode = self.socket_mode.unwrap_or(default);
        let socket = Socket { path: socket(self.socket.as_deref())?, mode };
        create_private_dir(&self.state)?;
        socket.make_folder()?;
        sandbox.enter(Needs {
            folders: vec![self.state.clone(), socket.folder().to_owned()],
            unix_sockets: true,
            other_processes: Some("attestation by executables"),
            ..Needs::default()
        })?;
        runtime::on_this_thread(async move {
            let mut signals = signals::Stop::listen()?;
            let enrolment = joining.enrolment(&self.state)?;
            let enrolled = tokio::select! {
                enrolled = enrol(&enrolment) => Arc::new(enrolled?),
                () = signals.asked() => return Ok(()),
            };
            let path = socket.path.display();
            let ready = || tracing::info!("workloads ask on unix://{path}");
            let stop = signals.asked();
            Ok(Box::pin(host::serve_host(enrolled, &self.name, &socket, ready, stop)).await?)
        })
    }
}

impl Status {
    fn run(self) -> anyhow::Result<()> {
        let socket = socket(self.socket.as_deref())?;
        let found = runtime::on_this_thread(async { Ok(host::status(&socket).await?) })?;
        if !self.output.print(&found)? {
            show(&found);
        }
        Ok(())
    }
}

fn show(found: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    output::line(own(found));
    let none = Vec::new();
    let list = |name: &str| found[name].as_array().unwrap_or(&none).clone();
    let workloads = list("workloads");
    if !workloads.is_empty() {
        output::line("");
        let row = |one: &Value| {
            let state = match one["error"].as_str() {
                Some(error) => format!("failed: {error}"),
                None => text(&one["state"]),
            };
            vec![text(&one["id"]), one["users"].to_string(), text(&one["expiresAt"]), state]
        };
        print(&["IDENTITY", "USERS", "UNTIL", "STATE"], &workloads.iter().map(row).collect::<Vec<_>>());
    }
    let callers = list("callers");
    if !callers.is_empty() {
        output::line("");
        let row = |one: &Value| {
            let identities: Vec<String> =
                one["identities"].as_array().unwrap_or(&none).iter().map(text).collect();
            let identities = if identities.is_empty() { "none".to_owned() } else { identities.join(" ") };
            vec![one["pid"].to_string(), one["uid"].to_string(), text(&one["executable"]), identities]
        };
        print(&["PID", "UID", "EXECUTABLE", "IDENTITIES"], &callers.iter().map(row).collect::<Vec<_>>());
    }
}

/// What an agent is itself, a line each.
fn own(found: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let (identity, renewal) = (&found["identity"], &found["identity"]["renewal"]);
    let mut lines = vec![format!("agent  {}  until {}", text(&identity["id"]), text(&identity["expiresAt"]))];
    lines.extend(renewal["due"].as_str().map(|due| format!("renews  about {due}")));
    if let Some(why) = renewal["failure"]["why"].as_str() {
        lines.push(format!("failed to renew  last at {}: {why}", text(&renewal["failure"]["at"])));
    }
    lines.push(match found["registrations"].as_u64() {
        Some(0) => "registrations  none: no WorkloadRegistration names this agent".to_owned(),
        Some(number) => format!("registrations  {number}"),
        None => "registrations  not told yet: the control plane has not answered since the start".to_owned(),
    });
    lines.join("\n")
}

fn print(head: &[&str], rows: &[Vec<String>]) {
    output::line(table::render(head, rows, output::colours()).trim_end());
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches as _};

    use super::*;

    #[test]
    fn it_serves_where_its_folder_and_the_bundle_are_named() {
        let command = Agent::augment_args(clap::Command::new("agent"));
        let matches = command.try_get_matches_from(["agent", "--trust-bundle", "a", "--state", "b"]);
        let agent = Agent::from_arg_matches(&matches.expect("valid")).expect("valid");
        assert!(agent.command.is_none() && agent.joining.is_some());
        assert_eq!(agent.serve.map(|serve| serve.state), Some(PathBuf::from("b")));
    }

    #[test]
    fn what_an_agent_is_is_told_with_what_goes_wrong() {
        let mut found = serde_json::json!({
            "identity": {"id": "spiffe://m/ns/shop/sa/agent", "expiresAt": "2026-01-02T00:00:00Z",
                "renewal": {"due": "2026-01-01T12:00:00Z", "last": null, "failure": null}},
            "registrations": 3,
        });
        let expected = "agent  spiffe://m/ns/shop/sa/agent  until 2026-01-02T00:00:00Z\nrenews  about 2026-01-01T12:00:00Z\n\
                        registrations  3";
        assert_eq!(own(&found), expected);
        found["registrations"] = 0.into();
        let failure = serde_json::json!({"at": "2026-01-01T12:00:01Z", "why": "no"});
        found["identity"]["renewal"]["failure"] = failure;
        let told = own(&found);
        assert!(told.contains("failed to renew  last at 2026-01-01T12:00:01Z: no\n"), "{told}");
        assert!(told.contains("no WorkloadRegistration names this agent"), "{told}");
    }

    #[test]
    fn permissions_are_octal() {
        assert_eq!(mode("660"), Ok(0o660));
        assert_eq!(mode("0666"), Ok(0o666));
        for bad in ["", "6", "66", "888", "6666", "rwx", "-66"] {
            assert!(mode(bad).is_err(), "{bad}");
        }
    }
}
