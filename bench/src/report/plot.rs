//! A scenario's lead metric as horizontal bars, in colours that suit light and dark pages.

use crate::results::{Outcome, Row};

const WIDTH: f64 = 640.0;
const LABELS: f64 = 150.0;
const VALUES: f64 = 90.0;
const LINE: f64 = 22.0;
const BAR: f64 = 14.0;
const TOP: f64 = 24.0;

/// An SVG picture.
pub(super) fn render(outcome: &Outcome) -> String {
    let highest = outcome
        .rows
        .iter()
        .filter_map(|row| row.spread(outcome.lead))
        .fold(0.0, |high: f64, s| high.max(s.high));
    #[expect(clippy::cast_precision_loss, reason = "a few rows")]
    let height = TOP + LINE * outcome.rows.len() as f64 + 4.0;
    let better = if outcome.lead.more_is_better() { "more is better" } else { "less is better" };
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#808080\">\n\
         <text x=\"{LABELS}\" y=\"14\">{}, {better}</text>\n",
        outcome.lead.title()
    );
    let mut y = TOP;
    for row in &outcome.rows {
        text.push_str(&bar(outcome, row, y, highest));
        y += LINE;
    }
    text + "</svg>\n"
}

/// The median as a bar, lowest and highest as a line across its end.
fn bar(outcome: &Outcome, row: &Row, y: f64, highest: f64) -> String {
    let middle = y + BAR / 2.0;
    let label = format!(
        "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
        LABELS - 8.0,
        middle + 4.0,
        row.label
    );
    let Some(spread) = row.spread(outcome.lead) else { return label };
    let scale = (WIDTH - LABELS - VALUES) / highest.max(f64::MIN_POSITIVE);
    let colour = if row.label.starts_with("meshwork") { "#2a9d8f" } else { "#8d99ae" };
    let (low, high) = (LABELS + spread.low * scale, LABELS + spread.high * scale);
    let bar = format!(
        "<rect x=\"{LABELS}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{colour}\"/>\n\
         <path d=\"M{low:.1} {middle:.1}H{high:.1}\" stroke=\"#e76f51\" stroke-width=\"2\"/>\n\
         <text x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
        spread.median * scale,
        high + 6.0,
        middle + 4.0,
        outcome.lead.format(spread.median)
    );
    label + &bar
}
