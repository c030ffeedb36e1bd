//! Who asks, and what they may.
//!
//! On the Unix socket the kernel tells: only root and the user of the control plane get through to it, and may
//! everything. Over TCP, a token tells: the one in the state directory may everything, others what they were made for.
//! Who has none reads what needs no secrecy, from this host, unless the API is closed.

use std::path::Path;
use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode, header};
use meshwork_identity::files;
use meshwork_model::problem::Problem;
use serde::{Deserialize, Serialize};

use super::answers::namespace_of;
use super::failure::Failure;
use crate::config::Rights;
use crate::ingest::ResourceId;
use crate::store::kv::{Entry, Keys, Kv, KvError, Operation, Transaction};
use crate::store::{hash, hex, random_token};

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) name: String,
    grants: Vec<Grant>,
    /// Whether they do not say who they are.
    pub(super) is_anonymous: bool,
    /// The hash of the token that says so, where it is one that may be ended.
    token: Option<Arc<[u8]>>,
}

/// Through what somebody asks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Peer {
    /// From this host, over TCP.
    Loopback,
    /// A process of this user, over the socket.
    User(u32),
}

/// What somebody may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Grant {
    pub(crate) role: Role,
    /// In these namespaces; `*` is all of them.
    pub(crate) namespaces: Vec<String>,
}

/// What a grant is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Reads all but secrets.
    Viewer,
    /// Reads and writes resources.
    Editor,
    /// Also what has no namespace, the MeshConfig, and tokens.
    Admin,
}

/// A token as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    name: String,
    grants: Vec<Grant>,
}

/// Judges callers.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    kv: Arc<dyn Kv>,
    /// Of the token in the state directory.
    admin: Arc<[u8]>,
    own_user: u32,
    /// Whether who reads needs a token, too.
    is_closed: bool,
}

/// The file with the token of who runs the control plane.
const FILE: &str = "api.token";
/// Where other tokens are kept, by hash.
const TOKENS: &str = "/meshwork/api-tokens/";
/// All namespaces, and what is in none or in all of them.
pub(super) const ALL: &str = "*";
/// Begins every token, so that scanners for leaked secrets can know it.
const PREFIX: &str = "mwa_";
/// The most tokens; more would be a script gone wild.
const MAX_TOKENS: usize = 1_000;

impl Access {
    /// Reads the token of the state directory, or makes one.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub(crate) fn open(state: &Path, kv: Arc<dyn Kv>) -> std::io::Result<Self> {
        let path = state.join(FILE);
        let token = match std::fs::read_to_string(&path) {
            Ok(token) if token.trim().len() > PREFIX.len() => token,
            _ => {
                let token = random_token(PREFIX)?;
                files::write_private(&path, token.as_bytes()).map_err(std::io::Error::other)?;
                token
            }
        };
        let admin = hash(token.trim().as_bytes()).into();
        Ok(Self { kv, admin, own_user: own_user(state), is_closed: false })
    }

    /// The same, for those with a token alone.
    pub(crate) fn closed(self) -> Self {
        Self { is_closed: true, ..self }
    }

    /// Who asks.
    ///
    /// # Errors
    /// The token is none of ours, or the user may not use the socket.
    pub(super) async fn caller(&self, peer: Peer, headers: &HeaderMap) -> Result<Caller, Failure> {
        match (peer, headers.get(header::AUTHORIZATION)) {
            (Peer::User(user), _) if user == 0 || user == self.own_user => {
                Ok(Caller::new(format!("uid {user}"), Role::Admin))
            }
            (Peer::User(user), _) => {
                Err(Failure::new(StatusCode::FORBIDDEN, format!("the user {user} may not use this socket")))
            }
            (Peer::Loopback, None) if self.is_closed => {
                Err(unauthorized("this API is closed: whoever asks needs a token, or the Unix socket"))
            }
            (Peer::Loopback, None) => {
                let somebody = Caller::new("somebody on this host".to_owned(), Role::Viewer);
                Ok(Caller { is_anonymous: true, ..somebody })
            }
            (Peer::Loopback, Some(value)) => {
                let token = value.to_str().ok().and_then(|v| v.strip_prefix("Bearer "));
                let token = token.ok_or_else(|| unauthorized("authorization must be `Bearer <token>`"))?;
                self.of_token(token.trim()).await
            }
        }
    }

    async fn of_token(&self, token: &str) -> Result<Caller, Failure> {
        let hash: Arc<[u8]> = hash(token.as_bytes()).into();
        if hash == self.admin {
            return Ok(Caller::new(format!("the token in {FILE}"), Role::Admin));
        }
        let kept = self.kept(&hash).await?;
        let name = format!("the token {}", kept.name);
        Ok(Caller { name, grants: kept.grants, is_anonymous: false, token: Some(hash) })
    }

    async fn kept(&self, hash: &[u8]) -> Result<Kept, Failure> {
        let kv = Arc::clone(&self.kv);
        let key = token_key(hash);
        let read = tokio::task::spawn_blocking(move || kv.read(Keys::One(&key), None)).await;
        let found = read.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
        let kept = found.entries.first().and_then(|e| serde_json::from_str(&e.value).ok());
        kept.ok_or_else(|| unauthorized("there is no such token"))
    }

    /// Looks whether somebody who asked a while ago may still ask.
    ///
    /// # Errors
    /// Their token was ended.
    pub(super) async fn look_again(&self, caller: &Caller) -> Result<(), Failure> {
        match &caller.token {
            Some(hash) => self.kept(hash).await.map(drop),
            None => Ok(()),
        }
    }

    /// Makes a token, instead of those of its name; only its hash is kept.
    ///
    /// # Errors
    /// There are too many, or the store fails.
    pub(super) fn make_token(&self, name: &str, grants: Vec<Grant>) -> Result<String, KvError> {
        let unavailable = |why: &dyn std::fmt::Display| KvError::Unavailable(why.to_string());
        let all = self.kv.read(Keys::Under(TOKENS), None)?.entries;
        if all.len() >= MAX_TOKENS {
            return Err(KvError::TooLarge(format!("there are {MAX_TOKENS} tokens; end some")));
        }
        let token = random_token(PREFIX).map_err(|e| unavailable(&e))?;
        let kept = Kept { name: name.to_owned(), grants };
        let value = serde_json::to_string(&kept).map_err(|e| unavailable(&e))?;
        let mut operations = ended(all, name);
        operations.push(Operation::Put { key: token_key(&hash(token.as_bytes())), value });
        self.kv.commit(&Transaction { operations, ..Transaction::default() })?;
        Ok(token)
    }

    /// Ends all tokens of a name; says how many there were.
    ///
    /// # Errors
    /// The store fails.
    pub(super) fn end_tokens(&self, name: &str) -> Result<usize, KvError> {
        let operations = ended(self.kv.read(Keys::Under(TOKENS), None)?.entries, name);
        let count = operations.len();
        self.kv.commit(&Transaction { operations, ..Transaction::default() })?;
        Ok(count)
    }
}

