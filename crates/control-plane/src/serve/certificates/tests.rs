//! Who gets which certificate and which token, and how others are told no.

use std::collections::BTreeMap;

use meshwork_identity::workload_api::{JwtSvidRequest, SpiffeWorkloadApi as _, ValidateJwtSvidRequest};
use meshwork_identity::{Key as PrivateKey, Svid};
use meshwork_model::mesh::{Config, UnixSelectors, WorkloadRegistration};

use super::*;
use crate::authority::{Parts, Subject};
use crate::serve::tokens::Tokens;
use crate::store::{self, TokenRequest};

const LIMIT: Duration = Duration::from_hours(1);

struct Here {
    dir: tempfile::TempDir,
    certificates: Certificates,
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::workload("mesh.local", "shop", account).expect("an ID")
}

impl Here {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options { svid_lifetime: LIMIT, ..Options::on_loopback(dir.path().to_owned()) };
        let kv = store::open_kv(dir.path(), &[]).expect("a store");
        let store = Arc::new(Store::on(Arc::clone(&kv), dir.path()).expect("a store"));
        let world = Arc::new(World::new("mesh.local", Config::default(), Vec::new()));
        let replica = store.replica().to_owned();
        let parts = Parts { options: &options, kv, world: Arc::clone(&world), replica };
        let authority = Authority::open(parts).expect("an authority");
        let audit = Arc::new(Audit::new(dir.path()));
        Self { certificates: Certificates::new(authority, store, world, audit, &options), dir }
    }

    fn token(&self, account: &str) -> String {
        let request = TokenRequest {
            namespace: "shop".to_owned(),
            service_account: account.to_owned(),
            workload: account.to_owned(),
            labels: BTreeMap::new(),
            ttl: Duration::from_mins(1),
        };
        self.certificates.store.create_token(&request).expect("a token")
    }

    /// Somebody with a certificate, enrolled or not.
    fn proven(&self, id: &SpiffeId) -> Arc<Proven> {
        let authority = &self.certificates.authority;
        let svid = authority.signing().issue(id, LIMIT, &[]).expect("issued");
        Arc::new(Proven::new(svid.chain(), authority.identity()).expect("good"))
    }

    async fn enrolled(&self, account: &str) -> Arc<Proven> {
        let key = PrivateKey::generate().expect("a key");
        let wish = asked(&key.unnamed_csr_pem().expect("a request"));
        self.ask(wish, Some(&self.token(account)), None).await.expect("enrolled");
        self.proven(&id(account))
    }

    async fn ask(
        &self,
        request: IstioCertificateRequest,
        token: Option<&str>,
        proven: Option<&Arc<Proven>>,
    ) -> Result<String, Status> {
        let mut request = calling(request, proven);
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().expect("ASCII");
            request.metadata_mut().insert("authorization", value);
        }
        let response = self.certificates.create_certificate(request).await?;
        Ok(response.into_inner().cert_chain[..2].concat())
    }

    /// Registers workloads: an account, and the account of its agent.
    fn register(&self, registrations: &[(&str, &str, &str)]) {
        let mut config = Config::default();
        for (namespace, account, agent) in registrations {
            let key = Key::new(*namespace, *account);
            let registration = WorkloadRegistration {
                key: key.clone(),
                service_account: (*account).into(),
                agents: vec![("shop".into(), (*agent).into())],
                selectors: UnixSelectors { uid: Some(1), ..UnixSelectors::default() },
                hint: None,
            };
            config.registrations.insert(key, Arc::new(registration));
        }
        self.certificates.world.apply(config, Vec::new(), 1);
    }

    fn revoke(&self, subject: Subject) {
        self.certificates.authority.revoke(subject, "stolen", "a test").expect("revoked");
    }

    fn audit(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.dir.path().join("audit.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    #[track_caller]
    fn check_refused<T>(&self, outcome: Result<T, Status>, code: Code, words: &str) {
        let status = outcome.err().expect("refused");
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(words), "{status}");
        let last = self.audit().pop().expect("written down");
        assert_eq!(last["result"], format!("refused: {}", status.message()));
        assert!(last["by"].as_str().expect("a text").ends_with(" from 192.0.2.1:7"), "{last}");
        assert_eq!(last["action"], "sign");
    }
}

