//! Waiting until proxies run what was changed, and which do not yet.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::api::{Client, OWN};
use super::output;

/// How often it is asked.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// The most names in one line of progress.
const MAX_NAMES: usize = 5;

/// Whether to wait.
#[derive(clap::Args)]
pub(crate) struct Wait {
    /// Wait until every proxy concerned runs it; exit code 3 where some do not in time
    #[arg(long)]
    wait: bool,

    /// How long to wait
    #[arg(long, value_name = "DURATION", value_parser = super::duration, default_value = "60s")]
    timeout: Duration,
}

/// What each proxy has, as the API tells it.
#[derive(Debug, Deserialize)]
pub(crate) struct Status {
    /// The config's newest revision.
    pub(crate) revision: u64,
    pub(crate) proxies: Vec<Proxy>,
}

/// What one proxy has.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Proxy {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) connected: bool,
    pub(crate) dialect: String,
    /// `applied`, `acknowledged`, `pending`, `refused`, `disconnected`.
    pub(crate) state: String,
    /// The newest revision whose translation it has accepted.
    #[serde(default)]
    pub(crate) revision: u64,
    #[serde(default)]
    pub(crate) version: String,
    #[serde(default)]
    pub(crate) refused: Vec<Refusal>,
    /// For how long it has not had the newest.
    #[serde(default)]
    pub(crate) stale_seconds: f64,
}

/// A resource that a proxy refuses.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Refusal {
    pub(crate) resource: String,
    pub(crate) why: String,
}

/// Those that do not have a revision.
#[derive(Debug, Default)]
pub(crate) struct Missing {
    pub(crate) proxies: Vec<Proxy>,
    /// How many there are in all, those that have it included.
    all: usize,
}

