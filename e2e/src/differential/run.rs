//! Runs cases: puts them into groups that share processes, and judges each.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream;
use serde_json::{Value, json};

use super::case::{Case, Program};
use super::certs::Certs;
use super::client::{self, Connections};
use super::compare::{self, Counts};
use super::origin::Origins;
use super::pair::{self, Place, Placed};
use super::step::{Distribution, Fields};
use super::{merge, outcome, template};
use crate::ports;
use crate::program::Program as Process;

/// Cases of a group that run at once: they wait more than they work, yet there are few cores.
const AT_ONCE: usize = 6;
/// Groups that run at once.
const GROUPS_AT_ONCE: usize = 2;
/// Cases that share a process at most, so that one that breaks it takes few along.
const MOST_IN_GROUP: usize = 60;
/// How long something that is to come eventually may take.
const EVENTUALLY: Duration = Duration::from_secs(30);

/// How much of what is wrong with a case is shown.
const MOST_SHOWN: usize = 12;

/// What a case came to: nothing, or what is wrong.
type Verdict = Vec<String>;

/// Runs every case; gives whether one failed.
pub(super) fn all(cases: &[Case]) -> bool {
    let started = Instant::now();
    let folder = tempfile::tempdir().expect("a folder");
    let mut certs = Certs::make(&folder.path().join("certs"));
    for (name, cert) in cases.iter().flat_map(|case| &case.certs) {
        certs.add(name, cert);
    }
    let certs = Arc::new(certs);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let groups = groups(cases);
    let verdicts: BTreeMap<String, Verdict> = runtime
        .block_on(async {
            let running = groups.into_iter().enumerate().map(|(index, group)| {
                let folder = folder.path().join(index.to_string());
                let certs = Arc::clone(&certs);
                async move { run_group(&group, &folder, &certs).await }
            });
            stream::iter(running).buffer_unordered(GROUPS_AT_ONCE).collect::<Vec<_>>().await
        })
        .into_iter()
        .flatten()
        .collect();
    let failed = report(&verdicts, started.elapsed());
    if failed && std::env::var_os("KEEP").is_some() {
        say(&format!("configs and logs are kept in {}\n", folder.keep().display()));
    }
    failed
}

