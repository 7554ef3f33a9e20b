"""Drives a simulated Huawei Cloud with the vendor's own SDK for Python, and checks every answer.

Arguments: URL, file with the root certificate, id of the project, id of the account, region, ids of a listener and of
hosts in cloud and dedicated mode, name of a domain. Standard input: JSON with the access key, its secret, a temporary
key, and certificates. Ends with the number of checks on its last line.
"""

import json
import sys
import time
import urllib.request
import ssl

from huaweicloudsdkcdn import v2 as cdn
from huaweicloudsdkcore.auth.credentials import BasicCredentials, GlobalCredentials
from huaweicloudsdkcore.exceptions import exceptions
from huaweicloudsdkcore.http.http_config import HttpConfig
from huaweicloudsdkelb import v3 as elb
from huaweicloudsdkiam import v3 as iam
from huaweicloudsdkscm import v3 as scm
from huaweicloudsdkwaf import v1 as waf

URL, CA, PROJECT, ACCOUNT, REGION, LISTENER, CLOUD_HOST, DEDICATED_HOST, DOMAIN = sys.argv[1:10]
GIVEN = json.load(sys.stdin)
CHECKS = 0


def check(condition, what):
    global CHECKS
    CHECKS += 1
    if not condition:
        raise SystemExit(f"not so: {what}")


def refused(status, code, what, call, *arguments):
    try:
        call(*arguments)
    except exceptions.ServiceResponseException as error:
        check((error.status_code, error.error_code) == (status, code), f"{what}: {error}")
        check(bool(error.request_id), f"{what}: no request id")
        return error
    raise SystemExit(f"not refused: {what}")


def client(kind, credentials):
    config = HttpConfig.get_default_config()
    config.ssl_ca_cert = CA
    config.retry_times = 0
    return kind.new_builder().with_http_config(config).with_credentials(credentials).with_endpoint(URL).build()


def regional(key=GIVEN["access_key"], secret=GIVEN["secret_key"], project=PROJECT):
    return BasicCredentials(key, secret, project)


def worldwide(key=GIVEN["access_key"], secret=GIVEN["secret_key"], account=ACCOUNT):
    return GlobalCredentials(key, secret, account)


def imported(name, certificate, **more):
    body = scm.ImportCertificateRequestBody(
        name=name,
        certificate=certificate["leaf"],
        certificate_chain=certificate["chain"],
        private_key=certificate["key"],
        **more,
    )
    return scm.ImportCertificateRequest(body=body)


def identity():
    api = client(iam.IamClient, worldwide())
    projects = api.keystone_list_projects(iam.KeystoneListProjectsRequest(name=REGION)).projects
    check([project.id for project in projects] == [PROJECT], "the region's project")
    check(projects[0].name == REGION and projects[0].enabled, "its name")
    check(api.keystone_list_projects(iam.KeystoneListProjectsRequest(name="xx-none-1")).projects == [], "no project")


def signatures():
    request = scm.ListCertificatesRequest()
    wrong = client(scm.ScmClient, worldwide(secret="wrong"))
    error = refused(401, "APIGW.0301", "a wrong secret", wrong.list_certificates, request)
    check("canonicalRequest:GET|/v3/scm/certificates/|" in error.error_msg, f"the canonical request: {error.error_msg}")
    check(GIVEN["secret_key"] not in error.error_msg, "no secret in the answer")
    unknown = client(scm.ScmClient, worldwide(key="UNKNOWN"))
    refused(401, "APIGW.0301", "an unknown key", unknown.list_certificates, request)
    temporary = worldwide(GIVEN["temporary_key"], GIVEN["temporary_secret"])
    refused(401, "APIGW.0301", "a missing token", client(scm.ScmClient, temporary).list_certificates, request)
    temporary = worldwide(GIVEN["temporary_key"], GIVEN["temporary_secret"]).with_security_token("wrong")
    refused(401, "APIGW.0301", "a wrong token", client(scm.ScmClient, temporary).list_certificates, request)
    temporary = worldwide(GIVEN["temporary_key"], GIVEN["temporary_secret"])
    temporary = temporary.with_security_token(GIVEN["temporary_token"])
    check(client(scm.ScmClient, temporary).list_certificates(request).total_count == 0, "a temporary key")
    elsewhere = client(elb.ElbClient, regional(project="0" * 32))
    refused(403, "APIGW.0302", "another's project", elsewhere.list_listeners, elb.ListListenersRequest())
    odd = scm.ListCertificatesRequest(content="a b&c=d/é+*~", limit=10)
    api = client(scm.ScmClient, worldwide())
    check(api.list_certificates(odd).total_count == 0, "odd characters in a query")
    looked_up = client(scm.ScmClient, worldwide(account=ACCOUNT))
    check(looked_up.list_certificates(request).total_count == 0, "the account in a header")
    bare = urllib.request.Request(f"{URL}/v3/scm/certificates")
    try:
        urllib.request.urlopen(bare, context=ssl.create_default_context(cafile=CA))
        raise SystemExit("not refused: no signature at all")
    except urllib.error.HTTPError as error:
        check(error.code == 401 and json.load(error)["error_code"] == "APIGW.0301", "no signature")


