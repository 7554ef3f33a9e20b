"""Drives the simulated web enrolment pages with certsrv and checks every answer.

Arguments: host and port, file with the root certificate, files with a client certificate and its key, and the step:
`first`, or `then` with the number of a request that was issued since, and of one that was denied.
Standard input: user, password, another user, the other's password. The last line of `first` has the numbers of two
pending requests and the number of checks; that of `then` only the checks.
"""

import sys
import uuid
import warnings
from xml.etree import ElementTree

import certsrv
import requests
from certsrv import CertificatePendingException, Certsrv, CouldNotRetrieveCertificateException, RequestDeniedException
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

warnings.simplefilter("ignore")
SERVER, CA, CLIENT_CERTIFICATE, CLIENT_KEY, STEP = sys.argv[1:6]
USER, PASSWORD, OTHER, OTHER_PASSWORD = sys.stdin.read().split()
PKIX_TEMPLATE = x509.ObjectIdentifier("1.3.6.1.4.1.311.21.7")
CHECKS = 0


def check(condition, what):
    global CHECKS
    CHECKS += 1
    if not condition:
        raise SystemExit(f"not so: {what}")


def refused(kind, what, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except kind as error:
        check(True, what)
        return error
    raise SystemExit(f"not refused: {what}")


def client(method="basic", user=USER, password=PASSWORD):
    if method == "cert":
        user, password = CLIENT_CERTIFICATE, CLIENT_KEY
    return Certsrv(SERVER, user, password, auth_method=method, cafile=CA, timeout=20)


def request(names, key=None, subject="shop.example.com"):
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder()
    common = [x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject else []
    builder = builder.subject_name(x509.Name(common))
    if names:
        names = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        builder = builder.add_extension(names, critical=False)
    csr = builder.sign(key, hashes.SHA256())
    return key, csr.public_bytes(serialization.Encoding.PEM).decode()


def public(key):
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def names_of(certificate):
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)


def the_authority(server, what):
    text, binary = server.get_ca_cert(), server.get_ca_cert(encoding="bin")
    authority = x509.load_der_x509_certificate(binary)
    check(x509.load_pem_x509_certificate(text) == authority, f"{what}: both encodings of the authority")
    check(b"\r\n" in text and text.startswith(b"-----BEGIN CERTIFICATE-----\r\n"), f"{what}: lines end as on Windows")
    chain = pkcs7.load_der_pkcs7_certificates(server.get_chain())
    check(len(chain) == 2 and authority in chain, f"{what}: the chain {chain}")
    root = next(one for one in chain if one != authority)
    authority.verify_directly_issued_by(root)
    check(root.issuer == root.subject, f"{what}: the root")
    armoured = server.get_chain(encoding="b64").replace(b"CERTIFICATE", b"PKCS7")
    check(set(pkcs7.load_pem_pkcs7_certificates(armoured)) == set(chain), f"{what}: both encodings of the chain")
    return authority


def issuing(server, authority, what):
    key, csr = request(["shop.example.com", "www.example.com"])
    certificate = x509.load_pem_x509_certificate(server.get_cert(csr, "WebServer"))
    certificate.verify_directly_issued_by(authority)
    check(names_of(certificate) == ["shop.example.com", "www.example.com"], f"{what}: names {names_of(certificate)}")
    check(public(certificate.public_key()) == public(key.public_key()), f"{what}: the key")
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    check(list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH], f"{what}: usages {usage}")
    check(any(extension.oid == PKIX_TEMPLATE for extension in certificate.extensions), f"{what}: the template")
    key, csr = request(["rsa.example.com"], rsa.generate_private_key(65537, 2048))
    binary = server.get_cert(csr, "webserver", encoding="bin")
    check(names_of(x509.load_der_x509_certificate(binary)) == ["rsa.example.com"], f"{what}: RSA, binary")
    # Without armour, as Windows' own tools paste it.
    bare = "".join(line for line in csr.splitlines() if "-----" not in line)
    check(names_of(x509.load_pem_x509_certificate(server.get_cert(bare, "WebServer"))) == ["rsa.example.com"], "no armour")


def refusals(server, what):
    _, csr = request(["shop.example.com"])
    _, short = request(["shop.example.com"], rsa.generate_private_key(65537, 1024))
    _, curve = request(["shop.example.com"], ec.generate_private_key(ec.SECP521R1()))
    _, nobody = request([], subject="")
    ways = {
        "an unknown template": (csr, "Nothing", "0x80094800"),
        "no template": (csr, "", "0x80094801"),
        "no right to enrol": (csr, "OthersOnly", "0x80094012"),
        "a short key": (short, "WebServer", "0x80094811"),
        "another curve": (curve, "WebServer", "0x80094811"),
        "no name": (nobody, "WebServer", "0x80094001"),
        "signatures that are missing": (csr, "Agents", "0x8009480a"),
        "no request": ("no request", "WebServer", "0x8009310b"),
    }
    for name, (text, template, code) in ways.items():
        error = refused(RequestDeniedException, f"{what}: {name}", server.get_cert, text, template)
        check(code in str(error) and "Denied by Policy Module" in str(error), f"{what}: {name}: {error}")
    for number in ("999", "x"):
        error = refused(CouldNotRetrieveCertificateException, f"{what}: no such request", server.get_existing_cert, number)
        check("parameter is incorrect" in str(error), f"{what}: {error}")


