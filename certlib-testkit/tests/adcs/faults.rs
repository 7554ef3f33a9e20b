//! The enrolment service under faults.

use std::time::{Duration, Instant};

use certlib_testkit::{
    adcs::{AdcsSim, Auth, Disposition, Fault, Hresult, Injection, Operation},
    tls,
};
use rcgen::KeyPair;

use crate::{
    builder,
    client::{Answer, Client, PKCS10, csr},
};

/// Services, and a client that asks them for the usual certificate.
struct Asking {
    services: AdcsSim,
    auth: Auth,
}

impl Asking {
    async fn new(auth: Auth) -> Self {
        Self { services: builder().start().await.unwrap(), auth }
    }

    fn once(&self, fault: Fault) {
        self.services.inject(Injection::new(fault).times(1));
    }

    fn client(&self) -> Client<'_> {
        Client::new(&self.services, self.auth)
    }

    async fn ask(&self) -> reqwest::Result<Answer> {
        let request = csr(&["a.example.com"], &KeyPair::generate().unwrap());
        self.client().step(&Client::issue_body(&request, PKCS10, Some("WebServer"))).await
    }
}

#[tokio::test]
async fn requests_wait_as_long_as_they_are_told_to() {
    let asking = Asking::new(Auth::UsernamePassword).await;
    asking.once(Fault::PendFor(3));
    assert_eq!(asking.ask().await.unwrap().tokens().len(), 1);
    let client = asking.client();
    for _ in 0..3 {
        assert_eq!(client.query(1).await.tokens().len(), 1);
    }
    assert!(!client.query(1).await.leaf().is_empty());
    asking.once(Fault::Pend);
    assert_eq!(asking.ask().await.unwrap().tokens().len(), 1);
    for _ in 0..5 {
        assert_eq!(client.query(2).await.tokens().len(), 1);
    }
    asking.services.approve(2).unwrap();
    assert!(!client.query(2).await.leaf().is_empty());
    asking.once(Fault::Deny(Hresult::ADMIN_DENIED));
    let denied = asking.ask().await.unwrap();
    assert_eq!((denied.code(), denied.request_id()), (Some(0x8009_4014), Some(3)));
    assert_eq!(asking.services.request(3).unwrap().disposition, Disposition::Denied(Hresult::ADMIN_DENIED));
}

#[tokio::test]
async fn what_is_refused_on_the_way_changes_nothing() {
    let asking = Asking::new(Auth::Kerberos).await;
    asking.once(Fault::Unreachable);
    let unreachable = asking.ask().await.unwrap();
    assert_eq!((unreachable.status, unreachable.code()), (500, Some(0x8007_06ba)));
    assert_eq!(unreachable.text("InvalidRequest").unwrap(), "false", "it may pass");
    let reason = "Something else".to_owned();
    asking.once(Fault::Soap { code: None, reason, invalid_request: true });
    let strange = asking.ask().await.unwrap();
    assert_eq!((strange.status, strange.code(), strange.text("Text").unwrap().as_str()), (500, None, "Something else"));
    let offline = Some(Hresult::REVOCATION_OFFLINE);
    asking.once(Fault::Soap { code: offline, reason: "x".to_owned(), invalid_request: false });
    let offline = asking.ask().await.unwrap();
    assert_eq!((offline.code(), offline.text("InvalidRequest").unwrap()), (Some(0x8009_2013), "false".to_owned()));
    asking.once(Fault::BadCredentials);
    assert_eq!(asking.ask().await.unwrap().status, 401);
    asking.once(Fault::Throttled { retry_after: None });
    assert_eq!(asking.ask().await.unwrap().status, 429);
    asking.services.inject(Injection::new(Fault::Broken { status: 502, retry_after: None }).times(3));
    for _ in 0..3 {
        let broken = asking.ask().await.unwrap();
        assert!(broken.status == 502 && broken.body.contains("<h2>502 - Bad Gateway</h2>"));
    }
    let page = Fault::Answer { status: 200, content_type: "text/html".to_owned(), body: "<h1>hello".to_owned() };
    asking.once(page);
    assert_eq!(asking.ask().await.unwrap().body, "<h1>hello");
    asking.once(Fault::LoseRequest);
    assert!(asking.ask().await.is_err());
    assert!(asking.services.requests().is_empty());

    asking.once(Fault::LoseReply);
    assert!(asking.ask().await.is_err());
    assert_eq!(asking.services.requests().len(), 1, "there is a certificate that nobody has");
    assert_eq!(asking.services.count(Operation::Issue), 11);
    let last = asking.services.history().pop().unwrap();
    assert_eq!((last.status, last.request_id), (None, Some(1)), "the simulator knows what came of it");
}

#[tokio::test]
async fn certificates_may_be_wrong_and_answers_cut() {
    let asking = Asking::new(Auth::UsernamePassword).await;
    asking.once(Fault::BadCredentials);
    let refused = asking.ask().await.unwrap();
    assert!(refused.status == 500 && refused.body.contains(":FailedAuthentication"));
    asking.once(Fault::WrongNames(vec!["b.example.com".to_owned()]));
    let leaf = asking.ask().await.unwrap().leaf();
    let has = |leaf: &[u8], name: &[u8]| leaf.windows(name.len()).any(|part| part == name);
    assert!(has(&leaf, b"b.example.com") && !has(&leaf, b"a.example.com"));
    asking.once(Fault::WrongKey);
    let key = KeyPair::generate().unwrap();
    let answer = asking.client().issue(&csr(&["a.example.com"], &key), PKCS10, Some("WebServer")).await;
    assert!(has(&answer.leaf(), b"a.example.com") && !has(&answer.leaf(), key.public_key_raw()));
    asking.once(Fault::Garbled);
    assert_eq!(asking.ask().await.unwrap().tokens(), [&b"no message"[..], b"no certificate"]);
    asking.once(Fault::Truncated);
    let cut = asking.ask().await.unwrap().body;
    assert!(cut.starts_with("<s:Envelope") && !cut.contains("</s:Envelope>"));
    let began = Instant::now();
    asking.once(Fault::Slow(Duration::from_millis(50)));
    asking.ask().await.unwrap().leaf();
    assert!(began.elapsed() >= Duration::from_millis(50));
}

#[tokio::test]
async fn a_storm_passes_and_says_when() {
    let asking = Asking::new(Auth::Kerberos).await;
    let storm = Fault::Broken { status: 503, retry_after: Some(Duration::from_secs(30)) };
    asking.services.inject(Injection::new(storm).on(Operation::GetPolicies).after(1).times(2));
    let http = tls::http_client(asking.services.ca_pem()).unwrap();
    let client = asking.client();
    let url = client.cep();
    let body = r#"<GetPolicies xmlns="http://schemas.microsoft.com/windows/pki/2009/01/enrollmentpolicy"><client/><requestFilter/></GetPolicies>"#;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let post = http.post(&url).basic_auth(&client.user, Some(&client.password));
        let post = post.header("content-type", "application/soap+xml").body(client.envelope(
            crate::client::GET_POLICIES,
            &url,
            body,
        ));
        let answer = post.send().await.unwrap();
        let after = answer.headers().get("retry-after").map(|after| after.to_str().unwrap().to_owned());
        seen.push((answer.status().as_u16(), after));
    }
    let storm = (503, Some("30".to_owned()));
    assert_eq!(seen, [(200, None), storm.clone(), storm, (200, None)]);
}