fn calling<T>(message: T, proven: Option<&Arc<Proven>>) -> Request<T> {
    let mut request = Request::new(message);
    let address = "192.0.2.1:7".parse().expect("an address");
    request.extensions_mut().insert(Peer::new(address, proven.cloned()));
    request
}

fn asked(csr: &str) -> IstioCertificateRequest {
    IstioCertificateRequest { csr: csr.to_owned(), ..IstioCertificateRequest::default() }
}

fn csr() -> (PrivateKey, String) {
    let key = PrivateKey::generate().expect("a key");
    let csr = key.unnamed_csr_pem().expect("a request");
    (key, csr)
}

#[tokio::test]
async fn a_token_buys_one_key_its_certificate() {
    let here = Here::new();
    let token = here.token("web");
    let (key, csr) = csr();
    let chain = here.ask(asked(&csr), Some(&token), None).await.expect("signed");
    let again = here.ask(asked(&key.unnamed_csr_pem().expect("a request")), Some(&token), None).await;
    assert_eq!(again.expect("the same again"), chain);
    let svid = Svid::from_pem(&chain, key).expect("an SVID");
    assert_eq!(svid.id(), &id("web"));
    // A thief comes later, with a key of their own.
    let stolen = here.ask(asked(&self::csr().1), Some(&token), None).await;
    here.check_refused(stolen, Code::Unauthenticated, "the token is used already; make another with");
    let unknown = here.ask(asked(&csr), Some("mwt_x"), None).await;
    here.check_refused(unknown, Code::Unauthenticated, "there is no such token");
    let nothing = here.ask(asked(&csr), None, None).await;
    here.check_refused(nothing, Code::Unauthenticated, "a join token or a client certificate is needed");
    // What is no token, or are several of them.
    for (values, words) in [
        (&["Basic mwt_x"][..], "authorization must be `Bearer <join token>`"),
        (&["Bearer mwt_x", "Bearer mwt_y"][..], "there are several join tokens in the call"),
    ] {
        let mut odd = calling(asked(&csr), None);
        for value in values {
            odd.metadata_mut().append("authorization", value.parse().expect("ASCII"));
        }
        let refused = here.certificates.create_certificate(odd).await;
        here.check_refused(refused, Code::Unauthenticated, words);
    }
    let other = IstioCertificateRequest::impersonating(csr.clone(), LIMIT, &id("cart"));
    let other = here.ask(other, Some(&here.token("web")), None).await;
    here.check_refused(other, Code::InvalidArgument, "a join token is for the workload that it was made for");
    // Nobody is revoked by name and let in by an old token.
    here.revoke(Subject::Identity(id("web").to_string()));
    let revoked = here.ask(asked(&csr), Some(&token), None).await;
    here.check_refused(revoked, Code::PermissionDenied, "revoked");
    let fresh = here.token("web");
    let revoked = here.ask(asked(&self::csr().1), Some(&fresh), None).await;
    here.check_refused(
        revoked,
        Code::PermissionDenied,
        "spiffe://mesh.local/ns/shop/sa/web is revoked: stolen",
    );
}

#[tokio::test]
async fn a_request_that_asks_for_more_gets_nothing_and_leaves_the_token() {
    let here = Here::new();
    let (token, key) = (here.token("web"), PrivateKey::generate().expect("a key"));
    let greedy = key.csr_pem(&id("cart")).expect("a request");
    let refused = here.ask(asked(&greedy), Some(&token), None).await;
    here.check_refused(
        refused,
        Code::InvalidArgument,
        "it asks for spiffe://mesh.local/ns/shop/sa/cart, but the asker is",
    );
    let refused = here.ask(asked("x"), Some(&token), None).await;
    here.check_refused(refused, Code::InvalidArgument, "no usable certificate request");
    let good = key.csr_pem(&id("web")).expect("a request");
    here.ask(asked(&good), Some(&token), None).await.expect("the token is as good as before");
}

