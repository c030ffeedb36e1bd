//! Tokens whose keys are fetched: when they are asked for, from whom, and what holds where they cannot be had.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meshwork_model::proxy::{
    Cluster, Discovery, Dns, DnsHost, HttpFilter, HttpFilterKind, JwtAuthentication, JwtKeys, JwtProvider,
    JwtRequirement, JwtRule, PathMatch, RemoteKeys, Resource, RouteMatch,
};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::harness::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
/// Signed by the key of [`SET`], for ever as far as tests go.
const TOKEN: &str = "eyJhbGciOiAiRVMyNTYiLCAia2lkIjogImVjIn0.eyJpc3MiOiAiaHR0cHM6Ly9pc3N1ZXIudGVzdCIsICJzdWIiOiAibWUiL\
                     CAiYXVkIjogInNob3AiLCAiZXhwIjogNDEwMjQ0NDgwMCwgIm4iOiA3LCAiZGVlcCI6IHsiZ3JvdXAiOiAiYWRtaW5zIn19.5aP\
                     dg9eZh6DOgwWwSz009wyddDKtW_6Tzb0G9FXUGJ-NOyD-p0IP2KNUlmyhLPyXeeySgRF-APLkldVQJBCpAw";
const SET: &str = r#"{"keys":[{"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "ec", "x": "lM6jqmaLMTy3sTdjibaxYWKM9nmunqYVf-bue27WP0g", "y": "-EIJihXaiKqtoiA50Ory1JCak8G__rvfFlzKQJOJAbU"}]}"#;
/// Another key, of the curve's generator.
const OTHER_SET: &str = r#"{"keys":[{"kty": "EC", "crv": "P-256", "kid": "new", "x": "axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY", "y": "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"}]}"#;

