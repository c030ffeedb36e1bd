//! One question to the control plane: sign this key.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use meshwork_identity::istio_ca::{IstioCertificateRequest, IstioCertificateServiceClient};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tracing::warn;

use super::{EnrolError, schedule};

/// An answer that takes longer will not come.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a first enrolment waits for a control plane that is still coming up; whoever started us starts us again.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks one control plane.
pub(super) struct Asker {
    pub(super) channel: Channel,
    pub(super) address: SocketAddr,
    pub(super) lifetime: Option<Duration>,
}

impl Asker {
    /// Asks once; gives the chain as PEM text.
    pub(super) async fn ask(&self, csr_pem: &str, token: Option<&str>) -> Result<String, EnrolError> {
        let request = self.request(csr_pem, token)?;
        let mut client = IstioCertificateServiceClient::new(self.channel.clone());
        let answer = match tokio::time::timeout(ANSWER_TIMEOUT, client.create_certificate(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(Status::deadline_exceeded("no answer within 10 s")),
        };
        match answer {
            Ok(response) => Ok(response.into_inner().cert_chain.concat()),
            Err(status) if is_final(status.code()) => Err(EnrolError::Refused(printable(status.message()))),
            Err(status) => Err(EnrolError::Unreachable { address: self.address, cause: causes(&status) }),
        }
    }

    /// Asks again while the control plane cannot be reached, for a while.
    pub(super) async fn ask_patiently(
        &self,
        csr_pem: &str,
        token: Option<&str>,
    ) -> Result<String, EnrolError> {
        let deadline = Instant::now() + PATIENCE;
        let mut failures = 0;
        loop {
            let outcome = self.ask(csr_pem, token).await;
            let Err(error @ EnrolError::Unreachable { .. }) = outcome else { return outcome };
            failures += 1;
            let pause = schedule::backoff(failures, fastrand::f64());
            if Instant::now() + pause >= deadline {
                return Err(error);
            }
            warn!(%error, "waits for the control plane");
            tokio::time::sleep(pause).await;
        }
    }

    fn request(
        &self,
        csr_pem: &str,
        token: Option<&str>,
    ) -> Result<Request<IstioCertificateRequest>, EnrolError> {
        let seconds = self.lifetime.map_or(0, |lifetime| lifetime.as_secs());
        let mut request = Request::new(IstioCertificateRequest {
            csr: csr_pem.to_owned(),
            validity_duration: i64::try_from(seconds).unwrap_or(i64::MAX),
            metadata: None,
        });
        if let Some(token) = token {
            let value = format!("Bearer {}", token.trim())
                .parse()
                .map_err(|_| EnrolError::Refused("the token has characters that no token has".to_owned()))?;
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
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

/// The status and what lies under it: "transport error" alone helps nobody.
fn causes(status: &Status) -> String {
    let mut text = printable(status.message());
    let mut source = status.source();
    // Errors nest a handful deep; the bound is against one that names itself.
    for _ in 0..8 {
        let Some(error) = source else { break };
        let words = error.to_string();
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        source = error.source();
    }
    text
}

/// A peer's words go to a terminal or a log: they move no cursor there.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
