//! Both ends over a real connection.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use zeroize::Zeroizing;

use super::*;
use crate::pb::discovery::DiscoveryRequest;
use crate::pb::tls::{Secret, SpiffeCertValidatorConfig, secret};

/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(20);

/// Who asked, what each said, who is gone.
#[derive(Default)]
struct Source {
    trust: Mutex<String>,
    changes: Mutex<watch::Sender<u64>>,
    said: watch::Sender<Vec<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Source {
    fn new(trust: &str) -> Arc<Self> {
        Arc::new(Self { trust: Mutex::new(trust.to_owned()), ..Self::default() })
    }

    fn publish(&self, trust: &str) {
        trust.clone_into(&mut lock(&self.trust));
        lock(&self.changes).send_modify(|count| *count += 1);
    }

    fn say(&self, text: String) {
        self.said.send_modify(|said| said.push(text));
    }

    async fn heard(&self, text: &str) {
        let mut said = self.said.subscribe();
        let heard = said.wait_for(|said| said.iter().any(|one| one == text));
        let heard = tokio::time::timeout(DEADLINE, heard).await;
        assert!(heard.is_ok(), "{text:?} was not said, only {:?}", self.said.borrow());
    }
}

impl SecretSource for Source {
    type Caller = String;

    fn admit(&self, _: &Extensions, node: &Node) -> Result<String, Denied> {
        if node.id == "stranger" {
            return Err(Denied("you are nobody here".to_owned()));
        }
        self.say(format!("{} came", node.id));
        Ok(node.id.clone())
    }

    fn secrets(&self, _: &String, names: &[String]) -> Vec<(String, SecretValue)> {
        let all = [
            ("trust", SecretValue::Generic(Bytes::copy_from_slice(lock(&self.trust).as_bytes()))),
            ("default", certificate()),
            ("ROOTCA", roots(false)),
            ("ALL", roots(true)),
        ];
        let all = all.into_iter().map(|(name, value)| (name.to_owned(), value));
        all.filter(|(name, _)| names.contains(name)).collect()
    }

    fn changes(&self, _: &String) -> watch::Receiver<u64> {
        lock(&self.changes).subscribe()
    }

    fn acknowledged(&self, caller: &String, names: &[String], version: &str, refusal: Option<&str>) {
        let current = SecretValue::Generic(Bytes::copy_from_slice(lock(&self.trust).as_bytes()));
        let which = if current.version() == version { "the current" } else { "another" };
        let word = refusal.unwrap_or("yes");
        self.say(format!("{caller} to {which} {}: {word}", names.join(" ")));
    }

    fn ended(&self, caller: &String) {
        self.say(format!("{caller} went"));
    }
}

fn certificate() -> SecretValue {
    SecretValue::Certificate { chain_pem: "CHAIN".to_owned(), key_pem: Zeroizing::new("KEY".to_owned()) }
}

fn roots(spiffe: bool) -> SecretValue {
    let domains = [("mesh.local", "OURS"), ("other.org", "THEIRS")];
    let domains = domains.map(|(domain, pem)| (domain.to_owned(), pem.to_owned())).to_vec();
    SecretValue::Roots { own: "mesh.local".to_owned(), domains, spiffe }
}

async fn serve(source: &Arc<Source>) -> (Endpoint, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let service = server(Arc::clone(source));
    let task = tokio::spawn(async move {
        let incoming = TcpListenerStream::new(listener);
        drop(Server::builder().add_service(service).serve_with_incoming(incoming).await);
    });
    (endpoint, task)
}

fn node(id: &str) -> Node {
    Node { id: id.to_owned(), ..Node::default() }
}

#[tokio::test]
async fn a_follower_applies_each_version_and_says_so() {
    let source = Source::new("1");
    let (endpoint, task) = serve(&source).await;
    let applied = Mutex::new(Vec::new());
    let apply = |name: &str, bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        lock(&applied).push(format!("{name}={text}"));
        if text == "bad" { Err("no".to_owned()) } else { Ok(()) }
    };
    let (_renewed, renewals) = watch::channel(0);
    let connect = || endpoint.connect_lazy();
    let script = async {
        source.heard("a to the current trust: yes").await;
        source.publish("bad");
        source.heard("a to the current trust: trust: no").await;
        source.publish("2");
        source.heard("a to the current trust: yes").await;
        while lock(&applied).len() < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = follow(connect, node("a"), &["trust", "none"], apply, renewals) => unreachable!("it never ends"),
        () = script => {}
    }
    assert_eq!(*lock(&applied), ["trust=1", "trust=bad", "trust=2"]);
    source.heard("a went").await;
    task.abort();
}

