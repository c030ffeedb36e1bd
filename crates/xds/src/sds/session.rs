//! One stream's state: which names its client wants, which versions it has. No I/O.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sha2::{Digest as _, Sha256};

use super::secret::{SecretValue, hex};
use crate::pb::Any;
use crate::server::Protocol;

/// Names that one stream may want: an Envoy asks for two or three, an agent for two.
pub(super) const MAX_NAMES: usize = 64;
/// The longest name: a SPIFFE ID has 2048 bytes at most.
const MAX_NAME_BYTES: usize = 2048;
/// Responses that wait for their ACK; of older ones it is no longer known what they held.
const MAX_UNANSWERED: usize = 256;
/// The longest reason for a refusal that is kept.
const MAX_REFUSAL_CHARS: usize = 1024;

/// What a client says.
#[derive(Default)]
pub(super) struct Request {
    /// The response that it answers; empty for none.
    pub(super) nonce: String,
    /// State of the world: the version that the client runs.
    pub(super) version: String,
    /// Why it refuses the response.
    pub(super) refusal: Option<String>,
    pub(super) names: Names,
}

/// Which names a client wants.
pub(super) enum Names {
    /// These and no others; in the state-of-the-world protocol.
    All(Vec<String>),
    /// In addition to what it wanted before; `have` are versions that it brought from an earlier stream.
    Change { subscribe: Vec<String>, unsubscribe: Vec<String>, have: BTreeMap<String, String> },
}

impl Default for Names {
    fn default() -> Self {
        Self::All(Vec::new())
    }
}

/// What a client says of one secret.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) refusal: Option<String>,
}

/// What a client is sent.
pub(super) struct Response {
    pub(super) nonce: String,
    pub(super) version: String,
    pub(super) secrets: Vec<Sent>,
    pub(super) removed: Vec<String>,
}

/// A secret in a response.
pub(super) struct Sent {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) message: Any,
}

/// Why a stream ends.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stream may ask for {MAX_NAMES} secrets with names of {MAX_NAME_BYTES} bytes, and not for more")]
pub(super) struct TooMuch;

/// What a client wants and has.
pub(super) struct Session {
    protocol: Protocol,
    /// Whether it wants all that it may have.
    everything: bool,
    names: BTreeSet<String>,
    /// The versions that were sent.
    sent: BTreeMap<String, String>,
    /// Names of which a delta client knows that they do not exist.
    absent: BTreeSet<String>,
    unanswered: VecDeque<Unanswered>,
    nonces: u64,
    /// Whether the client has said which names it wants.
    has_asked: bool,
}

struct Unanswered {
    nonce: String,
    version: String,
    secrets: Vec<(String, String)>,
}

