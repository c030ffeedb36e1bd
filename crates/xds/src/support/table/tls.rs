//! TLS and secrets.

use super::{Accepted, accept, harmless, no, only, yes};

pub(super) const ACCEPTED: &[Accepted] = &[
    accept("envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer", &[]),
    accept(
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        &[
            yes("common_tls_context"),
            yes("sni"),
            harmless("max_session_keys", "sessions are kept within a fixed limit"),
            harmless("enforce_rsa_key_usage", "key usages are always enforced"),
        ],
    ),
    accept(
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        &[
            yes("common_tls_context"),
            yes("require_client_certificate"),
            harmless("session_timeout", "sessions are kept within a fixed limit"),
        ],
    ),
    accept(
        "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext",
        &[
            yes("tls_params"),
            no("tls_certificates", "name the secret `default` in `tls_certificate_sds_secret_configs`"),
            only("tls_certificate_sds_secret_configs", "one"),
            no("validation_context", "write `combined_validation_context`, with the secret `ROOTCA`"),
            yes("validation_context_sds_secret_config"),
            yes("combined_validation_context"),
            yes("alpn_protocols"),
        ],
    ),
    accept(
        "envoy.extensions.transport_sockets.tls.v3.TlsParameters",
        &[
            harmless("tls_minimum_protocol_version", "TLS 1.3 is always demanded"),
            only("tls_maximum_protocol_version", "TLSv1_3"),
        ],
    ),
    accept(
        "envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig",
        &[yes("name"), no("sds_config", "leave it out: secrets come with the workload's identity")],
    ),
    accept(
        "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.CombinedCertificateValidationContext",
        &[yes("default_validation_context"), yes("validation_context_sds_secret_config")],
    ),
    accept(
        "envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext",
        &[only("match_typed_subject_alt_names", "URIs, `exact` SPIFFE IDs")],
    ),
    accept(
        "envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher",
        &[only("san_type", "URI"), only("matcher", "`exact`")],
    ),
];
