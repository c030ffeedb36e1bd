//! The command lines of the demo's processes: what a person would type to run them by hand. Pure.

use std::ffi::OsString;

use crate::directory::Directory;
use crate::plan::{NAMESPACE, Placement, Plan, Workload};
use crate::supervisor::Program;

/// The control plane's process.
pub(crate) const CONTROL_PLANE: &str = "control-plane";
/// The load's process.
pub(crate) const LOAD: &str = "load";
/// How often sidecars push metrics, in seconds: the table is never older than two of these.
pub(crate) const PUSH_SECONDS: u64 = 1;
/// Worker threads of a sidecar: eight of them share a laptop's cores.
const WORKERS: u32 = 1;
/// The file that the control plane keeps the mesh's roots in, in its state folder.
const TRUST_BUNDLE: &str = "bundle.pem";

/// A command line that is put together.
struct Line(Vec<OsString>);

impl Line {
    fn new(words: &[&str]) -> Self {
        Self(words.iter().map(Into::into).collect())
    }

    /// Adds an option with its value.
    fn with(mut self, option: &str, value: impl Into<OsString>) -> Self {
        self.0.extend([option.into(), value.into()]);
        self
    }
}

/// `meshwork control-plane …`
pub(crate) fn control_plane(plan: &Plan, directory: &Directory) -> Program {
    let line = Line::new(&["control-plane"])
        .with("--config", directory.config())
        .with("--state", directory.state(CONTROL_PLANE))
        .with("--listen", plan.control_plane.listen.to_string())
        .with("--api", plan.control_plane.api.to_string());
    Program { name: CONTROL_PLANE.to_owned(), arguments: line.0, talks: false }
}

/// `meshwork token create …`
pub(crate) fn token(workload: &Workload, directory: &Directory) -> Vec<OsString> {
    let line = Line::new(&["token", "create"])
        .with("--state", directory.state(CONTROL_PLANE))
        .with("--namespace", NAMESPACE)
        .with("--service-account", workload.app)
        .with("--workload", workload.name)
        .with("--label", format!("app={}", workload.app))
        .with("--label", format!("version={}", workload.version))
        .with("--output", "json");
    line.0
}

/// The name of a workload's sidecar process.
pub(crate) fn sidecar_name(workload: &Workload) -> String {
    format!("{}-sidecar", workload.name)
}

/// `meshwork sidecar …`
pub(crate) fn sidecar(placement: &Placement, plan: &Plan, directory: &Directory) -> Program {
    let workload = placement.workload;
    let mut line = Line::new(&["sidecar"])
        .with("--workload", workload.name)
        .with("--control-plane", plan.control_plane.listen.to_string())
        .with("--trust-bundle", directory.state(CONTROL_PLANE).join(TRUST_BUNDLE))
        .with("--state", directory.state(workload.name))
        .with("--token-file", directory.token(workload.name))
        .with("--admin", placement.admin.to_string())
        .with("--access-log", directory.log(&format!("{}-access", workload.name)))
        .with("--workers", WORKERS.to_string())
        .with("--push-metrics", format!("{PUSH_SECONDS}s"));
    if let Some(inbound) = &placement.inbound {
        line = line.with("--inbound", format!("{}={}>{}", inbound.port, inbound.bind, inbound.application));
    }
    for ((service, port), bind) in workload.calls.iter().zip(&placement.outbound) {
        line = line.with("--outbound", format!("{service}.{NAMESPACE}:{port}={bind}"));
    }
    Program { name: sidecar_name(workload), arguments: line.0, talks: false }
}

/// `meshwork shop …`
pub(crate) fn application(placement: &Placement, rate: u32) -> Program {
    let workload = placement.workload;
    let mut line = Line::new(&["shop", workload.role.name()]);
    if let Some(inbound) = &placement.inbound {
        line = line.with("--listen", inbound.application.to_string());
    }
    if workload.app == "catalog" {
        line = line.with("--release", workload.release.name());
    }
    for ((service, _), bind) in workload.calls.iter().zip(&placement.outbound) {
        line = line.with("--call", format!("{service}={bind}"));
    }
    let talks = workload.name == LOAD;
    if talks {
        line = line.with("--rate", rate.to_string());
    }
    Program { name: workload.name.to_owned(), arguments: line.0, talks }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Reservations;

    /// A command line with ports by their order and the folder as `DIR`.
    fn check(arguments: &[OsString], directory: &Directory, plan: &Plan, expected: &str) {
        let mut line = arguments.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        line = line.replace(&*directory.root().to_string_lossy(), "DIR");
        line = line.replace(&plan.control_plane.listen.to_string(), "XDS");
        line = line.replace(&plan.control_plane.api.to_string(), "API");
        for placement in &plan.placements {
            let name = placement.workload.name;
            line = line.replace(&placement.admin.to_string(), &format!("{name}:admin"));
            if let Some(inbound) = &placement.inbound {
                line = line.replace(&inbound.bind.to_string(), &format!("{name}:in"));
                line = line.replace(&inbound.application.to_string(), &format!("{name}:app"));
            }
            for (call, bind) in placement.workload.calls.iter().zip(&placement.outbound) {
                line = line.replace(&bind.to_string(), &format!("{name}:to-{}", call.0));
            }
        }
        assert_eq!(line, expected);
    }

    #[test]
    fn command_lines_are_what_a_person_would_type() {
        let directory = Directory::create(None).expect("a folder");
        let plan = Plan::reserve(&mut Reservations::default()).expect("ports");
        let check = |arguments: &[OsString], expected| check(arguments, &directory, &plan, expected);
        check(
            &control_plane(&plan, &directory).arguments,
            "control-plane --config DIR/config --state DIR/state/control-plane --listen XDS --api API",
        );
        let (load, v2, checkout) = (&plan.placements[0], &plan.placements[3], &plan.placements[5]);
        check(
            &token(v2.workload, &directory),
            "token create --state DIR/state/control-plane --namespace shop --service-account catalog \
             --workload catalog-v2 --label app=catalog --label version=v2 --output json",
        );
        check(
            &sidecar(checkout, &plan, &directory).arguments,
            "sidecar --workload checkout --control-plane XDS --trust-bundle DIR/state/control-plane/bundle.pem \
             --state DIR/state/checkout --token-file DIR/tokens/checkout --admin checkout:admin \
             --access-log DIR/logs/checkout-access.log --workers 1 --push-metrics 1s \
             --inbound 8080=checkout:in>checkout:app --outbound payments.shop:50051=checkout:to-payments \
             --outbound ledger.shop:9000=checkout:to-ledger",
        );
        check(&application(v2, 7).arguments, "shop catalog --listen catalog-v2:app --release v2");
        check(
            &application(load, 7).arguments,
            "shop load --call web=load:to-web --call cart=load:to-cart --call payments=load:to-payments --rate 7",
        );
        directory.remove().expect("removal");
    }
}
