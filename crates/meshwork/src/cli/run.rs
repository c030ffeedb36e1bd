//! `meshwork run`.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::bail;
use meshwork_agent::probe::Probe;
use meshwork_model::mesh::{Protocol, SERVICE_LABEL};

use super::binds;

mod joining;

use joining::Joining;

use crate::sandbox::Sandbox;

/// Exit codes as shells have them: there is no such program, it cannot be started, and all else that is not its own.
const NOT_FOUND: u8 = 127;
const NOT_STARTED: u8 = 126;
const NOT_RUN: u8 = 125;

/// Run a program in the mesh, as it is
///
/// The program gets a network of its own, in which its proxy takes all that leaves it and hands in all that reaches it;
/// it listens on its usual ports and calls others by their names, such as `http://catalog:8080`. As an ordinary user.
/// `meshwork check` says whether this system allows it. The exit code or signal is the program's; 125 to 127 where it
/// was not run.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  meshwork run --name cart --port 8080 -- ./cart
  meshwork run --name web-1 --service web -n shop --port 8080 --readiness tcp:8080 -- ./web
  meshwork run --name job --control-plane 10.0.0.1:15012 --trust-bundle bundle.pem \\
    --token-file job.token -- ./job

The program sees neither the workload's certificate nor its key: its proxy shows them. One that needs an identity itself \
asks an agent of the host (docs/run.md).")]
pub(crate) struct Run {
    /// The workload's name, unique in its namespace
    #[arg(long, value_parser = name)]
    name: String,

    /// The service that it is one of; exists from then on, if no config says otherwise
    #[arg(long, value_name = "SERVICE", value_parser = name)]
    service: Option<String>,

    /// A port on which the program listens, and what it speaks there: http, http2, grpc or tcp, such as 9000/grpc; may be
    /// repeated
    #[arg(long = "port", value_name = "PORT[/PROTOCOL]")]
    ports: Vec<Port>,

    /// The workload's namespace
    #[arg(short, long, default_value = "default", value_parser = name)]
    namespace: String,

    /// The workload's service account: with the namespace, its identity; the service, or else the name, where it is left
    /// out
    #[arg(long, value_name = "ACCOUNT", value_parser = name)]
    service_account: Option<String>,

    #[command(flatten)]
    joining: Joining,

    /// A variable for the program; may be repeated
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = super::label)]
    environment: Vec<(String, String)>,

    /// A label of the workload, as KEY=VALUE (app, version); may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = super::label)]
    labels: Vec<(String, String)>,

    /// A folder that the program does not see, beside those of the mesh's private keys; may be repeated
    #[arg(long = "hide", value_name = "DIR")]
    hidden: Vec<PathBuf>,

    #[command(flatten)]
    proxy: Proxy,

    #[command(flatten)]
    sandbox: Sandbox,

    /// How long the program may take to end after SIGTERM; it is killed then
    #[arg(long, value_name = "DURATION", value_parser = super::duration, default_value = "10s")]
    grace: Duration,

    /// How long the proxy may take until the program can start: control plane, certificate, config
    #[arg(long, value_name = "DURATION", value_parser = super::duration, default_value = "60s")]
    ready_timeout: Duration,

    /// The program and its arguments
    #[arg(required = true, last = true, value_name = "PROGRAM")]
    command: Vec<OsString>,
}

/// What is for the proxy; as `meshwork sidecar` has it.
#[derive(clap::Args)]
struct Proxy {
    /// The address on which the proxy listens for the mesh
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1")]
    advertise: IpAddr,

    /// Where the proxy serves readiness, config and metrics; nowhere, where it is left out
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,

    /// Where the access log goes, one JSON line a request: a file, `-` for standard output, or `off`
    #[arg(long, value_name = "FILE", default_value = "off")]
    access_log: OsString,

    /// The proxy's worker threads; the number of cores, two at most, where it is left out
    #[arg(long, value_name = "N")]
    workers: Option<usize>,

    /// How long what has begun may go on in the proxy after the program has ended; a second signal ends it at once
    #[arg(long, value_name = "DURATION", value_parser = super::duration, default_value = "10s")]
    drain_time: Duration,

    /// How often metrics are pushed to the control plane
    #[arg(long, value_name = "DURATION", value_parser = super::duration, default_value = "10s")]
    push_metrics: Duration,

    /// When the program takes traffic: `http:PORT/PATH`, `tcp:PORT` or `exec:COMMAND`, as in `meshwork sidecar`
    #[arg(long, value_name = "PROBE")]
    readiness: Option<String>,

    /// When the program is to be started anew: as --readiness
    #[arg(long, value_name = "PROBE")]
    liveness: Option<String>,