#[tokio::test]
async fn a_certificate_buys_the_next_one_of_the_same_identity() {
    let here = Here::new();
    let web = here.enrolled("web").await;
    let (key, csr) = csr();
    let chain = here.ask(asked(&csr), None, Some(&web)).await.expect("renewed");
    assert_eq!(Svid::from_pem(&chain, key).expect("an SVID").id(), &id("web"));
    let greedy = PrivateKey::generate().and_then(|key| key.csr_pem(&id("cart"))).expect("a request");
    let refused = here.ask(asked(&greedy), None, Some(&web)).await;
    here.check_refused(refused, Code::InvalidArgument, "it asks for spiffe://mesh.local/ns/shop/sa/cart");
    let stranger = here.proven(&id("stranger"));
    let refused = here.ask(asked(&csr), None, Some(&stranger)).await;
    here.check_refused(
        refused,
        Code::PermissionDenied,
        "no workload is enrolled with the identity spiffe://mesh.local/ns/shop/sa/stranger",
    );
    // One certificate is lost; the workload goes on by another.
    here.revoke(Subject::Serial(web.serial.clone()));
    let refused = here.ask(asked(&csr), None, Some(&web)).await;
    here.check_refused(refused, Code::PermissionDenied, "is revoked: stolen");
    let another = here.proven(&id("web"));
    here.ask(asked(&csr), None, Some(&another)).await.expect("not that one");
    here.revoke(Subject::Identity(id("web").to_string()));
    let refused = here.ask(asked(&csr), None, Some(&another)).await;
    here.check_refused(refused, Code::PermissionDenied, "is revoked: stolen");
}

#[tokio::test]
async fn a_certificate_whose_root_is_gone_buys_nothing() {
    let here = Here::new();
    let web = here.enrolled("web").await;
    let signing = here.certificates.authority.signing();
    let first = signing.roots()[0].fingerprint.clone();
    let next = signing.add_root().expect("added");
    signing.switch(&next).expect("switched");
    here.certificates.authority.publish().expect("told");
    here.ask(asked(&csr().1), None, Some(&web)).await.expect("still trusted");
    signing.remove_previous(&first).expect("removed");
    here.certificates.authority.publish().expect("told");
    let refused = here.ask(asked(&csr().1), None, Some(&web)).await;
    here.check_refused(refused, Code::Unauthenticated, "enrol again with a token");
}

#[tokio::test]
async fn an_agent_gets_certificates_of_what_is_registered_with_it() {
    let here = Here::new();
    let agent = here.enrolled("agent").await;
    here.register(&[
        ("shop", "web", "agent"),
        ("shop", "cart", "other"),
        ("bank", "vault", "agent"),
        ("meshwork-system", "control-plane", "agent"),
    ]);
    let (key, csr) = csr();
    let of = |id: &SpiffeId| IstioCertificateRequest::impersonating(csr.clone(), LIMIT, id);
    let chain = here.ask(of(&id("web")), None, Some(&agent)).await.expect("signed");
    assert_eq!(Svid::from_pem(&chain, key).expect("an SVID").id(), &id("web"));
    let check = async |request, words: &str| {
        let refused = here.ask(request, None, Some(&agent)).await;
        here.check_refused(refused, Code::PermissionDenied, words);
    };
    check(of(&id("cart")), "no WorkloadRegistration lets spiffe://mesh.local/ns/shop/sa/agent attest spiffe://mesh.local/ns/shop/sa/cart").await;
    check(of(&id("agent")), "no WorkloadRegistration").await;
    // Nobody of the agent's namespace lets it stand for workloads of another.
    let vault = SpiffeId::workload("mesh.local", "bank", "vault").expect("an ID");
    check(of(&vault), "a ReferenceGrant beside the agent").await;
    let system = SpiffeId::workload("mesh.local", "meshwork-system", "control-plane").expect("an ID");
    check(of(&system), "no WorkloadRegistration").await;
    let foreign = SpiffeId::parse("spiffe://other.local/ns/shop/sa/web").expect("an ID");
    check(of(&foreign), "no WorkloadRegistration").await;
    let stranger = here.proven(&id("other"));
    let refused = here.ask(of(&id("cart")), None, Some(&stranger)).await;
    here.check_refused(refused, Code::PermissionDenied, "no workload is enrolled with the identity");
    let mut odd = of(&id("web"));
    for value in odd.metadata.iter_mut().flat_map(|metadata| metadata.fields.values_mut()) {
        value.kind = None;
    }
    let refused = here.ask(odd, None, Some(&agent)).await;
    here.check_refused(refused, Code::InvalidArgument, "the identity \"\" that is asked for is none");
    here.revoke(Subject::Identity(id("web").to_string()));
    check(of(&id("web")), "sa/web is revoked: stolen").await;
}

