//! Which setting forbids a step, and what to do about it.

use std::fs;

use crate::steps::{Failure, Step};

/// What works where namespaces do not.
pub const INSTEAD: &str = "`meshwork sidecar` with --inbound and --outbound needs nothing of the system: the program calls loopback ports";

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EACCES: i32 = 13;
const EINVAL: i32 = 22;
const ENOSPC: i32 = 28;
const EUSERS: i32 = 87;

/// What to do about a step that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// The setting that forbids it, with its value; `None` where it is not known.
    pub setting: Option<String>,
    /// What helps.
    pub fix: String,
}

/// What this system says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// `kernel.unprivileged_userns_clone`, a setting of Debian's kernels.
    pub userns_clone: Option<u64>,
    /// `user.max_user_namespaces`.
    pub max_user_namespaces: Option<u64>,
    /// `user.max_net_namespaces`.
    pub max_net_namespaces: Option<u64>,
    /// `kernel.apparmor_restrict_unprivileged_userns`, a setting of Ubuntu's kernels.
    pub apparmor_restricts: Option<u64>,
    /// Whether a system call filter is in force, as in containers.
    pub filtered: bool,
    /// Whether this is a container.
    pub container: bool,
    /// Whether `nft` is installed.
    pub nft: bool,
    /// This program.
    pub program: String,
}

impl Facts {
    /// Asks the system.
    pub fn here() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let seccomp = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
        let program = std::env::current_exe().map(|path| path.display().to_string());
        Self {
            userns_clone: setting("kernel/unprivileged_userns_clone"),
            max_user_namespaces: setting("user/max_user_namespaces"),
            max_net_namespaces: setting("user/max_net_namespaces"),
            apparmor_restricts: setting("kernel/apparmor_restrict_unprivileged_userns"),
            filtered: seccomp.is_some_and(|mode| mode.trim() == "2"),
            container: ["/.dockerenv", "/run/.containerenv"]
                .iter()
                .any(|path| fs::exists(path).unwrap_or(false))
                || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some(),
            nft: crate::rules::program().is_some(),
            program: program.unwrap_or_else(|_| "/usr/bin/meshwork".to_owned()),
        }
    }
}

fn setting(name: &str) -> Option<u64> {
    fs::read_to_string(format!("/proc/sys/{name}")).ok()?.trim().parse().ok()
}

impl Advice {
    /// What to do about a step that failed.
    pub(crate) fn on(step: Step, failure: &Failure, facts: &Facts) -> Self {
        let advice = match step {
            Step::UserNamespace | Step::Ids | Step::Namespaces => Self::namespaces(step, failure, facts),
            Step::Rules | Step::Steering | Step::Log => Self::filter(step, failure, facts),
            _ => None,
        };
        advice.or_else(|| Self::confined(failure, facts)).unwrap_or_else(|| Self {
            setting: None,
            fix:
                "run it on a kernel that allows it (5.11 or later, with the options that distributions have)"
                    .to_owned(),
        })
    }

    fn namespaces(step: Step, failure: &Failure, facts: &Facts) -> Option<Self> {
        if facts.userns_clone == Some(0) {
            return Some(Self::sysctl("kernel.unprivileged_userns_clone", 0, 1));
        }
        if facts.max_user_namespaces == Some(0) {
            return Some(Self::sysctl("user.max_user_namespaces", 0, 15000));
        }
        if step == Step::Namespaces && facts.max_net_namespaces == Some(0) {
            return Some(Self::sysctl("user.max_net_namespaces", 0, 15000));
        }
        if matches!(failure.code, Some(ENOSPC | EUSERS)) {
            return Some(Self {
                setting: facts.max_user_namespaces.map(|limit| format!("user.max_user_namespaces = {limit}")),
                fix: "end what holds so many namespaces, or raise the limit: sudo sysctl -w user.max_user_namespaces=100000 \
                      user.max_net_namespaces=100000"
                    .to_owned(),
            });
        }
        if failure.code == Some(EINVAL) {
            return Some(Self {
                setting: Some("CONFIG_USER_NS, CONFIG_NET_NS, CONFIG_PID_NS".to_owned()),
                fix: "run it on a kernel that has namespaces".to_owned(),
            });
        }
        None
    }

