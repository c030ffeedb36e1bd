//! Every bound of the DNS server, each with its reason.

use std::time::Duration;

/// Bytes of a query. Real ones have less than 300; a longer one is cut off and therefore malformed.
pub(super) const QUERY_BYTES: usize = 4096;
/// The longest answer over UDP whatever the client says it can take: more would only be fragments. Longer ones are
/// asked for again over TCP.
pub(super) const UDP_ANSWER_BYTES: u16 = 4096;
/// The longest answer over UDP to a client that does not say what it can take. Source: RFC 1035 §4.2.1.
pub(super) const UDP_ANSWER_BYTES_PLAIN: u16 = 512;
/// TCP connections of the workload, all sockets together. Past it they wait in the backlog: those that are idle end
/// soon.
pub(super) const CONNECTIONS: usize = 64;
/// A connection without a query, and one whose client does not take its answers. Source: RFC 7766 §6.2.3, "a few
/// seconds".
pub(super) const CONNECTION_IDLE: Duration = Duration::from_secs(10);
/// Queries of one connection that are answered at the same time; past it nothing more is read from it.
pub(super) const PIPELINED: usize = 16;
/// How long receiving and accepting pause after the kernel has refused to.
pub(super) const SOCKET_PAUSE: Duration = Duration::from_millis(50);

/// Queries that wait for an upstream, of all clients together; past it the answer is SERVFAIL. One costs about 1 KiB.
pub(super) const WAITING: usize = 512;
/// Different questions that are asked upstream at the same time, a socket each. Others wait for their turn.
pub(super) const UPSTREAM_QUESTIONS: usize = 64;
/// From a query to its answer: less than the 5 s after which glibc and others ask again.
pub(super) const QUESTION: Duration = Duration::from_millis(4500);
/// How long one server has for one try, so that the next one still has its turn.
pub(super) const TRY: Duration = Duration::from_millis(1400);
/// How often the list of servers is gone through: over UDP a packet may just be lost.
pub(super) const ROUNDS: usize = 2;
/// Servers that are taken from resolv.conf. Source: glibc `MAXNS`, 3; one more for good measure.
pub(super) const SERVERS: usize = 4;
/// For how long the one that answered is asked before those that did not. Then the order of the file holds again: it
/// may list one that knows more first.
pub(super) const SERVER_REST: Duration = Duration::from_secs(30);
/// Messages that are no answer to the question, after which UDP is given up for TCP: somebody guesses. Source: RFC 5452
/// §9.2.
pub(super) const STRAYS: usize = 8;
/// What an upstream may send over UDP without fragments on the way. Source: DNS flag day 2020, 1232.
pub(super) const UPSTREAM_UDP_BYTES: u16 = 1232;
/// CNAMEs of one answer that are followed. Source: BIND `max-query-restarts`, 11, and a few.
pub(super) const ALIASES: usize = 16;

/// How often at most it is looked whether resolv.conf has changed.
pub(super) const FILE_LOOK: Duration = Duration::from_secs(1);
/// Bytes of resolv.conf that are read.
pub(super) const FILE_BYTES: u64 = 64 * 1024;

/// Answers that are kept, and their bytes together: some hundred names are what a program uses; an idle sidecar stays
/// small.
pub(super) const CACHE_ANSWERS: usize = 1024;
/// See [`CACHE_ANSWERS`].
pub(super) const CACHE_BYTES: usize = 256 * 1024;
/// The longest answer that is kept.
pub(super) const CACHE_ANSWER_BYTES: usize = 8 * 1024;
/// The shortest time for which an answer is kept, also one that says zero: a program that asks before each of a thousand
/// connections asks upstream once a second.
pub(super) const TTL_MIN: Duration = Duration::from_secs(1);
/// The longest, whatever it says: mistakes end within the hour.
pub(super) const TTL_MAX: Duration = Duration::from_hours(1);
/// The longest for "there is no such name". Source: RFC 2308 §5, "one to three hours"; programs wait for names that
/// are being made.
pub(super) const TTL_ABSENT_MAX: Duration = Duration::from_mins(5);
/// For how long a failure of all servers is kept. Source: RFC 9520 §3.2, at least 1 s.
pub(super) const TTL_FAILURE: Duration = Duration::from_secs(1);
/// Seconds for which clients may remember that the mesh does not have a name: a service may be about to come. Source:
/// `CoreDNS`'s Kubernetes plugin, 5 s.
pub(super) const TTL_ABSENT_IN_MESH: u32 = 5;

/// How often at most it is logged that no server answers.
pub(super) const TELL_EVERY: Duration = Duration::from_secs(1);
