"""Drives the simulated web enrolment pages with acme2certifier's mscertsrv_ca_handler and checks every outcome.

Arguments: host and port, file with the root certificate. Standard input: user, password.
Ends with the number of checks on its last line.
"""

import base64
import logging
import sys

from acme2certifier.cahandlers import mscertsrv_ca_handler
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SERVER, CA = sys.argv[1:3]
USER, PASSWORD = sys.stdin.read().split()
LOGGER = logging.getLogger("handler")
logging.disable(logging.CRITICAL)
CHECKS = 0


def check(condition, what):
    global CHECKS
    CHECKS += 1
    if not condition:
        raise SystemExit(f"not so: {what}")


def request(name):
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder()
    builder = builder.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    csr = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    return key, base64.urlsafe_b64encode(csr).decode().rstrip("=")


def handler(**options):
    made = mscertsrv_ca_handler.CAhandler(False, LOGGER)
    settings = {
        "host": SERVER,
        "user": USER,
        "password": PASSWORD,
        "ca_bundle": CA,
        "template": "WebServer",
        "ca_templates_check": "on",
    }
    for name, value in (settings | options).items():
        setattr(made, name, value)
    return made


def enrol(what, name="shop.example.com", **options):
    key, csr = request(name)
    with handler(**options) as made:
        check(made.handler_check() is None, f"{what}: ready")
        error, bundle, raw, poll = made.enroll(csr)
    check(poll is None, f"{what}: nothing to poll")
    return key, error, bundle, raw


def issued(what, **options):
    key, error, bundle, raw = enrol(what, **options)
    check(error is None, f"{what}: {error}")
    leaf, authority, root = x509.load_pem_x509_certificates(bundle.encode())
    if leaf.issuer != authority.subject:
        authority, root = root, authority
    leaf.verify_directly_issued_by(authority)
    authority.verify_directly_issued_by(root)
    check(leaf == x509.load_der_x509_certificate(base64.b64decode(raw)), f"{what}: the leaf by itself")
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    check(names.get_values_for_type(x509.DNSName) == ["shop.example.com"], f"{what}: {names}")
    check(leaf.public_key() == key.public_key(), f"{what}: the key")


def refused(what, expected, **options):
    _, error, bundle, raw = enrol(what, **options)
    check(error is not None and expected in error, f"{what}: {error}")
    check(bundle is None and raw is None, f"{what}: nothing is given")


issued("by host")
issued("by URL", host=None, url=f"https://{SERVER}/certsrv")
issued("no check of templates", ca_templates_check="off")
issued("a list of templates", allowed_templates=["WebServer"])
FETCH = mscertsrv_ca_handler.CAhandler.CERT_FETCH_ERROR
refused("a wrong password", "Credentialcheck failed", password="wrong")
refused("an unknown template", "was not found", template="Nothing")
refused("an unknown template that is tried", FETCH, template="Nothing", ca_templates_check="warn")
refused("a template of others", "was not found", template="OthersOnly")
refused("a template of others that is tried", FETCH, template="OthersOnly", ca_templates_check="off")
refused("one that waits", FETCH, template="Approved")
print(f"{CHECKS} checks")