/// Prints something on the standard output.
pub(super) fn say(text: &str) {
    // Nobody reads where this fails.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

fn report(verdicts: &BTreeMap<String, Verdict>, took: Duration) -> bool {
    let failed: Vec<_> = verdicts.iter().filter(|(_, verdict)| !verdict.is_empty()).collect();
    for (name, verdict) in &failed {
        say(&format!("\n{name}: FAILED\n"));
        for line in verdict.iter().take(MOST_SHOWN) {
            say(&format!("  {line}\n"));
        }
        if verdict.len() > MOST_SHOWN {
            say(&format!("  … and {} more\n", verdict.len() - MOST_SHOWN));
        }
    }
    let passed = verdicts.len() - failed.len();
    say(&format!("\ndifferential: {passed} passed, {} failed, {:.1} s\n", failed.len(), took.as_secs_f64()));
    !failed.is_empty()
}

/// Cases that share processes: those of a folder, save those that need one of their own.
fn groups(cases: &[Case]) -> Vec<Vec<&Case>> {
    let mut groups = Vec::new();
    let mut shared: Vec<&Case> = Vec::new();
    for case in cases {
        let can_share = merge::can_share(&template::bootstrap(case));
        if case.own_process || case.refused.is_some() || !can_share {
            groups.push(vec![case]);
        } else {
            shared.push(case);
        }
    }
    groups.extend(shared.chunks(MOST_IN_GROUP).map(<[&Case]>::to_vec));
    groups
}

async fn run_group(group: &[&Case], folder: &Path, certs: &Arc<Certs>) -> Vec<(String, Verdict)> {
    if let [case] = group
        && case.refused.is_some()
    {
        return vec![(case.name.clone(), refusals(case, folder, certs).await)];
    }
    let mut verdicts = Vec::new();
    let mut sides = BTreeMap::new();
    let mut shared = BTreeMap::new();
    for program in [Program::Meshwork, Program::Envoy] {
        let side = Side::start(program, group, folder, certs, &mut shared).await;
        for (name, problem) in &side.broken {
            let awaited = program == Program::Meshwork && group.iter().any(|c| c.name == *name && c.awaited);
            verdicts.push((name.clone(), if awaited { Vec::new() } else { vec![problem.clone()] }));
        }
        sides.insert(program, side);
    }
    let works = |case: &&Case| verdicts.iter().all(|(name, _)| *name != case.name);
    let working: Vec<&Case> = group.iter().copied().filter(works).collect();
    let sides = &sides;
    let judged =
        working.into_iter().map(|case| async move { (case.name.clone(), judge(case, sides, certs).await) });
    verdicts.extend(stream::iter(judged).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await);
    for (program, side) in sides {
        if let Some(output) = side.ended() {
            // What came of the cases then says nothing.
            verdicts.clear();
            verdicts.push((format!("{} of {} and others", program.name(), group[0].name), vec![output]));
        }
    }
    verdicts
}

/// A program and its cases.
struct Side {
    placed: BTreeMap<String, Placed>,
    process: Option<std::sync::Mutex<Process>>,
    /// Cases that it does not run, and why.
    broken: BTreeMap<String, String>,
}

impl Side {
    async fn start(
        program: Program,
        group: &[&Case],
        folder: &Path,
        certs: &Arc<Certs>,
        shared: &mut BTreeMap<String, Arc<Origins>>,
    ) -> Self {
        let folder = folder.join(program.name());
        std::fs::create_dir_all(&folder).expect("a folder");
        let admin = ports::free();
        let mut side = Self { placed: BTreeMap::new(), process: None, broken: BTreeMap::new() };
        for case in group.iter().filter(|case| case.runs_on(program)) {
            let prefix = if group.len() > 1 { merge::prefix(&case.name) } else { String::new() };
            let place = Place { folder: &folder, admin, prefix: &prefix };
            let origins = match shared.get(&case.name) {
                Some(origins) => Arc::clone(origins),
                None => pair::origins(case, certs).await,
            };
            if case.shared_origins {
                shared.insert(case.name.clone(), Arc::clone(&origins));
            }
            let placed = Placed::new(case, program, origins, certs, place);
            match refusal(&placed) {
                Some(problem) => drop(side.broken.insert(case.name.clone(), problem)),
                None => drop(side.placed.insert(case.name.clone(), placed)),
            }
        }
        if !side.placed.is_empty() {
            side.run(program, &folder, admin).await;
        }
        side
    }

    /// Starts the program; where it does not, finds the cases that it does not start with, and starts without them.
    async fn run(&mut self, program: Program, folder: &Path, admin: u16) {
        let mut first = String::new();
        for name in ["all", "rest"] {
            let started = pair::start(program, folder, name, &self.combined(), admin).await;
            match started {
                Ok(process) => {
                    self.process = Some(std::sync::Mutex::new(process));
                    return;
                }
                Err(output) if self.placed.len() > 1 && name == "all" => first = output,
                Err(output) => {
                    first = output;
                    break;
                }
            }
            for (case, placed) in std::mem::take(&mut self.placed) {
                let file = format!("one-{}", case.replace('/', "-"));
                match pair::start(program, folder, &file, &placed.bootstrap, admin).await {
                    Ok(_) => drop(self.placed.insert(case, placed)),
                    Err(output) => drop(self.broken.insert(case, refused_text(program, &output))),
                }
            }
        }
        for case in std::mem::take(&mut self.placed).into_keys() {
            self.broken.insert(case, refused_text(program, &first));
        }
    }

    fn combined(&self) -> Value {
        let bootstraps: Vec<Value> = self.placed.values().map(|placed| placed.bootstrap.clone()).collect();
        match bootstraps.as_slice() {
            [one] => one.clone(),
            many => merge::combine(many),
        }
    }

    /// What the program said at its end, where it has ended.
    fn ended(&self) -> Option<String> {
        let mut process = self.process.as_ref()?.lock().ok()?;
        (!process.alive()).then(|| format!("it ended early: {}", pair::tail(&process.output())))
    }
}

fn refused_text(program: Program, output: &str) -> String {
    format!("{} does not start with it: {output}", program.name())
}

/// What our reader of configs says against a case, so that it is told without a process.
fn refusal(placed: &Placed) -> Option<String> {
    if placed.program != Program::Meshwork {
        return None;
    }
    let text = serde_json::to_string_pretty(&placed.bootstrap).expect("JSON");
    let problems = meshwork_xds::bootstrap::parse("bootstrap", &text).err()?;
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    Some(format!("meshwork refuses it:\n    {}", lines.join("\n    ")))
}

/// Judges a case that a program, or both, are to refuse.
async fn refusals(case: &Case, folder: &Path, certs: &Arc<Certs>) -> Verdict {
    let mut verdict = Vec::new();
    let Some(refused) = &case.refused else { return verdict };
    for (program, wanted) in [(Program::Meshwork, &refused.meshwork), (Program::Envoy, &refused.envoy)] {
        let mut shared = BTreeMap::new();
        let side = Side::start(program, &[case], folder, certs, &mut shared).await;
        let said = side.broken.get(&case.name);
        match (said, wanted) {
            (Some(said), Some(wanted)) if said.contains(wanted.as_str()) => {}
            (None, None) => {}
            (Some(said), Some(wanted)) => {
                verdict.push(format!("{}: expected `{wanted}`, got: {said}", program.name()));
            }
            (Some(said), None) => verdict.push(said.clone()),
            (None, Some(wanted)) => {
                verdict.push(format!("{} takes it; expected `{wanted}`", program.name()));
            }
        }
    }
    verdict
}

/// Runs a case on its sides and compares.
async fn judge(case: &Case, sides: &BTreeMap<Program, Side>, certs: &Arc<Certs>) -> Verdict {
    let placed = |program| sides.get(&program).and_then(|side: &Side| side.placed.get(&case.name));
    let run = |program| async move {
        match placed(program) {
            Some(placed) => Some(play(case, placed, certs).await),
            None => None,
        }
    };
    let (ours, envoys) = if case.shared_origins {
        // One after the other: the origins cannot tell whose request they see.
        let envoys = run(Program::Envoy).await;
        (run(Program::Meshwork).await, envoys)
    } else {
        tokio::join!(run(Program::Meshwork), run(Program::Envoy))
    };
    verdict(case, ours, envoys)
}

/// What a step came to.
struct Played {
    name: String,
    step: Fields,
    outcome: Value,
}

fn verdict(case: &Case, ours: Option<Vec<Played>>, envoys: Option<Vec<Played>>) -> Verdict {
    let mut verdict = Vec::new();
    for (program, played) in [(Program::Meshwork, &ours), (Program::Envoy, &envoys)] {
        for played in played.iter().flatten() {
            let own = if program == Program::Meshwork { &played.step.meshwork } else { &played.step.envoy };
            for expected in [&played.step.expect, own].into_iter().flatten() {
                let unmet = compare::unmet(&played.name, expected, &played.outcome);
                verdict.extend(unmet.into_iter().map(|line| format!("{}: {line}", program.name())));
            }
        }
    }
    let (Some(ours), Some(envoys)) = (ours, envoys) else { return verdict };
    let mut used = vec![false; case.differs.len()];
    for (ours, envoys) in ours.into_iter().zip(envoys) {
        if ours.step.meshwork.is_some() || ours.step.envoy.is_some() {
            continue;
        }
        for difference in step_differences(ours, envoys) {
            let allowed = case.differs.iter().position(|d| compare::fits(&d.what, &difference.path));
            match allowed {
                Some(index) => used[index] = true,
                None => verdict.push(difference.to_string()),
            }
        }
    }
    let unused = case.differs.iter().zip(used).filter(|(differs, used)| !used && !differs.sometimes);
    verdict.extend(unused.map(|(differs, _)| format!("nothing differs at `{}` any more", differs.what)));
    verdict
}

fn step_differences(mut ours: Played, mut envoys: Played) -> Vec<compare::Difference> {
    if let Some(distribution) = &ours.step.distribution {
        let (a, b) = (counts(&ours.outcome, distribution), counts(&envoys.outcome, distribution));
        let alike = if distribution.exact { a == b } else { compare::may_be_alike(&a, &b) };
        if alike {
            return Vec::new();
        }
        return vec![compare::Difference {
            path: format!("{}.distribution", ours.name),
            ours: Some(json!(a)),
            envoys: Some(json!(b)),
        }];
    }
    let words = ours.step.words;
    match (&mut ours.outcome, &mut envoys.outcome) {
        (Value::Array(a), Value::Array(b)) => {
            a.iter_mut().zip(b).for_each(|(a, b)| outcome::align(a, b, words));
        }
        (a, b) => outcome::align(a, b, words),
    }
    compare::differences(&ours.name, &ours.outcome, &envoys.outcome)
}

fn counts(outcomes: &Value, distribution: &Distribution) -> Counts {
    let mut counts = Counts::new();
    for outcome in outcomes.as_array().map_or(std::slice::from_ref(outcomes), Vec::as_slice) {
        let answer = &outcome["answer"];
        let value = match distribution.by.as_str() {
            "status" => answer["status"].to_string(),
            "origin" if answer["headers"]["x-origin"].is_null() => format!("none: {}", answer["status"]),
            "origin" => answer["headers"]["x-origin"][0].to_string(),
            field => answer["headers"][field].to_string(),
        };
        *counts.entry(value).or_default() += 1;
    }
    counts
}

/// Does the steps of a case on one side.
async fn play(case: &Case, placed: &Placed, certs: &Arc<Certs>) -> Vec<Played> {
    let mut connections = Connections::new();
    let mut played = Vec::new();
    for (index, step) in case.requests.iter().enumerate() {
        let fields = |n: usize| {
            step.filled(&|word, name| match word {
                "N" => Some(n.to_string()),
                _ => placed.meaning(word, name),
            })
        };
        let first = fields(0);
        let what = first.name.clone().or_else(|| first.request.clone()).unwrap_or_default();
        let name = format!("requests[{index}]{}", if what.is_empty() { what } else { format!(" {what}") });
        let mut outcome = step_outcome(&first, &fields, placed, certs, &mut connections).await;
        placed.own().take_out(&mut outcome);
        played.push(Played { name, step: first, outcome });
    }
    // What is written at a connection's end is there once they are closed.
    drop(connections);
    for log in &case.logs {
        let mut outcome = json!({ "lines": lines(&placed.folder.join(log)).await });
        placed.own().take_out(&mut outcome);
        let step = Fields::default();
        played.push(Played { name: format!("logs {log}"), step, outcome });
    }
    played
}

/// The lines of a log once no more come.
async fn lines(file: &Path) -> Vec<Value> {
    let mut text = String::new();
    for round in 0..100 {
        tokio::time::sleep(Duration::from_millis(if round == 0 { 300 } else { 700 })).await;
        let now = std::fs::read_to_string(file).unwrap_or_default();
        if !now.is_empty() && now == text {
            break;
        }
        if round > 20 && now.is_empty() {
            break;
        }
        text = now;
    }
    let parsed = |line: &str| serde_json::from_str(line).unwrap_or_else(|_| json!(line));
    text.lines().map(parsed).collect()
}

async fn step_outcome(
    first: &Fields,
    fields: &dyn Fn(usize) -> Fields,
    placed: &Placed,
    certs: &Arc<Certs>,
    connections: &mut Connections,
) -> Value {
    tokio::time::sleep(first.wait).await;
    for (name, text) in &first.writes {
        placed.write(name, text);
    }
    if first.is_pause() {
        return json!({});
    }
    if first.repeat == 1 {
        return eventually(first, placed, certs, connections).await;
    }
    let mut outcomes = Vec::new();
    if first.parallel {
        let steps: Vec<Fields> = (0..first.repeat).map(fields).collect();
        let all = steps.iter().map(|step| async {
            client::perform(step, placed.address(&step.to), certs, &mut Connections::new()).await
        });
        outcomes = futures_util::future::join_all(all).await;
        let seen = seen(first, placed).await;
        if first.distribution.is_none() {
            outcomes.push(json!({ "origins": seen }));
        }
        return Value::Array(outcomes);
    }
    for n in 0..first.repeat {
        outcomes.push(once(&fields(n), placed, certs, connections).await);
    }
    Value::Array(outcomes)
}

async fn eventually(
    step: &Fields,
    placed: &Placed,
    certs: &Arc<Certs>,
    connections: &mut Connections,
) -> Value {
    let started = Instant::now();
    loop {
        let outcome = once(step, placed, certs, connections).await;
        let own = if placed.program == Program::Meshwork { &step.meshwork } else { &step.envoy };
        let expected = [&step.expect, own];
        let holds = expected.into_iter().flatten().all(|e| compare::unmet("", e, &outcome).is_empty());
        if holds || !step.eventually || started.elapsed() > EVENTUALLY {
            return outcome;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn once(step: &Fields, placed: &Placed, certs: &Arc<Certs>, connections: &mut Connections) -> Value {
    if let Some(line) = &step.admin {
        // By an address: on loopback we answer no name that strangers could have.
        let host = Some("127.0.0.1".to_owned());
        let admin = Fields { request: Some(line.clone()), host, ..Fields::default() };
        return client::perform(&admin, ([127, 0, 0, 1], placed.admin).into(), certs, connections).await;
    }
    let mut outcome = client::perform(step, placed.address(&step.to), certs, connections).await;
    outcome["origins"] = seen(step, placed).await;
    outcome
}

/// What the origins saw, by their names; of one that the step waits for, once it is there.
async fn seen(step: &Fields, placed: &Placed) -> Value {
    let started = Instant::now();
    let missing =
        || step.sees.iter().any(|(name, count)| placed.origins.get(name).is_none_or(|o| o.count() < *count));
    while missing() && started.elapsed() < Duration::from_secs(5) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut all = json!({});
    for (name, origin) in placed.origins.iter() {
        let seen = origin.take();
        if !seen.is_empty() {
            all[name] = Value::Array(seen);
        }
    }
    all
}
