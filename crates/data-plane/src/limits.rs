//! Every bound of the data plane, in one place, each with its reason.
//!
//! Nothing here is unbounded: a queue, buffer, cache, retry or wait that is not listed here is a mistake.

use std::time::Duration;

/// Bytes of a message head, and of a trailer section. Source: Envoy `max_request_headers_kb`, 60 KiB.
pub(crate) const HEAD_BYTES: usize = 60 * 1024;
/// Field lines of a head. Source: Envoy `max_headers_count`, 100.
pub(crate) const FIELDS: usize = 100;
/// From the first byte of a TCP, TLS or HTTP/2 client to the end of HTTP/2's preface and settings, so that slow ones
/// hold no connection for long. HTTP/1 heads have the time that config gives them.
pub(crate) const HEAD_READ: Duration = Duration::from_secs(10);
/// How often an exchange is looked at: whether its bytes move, and if not, whose fault that is. A request body that
/// stalls for one window is answered with 408, a response that its client does not take is broken off. Source: nginx
/// `client_body_timeout` and `send_timeout`, 60 s.
pub(crate) const PROGRESS_WINDOW: Duration = Duration::from_mins(1);
/// Bytes of a request's body that have to come in each window: less than the slowest modem brings, more than who sends
/// single bytes to hold a connection.
pub(crate) const BODY_PROGRESS_BYTES: u64 = 1024;
/// How long an exchange goes on without a byte once the client has ended its direction. One that said all it had to say
/// and listens looks the same as one that left, until something is sent to it; the latter must not hold an upstream.
pub(crate) const HALF_CLOSED_QUIET: Duration = Duration::from_secs(1);
/// An exchange on which no byte moves, where config does not say. Source: Envoy `stream_idle_timeout`, 5 min.
pub(crate) const EXCHANGE_IDLE: Duration = Duration::from_mins(5);
/// Bytes of a request's body of which other clusters get copies; a longer request has none.
pub(crate) const MIRROR_BYTES: usize = 256 * 1024;
/// Copies of requests that are on their way at the same time, for each worker: they are worth less than what they cost
/// the requests themselves.
pub(crate) const MIRRORS: usize = 256;
/// How long the answer to a copy is waited for at most. Source: Envoy `timeout`, 15 s.
pub(crate) const MIRROR_WAIT: Duration = Duration::from_secs(15);
/// Interim responses (1xx) that one exchange passes on; more is an origin gone wrong.
pub(crate) const INTERIM_RESPONSES: u32 = 16;

