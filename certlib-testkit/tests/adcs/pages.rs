//! The web pages beyond what the Python clients look at: lists, other languages, faults.

use std::time::Duration;

use certlib_testkit::{
    adcs::{AdcsSim, Disposition, Fault, Hresult, Injection, Language, Operation, Template},
    tls,
};
use rcgen::{CertificateParams, KeyPair};
use reqwest::{Response, StatusCode};

use crate::{OTHER, OTHER_PASSWORD, PASSWORD, USER, builder};

const BROWSER: &str = "Mozilla/5.0";

fn request(name: &str) -> String {
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

struct Pages<'a>(&'a AdcsSim, reqwest::Client);

impl<'a> Pages<'a> {
    fn new(services: &'a AdcsSim) -> Self {
        Self(services, tls::http_client(services.ca_pem()).unwrap())
    }

    async fn get(&self, page: &str) -> reqwest::Result<Response> {
        let url = format!("{}/{page}", self.0.certsrv_url());
        self.1.get(url).basic_auth(USER, Some(PASSWORD)).header("user-agent", BROWSER).send().await
    }

    async fn post(&self, page: &str, form: &[(&str, &str)]) -> reqwest::Result<Response> {
        let url = format!("{}/{page}", self.0.certsrv_url());
        let post = self.1.post(url).basic_auth(USER, Some(PASSWORD)).header("user-agent", BROWSER);
        post.form(form).send().await
    }

    async fn submit(&self, template: &str) -> reqwest::Result<Response> {
        let (csr, attributes) = (request("a.example"), format!("CertificateTemplate:{template}\r\n"));
        self.post("certfnsh.asp", &[("Mode", "newreq"), ("CertRequest", &csr), ("CertAttrib", &attributes)]).await
    }
}

