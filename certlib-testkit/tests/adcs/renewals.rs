//! Renewals that the former certificate signs, made by OpenSSL.

use std::{path::Path, process::Command, time::Duration};

use certlib_testkit::{
    adcs::{AdcsSim, Auth, Disposition, Hresult, Operation},
    locate::locate,
    pki::TestCa,
    process, require,
    tls::fingerprint,
};
use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256};

use crate::{
    OTHER, builder,
    client::{CMC, Client, PKCS7, PKCS10, csr},
};

/// Somebody with a certificate, and OpenSSL to sign with it.
struct Holder<'a> {
    openssl: &'a Path,
    certificate: Vec<u8>,
    key: KeyPair,
}

impl<'a> Holder<'a> {
    /// Gets a first certificate.
    async fn new(openssl: &'a Path, services: &AdcsSim, template: &str, key: KeyPair) -> Holder<'a> {
        let client = Client::new(services, Auth::Kerberos);
        let answer = client.issue(&csr(&["old.example.com"], &key), PKCS10, Some(template)).await;
        let id = answer.request_id().unwrap();
        if services.request(id).unwrap().disposition == Disposition::Pending {
            services.approve(id).unwrap();
        }
        let certificate = client.query(id).await.leaf();
        Holder { openssl, certificate, key }
    }

    /// Signs something as OpenSSL does with these options.
    async fn sign(&self, content: &[u8], options: &[&str]) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let certificate = pem::encode(&pem::Pem::new("CERTIFICATE", self.certificate.clone()));
        std::fs::write(path("signer.pem"), certificate).unwrap();
        std::fs::write(path("key.pem"), self.key.serialize_pem()).unwrap();
        std::fs::write(path("content"), content).unwrap();
        let mut command = Command::new(self.openssl);
        command.args(["cms", "-sign", "-binary", "-nodetach", "-outform", "DER", "-in"]).arg(path("content"));
        command.arg("-signer").arg(path("signer.pem")).arg("-inkey").arg(path("key.pem"));
        command.args(options).arg("-out").arg(path("message"));
        process::run(command, b"").await.unwrap();
        std::fs::read(path("message")).unwrap()
    }

    fn client(&self, services: &'a AdcsSim) -> Client<'a> {
        Client::with_certificate(services, &self.certificate, &self.key)
    }
}

fn p256() -> KeyPair {
    KeyPair::generate().unwrap()
}

#[tokio::test]
async fn the_former_certificate_signs_for_its_successor() {
    let openssl = require!(locate("openssl").await);
    let services = builder().renewal_only(&[Auth::Certificate]).start().await.unwrap();
    let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let none: &[&str] = &[];
    for (key, options) in [(p256(), none), (rsa, none), (p384, &["-md", "sha384"]), (p256(), &["-noattr"])] {
        let holder = Holder::new(&openssl, &services, "WebServer", key).await;
        let (client, new) = (holder.client(&services), p256());
        let request = csr(&["new.example.com"], &new);
        let refused = client.issue(&request, PKCS10, Some("WebServer")).await;
        assert_eq!(refused.code(), Some(Hresult::ACCESS_DENIED.0), "only renewals are taken here");
        let message = holder.sign(&request, options).await;
        // The template is the former one's.
        let answer = client.issue(&message, PKCS7, None).await;
        let leaf = answer.leaf();
        assert!(leaf.windows(15).any(|part| part == b"new.example.com"));
        let kept = services.request(answer.request_id().unwrap()).unwrap();
        assert_eq!(kept.renews, Some(fingerprint(&holder.certificate)));
        assert_eq!(kept.template, "WebServer");
        // The new one logs in and renews in its turn; with no names of its own it takes over the former ones.
        let holder = Holder { openssl: &openssl, certificate: leaf, key: new };
        let message = holder.sign(&csr(&[], &p256()), options).await;
        let leaf = holder.client(&services).issue(&message, PKCS7, Some("WebServer")).await.leaf();
        assert!(leaf.windows(15).any(|part| part == b"new.example.com"));
    }
    assert_eq!(services.count(Operation::Renew), 8);
}

#[tokio::test]
async fn a_request_of_cmc_may_be_inside() {
    let openssl = require!(locate("openssl").await);
    let services = builder().start().await.unwrap();
    let holder = Holder::new(&openssl, &services, "WebServer", p256()).await;
    let wrap = |tag: u8, content: &[u8]| {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82], length.as_slice(), content].concat()
    };
    let tagged = wrap(0xa0, &[&[0x02, 1, 1], csr(&["cmc.example.com"], &p256()).as_slice()].concat());
    let parts = [wrap(0x30, &[]), wrap(0x30, &tagged), wrap(0x30, &[]), wrap(0x30, &[])].concat();
    let message = holder.sign(&wrap(0x30, &parts), &["-econtent_type", "1.3.6.1.5.5.7.12.2"]).await;
    let leaf = Client::new(&services, Auth::Kerberos).issue(&message, CMC, None).await.leaf();
    assert!(leaf.windows(15).any(|part| part == b"cmc.example.com"));
}

