//! Connections that were proven under a root that is about to go: they are retired, and nothing is lost with them.

use meshwork_model::proxy::UpstreamProtocol;
use tokio::time::Instant;

use super::*;
use crate::limits::{H2_ENDING, POOL_SWEEP, RETIRED_QUIET, RETIRED_SHARE, RETIRED_WITHIN};

/// How often a busy caller calls.
const BEAT: Duration = Duration::from_millis(500);

/// Tells these which roots to believe now, and which one certificates are under.
fn tell(mesh: &Mesh, all: &[&IdentitySource]) {
    let issuer = mesh.authority.issuer().root;
    for one in all {
        one.replace_bundle(mesh.bundle()).expect("of the same trust domain");
        change(one, |trust| trust.with_issuer(Some(&issuer)));
    }
}

/// Adds a root that these believe, and signs under it from then on; gives the earlier one.
fn switch(mesh: &Mesh, all: &[&IdentitySource]) -> String {
    let earlier = mesh.authority.issuer().root;
    let next = mesh.authority.add_root().expect("made");
    tell(mesh, all);
    mesh.authority.switch(&next).expect("switched");
    tell(mesh, all);
    earlier
}

fn renew(mesh: &Mesh, identity: &IdentitySource) {
    let svid = mesh.authority.issue(identity.id(), Duration::from_hours(1), &[]).expect("signed");
    identity.replace_svid(svid).expect("renewed");
}

/// Answers every request.
fn serve(mut origin: Origin) {
    spawn_local(async move {
        loop {
            let mut upstream = origin.accept().await;
            spawn_local(async move {
                while upstream.try_receive(false).await.is_ok() {
                    upstream.send(OK).await;
                }
            });
        }
    });
}

/// Calls once, and tells whether the answer is the last one on the connection.
async fn is_last(client: &mut Client) -> bool {
    send(client, GET).await;
    receive(client, "ok").await.to_ascii_lowercase().contains("connection: close")
}

/// Calls again and again until an answer is the last one; gives how long that took.
async fn until_last(client: &mut Client) -> Duration {
    let begun = Instant::now();
    while !is_last(client).await {
        sleep(BEAT).await;
    }
    begun.elapsed()
}

// === callers ===

#[test]
fn callers_come_anew_before_their_root_goes() {
    play_inbound(config::http(None), async |world, mesh, cart, web| {
        serve(world.origin(ORIGIN));
        let mut busy = connect(world, web, cart.id(), b"http/1.1").await;
        let mut idle = connect(world, web, cart.id(), b"http/1.1").await;
        let earlier = switch(mesh, &[cart, web]);
        // As long as we have not renewed ourselves, whoever came anew would come with the same.
        sleep(RETIRED_WITHIN * 2).await;
        assert!(!is_last(&mut busy).await && !is_last(&mut idle).await);
        renew(mesh, cart);
        let took = until_last(&mut busy).await;
        assert!(took <= RETIRED_WITHIN + BEAT, "{took:?}");
        assert!(ends(&mut busy).await, "cleanly");
        sleep(RETIRED_WITHIN).await;
        assert!(ends(&mut idle).await, "cleanly");

        // Who has not renewed yet is let in, and has to come again; who has stays.
        let mut old = connect(world, web, cart.id(), b"http/1.1").await;
        let took = until_last(&mut old).await;
        assert!(took + BEAT >= RETIRED_WITHIN && took <= RETIRED_WITHIN * 2, "{took:?}");
        renew(mesh, web);
        let mut new = connect(world, web, cart.id(), b"http/1.1").await;
        assert!(!is_last(&mut new).await);
        assert!(is_open(&mut new).await);
        sleep(RETIRED_WITHIN * 10).await;
        assert!(!is_last(&mut new).await);
        mesh.authority.remove_previous(&earlier).expect("removed");
        tell(mesh, &[cart, web]);
        settle().await;
        assert!(!is_last(&mut new).await);
    });
}

#[test]
fn an_idle_connection_is_closed_when_it_was_quiet_for_a_while() {
    play_inbound(config::http(None), async |world, mesh, cart, web| {
        serve(world.origin(ORIGIN));
        let mut idle = connect(world, web, cart.id(), b"http/1.1").await;
        switch(mesh, &[cart, web]);
        renew(mesh, cart);
        // It is retired a moment after its last answer.
        sleep(RETIRED_WITHIN * 9 / 10).await;
        assert!(!is_last(&mut idle).await);
        let (over, took) = timed(async { idle.read(&mut [0]).await }).await;
        assert_eq!(over.expect("cleanly"), 0);
        let error = took.abs_diff(RETIRED_QUIET);
        assert!(error < Duration::from_millis(10), "{took:?}");
    });
}

