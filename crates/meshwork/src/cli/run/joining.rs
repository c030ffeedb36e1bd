//! How a workload that is run gets into the mesh: its folder, the trust bundle, a join token.
//!
//! Where the control plane's folder is on this machine and readable, nothing has to be given: the bundle is read from
//! there, and a token is made there.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use meshwork_control_plane::store::{Store, TokenRequest};
use meshwork_identity::files::{create_private_dir, write_private};
use serde_json::json;

use crate::cli::folders::state_home;
use crate::cli::output;

/// How long a token that is made here may be used: the proxy uses it as soon as it reaches the control plane.
pub(super) const TOKEN_LIFETIME: Duration = Duration::from_mins(10);
/// How often is looked whether the control plane has made its folder.
const LOOK: Duration = Duration::from_millis(100);
/// After how long its user is told what is waited for.
const NOTICE_AFTER: Duration = Duration::from_secs(2);
const BUNDLE: &str = "bundle.pem";
/// What the certificate in a workload's folder was made for.
const ENROLMENT: &str = "enrolment.json";
/// What is void when that changes.
const IDENTITY: [&str; 2] = ["identity.pem", "pending-key.pem"];

/// Where the mesh is, and what lets a workload into it.
#[derive(clap::Args)]
pub(super) struct Joining {
    /// Where the control plane listens for proxies
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15012")]
    pub(super) control_plane: SocketAddr,

    /// The control plane's state folder, where it is on this machine: the trust bundle is read and the join token made
    /// there; `$XDG_STATE_HOME/meshwork/control-plane` where it is left out
    #[arg(long, value_name = "DIR")]
    mesh: Option<PathBuf>,

    /// The mesh's trust bundle (PEM), where its control plane is elsewhere
    #[arg(long, value_name = "FILE")]
    trust_bundle: Option<PathBuf>,

    /// A file with a join token, where the control plane is elsewhere; needed the first time only
    #[arg(long, value_name = "FILE", requires = "trust_bundle")]
    token_file: Option<PathBuf>,

    /// The folder that keeps this workload's key and certificate; `$XDG_STATE_HOME/meshwork/run/NAMESPACE/NAME` where it is
    /// left out
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

/// What lets a workload in.
pub(super) struct Member {
    pub(super) trust_bundle: PathBuf,
    pub(super) state: PathBuf,
    pub(super) token: Option<PathBuf>,
    /// Where private keys lie, of this workload, of others and of the mesh.
    pub(super) hidden: Vec<PathBuf>,
}

impl Joining {
    /// Finds or makes what lets this workload in. Waits for a control plane that has not been started yet.
    pub(super) fn join(&self, who: &TokenRequest, patience: Duration) -> anyhow::Result<Member> {
        let state = match &self.state {
            Some(state) => state.clone(),
            None => state_home()?.join("run").join(&who.namespace).join(&who.workload),
        };
        create_private_dir(&state)?;
        let state = fs::canonicalize(&state).with_context(|| format!("cannot use {}", state.display()))?;
        if let Some(trust_bundle) = &self.trust_bundle {
            let (trust_bundle, token) = (trust_bundle.clone(), self.token_file.clone());
            let hidden =
                state_folders().chain([state.clone()]).chain(token.clone().filter(|token| token.exists()));
            let hidden = hidden.collect();
            return Ok(Member { trust_bundle, state, token, hidden });
        }
        let mesh = match &self.mesh {
            Some(mesh) => mesh.clone(),
            None => state_home()?.join("control-plane"),
        };
        let trust_bundle = wait_for_bundle(&mesh, self.mesh.is_some(), patience)?;
        forget_other_enrolment(&state, who)?;
        let token = Store::open(&mesh)
            .and_then(|store| store.create_token(who))
            .with_context(|| format!("cannot make a join token in {}", mesh.display()))?;
        let file = state.join("token");
        write_private(&file, token.as_bytes())?;
        let hidden = state_folders().chain([state.clone(), mesh]).collect();
        Ok(Member { trust_bundle, state, token: Some(file), hidden })
    }
}

/// Where the keys of all of this user's workloads lie by default. Made where it is not there yet: what others put there
/// later is covered, too.
fn state_folders() -> impl Iterator<Item = PathBuf> {
    state_home().into_iter().filter(|folder| create_private_dir(folder).is_ok())
}

/// The mesh's trust bundle, once its control plane has written it.
fn wait_for_bundle(mesh: &Path, named: bool, patience: Duration) -> anyhow::Result<PathBuf> {
    let (bundle, began, mut told) = (mesh.join(BUNDLE), Instant::now(), false);
    loop {
        match fs::File::open(&bundle) {
            Ok(_) => return Ok(bundle),
            Err(error) if error.kind() == ErrorKind::NotFound && (named || mesh.exists()) => {}
            Err(error) => return Err(error).with_context(|| elsewhere(mesh)),
        }
        if began.elapsed() >= patience {
            bail!(elsewhere(mesh));
        }
        if began.elapsed() >= NOTICE_AFTER && !std::mem::replace(&mut told, true) {
            output::note(format!("waiting for the control plane to make {}", bundle.display()));
        }
        std::thread::sleep(LOOK);
    }
}

fn elsewhere(mesh: &Path) -> String {
    format!(
        "there is no control plane's state in {}: start `meshwork control-plane` with that folder as its --state, name \
         its folder by --mesh, or, where it is elsewhere, give --trust-bundle and --token-file",
        mesh.display()
    )
}

/// A certificate that was made for another account or other labels is not this workload's any more.
fn forget_other_enrolment(state: &Path, who: &TokenRequest) -> anyhow::Result<()> {
    let now = json!({
        "namespace": who.namespace,
        "serviceAccount": who.service_account,
        "workload": who.workload,
        "labels": who.labels,
    });
    let now = now.to_string();
    let file = state.join(ENROLMENT);
    let before = fs::read_to_string(&file).ok();
    if before.as_deref() == Some(&now) {
        return Ok(());
    }
    if before.is_some() {
        for name in IDENTITY {
            match fs::remove_file(state.join(name)) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error)
                        .with_context(|| format!("cannot renew what is in {}", state.display()));
                }
                _ => {}
            }
        }
    }
    write_private(&file, now.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(label: &str) -> TokenRequest {
        TokenRequest {
            namespace: "shop".to_owned(),
            service_account: "cart".to_owned(),
            workload: "cart-1".to_owned(),
            labels: [("version".to_owned(), label.to_owned())].into(),
            ttl: TOKEN_LIFETIME,
        }
    }

    #[test]
    fn a_certificate_stays_while_it_says_who_the_workload_is() {
        let folder = std::env::temp_dir().join(format!("meshwork-joining-{}", std::process::id()));
        create_private_dir(&folder).expect("folder");
        let identity = folder.join("identity.pem");
        fs::write(&identity, "pem").expect("written");
        let check = |label, stays| {
            forget_other_enrolment(&folder, &who(label)).expect("looked at");
            assert_eq!(identity.exists(), stays, "{label}");
        };
        check("1", true);
        check("1", true);
        check("2", false);
        fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn a_mesh_that_is_not_there_is_said_so() {
        let error =
            wait_for_bundle(Path::new("/nonexistent/mesh"), false, Duration::ZERO).expect_err("absent");
        assert!(error.to_string().contains("--trust-bundle and --token-file"), "{error}");
        let error =
            wait_for_bundle(Path::new("/nonexistent/mesh"), true, Duration::ZERO).expect_err("absent");
        assert!(error.to_string().contains("/nonexistent/mesh"), "{error}");
    }
}
