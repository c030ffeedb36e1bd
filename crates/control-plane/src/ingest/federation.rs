//! `federatedTrustDomains` of the MeshConfig: other trust domains whose identities are believed. Source: SPIFFE
//! Federation; SPIFFE Trust Domain and Bundle.

use std::sync::Arc;

use meshwork_identity::Bundle;
use meshwork_model::mesh::{BundleEndpoint, BundleProof, FederatedDomain};
use meshwork_model::problem::Code;
use meshwork_model::spiffe::{SpiffeId, check_trust_domain};

use super::reader::{Fields, Item, Report, Text};
use super::request_authentication::key_url;
use super::route::limited;

/// The most trust domains; every proxy has all of their roots.
const MAX_DOMAINS: usize = 100;
/// The largest bundle, in bytes; the same as of one that is fetched.
pub(crate) const MAX_BUNDLE_BYTES: usize = 1 << 20;

/// A trust domain with what others of it are compared with.
struct Read<'n> {
    domain: FederatedDomain,
    name: Text<'n>,
    /// Where the endpoint's identity stands, and its trust domain.
    prover: Option<(Text<'n>, String)>,
}

/// Reads the list. `own` is the trust domain that the config takes the mesh to have, where it says so.
pub(crate) fn read(
    spec: &mut Fields<'_>,
    own: Option<&str>,
    report: &mut Report<'_>,
) -> Vec<FederatedDomain> {
    let mut all: Vec<Read<'_>> = Vec::new();
    for item in limited(spec, report, "federatedTrustDomains", MAX_DOMAINS) {
        let Some(read) = domain(&item, report) else { continue };
        let name = &read.name;
        if own == Some(name.value) {
            let message = format!("{} is the mesh's own trust domain", name.value);
            name.error_of(Code::Conflict, report, message, "Leave it out: it is trusted in any case");
        } else if all.iter().any(|known| known.name.value == name.value) {
            let message = format!("the trust domain {} is there already", name.value);
            name.error_of(Code::Duplicate, report, message, "Write each once");
        } else {
            all.push(read);
        }
    }
    for read in &all {
        check_prover(read, &all, own, report);
    }
    all.into_iter().map(|read| read.domain).collect()
}

fn domain<'n>(item: &Item<'n>, report: &mut Report<'_>) -> Option<Read<'n>> {
    let mut fields = item.fields(report)?;
    let name = fields.required_text(report, "trustDomain").filter(|text| is_trust_domain(text, report));
    let bundle = fields.text(report, "bundle");
    let endpoint = fields.mapping(report, "bundleEndpoint").map(|fields| endpoint(fields, report));
    fields.close(report);
    if bundle.is_none() && endpoint.is_none() {
        let message = "nothing says which authorities the trust domain has";
        let fix = "Write `bundle`, or `bundleEndpoint`, or both";
        report.error_of(Code::MissingField, &item.path, item.node.place, message, fix);
        return None;
    }
    let name = name?;
    let bundle = match bundle {
        Some(text) => Some(bundle_text(name.value, &text, report)?),
        None => None,
    };
    let (endpoint, prover) = match endpoint {
        Some(read) => read.map(|(endpoint, prover)| (Some(endpoint), prover))?,
        None => (None, None),
    };
    Some(Read { domain: FederatedDomain { trust_domain: name.value.into(), bundle, endpoint }, name, prover })
}

fn is_trust_domain(text: &Text<'_>, report: &mut Report<'_>) -> bool {
    let is_good = check_trust_domain(text.value).is_ok();
    if !is_good {
        let fix = "Write it as partner.example, without spiffe:// and without a path";
        text.error(report, format!("\"{}\" is not a trust domain", text.value), fix);
    }
    is_good
}

