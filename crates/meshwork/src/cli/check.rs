//! `meshwork check`.

mod mtls;

use std::net::SocketAddr;
use std::process::ExitCode;

use meshwork_capture::{Step, Verdict};
use serde_json::{Value, json};

use super::output::{self, Format};

/// Say whether `meshwork run` works on this system, and if not, why
///
/// Tries each thing that it takes, in processes that end at once; changes nothing. Fails where something is missing
/// without which nothing goes.
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  meshwork check
  meshwork check -o json | jq '.steps[] | select(.verdict == \"missing\")'
  meshwork check mtls

Exit codes: 0 it works, whether the control plane is there or not; 1 it does not; 2 the command line is wrong. Those of \
`meshwork check mtls` are its own."
)]
pub(crate) struct Check {
    #[command(subcommand)]
    what: Option<What>,

    /// Where the control plane listens for proxies
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15012")]
    control_plane: SocketAddr,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

/// What else can be checked.
#[derive(clap::Subcommand)]
enum What {
    Mtls(mtls::Mtls),
}

impl Check {
    /// Tries everything. No thread may have been started.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        if let Some(What::Mtls(mtls)) = &self.what {
            return Ok(mtls.run());
        }
        let verdicts = meshwork_capture::check()?;
        let reachable = meshwork_capture::reachable(self.control_plane);
        let steps: Vec<Value> = verdicts.iter().map(|(step, verdict)| as_json(*step, verdict)).collect();
        let all = json!({
            "works": works(&verdicts),
            "steps": steps,
            "controlPlane": { "address": self.control_plane, "reachable": reachable },
        });
        if !self.output.print(&all)? {
            print(&verdicts, self.control_plane, reachable);
        }
        Ok(if works(&verdicts) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Why `meshwork run` does not work here; `None` where it does. No thread may have been started.
pub(super) fn why_not() -> Option<String> {
    let verdicts = match meshwork_capture::check() {
        Ok(verdicts) => verdicts,
        Err(error) => return Some(error.to_string()),
    };
    verdicts.iter().find_map(|(step, verdict)| match verdict {
        Verdict::Failed { failure, .. } if step.without().is_none() => {
            Some(format!("{step}: {}", failure.words))
        }
        _ => None,
    })
}

/// Whether nothing is missing without which nothing goes.
fn works(verdicts: &[(Step, Verdict)]) -> bool {
    verdicts.iter().all(|(step, verdict)| *verdict == Verdict::Fine || step.without().is_some())
}

fn print(verdicts: &[(Step, Verdict)], control_plane: SocketAddr, reachable: bool) {
    for (step, verdict) in verdicts {
        output::line(text(*step, verdict));
    }
    let answers = if reachable { "ok      " } else { "missing " };
    output::line(format!("{answers} control plane at {control_plane}"));
    if !reachable {
        output::line("           fix: start `meshwork control-plane`; `meshwork run` waits for it");
    }
    output::line(if works(verdicts) {
        "\n`meshwork run` works here.".to_owned()
    } else {
        format!("\n`meshwork run` does not work here. Instead: {}", meshwork_capture::INSTEAD)
    });
}

fn text(step: Step, verdict: &Verdict) -> String {
    match verdict {
        Verdict::Fine => format!("ok       {step}"),
        Verdict::NotTried => format!("untried  {step}: something before it is missing"),
        Verdict::Failed { failure, advice } => {
            let mut text = format!("missing  {step}: {}", failure.words);
            for (what, value) in [
                ("without it: ", step.without()),
                ("setting: ", advice.setting.as_deref()),
                ("fix: ", Some(advice.fix.as_str())),
            ] {
                if let Some(value) = value {
                    text.push_str("\n           ");
                    text.push_str(what);
                    text.push_str(value);
                }
            }
            text
        }
    }
}

fn as_json(step: Step, verdict: &Verdict) -> Value {
    let name = serde_json::to_value(step).unwrap_or_default();
    let needed = step.without().is_none();
    match verdict {
        Verdict::Fine => json!({ "step": name, "needed": needed, "verdict": "ok" }),
        Verdict::NotTried => json!({ "step": name, "needed": needed, "verdict": "untried" }),
        Verdict::Failed { failure, advice } => json!({
            "step": name, "needed": needed, "verdict": "missing", "why": failure.words, "without": step.without(),
            "setting": advice.setting, "fix": advice.fix,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwork_capture::{Advice, Failure};

    fn failed() -> Verdict {
        Verdict::Failed {
            failure: Failure { words: "no such thing".to_owned(), code: None },
            advice: Advice { setting: Some("kernel.x = 0".to_owned()), fix: "sysctl".to_owned() },
        }
    }

    #[test]
    fn what_is_missing_is_said_with_its_setting_and_fix() {
        let check = |step, verdict: &Verdict, expected: &str| assert_eq!(text(step, verdict), expected);
        check(Step::Rules, &Verdict::Fine, "ok       packet filter (nft)");
        check(
            Step::Rules,
            &Verdict::NotTried,
            "untried  packet filter (nft): something before it is missing",
        );
        check(
            Step::UserNamespace,
            &failed(),
            "missing  user namespace: no such thing\n           setting: kernel.x = 0\n           fix: sysctl",
        );
        assert_eq!(as_json(Step::UserNamespace, &failed())["setting"], "kernel.x = 0");
    }

    #[test]
    fn what_something_goes_without_does_not_forbid_it() {
        assert!(works(&[(Step::Rules, Verdict::Fine), (Step::Proc, failed())]));
        assert!(!works(&[(Step::Rules, failed())]));
        assert!(!works(&[(Step::Rules, Verdict::NotTried)]));
    }
}
