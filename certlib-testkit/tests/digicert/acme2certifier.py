"""Drives the handler for CertCentral of acme2certifier. Arguments: a folder with `config` and requests `NAME.b64`."""

import base64
import logging
import os
import sys

from cryptography import x509
from cryptography.hazmat.primitives import serialization

folder = sys.argv[1]
os.environ["ACME_SRV_CONFIGFILE"] = os.path.join(folder, "config")
os.environ["REQUESTS_CA_BUNDLE"] = os.path.join(folder, "ca.pem")

from acme2certifier.cahandlers.digicert_ca_handler import CAhandler  # noqa: E402

checks = 0


def check(condition, what):
    global checks
    if not condition:
        sys.exit("not so: %s" % (what,))
    checks += 1


def request(name):
    with open(os.path.join(folder, name + ".b64"), encoding="ascii") as file:
        return file.read().strip()


def public_key(owner):
    return owner.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def handler():
    made = CAhandler(False, logging.getLogger("handler"))
    made.__enter__()
    return made


mode = sys.argv[2]
csr = request("one")
if mode == "issue":
    with handler() as ca:
        check(ca.handler_check() is None, "the configuration suffices")
        error, bundle, raw, order = ca.enroll(csr)
        check(error is None, error)
        check(isinstance(order, int), order)
        certificates = x509.load_pem_x509_certificates(bundle.encode())
        check(len(certificates) == 3, "leaf, intermediate and root")
        leaf, intermediate, root = certificates
        check(leaf == x509.load_der_x509_certificate(base64.b64decode(raw)), "the raw certificate is the leaf")
        leaf.verify_directly_issued_by(intermediate)
        intermediate.verify_directly_issued_by(root)
        root.verify_directly_issued_by(root)
        checks += 3
        padded = csr + "=" * (-len(csr) % 4)
        asked = x509.load_der_x509_csr(base64.urlsafe_b64decode(padded))
        check(public_key(leaf) == public_key(asked), "it has the key of the request")
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        check(names.get_values_for_type(x509.DNSName) == ["one.example.com"], names)
        days = (leaf.not_valid_after - leaf.not_valid_before).days
        check(190 <= days <= 200, "a year's order has a certificate of %s days" % days)
        check(ca.organization_id == 117483, "the organization was found by its name")
        # The handler asks nothing when it is to poll; that it cannot is its own business.
        check(ca.poll("name", order, csr)[0] == "Method not implemented.", "poll")
        code, _, detail = ca.revoke(raw)
        check((code, detail) == (200, None), (code, detail))
        code, _, detail = ca.revoke(raw)
        check(code == 400 and detail["errors"][0]["code"], (code, detail))
elif mode == "pending":
    with handler() as ca:
        error, bundle, raw, order = ca.enroll(csr)
        check((error, bundle, raw) == (None, None, None), "accepted, but not issued")
elif mode == "refused":
    with handler() as ca:
        error, bundle, raw, order = ca.enroll(csr)
        check(error and bundle is None, error)
        check(sys.argv[3] in error, error)
else:
    sys.exit("what is %s?" % mode)

print(checks, "checks")