impl Session {
    pub(super) fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            everything: false,
            names: BTreeSet::new(),
            sent: BTreeMap::new(),
            absent: BTreeSet::new(),
            unanswered: VecDeque::new(),
            nonces: 0,
            has_asked: false,
        }
    }

    /// Takes what the client says; gives what it says of secrets that it has been sent.
    ///
    /// # Errors
    /// It wants more than a stream may.
    pub(super) fn receive(&mut self, request: Request) -> Result<Vec<Answer>, TooMuch> {
        let stale = !request.nonce.is_empty() && request.nonce != self.nonces.to_string();
        if self.protocol == Protocol::StateOfTheWorld && stale {
            // It crossed a newer response, which will be answered, too.
            return Ok(Vec::new());
        }
        let answers = self.answered(&request.nonce, &request.version, request.refusal);
        self.want(request.names)?;
        Ok(answers)
    }

    fn answered(&mut self, nonce: &str, version: &str, refusal: Option<String>) -> Vec<Answer> {
        let Some(at) = self.unanswered.iter().position(|response| response.nonce == nonce) else {
            return Vec::new();
        };
        let is_whole = self.protocol == Protocol::StateOfTheWorld;
        if is_whole && refusal.is_none() && self.unanswered[at].version != version {
            // Only other names: the response itself is still to be judged.
            return Vec::new();
        }
        let Some(response) = self.unanswered.remove(at) else { return Vec::new() };
        let refusal = refusal.map(|text| text.chars().take(MAX_REFUSAL_CHARS).collect::<String>());
        let answer = |(name, version)| Answer { name, version, refusal: refusal.clone() };
        response.secrets.into_iter().map(answer).collect()
    }

    fn want(&mut self, names: Names) -> Result<(), TooMuch> {
        match names {
            Names::All(names) => {
                self.everything = names.is_empty() && (self.everything || !self.has_asked);
                self.names = names.into_iter().collect();
                if !self.everything {
                    self.sent.retain(|name, _| self.names.contains(name));
                }
            }
            Names::Change { subscribe, unsubscribe, have } => {
                let is_first = !self.has_asked;
                self.everything |= is_first && subscribe.is_empty();
                for name in unsubscribe {
                    self.everything &= name != "*";
                    self.names.remove(&name);
                    self.sent.remove(&name);
                    self.absent.remove(&name);
                }
                for name in subscribe {
                    if name == "*" {
                        self.everything = true;
                        continue;
                    }
                    // Who asks again gets it again.
                    self.sent.remove(&name);
                    self.absent.remove(&name);
                    self.names.insert(name);
                }
                if is_first {
                    let wanted = have.into_iter().filter(|(name, _)| self.names.contains(name));
                    self.sent.extend(wanted);
                }
            }
        }
        self.has_asked = true;
        let is_bounded =
            self.names.len() <= MAX_NAMES && self.names.iter().all(|name| name.len() <= MAX_NAME_BYTES);
        if is_bounded { Ok(()) } else { Err(TooMuch) }
    }

    /// The names to ask the source for; `None` where the client wants nothing.
    pub(super) fn wanted(&self) -> Option<Vec<String>> {
        if self.everything {
            return Some(Vec::new());
        }
        (!self.names.is_empty()).then(|| self.names.iter().cloned().collect())
    }

    /// What the client is to be sent, where this is what there is.
    pub(super) fn push(&mut self, secrets: Vec<(String, SecretValue)>) -> Vec<Response> {
        let secrets = secrets.into_iter().filter(|(name, _)| self.everything || self.names.contains(name));
        let current: BTreeMap<String, (String, SecretValue)> =
            secrets.map(|(name, secret)| (name, (secret.version(), secret))).collect();
        match self.protocol {
            Protocol::StateOfTheWorld => self.push_whole(&current).into_iter().collect(),
            Protocol::Delta => self.push_delta(&current),
        }
    }

    /// All of it, where anything is new.
    fn push_whole(&mut self, current: &BTreeMap<String, (String, SecretValue)>) -> Option<Response> {
        let is_new = |(name, (version, _)): (&String, &(String, SecretValue))| {
            self.sent.get(name).is_none_or(|sent| sent != version)
        };
        if !current.iter().any(is_new) {
            return None;
        }
        self.sent = current.iter().map(|(name, (version, _))| (name.clone(), version.clone())).collect();
        let secrets: Vec<Sent> =
            current.iter().map(|(name, (version, value))| sent(name, version, value)).collect();
        let version = match secrets.as_slice() {
            [alone] => alone.version.clone(),
            several => joint_version(several),
        };
        Some(self.respond(version, secrets, Vec::new()))
    }

    /// Each that is new in a response of its own, and one that says what is gone.
    fn push_delta(&mut self, current: &BTreeMap<String, (String, SecretValue)>) -> Vec<Response> {
        let mut responses = Vec::new();
        for (name, (version, value)) in current {
            if self.sent.get(name) == Some(version) {
                continue;
            }
            self.sent.insert(name.clone(), version.clone());
            self.absent.remove(name);
            let secret = sent(name, version, value);
            responses.push(self.respond(version.clone(), vec![secret], Vec::new()));
        }
        let gone: BTreeSet<String> = self.sent.keys().chain(&self.names).cloned().collect();
        let gone: Vec<String> = gone
            .into_iter()
            .filter(|name| !current.contains_key(name) && !self.absent.contains(name))
            .collect();
        for name in &gone {
            self.sent.remove(name);
            self.absent.insert(name.clone());
        }
        // What nobody asked for by name need not be remembered.
        self.absent.retain(|name| self.names.contains(name));
        if !gone.is_empty() {
            responses.push(self.respond(String::new(), Vec::new(), gone));
        }
        responses
    }

    fn respond(&mut self, version: String, secrets: Vec<Sent>, removed: Vec<String>) -> Response {
        self.nonces += 1;
        let nonce = self.nonces.to_string();
        if self.unanswered.len() == MAX_UNANSWERED {
            self.unanswered.pop_front();
        }
        let held = secrets.iter().map(|secret| (secret.name.clone(), secret.version.clone())).collect();
        self.unanswered.push_back(Unanswered {
            nonce: nonce.clone(),
            version: version.clone(),
            secrets: held,
        });
        Response { nonce, version, secrets, removed }
    }
}