async fn text(response: reqwest::Result<Response>) -> String {
    response.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn pending_requests_are_listed_shown_and_taken_off() {
    let services = builder().start().await.unwrap();
    let pages = Pages::new(&services);
    assert!(text(pages.get("certckpn.asp").await).await.contains("no pending"));
    assert!(text(pages.submit("Approved").await).await.contains("Your Request Id is 1."));
    assert!(text(pages.get("certckpn.asp").await).await.contains("Value=\"1\""));
    let asked = [("Mode", "chkpnd"), ("ReqID", "1")];
    assert!(text(pages.post("certfnsh.asp", &asked).await).await.contains("Certificate Pending"));
    assert!(text(pages.post("certrmpn.asp", &[("ReqID", "1")]).await).await.contains("removed"));
    assert!(text(pages.get("certckpn.asp").await).await.contains("no pending"), "it is off the list");
    services.approve(1).unwrap();
    assert!(text(pages.post("certfnsh.asp", &asked).await).await.contains("certnew.cer?ReqID=1&"));
    assert_eq!((services.count(Operation::CheckPending), services.count(Operation::Submit)), (2, 1));
    assert_eq!(pages.get("nothing.asp").await.unwrap().status(), StatusCode::NOT_FOUND);
    let elsewhere = pages.1.get(services.url()).send().await.unwrap();
    assert_eq!(elsewhere.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_server_of_another_language_says_the_same_in_its_own() {
    let services = builder().language(Language::German).start().await.unwrap();
    let pages = Pages::new(&services);
    let pending = text(pages.submit("Approved").await).await;
    assert!(pending.contains("Anforderungs-ID ist 1.") && !pending.contains("Certificate Pending"), "{pending}");
    assert!(text(pages.submit("WebServer").await).await.contains("certnew.cer?ReqID=2&"));
    let denied = text(pages.submit("OthersOnly").await).await;
    assert!(denied.contains("0x80094012") && !denied.contains("disposition"), "{denied}");
}

#[tokio::test]
async fn what_the_authority_does_to_requests_is_told_to_it() {
    let services = builder().start().await.unwrap();
    let pages = Pages::new(&services);
    let fault = |fault| services.inject(Injection::new(fault).times(1));
    fault(Fault::PendFor(2));
    assert!(text(pages.submit("WebServer").await).await.contains("Certificate Pending"));
    let kind = async || {
        let response = pages.get("certnew.cer?ReqID=1&Enc=b64").await.unwrap();
        response.headers()["content-type"].to_str().unwrap().to_owned()
    };
    assert_eq!(
        (kind().await, kind().await, kind().await),
        ("text/html".into(), "text/html".into(), "application/pkix-cert".into())
    );
    fault(Fault::Deny(Hresult::BAD_REQUEST_SUBJECT));
    assert!(text(pages.submit("WebServer").await).await.contains("0x80094001"));
    assert_eq!(services.request(2).unwrap().disposition, Disposition::Denied(Hresult::BAD_REQUEST_SUBJECT));
    fault(Fault::WrongNames(vec!["wrong.example".to_owned()]));
    pages.submit("WebServer").await.unwrap();
    let has = |id: u32, name: &str| {
        let der = services.request(id).unwrap().certificate.unwrap().certificate_der;
        der.windows(name.len()).any(|part| part == name.as_bytes())
    };
    assert!(has(3, "wrong.example") && !has(3, "a.example"));
    fault(Fault::WrongKey);
    pages.submit("WebServer").await.unwrap();
    assert!(has(4, "a.example"));
    fault(Fault::Garbled);
    let garbled = pages.get("certnew.cer?ReqID=3&Enc=bin").await.unwrap();
    assert_eq!(garbled.bytes().await.unwrap(), "no certificate");
}

#[tokio::test]
async fn faults_meet_pages_as_they_meet_services() {
    let services = builder().start().await.unwrap();
    let pages = Pages::new(&services);
    let fault = |fault| services.inject(Injection::new(fault).times(1));
    fault(Fault::Throttled { retry_after: Some(Duration::from_secs(7)) });
    let throttled = pages.submit("WebServer").await.unwrap();
    assert_eq!((throttled.status().as_u16(), &throttled.headers()["retry-after"]), (429, &"7".parse().unwrap()));
    fault(Fault::Broken { status: 503, retry_after: None });
    assert_eq!(pages.submit("WebServer").await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    fault(Fault::BadCredentials);
    let refused = pages.submit("WebServer").await.unwrap();
    assert_eq!((refused.status().as_u16(), refused.headers().get_all("www-authenticate").iter().count()), (401, 3));
    fault(Fault::Unreachable);
    assert!(text(pages.submit("WebServer").await).await.contains("0x800706ba"));
    fault(Fault::LoseRequest);
    assert!(pages.submit("WebServer").await.is_err());
    assert!(services.requests().is_empty(), "none of these was carried out");
    fault(Fault::LoseReply);
    assert!(pages.submit("WebServer").await.is_err());
    assert_eq!(services.requests().len(), 1, "this one was");
    fault(Fault::Answer { status: 200, content_type: "text/html".to_owned(), body: "<h1>proxy</h1>".to_owned() });
    assert_eq!(text(pages.submit("WebServer").await).await, "<h1>proxy</h1>");
    services.inject(Injection::new(Fault::Broken { status: 500, retry_after: None }));
    for _ in 0..3 {
        assert_eq!(pages.get("certcarc.asp").await.unwrap().status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
    services.clear_faults();
    assert!(pages.get("certcarc.asp").await.unwrap().status().is_success());
    let statuses: Vec<_> = services.history().iter().map(|record| record.status).collect();
    let expected = [429, 503, 401, 200, 0, 0, 200, 500, 500, 500, 200].map(|status| (status > 0).then_some(status));
    assert_eq!(statuses, expected);
}

#[tokio::test]
async fn accounts_are_locked_and_what_is_not_offered_is_not_taken() {
    let services = builder().lockout(2).negotiate(false).start().await.unwrap();
    let client = tls::http_client(services.ca_pem()).unwrap();
    let url = format!("{}/", services.certsrv_url());
    let status = async |password| {
        let response = client.get(&url).basic_auth(OTHER, Some(password)).send().await.unwrap();
        let ways: Vec<_> = response.headers().get_all("www-authenticate").iter().cloned().collect();
        (response.status().as_u16(), ways.len())
    };
    assert_eq!(status(OTHER_PASSWORD).await, (200, 0));
    assert_eq!((status("wrong").await, status("wrong").await), ((401, 1), (401, 1)));
    assert_eq!((status(OTHER_PASSWORD).await, services.failed_logins(OTHER)), ((401, 1), 3));
    let services = AdcsSim::builder().user(USER, PASSWORD).basic(false).start().await.unwrap();
    assert_eq!(Pages::new(&services).get("").await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(services.failed_logins(USER), 0);
}

#[tokio::test]
async fn names_in_attributes_count_where_the_authority_lets_them() {
    let services = builder().san_attribute().start().await.unwrap();
    let csr = request("a.example");
    let attributes = "CertificateTemplate:WebServer\r\nSAN:dns=b.example&ipaddress=10.0.0.9&upn=x@y\r\n";
    let form = [("Mode", "newreq"), ("CertRequest", csr.as_str()), ("CertAttrib", attributes)];
    Pages::new(&services).post("certfnsh.asp", &form).await.unwrap();
    let der = services.request(1).unwrap().certificate.unwrap().certificate_der;
    for name in [&b"a.example"[..], b"b.example", &[0x87, 4, 10, 0, 0, 9]] {
        assert!(der.windows(name.len()).any(|part| part == name), "{name:?}");
    }
    services.put_template(Template::new("WebServer").only_for(&[OTHER]));
    let denied = Pages::new(&services).submit("WebServer").await;
    assert!(text(denied).await.contains("0x80094012"), "templates can be replaced");
}
