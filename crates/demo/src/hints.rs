//! What a person can try next: commands that work as they stand. Pure but for the place of the binary.

use std::path::{Path, PathBuf};

use crate::assets;
use crate::commands::CONTROL_PLANE;
use crate::directory::Directory;
use crate::plan::Plan;

/// The lines that tell what to try while the demo runs.
pub(crate) fn hints(plan: &Plan, directory: &Directory) -> String {
    let meshwork = word(&near(&plan.binary));
    let api = plan.control_plane.api;
    let routes = word(&directory.config().join(assets::SPLIT_FILE));
    let (policy, config) = (word(&directory.to_try(assets::CUT_OFF)), word(&directory.config()));
    let applied = word(&directory.config().join(assets::CUT_OFF));
    let (sidecar, control_plane) = (word(&directory.pid("web-sidecar")), word(&directory.pid(CONTROL_PLANE)));
    [
        format!("See it      {meshwork} diagram --api http://{api}"),
        format!("            Mermaid text, kept fresh in {}", directory.diagram().display()),
        format!("            config, logs and access logs in {}", directory.root().display()),
        String::new(),
        "Try next, in another terminal:".to_owned(),
        "  half of the customers get catalog v2".to_owned(),
        format!("    sed -i '{}' {routes}", assets::SPLIT_EDIT),
        "  cut off payments by policy; orders fail until you remove it again".to_owned(),
        format!("    cp {policy} {config}/"),
        format!("    rm {applied}"),
        "  kill a sidecar, then the control plane: the first comes back, the second is not missed".to_owned(),
        format!("    kill -9 $(cat {sidecar})"),
        format!("    kill -9 $(cat {control_plane})"),
    ]
    .join("\n")
}

/// The binary as it is typed from the current folder, where it lies below it.
fn near(binary: &Path) -> PathBuf {
    let below =
        std::env::current_dir().ok().and_then(|here| binary.strip_prefix(here).ok().map(Path::to_path_buf));
    match below {
        // A bare name would be looked for in PATH.
        Some(path) if path.components().count() > 1 => path,
        _ => binary.to_path_buf(),
    }
}

/// A path as a word of the shell.
fn word(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if text.chars().all(plain) { text.into_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_word(path: &str, expected: &str) {
        assert_eq!(word(Path::new(path)), expected);
    }

    #[test]
    fn paths_are_single_words_to_the_shell() {
        check_word("/tmp/demo-1/a.yaml", "/tmp/demo-1/a.yaml");
        check_word("/home/a b", "'/home/a b'");
        check_word("/home/it's", r"'/home/it'\''s'");
    }

    #[test]
    fn the_edit_of_the_split_changes_the_shops_routes() {
        let directory = Directory::create(None).expect("a folder");
        let hints = hints(&Plan::of_mode(crate::Mode::Explicit), &directory);
        let sed = hints.lines().map(str::trim).find(|line| line.starts_with("sed ")).expect("an edit");
        let routes = directory.config().join(assets::SPLIT_FILE);
        let before = std::fs::read_to_string(&routes).expect("routes");
        let done = std::process::Command::new("sh").args(["-c", sed]).status().expect("a shell");
        assert!(done.success());
        let after = std::fs::read_to_string(&routes).expect("routes");
        assert_eq!(after, before.replace("weight: 90", "weight: 50").replace("weight: 10", "weight: 50"));
        assert_eq!(after.matches("weight: 50").count(), 2, "{after}");
        directory.remove().expect("removal");
    }
}