fn sent(name: &str, version: &str, value: &SecretValue) -> Sent {
    Sent { name: name.to_owned(), version: version.to_owned(), message: value.message(name) }
}

fn joint_version(secrets: &[Sent]) -> String {
    let mut digest = Sha256::new();
    for secret in secrets {
        digest.update(secret.name.len().to_be_bytes());
        digest.update(&secret.name);
        digest.update(&secret.version);
    }
    hex(&digest.finalize()[..16])
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn generic(name: &str, text: &str) -> (String, SecretValue) {
        (name.to_owned(), SecretValue::Generic(Bytes::copy_from_slice(text.as_bytes())))
    }

    fn all(nonce: &str, version: &str, names: &[&str]) -> Request {
        let names = Names::All(names.iter().map(|name| (*name).to_owned()).collect());
        Request { nonce: nonce.to_owned(), version: version.to_owned(), refusal: None, names }
    }

    fn change(subscribe: &[&str], unsubscribe: &[&str]) -> Request {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let names = Names::Change {
            subscribe: owned(subscribe),
            unsubscribe: owned(unsubscribe),
            have: BTreeMap::new(),
        };
        Request { names, ..Request::default() }
    }

    fn names(response: &Response) -> Vec<&str> {
        response.secrets.iter().map(|secret| secret.name.as_str()).collect()
    }

    #[test]
    fn the_state_of_the_world_is_sent_whole_and_only_when_it_is_another() {
        let mut session = Session::new(Protocol::StateOfTheWorld);
        assert_eq!(session.wanted(), None);
        session.receive(all("", "", &["a", "b"])).unwrap();
        let responses = session.push(vec![generic("a", "1"), generic("b", "1"), generic("c", "1")]);
        assert_eq!(responses.len(), 1);
        assert_eq!(names(&responses[0]), ["a", "b"], "nothing that was not asked for");
        assert!(session.push(vec![generic("a", "1"), generic("b", "1")]).is_empty());
        let responses = session.push(vec![generic("a", "2"), generic("b", "1")]);
        assert_eq!(names(&responses[0]), ["a", "b"]);
    }

    #[test]
    fn an_ack_names_each_secret_with_its_own_version() {
        let mut session = Session::new(Protocol::StateOfTheWorld);
        session.receive(all("", "", &["a", "b"])).unwrap();
        let (a, b) = (generic("a", "1"), generic("b", "1"));
        let versions = [a.1.version(), b.1.version()];
        let response = session.push(vec![a, b]).remove(0);
        let more = session.receive(all(&response.nonce, "", &["a", "b", "c"])).unwrap();
        assert_eq!(more, [], "with another version it asks for more names, and says nothing of the response");
        let answers = session.receive(all(&response.nonce, &response.version, &["a", "b"])).unwrap();
        let answer = |name: &str, version: &str| Answer {
            name: name.to_owned(),
            version: version.to_owned(),
            refusal: None,
        };
        assert_eq!(answers, [answer("a", &versions[0]), answer("b", &versions[1])]);
        let again = session.receive(all(&response.nonce, &response.version, &["a", "b"])).unwrap();
        assert_eq!(again, [], "said once");
    }

    #[test]
    fn a_nack_carries_its_reason_and_the_same_version_is_not_sent_again() {
        let mut session = Session::new(Protocol::StateOfTheWorld);
        session.receive(all("", "", &["a"])).unwrap();
        let response = session.push(vec![generic("a", "1")]).remove(0);
        let refused = Request { refusal: Some("x".repeat(5000)), ..all(&response.nonce, "", &["a"]) };
        let answers = session.receive(refused).unwrap();
        assert_eq!(answers[0].refusal.as_deref().map(str::len), Some(MAX_REFUSAL_CHARS));
        assert!(session.push(vec![generic("a", "1")]).is_empty());
    }

    #[test]
    fn a_stale_request_of_the_state_of_the_world_changes_nothing() {
        let mut session = Session::new(Protocol::StateOfTheWorld);
        session.receive(all("", "", &["a"])).unwrap();
        let old = session.push(vec![generic("a", "1")]).remove(0);
        session.push(vec![generic("a", "2")]);
        assert_eq!(session.receive(all(&old.nonce, &old.version, &["b"])).unwrap(), []);
        assert_eq!(session.wanted(), Some(vec!["a".to_owned()]));
    }

    #[test]
    fn delta_sends_each_secret_alone_and_says_what_is_gone() {
        let mut session = Session::new(Protocol::Delta);
        session.receive(change(&["a", "b", "none"], &[])).unwrap();
        let responses = session.push(vec![generic("a", "1"), generic("b", "1")]);
        assert_eq!(responses.iter().map(names).collect::<Vec<_>>(), [vec!["a"], vec!["b"], vec![]]);
        assert_eq!(responses[2].removed, ["none"]);
        let mut ack = Request { nonce: responses[0].nonce.clone(), ..change(&[], &[]) };
        ack.refusal = Some("no".to_owned());
        let answers = session.receive(ack).unwrap();
        assert_eq!((answers.len(), answers[0].name.as_str()), (1, "a"));
        let responses = session.push(vec![generic("b", "1"), generic("none", "1")]);
        assert_eq!(responses.iter().map(names).collect::<Vec<_>>(), [vec!["none"], vec![]]);
        assert_eq!(responses[1].removed, ["a"]);
        session.receive(change(&["b"], &["none"])).unwrap();
        let responses = session.push(vec![generic("b", "1"), generic("none", "2")]);
        assert_eq!(responses.iter().map(names).collect::<Vec<_>>(), [["b"]], "asked for again");
    }

    #[test]
    fn no_names_at_first_stand_for_all() {
        for protocol in [Protocol::Delta, Protocol::StateOfTheWorld] {
            let mut session = Session::new(protocol);
            let first = if protocol == Protocol::Delta { change(&[], &[]) } else { all("", "", &[]) };
            session.receive(first).unwrap();
            assert_eq!(session.wanted(), Some(Vec::new()));
            assert_eq!(names(&session.push(vec![generic("a", "1")])[0]), ["a"]);
        }
    }

    #[test]
    fn versions_that_a_delta_client_has_are_not_sent() {
        let mut session = Session::new(Protocol::Delta);
        let secret = generic("a", "1");
        let have = BTreeMap::from([("a".to_owned(), secret.1.version())]);
        let names = Names::Change { subscribe: vec!["a".to_owned()], unsubscribe: Vec::new(), have };
        session.receive(Request { names, ..Request::default() }).unwrap();
        assert!(session.push(vec![secret]).is_empty());
    }

    #[test]
    fn more_names_than_a_stream_may_want_end_it() {
        let many: Vec<String> = (0..=MAX_NAMES).map(|n| n.to_string()).collect();
        let mut session = Session::new(Protocol::StateOfTheWorld);
        let request = Request { names: Names::All(many), ..Request::default() };
        assert_eq!(session.receive(request), Err(TooMuch));
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        assert_eq!(Session::new(Protocol::Delta).receive(change(&[&long], &[])), Err(TooMuch));
    }
}