#[test]
fn streams_of_http2_have_their_time_and_new_ones_go_elsewhere() {
    play_inbound(config::http(None), async |world, mesh, cart, web| {
        let mut origin = world.origin(ORIGIN);
        let client = connect(world, web, cart.id(), b"h2").await;
        let (requests, connection) = h2::client::handshake(client).await.expect("speaks HTTP/2");
        let driving = spawn_local(connection);
        let asking = spawn_local({
            let requests = requests.clone();
            async move {
                let mut requests = requests.ready().await?;
                let request = http::Request::get("http://a/").body(()).expect("valid");
                let (parts, mut body) = requests.send_request(request, true)?.0.await?.into_parts();
                while let Some(data) = body.data().await {
                    data?;
                }
                Ok::<_, h2::Error>(parts.status)
            }
        });
        let mut upstream = origin.accept().await;
        upstream.receive().await;
        switch(mesh, &[cart, web]);
        renew(mesh, cart);
        sleep(RETIRED_WITHIN + H2_ENDING * 2).await;
        assert!(requests.ready().await.is_err(), "it is told to go away");
        upstream.send(OK).await;
        let answer = timeout(SOON, asking).await.expect("it ends").expect("no panic");
        assert_eq!(answer.expect("an answer"), http::StatusCode::OK);
        // Both ends say GOAWAY when nothing is left; who is later may say it to nobody.
        let _ = timeout(SOON, driving).await.expect("it ends").expect("no panic");
    });
}

#[test]
fn bytes_go_on_until_the_root_goes() {
    play_inbound(config::tcp_filter("a"), async |world, mesh, cart, web| {
        let mut origin = world.origin(ORIGIN);
        let mut client = connect(world, web, cart.id(), b"http/1.1").await;
        let mut upstream = origin.accept().await;
        let earlier = switch(mesh, &[cart, web]);
        renew(mesh, cart);
        sleep(RETIRED_WITHIN * 2).await;
        send(&mut client, "x").await;
        assert_eq!(upstream.take(1).await.as_deref(), Ok(&b"x"[..]));
        mesh.authority.remove_previous(&earlier).expect("removed");
        tell(mesh, &[cart]);
        let (over, took) = timed(async { client.read(&mut [0]).await }).await;
        assert!(over.is_err());
        assert!(took <= UNTRUSTED_END, "{took:?}");
    });
}

#[test]
fn renewals_under_the_same_root_retire_nobody() {
    play_inbound(config::http(None), async |world, mesh, cart, web| {
        serve(world.origin(ORIGIN));
        let mut client = connect(world, web, cart.id(), b"http/1.1").await;
        // That there will be another root changes nothing.
        mesh.authority.add_root().expect("made");
        tell(mesh, &[cart, web]);
        for renewed in [cart, &**web, cart] {
            renew(mesh, renewed);
            sleep(RETIRED_WITHIN * 2).await;
            assert!(!is_last(&mut client).await);
        }
        assert!(is_open(&mut client).await);
    });
}

#[test]
fn who_turns_back_retires_nobody() {
    play_inbound(config::http(None), async |world, mesh, cart, web| {
        serve(world.origin(ORIGIN));
        let mut client = connect(world, web, cart.id(), b"http/1.1").await;
        let earlier = switch(mesh, &[cart, web]);
        renew(mesh, cart);
        sleep(BEAT).await;
        mesh.authority.switch_back(&earlier).expect("turned back");
        tell(mesh, &[cart, web]);
        renew(mesh, cart);
        sleep(RETIRED_WITHIN * 2).await;
        assert!(!is_last(&mut client).await);
    });
}

#[test]
fn callers_of_federated_trust_domains_are_not_concerned() {
    let (mesh, other) = (Mesh::new("mesh.local"), Mesh::new("other.local"));
    let (cart, foreign) = (mesh.identity("cart"), other.identity("web"));
    change(&foreign, |trust| trust.with_federated([mesh.bundle()]));
    change(&cart, |trust| trust.with_federated([other.bundle()]));
    play_as(Some(Arc::clone(&cart)), inbound(config::http(None)), async |world| {
        serve(world.origin(ORIGIN));
        let mut client = connect(world, &foreign, cart.id(), b"http/1.1").await;
        switch(&mesh, &[&cart]);
        renew(&mesh, &cart);
        sleep(RETIRED_WITHIN * 2).await;
        assert!(!is_last(&mut client).await);
    });
}