def certificate_manager():
    api = client(scm.ScmClient, worldwide())
    one, two = GIVEN["certificates"][:2]
    first = api.import_certificate(imported("shop-one", one)).certificate_id
    check(len(first) == 16 and first.startswith("scs"), f"an id: {first}")
    shown = api.show_certificate(scm.ShowCertificateRequest(certificate_id=first))
    check((shown.id, shown.name, shown.status) == (first, "shop-one", "UPLOAD"), "shown")
    check(shown.fingerprint.replace(":", "").lower() == one["sha1"], f"its SHA-1: {shown.fingerprint}")
    check(shown.domain == one["names"][0] and shown.not_after.endswith(".0"), "its domain and time")
    again = api.import_certificate(imported("shop-one", one, duplicate_check=True)).certificate_id
    check(again != first, "the same again, since duplicates are let in")
    refused(
        400, "SCM.0005", "a duplicate", api.import_certificate, imported("shop-one", one, duplicate_check=False)
    )
    refused(400, "SCM.0005", "a bad name", api.import_certificate, imported("a b", one))
    mixed = dict(one, key=two["key"])
    refused(400, "SCM.0006", "another's key", api.import_certificate, imported("mixed", mixed))
    refused(400, "SCM.0006", "no certificate", api.import_certificate, imported("none", dict(one, leaf="x", chain="")))
    second = api.import_certificate(imported("shop-two", two)).certificate_id
    listed = api.list_certificates(scm.ListCertificatesRequest(limit=10, offset=0, sort_key="certUpdateTime"))
    check(listed.total_count == 3, "three")
    check([found.id for found in listed.certificates] == [second, again, first], "newest first")
    listed = api.list_certificates(scm.ListCertificatesRequest(limit=10, content="shop-one", sort_dir="ASC"))
    check([found.id for found in listed.certificates] == [first, again], "by a part of the name")
    listed = api.list_certificates(scm.ListCertificatesRequest(limit=10, offset=2))
    check(listed.total_count == 3 and len(listed.certificates) == 1, "the rest")
    refused(400, "SCM.0005", "a page of 7", api.list_certificates, scm.ListCertificatesRequest(limit=7))
    whole = api.export_certificate(scm.ExportCertificateRequest(certificate_id=first))
    check(whole.private_key == one["key"], "the key comes back")
    check(whole.certificate.strip() == one["leaf"].strip(), "the leaf comes back")
    check(whole.certificate_chain.strip() == one["chain"].strip(), "the chain comes back")
    api.delete_certificate(scm.DeleteCertificateRequest(certificate_id=again))
    show = scm.ShowCertificateRequest(certificate_id=again)
    refused(404, "SCM.0008", "a deleted certificate", api.show_certificate, show)
    return first, second


def used(ids, service="ALL"):
    body = scm.ListDeployedResourcesRequestBody(certificate_ids=ids, service_names=[service])
    api = client(scm.ScmClient, worldwide())
    answer = api.list_deployed_resources(scm.ListDeployedResourcesRequest(body=body))
    return [result.total_num for result in answer.results]


