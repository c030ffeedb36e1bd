//! `meshwork status`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use meshwork_model::problem::{Code, Severity};
use serde_json::Value;

use super::api::Api;
use super::output::{self, Format};
use super::problems::{self, Texts};
use super::wait::{Proxy, Status};
use super::writes::NOT_EVERYWHERE;
use super::{runtime, table};

/// Show what each proxy runs, what it refuses, and how far it is behind
///
/// `applied`: the proxy has swapped the newest config in. `acknowledged`: an Envoy or a gRPC program has accepted it, and
/// does not say more. `pending`: it has not answered yet. `refused`: it runs the last good version of what it names.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  meshwork status
  meshwork status shop/cart-1
  meshwork status --revision 12 && echo everywhere
  meshwork status --problems

Exit codes: 0 done; 1 failed; 3 with --revision, where a proxy does not have it.")]
pub(crate) struct StatusOf {
    /// The proxy, as NAMESPACE/NAME or NAME; all of them where it is left out
    #[arg(value_name = "PROXY")]
    proxy: Option<String>,

    /// Show who has this revision of the config
    #[arg(long, value_name = "REVISION")]
    revision: Option<u64>,

    /// Show what is wrong with the config that is applied, and with workloads
    #[arg(long, conflicts_with_all = ["proxy", "revision"])]
    problems: bool,

    #[command(flatten)]
    api: Api,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

impl StatusOf {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        if self.problems {
            return self.problems();
        }
        let asked = async {
            let client = self.api.client()?;
            let told = Status::ask_value(&client, self.revision).await?;
            // An older control plane, or one that is in trouble, tells what it can.
            let problems = client.get("/api/v1/problems").await.unwrap_or_default();
            Ok((told, problems))
        };
        let (mut told, all) = runtime::on_this_thread(asked)?;
        let mut status: Status = serde_json::from_value(told.clone())?;
        if let Some(wanted) = &self.proxy {
            status.proxies.retain(|proxy| proxy.name == *wanted || proxy.full_name() == *wanted);
            if status.proxies.is_empty() {
                bail!("the control plane knows no proxy {wanted}; `meshwork status` lists those it knows");
            }
            told["proxies"] = serde_json::to_value(&status.proxies)?;
        }
        if !self.output.print(&told)? {
            self.tell(&status);
            warn_of_authority(&all);
        }
        let lacks = |revision: u64| status.proxies.iter().any(|proxy| proxy.revision < revision);
        Ok(if self.revision.is_some_and(lacks) { ExitCode::from(NOT_EVERYWHERE) } else { ExitCode::SUCCESS })
    }

    fn problems(&self) -> anyhow::Result<ExitCode> {
        let asked = async { self.api.client()?.get("/api/v1/problems").await };
        let told = runtime::on_this_thread(asked)?;
        if self.output.print(&told)? {
            return Ok(ExitCode::SUCCESS);
        }
        let all = told.as_array().map_or(&[][..], Vec::as_slice);
        if all.is_empty() {
            output::note("nothing is wrong");
        }
        let texts = Texts::new();
        for problem in all.iter().map(|value| problems::of_json(value, &texts)) {
            let level = if problem.severity == Severity::Error { "error" } else { "warning" };
            output::line(format_args!("{level}[{}]: {problem}", problem.code.words().code));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn tell(&self, status: &Status) {
        let revision = self.revision.unwrap_or(status.revision);
        if status.proxies.is_empty() {
            output::note(format_args!("revision {revision}; no proxy has connected yet"));
            return;
        }
        let rows: Vec<_> = status.proxies.iter().map(row).collect();
        let head = ["PROXY", "DIALECT", "STATE", "REVISION", "VERSION", "BEHIND"];
        output::line(table::render(&head, &rows, output::colours()).trim_end());
        for proxy in &status.proxies {
            for refused in &proxy.refused {
                output::line(format_args!(
                    "{} refuses {}: {}",
                    proxy.full_name(),
                    refused.resource,
                    refused.why
                ));
            }
        }
        let have = status.proxies.iter().filter(|proxy| proxy.revision >= revision).count();
        output::line(format_args!("{have} of {} have revision {revision}", status.proxies.len()));
    }
}

/// Who looks at proxies is to see that the certificate authority needs somebody.
fn warn_of_authority(problems: &Value) {
    let texts = Texts::new();
    let all = problems.as_array().into_iter().flatten().map(|value| problems::of_json(value, &texts));
    for problem in all.filter(|problem| problem.code == Code::Authority) {
        output::note(format_args!("warning[{}]: {problem}", problem.code.words().code));
    }
}

fn row(proxy: &Proxy) -> Vec<String> {
    /// As many letters of a version as tell two apart.
    const SHORT: usize = 8;
    let behind = match proxy.stale_seconds {
        none if none <= 0.0 => "-".to_owned(),
        seconds => for_people(Duration::try_from_secs_f64(seconds).unwrap_or_default()),
    };
    vec![
        proxy.full_name(),
        proxy.dialect.clone(),
        proxy.state.clone(),
        proxy.revision.to_string(),
        proxy.version.chars().take(SHORT).collect(),
        behind,
    ]
}

/// `0.3 s`, `12 s`, `5 min`, `3 h`
fn for_people(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        seconds @ 10..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_proxy_is_a_row() {
        let check = |stale: f64, expected: &str| {
            let proxy = json!({
                "namespace": "shop", "name": "cart-1", "connected": true, "dialect": "envoy", "state": "pending",
                "revision": 3, "version": "0123456789abcdef", "staleSeconds": stale,
            });
            let proxy: Proxy = serde_json::from_value(proxy).expect("a proxy");
            assert_eq!(row(&proxy), ["shop/cart-1", "envoy", "pending", "3", "01234567", expected]);
        };
        check(0.0, "-");
        check(0.25, "0.2 s");
        check(75.0, "75 s");
        check(600.0, "10 min");
        check(90_000.0, "25 h");
    }
}
