//! How far a rotation is: a bar for each step on a terminal, else a line when something changes.

use std::io::IsTerminal as _;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Rotation, Step, Waiting};
use crate::cli::output;

/// The most names in one line.
const MAX_NAMES: usize = 5;
/// The most names that are told with their reasons.
const MAX_REASONS: usize = 20;

/// Shows a rotation as it goes on.
pub(super) struct Progress {
    bars: Option<MultiProgress>,
    /// The bar of a step, the last one being that of now.
    steps: Vec<(Step, ProgressBar)>,
    told: String,
    trouble: Option<String>,
    is_hinted: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        let bars = std::io::stderr().is_terminal();
        let bars = bars.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        Self { bars, steps: Vec::new(), told: String::new(), trouble: None, is_hinted: false }
    }

    /// Shows how far it is.
    pub(super) fn show(&mut self, rotation: &Rotation) {
        if self.trouble != rotation.trouble {
            if let Some(trouble) = &rotation.trouble {
                self.note(&format!("the step {} cannot be done yet: {trouble}", rotation.step.word()));
            }
            self.trouble.clone_from(&rotation.trouble);
        }
        if self.bars.is_some() {
            self.draw(rotation);
        } else {
            let line = line(rotation);
            if line != self.told {
                output::note(&line);
                self.told = line;
            }
        }
        let is_stuck = !rotation.waiting.is_empty() && rotation.waiting.iter().all(Waiting::may_take_long);
        if is_stuck && !self.is_hinted {
            self.is_hinted = true;
            self.note(
                "they may be long in coming: --without-offline goes on without those that are offline, --without NAME \
                 without one; who comes back then with what it had needs a new token",
            );
        }
    }

    fn draw(&mut self, rotation: &Rotation) {
        let Some(shown) = rotation.shown() else { return };
        if self.steps.last().is_none_or(|(step, _)| *step != rotation.step) {
            self.finish_last();
            let bar = ProgressBar::new(rotation.concerned as u64);
            if let Ok(style) = ProgressStyle::with_template("{prefix:44} {bar:24} {pos}/{len} {wide_msg}") {
                bar.set_style(style);
            }
            bar.set_prefix(shown);
            let bar = self.bars.as_ref().map_or(bar.clone(), |bars| bars.add(bar));
            self.steps.push((rotation.step, bar));
        }
        if let Some((_, bar)) = self.steps.last() {
            bar.set_length(rotation.concerned as u64);
            bar.set_position(rotation.done as u64);
            bar.set_message(waiting(rotation));
        }
    }

    fn finish_last(&self) {
        if let Some((_, bar)) = self.steps.last() {
            if let Some(length) = bar.length() {
                bar.set_position(length);
            }
            bar.abandon_with_message("");
        }
    }

    /// Ends the bars; they stay where they are.
    pub(super) fn end(&self, is_complete: bool) {
        if is_complete {
            self.finish_last();
        } else if let Some((_, bar)) = self.steps.last() {
            bar.abandon();
        }
        if self.bars.is_some() && !self.steps.is_empty() {
            // The cursor stands behind the last bar.
            output::note("");
        }
    }

    /// Says something beside the bars.
    pub(super) fn note(&self, text: &str) {
        match &self.bars {
            Some(bars) => bars.suspend(|| output::note(text)),
            None => output::note(text),
        }
    }
}

impl Waiting {
    /// Whether nothing that goes on now makes it come.
    fn may_take_long(&self) -> bool {
        // A program that took its certificate from an agent may have ended.
        let of_a_program = self.reason == "otherRoot" && self.name.contains(" for spiffe://");
        of_a_program || matches!(self.reason.as_str(), "offline" | "unfollowing")
    }
}

