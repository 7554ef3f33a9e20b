"""Drives a simulated Vault with hvac, the Python client of Vault, and checks every answer.

Arguments: address, address of the standby, file with the root certificate, file with a client's certificate, file with its
key, file with the certificate of its issuer, file with the key of the identity provider. Standard input: root token, unseal
key, signed statements of the identity provider about a user and about a service account, and one of a stranger.
Ends with the number of checks on its last line.
"""

import base64
import sys

import hvac
from hvac import exceptions

ADDRESS, STANDBY, CA, CLIENT_CERT, CLIENT_KEY, CLIENT_CA, IDENTITY_KEY = sys.argv[1:8]
ROOT, UNSEAL_KEY, USER_JWT, ACCOUNT_JWT, STRANGER_JWT = sys.stdin.read().split()
CHECKS = 0


def check(condition, what):
    global CHECKS
    CHECKS += 1
    if not condition:
        raise SystemExit(f"not so: {what}")


def refused(kind, what, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except exceptions.VaultError as error:
        check(type(error) is kind, f"{what}: {type(error).__name__} {error} instead of {kind.__name__}")
        return error
    raise SystemExit(f"not refused: {what}")


def b64(value):
    return base64.b64encode(value).decode()


def client(token=None, address=ADDRESS, namespace=None):
    return hvac.Client(url=address, token=token, verify=CA, namespace=namespace)


def system():
    root = client(ROOT)
    check(root.sys.is_initialized() and not root.sys.is_sealed(), "initialized and not sealed")
    health = root.sys.read_health_status(method="GET")
    check(health["initialized"] and not health["standby"] and not health["sealed"], "healthy")
    check(root.is_authenticated(), "the root token is known")
    check(not client("hvs.unknown").is_authenticated(), "another one is not")
    root.sys.enable_secrets_engine("transit", description="keys")
    mounts = root.sys.list_mounted_secrets_engines()["data"]
    check(mounts["transit/"]["type"] == "transit" and mounts["transit/"]["description"] == "keys", "mounted")
    refused(exceptions.InvalidRequest, "mounting twice", root.sys.enable_secrets_engine, "transit")
    refused(exceptions.InvalidPath, "an unmounted path", root.secrets.transit.read_key, "app", mount_point="nowhere")

    standby = client(ROOT, STANDBY)
    check(standby.sys.read_health_status(method="GET").status_code == 429, "the standby says so")
    check(standby.secrets.transit.create_key("redirected")["data"]["latest_version"] == 1, "through the standby")
    check("redirected" in root.secrets.transit.list_keys()["data"]["keys"], "arrived at the active node")


def transit():
    engine = client(ROOT).secrets.transit
    created = engine.create_key("app")
    check(created["data"]["type"] == "aes256-gcm96", "the default type")
    check("already existed" in engine.create_key("app")["warnings"][0], "creating twice only warns")
    key = engine.read_key("app")["data"]
    check(key["latest_version"] == 1 and list(key["keys"]) == ["1"], "one version")
    check(key["min_decryption_version"] == 1 and key["min_encryption_version"] == 0, "lowest versions")
    check(not key["derived"] and not key["exportable"] and key["supports_encryption"], "properties")
    refused(exceptions.InvalidPath, "an absent key", engine.read_key, "absent")
    refused(exceptions.InvalidRequest, "an unknown type", engine.create_key, "other", key_type="rsa-2048")

    plain, aad = b64(b"a data key of thirty-two bytes.."), b64(b"a place")
    sealed = engine.encrypt_data("app", plaintext=plain, associated_data=aad)["data"]
    prefix, version, body = sealed["ciphertext"].split(":")
    check((prefix, version, sealed["key_version"]) == ("vault", "v1", 1), "prefix and version")
    check(len(base64.b64decode(body)) == 12 + 32 + 16, "nonce, ciphertext and tag")
    opened = engine.decrypt_data("app", ciphertext=sealed["ciphertext"], associated_data=aad)
    check(opened["data"]["plaintext"] == plain, "decrypted with the same associated data")
    for other in (b64(b"another place"), None):
        refused(
            exceptions.InvalidRequest,
            "decrypting with other associated data",
            engine.decrypt_data,
            "app",
            ciphertext=sealed["ciphertext"],
            associated_data=other,
        )
    again = engine.encrypt_data("app", plaintext=plain, associated_data=aad)["data"]
    check(again["ciphertext"] != sealed["ciphertext"], "another nonce")
    refused(exceptions.InvalidRequest, "no base64", engine.encrypt_data, "app", plaintext="*")
    refused(exceptions.InvalidRequest, "no ciphertext", engine.decrypt_data, "app", ciphertext="nonsense")
    refused(exceptions.InvalidRequest, "a later version", engine.decrypt_data, "app", ciphertext=f"vault:v9:{body}")

    engine.rotate_key("app")
    check(engine.read_key("app")["data"]["latest_version"] == 2, "rotated")
    second = engine.encrypt_data("app", plaintext=plain)["data"]
    check(second["ciphertext"].startswith("vault:v2:"), "the latest version encrypts")
    chosen = engine.encrypt_data("app", plaintext=plain, key_version=1)["data"]
    check(chosen["ciphertext"].startswith("vault:v1:"), "an older one if asked")
    check(
        engine.decrypt_data("app", ciphertext=sealed["ciphertext"], associated_data=aad)["data"]["plaintext"] == plain,
        "an older one still decrypts",
    )
    rewrapped = engine.rewrap_data("app", ciphertext=chosen["ciphertext"])["data"]
    check(rewrapped["ciphertext"].startswith("vault:v2:"), "rewrapped to the latest version")
    check(engine.decrypt_data("app", ciphertext=rewrapped["ciphertext"])["data"]["plaintext"] == plain, "the same")
    refused(
        exceptions.InvalidRequest,
        "rewrapping what has associated data",
        engine.rewrap_data,
        "app",
        ciphertext=sealed["ciphertext"],
    )

    first = engine.generate_hmac("app", hash_input=b64(b"text"), key_version=1)["data"]["hmac"]
    check(first == engine.generate_hmac("app", hash_input=b64(b"text"), key_version=1)["data"]["hmac"], "one HMAC")
    check(len(base64.b64decode(first.split(":")[2])) == 32, "of 32 bytes")
    latest = engine.generate_hmac("app", hash_input=b64(b"text"), algorithm="sha2-256")["data"]["hmac"]
    check(latest.startswith("vault:v2:") and latest.split(":")[2] != first.split(":")[2], "one key for each version")
    check(engine.verify_signed_data("app", hash_input=b64(b"text"), hmac=first)["data"]["valid"], "verified")
    check(not engine.verify_signed_data("app", hash_input=b64(b"TEXT"), hmac=first)["data"]["valid"], "not verified")

    engine.update_key_configuration("app", min_encryption_version=2)
    refused(exceptions.InvalidRequest, "too old", engine.encrypt_data, "app", plaintext=plain, key_version=1)
    refused(exceptions.InvalidRequest, "too old", engine.generate_hmac, "app", hash_input=b64(b"x"), key_version=1)
    check(engine.verify_signed_data("app", hash_input=b64(b"text"), hmac=first)["data"]["valid"], "still verified")
    check(engine.decrypt_data("app", ciphertext=chosen["ciphertext"])["data"]["plaintext"] == plain, "still decrypts")
    engine.update_key_configuration("app", min_decryption_version=2)
    check(list(engine.read_key("app")["data"]["keys"]) == ["2"], "an archived version is not shown")
    refused(exceptions.InvalidRequest, "archived", engine.decrypt_data, "app", ciphertext=chosen["ciphertext"])
    refused(exceptions.InvalidRequest, "beyond the latest", engine.update_key_configuration, "app", min_decryption_version=3)
    engine.trim_key("app", min_version=2)
    check(engine.read_key("app")["data"]["min_available_version"] == 2, "trimmed")

    refused(exceptions.InvalidRequest, "deleting", engine.delete_key, "app")
    engine.update_key_configuration("app", deletion_allowed=True)
    engine.delete_key("app")
    refused(exceptions.InvalidPath, "a deleted key", engine.read_key, "app")


def batches():
    engine = client(ROOT).secrets.transit
    engine.create_key("batch", key_type="chacha20-poly1305")
    items = [{"plaintext": b64(b"one"), "reference": "1"}, {"plaintext": b64(b"two"), "associated_data": b64(b"x")}]
    results = engine.encrypt_data("batch", batch_input=items)["data"]["batch_results"]
    check([result["reference"] for result in results] == ["1", ""], "references")
    back = [{"ciphertext": results[0]["ciphertext"]}, {"ciphertext": results[1]["ciphertext"], "associated_data": b64(b"x")}]
    opened = engine.decrypt_data("batch", batch_input=back)["data"]["batch_results"]
    check([result["plaintext"] for result in opened] == [b64(b"one"), b64(b"two")], "a batch decrypts")
    del back[1]["associated_data"]
    error = refused(exceptions.InvalidRequest, "a batch with a bad item", engine.decrypt_data, "batch", batch_input=back)
    inside = error.json["data"]["batch_results"]
    check(inside[0]["plaintext"] == b64(b"one") and "error" in inside[1], "the good item is there all the same")
    rewrapped = engine.rewrap_data("batch", ciphertext="", batch_input=[{"ciphertext": results[0]["ciphertext"]}])
    check(rewrapped["data"]["batch_results"][0]["key_version"] == 1, "a batch is rewrapped")


def derived():
    engine = client(ROOT).secrets.transit
    engine.create_key("derived", derived=True)
    context = b64(b"context")
    sealed = engine.encrypt_data("derived", plaintext=b64(b"x"), context=context)["data"]["ciphertext"]
    check(engine.decrypt_data("derived", sealed, context=context)["data"]["plaintext"] == b64(b"x"), "derived")
    refused(exceptions.InvalidRequest, "another context", engine.decrypt_data, "derived", sealed, context=b64(b"y"))
    refused(exceptions.InvalidRequest, "no context", engine.encrypt_data, "derived", plaintext=b64(b"x"))


def logins():
    root = client(ROOT)
    policy = '{"path": {"transit/encrypt/app*": {"capabilities": ["update"]}, "transit/keys": {"capabilities": ["list"]}}}'
    root.sys.create_or_update_policy("app", policy)
    check("app" in root.sys.list_policies()["data"]["policies"], "a policy")
    root.secrets.transit.create_key("app1")
    made = root.auth.token.create(policies=["app"], ttl="1h")["auth"]
    check(made["renewable"] and made["lease_duration"] == 3600, "a token for an hour")
    app = client(made["client_token"])
    own = app.auth.token.lookup_self()["data"]
    check(own["policies"] == ["app", "default"] and 3590 < own["ttl"] <= 3600, "its properties")
    check(app.auth.token.renew_self(increment="2h")["auth"]["lease_duration"] == 7200, "renewed")
    check(app.secrets.transit.encrypt_data("app1", plaintext=b64(b"x"))["data"]["key_version"] == 1, "may encrypt")
    refused(exceptions.Forbidden, "decrypting", app.secrets.transit.decrypt_data, "app1", ciphertext="vault:v1:x")
    refused(exceptions.Forbidden, "creating by encrypting", app.secrets.transit.encrypt_data, "app2", plaintext=b64(b"x"))
    check("app2" not in app.secrets.transit.list_keys()["data"]["keys"], "nothing was created")
    rights = app.sys.get_capabilities(["transit/encrypt/app1", "transit/decrypt/app1"])["data"]
    check(rights["transit/encrypt/app1"] == ["update"] and rights["transit/decrypt/app1"] == ["deny"], "its rights")
    check(root.secrets.transit.encrypt_data("app2", plaintext=b64(b"x"))["data"]["key_version"] == 1, "created by root")
    app.auth.token.revoke_self()
    refused(exceptions.Forbidden, "a revoked token", app.auth.token.lookup_self)

    root.sys.enable_auth_method("approle")
    role = root.auth.approle
    role.create_or_update_approle("worker", token_policies=["app"], token_ttl="20m", secret_id_num_uses=1)
    role_id = role.read_role_id("worker")["data"]["role_id"]
    secret = role.generate_secret_id("worker")["data"]
    check(secret["secret_id_num_uses"] == 1, "for one use")
    worker = client()
    worker.auth.approle.login(role_id=role_id, secret_id=secret["secret_id"])
    check(worker.is_authenticated() and worker.auth.token.lookup_self()["data"]["ttl"] <= 1200, "logged in")
    refused(
        exceptions.InvalidRequest,
        "a used secret",
        client().auth.approle.login,
        role_id=role_id,
        secret_id=secret["secret_id"],
    )
    check(role.list_roles()["data"]["keys"] == ["worker"], "one role")
    refused(exceptions.InvalidPath, "no secrets left", role.list_secret_id_accessors, "worker")


def namespaces():
    root = client(ROOT)
    root.sys.create_namespace("team")
    inside = client(ROOT, namespace="team")
    inside.sys.enable_secrets_engine("transit", path="keys")
    inside.secrets.transit.create_key("own", mount_point="keys")
    check(root.secrets.transit.read_key("own", mount_point="team/keys")["data"]["name"] == "own", "by path, too")
    refused(exceptions.InvalidPath, "not in the root", root.secrets.transit.read_key, "own", mount_point="keys")
    token = inside.auth.token.create(policies=["root"])["auth"]["client_token"]
    check(client(token, namespace="team").is_authenticated(), "a token of the namespace")
    check(not client(token).is_authenticated(), "is none of the root's")


def sealing():
    root = client(ROOT)
    root.sys.seal()
    check(root.sys.is_sealed(), "sealed")
    refused(exceptions.VaultDown, "anything else", root.secrets.transit.list_keys)
    check(not root.sys.submit_unseal_key(UNSEAL_KEY)["sealed"], "unsealed")
    check(root.secrets.transit.list_keys()["data"]["keys"], "as before")


def kv_second():
    root = client(ROOT)
    root.sys.enable_secrets_engine("kv", path="secret", options={"version": "2"})
    check(root.sys.list_mounted_secrets_engines()["data"]["secret/"]["options"] == {"version": "2"}, "of version 2")
    kv = root.secrets.kv.v2
    refused(exceptions.InvalidPath, "an absent secret", kv.read_secret_version, "shop/tls")
    refused(exceptions.InvalidPath, "its metadata", kv.read_secret_metadata, "shop/tls")
    made = kv.create_or_update_secret("shop/tls", {"a": "1"}, cas=0)["data"]
    check(made["version"] == 1 and made["deletion_time"] == "" and not made["destroyed"], "the first version")
    refused(exceptions.InvalidRequest, "cas 0 again", kv.create_or_update_secret, "shop/tls", {"a": "x"}, cas=0)
    refused(exceptions.InvalidRequest, "a later cas", kv.create_or_update_secret, "shop/tls", {"a": "x"}, cas=2)
    check(kv.create_or_update_secret("shop/tls", {"a": "2", "b": {"c": [1, None]}}, cas=1)["data"]["version"] == 2, "cas 1")
    check(kv.create_or_update_secret("shop/tls", {"a": "3"})["data"]["version"] == 3, "without cas")
    read = kv.read_secret_version("shop/tls")["data"]
    check(read["data"] == {"a": "3"} and read["metadata"]["version"] == 3, "the latest")
    check(kv.read_secret_version("shop/tls", version=2)["data"]["data"] == {"a": "2", "b": {"c": [1, None]}}, "the second")
    refused(exceptions.InvalidPath, "a version to come", kv.read_secret_version, "shop/tls", version=9)

    check(kv.patch("shop/tls", {"b": "new"})["data"]["version"] == 4, "patched")
    check(kv.read_secret_version("shop/tls")["data"]["data"] == {"a": "3", "b": "new"}, "and merged")
    merge = {"Content-Type": "application/merge-patch+json"}
    body = {"options": {"cas": 4}, "data": {"a": None}}
    root.adapter.request("patch", "/v1/secret/data/shop/tls", json=body, headers=merge)
    check(kv.read_secret_version("shop/tls")["data"]["data"] == {"b": "new"}, "null removes")
    refused(exceptions.InvalidPath, "patching what is not there", kv.patch, "shop/none", {"a": "1"})

    kv.update_metadata("shop/tls", max_versions=4, custom_metadata={"owner": "shop"})
    about = kv.read_secret_metadata("shop/tls")["data"]
    check(about["current_version"] == 5 and about["custom_metadata"] == {"owner": "shop"}, "metadata")
    check(sorted(about["versions"]) == ["1", "2", "3", "4", "5"], "all versions so far")
    check(kv.read_secret_version("shop/tls")["data"]["metadata"]["custom_metadata"] == {"owner": "shop"}, "with the data")
    kv.create_or_update_secret("shop/tls", {"a": "6"})
    about = kv.read_secret_metadata("shop/tls")["data"]
    check(sorted(about["versions"]) == ["3", "4", "5", "6"] and about["oldest_version"] == 3, "four are kept")
    refused(exceptions.InvalidPath, "one that is not kept", kv.read_secret_version, "shop/tls", version=2)
    refused(
        exceptions.InvalidRequest,
        "too long a word",
        kv.update_metadata,
        "shop/tls",
        custom_metadata={"owner": "x" * 513},
    )
    check(kv.read_secret_metadata("shop/tls")["data"]["max_versions"] == 4, "other metadata stays")

    kv.delete_latest_version_of_secret("shop/tls")
    error = refused(exceptions.InvalidPath, "a deleted version", kv.read_secret_version, "shop/tls")
    check(error.json["data"]["data"] is None and error.json["data"]["metadata"]["version"] == 6, "404 with metadata")
    gone = kv.read_secret_version("shop/tls", raise_on_deleted_version=False)["data"]
    check(gone["metadata"]["deletion_time"] != "", "when it was deleted")
    refused(exceptions.InvalidRequest, "cas 0 after deletion", kv.create_or_update_secret, "shop/tls", {"a": "x"}, cas=0)
    refused(exceptions.InvalidPath, "patching a deleted one", kv.patch, "shop/tls", {"a": "1"})
    kv.undelete_secret_versions("shop/tls", [6])
    check(kv.read_secret_version("shop/tls")["data"]["data"] == {"a": "6"}, "undeleted")
    kv.delete_secret_versions("shop/tls", [5, 6])
    kv.destroy_secret_versions("shop/tls", [5])
    kv.undelete_secret_versions("shop/tls", [5, 6])
    check(kv.read_secret_version("shop/tls")["data"]["data"] == {"a": "6"}, "undeleted again")
    refused(exceptions.InvalidPath, "a destroyed version", kv.read_secret_version, "shop/tls", version=5)
    check(kv.read_secret_metadata("shop/tls")["data"]["versions"]["5"]["destroyed"], "destroyed for good")

    kv.create_or_update_secret("shop/deep/er", {"x": "y"})
    kv.create_or_update_secret("top", {"x": "y"})
    check(kv.list_secrets("")["data"]["keys"] == ["shop/", "top"], "folders and secrets")
    check(kv.list_secrets("shop")["data"]["keys"] == ["deep/", "tls"], "below a folder")
    refused(exceptions.InvalidPath, "an empty folder", kv.list_secrets, "none")
    kv.delete_metadata_and_all_versions("top")
    refused(exceptions.InvalidPath, "all gone", kv.read_secret_metadata, "top")
    check(kv.create_or_update_secret("top", {"x": "y"}, cas=0)["data"]["version"] == 1, "begins anew")

    kv.update_metadata("careful", cas_required=True)
    refused(exceptions.InvalidRequest, "without the cas it needs", kv.create_or_update_secret, "careful", {"a": "1"})
    check(kv.create_or_update_secret("careful", {"a": "1"}, cas=0)["data"]["version"] == 1, "with it")
    kv.configure(max_versions=2, cas_required=True)
    check(kv.read_configuration()["data"]["max_versions"] == 2, "configured")
    refused(exceptions.InvalidRequest, "as configured", kv.create_or_update_secret, "top", {"a": "1"})
    refused(exceptions.InvalidPath, "paths of version 1", root.secrets.kv.v1.read_secret, "top")


def kv_first():
    root = client(ROOT)
    root.sys.enable_secrets_engine("kv", path="old")
    kv = root.secrets.kv.v1
    refused(exceptions.InvalidPath, "an absent secret", kv.read_secret, "a/b", mount_point="old")
    kv.create_or_update_secret("a/b", {"x": "1", "n": 5}, mount_point="old")
    check(kv.read_secret("a/b", mount_point="old")["data"] == {"x": "1", "n": 5}, "read")
    kv.create_or_update_secret("a/b", {"y": "2"}, mount_point="old")
    check(kv.read_secret("a/b", mount_point="old")["data"] == {"y": "2"}, "replaced as a whole")
    check(kv.list_secrets("a", mount_point="old")["data"]["keys"] == ["b"], "listed")
    refused(exceptions.InvalidRequest, "nothing", kv.create_or_update_secret, "a/b", {}, mount_point="old")
    kv.delete_secret("a/b", mount_point="old")
    refused(exceptions.InvalidPath, "a deleted secret", kv.read_secret, "a/b", mount_point="old")


def pki():
    root = client(ROOT)
    root.sys.enable_secrets_engine("pki")
    root.sys.enable_secrets_engine("pki", path="below")
    engine = root.secrets.pki
    made = engine.generate_root("internal", "test root")["data"]
    check("BEGIN CERTIFICATE" in made["certificate"] and "private_key" not in made, "a root, whose key stays")
    check(engine.read_certificate("ca")["data"]["certificate"] == made["certificate"], "the default issuer")
    issuers = engine.list_issuers()["data"]
    check(issuers["keys"] == [made["issuer_id"]] and issuers["key_info"][made["issuer_id"]]["is_default"], "one issuer")
    engine.create_or_update_role("web", {"allow_any_name": True, "ttl": "1h"})
    check(engine.list_roles()["data"]["keys"] == ["web"], "a role")
    check(not engine.read_role("web")["data"]["no_store"], "that keeps what it issues")
    issued = engine.generate_certificate("web", "shop.example.com", extra_params={"alt_names": "a.example"})["data"]
    check("PRIVATE KEY" in issued["private_key"] and issued["issuing_ca"] == made["certificate"], "issued")
    check(issued["serial_number"] in engine.list_certificates()["data"]["keys"], "kept")
    check(engine.read_certificate(issued["serial_number"])["data"]["certificate"] == issued["certificate"], "and read")
    refused(exceptions.InvalidRequest, "a leaf as an issuer", engine.submit_ca_information, issued["certificate"])
    refused(exceptions.InvalidRequest, "an unknown role", engine.generate_certificate, "none", "a.example")

    number = issued["serial_number"]
    check(engine.read_certificate(number)["data"]["revocation_time"] == 0, "not revoked")
    revoked = engine.revoke_certificate(number)["data"]
    check(revoked["revocation_time"] > 0 and revoked["state"] == "revoked", "revoked")
    check(engine.revoke_certificate(number)["data"]["revocation_time"] == revoked["revocation_time"], "once")
    found = engine.read_certificate(number)["data"]
    check(found["revocation_time"] == revoked["revocation_time"], "and shown as revoked")
    refused(exceptions.InvalidRequest, "revoking the unknown", engine.revoke_certificate, "01:02")
    refused(exceptions.InvalidPath, "an unknown certificate", engine.read_certificate, "01:02")

    asked = engine.generate_intermediate("internal", "below", mount_point="below")["data"]
    check("CERTIFICATE REQUEST" in asked["csr"], "a request")
    limits = {"allowed_domains": ["shop.example"], "allow_subdomains": True, "max_ttl": "1h", "use_csr_common_name": False}
    engine.create_or_update_role("narrow", limits)
    narrow = engine.read_role("narrow")["data"]
    check(narrow["allowed_domains"] == ["shop.example"] and narrow["max_ttl"] == 3600, "a narrow role")
    long = {"ttl": "48h", "remove_roots_from_chain": True}
    signed = engine.sign_certificate("narrow", asked["csr"], "www.shop.example", extra_params=long)
    check("maxTTL is being used" in signed["warnings"][0], "shortened")
    check(signed["data"]["ca_chain"] == [] and signed["data"]["expiration"] > 0, "without the root")
    check(signed["data"]["issuing_ca"] == made["certificate"] and "private_key" not in signed["data"], "signed")
    refused(exceptions.InvalidRequest, "another name", engine.sign_certificate, "narrow", asked["csr"], "www.other.example")
    refused(exceptions.InvalidRequest, "no request", engine.sign_certificate, "narrow", "nonsense", "www.shop.example")
    engine.create_or_update_role("endless", {"allow_any_name": True, "max_ttl": "9000h", "ttl": "8000h"})
    refused(exceptions.InvalidRequest, "beyond the issuer", engine.generate_certificate, "endless", "a.example")
    chosen = root.write(f"pki/issuer/{made['issuer_id']}/sign/narrow", csr=asked["csr"], common_name="a.shop.example")
    check(chosen["data"]["issuing_ca"] == made["certificate"], "by the issuer of the path")
    refused(exceptions.InvalidRequest, "nonsense", engine.set_signed_intermediate, "x", mount_point="below")
    exported = engine.generate_root("exported", "second root", mount_point="below")["data"]
    bundle = exported["certificate"] + "\n" + exported["private_key"]
    imported = engine.submit_ca_information(bundle)["data"]
    second = imported["imported_issuers"][0]
    check(imported["mapping"][second] != "" and imported["imported_keys"], "imported with its key")
    check(engine.submit_ca_information(bundle)["data"]["imported_issuers"] is None, "once")
    check(engine.read_issuer("default")["data"]["issuer_id"] == made["issuer_id"], "the default stays")
    root.write("pki/config/issuers", default=second)
    check(engine.read_issuer("default")["data"]["issuer_id"] == second, "until it is switched")
    check(root.read("pki/config/issuers")["data"]["default"] == second, "as the configuration says")
    moved = engine.generate_certificate("web", "shop.example.com")["data"]
    check(moved["issuing_ca"].strip() == exported["certificate"].strip(), "and issues")
    check(engine.update_issuer(second, {"issuer_name": "second"})["data"]["issuer_name"] == "second", "named")
    check(engine.read_issuer("second")["data"]["issuer_id"] == second, "found by name")
    engine.delete_issuer(made["issuer_id"])
    refused(exceptions.InvalidPath, "a deleted issuer", engine.read_issuer, made["issuer_id"])


def identities():
    root = client(ROOT)
    with open(IDENTITY_KEY) as file:
        key = file.read()
    root.sys.enable_auth_method("jwt")
    method = root.auth.jwt
    method.configure(jwt_validation_pubkeys=[key])
    check(method.read_config()["data"]["jwt_validation_pubkeys"] == [key], "configured")
    role = {"role_type": "jwt", "user_claim": "sub", "token_policies": ["app"]}
    method.create_role("ci", allowed_redirect_uris=[], bound_audiences=["vault"], **role)
    check(method.read_role("ci")["data"]["user_claim"] == "sub" and method.list_roles()["data"]["keys"] == ["ci"], "a role")
    user = client()
    user.auth.jwt.jwt_login("ci", USER_JWT)
    check(user.auth.token.lookup_self()["data"]["policies"] == ["default", "app"], "a user logged in")
    for what, name, token in [
        ("a stranger", "ci", STRANGER_JWT),
        ("for nobody", "ci", ACCOUNT_JWT),
        ("nonsense", "ci", "a.b.c"),
        ("an unknown role", "none", USER_JWT),
    ]:
        refused(exceptions.InvalidRequest, what, client().auth.jwt.jwt_login, name, token)

    root.sys.enable_auth_method("kubernetes")
    method = root.auth.kubernetes
    method.configure("https://k8s.example:6443")
    method.create_role("deploy", ["certlib"], ["ops"], policies=["app"], ttl="10m")
    check(method.read_role("deploy")["bound_service_account_names"] == ["certlib"], "a role")
    pod = client()
    pod.auth.kubernetes.login("deploy", ACCOUNT_JWT)
    check(pod.is_authenticated(), "a service account logged in")
    method.create_role("other", ["other"], ["ops"], policies=["app"])
    refused(exceptions.Forbidden, "another account", client().auth.kubernetes.login, "other", ACCOUNT_JWT)
    refused(exceptions.Forbidden, "a stranger", client().auth.kubernetes.login, "deploy", STRANGER_JWT)

    root.sys.enable_auth_method("cert")
    method = root.auth.cert
    method.create_ca_certificate_role("machines", certificate_file=CLIENT_CA, token_policies=["app"])
    check(method.list_certificate_roles()["data"]["keys"] == ["machines"], "a role")
    machine = client()
    machine.auth.cert.login(name="machines", cert_pem=CLIENT_CERT, key_pem=CLIENT_KEY)
    check(machine.is_authenticated(), "a machine logged in")
    refused(exceptions.InvalidRequest, "nobody's certificate", client().write, "auth/cert/login", name="machines")
    kinds = {path: method["type"] for path, method in root.sys.list_auth_methods()["data"].items()}
    check(kinds["jwt/"] == "jwt" and kinds["cert/"] == "cert" and kinds["kubernetes/"] == "kubernetes", "all methods")


system()
transit()
batches()
derived()
logins()
kv_first()
kv_second()
pki()
identities()
namespaces()
sealing()
print(f"{CHECKS} checks")
