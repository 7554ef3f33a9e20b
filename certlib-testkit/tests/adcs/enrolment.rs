//! The enrolment service: new requests, requests that wait, refusals, logins.

use std::time::Duration;

use certlib_testkit::{
    adcs::{AdcsSim, Auth, Disposition, Hardening, Hresult, Language, Operation, Template},
    tls::{self, fingerprint},
};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{
    OTHER, OTHER_PASSWORD, PASSWORD, USER, builder,
    client::{Client, GET_POLICIES, PKCS10, WSTEP, csr, shape},
};

const NAMES: [&str; 2] = ["shop.example.com", "10.1.2.3"];

/// The answer with a certificate, as the reference has it.
const ISSUED: &str = r#"<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://www.w3.org/2005/08/addressing"><s:Header><a:Action s:mustUnderstand="1"/>
<ActivityId CorrelationId="" xmlns="http://schemas.microsoft.com/2004/09/ServiceModel/Diagnostics"/><a:RelatesTo/></s:Header><s:Body>
<RequestSecurityTokenResponseCollection xmlns="http://docs.oasis-open.org/ws-sx/ws-trust/200512"><RequestSecurityTokenResponse>
 <TokenType/>
 <DispositionMessage xml:lang="en-US" xmlns="http://schemas.microsoft.com/windows/pki/2009/01/enrollment"/>
 <BinarySecurityToken ValueType="" EncodingType="" xmlns="http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd"/>
 <RequestedSecurityToken>
   <BinarySecurityToken ValueType="" EncodingType="" xmlns="http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd"/>
 </RequestedSecurityToken>
 <RequestID xmlns="http://schemas.microsoft.com/windows/pki/2009/01/enrollment"/>
</RequestSecurityTokenResponse></RequestSecurityTokenResponseCollection></s:Body></s:Envelope>"#;

/// What stands in the place of the certificate while a request waits.
const WAITS: &str = r#"<SecurityTokenReference xmlns="http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd"><Reference URI=""/></SecurityTokenReference>"#;

/// A refusal, as the reference has it.
const FAULT: &str = r#"<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://www.w3.org/2005/08/addressing"><s:Header><a:Action s:mustUnderstand="1"/>
<ActivityId CorrelationId="" xmlns="http://schemas.microsoft.com/2004/09/ServiceModel/Diagnostics"/><a:RelatesTo/></s:Header><s:Body>
<s:Fault><s:Code><s:Value/><s:Subcode><s:Value/></s:Subcode></s:Code><s:Reason><s:Text xml:lang="en-US"/></s:Reason>
 <s:Detail><CertificateEnrollmentWSDetail xmlns="http://schemas.microsoft.com/windows/pki/2009/01/enrollment" xmlns:i="http://www.w3.org/2001/XMLSchema-instance">
   <BinaryResponse i:nil="true"/><ErrorCode/><InvalidRequest/><RequestID/></CertificateEnrollmentWSDetail></s:Detail></s:Fault></s:Body></s:Envelope>"#;

fn waiting() -> String {
    let (before, after) = ISSUED.split_once("<RequestedSecurityToken>").unwrap();
    let (_, after) = after.split_once("</RequestedSecurityToken>").unwrap();
    format!("{before}<RequestedSecurityToken>{WAITS}</RequestedSecurityToken>{after}")
}

