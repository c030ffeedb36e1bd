//! Asking a control plane for certificates, by hand: what an honest agent would not ask for, too.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::forge::Shown;
use crate::grpc::{Channel, Refusal};
use crate::program::output;

const CREATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// Source: Istio `security/v1alpha1/ca.proto`.
#[derive(Clone, PartialEq, prost::Message)]
struct Request {
    #[prost(string, tag = "1")]
    csr: String,
    #[prost(int64, tag = "3")]
    validity_duration: i64,
    #[prost(message, optional, tag = "4")]
    metadata: Option<Struct>,
}

/// Source: `google.protobuf.Struct`, of which values of text are enough.
#[derive(Clone, PartialEq, prost::Message)]
struct Struct {
    #[prost(map = "string, message", tag = "1")]
    fields: std::collections::HashMap<String, Value>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Value {
    #[prost(string, tag = "3")]
    text: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Response {
    #[prost(string, repeated, tag = "1")]
    cert_chain: Vec<String>,
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Wanted<'a> {
    /// A certificate signing request, PEM.
    pub csr: &'a str,
    /// A join token.
    pub token: Option<&'a str>,
    /// How long the certificate should live, seconds; 0 leaves it to the control plane.
    pub seconds: i64,
    /// Whose certificate it should be, where that is another's.
    pub impersonated: Option<&'a str>,
}

impl Channel {
    /// Asks for a certificate; gives the chain, PEM.
    ///
    /// # Errors
    /// As [`Channel::call`]'s.
    pub fn certificate(&mut self, wanted: &Wanted<'_>) -> Result<String, Refusal> {
        let metadata = wanted.impersonated.map(|id| Struct {
            fields: [("ImpersonatedIdentity".to_owned(), Value { text: id.to_owned() })].into(),
        });
        let request = Request { csr: wanted.csr.to_owned(), validity_duration: wanted.seconds, metadata };
        let bearer = wanted.token.map(|token| format!("Bearer {token}"));
        let fields: Vec<_> = bearer.iter().map(|value| ("authorization", value.as_str())).collect();
        let response: Response = self.call(CREATE, &fields, &request)?;
        Ok(response.cert_chain.concat())
    }
}

/// Asks once, over a connection of its own.
///
/// # Errors
/// As [`Channel::call`]'s.
pub fn ask(address: SocketAddr, shown: Option<&Shown>, wanted: &Wanted<'_>) -> Result<String, Refusal> {
    Channel::open(address, shown)?.certificate(wanted)
}

/// A request that `openssl` makes, with its key, PEM: `key` is what `openssl genpkey` takes, extensions are lines of its
/// config.
pub fn request(dir: &Path, key: &[&str], extensions: &[&str]) -> (String, String) {
    let file = dir.join("request-key.pem");
    output(Command::new("openssl").args(["genpkey", "-out"]).arg(&file).args(key));
    let csr = request_of(&file, extensions);
    (csr, std::fs::read_to_string(&file).expect("a key"))
}

/// A request for a key in a file.
pub fn request_of(key: &Path, extensions: &[&str]) -> String {
    let mut command = Command::new("openssl");
    command.args(["req", "-new", "-sha256", "-subj", "/", "-config", "/dev/null", "-key"]).arg(key);
    for extension in extensions {
        command.args(["-addext", extension]);
    }
    output(&mut command)
}

/// What `openssl genpkey` takes for the usual key.
pub const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