/// One line that says how far it is.
pub(super) fn line(rotation: &Rotation) -> String {
    let course = if rotation.aborting { " (is being aborted)" } else { "" };
    let head = format!("rotation {}: {}{course}", rotation.number, rotation.step.word());
    let Some(shown) = rotation.shown().filter(|_| rotation.running) else { return head };
    let waiting = waiting(rotation);
    let waiting = if waiting.is_empty() { waiting } else { format!("; {waiting}") };
    format!("{head}: {} of {} {shown}{waiting}", rotation.done, rotation.concerned)
}

/// Some names of those who are waited for.
fn waiting(rotation: &Rotation) -> String {
    let all = rotation.waiting.len() + rotation.hidden;
    let names: Vec<&str> = rotation.waiting.iter().take(MAX_NAMES).map(|one| one.name.as_str()).collect();
    match (names.join(", "), all - names.len()) {
        (_, 0) if all == 0 => String::new(),
        (names, 0) => format!("waiting for {names}"),
        (names, more) if names.is_empty() => format!("waiting for {more}"),
        (names, more) => format!("waiting for {names} and {more} more"),
    }
}

/// Each who is waited for with the reason, one a line.
pub(super) fn reasons(rotation: &Rotation) -> Vec<String> {
    let one = |waiting: &Waiting| format!("  {}: {}", waiting.name, waiting.message);
    let mut lines: Vec<String> = rotation.waiting.iter().take(MAX_REASONS).map(one).collect();
    let more = rotation.waiting.len() + rotation.hidden - lines.len();
    if more > 0 {
        lines.push(format!("  and {more} more"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rotation(step: &str, names: &[&str], hidden: usize) -> Rotation {
        let waiting = |name: &&str| json!({ "name": name, "reason": "offline", "message": "it is offline" });
        serde_json::from_value(json!({
            "number": 2, "step": step, "running": true, "from": "a", "to": "b", "by": "ann", "startedAt": "",
            "changedAt": "", "concerned": 9, "done": 3, "hidden": hidden, "trouble": null,
            "waiting": names.iter().map(waiting).collect::<Vec<_>>(),
        }))
        .expect("a rotation")
    }

    #[test]
    fn a_line_says_how_far_it_is_and_who_is_waited_for() {
        let check = |rotation: &Rotation, expected: &str| assert_eq!(line(rotation), expected);
        check(&rotation("starting", &[], 0), "rotation 2: starting");
        check(&rotation("added", &[], 0), "rotation 2: added: 3 of 9 trust the next root");
        check(
            &rotation("switched", &["shop/a"], 1),
            "rotation 2: switched: 3 of 9 have a certificate under the next root; waiting for shop/a and 1 more",
        );
        let many = ["a", "b", "c", "d", "e", "f", "g"];
        let back = Rotation { aborting: true, ..rotation("switchedBack", &many, 0) };
        check(
            &back,
            "rotation 2: switched back (is being aborted): 3 of 9 have a certificate under the earlier root again; \
             waiting for a, b, c, d, e and 2 more",
        );
        let turned = Rotation { aborting: true, ..rotation("switched", &[], 0) };
        check(&turned, "rotation 2: switched (is being aborted)");
        check(&rotation("added", &[], 4), "rotation 2: added: 3 of 9 trust the next root; waiting for 4");
    }

    #[test]
    fn whoever_may_never_come_is_known() {
        let may = |name: &str, reason: &str| {
            let waiting =
                Waiting { name: name.to_owned(), reason: reason.to_owned(), message: String::new() };
            waiting.may_take_long()
        };
        assert!(may("shop/a", "offline") && may("shop/agent for spiffe://m/ns/shop/sa/job", "otherRoot"));
        assert!(!may("shop/a", "otherRoot"));
    }

    #[test]
    fn reasons_are_told_one_a_line() {
        assert_eq!(reasons(&rotation("added", &["shop/a"], 2)), ["  shop/a: it is offline", "  and 2 more"]);
        let names: Vec<String> = (0..30).map(|i| i.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(reasons(&rotation("added", &names, 0)).last().map(String::as_str), Some("  and 10 more"));
    }
}
