//! `meshwork token`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use clap::Subcommand;
use meshwork_control_plane::store::{Store, TokenRequest};
use meshwork_identity::files::write_private;
use serde_json::{Value, json};

use super::folders;
use super::output::{self, Format};

/// Make join tokens, with which workloads enrol
///
/// `meshwork run` makes its own where the control plane is on the same machine. Tokens of the control plane's API are made by
/// `meshwork api-token`.
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
#[command(after_help = "\
Examples:
  meshwork token create -n shop --service-account cart --workload cart-1 --label app=cart \\
    --out cart.token
  meshwork sidecar --workload cart-1 --token-file cart.token --trust-bundle bundle.pem \\
    --state cart --inbound '8080=127.0.0.1:0>127.0.0.1:8080'
  meshwork token create -n shop --service-account host-agent --workload agent --out agent.token
  meshwork agent --token-file agent.token --trust-bundle bundle.pem --state agent

bundle.pem is in the control plane's state folder; it is public.

Exit codes: 0 it is made; 1 it is not; 2 the command line is wrong.")]
struct Create {
    /// The control plane's state folder; `$XDG_STATE_HOME/meshwork/control-plane`, as of the control plane, where it is left out
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,

    /// Members of the etcd that the control plane keeps its tokens in, where it runs with others than last time
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    etcd: Vec<String>,

    /// The workload's namespace
    #[arg(short, long)]
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
        create.run()
    }
}

impl Create {
    fn run(self) -> anyhow::Result<()> {
        let state = match self.state {
            Some(state) => state,
            None => folders::control_plane()?,
        };
        let request = TokenRequest {
            namespace: self.namespace,
            service_account: self.service_account,
            workload: self.workload,
            labels: self.labels.into_iter().collect(),
            ttl: self.ttl,
        };
        if !state.join("bundle.pem").exists() {
            bail!(
                "no control plane has used {}: --state must be the same folder as the control plane's",
                state.display()
            );
        }
        let token = Store::open_shared(&state, &self.etcd)?.create_token(&request)?;
        match self.out {
            Some(path) => {
                write_private(&path, token.as_bytes())?;
                output::note(written(&path, &request));
            }
            None if self.output.print(&told(&token, &request))? => {}
            None => output::line(token),
        }
        Ok(())
    }
}

/// What a token that is in a file is good for, and how it is used.
fn written(path: &Path, request: &TokenRequest) -> String {
    let TokenRequest { namespace, service_account, workload, ttl, .. } = request;
    format!(
        "{} is good for one enrolment of {namespace}/{workload} as {namespace}/{service_account}, for {} s; hand it over by \
         --workload {workload} --token-file",
        path.display(),
        ttl.as_secs()
    )
}

/// The same for programs.
fn told(token: &str, request: &TokenRequest) -> Value {
    json!({
        "token": token,
        "namespace": request.namespace,
        "serviceAccount": request.service_account,
        "workload": request.workload,
        "expiresInSeconds": request.ttl.as_secs(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_token_is_good_for_is_told_beside_it() {
        let request = TokenRequest {
            namespace: "shop".to_owned(),
            service_account: "cart".to_owned(),
            workload: "cart-1".to_owned(),
            labels: [].into(),
            ttl: Duration::from_mins(10),
        };
        let text = written(Path::new("cart.token"), &request);
        assert!(text.contains("of shop/cart-1 as shop/cart, for 600 s"), "{text}");
        let told = told("t", &request);
        assert_eq!((&told["token"], &told["expiresInSeconds"]), (&json!("t"), &json!(600)));
    }
}