impl Wait {
    /// Waits, where that is wanted, until these proxies have a revision, or all that are connected where none are named;
    /// gives those that do not.
    ///
    /// # Errors
    /// The API stays silent until the time is up.
    pub(crate) async fn until(
        &self,
        client: &Client,
        revision: u64,
        concerned: Option<&[String]>,
    ) -> anyhow::Result<Option<Missing>> {
        if !self.wait || concerned.is_some_and(<[String]>::is_empty) {
            return Ok(None);
        }
        let began = Instant::now();
        let mut progress = Progress::new(concerned.map_or(0, <[String]>::len), revision);
        loop {
            let asked = Status::ask(client, Some(revision)).await;
            let is_over = began.elapsed() >= self.timeout;
            match asked {
                Ok(status) => {
                    let missing = status.missing(revision, concerned);
                    progress.show(&missing);
                    if missing.proxies.is_empty() || missing.is_hopeless() || is_over {
                        progress.end();
                        return Ok(Some(missing));
                    }
                }
                // A control plane that is just being restarted answers again.
                Err(error) if is_over => return Err(error),
                Err(_) => {}
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
}

impl Status {
    /// Asks what each proxy has, of a revision or of the newest.
    ///
    /// # Errors
    /// The API does not answer, or not so.
    pub(crate) async fn ask(client: &Client, revision: Option<u64>) -> anyhow::Result<Self> {
        Ok(serde_json::from_value(Self::ask_value(client, revision).await?)?)
    }

    /// The same as it was told.
    ///
    /// # Errors
    /// The API does not answer.
    pub(crate) async fn ask_value(client: &Client, revision: Option<u64>) -> anyhow::Result<Value> {
        let query = revision.map(|revision| format!("?revision={revision}")).unwrap_or_default();
        client.get(&format!("{OWN}/status{query}")).await
    }

    /// Those of these proxies that do not have a revision. One that is gone is waited for by nobody.
    pub(crate) fn missing(&self, revision: u64, concerned: Option<&[String]>) -> Missing {
        let is_concerned = |proxy: &&Proxy| {
            concerned.map_or(proxy.connected, |concerned| concerned.contains(&proxy.full_name()))
        };
        let concerned: Vec<_> = self.proxies.iter().filter(is_concerned).collect();
        let missing = concerned.iter().filter(|proxy| proxy.revision < revision);
        Missing { proxies: missing.map(|proxy| (*proxy).clone()).collect(), all: concerned.len() }
    }
}

impl Proxy {
    /// `shop/cart-1`
    pub(crate) fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Its name and why it does not have it.
    pub(crate) fn why(&self) -> String {
        let name = self.full_name();
        match self.refused.first() {
            Some(refused) => format!("{name}: refused {}: {}", refused.resource, refused.why),
            None if !self.connected => format!("{name}: disconnected"),
            None => format!("{name}: {}", self.state),
        }
    }
}

impl Missing {
    /// Whether waiting changes nothing: who refuses a config does so until there is another.
    fn is_hopeless(&self) -> bool {
        self.proxies.iter().all(|proxy| !proxy.refused.is_empty())
    }

    /// Says how it ended.
    pub(crate) fn tell(&self, revision: u64) {
        let (all, missing) = (self.all, self.proxies.len());
        if missing == 0 {
            output::line(match all {
                0 => format!("no proxy is there to run revision {revision}"),
                1 => format!("the one proxy concerned runs revision {revision}"),
                _ => format!("all {all} proxies concerned run revision {revision}"),
            });
            return;
        }
        output::note(format_args!("{missing} of {all} proxies concerned do not run revision {revision}:"));
        for proxy in &self.proxies {
            output::note(format_args!("  {}", proxy.why()));
        }
    }

    /// The names, a few of them.
    fn names(&self) -> String {
        let names: Vec<String> = self.proxies.iter().take(MAX_NAMES).map(Proxy::full_name).collect();
        match self.proxies.len() - names.len() {
            0 => names.join(", "),
            more => format!("{} and {more} more", names.join(", ")),
        }
    }
}

/// How far it is: a bar on a terminal, else a line when it changes.
struct Progress {
    bar: Option<ProgressBar>,
    revision: u64,
    told: String,
}

impl Progress {
    fn new(proxies: usize, revision: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(proxies as u64), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} {wide_msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, revision, told: String::new() }
    }

    fn show(&mut self, missing: &Missing) {
        let have = missing.all - missing.proxies.len();
        let names = missing.names();
        let waiting = if names.is_empty() { names } else { format!("waiting for {names}") };
        match &self.bar {
            Some(bar) => {
                bar.set_length(missing.all as u64);
                bar.set_position(have as u64);
                bar.set_message(waiting);
            }
            None if missing.proxies.is_empty() => {}
            None => {
                let line =
                    format!("{have} of {} proxies run revision {}; {waiting}", missing.all, self.revision);
                if line != self.told {
                    output::note(&line);
                    self.told = line;
                }
            }
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(value: Value) -> Status {
        serde_json::from_value(value).expect("a status")
    }

    fn proxy(name: &str, state: &str, revision: u64, refused: &Value) -> Value {
        json!({
            "namespace": "shop", "name": name, "connected": state != "disconnected", "dialect": "meshwork",
            "state": state, "revision": revision, "version": "abc", "refused": refused, "staleSeconds": 1.5,
        })
    }

    #[test]
    fn who_does_not_have_a_revision_is_named_with_the_reason() {
        let refused = json!([{ "resource": "listeners in", "why": "no such field" }]);
        let status = status(json!({ "revision": 7, "proxies": [
            proxy("a", "applied", 7, &json!([])),
            proxy("b", "pending", 6, &json!([])),
            proxy("c", "refused", 6, &refused),
            proxy("d", "disconnected", 2, &json!([])),
            proxy("e", "pending", 2, &json!([])),
        ] }));
        let concerned: Vec<String> =
            ["a", "b", "c", "d", "gone"].iter().map(|n| format!("shop/{n}")).collect();
        let missing = status.missing(7, Some(&concerned));
        assert_eq!(missing.all, 4);
        let why: Vec<String> = missing.proxies.iter().map(Proxy::why).collect();
        assert_eq!(
            why,
            ["shop/b: pending", "shop/c: refused listeners in: no such field", "shop/d: disconnected"]
        );
        assert_eq!(missing.names(), "shop/b, shop/c, shop/d");
        assert!(!missing.is_hopeless());
        assert!(status.missing(7, Some(&["shop/c".to_owned()])).is_hopeless());
        // Where nobody is named, all that are connected.
        assert_eq!(status.missing(7, None).names(), "shop/b, shop/c, shop/e");
    }

    #[test]
    fn many_names_are_cut() {
        let proxies = (0..8).map(|i| proxy(&format!("p{i}"), "pending", 0, &json!([]))).collect::<Vec<_>>();
        let status = status(json!({ "revision": 1, "proxies": proxies }));
        let all: Vec<String> = (0..8).map(|i| format!("shop/p{i}")).collect();
        assert_eq!(
            status.missing(1, Some(&all)).names(),
            "shop/p0, shop/p1, shop/p2, shop/p3, shop/p4 and 3 more"
        );
    }
}
