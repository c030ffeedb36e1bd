//! The demo from its start to its end: bring up, let flow, count, report, take down.
//!
//! The load starts when everything is ready, and stops first: no failure is hidden behind a start or an end.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use meshwork_hub::Edge;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use crate::commands::{LOAD, PUSH_SECONDS};
use crate::fetch::FetchError;
use crate::mesh::Mesh;
use crate::report::{Report, judge};
use crate::screen::Screen;
use crate::supervisor::Event;
use crate::table::{self, Past};
use crate::traffic::Traffic;
use crate::{Mode, Options, Output};

/// How often the table is fetched.
const REFRESH: Duration = Duration::from_secs(1);
/// Every how many fetches the table is printed where it cannot be redrawn, and the diagram is written.
const PRINT_EVERY: u32 = 5;
/// How often the control plane is asked for the report's figures; a second passes in between.
const MAX_TRIES: u32 = 10;
/// What the sidecars have counted arrives within two of their pushes.
const SETTLE: Duration = Duration::from_secs(2 * PUSH_SECONDS);

/// How a run went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing failed that should not have, and nothing got through that should not have.
    Passed,
    /// Something did, in words.
    Failed(String),
}

/// Why the demo cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// Its folder cannot be made or written.
    #[error("cannot make the demo's folder")]
    Directory(#[source] std::io::Error),
    /// No ports or file descriptors are left.
    #[error("cannot reserve ports")]
    Ports(#[source] std::io::Error),
    /// The demo's own binary cannot be run again.
    #[error("cannot run this binary again")]
    Binary(#[source] std::io::Error),
    /// Signals cannot be handled.
    #[error("cannot handle signals")]
    Signals(#[source] std::io::Error),
    /// A workload got no join token.
    #[error("no join token for {workload}: {why}")]
    Token {
        /// The workload.
        workload: &'static str,
        /// What the command wrote.
        why: String,
    },
    /// A component ended before everything was ready, or was not ready in time.
    #[error("{name} {how}; its log is {}{}", log.display(), indented(tail))]
    Component {
        /// The process.
        name: String,
        /// What happened to it.
        how: String,
        /// Where it logs to.
        log: PathBuf,
        /// The end of that.
        tail: String,
    },
    /// The control plane does not say who called whom.
    #[error("cannot ask the control plane for its edges")]
    Edges(#[from] FetchError),
    /// The report or the diagram cannot be written.
    #[error("cannot write {}", path.display())]
    Report {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
}

fn indented(tail: &str) -> String {
    let lines: Vec<&str> = tail.lines().collect();
    if lines.is_empty() { String::new() } else { format!("\n    {}", lines.join("\n    ")) }
}

/// Runs the demo until its time is over or it is interrupted, and ends all that it started.
///
/// Needs a tokio runtime with I/O and time; one thread is enough.
///
/// # Errors
/// It could not start, or its report could not be made. A run that started and went wrong is a [`Verdict`].
pub async fn run(options: Options) -> Result<Verdict, DemoError> {
    let mut interrupt = Interrupt::new().map_err(DemoError::Signals)?;
    let screen = Screen::new(options.output);
    let mesh = Mesh::new(options.directory.as_deref(), options.mode)?;
    let mut demo = Demo { options, screen, mesh, traffic: Traffic::default(), past: Past::default() };
    let played = Box::pin(demo.play(&mut interrupt)).await;
    demo.screen.settle();
    demo.take_down(&mut interrupt).await;
    let verdict = demo.conclude(played);
    demo.leave(matches!(&verdict, Ok(Verdict::Passed)));
    verdict
}

struct Demo {
    options: Options,
    screen: Screen,
    mesh: Mesh,
    traffic: Traffic,
    past: Past,
}

/// How far a run came.
enum Played {
    /// Traffic flowed.
    Whole,
    /// It was interrupted before traffic flowed.
    Interrupted,
}

impl Demo {
    async fn play(&mut self, interrupt: &mut Interrupt) -> Result<Played, DemoError> {
        let logs = self.mesh.directory.root().join("logs");
        self.screen.say(&format!(
            "A shop in a mesh, as processes of this machine; they log to {}\n{}\n",
            logs.display(),
            self.mode()
        ));
        let started = self.options.started;
        tokio::select! {
            ready = self.mesh.start(&self.screen, started) => ready?,
            () = interrupt.next() => return Ok(Played::Interrupted),
        }
        self.screen.say(&format!("\n{}\n", self.mesh.hints()));
        self.mesh.start_load(self.options.rate);
        self.flow(interrupt).await;
        self.mesh.stop_load().await;
        while let Some(event) = self.mesh.pending_event() {
            self.happened(event);
        }
        self.report().await?;
        Ok(Played::Whole)
    }

    /// How traffic reaches the sidecars, in words.
    fn mode(&self) -> String {
        match (self.options.mode, &self.options.why_explicit) {
            (Mode::Namespace, _) => {
                "Mode: namespace. Each program is in a network of its own, on the port of its service, and \
                                     calls the others by name."
                    .to_owned()
            }
            (Mode::Explicit, None) => {
                "Mode: explicit. Programs are told the loopback ports of their sidecars.".to_owned()
            }
            (Mode::Explicit, Some(why)) => format!(
                "Mode: explicit. Programs are told the loopback ports of their sidecars; they cannot have networks of \
                 their own here: {why}"
            ),
        }
    }

    /// Shows what flows until the time is over or the demo is interrupted.
    async fn flow(&mut self, interrupt: &mut Interrupt) {
        let over = sleep(self.options.run_for.unwrap_or(Duration::MAX));
        let mut over = std::pin::pin!(over);
        let mut refresh = interval_at(Instant::now() + REFRESH, REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut count = 1_u32;
        loop {
            tokio::select! {
                () = over.as_mut() => return,
                () = interrupt.next() => return,
                Some(event) = self.mesh.event() => self.happened(event),
                _ = refresh.tick() => {
                    self.refresh(count.is_multiple_of(PRINT_EVERY)).await;
                    count = count.wrapping_add(1);
                }
            }
        }
    }

    /// Takes in what happened to a process.
    fn happened(&mut self, event: Event) {
        match event {
            Event::Line { line, .. } => {
                let before = self.traffic.flowing().is_none();
                self.traffic.line(&line, self.options.started);
                if let (true, Some(after)) = (before, self.traffic.flowing()) {
                    self.screen.say(&format!("Traffic flows, {:.2} s after the start.", after.as_secs_f64()));
                }
                for reason in self.traffic.news() {
                    self.screen.say(&format!("! {reason}"));
                }
            }
            Event::Died { name, how } => {
                let log = self.mesh.directory.log(&name);
                self.screen.say(&format!("! {name} {how}; its log is {}", log.display()));
            }
            Event::Restarted { name, pid } => {
                if name == LOAD {
                    self.traffic.restarted();
                }
                self.screen.say(&format!("  {name} was started again, as process {pid}"));
            }
        }
    }

    /// Shows the edges as they are now; `rarely` is true for one call in [`PRINT_EVERY`].
    async fn refresh(&mut self, rarely: bool) {
        let table = match self.mesh.edges().await {
            Ok(edges) => self.render(&edges),
            Err(error) => format!("The control plane does not answer: {error}"),
        };
        if self.screen.is_live() || rarely {
            let summary = table::summary(&self.traffic.total(), &self.traffic.lately());
            self.screen.table(&format!("{table}\n{summary}"));
        }
        if rarely && let Ok(diagram) = self.mesh.diagram().await {
            // The next one may succeed; the last one is not left unwritten in silence.
            let _ = std::fs::write(self.mesh.directory.diagram(), diagram);
        }
    }

    /// Writes the report and the diagram, where they are asked for.
    async fn report(&mut self) -> Result<(), DemoError> {
        if self.options.report.is_none() && self.options.output == Output::Text {
            self.show_last().await;
            return Ok(());
        }
        sleep(SETTLE).await;
        let edges = answered(|| self.mesh.edges()).await?;
        let diagram = self.write_diagram().await?;
        let table = self.render(&edges);
        self.screen.table(&table);
        let report = self.make_report(&edges, diagram);
        let json = report.json().unwrap_or_default();
        if let Some(path) = &self.options.report {
            std::fs::write(path, format!("{json}\n"))
                .map_err(|source| DemoError::Report { path: path.clone(), source })?;
        }
        if self.options.output == Output::Json {
            print(&json).map_err(|source| DemoError::Report { path: "standard output".into(), source })?;
        }
        Ok(())
    }

    /// Leaves the last table on a terminal, without the line that is said at the end anyway.
    async fn show_last(&mut self) {
        if self.screen.is_live()
            && let Ok(edges) = self.mesh.edges().await
        {
            let table = self.render(&edges);
            self.screen.table(&table);
        }
    }

    fn render(&mut self, edges: &[Edge]) -> String {
        let table = table::render(edges, &self.past, self.screen.paint());
        self.past.remember(edges);
        table
    }

    fn make_report(&self, edges: &[Edge], diagram: PathBuf) -> Report {
        Report::new(self.traffic.flowing(), &self.traffic.total(), edges, diagram)
    }

    /// Writes the diagram beside the report, else into the folder, where it stays, and gives its path.
    async fn write_diagram(&self) -> Result<PathBuf, DemoError> {
        let text = answered(|| self.mesh.diagram()).await?;
        let directory = &self.mesh.directory;
        let path = match &self.options.report {
            Some(report) => report.with_extension("mmd"),
            // Beside a folder that is about to go.
            None if directory.is_temporary() => directory.root().with_extension("mmd"),
            None => directory.diagram(),
        };
        let written = std::fs::write(&path, text).and_then(|()| path.canonicalize());
        written.map_err(|source| DemoError::Report { path, source })
    }

    async fn take_down(&mut self, interrupt: &mut Interrupt) {
        tokio::select! {
            ended = self.mesh.stop() => self.screen.say(&format!("All {ended} other processes have ended.")),
            // Who asks twice does not want to wait: the lifeline ends them with this process.
            () = interrupt.next() => {}
        }
    }

    fn conclude(&self, played: Result<Played, DemoError>) -> Result<Verdict, DemoError> {
        let tally = self.traffic.total();
        match played? {
            Played::Interrupted => Ok(Verdict::Failed("interrupted before traffic flowed".to_owned())),
            Played::Whole => {
                self.screen.say(&table::summary(&tally, &tally.versions));
                Ok(judge(&tally).map_or_else(Verdict::Failed, |()| Verdict::Passed))
            }
        }
    }

    /// Tells where things are, or removes what nobody needs any more.
    fn leave(&self, passed: bool) {
        let directory = &self.mesh.directory;
        if passed && directory.is_temporary() {
            if let Err(error) = directory.remove() {
                tracing::warn!("cannot remove {}: {error}", directory.root().display());
            }
        } else {
            self.screen.say(&format!("Config, state and logs are kept in {}", directory.root().display()));
        }
    }
}

/// Asks the control plane until it answers: it may have been killed just now, and comes back.
async fn answered<T, F>(ask: impl Fn() -> F) -> Result<T, FetchError>
where
    F: Future<Output = Result<T, FetchError>>,
{
    let mut tries = 1;
    loop {
        match ask().await {
            Err(_) if tries < MAX_TRIES => tries += 1,
            answer => return answer,
        }
        sleep(REFRESH).await;
    }
}

fn print(text: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout().lock(), "{text}")
}

/// What asks the demo to end: Ctrl-C, SIGTERM, or a terminal that is gone.
struct Interrupt([Signal; 3]);

impl Interrupt {
    fn new() -> std::io::Result<Self> {
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Self([interrupt, terminate, signal(SignalKind::hangup())?]))
    }

    /// Completes when the demo is asked to end, once for each time.
    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