def attributes(server):
    _, csr = request(["shop.example.com"])
    wanted = "SAN:dns=evil.example.com\r\n"
    certificate = x509.load_pem_x509_certificate(server.get_cert(csr, "WebServer", attributes=wanted))
    check(names_of(certificate) == ["shop.example.com"], "names in attributes do not count")
    certificate = x509.load_pem_x509_certificate(server.get_cert(csr, "Machine"))
    check(names_of(certificate) == [f"{USER}.example".lower()], f"the directory's names: {names_of(certificate)}")


def pending(server, what):
    _, csr = request(["shop.example.com"])
    number = refused(CertificatePendingException, f"{what}: pending", server.get_cert, csr, "Approved").req_id
    for _ in range(2):
        error = refused(CouldNotRetrieveCertificateException, f"{what}: not yet", server.get_existing_cert, number)
        check(str(error) == "Taken Under Submission", f"{what}: {error}")
    other = client(user=OTHER, password=OTHER_PASSWORD)
    error = refused(CouldNotRetrieveCertificateException, f"{what}: another's", other.get_existing_cert, number)
    check("Access is denied" in str(error), f"{what}: {error}")
    return number


def logins():
    for method in ("basic", "ntlm", "cert"):
        check(client(method).check_credentials(), f"the credentials, {method}")
    for method in ("basic", "ntlm"):
        for name in (f"EXAMPLE\\{USER}", f"{USER}@EXAMPLE", USER.upper()):
            check(client(method, name).check_credentials(), f"{name}, {method}")
        check(not client(method, password="wrong").check_credentials(), f"a wrong password, {method}")
        check(not client(method, "nobody").check_credentials(), f"nobody, {method}")
        server = client(method, password="wrong")
        refused(requests.HTTPError, f"a wrong password, {method}", server.get_ca_cert)
        server.update_credentials(USER, PASSWORD)
        check(server.check_credentials(), f"the right password at last, {method}")


def policies():
    """The policy service, which certsrv knows nothing of, with the same login."""
    url = f"https://{SERVER}/ADPolicyProvider_CEP_Kerberos/service.svc/CEP"
    namespace = "http://schemas.microsoft.com/windows/pki/2009/01/enrollmentpolicy"
    envelope = f"""<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://www.w3.org/2005/08/addressing">
<s:Header><a:Action s:mustUnderstand="1">{namespace}/IPolicy/GetPolicies</a:Action>
<a:MessageID>urn:uuid:{uuid.uuid4()}</a:MessageID><a:To s:mustUnderstand="1">{url}</a:To></s:Header>
<s:Body><GetPolicies xmlns="{namespace}"><client/><requestFilter/></GetPolicies></s:Body></s:Envelope>"""
    for password, expected in ((PASSWORD, 200), ("wrong", 401)):
        session = client("ntlm", password=password).session
        session.headers["Content-Type"] = "application/soap+xml; charset=utf-8"
        response = session.post(url, data=envelope, timeout=20)
        check(response.status_code == expected, f"the policy over NTLM: {response.status_code}")
        if expected == 200:
            tree = ElementTree.fromstring(response.content)
            names = [name.text for name in tree.iter(f"{{{namespace}}}commonName")]
            check("WebServer" in names and "Machine" in names, f"the policy's templates: {names}")


def first():
    logins()
    policies()
    numbers = []
    for method in ("basic", "ntlm", "cert"):
        server = client(method)
        authority = the_authority(server, method)
        issuing(server, authority, method)
        refusals(server, method)
        numbers.append(pending(server, method))
    attributes(client())
    check(len(set(numbers)) == 3, f"every request has its number: {numbers}")
    server = client()
    server.session.headers["User-agent"] = "python"
    _, csr = request(["shop.example.com"])
    refused(CouldNotRetrieveCertificateException, "what is no browser", server.get_cert, csr, "WebServer")
    _, csr = request(["shop.example.com"])
    old = certsrv.get_cert(SERVER, csr, "WebServer", USER, PASSWORD, cafile=CA)
    check(names_of(x509.load_pem_x509_certificate(old)) == ["shop.example.com"], "the old function")
    print(numbers[0], numbers[1], CHECKS)


def then(issued, denied):
    server = client("ntlm")
    certificate = x509.load_pem_x509_certificate(server.get_existing_cert(issued))
    check(names_of(certificate) == ["shop.example.com"], "what was issued")
    check(server.get_existing_cert(issued, encoding="bin") == certificate.public_bytes(serialization.Encoding.DER), "binary")
    error = refused(CouldNotRetrieveCertificateException, "what was denied", server.get_existing_cert, denied)
    check(str(error) == "Denied by EXAMPLE\\Administrator", f"denied: {error}")
    print(CHECKS)


if STEP == "first":
    first()
else:
    then(*sys.argv[6:8])
