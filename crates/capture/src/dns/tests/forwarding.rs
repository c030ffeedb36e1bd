//! The order of servers, deadlines, and questions asked together: in memory, under a paused clock.

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use tokio::time::{Instant, advance, sleep};

use super::*;
use crate::dns::content::Content;
use crate::dns::exchange::Failure;
use crate::dns::forward::Forwarder;
use crate::dns::query::{Asked, Question, Transport};
use Does::{Answer, Refuse, Silent, Unreachable};
use ResponseCode::{NoError, ServFail};

fn question(text: &str) -> Question {
    let bytes = query(text, RecordType::A).to_vec().unwrap();
    Asked::read(&bytes, Transport::Udp).unwrap().question()
}

fn found(ttl: u32) -> Content {
    let answers = vec![address("example.com.", ttl, [192, 0, 2, 1])];
    Content { answers, ..Content::empty(ResponseCode::NoError) }
}

/// What a server does.
#[derive(Clone, Copy)]
enum Does {
    Answer,
    AnswerAfter(Duration),
    Silent,
    Refuse,
    Unreachable,
}

/// Servers 1, 2, … and a record of who was asked when (milliseconds).
struct Play {
    forwarder: Arc<Forwarder>,
    asked: Arc<std::sync::Mutex<Vec<(u16, u128)>>>,
}

impl Play {
    fn new(servers: &[Does], ttl: u32) -> Self {
        let addresses = (1..).zip(servers).map(|(port, _)| ([192, 0, 2, 53], port).into()).collect();
        let asked: Arc<std::sync::Mutex<Vec<_>>> = Arc::default();
        let (log, servers, start) = (asked.clone(), servers.to_vec(), Instant::now());
        let ask = move |server: SocketAddr, _: Question| {
            log.lock().unwrap().push((server.port(), start.elapsed().as_millis()));
            let does = servers[usize::from(server.port()) - 1];
            async move {
                match does {
                    Does::Answer => Ok(found(ttl)),
                    Does::AnswerAfter(delay) => {
                        sleep(delay).await;
                        Ok(found(ttl))
                    }
                    Does::Silent => std::future::pending().await,
                    Does::Refuse => Err(Failure::Declined(ResponseCode::Refused)),
                    Does::Unreachable => Err(Failure::Unreachable(io::ErrorKind::ConnectionRefused.into())),
                }
            }
            .boxed()
        };
        Self { forwarder: Forwarder::asking(Resolvers::Fixed(addresses), Box::new(ask)), asked }
    }

    fn asked(&self) -> Vec<(u16, u128)> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    async fn look_up(&self, text: &str) -> ResponseCode {
        self.forwarder.look_up(question(text)).await.code
    }
}

