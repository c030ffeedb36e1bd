//! `meshwork man`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::CommandFactory as _;

/// Write the manual pages, one a command, into a folder
#[derive(clap::Args)]
#[command(after_help = "Example: meshwork man ~/.local/share/man/man1")]
pub(crate) struct Man {
    /// The folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl Man {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let folder = &self.folder;
        let cannot = || format!("cannot write to {}", folder.display());
        std::fs::create_dir_all(folder).with_context(cannot)?;
        clap_mangen::generate_to(super::Arguments::command(), folder).with_context(cannot)
    }
}
