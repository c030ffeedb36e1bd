//! The numbers of fields, and a client and a server that speak in memory.

use std::time::{Duration, SystemTime};

use prost::Message as _;
use tonic::codegen::Service as _;
use tonic::codegen::tokio_stream::{self, StreamExt as _};
use tonic::{Code, Request, Response, Status};

use super::*;
use crate::forge::{Forge, id};
use crate::{Key, Trust, jwt_svid};

const WEB: &str = "spiffe://mesh.local/ns/shop/sa/web";

#[test]
fn messages_have_the_field_numbers_of_spiffe() {
    let svid = X509SvidMessage {
        spiffe_id: "a".to_owned(),
        x509_svid: vec![1],
        x509_svid_key: vec![2],
        bundle: vec![3],
        hint: "h".to_owned(),
    };
    let inner = [10, 1, b'a', 18, 1, 1, 26, 1, 2, 34, 1, 3, 42, 1, b'h'];
    assert_eq!(svid.encode_to_vec(), inner);
    let bundles = [("t".to_owned(), vec![9])];
    let entry = [10, 1, b't', 18, 1, 9];
    let answer =
        X509SvidResponse { svids: vec![svid], crl: vec![vec![7]], federated_bundles: bundles.clone().into() };
    let expected = [&[10, 15][..], &inner, &[18, 1, 7, 26, 6], &entry].concat();
    assert_eq!(answer.encode_to_vec(), expected);
    let answer = X509BundlesResponse { crl: vec![vec![7]], bundles: bundles.clone().into() };
    assert_eq!(answer.encode_to_vec(), [&[10, 1, 7, 18, 6][..], &entry].concat());
    let answer = JwtBundlesResponse { bundles: bundles.into() };
    assert_eq!(answer.encode_to_vec(), [&[10, 6][..], &entry].concat());
    let asked = JwtSvidRequest { audience: vec!["x".to_owned(), "y".to_owned()], spiffe_id: "a".to_owned() };
    assert_eq!(asked.encode_to_vec(), [10, 1, b'x', 10, 1, b'y', 18, 1, b'a']);
    let token = JwtSvidMessage { spiffe_id: "a".to_owned(), svid: "t".to_owned(), hint: "h".to_owned() };
    let inner = [10, 1, b'a', 18, 1, b't', 26, 1, b'h'];
    assert_eq!(JwtSvidResponse { svids: vec![token] }.encode_to_vec(), [&[10, 9][..], &inner].concat());
    let asked = ValidateJwtSvidRequest { audience: "x".to_owned(), svid: "t".to_owned() };
    assert_eq!(asked.encode_to_vec(), [10, 1, b'x', 18, 1, b't']);
    let answer =
        ValidateJwtSvidResponse { spiffe_id: "a".to_owned(), claims: Some(prost_types::Struct::default()) };
    assert_eq!(answer.encode_to_vec(), [10, 1, b'a', 18, 0]);
}

#[test]
fn keys_and_tokens_are_not_shown() {
    let svid =
        X509SvidMessage::new(&Forge::new("mesh.local").svid(WEB), &Forge::new("mesh.local").bundle(), "");
    let token = JwtSvidMessage { spiffe_id: WEB.to_owned(), svid: "hush".to_owned(), hint: String::new() };
    let asked = ValidateJwtSvidRequest { audience: "a".to_owned(), svid: "hush".to_owned() };
    let shown = format!("{svid:?} {:?} {asked:?}", JwtSvidResponse { svids: vec![token] });
    assert!(!shown.contains("hush") && !shown.contains("key"), "{shown}");
}

/// Serves one workload.
struct Host {
    forge: Forge,
    trust: Trust,
    key: Key,
}