#[tokio::test]
async fn a_renewal_need_not_wait_where_the_template_says_so() {
    let openssl = require!(locate("openssl").await);
    let services = builder().start().await.unwrap();
    let holder = Holder::new(&openssl, &services, "Approved", p256()).await;
    let client = holder.client(&services);
    let request = csr(&["new.example.com"], &p256());
    client.issue(&holder.sign(&request, &[]).await, PKCS7, None).await.leaf();
    let afresh = client.issue(&request, PKCS10, Some("Approved")).await;
    assert!(afresh.tokens().len() == 1 && services.pending().len() == 1, "a new request waits as ever");
}

#[tokio::test]
async fn a_renewal_that_is_not_in_order_is_refused() {
    let openssl = require!(locate("openssl").await);
    let services = builder().start().await.unwrap();
    let holder = Holder::new(&openssl, &services, "WebServer", p256()).await;
    let client = Client::new(&services, Auth::Kerberos);
    let request = csr(&["new.example.com"], &p256());
    let message = holder.sign(&request, &[]).await;
    let code =
        async |client: &Client<'_>, message: &[u8], kind| client.issue(message, kind, None).await.code().map(Hresult);

    let at = message.windows(15).position(|part| part == b"new.example.com").unwrap();
    let mut changed = message.clone();
    changed[at] = b'x';
    assert_eq!(code(&client, &changed, PKCS7).await, Some(Hresult::BAD_SIGNATURE));
    let mut changed = message.clone();
    *changed.last_mut().unwrap() ^= 1;
    assert_eq!(code(&client, &changed, PKCS7).await, Some(Hresult::BAD_SIGNATURE));
    assert_eq!(code(&client, &request, PKCS7).await, Some(Hresult::ASN1_BAD_TAG), "nobody has signed it");
    assert_eq!(code(&client, &message, PKCS10).await, Some(Hresult::ASN1_BAD_TAG));
    let text = holder.sign(b"no request", &[]).await;
    assert_eq!(code(&client, &text, PKCS7).await, Some(Hresult::ASN1_BAD_TAG));

    let mut other = Client::new(&services, Auth::Kerberos);
    (other.user, other.password) = (OTHER.to_owned(), crate::OTHER_PASSWORD.to_owned());
    assert_eq!(code(&other, &message, PKCS7).await, Some(Hresult::BAD_RENEWAL_SUBJECT));
    let foreign = TestCa::new("another authority").unwrap().issue(&["old.example.com"]).unwrap();
    let foreign = Holder {
        openssl: &openssl,
        certificate: pem::parse(&foreign.certificate_pem).unwrap().into_contents(),
        key: KeyPair::from_pem(&foreign.key_pem).unwrap(),
    };
    assert_eq!(code(&client, &foreign.sign(&request, &[]).await, PKCS7).await, Some(Hresult::UNTRUSTED_ROOT));
    services.advance(Duration::from_secs(731 * 86_400));
    let client = Client::new(&services, Auth::Kerberos);
    assert_eq!(code(&client, &message, PKCS7).await, Some(Hresult::EXPIRED));
    let issued = services.requests().iter().filter(|request| request.certificate.is_some()).count();
    assert_eq!(issued, 1, "no certificate came of any of these");
}

#[tokio::test]
async fn openssl_reads_what_comes_with_an_answer() {
    let openssl = require!(locate("openssl").await);
    let services = builder().start().await.unwrap();
    let client = Client::new(&services, Auth::UsernamePassword);
    let printed = async |message: &[u8], options: &[&str]| {
        let mut command = Command::new(&openssl);
        command.args(options);
        String::from_utf8_lossy(&process::run(command, message).await.unwrap().stdout).into_owned()
    };
    let request = csr(&["a.example.com"], &p256());
    let issued = client.issue(&request, PKCS10, Some("WebServer")).await.tokens().remove(0);
    let text = printed(&issued, &["pkcs7", "-inform", "DER", "-print_certs", "-noout"]).await;
    assert_eq!(text.matches("subject=").count(), 3, "{text}");
    let text = printed(&issued, &["cms", "-cmsout", "-print", "-noout", "-inform", "DER"]).await;
    assert!(text.contains("1.3.6.1.5.5.7.12.3") || text.contains("id-cct-PKIResponse"), "{text}");
    let waits = client.issue(&request, PKCS10, Some("Approved")).await.tokens().remove(0);
    let text = printed(&waits, &["asn1parse", "-inform", "DER"]).await;
    assert!(text.contains("id-cct-PKIResponse"), "{text}");
    let text = printed(&waits, &["pkcs7", "-inform", "DER", "-print_certs", "-noout"]).await;
    assert!(!text.contains("subject="), "{text}");
}
