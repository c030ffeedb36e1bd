//! `meshwork completions`.

use clap::builder::Str;
use clap::{Arg, Command, CommandFactory, ValueHint};
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
        let mut command = hinted(super::Arguments::command());
        clap_complete::generate(self.shell, &mut command, "meshwork", &mut std::io::stdout());
    }
}

/// Tells shells what they can complete: folders, files and programs. Names and numbers are none of them.
fn hinted(command: Command) -> Command {
    let with_hint = |argument: Arg| match hint(&argument) {
        Some(hint) => argument.value_hint(hint),
        None => argument,
    };
    command.mut_args(with_hint).mut_subcommands(hinted)
}

/// What an argument's value is, by what help calls it; `None` where it takes none.
fn hint(argument: &Arg) -> Option<ValueHint> {
    let names = argument.get_value_names().unwrap_or_default();
    let hint = match names.first().map(Str::as_str) {
        Some("DIR") => ValueHint::DirPath,
        Some("FILE") => ValueHint::FilePath,
        Some("FILE|DIR|-" | "PATH") => ValueHint::AnyPath,
        Some("PROGRAM") => ValueHint::CommandName,
        _ => ValueHint::Other,
    };
    argument.get_action().takes_values().then_some(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_files_are_completed_and_names_are_not() {
        let command = hinted(super::super::Arguments::command());
        let check = |path: &[&str], name: &str, expected: ValueHint| {
            let found = path.iter().try_fold(&command, |command, name| command.find_subcommand(name));
            let mut arguments = found.expect("a command").get_arguments();
            let argument = arguments.find(|argument| argument.get_id() == name).expect("an argument");
            assert_eq!(argument.get_value_hint(), expected, "{path:?} {name}");
        };
        check(&["token", "create"], "state", ValueHint::DirPath);
        check(&["token", "create"], "out", ValueHint::FilePath);
        check(&["ca", "revoke"], "identity", ValueHint::Other);
        check(&["ca", "revoke"], "token_file", ValueHint::FilePath);
        check(&["run"], "command", ValueHint::CommandName);
        check(&["apply"], "paths", ValueHint::AnyPath);
        // As everything is that the script is made of.
        command.debug_assert();
    }
}
