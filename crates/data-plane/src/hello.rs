//! What a TLS client asks for before anybody answers it: the name and the protocols that choose its chain.
//!
//! The bytes are kept, so that a chain that does not end TLS passes them on as they came.

use std::io;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::rustls::server::{Accepted, Acceptor};

use crate::error::ProxyError;
use crate::limits::CLIENT_HELLO_BYTES;
use crate::transport::Socket;

/// A client's first message.
pub(crate) struct Hello {
    /// As TLS goes on with it.
    pub(crate) accepted: Accepted,
    /// All that was read.
    pub(crate) bytes: BytesMut,
    /// The name that is asked for, in lowercase.
    pub(crate) server_name: Option<String>,
}

/// Reads until the message is complete.
///
/// # Errors
/// It is not TLS, too large, or breaks off.
pub(crate) async fn read(stream: &mut Socket) -> Result<Hello, ProxyError> {
    let mut acceptor = Acceptor::default();
    let mut bytes = BytesMut::new();
    loop {
        let begun = bytes.len();
        let mut room = (&mut bytes).limit(CLIENT_HELLO_BYTES - begun);
        let read = stream.read_buf(&mut room).await.map_err(|e| ProxyError::downstream(&e))?;
        if read == 0 {
            let is_full = begun == CLIENT_HELLO_BYTES;
            let why = if is_full { "the ClientHello is too large" } else { "it broke off" };
            return Err(ProxyError::handshake(why));
        }
        feed(&mut acceptor, &bytes[begun..]).map_err(ProxyError::handshake)?;
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let server_name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                return Ok(Hello { accepted, bytes, server_name });
            }
            Err((error, mut alert)) => {
                let mut words = Vec::new();
                if alert.write_all(&mut words).is_ok() {
                    // Whether the client hears why changes nothing.
                    let _ = stream.write_all(&words).await;
                }
                return Err(ProxyError::handshake(error));
            }
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