impl Caller {
    /// Somebody with a role everywhere.
    pub(crate) fn new(name: String, role: Role) -> Self {
        let grants = vec![Grant { role, namespaces: vec![ALL.to_owned()] }];
        Self { name, grants, is_anonymous: false, token: None }
    }

    /// Somebody with a role in one namespace.
    #[cfg(test)]
    pub(super) fn of(name: &str, role: Role, namespace: &str) -> Self {
        let grants = vec![Grant { role, namespaces: vec![namespace.to_owned()] }];
        Self { name: name.to_owned(), grants, is_anonymous: false, token: None }
    }

    /// Who changes something says who they are.
    ///
    /// # Errors
    /// They did not.
    pub(super) fn demand_name(&self) -> Result<(), Failure> {
        if self.is_anonymous {
            return Err(unauthorized("who changes something needs a token, or the Unix socket"));
        }
        Ok(())
    }

    /// Whether they may read what is in a namespace, or what is in none.
    pub(super) fn may_read(&self, namespace: &str) -> bool {
        namespace.is_empty() || self.has(Role::Viewer, namespace)
    }

    /// Whether they may see a problem: of what they may read. One that is of no resource is of a file, or of all.
    pub(super) fn may_see(&self, problem: &Problem) -> bool {
        self.may_read(namespace_of(&problem.resource).unwrap_or(ALL))
    }

    /// Whether they may read secrets of a namespace.
    pub(super) fn may_read_secrets(&self, namespace: &str) -> bool {
        self.has(Role::Editor, namespace)
    }

    /// Whether they may everything.
    pub(super) fn is_admin(&self) -> bool {
        self.grants.iter().any(|grant| grant.role == Role::Admin && grant.is_in(ALL))
    }

    fn has(&self, role: Role, namespace: &str) -> bool {
        self.grants.iter().any(|grant| grant.role >= role && (grant.is_in(namespace) || grant.is_in(ALL)))
    }
}

impl Grant {
    fn is_in(&self, namespace: &str) -> bool {
        self.namespaces.iter().any(|n| n == namespace)
    }
}

impl Rights for Caller {
    fn may_write(&self, id: &ResourceId) -> bool {
        // What has no namespace concerns all of them; so does whom the mesh believes, which is the MeshConfig's to say.
        if id.is_global() || id.kind == "MeshConfig" {
            self.is_admin()
        } else {
            self.has(Role::Editor, &id.key.namespace)
        }
    }

    fn may_speak_for(&self, namespace: Option<&str>) -> bool {
        self.has(Role::Editor, namespace.unwrap_or(ALL))
    }
}

/// What ends all tokens of a name.
fn ended(tokens: Vec<Entry>, name: &str) -> Vec<Operation> {
    let is_meant = |value: &str| serde_json::from_str(value).is_ok_and(|kept: Kept| kept.name == name);
    let ended = tokens.into_iter().filter(|entry| is_meant(&entry.value));
    ended.map(|entry| Operation::Delete { key: entry.key }).collect()
}

