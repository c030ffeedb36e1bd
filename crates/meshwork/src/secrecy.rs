//! Processes that hold private keys keep their memory to themselves.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// From now on there is no core dump of this process or of what it starts, and no debugger or reader of
/// `/proc/<pid>/mem` of the same user.
pub(crate) fn keep() {
    // It cannot fail with this argument; a kernel that refuses leaves us as readable as any other process.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    // Besides: a handler of core dumps would get one of a process that says nothing of being dumpable, as after an
    // `execve`. Less is always allowed.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}
