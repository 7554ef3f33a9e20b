"""Drives a simulated Enterprise API of Entrust with the CA handler of acme2certifier, and checks every answer.

Arguments: URL, files with the client's certificate and key, file with the root (PEM), folder for the configuration.
Standard input: JSON with user and key, the issuing authority (PEM), and requests with their public keys (DER, hex). Ends
with the number of checks on its last line.
"""

import base64
import json
import logging
import os
import sys

URL, CERTIFICATE, KEY, ROOT, FOLDER = sys.argv[1:6]
GIVEN = json.load(sys.stdin)
DOMAINS = ["shop.example", "www.shop.example"]
CHECKS = 0
STORE = f"[DBhandler]\ndbfile: {FOLDER}/acme.db\n"
os.environ["ACME_SRV_CONFIGFILE"] = os.path.join(FOLDER, "acme_srv.cfg")
with open(os.environ["ACME_SRV_CONFIGFILE"], "w", encoding="utf-8") as file:
    file.write("[DEFAULT]\ndebug: False\n")

from acme2certifier.acme_srv import helper  # noqa: E402
from acme2certifier.cahandlers.entrust_ca_handler import CAhandler  # noqa: E402

LOGGER = logging.getLogger("acme2certifier")
LOGGER.addHandler(logging.NullHandler())
LOGGER.propagate = False


def check(condition, what):
    global CHECKS
    CHECKS += 1
    if not condition:
        raise SystemExit(f"not so: {what}")


def handler(**changed):
    """A handler as its own configuration makes it."""
    given = {
        "api_url": URL, "client_cert": CERTIFICATE, "client_key": KEY, "username": GIVEN["user"],
        "password": GIVEN["key"], "organization_name": "Example Inc", "cert_validity_days": "90",
        "entrust_root_cert": ROOT, "request_retries": "0",
    }
    given.update(changed)
    lines = [f"{name}: {value}" for name, value in given.items() if value]
    with open(os.environ["ACME_SRV_CONFIGFILE"], "w", encoding="utf-8") as file:
        file.write("[DEFAULT]\ndebug: False\n" + STORE + "[CAhandler]\n" + "\n".join(lines) + "\n")
    helper.load_config_cache_clear()
    with CAhandler(False, LOGGER) as made:
        return made


def credentials():
    good = handler()
    check(good.handler_check() is None, "the configuration is complete")
    check(good.credential_check() is None, "logged in")
    for what, changed in {"user": {"username": "nobody"}, "key": {"password": "wrong"}}.items():
        error = handler(**changed).credential_check()
        check(error and "not valid" in error, f"a wrong {what}: {error}")
    error = handler(client_cert="", client_key="").credential_check()
    check(error and "client certificate" in error, f"no client certificate: {error}")
    code, content = handler(password="wrong")._api_get(URL + "/organizations")
    check(code == 401 and content["status"] == 401 and content["errors"][0]["message"], f"refused: {content}")
    code, _ = handler(client_cert="", client_key="")._api_get(URL + "/organizations")
    check(code == 403, "refused without a certificate")


def account():
    made = handler()
    organizations = made._organizations_get()
    check(organizations == {"Example Inc": 1}, f"only those that are approved: {organizations}")
    check(made._domains_get(1) == DOMAINS, "its domains")
    check(made._domains_get(99) == [], "no such client")
    check(made._org_domain_cfg_check() is None and made.allowed_domainlist == DOMAINS, "the list is taken over")
    error = handler(organization_name="Unknown Inc")._org_domain_cfg_check()
    check(error == "Organization Unknown Inc not found in Entrust API", f"an unknown organisation: {error}")


def enrolment(number):
    made = handler()
    error, bundle, raw, poll = made.enroll(GIVEN["requests"][number]["csr"])
    check(error is None, f"enrolled: {error}")
    check(isinstance(poll, int) and poll > 0, f"the tracking id: {poll}")
    leaf = base64.b64decode(raw)
    check(bytes.fromhex(GIVEN["requests"][number]["key"]) in leaf, "for the key of the request")
    check(b"www.shop.example" in leaf, "for the names")
    with open(ROOT, encoding="utf-8") as file:
        root = file.read()
    check("".join(bundle.split()) == "".join((GIVEN["issuer"] + root).split()), "the chain, and the root after it")
    return raw, poll


def refusals():
    error, _bundle, raw, poll = handler().enroll(GIVEN["stranger"])
    check(error == "Either CN or SANs are not allowed by configuration", f"the handler checks domains: {error}")
    error, _bundle, raw, poll = handler()._enroll(GIVEN["stranger"])
    check(error.startswith("Error during order creation: 400"), f"and so does the service: {error}")
    check(raw is None and poll is None, "nothing was ordered")
    error = handler(cert_validity_days="1000")._enroll(GIVEN["requests"][0]["csr"])[0]
    check("out of range" in error, f"too long: {error}")
    error = handler(certtype="MUSHROOM")._enroll(GIVEN["requests"][0]["csr"])[0]
    check("MUSHROOM" in error, f"no such type: {error}")


def lists(orders):
    made = handler()
    found = made.certificates_get(limit=200)
    check([entry["trackingId"] for entry in found] == orders, f"one page: {found}")
    check([entry["trackingId"] for entry in made.certificates_get(limit=2)] == orders, "pages of two")
    for entry in found:
        serial = entry["serialNumber"]
        check(not serial.startswith("0"), "leading zeros are cut")
        check([one["trackingId"] for one in made._certificates_get_from_serial("0" + serial)] == [entry["trackingId"]], "by serial")
        check(entry["status"] == "ACTIVE" and entry["org"] == "Example Inc", f"{entry}")
    check(made._certificates_get_from_serial("4711") == [], "no such serial number")
    check(made._api_get(URL + "/certificates?limit=1001")[0] == 400, "too large a page")


def revocation(raw, poll):
    made = handler()
    check(made._trackingid_get(raw) == poll, "found by the serial number in the certificate")
    code, message, detail = made.revoke(raw, "superseded")
    check((code, message, detail) == (200, "Certificate revoked", None), f"revoked: {code} {message} {detail}")
    code, _message, detail = made.revoke(raw, "superseded")
    check(code == 500 and "REVOKED" in detail["errors"][0]["message"], f"twice: {detail}")
    code, content = made.revoke_by_trackingid(1)
    check(code == 404 and content["status"] == 404, "an unknown order")
    code, content = made.revoke_by_trackingid(poll, "boredom")
    check(code == 400 and "crlReason" in content["errors"][0]["message"], f"no such reason: {content}")
    code, content = made._api_get(f"{URL}/certificates/{poll}")
    check(code == 200 and content["status"] == "REVOKED", f"{content}")


credentials()
account()
MADE = [enrolment(number) for number in (0, 1, 0)]
refusals()
lists([poll for _raw, poll in MADE])
revocation(*MADE[0])
print(f"{CHECKS} checks")
