//! Processes that hold private keys keep their memory to themselves.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// From now on there is no core dump of this process, and no debugger or reader of `/proc/<pid>/mem` of the same user.
pub(crate) fn keep() {
    // It cannot fail with this argument; a kernel that refuses leaves us as readable as any other process.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