def load_balancers(first):
    api = client(elb.ElbClient, regional())
    one, two, three = GIVEN["certificates"][:3]

    def created(name, certificate, **more):
        option = elb.CreateCertificateOption(
            name=name, type="server", certificate=certificate["leaf"] + certificate["chain"],
            private_key=certificate["key"], **more,
        )
        body = elb.CreateCertificateRequestBody(certificate=option)
        return api.create_certificate(elb.CreateCertificateRequest(body=body)).certificate

    made = created("one", one, scm_certificate_id=first, domain=",".join(one["names"]))
    check(len(made.id) == 32 and made.scm_certificate_id == first, "created")
    check(made.subject_alternative_names == one["names"] and made.source == "scm", "read from the certificate")
    check(not made.private_key, "the key is not echoed")
    other = created("two", two, domain=",".join(two["names"]))
    third = created("three", three, domain=",".join(three["names"]))
    show = elb.ShowCertificateRequest(certificate_id=made.id)
    check(api.show_certificate(show).certificate.certificate.startswith("-----BEGIN CERTIFICATE"), "its PEM")
    refused(404, "ELB.8904", "no certificate", api.show_certificate, elb.ShowCertificateRequest(certificate_id="none"))
    listed = api.list_certificates(elb.ListCertificatesRequest(name=["one", "two"], type=["server"]))
    check({found.id for found in listed.certificates} == {made.id, other.id}, "by name")
    check(listed.page_info.current_count == 2, "the page's size")
    listed = api.list_certificates(elb.ListCertificatesRequest(scm_certificate_id=[first]))
    check([found.id for found in listed.certificates] == [made.id], "by the certificate manager's id")
    page = api.list_certificates(elb.ListCertificatesRequest(limit=2))
    rest = api.list_certificates(elb.ListCertificatesRequest(limit=2, marker=page.page_info.next_marker))
    check(len(page.certificates) == 2 and len(rest.certificates) >= 1, "pages")
    check(not {found.id for found in page.certificates} & {found.id for found in rest.certificates}, "of others")

    def pointed(**refs):
        body = elb.UpdateListenerRequestBody(listener=elb.UpdateListenerOption(**refs))
        return api.update_listener(elb.UpdateListenerRequest(listener_id=LISTENER, body=body)).listener

    before = api.show_listener(elb.ShowListenerRequest(listener_id=LISTENER)).listener
    check(before.protocol == "HTTPS" and before.default_tls_container_ref, "a listener")
    listed = api.list_listeners(elb.ListListenersRequest(protocol=["HTTPS", "TERMINATED_HTTPS"]))
    check(LISTENER in [found.id for found in listed.listeners], "listed")
    after = pointed(default_tls_container_ref=made.id)
    check(after.default_tls_container_ref == made.id, "pointed")
    check(after.sni_container_refs == before.sni_container_refs, "the names are left alone")
    check(used([first]) == [1] and used([first], "CDN") == [0], "the certificate manager knows")
    delete = elb.DeleteCertificateRequest(certificate_id=made.id)
    refused(409, "ELB.8907", "a certificate in use", api.delete_certificate, delete)
    after = pointed(sni_container_refs=[third.id])
    check(after.sni_container_refs == [third.id], "by name")
    check(after.default_tls_container_ref == made.id, "the default is left alone")
    twins = [made.id, other.id]
    refused(400, "ELB.8902", "two for one name", lambda: pointed(sni_container_refs=twins))
    refused(404, "ELB.8904", "an unknown certificate", lambda: pointed(default_tls_container_ref="none"))
    option = elb.UpdateCertificateOption(name="renamed")
    body = elb.UpdateCertificateRequestBody(certificate=option)
    renamed = api.update_certificate(elb.UpdateCertificateRequest(certificate_id=made.id, body=body)).certificate
    check(renamed.name == "renamed" and renamed.fingerprint == made.fingerprint, "renamed in place")
    option = elb.UpdateCertificateOption(certificate=two["leaf"] + two["chain"], private_key=two["key"])
    body = elb.UpdateCertificateRequestBody(certificate=option)
    replaced = api.update_certificate(elb.UpdateCertificateRequest(certificate_id=made.id, body=body)).certificate
    check(replaced.fingerprint != made.fingerprint, "replaced in place")
    pointed(default_tls_container_ref=before.default_tls_container_ref, sni_container_refs=[])
    api.delete_certificate(delete)
    refused(404, "ELB.8904", "a deleted certificate", api.show_certificate, show)
    none = elb.ShowListenerRequest(listener_id="none")
    refused(404, "ELB.8904", "no listener", api.show_listener, none)


