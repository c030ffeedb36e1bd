//! Checks the invariants of ARCHITECTURE.md and the repository's rules; an invariant is changed by a decision
//! record, never on the way.

mod dependencies;
mod sources;

use anyhow::bail;

use crate::r#gen::limits;
use crate::run as workspace;

/// Runs every check and names all that fails.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut problems = dependencies::check()?;
    problems.extend(sources::check()?);
    problems.extend(limits::check(&workspace::root())?);
    if problems.is_empty() {
        return Ok(());
    }
    for problem in &problems {
        crate::say(format_args!("tidy: {problem}"));
    }
    bail!("{} problems", problems.len())
}
