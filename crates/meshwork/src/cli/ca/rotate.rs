//! `meshwork ca rotate`, `meshwork ca abort`: the control plane does the steps; these ask for them, and watch.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::progress::{self, Progress};
use super::{Authority, PATH, Rotation, Step, short};
use crate::cli::api::{Api, Client};
use crate::cli::output::{self, Format};
use crate::cli::runtime;

/// How often it is asked.
const ASK_EVERY: Duration = Duration::from_millis(300);
/// Ended by Ctrl-C. Source: what shells say of a process that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// Replace the root of the certificate authority, under traffic
///
/// The control plane does it in steps, and takes none before all have shown that they are ready for it: it adds a next root,
/// waits until everybody trusts it, signs under it, waits until everybody has a certificate under it, and removes the earlier
/// one. Nobody is cut off; whoever is not ready is named. Asked again, it goes on with the rotation that runs.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  meshwork ca rotate
  meshwork ca rotate --without shop/old-laptop --timeout 1h
  meshwork ca rotate --detach
  meshwork ca status

Exit codes: 0 the root is replaced, or with --detach its rotation runs; 1 it was aborted, is not done in time, or was refused; \
2 the command line is wrong; 130 Ctrl-C, and the rotation goes on.")]
pub(super) struct Rotate {
    #[command(flatten)]
    asking: Asking,

    /// Ask for it, and do not watch
    #[arg(long)]
    detach: bool,
}

/// Turn back the rotation that runs
///
/// Before the switch the next root is withdrawn at once. After it, certificates are under the earlier root again, and the
/// next one is withdrawn when everybody has one. When the earlier root is removed, there is nothing to turn back.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  meshwork ca abort
  meshwork ca abort --without-offline

Exit codes: 0 everything is as it was; 1 it is not, not in time, or no rotation runs; 2 the command line is wrong; 130 Ctrl-C, and \
it goes on.")]
pub(super) struct Abort {
    #[command(flatten)]
    asking: Asking,
}

/// For whom a rotation need not wait, and how it is watched.
#[derive(clap::Args)]
struct Asking {
    /// Do not wait for this workload, as NAMESPACE/NAME; may be repeated
    ///
    /// Where the root is replaced, what it had is good for nothing any more: it needs a new token then.
    #[arg(long, value_name = "NAME")]
    without: Vec<String>,

    /// Do not wait for workloads that are not connected
    #[arg(long)]
    without_offline: bool,

    /// How long to watch; the control plane itself goes on
    #[arg(long, value_name = "DURATION", value_parser = crate::cli::duration, default_value = "15m")]
    timeout: Duration,

    #[command(flatten)]
    api: Api,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

impl Rotate {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let asking = self.asking;
        runtime::on_this_thread(async {
            let (client, told) = asking.ask("start").await?;
            if self.detach {
                if !asking.output.print(&told)? {
                    output::line("the rotation runs; `meshwork ca status` says how far it is");
                }
                return Ok(ExitCode::SUCCESS);
            }
            let watched = watch(&client, told, asking.timeout).await?;
            watched.tell(Step::Removed, asking.output)
        })
    }
}

impl Abort {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let asking = self.asking;
        runtime::on_this_thread(async {
            let (client, told) = asking.ask("abort").await?;
            let watched = watch(&client, told, asking.timeout).await?;
            watched.tell(Step::Aborted, asking.output)
        })
    }
}

impl Asking {
    /// Asks for an action; gives whom it asked, and the answer.
    async fn ask(&self, action: &str) -> anyhow::Result<(Client, Value)> {
        let body =
            json!({ "action": action, "without": self.without, "withoutOffline": self.without_offline });
        let client = self.api.client()?;
        let told = client.post(&format!("{PATH}/rotation"), &body).await?;
        Ok((client, told))
    }
}

/// What was seen last, and why nobody looks any more.
struct Watched {
    told: Value,
    rotation: Rotation,
    why: Over,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    Ended,
    Late,
    Interrupted,
}

/// Watches a rotation until it has ended, the time is up, or somebody presses Ctrl-C.
async fn watch(client: &Client, told: Value, timeout: Duration) -> anyhow::Result<Watched> {
    let began = Instant::now();
    let mut progress = Progress::new();
    let mut rotation = rotation(&told)?;
    let mut told = told;
    let number = rotation.number;
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let why = loop {
        progress.show(&rotation);
        if !rotation.running {
            break Over::Ended;
        }
        if began.elapsed() >= timeout {
            break Over::Late;
        }
        tokio::select! {
            () = tokio::time::sleep(ASK_EVERY) => {}
            _ = &mut interrupt => break Over::Interrupted,
        }
        // A control plane that is just being restarted answers again.
        let Ok(newest) = client.get(PATH).await else { continue };
        let Ok(next) = self::rotation(&newest) else { continue };
        if next.number != number {
            break Over::Ended;
        }
        (told, rotation) = (newest, next);
    };
    progress.end(why == Over::Ended);
    Ok(Watched { told, rotation, why })
}

fn rotation(told: &Value) -> anyhow::Result<Rotation> {
    let authority: Authority = serde_json::from_value(told.clone())?;
    authority.rotation.context("the answer tells of no rotation")
}

impl Watched {
    /// Says how it ended; the exit code is good where it is as it was wanted.
    fn tell(&self, wanted: Step, format: Format) -> anyhow::Result<ExitCode> {
        format.print(&self.told)?;
        let text =
            |line: String| if format == Format::Text { output::line(line) } else { output::note(line) };
        let Rotation { number, step, from, to, .. } = &self.rotation;
        let to = to.as_deref().map(short).unwrap_or_default();
        match (self.why, step) {
            (Over::Ended, Step::Removed) => {
                text(format!(
                    "rotation {number} is done: the root is {to}, and {} is trusted no more",
                    short(from)
                ));
            }
            (Over::Ended, Step::Aborted) => {
                text(format!("rotation {number} is aborted: the root is {}, as it was", short(from)));
            }
            (Over::Ended, Step::Lost) => output::note(format_args!(
                "rotation {number} is given up: the roots of the authority are others by now; look at them by \
                 `meshwork ca status`, and start again"
            )),
            (Over::Ended, _) => {
                output::note(format_args!("rotation {number} has ended, and another one runs"));
            }
            (Over::Late, _) => {
                output::note(format_args!("{}, and it is not done in time:", progress::line(&self.rotation)));
                self.say_how_to_go_on();
            }
            (Over::Interrupted, _) => {
                output::note(progress::line(&self.rotation));
                self.say_how_to_go_on();
                return Ok(ExitCode::from(INTERRUPTED));
            }
        }
        let is_good = self.why == Over::Ended && *step == wanted;
        Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn say_how_to_go_on(&self) {
        for line in progress::reasons(&self.rotation) {
            output::note(line);
        }
        output::note(
            "the control plane goes on with it. `meshwork ca rotate` watches it again, and takes --without NAME and \
             --without-offline; `meshwork ca abort` turns it back; `meshwork ca status` says how far it is",
        );
    }
}
