//! `meshwork ca`.

mod bundle;
mod progress;
mod revocations;
mod rotate;
mod status;

use std::process::ExitCode;

use clap::Subcommand;
use serde::Deserialize;
use serde_json::Value;

/// Look after the certificate authority: its roots, their rotation, and who is revoked
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  meshwork ca status
  meshwork ca rotate
  meshwork ca rotate --without-offline
  meshwork ca abort
  meshwork ca revoke --identity shop/web --reason 'its key was stolen'
  meshwork ca unrevoke --identity shop/web

Changes are for who has the control plane's Unix socket (its own user and root), or a token with the role admin everywhere: \
`meshwork api-token create NAME --role admin`.")]
pub(crate) struct Ca {
    #[command(subcommand)]
    command: CaCommand,
}

#[derive(Subcommand)]
enum CaCommand {
    Status(status::CaStatus),
    Rotate(rotate::Rotate),
    Abort(rotate::Abort),
    Revoke(revocations::Revoke),
    Unrevoke(revocations::Unrevoke),
    Revocations(revocations::Revocations),
    Bundle(bundle::CaBundle),
}

impl Ca {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            CaCommand::Rotate(command) => return command.run(),
            CaCommand::Abort(command) => return command.run(),
            CaCommand::Status(command) => command.run()?,
            CaCommand::Revoke(command) => command.run()?,
            CaCommand::Unrevoke(command) => command.run()?,
            CaCommand::Revocations(command) => command.run()?,
            CaCommand::Bundle(command) => command.run()?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Where the API tells of it.
const PATH: &str = "/api/v1/ca";

/// The authority, as the API tells it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Authority {
    trust_domain: String,
    roots: Vec<Root>,
    intermediates: Vec<Intermediate>,
    rotation: Option<Rotation>,
    revoked: Revoked,
    #[serde(default)]
    federated: Vec<Value>,
    #[serde(default)]
    trouble: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Root {
    fingerprint: String,
    role: String,
    not_before: String,
    not_after: String,
    #[serde(default)]
    plugged: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Intermediate {
    replica: String,
    serial: String,
    root: String,
    not_after: String,
    #[serde(default)]
    plugged: bool,
    #[serde(default)]
    is_own: bool,
}

#[derive(Debug, Deserialize)]
struct Revoked {
    identities: usize,
    serials: usize,
}

/// How far a rotation is.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rotation {
    number: u64,
    step: Step,
    #[serde(default)]
    aborting: bool,
    running: bool,
    from: String,
    to: Option<String>,
    by: String,
    started_at: String,
    changed_at: String,
    #[serde(default)]
    without: Vec<String>,
    #[serde(default)]
    without_offline: bool,
    concerned: usize,
    done: usize,
    waiting: Vec<Waiting>,
    #[serde(default)]
    hidden: usize,
    trouble: Option<String>,
}

/// The steps of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Step {
    Starting,
    Added,
    Switched,
    SwitchedBack,
    Removed,
    Aborted,
    Lost,
}

/// Somebody who is waited for.
#[derive(Clone, Debug, Deserialize)]
struct Waiting {
    name: String,
    reason: String,
    message: String,
}

impl Step {
    /// What it is in a word.
    fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Added => "added",
            Self::Switched => "switched",
            Self::SwitchedBack => "switched back",
            Self::Removed => "removed",
            Self::Aborted => "aborted",
            Self::Lost => "lost",
        }
    }
}

impl Rotation {
    /// What those who are done with the step do; nothing where nobody has to do anything.
    fn shown(&self) -> Option<&'static str> {
        match (self.step, self.aborting) {
            (Step::Added, false) => Some("trust the next root"),
            (Step::Switched, false) => Some("have a certificate under the next root"),
            (Step::SwitchedBack, _) => Some("have a certificate under the earlier root again"),
            _ => None,
        }
    }
}

/// Fingerprints in few letters, as many as tell two apart.
fn short(fingerprint: &str) -> &str {
    const LETTERS: usize = 16;
    fingerprint.get(..LETTERS).unwrap_or(fingerprint)
}