/// A server of keys, whose answer may change.
struct Issuer {
    address: SocketAddr,
    answer: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    async fn new(answer: &str) -> Self {
        let listener = TcpListener::bind(LOOPBACK).await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let (answer, asked) = (Arc::new(Mutex::new(answer.to_owned())), Arc::new(AtomicUsize::new(0)));
        let (current, count) = (Arc::clone(&answer), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (current, count) = (Arc::clone(&current), Arc::clone(&count));
                tokio::spawn(async move {
                    let mut left = Vec::new();
                    while read_message(&mut stream, &mut left, false).await.is_some() {
                        count.fetch_add(1, Ordering::SeqCst);
                        let answer = current.lock().expect("whole").clone();
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, answer, asked }
    }

    fn answer(&self, answer: &str) {
        answer.clone_into(&mut self.answer.lock().expect("whole"));
    }
}

fn body(text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len())
}

/// A proxy that asks for tokens of one issuer, whose keys this cluster has.
async fn proxy(keys: Cluster, cache: Duration) -> (Sut, Origin) {
    let origin = Origin::answering(OK).await;
    let remote = RemoteKeys {
        cluster: "keys".into(),
        authority: "keys.test".into(),
        path: "/jwks".into(),
        timeout: SOON,
        cache,
        retries: 0,
        retry_pause: Duration::from_millis(1),
    };
    let provider = JwtProvider {
        name: "issuer".into(),
        issuer: Some("https://issuer.test".into()),
        clock_skew_seconds: 60,
        keys: JwtKeys::Remote(remote),
        ..JwtProvider::default()
    };
    let config = JwtAuthentication {
        providers: vec![Arc::new(provider)],
        rules: vec![JwtRule {
            matches: RouteMatch::new(PathMatch::Prefix("/".into()), vec![]),
            requires: Some(JwtRequirement::Provider { provider: 0, audiences: None }),
        }],
        ..JwtAuthentication::default()
    };
    let filter = HttpFilter::new("envoy.filters.http.jwt_authn", HttpFilterKind::Jwt(Arc::new(config)));
    let filters = vec![filter];
    let listener = listener(
        "web",
        meshwork_model::proxy::Direction::Unspecified,
        chain(http(vec![route("/", &[("a", 1)])], filters), None),
    );
    let clusters = [cluster("a", &[origin.address]), keys].map(Resource::Cluster);
    let sut = Sut::start(clusters.into_iter().chain([listener]).collect());
    (sut, origin)
}

async fn ask(sut: &Sut, fields: &str) -> Message {
    sut.client().await.call(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).await
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

#[tokio::test]
async fn many_requests_have_keys_fetched_once() {
    let issuer = Issuer::new(&body(SET)).await;
    let (sut, _origin) = proxy(cluster("keys", &[issuer.address]), Duration::from_mins(5)).await;
    let answers = futures(20, || ask_with(&sut)).await;
    assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
    assert_eq!(issuer.asked.load(Ordering::SeqCst), 1);
}

async fn ask_with(sut: &Sut) -> u16 {
    ask(sut, &bearer(TOKEN)).await.status()
}

/// Awaits so many at the same time.
async fn futures<F: Future<Output = u16>>(count: usize, make: impl Fn() -> F) -> Vec<u16> {
    futures_util::future::join_all((0..count).map(|_| make())).await
}

#[tokio::test]
async fn a_key_that_was_taken_back_does_not_count_any_more() {
    let issuer = Issuer::new(&body(SET)).await;
    let (sut, _origin) = proxy(cluster("keys", &[issuer.address]), Duration::from_millis(100)).await;
    assert_eq!(ask_with(&sut).await, 200);
    issuer.answer(&body(OTHER_SET));
    let refused = soon(async {
        loop {
            let answer = ask(&sut, &bearer(TOKEN)).await;
            if answer.status() != 200 {
                return answer;
            }
        }
    })
    .await;
    assert_eq!((refused.status(), refused.header("x-meshwork-reason")), (401, Some("MW0403")));
    assert_eq!(refused.body, "Jwks doesn't have key to match kid or alg from Jwt");
}

#[tokio::test]
async fn keys_that_cannot_be_had_let_nobody_in_and_redirects_are_not_followed() {
    let elsewhere = Issuer::new(&body(SET)).await;
    let redirect = format!(
        "HTTP/1.1 302 Found\r\nlocation: http://{}/jwks\r\ncontent-length: 0\r\n\r\n",
        elsewhere.address
    );
    for answer in [
        redirect.as_str(),
        "HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n",
        &body("{}"),
        &body(r#"{"keys":[{"kty":"oct","k":"YSBzZWNyZXQgb2YgdGhpcnR5LXR3byBieXRlcy4uLi4"}]}"#),
    ] {
        let issuer = Issuer::new(answer).await;
        let (sut, _origin) = proxy(cluster("keys", &[issuer.address]), Duration::from_mins(5)).await;
        let refused = ask(&sut, &bearer(TOKEN)).await;
        assert_eq!(
            (refused.status(), refused.header("x-meshwork-reason")),
            (401, Some("MW0412")),
            "{answer}"
        );
        assert_eq!(refused.body, "Jwks remote fetch is failed");
        assert!(issuer.asked.load(Ordering::SeqCst) > 0);
    }
    assert_eq!(elsewhere.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn keys_are_not_fetched_from_near_the_host_whatever_its_name() {
    let issuer = Issuer::new(&body(SET)).await;
    let named = |only_far| {
        let host = DnsHost { host: "localhost".into(), port: issuer.address.port() };
        let family = meshwork_model::proxy::DnsFamily::V4;
        Cluster::new("keys", Discovery::Dns(Dns { only_far, family, ..Dns::all_of(host) }))
    };
    let (sut, _origin) = proxy(named(true), Duration::from_mins(5)).await;
    let refused = ask(&sut, &bearer(TOKEN)).await;
    assert_eq!((refused.status(), refused.header("x-meshwork-reason")), (401, Some("MW0412")));
    assert_eq!(issuer.asked.load(Ordering::SeqCst), 0);
    // Where that is allowed, the same name is asked.
    let (sut, _origin) = proxy(named(false), Duration::from_mins(5)).await;
    soon(async { while ask_with(&sut).await != 200 {} }).await;
}

#[tokio::test]
async fn a_request_has_one_token() {
    let issuer = Issuer::new(&body(SET)).await;
    let (sut, mut origin) = proxy(cluster("keys", &[issuer.address]), Duration::from_mins(5)).await;
    let bad = TOKEN.replacen("5aP", "5aQ", 1);
    let several = "Jwt is there more than once, and not the same";
    for (fields, status, text) in [
        (bearer(TOKEN), 200, "ok"),
        (bearer(TOKEN) + &bearer(TOKEN), 200, "ok"),
        (bearer(TOKEN) + &bearer(&bad), 401, several),
        (bearer(&bad) + &bearer(TOKEN), 401, several),
        (
            bearer(&format!("{TOKEN}, Bearer {bad}")),
            401,
            "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
        ),
        (bearer(&bad), 401, "Jwt verification fails"),
        (bearer(&format!("{TOKEN}=")), 401, "Jwt signature is an invalid Base64url encoded"),
        // A scheme has no case, and what an application may take for a token has to be a good one.
        (format!("Authorization: bearer {TOKEN}\r\n"), 200, "ok"),
        (format!("Authorization: bearer {bad}\r\n"), 401, "Jwt verification fails"),
        (String::new(), 401, "Jwt is missing"),
    ] {
        let answer = ask(&sut, &fields).await;
        assert_eq!((answer.status(), answer.body.as_str()), (status, text), "{fields}");
    }
    for _ in 0..3 {
        assert_eq!(origin.next().await.header("authorization"), None, "a token is not passed on unasked");
    }
    let call = format!("GET /?access_token={bad} HTTP/1.1\r\nHost: a\r\n{}\r\n", bearer(TOKEN));
    let answer = sut.client().await.call(&call).await;
    assert_eq!((answer.status(), answer.body.as_str()), (401, several));
    assert!(origin.asked.try_recv().is_err());
}