def firewall():
    api = client(waf.WafClient, regional())
    one = GIVEN["certificates"][0]
    pem = one["leaf"] + one["chain"]
    body = waf.CreateCertificateRequestBody(name="waf-one", content=pem, key=one["key"])
    made = api.create_certificate(waf.CreateCertificateRequest(body=body))
    check(made.name == "waf-one" and made.exp_status in (0, 2) and made.bind_host == [], "created")
    create = waf.CreateCertificateRequest(body=body)
    refused(400, "WAF.00011001", "the name again", api.create_certificate, create)
    bad = waf.CreateCertificateRequestBody(name="bad", content=pem, key=GIVEN["certificates"][1]["key"])
    refused(400, "WAF.00011001", "another's key", api.create_certificate, waf.CreateCertificateRequest(body=bad))
    listed = api.list_certificates(waf.ListCertificatesRequest(page=1, pagesize=100, name="waf-one"))
    check(listed.total == 1 and listed.items[0].id == made.id, "listed")
    page = api.list_certificates(waf.ListCertificatesRequest(page=2, pagesize=1))
    check(page.total >= 2 and len(page.items) == 1, "by number of page")
    shown = api.show_certificate(waf.ShowCertificateRequest(certificate_id=made.id))
    check(shown.content.startswith("-----BEGIN CERTIFICATE"), "its PEM")

    body = waf.ApplyCertificateToHostRequestBody(cloud_host_ids=[CLOUD_HOST], premium_host_ids=[DEDICATED_HOST])
    apply = waf.ApplyCertificateToHostRequest(certificate_id=made.id, body=body)
    bound = api.apply_certificate_to_host(apply)
    check({host.id for host in bound.bind_host} == {CLOUD_HOST, DEDICATED_HOST}, "bound")
    host = api.show_host(waf.ShowHostRequest(instance_id=CLOUD_HOST))
    check((host.certificateid, host.certificatename) == (made.id, "waf-one"), "the host says so")
    host = api.show_premium_host(waf.ShowPremiumHostRequest(host_id=DEDICATED_HOST))
    check(host.certificateid == made.id, "so does the dedicated one")
    delete = waf.DeleteCertificateRequest(certificate_id=made.id)
    refused(400, "WAF.00014008", "a certificate in use", api.delete_certificate, delete)
    nobody = waf.ApplyCertificateToHostRequestBody(cloud_host_ids=[], premium_host_ids=[])
    nobody = waf.ApplyCertificateToHostRequest(certificate_id=made.id, body=nobody)
    refused(400, "WAF.00011001", "no hosts", api.apply_certificate_to_host, nobody)
    former = next(
        found for found in api.list_certificates(waf.ListCertificatesRequest(page=1, pagesize=100)).items
        if found.name == "waf-first"
    )
    body = waf.UpdateHostRequestBody(certificateid=former.id, certificatename="waf-first")
    host = api.update_host(waf.UpdateHostRequest(instance_id=CLOUD_HOST, body=body))
    check(host.certificateid == former.id, "one host bound by itself")
    body = waf.UpdatePremiumHostRequestBody(certificateid=former.id, certificatename="waf-first")
    api.update_premium_host(waf.UpdatePremiumHostRequest(host_id=DEDICATED_HOST, body=body))
    api.delete_certificate(delete)
    show = waf.ShowCertificateRequest(certificate_id=made.id)
    refused(404, "WAF.00014002", "a deleted certificate", api.show_certificate, show)
    hosts = api.list_host(waf.ListHostRequest(hostname="shop"))
    check([host.id for host in hosts.items] == [CLOUD_HOST], "hosts")


