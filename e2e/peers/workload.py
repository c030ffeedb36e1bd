"""A workload that takes its identity from a Workload API, with PyPI's `spiffe`: a task a line, an answer a line, as JSON.

Arguments: the socket, as a path.
"""

import json
import sys
import threading
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from spiffe import JwtSvid, SpiffeId, TrustDomain, WorkloadApiClient

WITHIN = 20

client = WorkloadApiClient("unix://" + sys.argv[1], default_timeout=WITHIN)
lock = threading.Lock()
contexts, bundles, errors = [], [], []


def pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def fingerprint(certificate):
    return certificate.fingerprint(hashes.SHA256()).hex()


def is_signed_by(certificate, issuer):
    try:
        certificate.verify_directly_issued_by(issuer)
        return True
    except Exception:
        return False


def proven(svid, roots):
    """Whether a chain leads to one of the roots, by another library than ours."""
    chain = svid.cert_chain
    links = all(is_signed_by(chain[i], chain[i + 1]) for i in range(len(chain) - 1))
    return links and any(is_signed_by(chain[-1], root) for root in roots)


def described(svid, bundle_set):
    bundle = bundle_set.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    roots = list(bundle.x509_authorities)
    is_own = svid.leaf.public_key().public_numbers() == svid.private_key.public_key().public_numbers()
    return {
        "id": str(svid.spiffe_id),
        "serial": format(svid.leaf.serial_number, "x"),
        "ends": svid.leaf.not_valid_after_utc.timestamp(),
        "roots": sorted(fingerprint(root) for root in roots),
        "proven": proven(svid, roots) and is_own,
        "curve": isinstance(svid.private_key, ec.EllipticCurvePrivateKey),
        "domains": sorted(bundle.trust_domain.name for bundle in bundle_set.bundles),
    }


def noted(into, describe):
    def note(update):
        entry = {"at": time.time(), **describe(update)}
        with lock:
            into.append(entry)

    return note


def of_context(context):
    return {"svids": [described(svid, context.x509_bundle_set) for svid in context.x509_svids]}


def of_bundles(found):
    return {"keys": {b.trust_domain.name: sorted(b.jwt_authorities) for b in found.bundles}}


def x509_svids(task):
    return of_context(client.fetch_x509_context())


def save(task):
    svid = client.fetch_x509_svid()
    key = svid.private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    bundle = client.fetch_x509_bundles().get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    return {
        "chain": "".join(pem(one) for one in svid.cert_chain),
        "key": key.decode(),
        "roots": "".join(pem(one) for one in bundle.x509_authorities),
    }


def jwt(task):
    subject = SpiffeId(task["subject"]) if "subject" in task else None
    audience = set(task["audience"])
    svid = client.fetch_jwt_svid(audience, subject)
    found = client.fetch_jwt_bundles().get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    checked = JwtSvid.parse_and_validate(svid.token, found, audience)
    return {"id": str(checked.spiffe_id), "token": svid.token, "expires": checked.expiry}


def validate(task):
    svid = client.validate_jwt_svid(task["token"], task["audience"])
    return {"id": str(svid.spiffe_id)}


def bundle_set(task):
    found = client.fetch_x509_bundles()
    keys = client.fetch_jwt_bundles()
    return {
        "x509": {b.trust_domain.name: sorted(map(fingerprint, b.x509_authorities)) for b in found.bundles},
        **of_bundles(keys),
    }


def watch(task):
    wrong = lambda error: errors.append(str(error))
    client.stream_x509_contexts(noted(contexts, of_context), wrong)
    client.stream_jwt_bundles(noted(bundles, of_bundles), wrong)
    return {}


def seen(task):
    with lock:
        return {"contexts": list(contexts), "bundles": list(bundles), "errors": list(errors)}


TASKS = {f.__name__: f for f in (x509_svids, save, jwt, validate, bundle_set, watch, seen)}

for line in sys.stdin:
    task = json.loads(line)
    try:
        answer = TASKS[task["do"]](task)
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
