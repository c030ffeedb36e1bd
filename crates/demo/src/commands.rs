//! The command lines of the demo's processes: what a person would type to run them by hand. Pure.

use std::ffi::OsString;

use crate::directory::Directory;
use crate::plan::{NAMESPACE, Placement, Plan, Way, Workload};
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

/// The processes of a workload, without the load's program, which comes last of all.
pub(crate) fn programs(placement: &Placement, plan: &Plan, directory: &Directory) -> Vec<Program> {
    let is_load = placement.workload.name == LOAD;
    match &placement.way {
        Way::Ports { .. } if is_load => vec![sidecar(placement, plan, directory)],
        Way::Ports { .. } => {
            vec![sidecar(placement, plan, directory), application(placement, Line::new(&["shop"]), 0)]
        }
        Way::Namespace if is_load => Vec::new(),
        Way::Namespace => vec![run(placement, plan, directory, 0)],
    }
}

/// The load's program.
pub(crate) fn load(placement: &Placement, plan: &Plan, directory: &Directory, rate: u32) -> Program {
    match &placement.way {
        Way::Ports { .. } => application(placement, Line::new(&["shop"]), rate),
        Way::Namespace => run(placement, plan, directory, rate),
    }
}

/// `meshwork sidecar …`
fn sidecar(placement: &Placement, plan: &Plan, directory: &Directory) -> Program {
    let workload = placement.workload;
    let mut line =
        member(Line::new(&["sidecar"]).with("--workload", workload.name), placement, plan, directory);
    if let Way::Ports { inbound, outbound } = &placement.way {
        if let Some(inbound) = inbound {
            line =
                line.with("--inbound", format!("{}={}>{}", inbound.port, inbound.bind, inbound.application));
        }
        for ((service, port), bind) in workload.calls.iter().zip(outbound) {
            line = line.with("--outbound", format!("{service}.{NAMESPACE}:{port}={bind}"));
        }
    }
    Program { name: sidecar_name(workload), arguments: line.0, talks: false }
}

/// `meshwork run … -- meshwork shop …`
fn run(placement: &Placement, plan: &Plan, directory: &Directory, rate: u32) -> Program {
    let workload = placement.workload;
    let mut line = Line::new(&["run"])
        .with("--name", workload.name)
        .with("--namespace", NAMESPACE)
        .with("--service-account", workload.app)
        .with("--label", format!("version={}", workload.version))
        .with("--sidecar-pid", directory.pid(&sidecar_name(workload)))
        .with("--hide", directory.private());
    if let Some(port) = workload.inbound {
        line = line.with("--port", port.to_string()).with("--readiness", format!("tcp:{port}"));
    }
    let mut line = member(line, placement, plan, directory);
    line.0.extend(["--".into(), plan.binary.clone().into(), "shop".into()]);
    application(placement, line, rate)
}

/// What makes a workload a member of the mesh.
fn member(line: Line, placement: &Placement, plan: &Plan, directory: &Directory) -> Line {
    let name = placement.workload.name;
    line.with("--control-plane", plan.control_plane.listen.to_string())
        .with("--trust-bundle", directory.state(CONTROL_PLANE).join(TRUST_BUNDLE))
        .with("--state", directory.state(name))
        .with("--token-file", directory.token(name))
        .with("--admin", placement.admin.to_string())
        .with("--access-log", directory.log(&format!("{name}-access")))
        .with("--workers", WORKERS.to_string())
        .with("--push-metrics", format!("{PUSH_SECONDS}s"))
}

/// `meshwork shop …`, behind what stands before it.
fn application(placement: &Placement, mut line: Line, rate: u32) -> Program {
    let workload = placement.workload;
    line.0.push(workload.role.name().into());
    let (listen, calls) = addresses(placement);
    if let Some(listen) = listen {
        line = line.with("--listen", listen);
    }
    if workload.app == "catalog" {
        line = line.with("--release", workload.release.name());
    }
    for ((service, _), address) in workload.calls.iter().zip(calls) {
        line = line.with("--call", format!("{service}={address}"));
    }
    let talks = workload.name == LOAD;
    if talks {
        line = line.with("--rate", rate.to_string());
    }
    Program { name: workload.name.to_owned(), arguments: line.0, talks }
}