/// From a connection's accept, or from what listener filters found, to the end of the TLS handshake, where config does
/// not say.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(10);
/// Steps of TLS handshakes that a worker does before everything else that is ready has its turn. One is a quarter of
/// a millisecond of CPU, so that a request waits a millisecond for them at most.
pub(crate) const HANDSHAKE_STEPS: usize = 4;
/// TLS handshakes that wait for their peers at the same time, per worker; past it the oldest is closed. One costs
/// some 10 KiB.
pub(crate) const PENDING_HANDSHAKES: usize = 1024;
/// Policies that are only tried, and told of, for one request; more are left out.
pub(crate) const TRIED_POLICIES: usize = 32;
/// Open connections that are judged after a change of trust before everything else has its turn; each takes a tenth of a
/// millisecond of CPU.
pub(crate) const JUDGED_AT_ONCE: usize = 4;
/// How long whoever is not trusted any more, and not revoked, may end what is under way.
pub(crate) const UNTRUSTED_END: Duration = Duration::from_secs(10);
/// In which time connections are retired, one after the other, that were proven under a root that is about to go: peers
/// do not come anew all at once, and it is well within the time for which a control plane waits before it takes that root
/// away.
pub(crate) const RETIRED_WITHIN: Duration = Duration::from_secs(5);
/// In which part of the time since we left that root ourselves, where it is more: a peer that keeps its certificate for
/// long does not have to come anew for ever.
pub(crate) const RETIRED_SHARE: u32 = 8;
/// How long an HTTP/1.1 connection that is retired has to be idle to be closed. Callers use the last used of theirs first;
/// one that is left alone for so long is hardly about to carry a request, and no usual rhythm of calls meets just this.
pub(crate) const RETIRED_QUIET: Duration = Duration::from_millis(2700);
/// Connections per listener and worker. An idle one costs some KiB; past it new ones are closed at once.
pub(crate) const CONNECTIONS_PER_LISTENER: usize = 32_768;
/// Connections per worker on all listeners together, where descriptors do not allow fewer.
pub(crate) const CONNECTIONS_PER_WORKER: usize = 65_536;
/// Connections per worker that are tried however few descriptors there are: the kernel refuses the rest.
pub(crate) const CONNECTIONS_PER_WORKER_LEAST: usize = 16;
/// Descriptors that are left for everything but connections: sockets, logs, certificates, the control plane.
pub(crate) const DESCRIPTORS_KEPT: usize = 64;
/// The last descriptors, that no connection gets: the admin interface, logs and the control plane go on. An eighth
/// where there are few.
pub(crate) const DESCRIPTORS_LAST: i32 = 32;
/// Those before them, that only connections to endpoints get: clients that were let in come first. A quarter where
/// there are few.
pub(crate) const DESCRIPTORS_FOR_UPSTREAM: i32 = 128;
/// Pending connections per listening socket that the kernel keeps.
pub(crate) const ACCEPT_BACKLOG: i32 = 1024;
/// How long accepting pauses after the kernel has refused a descriptor.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often a log line that any client can provoke is written: per listener and worker, and kind.
pub(crate) const TELL_EVERY: Duration = Duration::from_secs(1);
/// By how many connections a worker may be ahead of the one with the fewest before that one gets the next: moving
/// one costs a wake-up and four system calls.
pub(crate) const IMBALANCE: usize = 4;
/// And by which part of the fewest, besides: differences of an eighth do not matter among many.
pub(crate) const IMBALANCE_SHARE: usize = 8;
/// Connections on their way to one worker; where there is no room they stay where they were accepted.
pub(crate) const MOVED_CONNECTIONS: usize = 64;

/// Addresses of one listener.
pub(crate) const LISTENER_ADDRESSES: usize = 16;
/// Addresses of which a worker knows whether they are the host's own; past it all are looked up anew.
pub(crate) const OWN_ADDRESSES_KNOWN: usize = 1024;
/// How long it goes by that: a host gets a new address now and then.
pub(crate) const OWN_ADDRESSES_KEPT: Duration = Duration::from_secs(10);

/// Bytes of a TLS client's first message, where a chain is chosen by what it says; usual ones take some 2 KiB. They are
/// passed on in a buffer of [`TCP_BUFFER_BYTES`]. Source: Envoy `max_client_hello_size`, 16 KiB.
pub(crate) const CLIENT_HELLO_BYTES: usize = 16 * 1024;
/// Bytes of a first line that is looked at for a version of HTTP. They fit a buffer of [`TCP_BUFFER_BYTES`], too. Source:
/// Envoy `http_inspector`, 64 KiB.
pub(crate) const HTTP_LINE_BYTES: usize = 64 * 1024;

/// Bytes of a header of the PROXY protocol, its records included: the most that its length says is a little more, and
/// nobody sends it. What was read of it fits a buffer of [`TCP_BUFFER_BYTES`], where a connection goes on without.
pub(crate) const PROXY_HEADER_BYTES: usize = 64 * 1024;