#[tokio::test]
async fn a_follower_comes_back_by_a_new_connection_when_it_should() {
    let source = Source::new("1");
    let (endpoint, task) = serve(&source).await;
    let (renewed, renewals) = watch::channel(0);
    let connections = Mutex::new(0);
    let connect = || {
        *lock(&connections) += 1;
        endpoint.connect_lazy()
    };
    let came = |times: usize| {
        let source = Arc::clone(&source);
        async move {
            let mut said = source.said.subscribe();
            let count = |said: &Vec<String>, word: &str| said.iter().filter(|one| *one == word).count();
            let done = said.wait_for(|said| {
                count(said, "a came") == times
                    && count(said, "a to the current trust: yes") == times
                    && count(said, "a went") == times - 1
            });
            let done = tokio::time::timeout(DEADLINE, done).await.map(|_| ());
            assert!(done.is_ok(), "{times}: {:?}", source.said.borrow());
        }
    };
    let script = async {
        came(1).await;
        renewed.send_modify(|count| *count += 1);
        came(2).await;
        let order = source.said.borrow().clone();
        let at = |word: &str| order.iter().rposition(|one| one == word);
        assert!(at("a came") < at("a went"), "the old one goes after the new one came: {order:?}");
        // The source lets go of it.
        *lock(&source.changes) = watch::Sender::default();
        came(3).await;
    };
    tokio::select! {
        () = follow(connect, node("a"), &["trust"], |_, _| Ok(()), renewals) => unreachable!("it never ends"),
        () = script => {}
    }
    assert_eq!(*lock(&connections), 3);
    task.abort();
}

async fn fetched(channel: Channel, node: &Node, names: &[&str]) -> Result<Vec<Secret>, tonic::Status> {
    let request = DiscoveryRequest {
        node: Some(node.to_message()),
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..DiscoveryRequest::default()
    };
    let response = SecretDiscoveryServiceClient::new(channel).fetch_secrets(request).await?.into_inner();
    let secret = |any: &crate::pb::Any| Secret::decode(any.value.as_slice()).unwrap();
    Ok(response.resources.iter().map(secret).collect())
}

#[tokio::test]
async fn envoy_is_told_in_its_own_words() {
    use crate::pb::core::data_source::Specifier;
    let source = Source::new("1");
    let (endpoint, task) = serve(&source).await;
    let channel = endpoint.connect_lazy();
    let names = ["ALL", "ROOTCA", "default", "trust"];
    let secrets = fetched(channel, &node("a"), &names).await.unwrap();
    assert_eq!(secrets.iter().map(|secret| secret.name.as_str()).collect::<Vec<_>>(), names);
    let inline = |source: &Option<crate::pb::core::DataSource>| match &source.as_ref().unwrap().specifier {
        Some(Specifier::InlineBytes(bytes)) => String::from_utf8(bytes.clone()).unwrap(),
        other => panic!("{other:?}"),
    };
    for secret in &secrets {
        match (secret.name.as_str(), secret.r#type.as_ref().unwrap()) {
            ("default", secret::Type::TlsCertificate(found)) => {
                assert_eq!(inline(&found.certificate_chain), "CHAIN");
                assert_eq!(inline(&found.private_key), "KEY");
            }
            ("ROOTCA", secret::Type::ValidationContext(found)) => {
                assert_eq!(inline(&found.trusted_ca), "OURS");
            }
            ("ALL", secret::Type::ValidationContext(found)) => {
                assert_eq!(found.trusted_ca, None);
                let config = found.custom_validator_config.clone().unwrap();
                assert_eq!(config.name, "envoy.tls.cert_validator.spiffe");
                let config = config.typed_config.unwrap();
                let config = SpiffeCertValidatorConfig::decode(config.value.as_slice()).unwrap();
                let domains = config.trust_domains.iter();
                let domains: Vec<_> =
                    domains.map(|one| (one.name.as_str(), inline(&one.trust_bundle))).collect();
                let expected = [("mesh.local", "OURS".to_owned()), ("other.org", "THEIRS".to_owned())];
                assert_eq!(domains, expected);
            }
            ("trust", secret::Type::GenericSecret(found)) => assert_eq!(inline(&found.secret), "1"),
            (name, other) => panic!("{name}: {other:?}"),
        }
    }
    source.heard("a went").await;
    task.abort();
}

#[tokio::test]
async fn who_is_denied_learns_why() {
    let source = Source::new("1");
    let (endpoint, task) = serve(&source).await;
    let status = fetched(endpoint.connect_lazy(), &node("stranger"), &["trust"]).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (tonic::Code::PermissionDenied, "you are nobody here"));
    let status = fetched(endpoint.connect_lazy(), &node("a"), &["none"]).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound);
    task.abort();
}

#[test]
fn a_version_follows_the_content() {
    let generic = |text: &'static str| SecretValue::Generic(Bytes::from_static(text.as_bytes())).version();
    assert_eq!(generic("a"), generic("a"));
    assert_eq!(generic("a").len(), 32);
    assert_ne!(generic("a"), generic("b"));
    assert_ne!(roots(false).version(), roots(true).version());
    assert_ne!(certificate().version(), generic("CHAIN"));
}
