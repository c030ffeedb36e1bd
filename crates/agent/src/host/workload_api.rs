//! SPIFFE's Workload API for attested callers. A stream says something whenever that is news for its caller: a renewed
//! certificate, other roots, another registration; and ends when the caller is nobody any more.
//!
//! Source: SPIFFE Workload API.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::stream::unfold;
use meshwork_identity::workload_api::{
    Answers, JwtBundlesRequest, JwtBundlesResponse, JwtSvidMessage, JwtSvidRequest, JwtSvidResponse,
    SpiffeWorkloadApi, ValidateJwtSvidRequest, ValidateJwtSvidResponse, X509BundlesRequest,
    X509BundlesResponse, X509SvidMessage, X509SvidRequest, X509SvidResponse,
};
use meshwork_identity::{SpiffeId, Trust, jwt_svid};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Extensions, Request, Response, Status};

use super::caller::{Caller, Counted};
use super::registrations::Registration;
use super::workloads::{Hold, State};
use super::{Host, Standing};

/// How long a caller waits for its first answer; then it is told that there is none.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one that has some of its identities waits for the others.
const GATHER: Duration = Duration::from_secs(5);
/// How often is looked whether a caller is still the same process, and whether its certificates are still valid.
const LOOK: Duration = Duration::from_secs(10);
/// The longest token that is looked at.
const MAX_TOKEN: usize = 16 * 1024;

/// The Workload API of a host.
pub(super) struct WorkloadApi(pub(super) Arc<Host>);

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    async fn fetch_x509_svid(
        &self,
        request: Request<X509SvidRequest>,
    ) -> Result<Response<Answers<X509SvidResponse>>, Status> {
        self.follow(request.extensions(), svids)
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Answers<X509BundlesResponse>>, Status> {
        self.follow(request.extensions(), |open, _| {
            let trust = open.host.enrolled.identity.trust();
            Look::Answer(X509BundlesResponse::new(&trust), roots(&trust))
        })
    }

    async fn fetch_jwt_svid(
        &self,
        request: Request<JwtSvidRequest>,
    ) -> Result<Response<JwtSvidResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let _counted = self.0.counts.stream(caller.selectors.uid)?;
        let asked = request.into_inner();
        let wanted = self.wanted(&caller, &asked.spiffe_id).await?;
        let (mut svids, mut hints) = (Vec::new(), Hints::default());
        for registration in &wanted {
            let token = self.0.tokens.token(&registration.id, &asked.audience).await?;
            svids.push(JwtSvidMessage {
                spiffe_id: registration.id.to_string(),
                svid: (*token).clone(),
                hint: hints.of(registration).to_owned(),
            });
        }
        Ok(Response::new(JwtSvidResponse { svids }))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Answers<JwtBundlesResponse>>, Status> {
        self.follow(request.extensions(), |open, _| {
            let trust = open.host.enrolled.identity.trust();
            let response = JwtBundlesResponse::new(&trust);
            let keys = response.bundles.values().flat_map(|keys| keys.iter().copied().chain([0])).collect();
            let names = response.bundles.keys().map(String::as_str).collect::<Vec<_>>().join(" ");
            Look::Answer(response, vec![names.into_bytes(), keys])
        })
    }

    async fn validate_jwt_svid(
        &self,
        request: Request<ValidateJwtSvidRequest>,
    ) -> Result<Response<ValidateJwtSvidResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        self.somebody(&caller).await?;
        let asked = request.into_inner();
        if asked.audience.is_empty() || asked.svid.is_empty() {
            return Err(Status::invalid_argument("both an audience and a token are needed"));
        }
        if asked.svid.len() > MAX_TOKEN {
            return Err(Status::invalid_argument("the token is longer than any"));
        }
        let trust = self.0.enrolled.identity.trust();
        let judged = jwt_svid::validate(&asked.svid, &asked.audience, &trust, SystemTime::now());
        let (svid, claims) =
            judged.map_err(|error| Status::invalid_argument(format!("the token is not good: {error}")))?;
        Ok(Response::new(ValidateJwtSvidResponse::new(&svid, &claims)))
    }
}

impl WorkloadApi {
    /// Who a caller is; waits for the control plane to say.
    async fn somebody(&self, caller: &Caller) -> Result<Vec<Registration>, Status> {
        let mut told = self.0.registrations.subscribe();
        let known = told.wait_for(Option::is_some);
        if tokio::time::timeout(PATIENCE, known).await.is_err() {
            return Err(untold());
        }
        match self.0.standing(caller) {
            Standing::Somebody(found) => Ok(found),
            Standing::Nobody(status) => Err(status),
            Standing::Unknown => Err(untold()),
        }
    }

    /// The identities of a caller that it asks for: one, or all.
    async fn wanted(&self, caller: &Caller, asked: &str) -> Result<Vec<Registration>, Status> {
        let mut found = self.somebody(caller).await?;
        if !asked.is_empty() {
            found.retain(|registration| registration.id.as_str() == asked);
            if found.is_empty() {
                return Err(Status::permission_denied("this process does not have that identity"));
            }
        }
        Ok(found)
    }