def delivery_network(first, second):
    api = client(cdn.CdnClient, worldwide())
    one = GIVEN["certificates"][0]

    def settings():
        return api.show_domain_full_config(cdn.ShowDomainFullConfigRequest(domain_name=DOMAIN)).configs.https

    def change(**fields):
        configs = cdn.Configs(https=cdn.HttpPutBody(**fields))
        body = cdn.ModifyDomainConfigRequestBody(configs=configs)
        api.update_domain_full_config(cdn.UpdateDomainFullConfigRequest(domain_name=DOMAIN, body=body))

    def settled():
        for _ in range(200):
            found = api.list_domains(cdn.ListDomainsRequest(domain_name=DOMAIN)).domains
            if found[0].domain_status == "online":
                return True
            time.sleep(0.05)
        return False

    check(settings().https_status == "off", "HTTPS is off")
    neighbours = {"http2_status": "on", "tls_version": "TLSv1.2,TLSv1.3", "ocsp_stapling_status": "on"}
    change(
        https_status="on", certificate_source=2, scm_certificate_id=first, certificate_name="shop-one", **neighbours
    )
    now = settings()
    check((now.https_status, now.certificate_source, now.scm_certificate_id) == ("on", 2, first), "HTTPS is on")
    check(now.certificate_value.startswith("-----BEGIN CERTIFICATE") and now.http2_status == "on", "with its PEM")
    found = api.list_domains(cdn.ListDomainsRequest(domain_name=DOMAIN)).domains
    check(found[0].domain_status == "configuring", "it takes a while")
    busy = lambda: change(https_status="off")
    refused(400, "CDN.0163", "a domain that is busy", busy)
    check(settled(), "it comes online")
    check(used([first, second], "CDN") == [1, 0], "the certificate manager knows")
    delete = scm.DeleteCertificateRequest(certificate_id=first)
    manager = client(scm.ScmClient, worldwide())
    refused(400, "SCM.0010", "a certificate in use", manager.delete_certificate, delete)
    unknown = lambda: change(https_status="on", certificate_source=2, scm_certificate_id="no", certificate_name="no1")
    refused(400, "CDN.0001", "an unknown certificate", unknown)
    own = {"certificate_value": one["leaf"] + one["chain"], "private_key": one["key"]}
    change(https_status="on", certificate_source=0, certificate_name="own-one", **own)
    now = settings()
    check((now.certificate_source, now.scm_certificate_id) == (0, None), "an own certificate")
    check(now.http2_status == "off", "what is left out falls back")
    check(settled(), "it comes online again")

    content = cdn.UpdateDomainMultiCertificatesRequestBodyContent(
        domain_name=f"{DOMAIN},none.example.com", https_switch=1, http2=1, cert_name="shop-two",
        certificate_type=2, scm_certificate_id=second,
    )
    body = cdn.UpdateDomainMultiCertificatesRequestBody(https=content)
    request = cdn.UpdateDomainMultiCertificatesRequest(body=body)
    answer = api.update_domain_multi_certificates(request)
    check(answer.status == "fail", "one of two failed")
    check([result.status for result in answer.result] == ["success", "fail"], "each for itself")
    request = cdn.ShowCertificatesHttpsInfoRequest(domain_name=DOMAIN, page_size=10, page_number=1)
    info = api.show_certificates_https_info(request)
    check(info.total == 1 and info.https[0].cert_name == "shop-two" and info.https[0].http2 == 1, "the summary")
    check(settled(), "it comes online a third time")

    resources = [scm.DeployedResource(domain_name=DOMAIN), scm.DeployedResource(domain_name="none.example.com")]
    body = scm.DeployCertificateRequestBody(service_name="CDN", resources=resources)
    request = scm.DeployCertificateRequest(certificate_id=first, body=body)
    failures = manager.deploy_certificate(request).failure_list
    check([failure.resource for failure in failures] == ["none.example.com"], "a success with a failure in it")
    check(settings().scm_certificate_id == first, "deployed")
    missing = cdn.ShowDomainFullConfigRequest(domain_name="none.example.com")
    refused(404, "CDN.0170", "no domain", api.show_domain_full_config, missing)


identity()
signatures()
FIRST, SECOND = certificate_manager()
load_balancers(FIRST)
firewall()
delivery_network(FIRST, SECOND)
print(f"{CHECKS} checks")
