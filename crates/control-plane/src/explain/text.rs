//! An explanation for people.

use std::fmt::{self, Write as _};

use super::answer::{
    ClusterAnswer, EndpointAnswer, Explanation, Inbound, Outbound, Outcome, Party, PolicyAnswer,
};

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = self.from.to_string();
        writeln!(
            f,
            "{from} asks {}{}{}",
            self.to,
            if self.request.is_empty() { "" } else { " for " },
            self.request
        )?;
        writeln!(f, "{}", self.outcome)?;
        if let Some(outbound) = &self.outbound {
            let name = if self.from.workload.is_empty() { "the caller" } else { &self.from.workload };
            write!(f, "\nout of {name}\n{outbound}")?;
        }
        for inbound in &self.inbound {
            write!(f, "\ninto {} ({:.0} % of such requests)\n{inbound}", inbound.to, inbound.percent)?;
        }
        for (index, note) in self.notes.iter().enumerate() {
            let gap = if index == 0 { "\n" } else { "" };
            writeln!(f, "{gap}note: {note}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.workload.is_empty() {
            return write!(f, "{}", self.identity);
        }
        let dialect = match self.dialect.as_str() {
            "envoy" => ", an Envoy",
            "grpc" => ", gRPC without a proxy",
            _ => "",
        };
        write!(f, "{} ({}{dialect})", self.workload, self.identity)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.passes { "PASSES" } else { "DOES NOT PASS" };
        let status = self.status.map(|status| format!(" {status}")).unwrap_or_default();
        let reason = self.reason.as_ref().map(|code| format!(" {code}")).unwrap_or_default();
        write!(f, "{word}{status}{reason}: {}", self.text)
    }
}

/// Lines with a name in front.
fn line(f: &mut fmt::Formatter<'_>, name: &str, text: &str) -> fmt::Result {
    if text.is_empty() { Ok(()) } else { writeln!(f, "  {name:<9} {text}") }
}

impl fmt::Display for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = if self.address.is_empty() { String::new() } else { format!(" at {}", self.address) };
        line(f, "listener", &format!("{}{at}, chain {}", self.listener, self.chain))?;
        line(f, "host", &self.virtual_host)?;
        line(f, "tokens", &self.authentication)?;
        policies(f, &self.policies)?;
        if let Some(route) = &self.route {
            let written = if route.written.is_empty() { "nobody wrote it" } else { &route.written };
            line(f, "route", &format!("{} ({written}): takes {}", route.name, route.takes))?;
        }
        for passed in &self.passed_over {
            line(f, "not", &format!("{}: {}", passed.route, passed.why))?;
        }
        line(f, "action", &self.action)?;
        for term in &self.terms {
            line(f, "terms", term)?;
        }
        self.clusters.iter().try_for_each(|cluster| write!(f, "{cluster}"))
    }
}

impl fmt::Display for ClusterAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(
            f,
            "cluster",
            &format!("{} ({:.0} %), endpoints picked {}", self.name, self.percent, self.balancing),
        )?;
        if !self.terms.is_empty() {
            line(f, "", &self.terms.join("; "))?;
        }
        self.endpoints.iter().try_for_each(|endpoint| writeln!(f, "    {endpoint}"))
    }
}

impl fmt::Display for EndpointAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>3.0} %  {}", self.percent, self.address)?;
        let mut rest = String::new();
        let mut add = |text: &str| {
            // Writing to a String does not fail.
            let _ = write!(rest, "{}{text}", if rest.is_empty() { "  " } else { ", " });
        };
        for text in [&self.workload, &self.reached_by] {
            if !text.is_empty() {
                add(text);
            }
        }
        if !self.zone.is_empty() {
            add(&format!("zone {}", self.zone));
        }
        if self.weight != 1 {
            add(&format!("weight {}", self.weight));
        }
        if self.priority != 0 {
            add(&format!("priority {}", self.priority));
        }
        if self.health != "healthy" {
            add(&self.health);
        }
        write!(f, "{rest}")
    }
}

impl fmt::Display for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, "listener", &format!("{}, chain {}", self.listener, self.chain))?;
        line(f, "mTLS", &self.mtls)?;
        line(f, "comes as", &self.comes_as)?;
        line(f, "tokens", &self.authentication)?;
        policies(f, &self.policies)?;
        for then in &self.then {
            line(f, "then", then)?;
        }
        line(f, "outcome", &self.outcome.to_string())
    }
}

fn policies(f: &mut fmt::Formatter<'_>, all: &[PolicyAnswer]) -> fmt::Result {
    for policy in all {
        let tried = if policy.dry_run { " (dry run: decides nothing)" } else { "" };
        let says = if policy.matches { "matches" } else { "does not match" };
        line(f, &policy.action, &format!("{} {says}{tried}", policy.policy))?;
        for rule in &policy.rules {
            let mark = match rule.matches {
                Some(true) => "yes",
                Some(false) => "no",
                None => "-",
            };
            let name = if rule.rule.is_empty() { "rule" } else { &rule.rule };
            writeln!(f, "              {mark:<3} {name}: {}", rule.why)?;
        }
    }
    Ok(())
}