/// Where a program listens, and where it reaches those that it calls, in the order of [`Workload::calls`].
fn addresses(placement: &Placement) -> (Option<String>, Vec<String>) {
    let workload = placement.workload;
    match &placement.way {
        Way::Ports { inbound, outbound } => (
            inbound.as_ref().map(|inbound| inbound.application.to_string()),
            outbound.iter().map(ToString::to_string).collect(),
        ),
        Way::Namespace => (
            workload.inbound.map(|port| format!("0.0.0.0:{port}")),
            workload.calls.iter().map(|(service, port)| format!("{service}:{port}")).collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mode;

    /// A command line with ports by their order and the folder as `DIR`.
    fn check(program: &[OsString], directory: &Directory, plan: &Plan, expected: &str) {
        let mut line = program.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        line = line.replace(&*directory.root().to_string_lossy(), "DIR");
        line = line.replace(&plan.control_plane.listen.to_string(), "XDS");
        line = line.replace(&plan.control_plane.api.to_string(), "API");
        for placement in &plan.placements {
            let name = placement.workload.name;
            line = line.replace(&placement.admin.to_string(), &format!("{name}:admin"));
            let Way::Ports { inbound, outbound } = &placement.way else { continue };
            if let Some(inbound) = inbound {
                line = line.replace(&inbound.bind.to_string(), &format!("{name}:in"));
                line = line.replace(&inbound.application.to_string(), &format!("{name}:app"));
            }
            for (call, bind) in placement.workload.calls.iter().zip(outbound) {
                line = line.replace(&bind.to_string(), &format!("{name}:to-{}", call.0));
            }
        }
        assert_eq!(line, expected);
    }

    #[test]
    fn command_lines_are_what_a_person_would_type() {
        let directory = Directory::create(None).expect("a folder");
        let plan = Plan::of_mode(Mode::Explicit);
        let check = |arguments: &[OsString], expected| check(arguments, &directory, &plan, expected);
        check(
            &control_plane(&plan, &directory).arguments,
            "control-plane --config DIR/config --state DIR/state/control-plane --listen XDS --api API",
        );
        let (customers, v2, checkout) = (&plan.placements[0], &plan.placements[3], &plan.placements[5]);
        check(
            &token(v2.workload, &directory),
            "token create --state DIR/state/control-plane --namespace shop --service-account catalog \
             --workload catalog-v2 --label app=catalog --label version=v2 --output json",
        );
        check(
            &programs(checkout, &plan, &directory)[0].arguments,
            "sidecar --workload checkout --control-plane XDS --trust-bundle DIR/state/control-plane/bundle.pem \
             --state DIR/state/checkout --token-file DIR/tokens/checkout --admin checkout:admin \
             --access-log DIR/logs/checkout-access.log --workers 1 --push-metrics 1s \
             --inbound 8080=checkout:in>checkout:app --outbound payments.shop:50051=checkout:to-payments \
             --outbound ledger.shop:9000=checkout:to-ledger",
        );
        check(
            &programs(v2, &plan, &directory)[1].arguments,
            "shop catalog --listen catalog-v2:app --release v2",
        );
        check(
            &load(customers, &plan, &directory, 7).arguments,
            "shop load --call web=load:to-web --call cart=load:to-cart --call payments=load:to-payments --rate 7",
        );
        assert_eq!(programs(customers, &plan, &directory).len(), 1);
        directory.remove().expect("removal");
    }

    #[test]
    fn in_namespaces_programs_know_ports_and_names_of_services_alone() {
        let directory = Directory::create(None).expect("a folder");
        let plan = Plan::of_mode(Mode::Namespace);
        let check = |arguments: &[OsString], expected| check(arguments, &directory, &plan, expected);
        let (customers, checkout) = (&plan.placements[0], &plan.placements[5]);
        check(
            &programs(checkout, &plan, &directory)[0].arguments,
            "run --name checkout --namespace shop --service-account checkout \
             --label version=v1 --sidecar-pid DIR/run/checkout-sidecar.pid --hide DIR/state --port 8080 --readiness tcp:8080 --control-plane XDS \
             --trust-bundle DIR/state/control-plane/bundle.pem --state DIR/state/checkout \
             --token-file DIR/tokens/checkout --admin checkout:admin --access-log DIR/logs/checkout-access.log \
             --workers 1 --push-metrics 1s -- /opt/meshwork shop checkout --listen 0.0.0.0:8080 \
             --call payments=payments:50051 --call ledger=ledger:9000",
        );
        assert!(programs(customers, &plan, &directory).is_empty());
        assert!(load(customers, &plan, &directory, 7).talks);
        directory.remove().expect("removal");
    }
}