impl Host {
    fn new() -> Self {
        let (forge, key) = (Forge::new("mesh.local"), Key::generate().expect("a key"));
        let jwks = serde_json::json!({ "keys": [jwt_svid::public_jwk(&key).expect("a JWK")] }).to_string();
        let own = forge.bundle().with_jwt_keys(&jwks).expect("keys");
        let trust = Trust::new(own).with_federated([Forge::new("ally.local").bundle()]);
        Self { forge, trust, key }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what a method answers")]
fn once<T: Send + 'static>(answer: T) -> Result<Response<Answers<T>>, Status> {
    Ok(Response::new(Box::pin(tokio_stream::once(Ok(answer)))))
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Host {
    async fn fetch_x509_svid(
        &self,
        _request: Request<X509SvidRequest>,
    ) -> Result<Response<Answers<X509SvidResponse>>, Status> {
        let svid = X509SvidMessage::new(&self.forge.svid(WEB), self.trust.own(), "main");
        once(X509SvidResponse::new(vec![svid], &self.trust))
    }

    async fn fetch_x509_bundles(
        &self,
        _request: Request<X509BundlesRequest>,
    ) -> Result<Response<Answers<X509BundlesResponse>>, Status> {
        once(X509BundlesResponse::new(&self.trust))
    }

    async fn fetch_jwt_svid(
        &self,
        request: Request<JwtSvidRequest>,
    ) -> Result<Response<JwtSvidResponse>, Status> {
        let audience = request.into_inner().audience;
        let signed =
            jwt_svid::sign(&self.key, &id(WEB), &audience, SystemTime::now(), Duration::from_mins(1))
                .map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(JwtSvidResponse { svids: vec![JwtSvidMessage::new(&signed, "")] }))
    }

    async fn fetch_jwt_bundles(
        &self,
        _request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Answers<JwtBundlesResponse>>, Status> {
        once(JwtBundlesResponse::new(&self.trust))
    }

    async fn validate_jwt_svid(
        &self,
        request: Request<ValidateJwtSvidRequest>,
    ) -> Result<Response<ValidateJwtSvidResponse>, Status> {
        let asked = request.into_inner();
        let (svid, claims) = jwt_svid::validate(&asked.svid, &asked.audience, &self.trust, SystemTime::now())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(ValidateJwtSvidResponse::new(&svid, &claims)))
    }
}

#[tokio::test]
async fn a_workload_gets_what_it_needs() {
    let mut client = SpiffeWorkloadApiClient::new(SpiffeWorkloadApiServer::new(Host::new()));
    let mut svids = client.fetch_x509_svid(X509SvidRequest {}).await.expect("a stream").into_inner();
    let answer = svids.next().await.expect("one").expect("an answer");
    let [svid] = &answer.svids[..] else { panic!("{answer:?}") };
    assert_eq!((svid.spiffe_id.as_str(), svid.hint.as_str()), (WEB, "main"));
    let x509 = crate::svid::parse(&svid.x509_svid.clone().into()).map(drop);
    assert!(x509.is_ok() && !svid.x509_svid_key.is_empty() && !svid.bundle.is_empty());
    assert_eq!(answer.federated_bundles.keys().collect::<Vec<_>>(), ["spiffe://ally.local"]);
    let mut bundles = client.fetch_x509_bundles(X509BundlesRequest {}).await.expect("a stream").into_inner();
    let bundles = bundles.next().await.expect("one").expect("an answer").bundles;
    assert_eq!(bundles.keys().collect::<Vec<_>>(), ["spiffe://ally.local", "spiffe://mesh.local"]);
    let mut keys = client.fetch_jwt_bundles(JwtBundlesRequest {}).await.expect("a stream").into_inner();
    let keys = keys.next().await.expect("one").expect("an answer").bundles;
    assert!(keys["spiffe://mesh.local"].starts_with(br#"{"keys":[{"#));
    let asked = JwtSvidRequest { audience: vec!["bank".to_owned()], spiffe_id: String::new() };
    let answer = client.fetch_jwt_svid(asked).await.expect("tokens").into_inner();
    let asked = |audience: &str| ValidateJwtSvidRequest {
        audience: audience.to_owned(),
        svid: answer.svids[0].svid.clone(),
    };
    let valid = client.validate_jwt_svid(asked("bank")).await.expect("good").into_inner();
    assert_eq!(valid.spiffe_id, WEB);
    assert!(valid.claims.expect("claims").fields.contains_key("exp"));
    let refused = client.validate_jwt_svid(asked("shop")).await.expect_err("another's").code();
    assert_eq!(refused, Code::InvalidArgument);
}

#[tokio::test]
async fn calls_that_do_not_mean_the_workload_api_are_refused() {
    let mut server = SpiffeWorkloadApiServer::new(Host::new());
    let mut ask = async |path: &str, headers: &[&str]| {
        let mut request = http::Request::post(path).header("content-type", "application/grpc");
        for value in headers {
            request = request.header(SECURITY_HEADER, *value);
        }
        let request = request.body(tonic::body::Body::empty()).expect("a request");
        let answer = server.call(request).await.expect("an answer");
        Status::from_header_map(answer.headers()).map(|status| status.code())
    };
    for path in [FETCH_X509_SVID, FETCH_X509_BUNDLES, FETCH_JWT_SVID, FETCH_JWT_BUNDLES, VALIDATE_JWT_SVID] {
        for headers in [&[][..], &["false"], &["True"], &[""], &["true", "true"]] {
            assert_eq!(ask(path, headers).await, Some(Code::InvalidArgument), "{path} {headers:?}");
        }
    }
    assert_eq!(ask("/SpiffeWorkloadAPI/Other", &["true"]).await, Some(Code::Unimplemented));
}
