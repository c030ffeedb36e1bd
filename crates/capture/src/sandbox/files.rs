//! Landlock: which files may be written, and that none is executed.

use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use landlock::{
    ABI, AccessFs, BitFlags, CompatLevel, Compatible as _, LandlockStatus, PathBeneath, PathFd,
    RestrictionStatus, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus,
    Scope,
};

use super::{Needs, Standing};

/// The rights that are known here: those of Linux 6.15. A kernel that knows fewer has those.
const KNOWN: ABI = ABI::V7;
/// What may be written besides, as far as it is there and a rule can be made for it.
const DEVICES: &[&str] = &["/dev/null", "/dev/tty"];
/// Where logs go that config calls by these names; of pipes and files without a name no rule can be made, and none is
/// needed.
const OUTPUTS: &[&str] = &["/dev/stdout", "/dev/stderr"];

/// Closes the file system, as far as the kernel can.
///
/// # Errors
/// A folder that is needed is not there.
pub(super) fn close(needs: &Needs) -> io::Result<Standing> {
    if let Some(what) = needs.other_processes {
        return Ok(Standing::Gap(format!("files as they are, for {what}")));
    }
    for folder in &needs.folders {
        if !folder.is_dir() {
            return Err(io::Error::other(format!("there is no folder {}", folder.display())));
        }
    }
    match restrict(needs, OUTPUTS).or_else(|_| restrict(needs, &[])) {
        Ok(status) => Ok(standing(needs, &status)),
        Err(error) => Ok(Standing::Missing(format!("Landlock: {error}"))),
    }
}

fn restrict(needs: &Needs, outputs: &[&str]) -> Result<RestrictionStatus, RulesetError> {
    let mut handled = AccessFs::from_write(KNOWN);
    if needs.programs.is_none() {
        handled |= AccessFs::Execute;
    }
    // Who is within signals nobody outside, and asks nobody there: the application may be of the same user, and so may
    // its service manager.
    let mut kept_in: BitFlags<Scope> = Scope::Signal.into();
    if needs.programs.is_none() && !needs.unix_sockets {
        kept_in |= Scope::AbstractUnixSocket;
    }
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(handled)?
        .scope(kept_in)?
        .create()?;
    let of_folders =
        AccessFs::from_write(KNOWN) & !(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev);
    let folders = needs.folders.iter().map(|folder| (folder.as_path(), of_folders));
    let beside = needs.appended.iter().filter_map(|file| Some((parent(file)?, appending())));
    let devices = DEVICES.iter().chain(outputs).map(|device| (Path::new(device), AccessFs::WriteFile.into()));
    folders
        .chain(beside)
        .chain(devices)
        .try_fold(rules, |rules, (path, access)| add(rules, path, access))?
        .restrict_self()
}

/// What is not there needs no rule.
fn add(
    rules: landlock::RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<landlock::RulesetCreated, RulesetError> {
    let is_pipe = std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo());
    let Some(open) = PathFd::new(path).ok().filter(|_| !is_pipe) else { return Ok(rules) };
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(KNOWN) };
    rules.add_rule(PathBeneath::new(open, access))
}

fn appending() -> BitFlags<AccessFs> {
    AccessFs::WriteFile | AccessFs::MakeReg
}

/// The folder that a file is in.
fn parent(file: &Path) -> Option<&Path> {
    match file.parent()? {
        here if here.as_os_str().is_empty() => Some(Path::new(".")),
        parent => Some(parent),
    }
}

fn standing(needs: &Needs, status: &RestrictionStatus) -> Standing {
    let version = match status.landlock {
        LandlockStatus::NotImplemented => return Standing::Missing("the kernel has no Landlock".to_owned()),
        LandlockStatus::NotEnabled => {
            return Standing::Missing("Landlock is not enabled in the kernel (`lsm=landlock,…`)".to_owned());
        }
        LandlockStatus::Available { effective_abi, .. } => format!("{effective_abi:?}"),
    };
    if status.ruleset == RulesetStatus::NotEnforced {
        return Standing::Missing("Landlock is not enforced".to_owned());
    }
    let written: Vec<String> = needs.folders.iter().map(|folder| folder.display().to_string()).collect();
    let written =
        if written.is_empty() { String::new() } else { format!(" but below {}", written.join(", ")) };
    match needs.programs {
        None => Standing::Up(format!("files read-only{written} and never executed (Landlock {version})")),
        Some(what) => {
            Standing::Gap(format!("files read-only{written} (Landlock {version}), executed for {what}"))
        }
    }
}
