//! What a caller asks for, and the plan that follows.

use std::path::PathBuf;

use anyhow::ensure;
use clap::{Parser, ValueEnum};

use crate::contender::{Binary, Program};
use crate::scale::Size;
use crate::scenario::{self, Scenario};

/// What proxies pay for equal work, in one run
#[derive(Parser)]
#[command(name = "cargo xtask bench", version)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(crate) struct Arguments {
    /// Two minutes: the four scenarios that matter daily, beside Envoy and nginx
    #[arg(long)]
    quick: bool,

    /// Only these scenarios, by name or its beginning
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,

    /// Only these proxies: meshwork, envoy, nginx, haproxy
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    contenders: Vec<Program>,

    /// Another build of Meshwork, measured beside the one that was just built; may be repeated
    #[arg(long, value_name = "NAME=PATH")]
    binary: Vec<Binary>,

    /// Rounds, in place of each scenario's own number
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,

    /// Seconds of load in each round, in place of each scenario's own
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,

    /// How results are shown
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,

    /// Merges the results into docs/benchmarks/results.json and writes tables and plots from it
    #[arg(long)]
    pub(crate) write_docs: bool,

    /// Shows (or writes) earlier results, as `-o json` gave them, and measures nothing
    #[arg(long, value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,

    /// Names the scenarios with the time that each takes
    #[arg(long)]
    pub(crate) list: bool,

    /// The control plane at scale: a real one, and a thousand simulated proxies
    #[arg(long, conflicts_with_all = ["quick", "only", "contenders", "instructions"])]
    pub(crate) scale: bool,

    /// With `--scale`: proxies, services, and endpoints of each service, in place of the sizes that are published
    #[arg(long, value_name = "PROXIES/SERVICES/ENDPOINTS", requires = "scale")]
    pub(crate) size: Option<Size>,

    /// What authorization costs a request, by the number of policies: nanoseconds of the decision alone
    #[arg(long, conflicts_with_all = ["quick", "only", "contenders", "instructions", "scale", "write_docs"])]
    pub(crate) policies: bool,

    /// Takes orders for loads on this socket: how a scenario runs its load in a workload
    #[arg(long, hide = true, value_name = "SOCKET")]
    pub(crate) load_on: Option<PathBuf>,

    /// Counts instructions per request in user space, under callgrind: the same on a busy machine
    #[arg(long, conflicts_with_all = ["quick", "only", "contenders"])]
    pub(crate) instructions: bool,
}

/// How results are shown.
#[derive(Clone, Copy, Default, ValueEnum)]
pub(crate) enum Output {
    /// Aligned columns.
    #[default]
    Table,
    /// All samples.
    Json,
    /// What the documentation shows.
    Markdown,
}

impl Arguments {
    /// The builds of ours: the one beside this program, and those that were named.
    pub(crate) fn binaries(&self) -> anyhow::Result<Vec<Binary>> {
        Ok(std::iter::once(Binary::built()?).chain(self.binary.iter().cloned()).collect())
    }

    /// The scenarios to run, each with the contenders that take part.
    pub(crate) fn plan(&self) -> anyhow::Result<Vec<Scenario>> {
        let mut plan: Vec<_> = scenario::all().into_iter().filter(|s| self.includes(s)).collect();
        ensure!(!plan.is_empty(), "no scenario is called {}; --list names them", self.only.join(" or "));
        let binaries = self.binaries()?;
        for scenario in &mut plan {
            if self.quick {
                (scenario.rounds, scenario.seconds) = (3, 2);
                scenario.entries.retain(|e| e.program != Program::Haproxy);
            }
            scenario.rounds = self.rounds.unwrap_or(scenario.rounds).max(1);
            scenario.seconds = self.seconds.unwrap_or(scenario.seconds).max(1);
            scenario.entries.retain(|e| self.contenders.is_empty() || self.contenders.contains(&e.program));
            scenario.expand(&binaries);
        }
        plan.retain(|scenario| !scenario.entries.is_empty());
        Ok(plan)
    }

    fn includes(&self, scenario: &Scenario) -> bool {
        let named = self.only.iter().any(|name| scenario.name.starts_with(name.as_str()));
        if self.only.is_empty() { scenario.daily || !self.quick } else { named }
    }
}
