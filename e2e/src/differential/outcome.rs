//! What a step led to, with what differs from run to run taken out.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// What stands for itself on one side only: ports and folders, by the names that both sides share.
pub(super) struct Own {
    /// Ports and what stands for them.
    pub(super) ports: BTreeMap<u16, String>,
    pub(super) folder: String,
}

impl Own {
    /// Takes out of every text what is this side's own.
    pub(super) fn take_out(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.take_out(item)),
            Value::Object(entries) => {
                for (name, value) in entries.iter_mut() {
                    if let Some(plain) = field(name, value).or_else(|| self.port(name, value)) {
                        *value = plain;
                    }
                    self.take_out(value);
                }
            }
            _ => {}
        }
    }

    /// What stands for a port that a message tells: one of ours, or one that the kernel gave to a connection.
    fn port(&self, name: &str, value: &Value) -> Option<Value> {
        let port = value.as_u64().filter(|_| name == "port_value")?;
        let known = u16::try_from(port).ok().and_then(|port| self.ports.get(&port));
        Some(json!(known.map_or("<port>", |name| &**name)))
    }

    fn text(&self, text: &str) -> String {
        // Nothing but a port, as `x-forwarded-port` tells it.
        if let Some(name) = text.parse().ok().and_then(|port: u16| self.ports.get(&port)) {
            return name.clone();
        }
        let text = text.replace(&self.folder, "$DIR");
        let mut plain = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some(at) = rest.find(':') {
            let digits =
                rest[at + 1..].len() - rest[at + 1..].trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (before, after) = (&rest[..at], &rest[at + 1..]);
            let port = after[..digits].parse().ok();
            let known = port.and_then(|port: u16| self.ports.get(&port));
            let of_client = digits >= 4 && before.ends_with(|c: char| c.is_ascii_digit() || c == ']');
            plain.push_str(before);
            plain.push(':');
            match known {
                Some(name) => plain.push_str(name),
                // A port that the kernel gave to a connection.
                None if of_client => plain.push_str("<port>"),
                None => plain.push_str(&after[..digits]),
            }
            rest = &after[digits..];
        }
        plain + rest
    }
}

/// Values of fields that differ from request to request, without what differs.
fn field(name: &str, value: &Value) -> Option<Value> {
    let values = value.as_array()?;
    let each = |plain: &dyn Fn(&str) -> String| {
        let plain = values.iter().map(|value| json!(plain(value.as_str().unwrap_or_default())));
        Some(Value::Array(plain.collect()))
    };
    match name.to_ascii_lowercase().as_str() {
        // Made anew for each request.
        "x-request-id" => each(&|id| if is_uuid(id) { "<uuid>".to_owned() } else { id.to_owned() }),
        // What is left of the time-out: some milliseconds are gone.
        "x-envoy-expected-rq-timeout-ms" => each(&|ms| {
            ms.parse::<u64>().map_or_else(|_| ms.to_owned(), |ms| ((ms + 50) / 100 * 100).to_string())
        }),
        "x-envoy-upstream-service-time" => {
            each(&|ms| if ms.parse::<u64>().is_ok() { "<ms>".to_owned() } else { ms.to_owned() })
        }
        _ => None,
    }
}

fn is_uuid(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && text.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
}

/// Fields of answers that both programs may set differently: `date` is added by Envoy, where the origin sent none, at
/// every second's turn; `connection` says at which moment a program closes, which each decides by itself.
const ANSWERS_OWN: &[&str] = &["date", "connection"];

/// What a program says about an answer of its own in its own words.
const WORDS: &[&str] = &["content-length", "content-type", "grpc-message", "server", "x-meshwork-reason"];

/// Takes out of both outcomes what each program may say in its own way. `words`: not even the wording of its own answers.
pub(super) fn align(ours: &mut Value, envoys: &mut Value, words: bool) {
    let (mut ours, mut envoys) = (answers(ours), answers(envoys));
    for answer in ours.iter_mut().chain(&mut envoys) {
        drop_fields(answer, ANSWERS_OWN);
    }
    for (index, answer) in ours.into_iter().enumerate() {
        if answer["headers"]["x-meshwork-reason"].is_null() {
            continue;
        }
        drop_fields(answer, &["x-meshwork-reason"]);
        if !words {
            wordless(answer);
            envoys.get_mut(index).into_iter().for_each(|answer| wordless(answer));
        }
    }
}

fn wordless(answer: &mut Value) {
    drop_fields(answer, WORDS);
    if let Some(map) = answer.as_object_mut() {
        map.remove("body");
    }
}

fn drop_fields(answer: &mut Value, names: &[&str]) {
    if let Some(fields) = answer["headers"].as_object_mut() {
        let kept = std::mem::take(fields).into_iter();
        *fields = kept
            .filter(|(name, _)| !names.contains(&name.to_ascii_lowercase().as_str()))
            .collect::<Map<_, _>>();
    }
}

fn answers(outcome: &mut Value) -> Vec<&mut Value> {
    let Some(outcome) = outcome.as_object_mut() else { return Vec::new() };
    let mut found = Vec::new();
    for (name, value) in outcome {
        match (name.as_str(), value) {
            ("answer", answer) => found.push(answer),
            ("answers", Value::Array(list)) => found.extend(list),
            _ => {}
        }
    }
    found
}
