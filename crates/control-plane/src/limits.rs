//! Every bound of the control plane's ports, in one place, each with its reason.

use std::time::Duration;

/// TLS handshakes at the same time on the mTLS port. One costs some 20 KiB; a whole mesh that reconnects at once is some
/// thousands, and who is turned away tries again. Whoever proves an identity leaves it at once for [`PROVEN`].
pub(crate) const HANDSHAKES: usize = 4_096;
/// How long a handshake, or a client without a certificate, is left alone where somebody else of the same address wants
/// its place; it needs a tenth of that. An address that has more places than the newcomer's gives one up at once.
pub(crate) const UNPROVEN_PATIENCE: Duration = Duration::from_secs(1);
/// How long a TLS handshake may take on any port.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections without a client certificate on the mTLS port: they enrol, which is over in a moment, and come back with
/// one. They have rooms of their own, so that they never take those of who has proven an identity.
pub(crate) const ANONYMOUS: usize = 1_024;
/// How long such a connection may be silent before its first call.
pub(crate) const ANONYMOUS_SILENCE: Duration = Duration::from_secs(5);
/// How long it may last in all: a call waits 3 s for its turn at most.
pub(crate) const ANONYMOUS_AGE: Duration = Duration::from_secs(30);
/// Bytes that it may send in all: a request for a certificate has some 2 KiB, and a token as much.
pub(crate) const ANONYMOUS_BYTES: usize = 256 * 1024;
/// Calls at the same time on it.
pub(crate) const ANONYMOUS_STREAMS: u32 = 4;
/// Its flow-control windows, of a call and of the connection.
pub(crate) const ANONYMOUS_WINDOW: u32 = 64 * 1024;
/// Calls on it that we reset because of its mistakes before it is closed.
pub(crate) const ANONYMOUS_RESETS: usize = 16;
/// Connections that have proven an identity; a proxy has some. Past it, whichever identity has most gives one up.
pub(crate) const PROVEN: usize = 16_384;
/// How long one of these is left alone where no identity has more than the newcomer's.
pub(crate) const PROVEN_PATIENCE: Duration = Duration::from_mins(1);
/// Calls at the same time on one of them: a proxy has streams of discovery and of trust, and a push of metrics.
pub(crate) const PROVEN_STREAMS: u32 = 100;
/// Bytes of a call's head.
pub(crate) const CALL_HEAD_BYTES: u32 = 16 * 1024;
/// How long a peer is silent before it is asked whether it is there, and how long its answer may take: one that vanished
/// is noticed after these two together; its lease ends a grace later.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long a peer may take nothing of what it is sent.
pub(crate) const STALLED: Duration = Duration::from_secs(30);
/// Connections whose handshake is over and that are not served yet.
pub(crate) const WAITING_CONNECTIONS: usize = 64;
/// A pause when the process is out of file descriptors, and nobody who could give one back.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections of the API whose requests have shown no token, by TCP; and by the Unix socket.
pub(crate) const API_CONNECTIONS: usize = 256;
/// Connections of the API that have shown a good token, besides: nobody else can take their places.
pub(crate) const API_KNOWN_CONNECTIONS: usize = 256;
/// How long a connection of the API is left alone where somebody else wants its place.
pub(crate) const API_PATIENCE: Duration = Duration::from_secs(5);
/// How long the head of a request to the API may take, the wait for it on an idle connection included.
pub(crate) const API_HEAD: Duration = Duration::from_secs(30);
/// Connections of the bundle endpoint: each asks once a minute or so, and is closed then.
pub(crate) const BUNDLE_CONNECTIONS: usize = 256;
/// How long one of them may last.
pub(crate) const BUNDLE_CONNECTION: Duration = Duration::from_secs(10);
/// How often the log tells that a port has no room: once for a burst, with the number of connections.
pub(crate) const TELL_EVERY: Duration = Duration::from_secs(10);