#[tokio::test]
async fn a_request_is_issued_with_its_chain() {
    let services = builder().first_request_id(12345).start().await.unwrap();
    let key = KeyPair::generate().unwrap();
    let client = Client::new(&services, Auth::UsernamePassword);
    let answer = client.issue(&csr(&NAMES, &key), PKCS10, Some("WebServer")).await;
    assert_eq!(shape(&answer.body), shape(ISSUED));
    assert_eq!((answer.text("DispositionMessage").unwrap(), answer.request_id()), ("Issued".to_owned(), Some(12345)));
    assert!(answer.body.contains("&#xD;\n"), "lines end as .NET writes them");
    let leaf = answer.leaf();
    let (_, parsed) = X509Certificate::from_der(&leaf).unwrap();
    let issuer = pem::parse(services.issuer_pem()).unwrap().into_contents();
    let (_, authority) = X509Certificate::from_der(&issuer).unwrap();
    parsed.verify_signature(Some(authority.public_key())).unwrap();
    assert_eq!(parsed.public_key().subject_public_key.data, key.public_key_raw());
    let names = &parsed.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names.len(), 2);
    let lived = parsed.validity().not_after.timestamp() - parsed.validity().not_before.timestamp();
    assert_eq!(lived, 730 * 86_400);
    let whole = &answer.tokens()[0];
    let root = pem::parse(services.root_pem()).unwrap().into_contents();
    for certificate in [&leaf, &issuer, &root] {
        assert!(whole.windows(certificate.len()).any(|part| part == certificate), "the chain is complete");
    }
    let kept = services.request(12345).unwrap();
    assert_eq!((kept.requester.as_str(), kept.template.as_str(), kept.renews), (USER, "WebServer", None));
    assert_eq!(kept.certificate.unwrap().fingerprint, fingerprint(&leaf));
    // Asking again gives the same.
    assert_eq!(client.query(12345).await.leaf(), leaf);
}

