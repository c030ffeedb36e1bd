//! What apply, delete and rollback have in common: sending a change, showing what came of it, waiting for proxies.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::api::{Api, Client, OWN, Refused};
use super::changes::{Action, Outcome};
use super::output::{self, Format};
use super::problems::Texts;
use super::wait::Wait;
use super::{runtime, sources};

/// The change is made, and some proxies do not run it in time.
pub(crate) const NOT_EVERYWHERE: u8 = 3;

/// What every change may be asked with.
#[derive(clap::Args)]
pub(crate) struct Write {
    /// Say what would change, and change nothing
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,

    /// Why, for the history
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,

    #[command(flatten)]
    wait: Wait,

    #[command(flatten)]
    api: Api,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

impl Write {
    /// Sends a change of this name, shows what came of it, and waits where that is wanted. `ask` makes the body, given the
    /// note, and the texts in which problems are shown.
    ///
    /// # Errors
    /// It cannot be asked for, or was not made; or nobody answers while waiting.
    pub(crate) fn send(
        &self,
        name: &str,
        ask: impl FnOnce(&str) -> anyhow::Result<(Value, Texts)>,
    ) -> anyhow::Result<ExitCode> {
        runtime::on_this_thread(async {
            let client = self.api.client()?;
            let (body, texts) = ask(&self.note)?;
            let query = if self.dry_run { "?dryRun=All" } else { "" };
            let sent = send(&client, &format!("{OWN}/{name}{query}"), &body, &texts, self.output).await?;
            let wait = (!self.dry_run).then_some(&self.wait);
            finish(&client, sent, &texts, wait, self.output).await
        })
    }
}

/// Sends a change. Where the config is refused, its problems are shown in the texts that were sent.
///
/// # Errors
/// It was not made.
pub(crate) async fn send(
    client: &Client,
    path: &str,
    body: &Value,
    texts: &Texts,
    format: Format,
) -> anyhow::Result<(Value, Outcome)> {
    let told = match client.post(path, body).await {
        Ok(told) => told,
        Err(error) => {
            let problems = error.downcast_ref::<Refused>().map_or(&[][..], |refused| &refused.problems);
            if !problems.is_empty() && !format.print(&json!({ "problems": problems }))? {
                sources::tell(problems, texts);
            }
            return Err(error);
        }
    };
    let outcome = serde_json::from_value(told.clone())?;
    Ok((told, outcome))
}

/// Shows what a change came to, and waits where that is wanted.
///
/// # Errors
/// It cannot be printed, or nobody answers while waiting.
pub(crate) async fn finish(
    client: &Client,
    (mut told, outcome): (Value, Outcome),
    texts: &Texts,
    wait: Option<&Wait>,
    format: Format,
) -> anyhow::Result<ExitCode> {
    if format == Format::Text {
        sources::tell(&outcome.problems, texts);
        tell(&outcome, wait.is_none());
    }
    let missing = match wait {
        Some(wait) => {
            // Where nothing changed, earlier changes may still be under way.
            let concerned = outcome.changes_something().then_some(&*outcome.proxies);
            wait.until(client, outcome.revision, concerned).await?
        }
        None => None,
    };
    let is_everywhere = missing.as_ref().is_none_or(|missing| missing.proxies.is_empty());
    if let Some(missing) = &missing {
        told["missing"] = serde_json::to_value(&missing.proxies)?;
    }
    if !format.print(&told)?
        && let Some(missing) = &missing
    {
        missing.tell(outcome.revision);
    }
    Ok(if is_everywhere { ExitCode::SUCCESS } else { ExitCode::from(NOT_EVERYWHERE) })
}

/// A line for each resource that becomes another, and one for all of it.
fn tell(outcome: &Outcome, is_trial: bool) {
    for change in outcome.changes.iter().filter(|change| change.action != Action::Unchanged) {
        output::line(change.line());
    }
    let proxies = counted(outcome.proxies.len(), "proxy");
    output::line(if is_trial {
        format!("trial on revision {}: {}; it would concern {proxies}", outcome.revision, outcome.summary())
    } else {
        format!("revision {}: {}; {proxies} concerned", outcome.revision, outcome.summary())
    });
}

/// `1 error`, `2 proxies`
pub(crate) fn counted(n: usize, what: &str) -> String {
    match (n, what.strip_suffix('y')) {
        (1, _) => format!("1 {what}"),
        (_, Some(stem)) => format!("{n} {stem}ies"),
        _ => format!("{n} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_are_counted() {
        assert_eq!(counted(1, "error"), "1 error");
        assert_eq!(counted(0, "error"), "0 errors");
        assert_eq!(counted(2, "proxy"), "2 proxies");
    }
}
