//! Pages of the documentation that are made of what the program knows: commands, codes, schemas. `cargo xtask gen`
//! writes them anew.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory as _};
use meshwork_model::problem::Code;
use meshwork_model::reason::ALL;

use super::schema;

/// As wide as a page of code is read.
const WIDTH: usize = 100;

const COMMANDS: &str = "\
# Commands

What each command of `meshwork` takes, as `--help` says it. `cargo xtask gen` writes this page; `meshwork man DIR` writes \
the same as manual pages, and `meshwork completions SHELL` prints a shell's completions, all from one registry.

**Whom commands ask.** Those that change or show the mesh's config ask the control plane: by the Unix socket in your \
default state folder (`~/.local/state/meshwork/control-plane/api.sock`) where there is one of yours, else by \
`http://127.0.0.1:15040`. `--api` or `MESHWORK_API` names another, `unix:/path/api.sock` or `http://HOST:PORT`. Over \
HTTP, changes need a token: `--token-file`, `--token` or `MESHWORK_TOKEN`.

**How they print.** `-o json` and `-o yaml` are for programs, and fields are only ever added to them. Text is for people \
and may change. Results go to standard output, all else to standard error. `NO_COLOR` turns colours off.

**How they end.** 0: done. 1: failed, or refused; `diff`: there is a difference. 2: the command line is wrong; `diff`: \
an error. 3: `--wait` and `status --revision`: done, but not every proxy has it. `run`: as the program does.
";

const CODES: &str = "\
# Codes

Why the mesh answers in a service's place, and what may be wrong with config. `meshwork explain CODE` tells the same. \
Codes are stable: one is never given to something else. `cargo xtask gen` writes this page from \
`crates/model/src/reason.rs` and `crates/model/src/problem/code.rs`.

## Answers that the mesh gives

The code stands in the answer's `x-meshwork-reason` header and in the access log; *flag* is Envoy's response flag there.

| code | what happened | what to do | status | gRPC | flag |
|---|---|---|---|---|---|
";

const PROBLEMS: &str = "
## Problems of config

The code stands behind `error` or `warning`, as in `error[MW1005]`, and as `code` in the API's answers.

| code | what it is | how it comes about | what to do |
|---|---|---|---|
";

fn commands() -> String {
    let mut command = plain(super::Arguments::command());
    command.build();
    let mut page = COMMANDS.to_owned();
    section(&mut command, "meshwork", &mut page);
    page
}

/// The same on every machine: no terminal's width, no values of variables.
fn plain(command: Command) -> Command {
    let command = command.term_width(WIDTH).disable_help_subcommand(true);
    command.mut_args(|argument| argument.hide_env_values(true)).mut_subcommands(plain)
}

fn section(command: &mut Command, name: &str, page: &mut String) {
    let help = command.render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    let _ = write!(page, "\n## {name}\n\n```text\n{}\n```\n", help.join("\n").trim_end());
    for inner in command.get_subcommands_mut().filter(|inner| !inner.is_hide_set()) {
        let name = format!("{name} {}", inner.get_name());
        section(inner, &name, page);
    }
}

fn codes() -> String {
    let mut page = CODES.to_owned();
    for words in ALL.iter().map(|reason| reason.words()) {
        let flag = if words.flag.is_empty() { "–" } else { words.flag };
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} | {} | {flag} |",
            words.code, words.what, words.fix, words.status, words.grpc_status
        );
    }
    page.push_str(PROBLEMS);
    for words in Code::ALL.iter().map(|code| code.words()) {
        let _ = writeln!(page, "| {} | {} | {} | {} |", words.code, words.title, words.cause, words.fix);
    }
    page
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

fn check(file: &str, text: &str) {
    let path = docs().join(file);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(&path, text).expect("written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == text, "docs/{file} is not what the program says: run `cargo xtask gen`");
}

#[test]
fn the_page_of_commands_is_current() {
    check("cli.md", &commands());
}

#[test]
fn the_page_of_codes_is_current() {
    check("reasons.md", &codes());
}

#[test]
fn the_schemas_are_current() {
    let files = schema::files().expect("schemas");
    for (name, text) in &files {
        check(&format!("schemas/{name}"), text);
    }
    for entry in std::fs::read_dir(docs().join("schemas")).expect("a folder") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        let is_known = name == "README.md" || files.iter().any(|(known, _)| *known == name);
        assert!(is_known, "docs/schemas/{name} is of no kind");
    }
}
