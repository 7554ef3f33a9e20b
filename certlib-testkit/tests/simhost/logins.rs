//! Who gets in, and what they own.

use std::sync::Arc;

use certlib_testkit::simhost::{Fault, UserAuth};
use russh::{
    client::KeyboardInteractiveAuthResponse,
    keys::{Algorithm, EcdsaCurve, HashAlg, PrivateKey, PrivateKeyWithHashAlg},
};
use russh_sftp::protocol::{FileAttributes, StatusCode};

use crate::support::*;

#[tokio::test]
async fn every_kind_of_login_works_and_wrong_ones_do_not() {
    let rng = &mut rand::rng();
    let ed25519 = PrivateKey::random(rng, Algorithm::Ed25519).unwrap();
    let ecdsa = PrivateKey::random(rng, Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 }).unwrap();
    let stranger = PrivateKey::random(rng, Algorithm::Ed25519).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let rsa_file = keygen(folder.path(), "rsa").await;
    let rsa = russh::keys::load_secret_key(&rsa_file, None).unwrap();
    let mut builder = builder().user("deploy", UserAuth::password("hunter2"));
    for key in [&ed25519, &ecdsa, &rsa] {
        builder = builder.user("deploy", UserAuth::public_key(key.public_key().to_openssh().unwrap()));
    }
    let host = builder.start().await.unwrap();

    let offer = async |user: &str, key: &PrivateKey, hash| {
        let mut handle = greet(&host).await.unwrap();
        let key = PrivateKeyWithHashAlg::new(Arc::new(key.clone()), hash);
        within(handle.authenticate_publickey(user, key)).await.is_ok_and(|result| result.success())
    };
    assert!(offer("deploy", &ed25519, None).await);
    assert!(offer("deploy", &ecdsa, None).await);
    assert!(offer("deploy", &rsa, Some(HashAlg::Sha256)).await);
    assert!(offer("deploy", &rsa, Some(HashAlg::Sha512)).await);
    assert!(!offer("deploy", &rsa, None).await, "SHA-1 is not accepted");
    assert!(!offer("deploy", &stranger, None).await);
    assert!(!offer("root", &ed25519, None).await);
    assert!(!offer("nobody", &ed25519, None).await);

    let mut handle = greet(&host).await.unwrap();
    assert!(!handle.authenticate_password("deploy", "hunter3").await.unwrap().success());
    let asked = handle.authenticate_keyboard_interactive_start("deploy", None).await.unwrap();
    assert!(matches!(asked, KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } if prompts.len() == 1));
    let answered = handle.authenticate_keyboard_interactive_respond(vec!["hunter2".into()]).await.unwrap();
    assert!(matches!(answered, KeyboardInteractiveAuthResponse::Success));
    let ran = Client(handle).run("id -u").await;
    assert_eq!(ran.stdout, b"1000\n");

    host.set_fault(Some(Fault::AuthRefused)).await.unwrap();
    assert!(!offer("deploy", &ed25519, None).await);
    assert!(matches!(connect(&host).await, Err(russh::Error::NotAuthenticated)));
}

#[tokio::test]
async fn only_root_gives_files_away() {
    let host = builder().user("deploy", UserAuth::password(PASSWORD)).start().await.unwrap();
    let mut handle = greet(&host).await.unwrap();
    assert!(handle.authenticate_password("deploy", PASSWORD).await.unwrap().success());
    let sftp = Client(handle).sftp().await;
    // Relative paths start at the home directory.
    write_new(&sftp, "mine", b"x", 0o640).await.unwrap();
    let mine = host.info("/home/deploy/mine").unwrap();
    assert_eq!((mine.uid, mine.gid, mine.mode, mine.size), (1000, 1000, 0o640, 1));
    let owner = |uid, gid| FileAttributes { uid: Some(uid), gid: Some(gid), ..FileAttributes::empty() };
    assert_eq!(code(sftp.setstat("mine", owner(0, 0)).await), StatusCode::PermissionDenied);
    assert_eq!(code(sftp.setstat(KEY, permissions(0o644)).await), StatusCode::PermissionDenied);

    let root = connect(&host).await.unwrap().sftp().await;
    root.setstat("/home/deploy/mine", owner(7, 8)).await.unwrap();
    let mine = host.info("/home/deploy/mine").unwrap();
    assert_eq!((mine.uid, mine.gid), (7, 8));
}
