"""Drives a simulated BIG-IP with f5-sdk, F5's Python client of iControl REST, and checks every answer.

Arguments: host, port, file with the root certificate, folder with one.crt, one.key, two.crt, two.key and chain.crt.
Standard input: a user and a password of the role administrator, then those of another user. Ends with the number of
checks on its last line.
"""

import io
import os
import sys

import requests
from f5.bigip import ManagementRoot
from f5.bigip.contexts import TransactionContextManager
from f5.sdk_exception import TransactionSubmitException
from icontrol.exceptions import iControlUnexpectedHTTPError

HOST, PORT, CA, FOLDER = sys.argv[1:5]
USER, PASSWORD, OTHER, OTHER_PASSWORD = sys.stdin.read().split()
DOWNLOADS = "/var/config/rest/downloads/"
CHECKS = 0


def check(condition, what):
    global CHECKS
    CHECKS += 1
    if not condition:
        raise SystemExit(f"not so: {what}")


def refused(status, code, what, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except (iControlUnexpectedHTTPError, TransactionSubmitException) as error:
        text = str(error)
        check(f"{status} Unexpected Error" in text and code in text, f"{what}: {text}")
        return
    raise SystemExit(f"not refused: {what}")


def connect(user=USER, password=PASSWORD, **named):
    return ManagementRoot(HOST, user, password, port=PORT, verify=CA, **named)


def upload(root, name, rename=None):
    """Uploads a file of the folder; gives where it lies."""
    with open(os.path.join(FOLDER, name), encoding="ascii") as file:
        text = file.read()
    target = rename or name
    uploads = root.shared.file_transfer.uploads
    uploads.upload_stringio(io.StringIO(text), target, chunk_size=100)
    return DOWNLOADS + target


def logins():
    root = connect(token=True)
    check(root.tmos_version.startswith("16."), "the version")
    token = root.icrs.session.auth.token
    check(len(token) == 26, "a token")
    tokens = f"https://{HOST}:{PORT}/mgmt/shared/authz/tokens/{token}"
    extended = root.icrs.patch(tokens, json={"timeout": 3600}).json()
    check(extended["timeout"] == 3600 and extended["userName"] == USER, "extended")
    refused(406, "absolute timeout", "too long a life", root.icrs.patch, tokens, json={"timeout": 36001})
    root.icrs.delete(tokens)
    refused(401, "does not exist", "a token that is gone", root.icrs.get, tokens)
    check(connect().tmos_version == root.tmos_version, "with HTTP Basic")
    refused(401, "Authentication failed", "a wrong password", connect, password="wrong", token=True)
    refused(401, "Authorization failed", "the same with HTTP Basic", connect, password="wrong")
    guest = connect(OTHER, OTHER_PASSWORD, token=True)
    check(guest.tm.sys.file.ssl_certs.get_collection(), "a guest may look")
    refused(401, "Authorization failed", "but not change", guest.tm.sys.config.exec_cmd, "save")


def files(root):
    certs, keys = root.tm.sys.file.ssl_certs, root.tm.sys.file.ssl_keys
    path = upload(root, "one.crt")
    listed = root.tm.util.unix_ls.exec_cmd("run", utilCmdArgs=DOWNLOADS).commandResult
    check("one.crt" in listed, "uploaded in chunks")
    made = certs.ssl_cert.create(name="one.crt", partition="Common", sourcePath="file:" + path)
    check(made.fullPath == "/Common/one.crt" and made.keyType == "ec-public", "a certificate file")
    size = os.path.getsize(os.path.join(FOLDER, "one.crt"))
    check(made.checksum.startswith(f"SHA1:{size}:") and made.fingerprint.startswith("SHA256/"), "its sums")
    check(made.isBundle == "false" and made.expirationDate > 1_700_000_000, "its properties")
    check("DNS:shop.example" in made.subjectAlternativeName, "its names")
    again = {"name": "one.crt", "partition": "Common", "sourcePath": "file:" + path}
    refused(409, "01020066:3", "making it twice", certs.ssl_cert.create, **again)
    loaded = certs.ssl_cert.load(name="one.crt", partition="Common")
    check(loaded.checksum == made.checksum, "read back")
    check(certs.ssl_cert.exists(name="one.crt", partition="Common"), "exists")
    check(not certs.ssl_cert.exists(name="absent.crt", partition="Common"), "does not exist")
    refused(404, "01020036:3", "an absent one", certs.ssl_cert.load, name="absent.crt", partition="Common")
    key = keys.ssl_key.create(name="one.key", partition="Common", sourcePath="file:" + upload(root, "one.key"))
    check(key.keyType == "ec-private", "a key file")
    wrong = {"name": "x.crt", "partition": "Common", "sourcePath": "file:" + DOWNLOADS + "one.key"}
    refused(400, "Unable to validate certificate", "a key for a certificate", certs.ssl_cert.create, **wrong)
    absent = {"name": "x.crt", "partition": "Common", "sourcePath": "file:" + DOWNLOADS + "absent"}
    refused(400, "01070734:3", "no such upload", certs.ssl_cert.create, **absent)
    chain = upload(root, "chain.crt")
    certs.ssl_cert.create(name="chain.crt", partition="Common", sourcePath="file:" + chain)
    names = {cert.name for cert in certs.get_collection()}
    check({"default.crt", "one.crt", "chain.crt"} <= names, "listed")
    some = certs.get_collection(requests_params={"params": {"$top": "1", "$select": "kind,name,selfLink"}})
    check(len(some) == 1 and "checksum" not in vars(some[0]), "a page of selected fields")
    gone = root.tm.util.unix_rm.exec_cmd("run", utilCmdArgs=path)
    check("commandResult" not in vars(gone), "the upload is removed")


def crypto(root):
    cert = {"name": "/Common/crypto", "from-local-file": upload(root, "two.crt")}
    key = {"name": "/Common/crypto", "from-local-file": upload(root, "two.key")}
    root.tm.sys.crypto.keys.exec_cmd("install", **key)
    root.tm.sys.crypto.certs.exec_cmd("install", **cert)
    check(root.tm.sys.crypto.certs.cert.load(name="crypto.crt", partition="Common").name == "crypto.crt", "installed")
    check(root.tm.sys.file.ssl_keys.ssl_key.exists(name="crypto.key", partition="Common"), "the same as a file")
    root.tm.sys.crypto.keys.key.load(name="crypto.key", partition="Common").delete()
    check(not root.tm.sys.file.ssl_keys.ssl_key.exists(name="crypto.key", partition="Common"), "deleted")


def profiles(root):
    client = root.tm.ltm.profile.client_ssls.client_ssl
    entry = {"name": "shop", "cert": "/Common/one.crt", "key": "/Common/one.key", "chain": "/Common/chain.crt"}
    made = client.create(name="sdk", partition="Common", certKeyChain=[entry])
    check(made.cert == "/Common/one.crt" and made.inheritCertkeychain == "false", "a client-ssl profile")
    check(made.certKeyChain[0]["chain"] == "/Common/chain.crt", "its chain")
    child = client.create(name="child", partition="Common", defaultsFrom="/Common/sdk")
    check(child.inheritCertkeychain == "true" and child.cert == "/Common/one.crt", "a profile that inherits")
    refused(400, "01070265:3", "deleting a parent", client.load(name="sdk", partition="Common").delete)
    cert = root.tm.sys.file.ssl_certs.ssl_cert.load(name="one.crt", partition="Common")
    refused(400, "01070265:3", "deleting what is in use", cert.delete)
    refused(400, "01b4002a:3", "both ways at once", made.modify, cert="/Common/one.crt", certKeyChain=[entry])
    refused(400, "01070317:3", "another key", made.modify, key="/Common/default.key")
    refused(404, "01020036:3", "no such certificate", made.modify, cert="/Common/absent.crt")
    child.delete()
    check(not client.exists(name="child", partition="Common"), "deleted")
    server = root.tm.ltm.profile.server_ssls.server_ssl
    back = server.create(name="back", partition="Common", cert="/Common/one.crt", key="/Common/one.key")
    check(back.cert == "/Common/one.crt" and "certKeyChain" not in vars(back), "a server-ssl profile")


def partitions(root):
    path = "file:" + upload(root, "one.crt")
    inside = root.tm.sys.file.ssl_certs.ssl_cert.create(name="in.crt", partition="Tenant", subPath="app", sourcePath=path)
    check(inside.fullPath == "/Tenant/app/in.crt", "in a folder")
    loaded = root.tm.sys.file.ssl_certs.ssl_cert.load(name="in.crt", partition="Tenant", subPath="app")
    check(loaded.subPath == "app", "read back from there")
    client = root.tm.ltm.profile.client_ssls.client_ssl
    across = {"cert": "/Tenant/app/in.crt", "key": "/Common/one.key"}
    refused(400, "01070726:3", "into another partition", client.create, name="x", partition="Common", **across)
    nowhere = {"name": "x.crt", "partition": "Nowhere", "sourcePath": path}
    refused(400, "01070734:3", "no such partition", root.tm.sys.file.ssl_certs.ssl_cert.create, **nowhere)
    filtered = root.tm.sys.file.ssl_certs.get_collection(requests_params={"params": "$filter=partition eq Tenant"})
    check([cert.fullPath for cert in filtered] == ["/Tenant/app/in.crt"], "filtered")


def transactions(root):
    certs, keys = root.tm.sys.file.ssl_certs, root.tm.sys.file.ssl_keys
    cert, key = "file:" + upload(root, "two.crt"), "file:" + upload(root, "two.key")
    profile = root.tm.ltm.profile.client_ssls.client_ssl
    loaded = profile.load(name="sdk", partition="Common")

    def swap(cert, key, validate_only=False):
        transaction = root.tm.transactions.transaction
        with TransactionContextManager(transaction, validate_only=validate_only) as api:
            api.tm.sys.file.ssl_certs.ssl_cert.create(name="two.crt", partition="Common", sourcePath=cert)
            api.tm.sys.file.ssl_keys.ssl_key.create(name="two.key", partition="Common", sourcePath=key)
            entry = {"name": "shop", "cert": "/Common/two.crt", "key": "/Common/two.key"}
            queued = api.tm.ltm.profile.client_ssls.client_ssl
            queued._meta_data["uri"] = loaded._meta_data["uri"]
            api.icrs.patch(loaded._meta_data["uri"], json={"certKeyChain": [entry]})

    other = "file:" + upload(root, "one.key", "other.key")
    refused(400, "01070317:3", "a key of another certificate", swap, cert, other)
    check(not certs.ssl_cert.exists(name="two.crt", partition="Common"), "nothing was done")
    loaded.refresh()
    check(loaded.cert == "/Common/one.crt", "the profile is as it was")
    swap(cert, key, validate_only=True)
    check(not keys.ssl_key.exists(name="two.key", partition="Common"), "only a rehearsal")
    swap(cert, key)
    loaded.refresh()
    check(loaded.cert == "/Common/two.crt" and loaded.certKeyChain[0]["key"] == "/Common/two.key", "all was done")
    former = certs.ssl_cert.load(name="one.crt", partition="Common")
    refused(400, "01070265:3", "still in use by the server-ssl profile", former.delete)

    collection = f"https://{HOST}:{PORT}/mgmt/tm/transaction"
    begun = root.icrs.post(collection, json={}).json()
    check(begun["state"] == "STARTED" and begun["timeoutSeconds"] == 120, "a transaction by hand")
    headers = {"X-F5-REST-Coordination-Id": str(begun["transId"])}
    uri = f"https://{HOST}:{PORT}/mgmt/tm/sys/file/ssl-cert"
    refused(400, "", "looking inside one", root.icrs.get, uri, headers=headers)
    command = root.icrs.delete(uri + "/~Common~absent.crt", headers=headers).json()
    check(command["commandId"] == 1 and command["method"] == "DELETE", "a command is kept")
    listed = root.icrs.get(f"{collection}/{begun['transId']}/commands").json()["items"]
    check([item["uri"].rsplit("/", 1)[1] for item in listed] == ["~Common~absent.crt"], "and listed")
    own = f"{collection}/{begun['transId']}"
    refused(400, "transaction failed:01020036:3", "its commit", root.icrs.patch, own, json={"state": "VALIDATING"})
    check(root.icrs.get(own).json()["state"] == "FAILED", "its end")
    root.icrs.delete(own)
    refused(404, "", "a transaction that is gone", root.icrs.get, own)


def system(root):
    virtuals = root.tm.ltm.virtuals.get_collection(requests_params={"params": "expandSubcollections=true"})
    listed = virtuals[0].profilesReference["items"]
    check(listed[0]["fullPath"] == "/Common/served" and listed[0]["context"] == "clientside", "a virtual server")
    check(root.tm.sys.config.exec_cmd("save").command == "save", "saved")
    devices = root.tm.cm.devices.get_collection()
    own = [device for device in devices if device.selfDevice == "true"]
    check(len(devices) == 2 and own[0].failoverState == "active", "two units")
    status = root.tm.cm.sync_status
    status.refresh()
    entries = next(iter(status.entries.values()))["nestedStats"]["entries"]
    check(entries["status"]["description"] == "Changes Pending", "not in sync yet")
    root.tm.cm.exec_cmd("run", utilCmdArgs="config-sync to-group pair")
    status.refresh()
    entries = next(iter(status.entries.values()))["nestedStats"]["entries"]
    check(entries["status"]["description"] == "In Sync" and entries["color"]["description"] == "green", "in sync")
    refused(404, "01020036:3", "no such group", root.tm.cm.exec_cmd, "run", utilCmdArgs="config-sync to-group x")


def uploads_by_hand(root):
    uri = f"https://{HOST}:{PORT}/mgmt/shared/file-transfer/uploads/hand"
    kind = {"Content-Type": "application/octet-stream"}
    send = root.icrs.post
    refused(400, "Content-Range", "no range", send, uri, data=b"abc", headers=kind)
    refused(400, "Content-Range", "a range with a unit", send, uri, data=b"abc", headers={**kind, "Content-Range": "bytes 0-2/3"})
    refused(400, "does not follow", "a gap", send, uri, data=b"abc", headers={**kind, "Content-Range": "3-5/9"})
    big = b"x" * (1024 * 1024 + 1)
    refused(400, "too large", "a large chunk", send, uri, data=big, headers={**kind, "Content-Range": f"0-{len(big) - 1}/{len(big)}"})
    first = send(uri, data=b"abc", headers={**kind, "Content-Range": "0-2/5"}).json()
    last = send(uri, data=b"de", headers={**kind, "Content-Range": "3-4/5"}).json()
    check(first["remainingByteCount"] == 2 and last["remainingByteCount"] == 0, "two chunks")
    check(last["localFilePath"] == DOWNLOADS + "hand", "where it lies")
    anonymous = requests.get(f"https://{HOST}:{PORT}/mgmt/tm/sys/version", verify=CA, timeout=30)
    body = anonymous.json()
    check(anonymous.status_code == 401 and body["kind"] == ":resterrorresponse", "nobody gets in without a login")


logins()
ROOT = connect(token=True)
files(ROOT)
crypto(ROOT)
profiles(ROOT)
partitions(ROOT)
transactions(ROOT)
system(ROOT)
uploads_by_hand(ROOT)
print(f"{CHECKS} checks")