fn token_key(hash: &[u8]) -> String {
    format!("{TOKENS}{}", hex(hash))
}

/// The user whose the state directory is.
fn own_user(state: &Path) -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(state).map_or(0, |metadata| metadata.uid())
}

fn unauthorized(message: &str) -> Failure {
    Failure::new(StatusCode::UNAUTHORIZED, message)
}

fn failed(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::Sqlite;

    fn access() -> (tempfile::TempDir, Access) {
        let dir = tempfile::tempdir().expect("a directory");
        let kv = Arc::new(Sqlite::open(dir.path()).expect("a store"));
        let access = Access::open(dir.path(), kv).expect("made");
        (dir, access)
    }

    async fn with(access: &Access, token: &str) -> Result<Caller, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, token.parse().expect("a value"));
        access.caller(Peer::Loopback, &headers).await
    }

    #[tokio::test]
    async fn tokens_tell_who_asks_and_what_they_may() {
        let (dir, access) = access();
        let grants = vec![
            Grant { role: Role::Editor, namespaces: vec!["shop".to_owned()] },
            Grant { role: Role::Viewer, namespaces: vec!["bank".to_owned()] },
        ];
        let token = access.make_token("ci", grants).expect("made");
        let caller = with(&access, &format!("Bearer {token}")).await.expect("known");
        let id = |kind, namespace| ResourceId::new(kind, namespace, "x");
        let may = |caller: &Caller, kind, namespace| caller.may_write(&id(kind, namespace));
        assert_eq!(caller.name, "the token ci");
        assert!(
            may(&caller, "Service", "shop") && caller.may_read("bank") && caller.may_read_secrets("shop")
        );
        assert!(
            !may(&caller, "Service", "bank") && !caller.may_read("hr") && !caller.may_read_secrets("bank")
        );
        assert!(!may(&caller, "Namespace", "") && !caller.is_admin());
        let everywhere = Caller::new("all".to_owned(), Role::Editor);
        assert!(may(&everywhere, "PeerAuthentication", "meshwork-system"));
        assert!(!may(&everywhere, "MeshConfig", "meshwork-system") && !may(&everywhere, "Namespace", ""));
        let problem = |resource: &str| Problem::error(resource, "spec", "is wrong", "");
        assert!(caller.may_see(&problem("Service shop/cart")) && caller.may_see(&problem("workload bank/a")));
        assert!(!caller.may_see(&problem("Service hr/cart")) && !caller.may_see(&problem("")));
        let own = std::fs::read_to_string(dir.path().join(FILE)).expect("there");
        let admin = with(&access, &format!("Bearer {own}")).await.expect("known");
        assert!(
            admin.is_admin() && may(&admin, "Namespace", "") && may(&admin, "MeshConfig", "meshwork-system")
        );
        let somebody = access.caller(Peer::Loopback, &HeaderMap::new()).await.expect("anybody");
        assert!(
            somebody.may_read("hr") && !somebody.may_read_secrets("hr") && !may(&somebody, "Service", "hr")
        );
        access.look_again(&caller).await.expect("still good");
        assert_eq!(access.end_tokens("ci").expect("ended"), 1);
        for (caller, is_known) in [(&caller, false), (&admin, true), (&somebody, true)] {
            assert_eq!(access.look_again(caller).await.is_ok(), is_known, "{}", caller.name);
        }
        for token in [&*format!("Bearer {token}"), "Bearer mwa_00", "Bearer ", "Basic eDp5"] {
            let failure = with(&access, token).await.expect_err("refused");
            assert_eq!(failure.status, StatusCode::UNAUTHORIZED, "{token}");
        }
    }

    #[tokio::test]
    async fn the_socket_is_for_root_and_its_owner() {
        let (_dir, access) = access();
        for (user, expected) in [(0, true), (access.own_user, true), (access.own_user + 1, false)] {
            let caller = access.caller(Peer::User(user), &HeaderMap::new()).await;
            assert_eq!(caller.is_ok_and(|c| c.is_admin()), expected, "{user}");
        }
    }

    #[tokio::test]
    async fn who_has_no_token_reads_nothing_where_it_is_closed() {
        let (dir, access) = access();
        let access = access.closed();
        let failure = access.caller(Peer::Loopback, &HeaderMap::new()).await.expect_err("refused");
        assert_eq!(failure.status, StatusCode::UNAUTHORIZED);
        let own = std::fs::read_to_string(dir.path().join(FILE)).expect("there");
        assert!(with(&access, &format!("Bearer {own}")).await.expect("known").is_admin());
        access.caller(Peer::User(0), &HeaderMap::new()).await.expect("root by the socket");
    }

    #[test]
    fn the_token_outlives_a_restart_and_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let (dir, first) = access();
        let kv = Arc::new(Sqlite::open(dir.path()).expect("the store"));
        assert_eq!(Access::open(dir.path(), kv).expect("opened").admin, first.admin);
        let mode = std::fs::metadata(dir.path().join(FILE)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
