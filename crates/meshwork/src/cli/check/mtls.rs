//! `meshwork check mtls`.

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::cli::api::Api;
use crate::cli::output::{self, Format};
use crate::cli::{runtime, table};

/// Say for each port whether it could demand mTLS, and who would be cut off
///
/// Proxies count who calls without mTLS, by address; the control plane keeps that while it runs. A port with callers that
/// were all seen by mTLS can be STRICT; one that nobody calls tells nothing.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  meshwork check mtls
  meshwork check mtls --namespace shop --since 24h
  meshwork check mtls -o json | jq '.ports[] | select(.verdict == \"cutOff\")'

Exit codes: 0 strict is safe everywhere; 1 somebody would be cut off; 2 it cannot be told: a port \
without traffic, or the control plane does not answer.")]
pub(crate) struct Mtls {
    /// Only the workloads of this namespace
    #[arg(short, long)]
    namespace: Option<String>,

    /// How far to look back, such as 24h
    #[arg(long, value_name = "DURATION", value_parser = crate::cli::duration, default_value = "1h")]
    since: Duration,

    #[command(flatten)]
    api: Api,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

/// Somebody would be cut off.
const CUT_OFF: u8 = 1;
/// The verdict on such a port.
const CUTS_OFF: &str = "cutOff";
/// It cannot be told.
const UNKNOWN: u8 = 2;
/// Characters that a namespace has, so that it needs no escapes in a URL.
const PLAIN: fn(char) -> bool = |c| c.is_ascii_alphanumeric() || c == '-' || c == '.';
/// Callers of one port that are shown.
const MAX_CALLERS: usize = 20;

/// What the control plane says.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    listening_since: String,
    ports: Vec<Port>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    namespace: String,
    workload: String,
    #[serde(rename = "port")]
    number: u16,
    mode: String,
    said_by: String,
    mtls_share: Option<f64>,
    callers: Vec<Caller>,
    verdict: String,
    words: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Caller {
    source: String,
    names: Vec<String>,
    connections: u64,
    open: u64,
    requests: u64,
    last_seen: String,
}

impl Mtls {
    pub(super) fn run(&self) -> ExitCode {
        self.ask().unwrap_or_else(|error| {
            output::fail(&error);
            ExitCode::from(UNKNOWN)
        })
    }

    fn ask(&self) -> anyhow::Result<ExitCode> {
        let mut path = format!("/api/v1/mtls?since={}", self.since.as_secs());
        if let Some(namespace) = &self.namespace {
            anyhow::ensure!(namespace.chars().all(PLAIN), "{namespace:?} is no namespace");
            path = format!("{path}&namespace={namespace}");
        }
        let asked = async { self.api.client()?.get(&path).await };
        let value: Value = runtime::on_this_thread(asked)?;
        let told: Told = serde_json::from_value(value.clone())?;
        if !self.output.print(&value)? {
            tell(&told, self.namespace.as_deref());
        }
        Ok(ExitCode::from(code(&told.ports)))
    }
}

fn tell(told: &Told, namespace: Option<&str>) {
    if told.ports.is_empty() {
        let place = namespace.map(|name| format!(" in the namespace {name}")).unwrap_or_default();
        output::note(format_args!(
            "there is no workload with a port that others call{place}; `meshwork status` lists who is connected"
        ));
        return;
    }
    let rows: Vec<Vec<String>> = told.ports.iter().map(row).collect();
    let head = ["WORKLOAD", "PORT", "MODE", "SAID BY", "MTLS", "VERDICT"];
    output::line(table::render(&head, &rows, output::colours()).trim_end());
    for port in told.ports.iter().filter(|port| port.verdict == CUTS_OFF) {
        output::line(format_args!("\n{} would lose:", name(port)));
        let rows: Vec<Vec<String>> = port.callers.iter().take(MAX_CALLERS).map(caller).collect();
        let head = ["CALLER", "KNOWN AS", "CONNECTIONS", "OPEN", "REQUESTS", "LAST SEEN"];
        output::line(table::render(&head, &rows, output::colours()).trim_end());
        if let Some(more) = port.callers.len().checked_sub(MAX_CALLERS).filter(|more| *more > 0) {
            output::line(format_args!("and {more} more (-o json shows all)"));
        }
    }
    output::note(format_args!("\nthe control plane has listened since {}", told.listening_since));
}

/// Cut off goes before unknown: that is what somebody has to act on.
fn code(ports: &[Port]) -> u8 {
    let any = |verdict: &str| ports.iter().any(|port| port.verdict == verdict);
    match (any(CUTS_OFF), any("unknown") || ports.is_empty()) {
        (true, _) => CUT_OFF,
        (false, true) => UNKNOWN,
        (false, false) => 0,
    }
}

fn name(port: &Port) -> String {
    format!("{}/{}:{}", port.namespace, port.workload, port.number)
}

fn row(port: &Port) -> Vec<String> {
    let share = port.mtls_share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0));
    vec![
        format!("{}/{}", port.namespace, port.workload),
        port.number.to_string(),
        port.mode.clone(),
        port.said_by.clone(),
        share,
        verdict(port),
    ]
}