#[tokio::test(start_paused = true)]
async fn servers_are_asked_one_after_the_other_until_one_answers() {
    let check = async |servers: &[Does], expected: ResponseCode, asked: &[(u16, u128)]| {
        let play = Play::new(servers, 60);
        assert_eq!(play.look_up("example.com.").await, expected);
        assert_eq!(play.asked(), asked);
        assert_eq!(play.forwarder.flights(), 0);
    };
    check(&[Answer, Answer], NoError, &[(1, 0)]).await;
    check(&[Silent, Answer], NoError, &[(1, 0), (2, 1400)]).await;
    check(&[Unreachable, Refuse, Answer], NoError, &[(1, 0), (2, 0), (3, 0)]).await;
    check(&[], ServFail, &[]).await;
    check(&[Unreachable, Refuse], ServFail, &[(1, 0), (2, 0)]).await;
    check(&[Silent], ServFail, &[(1, 0), (1, 1400)]).await;
    check(&[Silent, Refuse], ServFail, &[(1, 0), (2, 1400), (1, 1400)]).await;
    check(&[Silent; 4], ServFail, &[(1, 0), (2, 1400), (3, 2800), (4, 4200)]).await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_costs_time_once_in_a_while_only() {
    let play = Play::new(&[Does::Silent, Does::Answer], 60);
    play.look_up("a.example.com.").await;
    assert_eq!(play.asked(), [(1, 0), (2, 1400)]);
    play.look_up("b.example.com.").await;
    assert_eq!(play.asked(), [(2, 1400)]);
    advance(limits::SERVER_REST).await;
    play.look_up("c.example.com.").await;
    assert_eq!(play.asked(), [(1, 31_400), (2, 32_800)]);
}

#[tokio::test(start_paused = true)]
async fn the_same_question_at_the_same_time_is_asked_once() {
    let play = Play::new(&[Does::AnswerAfter(Duration::from_secs(1))], 60);
    let all = join_all((0..100).map(|_| play.look_up("example.com."))).await;
    assert!(all.iter().all(|code| *code == ResponseCode::NoError));
    assert_eq!(play.asked(), [(1, 0)]);
}

#[tokio::test(start_paused = true)]
async fn who_leaves_does_not_end_the_question_for_others_and_the_last_one_does() {
    let play = Play::new(&[Does::AnswerAfter(Duration::from_secs(1))], 60);
    let mut first = Box::pin(play.look_up("example.com."));
    assert!((&mut first).now_or_never().is_none());
    let mut second = Box::pin(play.look_up("example.com."));
    assert!((&mut second).now_or_never().is_none());
    drop(first);
    assert_eq!(second.await, ResponseCode::NoError);
    assert_eq!(play.asked().len(), 1);

    let mut last = Box::pin(play.look_up("other.example.com."));
    assert!((&mut last).now_or_never().is_none());
    assert_eq!(play.forwarder.flights(), 1);
    drop(last);
    assert_eq!(play.forwarder.flights(), 0);
}

#[tokio::test(start_paused = true)]
async fn past_the_limit_queries_fail_at_once_and_nothing_of_them_stays() {
    let play = Play::new(&[Does::AnswerAfter(Duration::from_secs(1))], 60);
    let waiting = join_all((0..limits::WAITING).map(|i| {
        let play = &play;
        async move { play.look_up(&format!("{i}.example.com.")).await }
    }));
    let mut waiting = Box::pin(waiting);
    assert!((&mut waiting).now_or_never().is_none());
    assert_eq!(play.look_up("late.example.com.").now_or_never(), Some(ResponseCode::ServFail));
    assert_eq!(play.forwarder.flights(), limits::WAITING);
    assert_eq!(play.asked().len(), limits::UPSTREAM_QUESTIONS, "the others wait for their turn");
    let codes = waiting.await;
    let answered = codes.iter().filter(|code| **code == ResponseCode::NoError).count();
    assert_eq!(answered, 4 * limits::UPSTREAM_QUESTIONS, "as many as had a turn of a second in 4.5 s");
    assert_eq!(play.forwarder.flights(), 0);
}

#[tokio::test(start_paused = true)]
async fn answers_are_kept_for_their_ttl_and_failures_for_a_second() {
    let check = async |does: Does, ttl: u32, kept: Duration| {
        let play = Play::new(&[does], ttl);
        play.look_up("example.com.").await;
        advance(kept.mul_f64(0.99)).await;
        play.look_up("example.com.").await;
        assert_eq!(play.asked().len(), 1, "{ttl}");
        advance(kept.mul_f64(0.01)).await;
        play.look_up("example.com.").await;
        assert_eq!(play.asked().len(), 1, "{ttl}");
    };
    check(Does::Answer, 60, Duration::from_mins(1)).await;
    check(Does::Answer, 0, limits::TTL_MIN).await;
    check(Does::Answer, u32::MAX, limits::TTL_MIN).await;
    check(Does::Answer, 1_000_000, limits::TTL_MAX).await;
    check(Does::Refuse, 60, limits::TTL_FAILURE).await;
}

#[tokio::test(start_paused = true)]
async fn a_kept_answer_counts_down() {
    let play = Play::new(&[Does::Answer], 60);
    play.look_up("example.com.").await;
    advance(Duration::from_secs(45)).await;
    let said = play.forwarder.look_up(question("example.com.")).await;
    assert_eq!(said.answers[0].ttl, 15);
}

#[tokio::test(start_paused = true)]
async fn that_nobody_answers_is_logged_once_a_second() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let play = Play::new(&[Refuse], 60);
    for (i, expected) in [(0, 1), (1, 1), (2, 1)] {
        play.look_up(&format!("{i}.example.com.")).await;
        assert_eq!(lines.count(), expected);
    }
    advance(limits::TELL_EVERY).await;
    play.look_up("3.example.com.").await;
    assert_eq!(lines.count(), 2);
}
