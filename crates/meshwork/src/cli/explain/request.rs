//! What becomes of one request, and why.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use meshwork_control_plane as control_plane;
use meshwork_control_plane::explain::{Explanation, Question, explain_config};
use serde_json::Value;

use crate::cli::api::Api;
use crate::cli::output::{self, Format};
use crate::cli::{problems, runtime};

/// A request, and whom to ask about it.
#[derive(clap::Args)]
pub(super) struct Asked {
    #[command(flatten)]
    api: Api,

    /// Who asks: WORKLOAD or WORKLOAD.NAMESPACE, or a SPIFFE ID; of a gateway its workload
    #[arg(long, value_name = "WORKLOAD|SPIFFE-ID", requires = "to")]
    from: Option<String>,

    /// What is called: SERVICE, SERVICE.NAMESPACE or SERVICE.NAMESPACE:PORT, or a host outside; through a gateway the
    /// host that is asked for
    #[arg(long, value_name = "SERVICE", requires = "from")]
    to: Option<String>,

    /// A header field, `name: value`; may be repeated. `host` is that of the service where it is not said
    #[arg(short = 'H', long = "header", value_name = "FIELD", requires = "from", value_parser = header)]
    headers: Vec<(String, String)>,

    /// Claims of a token, as JSON; its signature and place are taken to be good
    #[arg(long, value_name = "JSON", requires = "from", value_parser = claims)]
    claims: Option<Value>,

    /// From which address the connection is opened; the caller's own where it is not said
    #[arg(long, value_name = "IP", requires = "from")]
    source_ip: Option<IpAddr>,

    /// The server name that the program itself asks for by TLS
    #[arg(long, value_name = "NAME", requires = "from")]
    sni: Option<String>,

    /// Explain by this folder of config, which need not be running, in place of a control plane
    #[arg(long, value_name = "DIR", requires = "from", conflicts_with_all = ["url", "token", "token_file"])]
    config: Option<PathBuf>,
}

impl Asked {
    /// Whether a request is asked about.
    pub(super) fn is_asked(&self) -> bool {
        self.from.is_some()
    }

    /// Explains it.
    ///
    /// # Errors
    /// Nobody answers, or what is asked makes no sense.
    pub(super) fn run(
        self,
        method: Option<String>,
        path: Option<String>,
        format: Format,
    ) -> anyhow::Result<()> {
        let (Some(from), Some(to)) = (&self.from, &self.to) else {
            bail!("who asks what? say both --from and --to");
        };
        let mut question = Question::new(from.as_str(), to.as_str());
        // `meshwork explain --from web --to cart /items`
        match (method, path) {
            (Some(path), None) if path.starts_with('/') => question.path = path,
            (method, path) => {
                question.method = method.unwrap_or(question.method);
                question.path = path.unwrap_or(question.path);
            }
        }
        question.headers.clone_from(&self.headers);
        question.claims.clone_from(&self.claims);
        question.source_ip = self.source_ip;
        question.sni.clone_from(&self.sni);
        let explanation = match &self.config {
            Some(folder) => of_folder(folder, &question)?,
            None => self.of_mesh(&question)?,
        };
        if !format.print(&explanation)? {
            output::line(explanation.to_string().trim_end());
        }
        Ok(())
    }

    fn of_mesh(&self, question: &Question) -> anyhow::Result<Explanation> {
        let client = self.api.client()?;
        let body = serde_json::to_value(question)?;
        let answer = runtime::on_this_thread(async move { client.post("/api/v1/explain", &body).await })?;
        serde_json::from_value(answer).context("the control plane answers in words of another version")
    }
}

fn of_folder(folder: &std::path::Path, question: &Question) -> anyhow::Result<Explanation> {
    let loaded = control_plane::ingest::read_dir(folder);
    if problems::errors(&loaded.problems) > 0 {
        problems::print(&loaded.problems, &loaded.sources);
        bail!("nothing of {} can be explained before its errors are mended", folder.display());
    }
    explain_config(&loaded.config, question, SystemTime::now()).map_err(anyhow::Error::msg)
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("expected `name: value`")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn claims(text: &str) -> Result<Value, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("this is no JSON: {error}"))?;
    if value.is_object() {
        Ok(value)
    } else {
        Err("expected a JSON object, as {\"iss\": \"https://…\"}".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_claims_are_read() {
        assert_eq!(header("x-a:  b:c "), Ok(("x-a".to_owned(), "b:c".to_owned())));
        assert!(header("x-a").is_err());
        assert!(claims("{\"iss\": \"i\"}").is_ok());
        assert!(claims("[]").is_err() && claims("{").is_err());
    }
}
