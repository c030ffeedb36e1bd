//! `meshwork api-token`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use meshwork_identity::files::write_private;
use serde_json::{Value, json};

use super::api::{Api, OWN, encoded};
use super::output::{self, Format};
use super::{runtime, writes};

/// Make and end tokens of the control plane's API, for pipelines and for people of other teams
///
/// Its own user and root need none: they have the Unix socket. Tokens with which workloads enrol are made by `meshwork token`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  meshwork api-token create shop-pipeline --role editor -n shop --out shop.token
  meshwork apply --api http://127.0.0.1:15040 --token-file shop.token -f shop.yaml
  meshwork api-token end shop-pipeline")]
pub(crate) struct ApiToken {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Subcommand)]
enum TokenCommand {
    Create(Create),
    End(End),
}

/// Make a token, in place of earlier ones of its name; it is told once, and only its hash is kept
#[derive(clap::Args)]
struct Create {
    /// Who it is for, as the history and the audit log name them
    name: String,

    /// What it is good for
    #[arg(long, value_enum)]
    role: Role,

    /// A namespace that it is good for; may be repeated; all of them where it is left out
    #[arg(short, long = "namespace", value_name = "NAMESPACE")]
    namespaces: Vec<String>,

    /// Write the token to this file, which only you can read, in place of printing it
    #[arg(long, value_name = "FILE", conflicts_with = "output")]
    out: Option<PathBuf>,

    #[command(flatten)]
    api: Api,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

/// End all tokens of a name
#[derive(clap::Args)]
struct End {
    /// The name
    name: String,

    #[command(flatten)]
    api: Api,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

/// What a token is good for.
#[derive(Clone, Copy, ValueEnum)]
enum Role {
    /// Reading all but secrets.
    Viewer,
    /// Reading and changing resources.
    Editor,
    /// Everything, tokens among it.
    Admin,
}

impl ApiToken {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.command {
            TokenCommand::Create(command) => command.run(),
            TokenCommand::End(command) => command.run(),
        }
    }
}

impl Create {
    fn run(self) -> anyhow::Result<()> {
        let asked = async { self.api.client()?.post(&format!("{OWN}/tokens"), &self.body()).await };
        let told = runtime::on_this_thread(asked)?;
        let token = told["token"].as_str().context("the answer has no token")?;
        match &self.out {
            Some(path) => {
                write_private(path, token.as_bytes())?;
                output::note(format_args!("{} is good by --token-file, until it is ended", path.display()));
            }
            None if self.output.print(&told)? => {}
            None => output::line(token),
        }
        Ok(())
    }

    fn body(&self) -> Value {
        let role = match self.role {
            Role::Viewer => "viewer",
            Role::Editor => "editor",
            Role::Admin => "admin",
        };
        let namespaces = if self.namespaces.is_empty() { json!(["*"]) } else { json!(self.namespaces) };
        json!({ "name": self.name, "grants": [{ "role": role, "namespaces": namespaces }] })
    }
}

impl End {
    fn run(self) -> anyhow::Result<()> {
        let path = format!("{OWN}/tokens/{}", encoded(&self.name));
        let asked = async { self.api.client()?.delete(&path).await };
        let told = runtime::on_this_thread(asked)?;
        if !self.output.print(&told)? {
            let ended = told["ended"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or_default();
            output::line(format_args!("{} ended", writes::counted(ended, "token")));
        }
        Ok(())
    }
}