/// A bundle document, or certificates.
fn bundle_text(trust_domain: &str, text: &Text<'_>, report: &mut Report<'_>) -> Option<Arc<str>> {
    if text.value.len() > MAX_BUNDLE_BYTES {
        let message =
            format!("a bundle has at most {MAX_BUNDLE_BYTES} bytes, this one has {}", text.value.len());
        text.error_of(Code::OverLimit, report, message, "");
        return None;
    }
    match parse_bundle(trust_domain, text.value) {
        Ok(_) => Some(text.value.into()),
        Err(why) => {
            let fix =
                "Write what the trust domain's bundle endpoint answers, or its root certificates as PEM";
            text.error(report, format!("this is no bundle of {trust_domain}: {why}"), fix);
            None
        }
    }
}

/// Reads a bundle as config has it: a document, or certificates as PEM.
///
/// # Errors
/// It is neither, or names another trust domain.
pub(crate) fn parse_bundle(
    trust_domain: &str,
    text: &str,
) -> Result<Bundle, meshwork_identity::IdentityError> {
    if text.trim_start().starts_with('{') {
        Bundle::from_document(trust_domain, text)
    } else {
        Bundle::of_trust_domain(trust_domain, text)
    }
}

type Endpoint<'n> = (BundleEndpoint, Option<(Text<'n>, String)>);

fn endpoint<'n>(mut fields: Fields<'n>, report: &mut Report<'_>) -> Option<Endpoint<'n>> {
    let url = fields.required_text(report, "url").and_then(|text| {
        let url = key_url(text.value).filter(|url| url.https);
        if url.is_none() {
            let fix = "Write it as https://bundle.partner.example/, without a user and without a fragment";
            text.error(report, format!("\"{}\" is not the address of a bundle", text.value), fix);
        }
        url
    });
    let profiles = [("https_spiffe", true), ("https_web", false)];
    let missing = (fields.path_of("spiffeId"), fields.place());
    let by_spiffe =
        fields.required_text(report, "profile").and_then(|text| text.one_of(report, &profiles, &[]));
    let named = fields.text(report, "spiffeId");
    fields.close(report);
    let proof = match (by_spiffe?, named) {
        (false, None) => Some((BundleProof::Web, None)),
        (false, Some(text)) => {
            let message = "by https_web, the endpoint proves its host and no identity";
            text.error_of(
                Code::Conflict,
                report,
                message,
                "Leave it out, or use the profile \"https_spiffe\"",
            );
            None
        }
        (true, None) => {
            let fix = "Write the identity of who serves the bundle";
            let message = "the field `spiffeId` is missing";
            report.error_of(Code::MissingField, &missing.0, missing.1, message, fix);
            None
        }
        (true, Some(text)) => spiffe_id(text, report),
    };
    let (proof, prover) = proof?;
    Some((BundleEndpoint { url: url?, proof }, prover))
}

fn spiffe_id<'n>(
    text: Text<'n>,
    report: &mut Report<'_>,
) -> Option<(BundleProof, Option<(Text<'n>, String)>)> {
    match SpiffeId::parse(text.value) {
        Ok(id) => {
            let trust_domain = id.trust_domain().to_owned();
            Some((BundleProof::Spiffe(id), Some((text, trust_domain))))
        }
        Err(why) => {
            text.error(report, why.to_string(), "Write it as spiffe://partner.example/bundle-server");
            None
        }
    }
}

/// Who serves a bundle proves it by a bundle that is known before: one that stands here, or that of another trust domain.
fn check_prover(read: &Read<'_>, all: &[Read<'_>], own: Option<&str>, report: &mut Report<'_>) {
    let Some((text, trust_domain)) = &read.prover else { return };
    if *trust_domain == *read.domain.trust_domain {
        if read.domain.bundle.is_none() {
            let message =
                format!("the endpoint proves this by a bundle of {trust_domain}, which nobody has yet");
            let fix = "Write its first bundle in `bundle`; it is kept up to date from then on";
            text.error(report, message, fix);
        }
    } else if own.is_some_and(|own| own != trust_domain)
        && !all.iter().any(|other| *other.domain.trust_domain == **trust_domain)
    {
        let message = format!("the trust domain {trust_domain} is not federated, so that nobody proves this");
        text.error_of(Code::LeadsNowhere, report, message, "Write that trust domain as well");
    }
}