    /// A file that names the proxy's process while there is one
    #[arg(long, value_name = "FILE", hide = true)]
    sidecar_pid: Option<PathBuf>,
}

/// `PORT[/PROTOCOL]`
#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    number: u16,
    protocol: Option<Protocol>,
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, protocol) = match text.split_once('/') {
            Some((number, protocol)) => (number, Some(binds::protocol(protocol)?)),
            None => (text, None),
        };
        let number = number.parse().ok().filter(|number| *number > 0);
        let number = number.ok_or_else(|| format!("{text:?} is not a port, such as 8080 or 9000/grpc"))?;
        Ok(Self { number, protocol })
    }
}

/// A name of one label of DNS: it becomes part of names that programs call.
fn name(text: &str) -> Result<String, String> {
    let within = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let edges = !text.starts_with('-') && !text.ends_with('-');
    if (1..=63).contains(&text.len()) && edges && text.bytes().all(within) {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is no name: lowercase letters, digits and `-` in between, 63 at most"))
}

impl Run {
    /// Runs the program, to its end. No thread may have been started.
    pub(crate) fn run(self, log: &str) -> anyhow::Result<ExitCode> {
        let who = self.request();
        let member = self.joining.join(&who, self.ready_timeout)?;
        let workers = self.proxy.workers.unwrap_or_else(meshwork_data_plane::default_workers);
        let [program, arguments @ ..] = self.command.as_slice() else { bail!("there is no program to run") };
        let (program, arguments) = (program.clone(), arguments.to_vec());
        let environment = self.environment.iter().map(|(key, value)| (key.into(), value.into()));
        let run = meshwork_capture::Run {
            program,
            arguments,
            environment: environment.collect(),
            // This very file, whatever comes to stand at its path.
            sidecar: "/proc/self/exe".into(),
            sidecar_arguments: self.sidecar(&member, workers, log),
            sidecar_pid: self.proxy.sidecar_pid.clone(),
            workers,
            probes: self.proxy.commands(),
            namespace: self.namespace.clone(),
            hidden: member.hidden.into_iter().chain(self.hidden.clone()).collect(),
            control_plane: self.joining.control_plane,
            ready_timeout: self.ready_timeout,
            grace: self.grace,
            drain_time: self.proxy.drain_time,
            lifeline: meshwork_demo::lifeline::is_given().then(|| meshwork_demo::lifeline::VARIABLE.into()),
        };
        match meshwork_capture::run(&run) {
            Ok(outcome) => Ok(outcome.pass_on()),
            Err(error) => Ok(refused(error)),
        }
    }

    fn request(&self) -> meshwork_control_plane::store::TokenRequest {
        let account = self.service_account.as_ref().or(self.service.as_ref()).unwrap_or(&self.name);
        meshwork_control_plane::store::TokenRequest {
            namespace: self.namespace.clone(),
            service_account: account.clone(),
            workload: self.name.clone(),
            labels: self.labels().into_iter().collect(),
            ttl: joining::TOKEN_LIFETIME,
        }
    }

    /// The labels that were given, and those that follow from what else was.
    fn labels(&self) -> Vec<(String, String)> {
        let mut labels = self.labels.clone();
        if !labels.iter().any(|(key, _)| key == "app") {
            labels.push(("app".to_owned(), self.service.as_ref().unwrap_or(&self.name).clone()));
        }
        labels.extend(self.service.iter().map(|service| (SERVICE_LABEL.to_owned(), service.clone())));
        labels
    }

    /// `meshwork sidecar …`, without the program's name.
    fn sidecar(&self, member: &joining::Member, workers: usize, log: &str) -> Vec<OsString> {
        let mut line = Line(vec!["--log".into(), log.into(), "sidecar".into()]);
        line.add("--control-plane", self.joining.control_plane.to_string());
        line.add("--trust-bundle", &member.trust_bundle);
        line.add("--state", &member.state);
        line.add("--workload", &self.name);
        if let Some(token) = &member.token {
            line.add("--token-file", token);
        }
        for (key, value) in self.labels() {
            line.add("--label", format!("{key}={value}"));
        }
        for port in &self.ports {
            line.add("--inbound", inbound(port, self.proxy.advertise));
        }
        self.proxy.add_to(&mut line, workers);
        for (name, value) in self.sandbox.arguments() {
            line.add(name, value);
        }
        line.0
    }
}

fn inbound(port: &Port, advertise: IpAddr) -> String {
    let number = port.number;
    let protocol = port.protocol.map(|protocol| format!("/{}", protocol.name())).unwrap_or_default();
    format!("{number}{protocol}={}>127.0.0.1:{number}", SocketAddr::new(advertise, 0))
}

/// The arguments of a program.
struct Line(Vec<OsString>);

impl Line {
    fn add(&mut self, name: &str, value: impl AsRef<Path>) {
        self.0.extend([name.into(), value.as_ref().into()]);
    }
}

impl Proxy {
    /// What probes run. Of what is no probe the sidecar says why.
    fn commands(&self) -> Vec<Vec<String>> {
        let probes = [&self.readiness, &self.liveness].into_iter().flatten();
        let probes = probes.filter_map(|text| text.parse::<Probe>().ok());
        probes.filter_map(|probe| probe.check.command()).collect()
    }

    fn add_to(&self, line: &mut Line, workers: usize) {
        let milliseconds = |duration: Duration| format!("{}ms", duration.as_millis());
        line.add("--access-log", &self.access_log);
        line.add("--workers", workers.to_string());
        line.add("--drain-time", milliseconds(self.drain_time));
        line.add("--push-metrics", milliseconds(self.push_metrics));
        if let Some(admin) = self.admin {
            line.add("--admin", admin.to_string());
        }
        for (name, probe) in [("--readiness", &self.readiness), ("--liveness", &self.liveness)] {
            if let Some(probe) = probe {
                line.add(name, probe);
            }
        }
    }
}

fn refused(error: meshwork_capture::RunError) -> ExitCode {
    use meshwork_capture::RunError;
    let code = match &error {
        RunError::NotStarted { missing: true, .. } => NOT_FOUND,
        RunError::NotStarted { missing: false, .. } => NOT_STARTED,
        _ => NOT_RUN,
    };
    super::output::fail(&error.into());
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Wrapped {
        #[command(flatten)]
        run: Run,
    }

    fn parse(arguments: &str) -> Result<Run, clap::Error> {
        Wrapped::try_parse_from(["run"].into_iter().chain(arguments.split_ascii_whitespace())).map(|w| w.run)
    }

    #[test]
    fn ports_are_read_or_refused_in_words() {
        let check = |text: &str, expected: Option<(u16, Option<Protocol>)>| {
            let port = text.parse::<Port>().ok();
            assert_eq!(port.map(|port| (port.number, port.protocol)), expected, "{text}");
        };
        check("8080", Some((8080, None)));
        check("8080/http", Some((8080, Some(Protocol::Http))));
        check("9000/grpc", Some((9000, Some(Protocol::Grpc))));
        check("6379/tcp", Some((6379, Some(Protocol::Tcp))));
        for bad in ["", "0", "65536", "http", "80/", "80/smtp", "80/http/2", "-1"] {
            check(bad, None);
        }
    }

    #[test]
    fn names_are_what_dns_takes() {
        for good in ["cart", "cart-7", "7", &"a".repeat(63)] {
            assert!(name(good).is_ok(), "{good}");
        }
        for bad in ["", "Cart", "-cart", "cart-", "cart.shop", "cärt", "a b", "../x", &"a".repeat(64)] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_sidecar_gets_what_run_was_told() {
        let run = parse(
            "--name cart-1 --service cart --port 8080 --port 9000/grpc -n shop --label version=2 --advertise 10.0.0.7 \
             --readiness tcp:8080 --control-plane 10.0.0.1:15012 -- ./cart --quiet",
        )
        .expect("valid");
        assert_eq!(run.command, ["./cart", "--quiet"]);
        assert_eq!(run.proxy.commands(), [[""; 0]; 0]);
        let probed =
            parse("--name a --readiness exec:test,every=1s --liveness exec:false -- ./a").expect("valid");
        assert_eq!(probed.proxy.commands(), [["/bin/sh", "-c", "test"], ["/bin/sh", "-c", "false"]]);
        let request = run.request();
        assert_eq!((request.service_account.as_str(), request.namespace.as_str()), ("cart", "shop"));
        assert_eq!(request.labels.get(SERVICE_LABEL).map(String::as_str), Some("cart"));
        let member = joining::Member {
            trust_bundle: "b.pem".into(),
            state: "s".into(),
            token: Some("t".into()),
            hidden: vec![],
        };
        let line = run.sidecar(&member, 2, "warn").join(std::ffi::OsStr::new(" "));
        let line = line.to_str().expect("text");
        for part in [
            "--log warn sidecar --control-plane 10.0.0.1:15012 --trust-bundle b.pem --state s --workload cart-1 ",
            " --token-file t ",
            " --label version=2 --label app=cart --label meshwork.dev/service=cart ",
            " --inbound 8080=10.0.0.7:0>127.0.0.1:8080 --inbound 9000/grpc=10.0.0.7:0>127.0.0.1:9000 ",
            " --workers 2 --drain-time 10000ms ",
            " --readiness tcp:8080",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }

    #[test]
    fn a_program_is_needed() {
        assert!(parse("--name cart").is_err());
        assert!(parse("-- ./cart").is_err());
    }
}
