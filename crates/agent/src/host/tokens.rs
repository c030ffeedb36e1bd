//! Tokens of workloads (JWT-SVIDs): asked for at the control plane, kept until half of their life has passed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use meshwork_identity::workload_api::{JwtSvidMessage, JwtSvidRequest, SpiffeWorkloadApiClient};
use meshwork_identity::{JwtSvid, SpiffeId, jwt_svid};
use meshwork_xds::grpc::printable;
use tokio::sync::Semaphore;
use tonic::Status;
use zeroize::Zeroizing;

use crate::enrol::Enrolled;
use crate::enrol::ask::failure;

/// Tokens that are kept: some audiences of each workload of a host.
const MAX_KEPT: usize = 4096;
/// Tokens that are asked for at once.
const MAX_ASKED: usize = 16;
/// An answer that takes longer will not come.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Audiences of one token.
const MAX_AUDIENCES: usize = 32;
/// The longest audience, bytes.
const MAX_AUDIENCE: usize = 2048;

type Name = (SpiffeId, Vec<String>);

/// Tokens, by identity and audience.
pub(crate) struct Tokens {
    enrolled: Arc<Enrolled>,
    kept: Mutex<BTreeMap<Name, Kept>>,
    asking: Semaphore,
}

struct Kept {
    token: Zeroizing<String>,
    /// When another one is asked for.
    half: SystemTime,
    obtained: SystemTime,
    /// The trust by which it was last found good.
    trust: u64,
}

impl Tokens {
    /// Keeps none.
    pub(crate) fn new(enrolled: Arc<Enrolled>) -> Self {
        Self { enrolled, kept: Mutex::default(), asking: Semaphore::new(MAX_ASKED) }
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<Name, Kept>> {
        // Whoever panicked while holding it left a whole map.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token of a workload for an audience. Whether the caller is that workload, its caller has made sure of.
    ///
    /// # Errors
    /// The audience is none, or the control plane gives no token.
    pub(crate) async fn token(
        &self,
        id: &SpiffeId,
        audience: &[String],
    ) -> Result<Zeroizing<String>, Status> {
        check(audience)?;
        let name = (id.clone(), audience.to_vec());
        if let Some(token) = self.current(&name, SystemTime::now()) {
            return Ok(token);
        }
        // It is never closed. Who waited may find what another one has got meanwhile.
        let _permit = self.asking.acquire().await;
        if let Some(token) = self.current(&name, SystemTime::now()) {
            return Ok(token);
        }
        let token = self.ask(id, audience).await?;
        let (now, trust) = (SystemTime::now(), self.enrolled.identity.trust_generation());
        let svid = self.judge(&name, &token, now).map_err(|error| {
            Status::unavailable(format!("the control plane's token is not usable here: {error}"))
        })?;
        let life = svid.expires_at.duration_since(now).unwrap_or_default();
        self.keep(name, Kept { token: token.clone(), half: now + life / 2, obtained: now, trust });
        Ok(token)
    }

    /// Forgets all tokens of identities that are no longer wanted here.
    pub(crate) fn retain(&self, is_wanted: impl Fn(&SpiffeId) -> bool) {
        self.kept().retain(|(id, _), _| is_wanted(id));
    }

    /// The token that is kept, where it is young enough and what is believed by now still vouches for it.
    fn current(&self, name: &Name, now: SystemTime) -> Option<Zeroizing<String>> {
        let trust = self.enrolled.identity.trust_generation();
        let mut all = self.kept();
        let kept = all.get_mut(name)?;
        // A clock that was set back makes none of them younger.
        let is_good = (kept.obtained..kept.half).contains(&now)
            && (kept.trust == trust || self.judge(name, &kept.token, now).is_ok());
        if !is_good {
            all.remove(name);
            return None;
        }
        kept.trust = trust;
        Some(kept.token.clone())
    }

    fn judge(&self, (id, audience): &Name, token: &str, now: SystemTime) -> Result<JwtSvid, String> {
        let audience = audience.first().map(String::as_str).unwrap_or_default();
        let judged = jwt_svid::validate(token, audience, &self.enrolled.identity.trust(), now);
        let (svid, _) = judged.map_err(|error| error.to_string())?;
        if svid.id == *id { Ok(svid) } else { Err(format!("it is that of {}", svid.id)) }
    }

    fn keep(&self, name: Name, token: Kept) {
        let mut kept = self.kept();
        if kept.len() >= MAX_KEPT && !kept.contains_key(&name) {
            let now = token.obtained;
            kept.retain(|_, kept| kept.half > now);
        }
        if kept.len() >= MAX_KEPT
            && let Some(oldest) = kept.iter().min_by_key(|(_, kept)| kept.half).map(|(name, _)| name.clone())
        {
            kept.remove(&oldest);
        }
        kept.insert(name, token);
    }

    async fn ask(&self, id: &SpiffeId, audience: &[String]) -> Result<Zeroizing<String>, Status> {
        let mut client = SpiffeWorkloadApiClient::new(self.enrolled.shared_channel());
        let request = JwtSvidRequest { audience: audience.to_vec(), spiffe_id: id.to_string() };
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, client.fetch_jwt_svid(request)).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer within 10 s")));
        let mut response = answer.map_err(|status| self.told(&status))?.into_inner();
        let is_asked_for = |svid: &&mut JwtSvidMessage| svid.spiffe_id == id.as_str();
        match response.svids.iter_mut().find(is_asked_for) {
            Some(svid) => Ok(Zeroizing::new(std::mem::take(&mut svid.svid))),
            None => Err(Status::unavailable("the control plane gives a token of somebody else")),
        }
    }

    /// The control plane's refusal as one of ours, in its words.
    fn told(&self, status: &Status) -> Status {
        use tonic::Code::{InvalidArgument, PermissionDenied};
        match status.code() {
            code @ (InvalidArgument | PermissionDenied) => Status::new(
                code,
                format!("the control plane gives no token: {}", printable(status.message())),
            ),
            _ => Status::unavailable(failure(self.enrolled.control_plane, status).to_string()),
        }
    }
}

fn check(audience: &[String]) -> Result<(), Status> {
    if audience.is_empty() || audience.iter().any(String::is_empty) {
        return Err(Status::invalid_argument("a token needs an audience: for whom it is"));
    }
    if audience.len() > MAX_AUDIENCES || audience.iter().any(|one| one.len() > MAX_AUDIENCE) {
        return Err(Status::invalid_argument("a token has at most 32 audiences of 2,048 bytes each"));
    }
    Ok(())
}
