//! Both sides of the codec against a peer that the test plays, over sockets.

use std::future::poll_fn;

use meshwork_model::head::{RequestHead, ResponseHead};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{ClientConnection, ServerConnection};
use crate::http::body::{Frame, Length, Shape};
use crate::http::codec::Answer;
use crate::transport::{Socket, Transport};

async fn connected() -> (TcpStream, Transport) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let peer = TcpStream::connect(listener.local_addr().expect("bound"));
    let (peer, accepted) = tokio::join!(peer, listener.accept());
    (peer.expect("connected"), Transport::Plain(Socket::Tcp(accepted.expect("accepted").0)))
}

#[tokio::test]
async fn a_client_that_waits_holds_no_buffer() {
    let (mut peer, transport) = connected().await;
    let mut server = ServerConnection::resumed(bytes::BytesMut::new(), transport);
    for round in 0..3 {
        assert_eq!(server.held_bytes(), 0, "before request {round}");
        peer.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody").await.expect("sent");
        let asked = poll_fn(|cx| server.poll_request(cx)).await.expect("valid");
        let (heads, length) = asked.expect("a request");
        assert_eq!((heads.request.method(), length), (&b"POST"[..], Length::Known(4)));
        assert!(server.held_bytes() > 0, "the body is here");
        let Ok(Some(Frame::Data(data))) = poll_fn(|cx| server.poll_frame(cx)).await else {
            panic!("no body")
        };
        assert_eq!(data, "body");
        drop(data);
        let waiting = futures_util::poll!(poll_fn(|cx| server.poll_gone(cx)));
        assert!(waiting.is_pending());
        assert_eq!(server.held_bytes(), 0, "while request {round} is answered");
        let head = ResponseHead { status: 200, ..ResponseHead::default() };
        server.send_head(&head, Shape { declared: Length::Known(0), empty: true }).expect("taken");
        poll_fn(|cx| server.poll_flush(cx)).await.expect("sent");
        assert!(server.is_reusable());
        server.rest();
        peer.read_exact(&mut [0; 38]).await.expect("an answer");
    }
}

#[tokio::test]
async fn a_pooled_connection_holds_no_buffer() {
    let (mut peer, transport) = connected().await;
    let mut client = ClientConnection::new(transport);
    let mut request = RequestHead::default();
    request.set_method(b"GET");
    request.set_authority(b"a");
    request.set_path_and_query(b"/");
    for round in 0..3 {
        client.send_head(&request, Length::None, None).expect("taken");
        poll_fn(|cx| client.poll_flush(cx)).await.expect("sent");
        assert_eq!(client.held_bytes(), 0, "while request {round} is answered");
        peer.read_exact(&mut [0; 27]).await.expect("a request");
        peer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.expect("sent");
        let mut head = ResponseHead::default();
        let answer = poll_fn(|cx| client.poll_head(cx, &mut head)).await.expect("valid");
        assert!(matches!(answer, Answer::Final(_)));
        let data = poll_fn(|cx| client.poll_frame(cx)).await.expect("valid");
        assert!(matches!(data, Some(Frame::Data(data)) if data == "ok"));
        assert!(poll_fn(|cx| client.poll_frame(cx)).await.expect("valid").is_none());
        assert!(client.is_reusable() && client.is_alive());
        client.rest();
        assert_eq!(client.held_bytes(), 0, "after answer {round}");
    }
}

#[tokio::test]
async fn a_pooled_connection_that_says_something_is_not_used() {
    for surplus in [&b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"[..], b"x", b""] {
        let (mut peer, transport) = connected().await;
        let mut client = ClientConnection::new(transport);
        assert!(client.is_alive());
        peer.write_all(surplus).await.expect("sent");
        peer.shutdown().await.expect("shut down");
        poll_fn(|cx| client.poll_readable(cx)).await;
        assert!(!client.is_alive(), "{surplus:?}");
    }
}
