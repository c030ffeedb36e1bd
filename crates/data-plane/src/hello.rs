//! Goes on with TLS of which the first bytes have been read already.

use std::io;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::rustls::server::{Accepted, Acceptor};

use crate::error::ProxyError;
use crate::limits::CLIENT_HELLO_BYTES;
use crate::transport::Socket;
use crate::unproven;

/// Reads until the client's first message is complete; `bytes` is what was read of it.
///
/// # Errors
/// It is not TLS, too large, or breaks off.
pub(crate) async fn resume(stream: &mut Socket, mut bytes: BytesMut) -> Result<Accepted, ProxyError> {
    let mut acceptor = Acceptor::default();
    let mut begun = 0;
    loop {
        let fed = feed(&mut acceptor, &bytes[begun..]);
        fed.map_err(|error| ProxyError::handshake(unproven::of_io(&error)))?;
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => return Ok(accepted),
            Err((error, mut alert)) => {
                let mut words = Vec::new();
                if alert.write_all(&mut words).is_ok() {
                    // Whether the client hears why changes nothing.
                    let _ = stream.write_all(&words).await;
                }
                return Err(ProxyError::handshake(unproven::of_error(&error)));
            }
        }
        begun = bytes.len();
        let mut room = (&mut bytes).limit(CLIENT_HELLO_BYTES.saturating_sub(begun));
        let read = stream.read_buf(&mut room).await.map_err(|e| ProxyError::downstream(&e))?;
        if read == 0 {
            let is_full = begun >= CLIENT_HELLO_BYTES;
            let why = if is_full { "the ClientHello is too large" } else { "it broke off" };
            return Err(ProxyError::no_handshake(why));
        }
    }
}

/// Has TLS read all of some bytes.
fn feed(acceptor: &mut Acceptor, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        if acceptor.read_tls(&mut bytes)? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(())
}
