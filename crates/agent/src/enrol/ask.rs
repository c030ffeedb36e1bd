//! One question to the control plane: sign this key.

use std::error::Error as _;
use std::net::SocketAddr;
use std::time::Duration;

use meshwork_identity::SpiffeId;
use meshwork_identity::istio_ca::{IstioCertificateRequest, IstioCertificateServiceClient};
use meshwork_xds::grpc::{causes, printable};
use tokio::time::Instant;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tracing::warn;

use super::{EnrolError, schedule};

/// An answer that takes longer will not come.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a first enrolment waits for a control plane that is still coming up; whoever started us starts us again.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a control plane may take to tell what it makes of a certificate; one that is not there costs the start as much.
const WORD: Duration = Duration::from_secs(2);
/// The pause before it is asked again.
const WORD_PAUSE: Duration = Duration::from_millis(100);

/// Asks one control plane.
pub(crate) struct Asker {
    pub(crate) channel: Channel,
    pub(crate) address: SocketAddr,
    pub(crate) lifetime: Option<Duration>,
}

/// For whom, and by what right.
#[derive(Clone, Copy)]
pub(crate) enum Wish<'a> {
    /// For whom the connection's certificate names.
    Own,
    /// For whom the token was made for.
    Token(&'a str),
    /// For a workload of this host, by a registration that names us.
    For(&'a SpiffeId),
}

impl Asker {
    /// Asks once; gives the chain as PEM text.
    pub(crate) async fn ask(&self, csr_pem: &str, wish: Wish<'_>) -> Result<String, EnrolError> {
        let request = self.request(csr_pem, wish)?;
        let mut client = IstioCertificateServiceClient::new(self.channel.clone());
        let answer = match tokio::time::timeout(ANSWER_TIMEOUT, client.create_certificate(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(Status::deadline_exceeded("no answer within 10 s")),
        };
        match answer {
            Ok(response) => Ok(response.into_inner().cert_chain.concat()),
            Err(status) => Err(self.failure(&status)),
        }
    }

    fn failure(&self, status: &Status) -> EnrolError {
        failure(self.address, status)
    }

    /// Asks again while the control plane cannot be reached or does not sign, for a while.
    pub(super) async fn ask_patiently(&self, csr_pem: &str, wish: Wish<'_>) -> Result<String, EnrolError> {
        let deadline = Instant::now() + PATIENCE;
        let mut failures = 0;
        loop {
            let outcome = self.ask(csr_pem, wish).await;
            let Err(error @ (EnrolError::Unreachable { .. } | EnrolError::Unready { .. })) = outcome else {
                return outcome;
            };
            failures += 1;
            let pause = schedule::backoff(failures, fastrand::f64()).max(error.pause());
            if Instant::now() + pause >= deadline {
                return Err(error);
            }
            warn!(%error, "waits for the control plane");
            tokio::time::sleep(pause).await;
        }
    }

    /// Asks until there is an answer or a no, for a moment. With TLS 1.3 a server refuses a certificate after the client's
    /// handshake is over: what the client sends meanwhile may break the connection before the refusal is read.
    pub(super) async fn ask_for_a_word(&self, csr_pem: &str, wish: Wish<'_>) -> Result<String, EnrolError> {
        let deadline = Instant::now() + WORD;
        loop {
            let outcome = self.ask(csr_pem, wish).await;
            match &outcome {
                Err(error @ EnrolError::Unreachable { .. })
                    if !error.is_no() && Instant::now() + WORD_PAUSE < deadline =>
                {
                    tokio::time::sleep(WORD_PAUSE).await;
                }
                _ => return outcome,
            }
        }
    }

    fn request(&self, csr_pem: &str, wish: Wish<'_>) -> Result<Request<IstioCertificateRequest>, EnrolError> {
        let lifetime = self.lifetime.unwrap_or_default();
        if let Wish::For(id) = wish {
            return Ok(Request::new(IstioCertificateRequest::impersonating(
                csr_pem.to_owned(),
                lifetime,
                id,
            )));
        }
        let mut request = Request::new(IstioCertificateRequest {
            csr: csr_pem.to_owned(),
            validity_duration: i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX),
            metadata: None,
        });
        if let Wish::Token(token) = wish {
            let mut value = format!("Bearer {}", token.trim())
                .parse::<AsciiMetadataValue>()
                .map_err(|_| EnrolError::Refused("the token has characters that no token has".to_owned()))?;
            // Then no library shows it in what it logs, or keeps it in a table of headers.
            value.set_sensitive(true);
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

/// What a failed call to a control plane means, in its own words.
pub(crate) fn failure(address: SocketAddr, status: &Status) -> EnrolError {
    // What the way to it made of its failure has a source; what it said itself has none.
    match status.source() {
        None if is_final(status.code()) => EnrolError::Refused(said(status)),
        None if !matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled | Code::Unknown) => {
            EnrolError::Unready { address, words: said(status) }
        }
        _ => EnrolError::Unreachable { address, cause: causes(status, |words| words != "transport error") },
    }
}

/// What it said, or that it said nothing.
fn said(status: &Status) -> String {
    match printable(status.message()) {
        words if words.trim().is_empty() => format!("without a word ({:?})", status.code()),
        words => words,
    }
}

/// Tells a decision from a failure: asking again cannot change a decision.
fn is_final(code: Code) -> bool {
    use Code::{
        AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OutOfRange, PermissionDenied,
        Unauthenticated, Unimplemented,
    };
    matches!(
        code,
        AlreadyExists
            | FailedPrecondition
            | InvalidArgument
            | NotFound
            | OutOfRange
            | PermissionDenied
            | Unauthenticated
            | Unimplemented
    )
}
