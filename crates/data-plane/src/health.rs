//! What is found out about endpoints beside requests: by asking them ([`active`]), and by what their responses are
//! like ([`outlier`]).
//!
//! Both run on a thread of their own, that exists from the first cluster on whose config asks for either; workers only
//! count. What is found out stands in the flags of the hosts, which picking reads.

pub(crate) mod active;
pub(crate) mod outlier;

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use meshwork_model::outlier::Outcome;
use tokio::runtime;
use tokio::sync::{Notify, oneshot};
use tokio::task::{LocalSet, spawn_local};

use crate::config::ClusterConfig;
use crate::upstream::{Flag, Picked};

/// Notes what came of a request or a connection; costs a look where nobody wants to know.
pub(crate) fn note(picked: &Picked, outcome: Outcome) {
    let monitor = picked.endpoint().host.state.monitor.load();
    if let Some(monitor) = &*monitor {
        monitor.note(outcome);
    }
}

/// An endpoint has said itself that it is not well (`x-envoy-immediate-health-check-fail`). Where it is not asked either,
/// that means nothing.
pub(crate) fn fail(picked: &Picked) {
    let state = &picked.endpoint().host.state;
    if let Some(checked) = &*state.checked.load() {
        state.set(Flag::Excluded, true);
        checked.notify_one();
    }
}

/// Looks after the health of clusters.
#[derive(Default)]
pub(crate) struct Keeper {
    jobs: Option<Arc<Jobs>>,
}

/// A cluster that is looked after until this is dropped.
pub(crate) struct Kept {
    _stop: oneshot::Sender<()>,
}

type Job = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// What the thread is told to do; as many as there are clusters.
#[derive(Default)]
struct Jobs {
    new: Mutex<Vec<Job>>,
    told: Notify,
    stop: Notify,
}

impl Keeper {
    /// Looks after a cluster whose config asks for it.
    ///
    /// # Errors
    /// The kernel gives no thread.
    pub(crate) fn keep(&mut self, cluster: &Arc<ClusterConfig>) -> io::Result<Option<Kept>> {
        let (outliers, check) = (cluster.cluster.outliers.clone(), cluster.cluster.checks.first().cloned());
        if outliers.is_none() && check.is_none() {
            return Ok(None);
        }
        let (stop, stopped) = oneshot::channel();
        let cluster = Arc::clone(cluster);
        let job: Job = Box::new(move || {
            Box::pin(async move {
                let hosts = Arc::clone(&cluster.hosts);
                let unejects = outliers.as_ref().is_some_and(|config| config.check_unejects);
                let judge = async {
                    match outliers {
                        Some(config) => outlier::keep((*config).clone(), &hosts).await,
                        None => std::future::pending().await,
                    }
                };
                let ask = async {
                    match check {
                        Some(check) => active::keep(&cluster, &check, unejects).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = judge => {}
                    () = ask => {}
                    _ = stopped => {}
                }
            })
        });
        self.tell(job)?;
        Ok(Some(Kept { _stop: stop }))
    }

    fn tell(&mut self, job: Job) -> io::Result<()> {
        #[cfg(test)]
        if crate::testing::is_here() {
            spawn_local(job());
            return Ok(());
        }
        let jobs = match &self.jobs {
            Some(jobs) => jobs,
            none => {
                let _: &Option<_> = none;
                self.jobs.insert(start()?)
            }
        };
        jobs.new.lock().unwrap_or_else(PoisonError::into_inner).push(job);
        jobs.told.notify_one();
        Ok(())
    }
}

fn start() -> io::Result<Arc<Jobs>> {
    let jobs = Arc::new(Jobs::default());
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let todo = Arc::clone(&jobs);
    thread::Builder::new().name("health".into()).spawn(move || {
        LocalSet::new().block_on(&runtime, async {
            tokio::select! {
                () = work(&todo) => {}
                () = todo.stop.notified() => {}
            }
        });
    })?;
    Ok(jobs)
}

async fn work(jobs: &Jobs) {
    loop {
        let new = std::mem::take(&mut *jobs.new.lock().unwrap_or_else(PoisonError::into_inner));
        for job in new {
            spawn_local(job());
        }
        jobs.told.notified().await;
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(jobs) = &self.jobs {
            jobs.stop.notify_one();
        }
    }
}
