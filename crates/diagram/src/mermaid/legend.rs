//! The legend: each look of a line that is drawn, and the monitoring points.

use super::pods::Drawn;
use super::sheet::{Length, Sheet, Stroke};
use super::{MONITORED, frames};
use crate::topology::{Observability, Topology};

/// Writes the legend of what is drawn; returns whether there is any.
pub(super) fn legend(sheet: &mut Sheet, topology: &Topology, drawn: &Drawn) -> bool {
    let calls = if topology.live { "rate · success · p50" } else { "calls" };
    let paths = [
        (drawn.strokes.contains(&Stroke::Calls), Stroke::Calls, calls),
        (drawn.strokes.contains(&Stroke::Failing), Stroke::Failing, "calls that fail"),
        (drawn.strokes.contains(&Stroke::Denied), Stroke::Denied, "denied by policy"),
        (drawn.strokes.contains(&Stroke::Plaintext), Stroke::Plaintext, "not encrypted"),
        (topology.control.discovery.is_some(), Stroke::Config, "config (xDS)"),
        (topology.control.certificate_authority.is_some(), Stroke::Certificates, "certificates"),
        (topology.observability != Observability::default(), Stroke::Telemetry, "telemetry"),
    ];
    let paths: Vec<(Stroke, &str)> =
        paths.into_iter().filter_map(|(is_drawn, stroke, text)| is_drawn.then_some((stroke, text))).collect();
    if paths.is_empty() {
        return false;
    }
    let title =
        if drawn.monitored { format!("Legend ({MONITORED} monitoring point)") } else { "Legend".to_owned() };
    sheet.frame("legend", &title, frames::LEGEND, |sheet| {
        sheet.row("direction LR");
        for (number, (stroke, text)) in paths.iter().enumerate() {
            let (from, to) = (format!("from_{number}"), format!("to_{number}"));
            sheet.row(&format!("{from}(( )):::key"));
            sheet.row(&format!("{to}(( )):::key"));
            sheet.line(&from, &to, *stroke, Length::Short, text);
        }
    });
    true
}