#[tokio::test]
async fn a_lifetime_is_what_was_asked_for_within_limits() {
    let here = Here::new();
    let web = here.enrolled("web").await;
    let check = async |seconds: i64, expected: Duration| {
        let (key, csr) = csr();
        let request = IstioCertificateRequest { validity_duration: seconds, ..asked(&csr) };
        let chain = here.ask(request, None, Some(&web)).await.expect("signed");
        let svid = Svid::from_pem(&chain, key).expect("an SVID");
        let life = svid.not_after().duration_since(svid.not_before()).expect("a life");
        assert_eq!(life, expected + Duration::from_mins(1), "{seconds}");
    };
    check(0, LIMIT).await;
    check(-5, LIMIT).await;
    check(1, SHORTEST).await;
    check(10, Duration::from_secs(10)).await;
    check(60, Duration::from_mins(1)).await;
    check(i64::MAX, LIMIT).await;
}

#[tokio::test]
async fn tokens_are_of_ones_own_identity_or_of_what_is_registered() {
    let here = Here::new();
    let agent = here.enrolled("agent").await;
    here.register(&[("shop", "web", "agent")]);
    let tokens = Tokens(here.certificates.clone());
    let ask = async |spiffe_id: &str, audience: &[&str]| {
        let audience = audience.iter().map(|&text| text.to_owned()).collect();
        let request = JwtSvidRequest { audience, spiffe_id: spiffe_id.to_owned() };
        let answer = tokens.fetch_jwt_svid(calling(request, Some(&agent))).await?;
        Ok::<_, Status>(answer.into_inner().svids[0].svid.clone())
    };
    let check = async |spiffe_id: &str, expected: &SpiffeId| {
        let svid = ask(spiffe_id, &["db"]).await.expect("signed");
        let request = ValidateJwtSvidRequest { audience: "db".to_owned(), svid: svid.clone() };
        let found =
            tokens.validate_jwt_svid(calling(request, Some(&agent))).await.expect("good").into_inner();
        assert_eq!(found.spiffe_id, expected.as_str());
        let other = ValidateJwtSvidRequest { audience: "other".to_owned(), svid };
        let refused = tokens.validate_jwt_svid(calling(other, Some(&agent))).await.expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument);
    };
    check("", &id("agent")).await;
    check(id("agent").as_str(), &id("agent")).await;
    check(id("web").as_str(), &id("web")).await;
    here.check_refused(
        ask(id("cart").as_str(), &["db"]).await,
        Code::PermissionDenied,
        "no WorkloadRegistration",
    );
    here.check_refused(
        ask("x", &["db"]).await,
        Code::InvalidArgument,
        "the identity \"x\" that is asked for is none",
    );
    here.check_refused(ask("", &[]).await, Code::InvalidArgument, "audience");
    here.revoke(Subject::Identity(id("agent").to_string()));
    here.check_refused(ask("", &["db"]).await, Code::PermissionDenied, "is revoked: stolen");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_mesh_that_renews_at_once_is_served_within_some_tries() {
    const CALLERS: usize = 1500;
    let here = Arc::new(Here::new());
    let web = here.enrolled("web").await;
    let csr = Arc::new(csr().1);
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| {
            let (here, web, csr) = (Arc::clone(&here), Arc::clone(&web), Arc::clone(&csr));
            tokio::spawn(async move {
                for attempt in 0..100 {
                    match here.ask(asked(&csr), None, Some(&web)).await {
                        Ok(_) => return attempt > 0,
                        Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
                    }
                    let pause = u64::try_from(number % 89).expect("small") * 10;
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                panic!("never served");
            })
        })
        .collect();
    let mut again = 0;
    for caller in callers {
        again += usize::from(caller.await.expect("served"));
    }
    let at_once = std::thread::available_parallelism().map_or(1, usize::from).max(2) * 65;
    assert!(again > 0 || at_once >= CALLERS, "nobody was told to come back");
    // To be told to come back is no refusal.
    assert_eq!(here.audit().len(), 0);
}