/// In words, with the callers that would be cut off.
fn verdict(port: &Port) -> String {
    const SHOWN: usize = 3;
    // Of one that is strict, they are those of before.
    if port.verdict != CUTS_OFF {
        return port.words.clone();
    }
    let known = |caller: &Caller| match &*caller.names {
        [one] => one.clone(),
        _ => caller.source.clone(),
    };
    let mut who: Vec<String> = port.callers.iter().take(SHOWN).map(known).collect();
    if port.callers.len() > SHOWN {
        who.push("…".to_owned());
    }
    format!("{}: {}", port.words, who.join(", "))
}

fn caller(caller: &Caller) -> Vec<String> {
    let is_loopback = caller.source.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    let names = match &*caller.names {
        [] if is_loopback => "a program on that host".to_owned(),
        [] => "-".to_owned(),
        [one] => one.clone(),
        several => format!("one of {}", several.join(", ")),
    };
    vec![
        caller.source.clone(),
        names,
        caller.connections.to_string(),
        caller.open.to_string(),
        caller.requests.to_string(),
        caller.last_seen.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(verdict: &str, callers: Vec<Caller>) -> Port {
        Port {
            namespace: "shop".to_owned(),
            workload: "cart".to_owned(),
            number: 8080,
            mode: "PERMISSIVE".to_owned(),
            said_by: "PeerAuthentication shop/default".to_owned(),
            mtls_share: Some(0.755),
            callers,
            verdict: verdict.to_owned(),
            words: "2 callers would be cut off".to_owned(),
        }
    }

    fn from(source: &str, names: &[&str]) -> Caller {
        Caller {
            source: source.to_owned(),
            names: names.iter().map(|&name| name.to_owned()).collect(),
            connections: 1,
            open: 0,
            requests: 3,
            last_seen: "2026-01-01T00:00:00Z".to_owned(),
        }
    }

    #[test]
    fn the_worst_verdict_decides_the_exit_code() {
        let check = |verdicts: &[&str], expected: u8| {
            let ports: Vec<Port> = verdicts.iter().map(|verdict| port(verdict, vec![])).collect();
            assert_eq!(code(&ports), expected, "{verdicts:?}");
        };
        check(&["strict", "safe"], 0);
        check(&["safe", "unknown"], UNKNOWN);
        check(&["unknown", "cutOff", "safe"], CUT_OFF);
        check(&[], UNKNOWN);
    }

    #[test]
    fn callers_are_named_where_one_name_is_known() {
        let callers = vec![from("10.0.0.7", &["shop/web"]), from("127.0.0.1", &["shop/a", "shop/b"])];
        let port = port("cutOff", callers);
        assert_eq!(verdict(&port), "2 callers would be cut off: shop/web, 127.0.0.1");
        assert_eq!(row(&port)[4], "75.5 %");
        assert_eq!(caller(&port.callers[1])[1], "one of shop/a, shop/b");
        assert_eq!(caller(&from("127.0.0.1", &[]))[1], "a program on that host");
        assert_eq!(caller(&from("10.0.0.1", &[]))[1], "-");
    }
}
