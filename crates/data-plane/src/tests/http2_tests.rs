//! The cases of `bodies` where one side or both speak HTTP/2: all exchanges at once, as streams of one connection.

use std::future::poll_fn;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::future::join_all;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::task::{JoinSet, spawn_local};

use super::bodies::{Arrived, Body, Case, Exchange, Framing, run};
use crate::testing::config::{ORIGIN, web};
use crate::testing::seeds::for_each_seed;
use crate::testing::{Cut, End, Message, play};

/// What is handed to the library at once; it makes frames of it.
const PIECE: usize = 50_000;
/// More than any body here.
const LARGE_WINDOW: u32 = 16 * 1024 * 1024;

/// All of the case's requests at once.
pub(super) async fn call_all(client: End, case: &Case) -> Vec<Result<Message, Cut>> {
    let mut builder = h2::client::Builder::new();
    // The library allows for many tiny frames at once only in a large window; a body that drips makes them.
    builder.initial_connection_window_size(LARGE_WINDOW);
    let Ok((requests, connection)) = builder.handshake(client.socket).await else {
        return vec![Err(Cut::Reset)];
    };
    let driving = spawn_local(connection);
    let calls = case.exchanges.iter().enumerate().map(|(at, exchange)| {
        let requests = requests.clone();
        async move { call(requests, at, &exchange.up).await.map_err(|_| Cut::Reset) }
    });
    let answers = join_all(calls).await;
    driving.abort();
    answers
}

async fn call(requests: h2::client::SendRequest<Bytes>, at: usize, up: &Body) -> Result<Message, h2::Error> {
    let mut requests = requests.ready().await?;
    let mut request = Request::put(format!("http://a/{at}"));
    if up.framing == Framing::Length {
        request = request.header("content-length", up.data.len());
    }
    let (response, mut stream) = requests.send_request(request.body(()).expect("valid"), false)?;
    // An answer may come before the request's end, and be the last word.
    let (_, answer) = tokio::join!(send(&mut stream, up, 0..up.data.len(), true), async {
        let (parts, mut body) = response.await?.into_parts();
        let mut message = Message { head: format!("HTTP/1.1 {}", parts.status), ..Message::default() };
        receive(&mut body, &mut message).await?;
        Ok(message)
    });
    answer
}

/// Serves one connection.
pub(super) async fn serve(end: End, case: Rc<Case>, arrived: Arrived) {
    let mut builder = h2::server::Builder::new();
    builder.initial_connection_window_size(LARGE_WINDOW);
    let Ok(mut connection) = builder.handshake(end.socket).await else { return };
    let mut streams = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        streams.spawn_local(answer(request, respond, Rc::clone(&case), Rc::clone(&arrived)));
        while let Some(ended) = streams.try_join_next() {
            // That a stream was reset is the judge's matter.
            let _ = ended.expect("no panic");
        }
    }
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    case: Rc<Case>,
    arrived: Arrived,
) -> Result<(), h2::Error> {
    let at: usize = request.uri().path()[1..].parse().expect("a number");
    let Exchange { down, is_early, .. } = &case.exchanges[at];
    let mut response = Response::builder();
    if down.framing == Framing::Length {
        response = response.header("content-length", down.data.len());
    }
    let response = response.body(()).expect("valid");
    let (mut body, mut message) = (request.into_body(), Message::default());
    if !is_early || down.data.is_empty() {
        receive(&mut body, &mut message).await?;
        arrived.borrow_mut().push((at, message));
        let mut stream = respond.send_response(response, false)?;
        return send(&mut stream, down, 0..down.data.len(), true).await;
    }
    let mut stream = respond.send_response(response, false)?;
    let early = down.data.len() - 1;
    let (sent, received) =
        tokio::join!(send(&mut stream, down, 0..early, false), receive(&mut body, &mut message));
    sent.and(received)?;
    arrived.borrow_mut().push((at, message));
    send(&mut stream, down, early..down.data.len(), true).await
}

/// Sends part of a body, with respect for the window.
async fn send(
    stream: &mut SendStream<Bytes>,
    body: &Body,
    part: std::ops::Range<usize>,
    ends: bool,
) -> Result<(), h2::Error> {
    for piece in body.data[part].chunks(PIECE) {
        let mut left = Bytes::copy_from_slice(piece);
        while !left.is_empty() {
            stream.reserve_capacity(left.len());
            match poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(room) => stream.send_data(left.split_to(room?.min(left.len())), false)?,
                None => return Err(h2::Reason::CANCEL.into()),
            }
        }
    }
    if ends && body.trailers.is_empty() {
        stream.send_data(Bytes::new(), true)?;
    } else if ends {
        stream.send_trailers(trailers(body.trailers))?;
    }
    Ok(())
}

async fn receive(body: &mut RecvStream, message: &mut Message) -> Result<(), h2::Error> {
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        message.body.extend_from_slice(&data);
    }
    for (name, value) in &body.trailers().await?.unwrap_or_default() {
        let line = [name.as_str(), ": ", value.to_str().expect("text"), "\r\n"].concat();
        message.trailers.push_str(&line);
    }
    Ok(())
}

fn trailers(text: &'static str) -> HeaderMap {
    let line = |line: &'static str| {
        let (name, value) = line.split_once(": ").expect("a field");
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    text.lines().map(line).collect()
}

/// HTTP/1.0 and its like are not for these.
fn draw(random: &mut fastrand::Rng, breaks: bool) -> Case {
    let mut case = Case::draw(random, breaks);
    case.exchanges.iter_mut().for_each(|exchange| exchange.version = "1.1");
    case
}

const SIDES: [[bool; 2]; 3] = [[true, false], [false, true], [true, true]];

#[test]
fn bodies_arrive_over_http2_as_they_were_sent() {
    for_each_seed("bodies_arrive_over_http2_as_they_were_sent", 45, |seed, random| {
        run(draw(random, false), SIDES[usize::try_from(seed % 3).expect("small")]);
    });
}

#[test]
fn an_http2_connection_that_breaks_never_leaves_a_message_that_looks_complete() {
    let name = "an_http2_connection_that_breaks_never_leaves_a_message_that_looks_complete";
    for_each_seed(name, 45, |seed, random| {
        run(draw(random, true), SIDES[usize::try_from(seed % 3).expect("small")]);
    });
}

#[test]
fn tiny_chunks_that_come_together_are_no_flood_of_frames() {
    play(web(&[ORIGIN]), async |world| {
        let mut origin = world.origin(ORIGIN);
        let client = world.connect();
        let Ok((requests, connection)) = h2::client::handshake(client.socket).await else {
            panic!("no handshake")
        };
        spawn_local(connection);
        let mut requests = requests.ready().await.expect("open");
        let request = Request::get("http://a/").body(()).expect("valid");
        let (response, _) = requests.send_request(request, true).expect("open");
        let mut upstream = origin.accept().await;
        upstream.receive().await;
        let chunks = "1\r\nx\r\n".repeat(2_000);
        upstream
            .send(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"))
            .await;
        let (mut message, response) = (Message::default(), response.await.expect("an answer"));
        receive(&mut response.into_body(), &mut message).await.expect("whole");
        assert_eq!(message.body.len(), 2_000);
    });
}
