//! MeshConfig: what holds for the mesh as a whole. Source: `meshwork.dev/v1alpha1`.

use std::ops::RangeInclusive;
use std::time::Duration;

use meshwork_model::mesh::{KeyFetching, MeshDefaults, MtlsMode, OutsidePolicy};
use meshwork_model::problem::Code;

use super::extension_provider;
use super::federation;
use super::istio::duration;
use super::metadata::Metadata;
use super::reader::{Fields, Report};
use super::resilience::retries;
use super::sidecar::OUTSIDE_MODES;

/// The name of the one that is read, in the namespace of the control plane.
const NAME: &str = "default";

/// For how long keys may be believed: a shorter time would ask their issuer at each request, a longer one would keep a
/// key that was taken back.
const CACHE_OF_KEYS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);

/// Reads `spec`.
pub(crate) fn read(
    root: &mut Fields<'_>,
    metadata: &Metadata,
    report: &mut Report<'_>,
) -> Option<MeshDefaults> {
    let key = &metadata.key;
    let is_the_one = *key.namespace == *crate::SYSTEM_NAMESPACE && &*key.name == NAME;
    if !is_the_one {
        let message = "a mesh has one MeshConfig";
        let fix = format!("Name it `{NAME}` in the namespace `{}`", crate::SYSTEM_NAMESPACE);
        report.error_of(Code::Unsupported, "metadata.name", metadata.place, message, fix);
    }
    let Some(item) = root.optional("spec") else { return Some(MeshDefaults::default()) };
    let mut spec = item.fields(report)?;
    let mut config = MeshDefaults {
        trust_domain: spec.text(report, "trustDomain").map(|text| text.value.into()),
        outside: spec.mapping(report, "outboundTrafficPolicy").and_then(|fields| outside(fields, report)),
        ..MeshDefaults::default()
    };
    if let Some(mut defaults) = spec.mapping(report, "defaults") {
        config.timeout = duration(&mut defaults, report, "timeout");
        config.retry = retries(&mut defaults, report);
        config.mtls = defaults.mapping(report, "mtls").and_then(|mut fields| {
            let modes = [
                ("STRICT", MtlsMode::Strict),
                ("PERMISSIVE", MtlsMode::Permissive),
                ("DISABLE", MtlsMode::Disable),
            ];
            let mode = fields.required_text(report, "mode").and_then(|text| text.one_of(report, &modes, &[]));
            fields.close(report);
            mode
        });
        defaults.close(report);
    }
    config.providers = extension_provider::read(&mut spec, metadata, report);
    config.federated = federation::read(&mut spec, config.trust_domain.as_deref(), report);
    config.key_fetching =
        spec.mapping(report, "jwks").map(|fields| key_fetching(fields, report)).unwrap_or_default();
    spec.close(report);
    is_the_one.then_some(config)
}

fn outside(mut fields: Fields<'_>, report: &mut Report<'_>) -> Option<OutsidePolicy> {
    let mode = fields.required_text(report, "mode").and_then(|text| text.one_of(report, &OUTSIDE_MODES, &[]));
    fields.close(report);
    mode
}

fn key_fetching(mut fields: Fields<'_>, report: &mut Report<'_>) -> KeyFetching {
    let allows_local = fields.boolean(report, "allowLocalAddresses").unwrap_or(false);
    let place = fields.place_of("cacheDuration");
    let cache = duration(&mut fields, report, "cacheDuration");
    if cache.is_some_and(|cache| !CACHE_OF_KEYS.contains(&cache)) {
        let path = fields.path_of("cacheDuration");
        report.error(
            &path,
            place,
            "keys are believed for 1s to 24h",
            "Write 5m, which is what holds without it",
        );
    }
    fields.close(report);
    KeyFetching { allows_local, cache }
}