    fn follow<R: Send + 'static>(
        &self,
        extensions: &Extensions,
        look: fn(&mut Open, &[Registration]) -> Look<R>,
    ) -> Result<Response<Answers<R>>, Status> {
        let caller = Caller::of(extensions)?;
        let open = Open {
            counted: self.0.counts.stream(caller.selectors.uid)?,
            changes: self.0.changes.subscribe(),
            host: Arc::clone(&self.0),
            caller,
            holds: BTreeMap::new(),
            last: None,
            since: Instant::now(),
            ended: false,
        };
        let answers = unfold(open, move |mut open| async move {
            let next = open.next(look).await?;
            Some((next, open))
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

fn untold() -> Status {
    Status::unavailable("the control plane has not told yet which processes are which workloads")
}

/// The hints of one answer: of several that are the same, the first by name is told, so that each says which one is meant.
///
/// Source: SPIFFE Workload API §5.2.1, §6.2.1.
#[derive(Default)]
struct Hints<'r>(BTreeSet<&'r str>);

impl<'r> Hints<'r> {
    fn of(&mut self, registration: &'r Registration) -> &'r str {
        match registration.hint.as_deref() {
            Some(hint) if self.0.insert(hint) => hint,
            _ => "",
        }
    }
}

/// What is told apart: an answer is sent when this is another one than that of the last.
type Fingerprint = Vec<Vec<u8>>;

/// What there is to say now.
enum Look<R> {
    Answer(R, Fingerprint),
    /// Nothing yet.
    Wait(Status),
    /// The stream ends.
    End(Status),
}

/// An open stream.
struct Open {
    host: Arc<Host>,
    caller: Arc<Caller>,
    #[expect(dead_code, reason = "it counts until it is dropped")]
    counted: Counted,
    changes: watch::Receiver<u64>,
    holds: BTreeMap<SpiffeId, Hold>,
    last: Option<Fingerprint>,
    since: Instant,
    ended: bool,
}

impl Open {
    /// The next answer; `None` when the stream has ended.
    async fn next<R>(
        &mut self,
        look: fn(&mut Self, &[Registration]) -> Look<R>,
    ) -> Option<Result<R, Status>> {
        loop {
            if self.ended {
                return None;
            }
            self.changes.mark_unchanged();
            match self.look(look) {
                Look::Answer(response, fingerprint) if self.last.as_ref() != Some(&fingerprint) => {
                    self.last = Some(fingerprint);
                    return Some(Ok(response));
                }
                Look::Wait(status) if self.last.is_none() && self.since.elapsed() >= PATIENCE => {
                    return Some(Err(self.end(status)));
                }
                Look::End(status) => return Some(Err(self.end(status))),
                Look::Answer(..) | Look::Wait(_) => {}
            }
            let pause = if self.last.is_none() { GATHER } else { LOOK };
            tokio::select! {
                // The host outlives its streams.
                _ = self.changes.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn end(&mut self, status: Status) -> Status {
        self.ended = true;
        self.holds.clear();
        status
    }

    fn look<R>(&mut self, look: fn(&mut Self, &[Registration]) -> Look<R>) -> Look<R> {
        match self.host.standing(&self.caller) {
            Standing::Unknown => Look::Wait(untold()),
            Standing::Nobody(status) => Look::End(status),
            Standing::Somebody(found) => look(self, &found),
        }
    }
}

/// The certificates of a caller: all of them, or after a while those that there are.
fn svids(open: &mut Open, found: &[Registration]) -> Look<X509SvidResponse> {
    open.holds.retain(|id, _| found.iter().any(|registration| registration.id == *id));
    let trust = open.host.enrolled.identity.trust();
    let (mut messages, mut fingerprint) = (Vec::new(), roots(&trust));
    let (mut is_pending, mut failure, mut hints) = (false, None, Hints::default());
    for registration in found {
        let id = &registration.id;
        let state = match open.holds.get(id) {
            Some(hold) => hold.state(),
            None => match open.host.workloads.hold(id) {
                Ok(hold) => open.holds.entry(id.clone()).or_insert(hold).state(),
                Err(why) => State::Failed(why.into()),
            },
        };
        match state {
            State::Ready(svid) => {
                let hint = hints.of(registration);
                messages.push(X509SvidMessage::new(&svid, trust.own(), hint));
                fingerprint.push(format!("{id} {} {hint}", svid.serial()).into_bytes());
            }
            State::Pending => is_pending = true,
            State::Failed(why) => failure = failure.or(Some(why)),
        }
    }
    if messages.is_empty() && !is_pending {
        return Look::End(Status::unavailable(failure.as_deref().unwrap_or("there is no certificate")));
    }
    if messages.is_empty() || is_pending && open.since.elapsed() < GATHER {
        return Look::Wait(Status::unavailable("the control plane has not signed a certificate in time"));
    }
    Look::Answer(X509SvidResponse::new(messages, &trust), fingerprint)
}

/// Tells sets of roots apart.
fn roots(trust: &Trust) -> Fingerprint {
    let all = [trust.own()].into_iter().chain(trust.federated());
    all.map(|bundle| format!("{} {}", bundle.trust_domain(), bundle.fingerprints().join(" ")).into_bytes())
        .collect()
}
