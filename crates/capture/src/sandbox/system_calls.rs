//! seccomp: system calls that no proxy makes, and that somebody who took it over would want.
//!
//! They fail with `EPERM`, and the kernel logs them. It is a list of what is refused, not of what is allowed: libc and the
//! runtime may make other calls tomorrow, and a proxy that dies of an update helps nobody. What is left is what a proxy
//! does: sockets, files within [`super::files`], threads, memory, time.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use super::{Needs, Standing};

/// Starting programs.
const PROGRAMS: &[i64] = &[libc::SYS_execve, libc::SYS_execveat];

/// What nobody needs.
const REFUSED: &[i64] = &[
    // Other processes' memory and files.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // What is mounted where, and other namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    // Programs and modules for the kernel.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    // Parts of the kernel that attacks go through, and that see calls which this list does not.
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_personality,
    libc::SYS_fanotify_init,
    libc::SYS_vhangup,
    // The machine.
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
];

/// Those of one architecture.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[i64] =
    &[libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt, libc::SYS_lookup_dcookie];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[i64] = &[];

/// Numbers of x32, the second way into a kernel of x86-64, have this bit. No proxy makes such a call, and a list by numbers
/// does not see what it lists under them. Source: Linux `arch/x86/include/uapi/asm/unistd.h`, `__X32_SYSCALL_BIT`.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

/// Kinds of sockets that a proxy opens: TCP, DNS, and what libc asks the kernel for its addresses by. Others lead to
/// programs of the same user (a service manager starts what it is told to), or to parts of the kernel that few look after.
const FAMILIES: &[libc::c_int] = &[libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
/// And what is spoken on them, by default or by name; others have the kernel load modules.
const PROTOCOLS: &[libc::c_int] = &[0, libc::IPPROTO_TCP, libc::IPPROTO_UDP];

/// `clone` into a namespace of one's own.
const NAMESPACES: &[libc::c_int] = &[
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];
/// Orders to a terminal that put words into the mouth of whoever sits at it.
const TERMINAL: &[u64] = &[TIOCSTI, TIOCLINUX];
/// Source: Linux `asm-generic/ioctls.h`.
const TIOCSTI: u64 = 0x5412;
const TIOCLINUX: u64 = 0x541c;

/// Refuses them from now on.
pub(super) fn refuse(needs: &Needs) -> Standing {
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else {
        return Standing::Missing(format!("seccomp: not known for {}", std::env::consts::ARCH));
    };
    let rules = match rules(needs) {
        Ok(rules) => rules,
        Err(error) => return Standing::Missing(format!("seccomp: {error}")),
    };
    let count = rules.len();
    let no_permission = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    // Its flags are in memory that no filter sees: without it, libc takes `clone`.
    let not_there = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let applied = refuse_second_numbers()
        .and_then(|()| apply(clone3, not_there, arch, 0))
        .and_then(|()| apply(rules, no_permission, arch, libc::SECCOMP_FILTER_FLAG_LOG));
    match (applied, needs.programs) {
        (Err(error), _) => Standing::Missing(format!("seccomp: {error}")),
        (Ok(()), None) => Standing::Up(format!("{count} system calls refused (seccomp)")),
        (Ok(()), Some(what)) => Standing::Gap(format!(
            "{count} system calls refused (seccomp), not those that start programs: {what}"
        )),
    }
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn rules(needs: &Needs) -> Result<Rules, BackendError> {
    let programs = if needs.programs.is_some() { &[][..] } else { PROGRAMS };
    let all = REFUSED.iter().chain(REFUSED_HERE).chain(programs);
    let mut rules: Rules = all.map(|call| (*call, Vec::new())).collect();
    let flags = |flag: libc::c_int| {
        let flag = u64::from(flag.unsigned_abs());
        one(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)
    };
    let orders = |order: &u64| one(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *order);
    rules.insert(libc::SYS_clone, NAMESPACES.iter().map(|flag| flags(*flag)).collect::<Result<_, _>>()?);
    rules.insert(libc::SYS_ioctl, TERMINAL.iter().map(orders).collect::<Result<_, _>>()?);
    rules.insert(libc::SYS_socket, sockets(needs)?);
    Ok(rules)
}

/// Takes sockets of any other kind than those that are needed. A pair of Unix sockets leads to nobody, and is none.
fn sockets(needs: &Needs) -> Result<Vec<SeccompRule>, BackendError> {
    let unix = (needs.unix_sockets || needs.programs.is_some()).then_some(&libc::AF_UNIX);
    let test = |argument, operator, value: &libc::c_int| {
        let value = u64::from(value.unsigned_abs());
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
    };
    let family = |family| test(0, SeccompCmpOp::Ne, family);
    let protocol = |protocol| test(2, SeccompCmpOp::Ne, protocol);
    let of_routes =
        [test(0, SeccompCmpOp::Eq, &libc::AF_NETLINK)?, test(2, SeccompCmpOp::Ne, &libc::NETLINK_ROUTE)?];
    Ok(vec![
        SeccompRule::new(FAMILIES.iter().chain(unix).map(family).collect::<Result<_, _>>()?)?,
        SeccompRule::new(PROTOCOLS.iter().map(protocol).collect::<Result<_, _>>()?)?,
        SeccompRule::new(of_routes.into())?,
    ])
}

/// Refuses every call by its second number. The other filters refuse calls of other architectures.
#[cfg(target_arch = "x86_64")]
fn refuse_second_numbers() -> io::Result<()> {
    /// Source: Linux `linux/bpf_common.h`: the number of the call; a jump where bits of it are set; an answer.
    const LOAD: u16 = 0x20;
    const JUMP: u16 = 0x45;
    const ANSWER: u16 = 0x06;
    let step = |code, jf, k| sock_filter { code, jt: 0, jf, k };
    let refusal = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
    let program = [
        step(LOAD, 0, 0),
        step(JUMP, 1, X32),
        step(ANSWER, 0, refusal),
        step(ANSWER, 0, libc::SECCOMP_RET_ALLOW),
    ];
    install(&program, libc::SECCOMP_FILTER_FLAG_LOG | libc::SECCOMP_FILTER_FLAG_TSYNC)
}

#[cfg(not(target_arch = "x86_64"))]
#[expect(clippy::unnecessary_wraps, reason = "it can fail where there are such numbers")]
fn refuse_second_numbers() -> io::Result<()> {
    Ok(())
}

fn one(
    argument: u8,
    length: SeccompCmpArgLen,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, length, operator, value)?])
}

fn apply(rules: Rules, refusal: SeccompAction, arch: TargetArch, flags: libc::c_ulong) -> io::Result<()> {
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refusal, arch);
    let program: Result<BpfProgram, BackendError> = filter.and_then(TryInto::try_into);
    let program = program.map_err(|error| io::Error::other(error.to_string()))?;
    install(&program, flags | libc::SECCOMP_FILTER_FLAG_TSYNC)
}

#[expect(
    unsafe_code,
    reason = "seccompiler installs a filter, but does not let the kernel log what it refuses"
)]
fn install(program: &[sock_filter], flags: libc::c_ulong) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: The kernel copies the program, which lives until the call returns, and writes nothing.
    let outcome = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, std::ptr::from_ref(&program))
    };
    match outcome {
        0 => Ok(()),
        // The thread that could not be brought along.
        thread if thread > 0 => Err(io::Error::other(format!("the thread {thread} has a filter of its own"))),
        _ => Err(io::Error::last_os_error()),
    }
}