/// Hosts that clusters name: each is looked up every few seconds.
pub(crate) const DNS_HOSTS: usize = 1024;
/// Lookups at the same time; each has a thread while it lasts.
pub(crate) const DNS_LOOKUPS: usize = 4;
/// How long one lookup is waited for. Source: resolv.conf(5), two tries of 5 s.
pub(crate) const DNS_LOOKUP: Duration = Duration::from_secs(10);
/// The least time between two lookups of a host, whatever config says.
pub(crate) const DNS_APART_LEAST: Duration = Duration::from_millis(100);
/// Addresses of a host that are used.
pub(crate) const DNS_ADDRESSES: usize = 16;

/// How often memory is looked at.
pub(crate) const MEMORY_LOOK: Duration = Duration::from_secs(1);
/// Per mille of memory from which new requests are refused.
pub(crate) const MEMORY_SHED: u32 = 900;
/// Per mille of memory from which new connections are refused, too.
pub(crate) const MEMORY_REFUSE: u32 = 950;
/// How far below its threshold memory has to fall before a measure ends, so that it does not begin again at once.
pub(crate) const MEMORY_STEP_BACK: u32 = 50;

/// A keep-alive connection without a request. Source: Envoy `idle_timeout`, 1 h.
pub(crate) const CONNECTION_IDLE: Duration = Duration::from_hours(1);
/// A tunnel, an upgraded connection or a TCP connection on which no byte moves; the most for any exchange. Source: Envoy
/// `tcp_proxy.idle_timeout`, 1 h.
pub(crate) const STREAM_IDLE: Duration = Duration::from_hours(1);
/// How long what is left of a request is read and dropped after its answer, so that the answer is not lost to a
/// reset. Source: RFC 9112 §9.6.
pub(crate) const LINGER: Duration = Duration::from_secs(2);
/// How much of it, at most.
pub(crate) const LINGER_BYTES: usize = 256 * 1024;

/// Bytes that one read asks for, and that one side of an exchange holds back for the other.
pub(crate) const READ_BYTES: usize = 32 * 1024;
/// A frame up to this size is copied behind the head, to leave in one write; a larger one is written in place.
pub(crate) const COALESCE_BYTES: usize = 4 * 1024;
/// Bytes of further requests that a client may send ahead before it has its answer.
pub(crate) const PIPELINE_BYTES: usize = 64 * 1024;
/// Bytes of a buffer that a worker lends; most messages fit. An idle connection holds none.
pub(crate) const BUFFER_BYTES: usize = 8 * 1024;
/// Buffers of each kind that a worker keeps for the next message: as many as there are messages in the middle of which
/// it waits, at a usual load.
pub(crate) const LENT_KEPT: usize = 32;
/// The largest buffer that is kept; one that grew past it, for a large head, is freed.
pub(crate) const LENT_BYTES_KEPT: usize = 64 * 1024;
/// What a direction of a TCP connection is lent while bytes move. With 16 KiB a bare relay costs a quarter more CPU.
pub(crate) const TCP_BUFFER_BYTES: usize = 64 * 1024;
/// Such buffers that a worker keeps for the next to need one.
pub(crate) const TCP_BUFFERS_KEPT: usize = 8;
/// Room of a pipe that bytes are spliced through; more brought nothing (decision 012).
pub(crate) const PIPE_BYTES: usize = 256 * 1024;
/// With less than this a pipe is not worth its system calls: it is what one that nobody has sized holds.
pub(crate) const PIPE_BYTES_LEAST: usize = 64 * 1024;
/// Pipes per worker, lent and kept: two descriptors and up to 256 KiB each. Linux lets the processes of a user have
/// 64 MiB of them (`fs.pipe-user-pages-soft`); two workers take a quarter of that. Who finds none copies.
pub(crate) const PIPES_PER_WORKER: usize = 32;
/// A direction is spliced after a read that has filled its buffer, and while it goes on in pieces of at least this.
pub(crate) const SPLICE_BYTES_LEAST: usize = 16 * 1024;

