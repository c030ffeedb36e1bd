//! TLS and secrets.

use super::{Accepted, accept, harmless, no, only, yes};

const SESSIONS: &str = "sessions are kept within a fixed limit";

pub(super) const ACCEPTED: &[Accepted] = &[
    accept("envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer", &[]),
    accept(
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        &[
            yes("common_tls_context"),
            yes("sni"),
            yes("auto_host_sni"),
            yes("auto_sni_san_validation"),
            harmless("max_session_keys", SESSIONS),
            harmless("enforce_rsa_key_usage", "key usages are always enforced"),
        ],
    ),
    accept(
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        &[
            yes("common_tls_context"),
            yes("require_client_certificate"),
            harmless("session_timeout", SESSIONS),
            yes("full_scan_certs_on_sni_mismatch"),
            yes("disable_stateless_session_resumption"),
            yes("disable_stateful_session_resumption"),
        ],
    ),
    accept(
        "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext",
        &[
            yes("tls_params"),
            only("tls_certificates", "one for clients"),
            only("tls_certificate_sds_secret_configs", "one for clients"),
            yes("validation_context"),
            yes("validation_context_sds_secret_config"),
            yes("combined_validation_context"),
            yes("alpn_protocols"),
        ],
    ),
    accept(
        "envoy.extensions.transport_sockets.tls.v3.TlsParameters",
        &[
            only(
                "tls_minimum_protocol_version",
                "TLSv1_2 and TLSv1_3; between our own proxies always TLSv1_3",
            ),
            only(
                "tls_maximum_protocol_version",
                "TLSv1_2 and TLSv1_3; between our own proxies always TLSv1_3",
            ),
            only("cipher_suites", "those with ECDHE and AES-GCM or ChaCha20"),
            only("ecdh_curves", "X25519, P-256, P-384, X25519MLKEM768"),
        ],
    ),
    accept(
        "envoy.extensions.transport_sockets.tls.v3.TlsCertificate",
        &[
            yes("certificate_chain"),
            yes("private_key"),
            yes("watched_directory"),
            no("password", "write the key without a password, in a file that its owner alone may read"),
            no("pkcs12", "write `certificate_chain` and `private_key`"),
        ],
    ),
    accept(
        "envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig",
        &[
            yes("name"),
            only(
                "sds_config",
                "`ads`, or a file; without it, a secret of the bootstrap, or `default` and `ROOTCA` for the \
                 workload's own identity",
            ),
        ],
    ),
    accept(
        "envoy.extensions.transport_sockets.tls.v3.Secret",
        &[yes("name"), yes("tls_certificate"), yes("validation_context")],
    ),
    accept(
        "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.CombinedCertificateValidationContext",
        &[yes("default_validation_context"), yes("validation_context_sds_secret_config")],
    ),
    accept(
        "envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext",
        &[
            yes("trusted_ca"),
            yes("watched_directory"),
            yes("verify_certificate_spki"),
            yes("verify_certificate_hash"),
            only("match_typed_subject_alt_names", "with the mesh's own identity: URIs, `exact` SPIFFE IDs"),
            yes("match_subject_alt_names"),
            yes("allow_expired_certificate"),
            yes("trust_chain_verification"),
            yes("suppress_client_ca_list"),
        ],
    ),
    accept(
        "envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher",
        &[only("san_type", "URI, DNS, IP_ADDRESS, EMAIL"), yes("matcher")],
    ),
];
