//! Where state lies by default.

use std::path::PathBuf;

use anyhow::Context as _;

/// The folder of this user's state: `$XDG_STATE_HOME/meshwork`, or `~/.local/state/meshwork`.
///
/// # Errors
/// Neither variable is set.
pub(crate) fn state_home() -> anyhow::Result<PathBuf> {
    let given = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = given("XDG_STATE_HOME").or_else(|| given("HOME").map(|home| home.join(".local/state")));
    let home =
        home.context("neither XDG_STATE_HOME nor HOME is set: name the folders by --state and --mesh")?;
    Ok(home.join("meshwork"))
}

/// The state folder of a control plane that runs here with the default one.
///
/// # Errors
/// As [`state_home`].
pub(crate) fn control_plane() -> anyhow::Result<PathBuf> {
    Ok(state_home()?.join("control-plane"))
}