/// Requests on one HTTP/1.1 upstream connection: past it, a new one is worth its price, and load finds its way to
/// origins that joined behind one address.
pub(crate) const UPSTREAM_REQUESTS: u64 = 10_000;
/// How long an HTTP/1.1 upstream connection lives, for the same reason; less by up to a quarter, so that connections
/// opened together do not end together. Source: nginx `keepalive_time`, 1 h.
pub(crate) const UPSTREAM_LIFETIME: Duration = Duration::from_hours(1);
/// Idle HTTP/1.1 connections kept per worker and endpoint. As many as a busy sidecar has requests under way: one that was
/// closed too early costs a handshake, one that is kept too long next to nothing, and only for [`POOL_IDLE`].
pub(crate) const POOL_IDLE_PER_ENDPOINT: usize = 1024;
/// How long an idle upstream connection is kept. Shorter than what most servers allow, so that races are rare.
pub(crate) const POOL_IDLE: Duration = Duration::from_mins(1);
/// How often idle upstream connections are looked through.
pub(crate) const POOL_SWEEP: Duration = Duration::from_secs(5);
/// How long an upstream connection is silent before the kernel probes it, and between probes.
pub(crate) const PROBE_AFTER: Duration = Duration::from_secs(15);
/// How long sent bytes may stay unacknowledged before an upstream connection counts as broken.
pub(crate) const PEER_SILENCE: Duration = Duration::from_secs(30);
/// How often a request may meet a pooled connection that had gone stale before it is sent on a new one.
pub(crate) const STALE_RETRIES: u32 = 1;
/// Tries of one request after the first, whatever the route or the request itself asks for.
pub(crate) const RETRIES: u32 = 256;
/// Bytes of an answer to a TCP health check that are looked through for what it has to hold.
pub(crate) const CHECK_BYTES: usize = 64 * 1024;
/// Bytes of a request's body that are kept for another try, where config does not say. Source: Envoy
/// `per_connection_buffer_limit_bytes`, 1 MiB.
pub(crate) const REPLAY_BYTES: u64 = 1024 * 1024;
/// The most of them, whatever config says.
pub(crate) const REPLAY_BYTES_MOST: u64 = 64 * 1024 * 1024;
/// A body is kept in pieces of this size.
pub(crate) const REPLAY_PIECE_BYTES: usize = 16 * 1024;

/// How often connecting is tried for one TCP connection, whatever config asks for: each try may take as long as its
/// cluster lets it.
pub(crate) const TCP_CONNECT_TRIES: u32 = 32;

/// Bytes of an answer to a request of the proxy's own: a set of keys, a verdict.
pub(crate) const CALL_BYTES: usize = 1024 * 1024;
/// How long keys for tokens stand after the time for which they are believed, where no newer ones can be had: so many
/// times that time. Then no token is good.
pub(crate) const KEYS_GRACE_TIMES: u32 = 12;
/// The longest of it. Long enough to mend an issuer, and short enough for a key that was taken back.
pub(crate) const KEYS_GRACE: Duration = Duration::from_hours(1);
/// How often keys in a file are read again.
pub(crate) const KEYS_FILE_LOOK: Duration = Duration::from_secs(10);
/// The least time between two attempts to have keys, whatever config says.
pub(crate) const KEYS_APART_LEAST: Duration = Duration::from_secs(1);
/// The least time between two attempts because of a key that a token names and nobody knows: anybody can name one.
pub(crate) const KEYS_EARLY_APART: Duration = Duration::from_secs(30);
/// How long after an attempt that failed keys are asked for again; twice as long after each.
pub(crate) const KEYS_FAILED_APART: Duration = Duration::from_secs(10);
/// The longest of these times.
pub(crate) const KEYS_FAILED_APART_MOST: Duration = Duration::from_mins(1);
/// The longest pause between the tries of one attempt, which config asks for.
pub(crate) const KEYS_RETRY_PAUSE_MOST: Duration = Duration::from_secs(10);