#[tokio::test]
async fn a_request_waits_until_somebody_decides() {
    let services = builder().start().await.unwrap();
    let client = Client::new(&services, Auth::Kerberos);
    let key = KeyPair::generate().unwrap();
    for _ in 0..2 {
        let answer = client.issue(&csr(&NAMES, &key), PKCS10, Some("Approved")).await;
        assert_eq!(shape(&answer.body), shape(&waiting()));
        assert_eq!(answer.text("DispositionMessage").unwrap(), "Taken Under Submission");
        assert!(answer.body.contains(&format!("URI=\"{}\"", client.ces())));
    }
    assert_eq!(services.pending().iter().map(|request| request.id).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(shape(&client.query(1).await.body), shape(&waiting()));
    let mut other = Client::new(&services, Auth::Kerberos);
    (other.user, other.password) = (OTHER.to_owned(), OTHER_PASSWORD.to_owned());
    assert_eq!(other.query(1).await.code(), Some(Hresult::ACCESS_DENIED.0), "the same account must ask");
    services.approve(1).unwrap();
    services.deny(2).unwrap();
    assert_eq!(client.query(1).await.leaf(), services.request(1).unwrap().certificate.unwrap().certificate_der);
    let denied = client.query(2).await;
    assert_eq!((denied.status, denied.code()), (500, Some(Hresult::ADMIN_DENIED.0)));
    assert_eq!((denied.text("InvalidRequest").unwrap(), denied.request_id()), ("true".to_owned(), Some(2)));
    assert_eq!(client.query(99).await.code(), Some(Hresult::INVALID_ARGUMENT.0));
    assert_eq!((services.count(Operation::Issue), services.count(Operation::QueryStatus)), (2, 5));
}

#[tokio::test]
async fn refusals_say_why_and_are_kept() {
    let services = builder().start().await.unwrap();
    let client = Client::new(&services, Auth::UsernamePassword);
    let key = KeyPair::generate().unwrap();
    let request = csr(&NAMES, &key);
    let denied = client.issue(&request, PKCS10, Some("OthersOnly")).await;
    assert_eq!((denied.status, shape(&denied.body)), (500, shape(FAULT)));
    assert_eq!(denied.text("ErrorCode").unwrap(), "-2146877422");
    assert_eq!(denied.request_id(), Some(1));
    assert_eq!(services.request(1).unwrap().disposition, Disposition::Denied(Hresult::TEMPLATE_DENIED));
    for (template, code) in [
        (Some("Nothing"), Hresult::UNSUPPORTED_CERT_TYPE),
        (None, Hresult::NO_CERT_TYPE),
        (Some("Agents"), Hresult::SIGNATURE_COUNT),
    ] {
        let answer = client.issue(&request, PKCS10, template).await;
        assert_eq!((answer.code(), answer.text("InvalidRequest").unwrap()), (Some(code.0), "true".to_owned()));
    }
    let nameless = csr(&[], &key);
    assert_eq!(client.issue(&nameless, PKCS10, Some("WebServer")).await.code(), Some(Hresult::BAD_REQUEST_SUBJECT.0));
    let kept = services.requests().len();
    assert_eq!(client.issue(b"no request", PKCS10, Some("WebServer")).await.code(), Some(Hresult::ASN1_BAD_TAG.0));
    let mut spoiled = request.clone();
    *spoiled.last_mut().unwrap() ^= 1;
    assert_eq!(client.issue(&spoiled, PKCS10, Some("WebServer")).await.code(), Some(Hresult::BAD_SIGNATURE.0));
    assert_eq!(services.requests().len(), kept, "what is no request is not kept");
}

#[tokio::test]
async fn a_template_may_be_named_in_the_request() {
    let services = builder().template(Template::new("Oid").oid("1.3.6.1.4.1.311.21.8.99")).start().await.unwrap();
    let client = Client::new(&services, Auth::UsernamePassword);
    let request = |oid: &[u64], value: &[u8]| {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.custom_extensions.push(CustomExtension::from_oid_content(oid, value.to_vec()));
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    };
    let utf16: Vec<u8> = "WebServer".encode_utf16().flat_map(u16::to_be_bytes).collect();
    let by_name = request(&[1, 3, 6, 1, 4, 1, 311, 20, 2], &[&[0x1e, 18], utf16.as_slice()].concat());
    client.issue(&by_name, PKCS10, None).await.leaf();
    let oid = [0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x15, 0x08, 99];
    let by_oid = [&[0x30, 15, 0x06, 10], oid.as_slice(), &[0x02, 1, 100]].concat();
    let by_oid = request(&[1, 3, 6, 1, 4, 1, 311, 21, 7], &by_oid);
    client.issue(&by_oid, PKCS10, None).await.leaf();
    let templates: Vec<_> = services.requests().into_iter().map(|request| request.template).collect();
    assert_eq!(templates, ["WebServer", "Oid"]);
    client.issue(&by_name, PKCS10, Some("webserver")).await.leaf();
    let conflict = client.issue(&by_name, PKCS10, Some("Oid")).await;
    assert_eq!(conflict.code(), Some(Hresult::TEMPLATE_CONFLICT.0));
}

#[tokio::test]
async fn the_directory_may_have_the_last_word_on_names() {
    let services = builder().start().await.unwrap();
    let client = Client::new(&services, Auth::UsernamePassword);
    let leaf = client.issue(&csr(&NAMES, &KeyPair::generate().unwrap()), PKCS10, Some("Machine")).await.leaf();
    let has = |part: &[u8]| leaf.windows(part.len()).any(|window| window == part);
    assert!(has(b"svc-certs.example") && !has(b"shop.example.com"));
    assert!(has(b"S-1-5-21-"), "it says whose it is");
}

#[tokio::test]
async fn messages_that_are_not_quite_right_are_refused() {
    let services = builder().start().await.unwrap();
    let client = Client::new(&services, Auth::Kerberos);
    let right = Client::issue_body(&csr(&NAMES, &KeyPair::generate().unwrap()), PKCS10, Some("WebServer"));
    for (what, with, reason) in [
        ("#base64binary", "#hexbinary", "The EncodingType is invalid."),
        ("EncodingType=", "Other=", "The EncodingType is invalid."),
        ("#PKCS10", "#PKCS1", "The ValueType is invalid."),
        ("#X509v3", "#X509v1", "The TokenType is invalid."),
        ("200512/Issue", "200512/KET", "The RequestType is invalid."),
        ("BinarySecurityToken", "OtherToken", "The BinarySecurityToken is missing."),
        ("RequestSecurityToken", "Other", "The message has no RequestSecurityToken."),
    ] {
        let answer = client.step(&right.replace(what, with)).await.unwrap();
        assert_eq!((answer.status, answer.text("Text").unwrap().as_str()), (500, reason));
    }
    let url = client.ces();
    let wrong = client.post(&url, client.envelope(GET_POLICIES, &url, &right)).await.unwrap();
    assert!(wrong.text("Text").unwrap().contains("ContractFilter mismatch"));
    let wrong = client.post(&url, client.envelope(WSTEP, "https://elsewhere/CES", &right)).await.unwrap();
    assert!(wrong.text("Text").unwrap().contains("AddressFilter mismatch"));
    let wrong = client.post(&url, "no envelope".to_owned()).await.unwrap();
    assert_eq!(wrong.status, 500);
    let large = client.post(&url, client.envelope(WSTEP, &url, &" ".repeat(70_000))).await.unwrap();
    assert_eq!(large.status, 413);
    assert!(services.requests().is_empty());

    let http = tls::http_client(services.ca_pem()).unwrap();
    let get = http.get(&url).basic_auth(USER, Some(PASSWORD)).send().await.unwrap();
    assert_eq!(get.status(), 405);
    let text = http.post(&url).basic_auth(USER, Some(PASSWORD)).header("content-type", "text/xml").body("x");
    assert_eq!(text.send().await.unwrap().status(), 415);
}

#[tokio::test]
async fn every_address_has_its_own_login() {
    let services = builder().start().await.unwrap();
    let request = csr(&NAMES, &KeyPair::generate().unwrap());
    let mut client = Client::new(&services, Auth::UsernamePassword);
    client.user = format!("{USER}@example");
    client.issue(&request, PKCS10, Some("WebServer")).await.leaf();
    client.password = "wrong".to_owned();
    let failed = client.issue(&request, PKCS10, Some("WebServer")).await;
    assert_eq!((failed.status, failed.code(), services.failed_logins(USER)), (500, None, 1));
    assert!(failed.texts("Value")[1].ends_with(":FailedAuthentication"), "{}", failed.body);
    // A clock that is off: the token counts for five minutes.
    client.password = PASSWORD.to_owned();
    services.advance(Duration::from_secs(290));
    client.issue(&request, PKCS10, Some("WebServer")).await.leaf();
    services.advance(Duration::from_secs(20));
    let stale = client.issue(&request, PKCS10, Some("WebServer")).await;
    assert!(stale.texts("Value")[1].ends_with(":InvalidSecurity"), "{}", stale.body);
    client.created = None;
    client.issue(&request, PKCS10, Some("WebServer")).await.leaf();

    let mut client = Client::new(&services, Auth::Kerberos);
    client.issue(&request, PKCS10, Some("WebServer")).await.leaf();
    client.password = "wrong".to_owned();
    assert_eq!(client.issue(&request, PKCS10, Some("WebServer")).await.status, 401);
    let nobody = Client::new(&services, Auth::Certificate);
    assert_eq!(nobody.issue(&request, PKCS10, Some("WebServer")).await.status, 403);
    let key = KeyPair::generate().unwrap();
    let leaf = Client::new(&services, Auth::Kerberos).issue(&csr(&NAMES, &key), PKCS10, Some("Machine")).await.leaf();
    let somebody = Client::with_certificate(&services, &leaf, &key);
    somebody.issue(&request, PKCS10, Some("WebServer")).await.leaf();
    services.advance(Duration::from_secs(731 * 86_400));
    let expired = somebody.issue(&request, PKCS10, Some("WebServer")).await;
    assert_eq!(expired.status, 403, "its certificate has expired");
    let schemes: Vec<_> = services.history().iter().filter_map(|record| record.scheme).collect();
    assert_eq!(schemes, ["UsernameToken", "UsernameToken", "UsernameToken", "Basic", "Basic", "Certificate"]);
}

#[tokio::test]
async fn addresses_that_are_not_configured_are_not_there() {
    let services = AdcsSim::builder()
        .user(USER, PASSWORD)
        .hardening(Hardening::Strict)
        .auths(&[Auth::Kerberos])
        .basic(false)
        .language(Language::German)
        .start()
        .await
        .unwrap();
    let missing = Client::new(&services, Auth::UsernamePassword).query(1).await;
    assert_eq!(missing.status, 404);
    assert_eq!(Client::new(&services, Auth::Kerberos).query(1).await.status, 401, "Basic is off");
}

#[tokio::test]
async fn another_language_changes_words_and_nothing_else() {
    let services = builder().language(Language::German).start().await.unwrap();
    let client = Client::new(&services, Auth::UsernamePassword);
    let request = csr(&NAMES, &KeyPair::generate().unwrap());
    let waits = client.issue(&request, PKCS10, Some("Approved")).await;
    assert_eq!(waits.text("DispositionMessage").unwrap(), "Unter Einsendung genommen");
    assert_eq!(shape(&waits.body), shape(&waiting()));
}
