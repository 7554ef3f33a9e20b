"""Drives a simulated Sectigo Certificate Manager with the Python client `cert_manager`, and checks every answer.

Arguments: URL, URL for logins with a certificate, URL for tokens, files with the client's certificate and key. Standard
input: JSON with the logins, the issuing authority and the root (PEM), and requests with their public keys (DER, hex). The
simulator wants a custom field, answers two polls and one more collection with "not ready", and takes every name. Ends
with the number of checks on its last line.
"""

import hashlib
import json
import ssl
import sys

import requests
from cert_manager import Client, DomainControlValidation, Organization, PendingError, SSL
from cert_manager.domain import Domain

URL, PRIVATE, TOKENS, CERTIFICATE, KEY = sys.argv[1:6]
GIVEN = json.load(sys.stdin)
FIELDS = [{"name": "cost centre", "value": "4711"}]
CHECKS = 0


def check(condition, what):
    global CHECKS
    CHECKS += 1
    if not condition:
        raise SystemExit(f"not so: {what}")


def raises(kind, what, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except kind as error:
        check(True, what)
        return error
    raise SystemExit(f"no {kind.__name__}: {what}")


def refused(status, code, what, call, *arguments, **named):
    error = raises(requests.HTTPError, what, call, *arguments, **named)
    body = error.response.json()
    check((error.response.status_code, body["code"]) == (status, code), f"{what}: {error.response.text}")
    check(isinstance(body["description"], str) and body["description"], f"{what}: it says why")
    return body


def login(**changed):
    given = dict(base_url=URL, login_uri=GIVEN["customer"], username=GIVEN["login"], password=GIVEN["password"])
    return Client(session=requests.Session(), **{**given, **changed})


def certificates(pem):
    end = "-----END CERTIFICATE-----"
    return [ssl.PEM_cert_to_DER_cert(part.strip() + "\n" + end) for part in pem.split(end)[:-1]]


def logins():
    for changed in ({"password": "wrong"}, {"username": "nobody"}, {"login_uri": "elsewhere"}):
        refused(401, -16, f"a login with {changed}", lambda: SSL(login(**changed)).types)

    by_certificate = Client(
        base_url=PRIVATE, login_uri=GIVEN["customer"], username=GIVEN["login"], cert_auth=True,
        user_crt_file=CERTIFICATE, user_key_file=KEY, session=requests.Session(),
    )
    check("password" not in by_certificate.headers, "no password is sent")
    check("Instant SSL" in SSL(by_certificate).types, "a certificate stands for the password")
    without = Client(base_url=PRIVATE, login_uri=GIVEN["customer"], username=GIVEN["login"], password="x",
                     session=requests.Session())
    refused(401, -16, "no certificate", lambda: SSL(without).types)

    by_token = Client(client_id=GIVEN["client_id"], client_secret=GIVEN["client_secret"], auth_url=TOKENS, base_url=URL)
    check("Instant SSL" in SSL(by_token).types, "a token stands for all three")
    raises(KeyError, "a wrong secret gives no token", Client, client_id=GIVEN["client_id"], client_secret="wrong",
           auth_url=TOKENS, base_url=URL)
    by_token.add_headers({"Authorization": "Bearer " + "0" * 64})
    refused(401, -16, "a wrong token", lambda: SSL(by_token).types)


def customer(client):
    organization = Organization(client)
    check([found["name"] for found in organization.all()] == ["Example Inc"], "one organisation")
    check(organization.find(org_name="Example Inc")[0]["id"] == 2, "found by name")
    check(organization.find(org_name="Example Inc", dept_name="none") == [], "without departments")
    api = SSL(client)
    check(api.types == {"Instant SSL": {"id": 17, "terms": [90, 365]}}, f"the profile: {api.types}")
    check(api.custom_fields == [{"id": 1, "name": "cost centre", "mandatory": True}], f"{api.custom_fields}")


def order(api, number, **changed):
    given = dict(
        cert_type_name="Instant SSL", csr=GIVEN["requests"][number]["csr"], term=90, org_id=2, custom_fields=FIELDS,
        subject_alt_names=["www.shop.example"], external_requester="operator@shop.example",
    )
    return api.enroll(**{**given, **changed})


def collected(api, number, format="x509CO"):
    """The certificate, after as many refusals as the simulator was told to give."""
    for attempt in range(3):
        raises(PendingError, f"collection {attempt} comes too early", api.collect, number, format)
    return api.collect(number, format)


def enrolment(client):
    api = SSL(client)
    made = order(api, 0)
    number = made["sslId"]
    check(isinstance(number, int) and len(made["renewId"]) == 20, f"the ids: {made}")
    entry = next(iter(api.list(commonName="shop.example")))
    check(entry["sslId"] == number and entry["serialNumber"] == "", f"listed before it is issued: {entry}")

    details = api.get(number)
    check(details["status"] == "Applied" and details["certType"]["id"] == 17 and details["term"] == 90, f"{details}")
    check(details["customFields"] == FIELDS and details["orgId"] == 2, f"{details}")
    check(details["comments"].startswith("Enrolled by cert_manager"), "the comment")
    check(details["externalRequester"] == "operator@shop.example", "the requester")
    check(details["subjectAlternativeNames"] == ["shop.example", "www.shop.example"], f"the names: {details}")
    check("issued" not in details and "serialNumber" not in details, "nothing is issued")
    check(api.get(number)["status"] == "Applied", "the second poll")
    details = api.get(number)
    check(details["status"] == "Issued" and details["issued"] and details["expires"], f"the third poll: {details}")
    digits = details["serialNumber"].split(":")
    # A zero stands in front of numbers whose first bit is set, as in DER.
    check(len(digits) == 16 or len(digits) == 17 and digits[0] == "00", f"the serial number: {details['serialNumber']}")
    error = raises(PendingError, "issued, but not to be collected yet", api.collect, number, "x509CO")
    answer = error.__cause__.response
    check(answer.status_code == 400, "not ready is 400")
    check(answer.json() == {"code": 0, "description": "Being processed by Sectigo"}, f"not ready: {answer.text}")

    leaf = certificates(api.collect(number, "x509CO"))
    check(len(leaf) == 1, "one certificate")
    check(bytes.fromhex(GIVEN["requests"][0]["key"]) in leaf[0], "for the key of the request")
    check(b"www.shop.example" in leaf[0], "for the names")
    sha1 = hashlib.sha1(leaf[0]).hexdigest().upper()
    check(details["certificateDetails"]["sha1Hash"] == sha1, f"its hash: {details['certificateDetails']}")
    issuer, root = certificates(GIVEN["issuer"])[0], certificates(GIVEN["root"])[0]
    for format, expected in {
        "x509": [root, issuer, leaf[0]], "x509IO": [root, issuer], "x509IOR": [issuer, root], "pemco": leaf,
        "pem": [leaf[0], issuer, root], "pemia": [leaf[0], issuer],
    }.items():
        check(certificates(api.collect(number, format)) == expected, f"the format {format}")
    bag = api.collect(number, "base64")
    check(bag.startswith("-----BEGIN PKCS7-----"), "PKCS#7")
    der = client.get(f"{URL}/ssl/v1/collect/{number}/bin").content
    check(all(part in der for part in (leaf[0], issuer, root)), "PKCS#7 in DER")
    body = bag.replace("-----BEGIN PKCS7-----", "").replace("-----END PKCS7-----", "")
    check(ssl.PEM_cert_to_DER_cert("-----BEGIN CERTIFICATE-----" + body + "-----END CERTIFICATE-----") == der, "the same")
    refused(400, -126, "an unknown format", client.get, f"{URL}/ssl/v1/collect/{number}/jks")
    refused(404, -124, "an unknown order", api.get, 1)
    return number, details["serialNumber"]


def refusals(client):
    api = SSL(client)
    good = {
        "orgId": 2, "csr": GIVEN["requests"][0]["csr"], "certType": 17, "term": 90, "subjAltNames": "",
        "customFields": FIELDS,
    }

    def enroll(**changed):
        return client.post(f"{URL}/ssl/v1/enroll", data={**good, **changed})

    before = api.count()
    for changed, code in [
        ({"orgId": 99}, -639), ({"certType": 99}, -111), ({"certType": None}, -7), ({"term": 91}, -36), ({"csr": ""}, -7),
        ({"csr": "AAAA"}, -9), ({"csr": "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----"}, -10),
        ({"csr": GIVEN["odd"]}, -13), ({"customFields": []}, -62), ({"customFields": FIELDS + [{"name": "x", "value": "y"}]}, -135),
        ({"comments": "x" * 1025}, -1601), ({"dcvMode": "PIGEON"}, -1601),
    ]:
        refused(400, code, f"an order with {list(changed)}", enroll, **changed)
    check(api.count() == before, "and nothing was ordered")
    raises(ValueError, "a term that the client knows to be wrong", order, api, 0, term=1)


def paging(client):
    api = SSL(client)
    before = api.count()
    names = [f"page{number}.shop.example" for number in range(5)]
    for name in names:
        order(api, 0, subject_alt_names=[name])
    check(api.count() == before + 5, "counted")
    check([found["sslId"] for found in api.list(size=2)] == [found["sslId"] for found in api.list()], "pages of two")
    check(len(list(api.list(size=2))) == before + 5, "all of them")
    found = list(api.list(subjectAlternativeName=names[3]))
    check(len(found) == 1 and names[3] in found[0]["subjectAlternativeNames"], f"by name: {found}")
    check(api.count(externalRequester="operator@shop.example") == before + 5, "by requester")
    check(api.count(externalRequester="nobody@shop.example") == 0, "by another")
    check(api.count(status="Applied") == 5, "by status")
    check(api.count(orgId=3) == 0 and api.count(sslTypeId=17) == before + 5, "by organisation and profile")
    refused(400, -1601, "too large a page", client.get, f"{URL}/ssl/v1", params={"size": 201})


def life(client, number, serial):
    api = SSL(client)
    check([found["sslId"] for found in api.list(serialNumber=serial)] == [number], "found by its serial number")
    plain = serial.replace(":", "").lower()
    check([found["sslId"] for found in api.list(serialNumber=plain)] == [number], "however it is written")

    old = api.collect(number, "x509CO")
    check(api.replace(cert_id=number, csr=GIVEN["requests"][1]["csr"], common_name="shop.example", reason="new key",
                      subject_alt_names="www.shop.example") == {}, "replaced")
    check(api.collect(number, "x509CO") == old, "the old certificate until the new one is there")
    check(api.collect(number, "x509CO") == old, "still")
    raises(PendingError, "issued, but not to be collected yet", api.collect, number, "x509CO")
    new = api.collect(number, "x509CO")
    check(new != old and bytes.fromhex(GIVEN["requests"][1]["key"]) in certificates(new)[0], "the new key")
    check(api.get(number)["serialNumber"] != serial and api.get(number)["replaced"], "under the same id")
    missing = {"csr": GIVEN["requests"][1]["csr"], "commonName": "shop.example"}
    refused(400, -7, "a replacement without a reason", client.post, f"{URL}/ssl/v1/replace/{number}", data=missing)

    renewed = api.renew(number)
    check(renewed["sslId"] != number, f"renewed: {renewed}")
    check(api.get(number)["renewed"] is True, "which the old order knows")
    refused(400, -180, "an order without a certificate is not renewed", api.renew, renewed["sslId"])
    check(bytes.fromhex(GIVEN["requests"][1]["key"]) in certificates(collected(api, renewed["sslId"]))[0], "the same key")

    raises(ValueError, "the client wants a reason", api.revoke, number, "")
    refused(400, -7, "and so does the service", client.post, f"{URL}/ssl/v1/revoke/{number}", data={"reasonCode": 4})
    refused(400, -1601, "a reason that there is not", client.post, f"{URL}/ssl/v1/revoke/{number}",
            data={"reasonCode": 2, "reason": "x"})
    check(api.revoke(number, reason="no longer used") == {}, "revoked")
    details = api.get(number)
    check(details["status"] == "Revoked" and details["reasonCode"] == 0 and details["revoked"], f"revoked: {details}")
    refused(400, -159, "twice", client.post, f"{URL}/ssl/v1/revoke/{number}", data={"reason": "x"})
    error = raises(PendingError, "not to be collected any more", api.collect, number, "x509")
    check(error.__cause__.response.json()["code"] == -110, "because it was revoked")

    serial = api.get(renewed["sslId"])["serialNumber"].replace(":", "")
    body = {"reasonCode": "4", "reason": "superseded"}
    check(client.post(f"{URL}/ssl/v1/revoke/serial/{serial}", data=body).status_code == 204, "revoked by serial number")
    check(api.get(renewed["sslId"])["reasonCode"] == 4, "for the reason given")
    pending = order(api, 0)["sslId"]
    refused(400, -102, "what is not issued is not revoked", client.post, f"{URL}/ssl/v1/revoke/{pending}", data={"reason": "x"})


def domains(client):
    domain = Domain(client)
    created = domain.create("shop.example", 2, ["SSL"])
    check(created["id"] > 0, f"a domain: {created}")
    raises(ValueError, "twice", domain.create, "shop.example", 2, ["SSL"])
    check(domain.count() == {"count": 1} and domain.count(name="other") == {"count": 0}, "counted")
    check(domain.all() == [{"id": created["id"], "name": "shop.example"}], "listed")
    check(domain.get(created["id"])["validationStatus"] == "NOT_VALIDATED", "not validated")

    dcv = DomainControlValidation(client)
    raises(ValueError, "an unknown domain", dcv.start_validation_cname, "other.example")
    raises(ValueError, "submitted before it was started", dcv.submit_validation_cname, "shop.example")
    record = dcv.start_validation_cname("shop.example")
    check(record["host"].endswith(".shop.example.") and record["host"].startswith("_"), f"the host: {record}")
    check(record["point"].endswith(".sectigo.com."), f"the target: {record}")
    state = dcv.get_validation_status("shop.example")
    check(state == {"status": "NOT_VALIDATED", "orderStatus": "AWAITING_SUBMITTAL"}, f"started: {state}")
    state = dcv.submit_validation_cname("shop.example")
    check((state["status"], state["orderStatus"]) == ("NOT_VALIDATED", "SUBMITTED"), f"nobody published it: {state}")
    newer = DomainControlValidation(client, api_version="v2").get_validation_status("shop.example")
    check(newer["orderStatus"] == "SUBMITTED", "the newer status")
    found = dcv.search(size=10, position=0)
    check(found[0]["domain"] == "shop.example" and found[0]["dcvMethod"] == "CNAME", f"searched: {found}")
    check(dcv.search(dcvStatus="VALIDATED") == [], "none is validated")


CLIENT = login()
logins()
customer(CLIENT)
NUMBER, SERIAL = enrolment(CLIENT)
refusals(CLIENT)
paging(CLIENT)
life(CLIENT, NUMBER, SERIAL)
domains(CLIENT)
print(f"{CHECKS} checks")
