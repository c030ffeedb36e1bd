//! What a person sees: progress, then a table that is redrawn in place on a terminal and printed elsewhere.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::Output;
use crate::table::Paint;

/// How fast what is awaited spins.
const SPIN: Duration = Duration::from_millis(120);

/// Where the demo shows what happens.
pub(crate) struct Screen {
    stream: Stream,
    /// There only on a terminal.
    live: Option<Live>,
    paint: Paint,
}

#[derive(Clone, Copy)]
enum Stream {
    Stdout,
    Stderr,
}

struct Live {
    all: MultiProgress,
    table: Option<ProgressBar>,
}

/// A component that is awaited.
pub(crate) struct Awaited(Option<ProgressBar>);

impl Screen {
    /// Standard output for people, standard error where standard output is for the report.
    pub(crate) fn new(output: Output) -> Self {
        let (stream, terminal, target) = match output {
            Output::Text => (Stream::Stdout, std::io::stdout().is_terminal(), ProgressDrawTarget::stdout()),
            Output::Json => (Stream::Stderr, std::io::stderr().is_terminal(), ProgressDrawTarget::stderr()),
        };
        let live = terminal.then(|| Live { all: MultiProgress::with_draw_target(target), table: None });
        // Source: https://no-color.org
        let plain = !terminal || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { stream, live, paint: if plain { Paint::Plain } else { Paint::Ansi } }
    }

    /// Whether the table is redrawn in place.
    pub(crate) fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// How tables are marked up.
    pub(crate) fn paint(&self) -> Paint {
        self.paint
    }

    /// Shows lines that stay.
    pub(crate) fn say(&self, lines: &str) {
        match &self.live {
            // Lines that the bars know nothing of can be copied without padding.
            Some(live) => live.all.suspend(|| self.print(lines)),
            None => self.print(lines),
        }
    }

    /// Shows that a component is awaited.
    pub(crate) fn wait_for(&self, name: &str) -> Awaited {
        Awaited(self.live.as_ref().map(|live| {
            let style = ProgressStyle::with_template("  {spinner:.cyan} {msg}");
            let bar = ProgressBar::new_spinner().with_message(name.to_owned());
            let bar =
                live.all.add(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner())));
            bar.enable_steady_tick(SPIN);
            bar
        }))
    }

    /// Shows that a component is ready.
    pub(crate) fn ready(&self, awaited: Awaited, line: &str) {
        if let (Some(live), Some(bar)) = (&self.live, awaited.0) {
            bar.finish_and_clear();
            live.all.remove(&bar);
        }
        let mark = if self.paint == Paint::Ansi { "\u{1b}[32m✓\u{1b}[0m" } else { "✓" };
        self.say(&format!("  {mark} {line}"));
    }

    /// Shows the table: in the place of the last one on a terminal, below it elsewhere.
    pub(crate) fn table(&mut self, table: &str) {
        let Some(live) = &mut self.live else {
            self.print(&format!("\n{table}"));
            return;
        };
        let bar = live.table.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{msg}");
            let bar = ProgressBar::new_spinner();
            live.all.add(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner())))
        });
        bar.set_message(format!("\n{table}"));
        bar.tick();
    }

    /// Takes what is redrawn off a terminal; the last table stays as plain lines.
    pub(crate) fn settle(&mut self) {
        let Some(live) = self.live.take() else { return };
        let last = live.table.map(|bar| {
            bar.finish_and_clear();
            bar.message()
        });
        // A terminal that is gone is noticed by SIGHUP.
        let _ = live.all.clear();
        if let Some(table) = last {
            self.print(&table);
        }
    }

    fn print(&self, lines: &str) {
        // Nobody is left to see where the stream is gone; the run goes on for its report.
        let _ = match self.stream {
            Stream::Stdout => writeln!(std::io::stdout().lock(), "{lines}"),
            Stream::Stderr => writeln!(std::io::stderr().lock(), "{lines}"),
        };
    }
}