/// Streams at the same time per HTTP/2 connection, either side. Source: RFC 9113 §6.5.2 recommends at least 100.
pub(crate) const H2_STREAMS: u32 = 100;
/// Flow-control window of a stream: what one side may send before the other has taken it.
pub(crate) const H2_STREAM_WINDOW: u32 = 128 * 1024;
/// Flow-control window of a connection, shared by its streams.
/// Room for all of them, so that streams whose readers are slow never stall the others.
pub(crate) const H2_CONNECTION_WINDOW: u32 = H2_STREAMS * H2_STREAM_WINDOW;
/// How long a connection that has been asked to end may go on.
pub(crate) const H2_ENDING: Duration = Duration::from_secs(10);
/// Streams that a peer may reset before we have taken them. Source: CVE-2023-44487 (rapid reset).
pub(crate) const H2_PENDING_RESETS: usize = 20;
/// Streams that we reset because of a peer's mistakes before the connection is closed.
pub(crate) const H2_ERROR_RESETS: usize = 64;
/// HTTP/2 frames that belong to no message (PING, SETTINGS, PRIORITY, ...) and that a peer may send for nothing in each
/// [`H2_CONTROL_WINDOW`]: they cost what one TLS handshake does. Past all it may send, the connection ends.
pub(crate) const H2_CONTROL_FRAMES: u32 = 1_000;
/// How long these have to last: keep-alive and measurements of the network are some frames a second.
pub(crate) const H2_CONTROL_WINDOW: Duration = Duration::from_secs(10);
/// How many more it may send for each frame of a message, in either direction: who reads in small pieces opens the windows
/// of the stream and of the connection after each. Source: Envoy `max_inbound_window_update_frames_per_data_frame_sent`,
/// 10 for each of the two.
pub(crate) const H2_CONTROL_FRAMES_PER_MESSAGE: u32 = 20;
/// The most that it may have saved up: what 1,000 frames of messages bring, of 16 KiB each, for as many may wait to be
/// acknowledged at once.
pub(crate) const H2_CONTROL_FRAMES_MOST: u32 = 20_000;
/// As how many of them the answer to a PING counts that nobody sent.
pub(crate) const H2_UNASKED_ANSWER: u32 = 100;
/// Streams that a peer may reset in each [`H2_RESET_WINDOW`], besides as many as were answered (by a server: asked of it).
/// That is a hundred streams whose client waits a tenth of a second for each. Source: CVE-2023-44487.
pub(crate) const H2_RESETS: u32 = 1_000;
/// How long these have to last.
pub(crate) const H2_RESET_WINDOW: Duration = Duration::from_secs(1);
/// HTTP/2 connections per worker and endpoint.
pub(crate) const H2_CONNECTIONS_PER_ENDPOINT: usize = 16;
/// Bytes that a stream may hold for sending before it waits.
pub(crate) const H2_SEND_BUFFER: usize = 64 * 1024;

/// How long the first config is waited for once its first piece is there, before what has come counts as all there is.
/// Source: Envoy `initial_fetch_timeout`, 15 s.
pub(crate) const FIRST_CONFIG: Duration = Duration::from_secs(15);
/// How long `apply` waits for the workers to take a new config over; a worker that is slower takes it later.
pub(crate) const APPLY_WAIT: Duration = Duration::from_secs(2);
/// Access logs of the config's own: each has a thread.
pub(crate) const ACCESS_LOGS: usize = 32;
/// Refused resources whose reason the admin interface shows: more are too many to read.
pub(crate) const REFUSED: usize = 1000;
/// Connections to the admin interface at the same time; past it the oldest ends.
pub(crate) const ADMIN_CONNECTIONS: usize = 32;
/// One request to the admin interface, from accept to the last byte of its answer.
pub(crate) const ADMIN_REQUEST: Duration = Duration::from_secs(10);
/// Bytes of a request to the admin interface.
pub(crate) const ADMIN_HEAD_BYTES: usize = 8 * 1024;