    fn filter(step: Step, failure: &Failure, facts: &Facts) -> Option<Self> {
        if !facts.nft {
            return Some(Self {
                setting: Some("the program nft is not installed".to_owned()),
                fix: "install it: sudo apt install nftables, sudo dnf install nftables, or sudo apk add nftables"
                    .to_owned(),
            });
        }
        let forbidden = matches!(failure.code, Some(EPERM | EACCES));
        (step != Step::Steering && !forbidden).then(|| Self {
            setting: Some("CONFIG_NF_TABLES, CONFIG_NFT_NAT, CONFIG_NFT_FIB_INET, CONFIG_NFT_LOG, CONFIG_NFT_REJECT".to_owned()),
            fix: "load the kernel's modules: sudo modprobe -a nf_tables nft_chain_nat nft_redir nft_fib_inet nft_log \
                  nft_reject_inet nfnetlink_log"
                .to_owned(),
        })
    }

    /// Somebody stands between the program and the kernel.
    fn confined(failure: &Failure, facts: &Facts) -> Option<Self> {
        if !matches!(failure.code, None | Some(EPERM | EACCES | ENOENT)) {
            return None;
        }
        if let Some(value) = facts.apparmor_restricts.filter(|value| *value != 0) {
            let setting = Some(format!("kernel.apparmor_restrict_unprivileged_userns = {value}"));
            return Some(Self { setting, fix: apparmor_profile(&facts.program) });
        }
        if facts.container || facts.filtered {
            return Some(Self {
                setting: Some("the container's system call filter (seccomp), or its missing CAP_SYS_ADMIN".to_owned()),
                fix: "start the container with --security-opt seccomp=unconfined --security-opt systempaths=unconfined, \
                      or run the mesh outside of it"
                    .to_owned(),
            });
        }
        None
    }

    fn sysctl(name: &str, value: u64, better: u64) -> Self {
        Self { setting: Some(format!("{name} = {value}")), fix: format!("sudo sysctl -w {name}={better}") }
    }
}

fn apparmor_profile(program: &str) -> String {
    format!(
        "allow it to this program alone: printf 'abi <abi/4.0>,\\ninclude <tunables/global>\\nprofile meshwork \
         \"{program}\" flags=(unconfined) {{ userns, }}\\n' | sudo tee /etc/apparmor.d/meshwork && sudo apparmor_parser \
         -r /etc/apparmor.d/meshwork; or to all: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: Option<i32>) -> Failure {
        Failure { words: String::new(), code }
    }

    #[test]
    fn the_setting_that_forbids_a_step_is_named() {
        let check = |step, code, facts: Facts, expected: Option<&str>, fix: &str| {
            let advice = Advice::on(step, &failure(code), &facts);
            let setting = advice.setting.unwrap_or_default();
            assert!(expected.map_or(setting.is_empty(), |part| setting.contains(part)), "{setting}");
            assert!(advice.fix.contains(fix), "{}", advice.fix);
        };
        let nft = || Facts { nft: true, ..Facts::default() };
        let user = Step::UserNamespace;
        let debian = Facts { userns_clone: Some(0), ..nft() };
        check(user, Some(EPERM), debian, Some("kernel.unprivileged_userns_clone = 0"), "sysctl -w");
        let none = Facts { max_user_namespaces: Some(0), ..nft() };
        check(user, Some(ENOSPC), none, Some("user.max_user_namespaces = 0"), "=15000");
        let many = Facts { max_user_namespaces: Some(100), ..nft() };
        check(user, Some(ENOSPC), many, Some("user.max_user_namespaces = 100"), "raise");
        let ubuntu = Facts { apparmor_restricts: Some(1), program: "/opt/meshwork".to_owned(), ..nft() };
        for (step, code) in
            [(Step::Ids, EACCES), (Step::Namespaces, EPERM), (Step::Rules, EPERM), (Step::Names, EPERM)]
        {
            let facts = ubuntu.clone();
            check(
                step,
                Some(code),
                facts,
                Some("apparmor_restrict_unprivileged_userns = 1"),
                "/opt/meshwork",
            );
        }
        let docker = Facts { container: true, filtered: true, ..nft() };
        check(user, Some(EPERM), docker, Some("seccomp"), "--security-opt");
        check(
            Step::Rules,
            Some(ENOENT),
            Facts::default(),
            Some("nft is not installed"),
            "apt install nftables",
        );
        check(Step::Rules, None, nft(), Some("CONFIG_NF_TABLES"), "modprobe");
        check(user, Some(EINVAL), nft(), Some("CONFIG_USER_NS"), "kernel");
        check(Step::Network, Some(EPERM), nft(), None, "kernel");
    }
}
