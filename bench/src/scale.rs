//! The control plane at scale: a real one, over real gRPC and mTLS, and a thousand simulated proxies in this process.
//!
//! Measured are the time until all proxies have all of their config, the time from writing one endpoint's change by the
//! API until the last proxy that uses the service has it and says so, and what that costs the control plane. It runs on
//! one core, the proxies on the other: they accept what they get, and read and run nothing.

mod api;
mod config;
mod page;
mod proxies;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::contender::{Binary, free_port, listens};
use crate::process::{self, Cpu, PROXY_CORE, Process};
use crate::statistics::percentile;
use api::Api;
pub(crate) use config::Size;
use proxies::Proxies;

pub(crate) use page::{table, write};

/// How many single changes are timed.
const CHANGES: usize = 100;
/// The first change finds code and memory cold.
const WARM_UP: usize = 5;
/// How long anything may take before it counts as failed.
const PATIENCE: Duration = Duration::from_mins(2);

/// What was measured at one size.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) size: Size,
    /// From the first connection to the last proxy that has everything.
    pub(crate) in_sync_ms: f64,
    /// CPU of the control plane for that.
    pub(crate) in_sync_cpu_s: f64,
    /// From the request of the API to the last proxy that has a change.
    pub(crate) change_p50_ms: f64,
    pub(crate) change_p99_ms: f64,
    pub(crate) change_max_ms: f64,
    /// From the request to its answer: what of a change is validation and the store.
    pub(crate) answer_p50_ms: f64,
    /// CPU of the control plane for one change.
    pub(crate) change_cpu_ms: f64,
    /// From the request until all proxies have a change of every service's routes.
    pub(crate) everything_ms: f64,
    /// The most memory that the control plane ever had resident.
    pub(crate) peak_mib: f64,
}

/// Runs one size, or those that are published; tells what it is at.
pub(crate) fn run(binary: &Binary, size: Option<Size>, tell: &dyn Fn(&str)) -> anyhow::Result<Vec<Outcome>> {
    process::prepare()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let sizes = size.map_or(Size::ALL.to_vec(), |size| vec![size]);
    sizes.into_iter().map(|size| runtime.block_on(measure(&binary.path, size, tell))).collect()
}

async fn measure(binary: &Path, size: Size, tell: &dyn Fn(&str)) -> anyhow::Result<Outcome> {
    let dir = tempfile::tempdir()?;
    tell(&format!("{size}: a control plane starts, and proxies enrol"));
    let (process, listen, api) = start(binary, dir.path())?;
    let identities = proxies::enrol(size, dir.path(), listen).await?;
    let api = Api::new(api, &dir.path().join("state"))?;
    tell(&format!("{size}: config is written"));
    for (name, text) in size.sources() {
        api.apply(&name, &text).await?;
    }
    tell(&format!("{size}: all proxies connect"));
    let (before, start) = (process::cpu(process.id())?, Instant::now());
    let mut proxies = Proxies::connect(size, &identities, listen);
    proxies.in_sync(PATIENCE).await?;
    let in_sync = start.elapsed();
    let in_sync_cpu = process::cpu(process.id())? - before;
    tell(&format!("{size}: single endpoints change"));
    let changes = change(&api, &mut proxies, size, &process).await?;
    tell(&format!("{size}: everything changes"));
    let everything = change_everything(&api, &mut proxies, size).await?;
    Ok(Outcome {
        size,
        in_sync_ms: ms(in_sync),
        in_sync_cpu_s: in_sync_cpu.seconds(),
        change_p50_ms: changes.quantile(0.5),
        change_p99_ms: changes.quantile(0.99),
        change_max_ms: changes.quantile(1.0),
        answer_p50_ms: middle(&changes.answers),
        change_cpu_ms: changes.cpu.seconds() * 1000.0 / count(CHANGES),
        everything_ms: ms(everything),
        peak_mib: peak_mib(process.id())?,
    })
}

fn start(binary: &Path, dir: &Path) -> anyhow::Result<(Process, std::net::SocketAddr, std::net::SocketAddr)> {
    let (listen, api) = (free_port()?, free_port()?);
    let state = dir.join("state").to_string_lossy().into_owned();
    let [listen_on, api_on] = [listen, api].map(|port| format!("127.0.0.1:{port}"));
    let arguments = ["control-plane", "--state", &state, "--listen", &listen_on, "--api", &api_on];
    let mut process = Process::start(PROXY_CORE, binary, &arguments, &dir.join("control-plane.log"))?;
    listens(listen, &mut process).context("the control plane")?;
    listens(api, &mut process).context("the control plane's API")?;
    Ok((process, ([127, 0, 0, 1], listen).into(), ([127, 0, 0, 1], api).into()))
}

/// Times of single changes, in microseconds.
#[derive(Default)]
struct Changes {
    times: Vec<u32>,
    answers: Vec<u32>,
    cpu: Cpu,
}

impl Changes {
    fn quantile(&self, share: f64) -> f64 {
        f64::from(percentile(&self.times, share)) / 1000.0
    }
}

fn middle(sorted: &[u32]) -> f64 {
    f64::from(percentile(sorted, 0.5)) / 1000.0
}

async fn change(api: &Api, proxies: &mut Proxies, size: Size, process: &Process) -> anyhow::Result<Changes> {
    let mut changes = Changes::default();
    let mut before = process::cpu(process.id())?;
    for round in 0..WARM_UP + CHANGES {
        if round == WARM_UP {
            before = process::cpu(process.id())?;
            changes = Changes::default();
        }
        // Far apart, so that no two changes have a user in common.
        let service = round * 37 % size.services;
        let (text, address) = size.changed(service, round);
        proxies.expect(service, address);
        let start = Instant::now();
        api.apply(&format!("change-{round}"), &text).await?;
        changes.answers.push(micros(start.elapsed()));
        let last = proxies.all_have(size.users(), PATIENCE).await?;
        changes.times.push(micros(last.duration_since(start)));
    }
    changes.cpu = process::cpu(process.id())? - before;
    changes.times.sort_unstable();
    changes.answers.sort_unstable();
    Ok(changes)
}

/// A change after which every route table is another one.
async fn change_everything(api: &Api, proxies: &mut Proxies, size: Size) -> anyhow::Result<Duration> {
    let text = size.all_routes();
    proxies.expect_tables();
    let start = Instant::now();
    api.apply("routes", &text).await?;
    proxies.all_have(size.proxies, PATIENCE).await.map(|last| last.duration_since(start))
}

/// Source: proc(5), `VmHWM`.
fn peak_mib(id: u32) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    ensure!(kib > 0.0, "the control plane has ended");
    Ok(kib / 1024.0)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "a hundred")]
fn count(n: usize) -> f64 {
    n as f64
}
