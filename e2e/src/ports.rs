//! Ports for programs that are told where to listen before they do: each is given once, to one run of tests.
//!
//! They lie below the range from which Linux gives ports to connections and to who asks for port 0, so that nobody
//! comes upon one while its program starts. Programs of tests that run beside each other have different blocks: who
//! has a block has bound the abstract Unix socket that stands for it, which goes with the process.

use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::{Mutex, PoisonError};

/// Above the ports that tests name themselves, inside of their own networks most of all.
const FIRST: u16 = 20_000;
/// Ports of a block: what most programs of tests need. Those that need more take more blocks.
const BLOCK: u16 = 100;
/// All end below 32768. Source: Linux `ip_local_port_range`.
const BLOCKS: u16 = 120;

/// What this process has.
struct Taken {
    blocks: Vec<UnixListener>,
    next: u16,
    end: u16,
}

static TAKEN: Mutex<Taken> = Mutex::new(Taken { blocks: Vec::new(), next: 0, end: 0 });

/// A port on which nobody listens.
pub(crate) fn free() -> u16 {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if taken.next == taken.end {
            taken.take_block();
        }
        let port = taken.next;
        taken.next += 1;
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
}

impl Taken {
    fn take_block(&mut self) {
        // Not always the same ones: what a program of tests before this one left behind may still be closing.
        let start = u16::try_from(std::process::id() % u32::from(BLOCKS)).expect("a small number");
        for block in (0..BLOCKS).map(|n| (start + n) % BLOCKS) {
            let name =
                SocketAddr::from_abstract_name(format!("meshwork-e2e-ports-{block}")).expect("a short name");
            if let Ok(lock) = UnixListener::bind_addr(&name) {
                self.blocks.push(lock);
                self.next = FIRST + block * BLOCK;
                self.end = self.next + BLOCK;
                return;
            }
        }
        panic!("no port is free: all {BLOCKS} blocks are taken");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice() {
        let mut ports: Vec<_> = (0..3 * BLOCK).map(|_| free()).collect();
        assert!(ports.iter().all(|port| (FIRST..FIRST + BLOCKS * BLOCK).contains(port)), "{ports:?}");
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), usize::from(3 * BLOCK));
    }
}