#[test]
fn who_keeps_an_old_certificate_for_long_comes_anew_less_and_less() {
    play_inbound(config::http(None), async |world, mesh, cart, web| {
        serve(world.origin(ORIGIN));
        switch(mesh, &[cart, web]);
        renew(mesh, cart);
        sleep(RETIRED_WITHIN * RETIRED_SHARE * 4).await;
        let mut client = connect(world, web, cart.id(), b"http/1.1").await;
        let took = until_last(&mut client).await;
        assert!(took >= RETIRED_WITHIN * 4 && took <= RETIRED_WITHIN * 5, "{took:?}");
    });
}

// === endpoints ===

#[test]
fn connections_to_endpoints_are_replaced_without_losing_anything() {
    let mesh = Mesh::new("mesh.local");
    let (cart, web) = (mesh.identity("cart"), mesh.identity("web"));
    let resources = outbound(cart.id(), config::http(None), &["http/1.1"]);
    play_as(Some(Arc::clone(&web)), resources, async |world| {
        let mut origin = world.origin(ORIGIN);
        let mut client = world.connect();
        let answer = async |upstream: &mut Server, client: &mut End| {
            receive(upstream, "\r\n\r\n").await;
            send(upstream, OK).await;
            client.receive().await;
        };
        client.send(GET).await;
        let mut first = accept(&mut origin, &cart, b"http/1.1").await;
        answer(&mut first, &mut client).await;
        switch(&mesh, &[&cart, &web]);
        sleep(RETIRED_WITHIN * 2).await;
        client.send(GET).await;
        answer(&mut first, &mut client).await;

        // What it showed is old now.
        renew(&mesh, &web);
        sleep(RETIRED_WITHIN + POOL_SWEEP).await;
        assert!(ends(&mut first).await, "cleanly");
        // What is under way has its time, and then the endpoint's certificate is old, too.
        client.send(GET).await;
        let mut second = accept(&mut origin, &cart, b"http/1.1").await;
        sleep(RETIRED_WITHIN * 2).await;
        answer(&mut second, &mut client).await;
        renew(&mesh, &cart);
        client.send(GET).await;
        let mut third = accept(&mut origin, &cart, b"http/1.1").await;
        answer(&mut third, &mut client).await;
        // From now on there is nothing to replace.
        sleep(RETIRED_WITHIN * 4).await;
        client.send(GET).await;
        answer(&mut third, &mut client).await;
        assert!(!origin.is_called().await);
    });
}

#[test]
fn new_streams_go_to_another_connection_and_those_under_way_end_on_theirs() {
    let mesh = Mesh::new("mesh.local");
    let (cart, web) = (mesh.identity("cart"), mesh.identity("web"));
    let mut resources = outbound(cart.id(), config::http(None), &["h2"]);
    for resource in &mut resources {
        if let Resource::Cluster(cluster) = resource {
            cluster.protocol = UpstreamProtocol::Http2;
        }
    }
    play_as(Some(Arc::clone(&web)), resources, async |world| {
        let mut origin = world.origin(ORIGIN);
        let mut next = async || {
            let upstream = accept(&mut origin, &cart, b"h2").await;
            let mut connection = h2::server::handshake(upstream).await.expect("HTTP/2");
            let (_, respond) = connection.accept().await.expect("asked").expect("whole");
            let driving = spawn_local(async move { poll_fn(|cx| connection.poll_closed(cx)).await });
            (respond, driving)
        };
        let (mut slow, mut quick) = (world.connect(), world.connect());
        slow.send(GET).await;
        let (mut to_slow, first) = next().await;
        switch(&mesh, &[&cart, &web]);
        for renewed in [&cart, &web] {
            renew(&mesh, renewed);
        }
        sleep(RETIRED_WITHIN + H2_ENDING * 2).await;
        quick.send(GET).await;
        let (mut to_quick, _second) = next().await;
        for (respond, client) in [(&mut to_quick, &mut quick), (&mut to_slow, &mut slow)] {
            respond.send_response(http::Response::new(()), true).expect("open");
            assert_eq!(client.receive().await.status(), Some(200));
        }
        let _ = timeout(SOON, first).await.expect("it ends").expect("no panic");
    });
}
