//! Exported files, read by programs that share no code with what wrote them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::process::Command;

use certlib_core::bundle::{CertificateBundle, KeyType, PrivateKey};
use certlib_core::export::{ExportFormat, ExportOptions};
use certlib_core::{Secret, secret::SecretString};
use certlib_testkit::locate::locate;
use certlib_testkit::pki::TestCa;
use certlib_testkit::{process, require};

const PASSWORD: &str = "correct horse";

fn bundle() -> CertificateBundle {
    let issued = TestCa::new("test root").unwrap().issue(&["*.shop.example.com", "shop.example.com"]).unwrap();
    CertificateBundle::from_pem(issued.combined().as_bytes()).unwrap()
}

fn password() -> SecretString {
    Secret::new(PASSWORD.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssl_reads_containers_of_both_kinds() {
    let openssl = require!(locate("openssl").await);
    let bundle = bundle();
    let kinds = [
        (ExportFormat::Pkcs12, &["MAC: sha256, Iteration 10000", "AES-256-CBC, Iteration 10000, PRF hmacWithSHA256"]),
        (
            ExportFormat::Pkcs12Legacy,
            &["MAC: sha1, Iteration 2000", "pbeWithSHA1And3-KeyTripleDES-CBC, Iteration 2000"],
        ),
    ];
    for (format, marks) in kinds {
        let what = ExportOptions { format, with_key: true, alias: Some("tomcat".to_owned()), version: None };
        let container = what.render(&bundle, Some(&password())).unwrap();
        let open = async |password: &str, options: &[&str]| {
            let mut command = Command::new(&openssl);
            command.args(["pkcs12", "-passin", "env:CONTAINER"]).args(options).env("CONTAINER", password);
            process::capture(command, container.expose()).await.unwrap()
        };
        let info = open(PASSWORD, &["-info", "-noout"]).await;
        let info = String::from_utf8_lossy(&info.stderr).into_owned();
        assert!(marks.iter().all(|mark| info.contains(mark)), "{format}: {info}");
        let shown = open(PASSWORD, &["-nodes"]).await;
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(text.contains("friendlyName: tomcat"), "{text}");
        let held = CertificateBundle::from_pem(&shown.stdout).unwrap();
        assert_eq!(held.certificates(), bundle.certificates());
        assert_eq!(held.key_pem().unwrap().expose(), bundle.key_pem().unwrap().expose());
        assert!(!open("wrong", &["-nodes"]).await.status.success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssl_reads_certificates_and_keys() {
    let openssl = require!(locate("openssl").await);
    let bundle = bundle();
    let read = async |format, arguments: &[&str]| {
        let with_key = format == ExportFormat::Key;
        let file = ExportOptions { format, with_key, ..ExportOptions::default() }.render(&bundle, None).unwrap();
        let mut command = Command::new(&openssl);
        command.args(arguments);
        process::run(command, file.expose()).await.unwrap().stdout
    };
    let leaf = ["-outform", "DER"];
    let of_der = read(ExportFormat::Der, &[&["x509", "-inform", "DER"], &leaf[..]].concat()).await;
    let of_pem = read(ExportFormat::Leaf, &[&["x509"], &leaf[..]].concat()).await;
    let of_chain = read(ExportFormat::Chain, &[&["x509"], &leaf[..]].concat()).await;
    assert_eq!((of_der.as_slice(), of_pem.as_slice()), (bundle.leaf_der(), bundle.leaf_der()));
    assert_eq!(of_chain, bundle.certificates()[1]);
    let key = read(ExportFormat::Key, &["pkey", "-outform", "DER"]).await;
    let key = PrivateKey::from_der(&key).unwrap();
    assert_eq!((key.kind(), key.public_key()), (KeyType::EcdsaP256, bundle.key().unwrap().public_key()));
}
