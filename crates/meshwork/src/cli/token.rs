//! `meshwork token`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::Subcommand;
use meshwork_control_plane::store::{Store, TokenRequest};
use meshwork_identity::files::write_private;
use serde_json::json;

use super::output::{self, Format};

/// Make join tokens, with which workloads enrol
#[derive(clap::Args)]
pub(crate) struct Token {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Subcommand)]
enum TokenCommand {
    Create(Create),
}

/// Make a token, good for one enrolment
///
/// It is bound to an identity, a workload's name and its labels; only its hash is stored. Run it where the control
/// plane's state folder is.
#[derive(clap::Args)]
struct Create {
    /// The control plane's state folder
    #[arg(long, value_name = "DIR")]
    state: PathBuf,

    /// Members of the etcd that the control plane keeps its tokens in, where it runs with others than last time
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    etcd: Vec<String>,

    /// The workload's namespace
    #[arg(long)]
    namespace: String,

    /// The workload's service account: with the namespace, its identity
    #[arg(long)]
    service_account: String,

    /// The workload's name, unique in its namespace
    #[arg(long)]
    workload: String,

    /// A label that services select the workload by, as KEY=VALUE; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = super::label)]
    labels: Vec<(String, String)>,

    /// How long the token may wait to be used
    #[arg(long, value_name = "DURATION", value_parser = super::duration, default_value = "10m")]
    ttl: Duration,

    /// Write the token to this file, which only you can read, in place of printing it
    #[arg(long, value_name = "FILE", conflicts_with = "output")]
    out: Option<PathBuf>,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

impl Token {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let TokenCommand::Create(create) = self.command;
        let request = TokenRequest {
            namespace: create.namespace,
            service_account: create.service_account,
            workload: create.workload,
            labels: create.labels.into_iter().collect(),
            ttl: create.ttl,
        };
        if !create.state.join("bundle.pem").exists() {
            bail!(
                "no control plane has used {}: --state must be the same folder as the control plane's",
                create.state.display()
            );
        }
        let token = Store::open_shared(&create.state, &create.etcd)?.create_token(&request)?;
        match create.out {
            Some(path) => write_private(&path, token.as_bytes())?,
            None if create.output.print(&json!({ "token": token }))? => {}
            None => output::line(token),
        }
        Ok(())
    }
}
