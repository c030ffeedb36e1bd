//! `meshwork completions`.

use clap::CommandFactory;
use clap_complete::Shell;

/// Print the completion script of a shell
#[derive(clap::Args)]
#[command(
    after_help = "Example: meshwork completions bash > ~/.local/share/bash-completion/completions/meshwork"
)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(&self) {
        let mut command = super::Arguments::command();
        clap_complete::generate(self.shell, &mut command, "meshwork", &mut std::io::stdout());
    }
}
