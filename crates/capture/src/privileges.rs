//! Giving up privileges, for good.

use std::io;

use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};

/// Highest number of a capability that is tried; the kernel says where its own end is.
const CAPABILITIES: u32 = 64;

/// Lets programs that this process starts have `CAP_NET_ADMIN` as it has, though its user is not root.
///
/// # Errors
/// The process does not have it.
pub(crate) fn lend_net_admin() -> io::Result<()> {
    let mut sets = rustix::thread::capabilities(None)?;
    sets.inheritable |= CapabilitySet::NET_ADMIN;
    rustix::thread::set_capabilities(None, sets)?;
    Ok(rustix::thread::configure_capability_in_ambient_set(CapabilitySet::NET_ADMIN, true)?)
}

/// What stays in the bounding set: a program whose file has a capability that the set has not is not even started, and
/// `ping`'s has one, as servers' that were given low ports do. None gets it, because of `no_new_privs`.
const OF_FILES: CapabilitySet = CapabilitySet::NET_RAW.union(CapabilitySet::NET_BIND_SERVICE);

/// Gives up every capability, and every way to get one back: being root means nothing, and neither do programs that are
/// set-user-ID or whose files have capabilities. All of it passes on to children.
///
/// # Errors
/// The process may not, which is a reason not to go on.
pub(crate) fn give_up() -> io::Result<()> {
    rustix::thread::clear_ambient_capability_set()?;
    for number in 0..CAPABILITIES {
        let Some(capability) = 1_u64.checked_shl(number).map(CapabilitySet::from_bits_retain) else { break };
        if OF_FILES.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Err(rustix::io::Errno::INVAL) => break,
            removed => removed?,
        }
    }
    // That capabilities may be kept over a change of user stays open: there are none, and `ping` insists on saying so.
    let mut bits = CapabilitiesSecureBits::empty();
    for bit in [
        CapabilitiesSecureBits::NO_ROOT,
        CapabilitiesSecureBits::NO_ROOT_LOCKED,
        CapabilitiesSecureBits::NO_SETUID_FIXUP,
        CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED,
        CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE,
        CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED,
    ] {
        bits |= bit;
    }
    rustix::thread::set_capabilities_secure_bits(bits)?;
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: none, permitted: none, inheritable: none },
    )?;
    Ok(rustix::thread::set_no_new_privs(true)?)
}
