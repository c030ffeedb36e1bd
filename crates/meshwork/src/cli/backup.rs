//! `meshwork backup` and `meshwork restore`.

use std::path::PathBuf;

use meshwork_control_plane::store::backup;

use super::{folders, output};
use crate::secrecy;

/// Write all state of a control plane to one file, while it runs or not
///
/// The file has the config with its history, tokens, enrolments and the CA's private key: keep it safe. Only you can
/// read it; `sqlite3` opens it.
#[derive(clap::Args)]
#[command(after_help = "Example: meshwork backup mesh-$(date +%F).backup")]
pub(crate) struct Backup {
    /// The file to write; it must not be there yet
    file: PathBuf,

    #[command(flatten)]
    state: State,
}

/// Put a backup back, in the place of the state of a control plane that does not run
///
/// What was there is kept in a folder beside it.
#[derive(clap::Args)]
pub(crate) struct Restore {
    /// The file that `meshwork backup` wrote
    file: PathBuf,

    #[command(flatten)]
    state: State,
}

#[derive(clap::Args)]
struct State {
    /// The control plane's state folder; `$XDG_STATE_HOME/meshwork/control-plane` where it is left out
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,

    /// The folder of the CA, where the control plane runs with `--ca`
    #[arg(long, value_name = "DIR")]
    ca: Option<PathBuf>,
}

impl State {
    /// The folders of the state, and of the CA where it is not in that.
    fn folders(self) -> anyhow::Result<(PathBuf, Option<PathBuf>)> {
        Ok((self.state.map_or_else(folders::control_plane, Ok)?, self.ca))
    }
}

impl Backup {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        secrecy::keep();
        let (state, ca) = self.state.folders()?;
        let has_ca = backup::backup(&state, ca.as_deref(), &self.file)?;
        output::line(format_args!("{} has the state of {}", self.file.display(), state.display()));
        if !has_ca {
            output::line(format_args!(
                "without a CA: there is none in it; --ca DIR adds one that is elsewhere"
            ));
        }
        Ok(())
    }
}

impl Restore {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        secrecy::keep();
        let (state, ca) = self.state.folders()?;
        match backup::restore(&self.file, &state, ca.as_deref())? {
            Some(aside) => output::line(format_args!(
                "{} is as it was in {}; what was there is in {}",
                state.display(),
                self.file.display(),
                aside.display()
            )),
            None => output::line(format_args!("{} is made of {}", state.display(), self.file.display())),
        }
        Ok(())
    }
}
