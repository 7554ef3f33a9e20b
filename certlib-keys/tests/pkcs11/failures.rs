//! What goes wrong has the class of its remedy; what was lost is opened again; a wrong PIN is tried once.

use certlib_core::ErrorClass;
use certlib_core::secret::KeyProvider as _;
use certlib_keys::pkcs11::{Pkcs11Provider, TokenSelector};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use tokio::task::JoinSet;

use crate::support::{assert_works, dek, in_process, say};

const OTHER_PIN: &str = "87654321-other";

#[tokio::test]
async fn a_wrong_pin_is_refused_without_showing_it() {
    let Some(token) = in_process("failures::a_wrong_pin_is_refused_without_showing_it").await else { return };
    let error = Pkcs11Provider::open(token.config_with_pin(OTHER_PIN)).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("pin_refused", ErrorClass::Auth));
    assert!(!format!("{error:?}").contains(OTHER_PIN), "{error:?}");
    say(&token.config());
    say(&token.provider().await);
}

/// The PIN changes under a provider that runs: it tries its own once, and not even then again when that would work.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_pin_is_never_tried_again() {
    let Some(token) = in_process("failures::a_refused_pin_is_never_tried_again").await else { return };
    let provider = token.provider().await;
    let kek = provider.generate(1).await.unwrap();
    let (right, other) = (AuthPin::from(token.pin.as_str()), AuthPin::from(OTHER_PIN));
    let session = token.session();
    session.set_pin(&right, &other).unwrap();
    session.logout().unwrap();

    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let (provider, kek) = (provider.clone(), kek.clone());
        tasks.spawn(async move { provider.wrap(&kek, &dek(), b"").await.unwrap_err() });
    }
    for error in tasks.join_all().await {
        assert_eq!((error.code(), error.class()), ("pin_refused", ErrorClass::Auth), "{error:?}");
        say(&error);
    }

    session.login(UserType::User, Some(&other)).unwrap();
    session.set_pin(&other, &right).unwrap();
    session.logout().unwrap();
    assert_eq!(provider.wrap(&kek, &dek(), b"").await.unwrap_err().code(), "pin_refused", "it was tried again");
    assert_works(&*token.provider().await, &kek).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_sessions_are_opened_again() {
    let Some(token) = in_process("failures::lost_sessions_are_opened_again").await else { return };
    let provider = token.provider().await;
    let kek = provider.generate(1).await.unwrap();
    assert_works(&provider, &kek).await;
    for round in 0..6 {
        if round % 2 == 0 {
            // Somebody else in the process logs out, which holds for all.
            token.session().logout().unwrap();
        } else {
            // The library loses everything, as after a restart of the service behind it.
            token.library().finalize().unwrap();
        }
        let mut tasks = JoinSet::new();
        for _ in 0..8 {
            let (provider, kek) = (provider.clone(), kek.clone());
            tasks.spawn(async move { assert_works(&provider, &kek).await });
        }
        tasks.join_all().await;
        assert_eq!(provider.keys().await.unwrap(), std::slice::from_ref(&kek));
    }
}

#[tokio::test]
async fn a_token_or_library_that_is_not_there_is_named() {
    let Some(token) = in_process("failures::a_token_or_library_that_is_not_there_is_named").await else { return };
    let config = |module: &str, label: &str| {
        let pin = certlib_core::Secret::new(token.pin.clone());
        certlib_keys::pkcs11::Pkcs11Config::new(module, TokenSelector::Label(label.to_owned()), pin)
    };
    let module = token.module.to_str().unwrap();
    let error = Pkcs11Provider::open(config(module, "elsewhere")).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("token_missing", ErrorClass::IoTransient));
    assert!(error.to_string().contains("elsewhere") && error.to_string().contains(&token.label), "{error}");

    let own = std::env::current_exe().unwrap();
    for module in ["/nowhere/libpkcs11.so", own.to_str().unwrap()] {
        let error = Pkcs11Provider::open(config(module, &token.label)).await.unwrap_err();
        assert_eq!((error.code(), error.class()), ("module_unusable", ErrorClass::IoPermanent));
        assert!(error.to_string().contains(module), "{error}");
    }
    let error = Pkcs11Provider::open(token.config().label_prefix("")).await.unwrap_err();
    assert_eq!(error.code(), "label_prefix_invalid");
}
