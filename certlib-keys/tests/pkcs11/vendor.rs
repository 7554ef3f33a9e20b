//! What HSMs do that SoftHSM2 does not: a library in front of it plays that.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use certlib_core::secret::KeyProvider as _;
use certlib_core::{Effect, ErrorClass};
use certlib_keys::pkcs11::Pkcs11Provider;
use certlib_testkit::counterpart::SoftHsm;
use certlib_testkit::process;
use tokio::task::JoinSet;

use crate::support::{REAL, Token, assert_works, dek, in_process, run, say};

/// As [`in_process`], with the vendor's library in front of SoftHSM2.
async fn in_process_of_vendor(test: &str) -> Option<Token> {
    if let Some(token) = Token::inherited() {
        return Some(token);
    }
    let hsm = match SoftHsm::start("certlib tests").await {
        Err(certlib_testkit::Error::LeftOut { name }) => {
            eprintln!("left out: {name}");
            return None;
        }
        other => other.unwrap(),
    };
    let library = hsm.folder().join("vendor.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pkcs11/vendor.c");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl");
    process::run(compiler, b"").await.unwrap();
    run(test, &hsm, &library, "").await;
    None
}

impl Token {
    /// Makes the library behave so from now on.
    fn tell(&self, what: &str) {
        std::fs::write(self.folder.join(what), "").unwrap();
    }

    /// Makes it stop that.
    fn untell(&self, what: &str) {
        std::fs::remove_file(self.folder.join(what)).unwrap();
    }

    /// How often the PIN went to the token so far.
    fn logins(&self) -> u64 {
        self.count("logins")
    }

    /// How many sessions are open.
    fn sessions(&self) -> u64 {
        self.count("opened") - self.count("closed")
    }

    fn count(&self, what: &str) -> u64 {
        std::fs::metadata(self.folder.join(what)).map_or(0, |file| file.len())
    }
}

#[tokio::test]
async fn an_hsm_may_insist_on_its_own_nonces() {
    let Some(token) = in_process_of_vendor("vendor::an_hsm_may_insist_on_its_own_nonces").await else { return };
    assert!(std::env::var_os(REAL).is_some());
    token.tell("own-nonces");
    let error = Pkcs11Provider::open(token.config()).await.unwrap_err();
    assert_eq!(error.code(), "hsm_unfit");
    assert!(error.to_string().contains("iv_from_hsm"), "found out at start: {error}");

    let provider = Pkcs11Provider::open(token.config().iv_from_hsm(true)).await.unwrap();
    let kek = provider.generate(1).await.unwrap();
    let mut nonces = HashSet::new();
    for _ in 0..20 {
        let wrapped = provider.wrap(&kek, &dek(), b"place").await.unwrap();
        assert_eq!(provider.unwrap(&kek, &wrapped, b"place").await.unwrap().expose(), dek().expose());
        nonces.insert(wrapped.nonce);
    }
    assert_eq!(nonces.len(), 20);
}

/// Without this, every wrap would have the nonce zero.
#[tokio::test]
async fn an_hsm_that_makes_no_nonces_is_found_out() {
    let Some(token) = in_process("vendor::an_hsm_that_makes_no_nonces_is_found_out").await else { return };
    let error = Pkcs11Provider::open(token.config().iv_from_hsm(true)).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("hsm_unfit", ErrorClass::IoPermanent));
    assert!(error.to_string().contains("hsm_iv_missing"), "{error}");
    let provider = Pkcs11Provider::open(token.config().iv_from_hsm(true).self_test(false)).await.unwrap();
    let kek = provider.generate(1).await.unwrap();
    assert_eq!(provider.wrap(&kek, &dek(), b"").await.unwrap_err().code(), "hsm_iv_missing");
}

#[tokio::test]
async fn a_token_that_was_away_is_used_again() {
    let Some(token) = in_process_of_vendor("vendor::a_token_that_was_away_is_used_again").await else { return };
    let provider = token.provider().await;
    let kek = provider.generate(1).await.unwrap();
    assert_works(&provider, &kek).await;
    for _ in 0..3 {
        token.tell("removed");
        for error in [provider.wrap(&kek, &dek(), b"").await.unwrap_err(), provider.generate(2).await.unwrap_err()] {
            assert_eq!((error.code(), error.class()), ("hsm_away", ErrorClass::IoTransient), "{error}");
            say(&error);
        }
        token.untell("removed");
        assert_works(&provider, &kek).await;
    }
}

#[tokio::test]
async fn a_call_that_hangs_is_given_up() {
    let Some(token) = in_process_of_vendor("vendor::a_call_that_hangs_is_given_up").await else { return };
    let config = token.config().call_limit(Duration::from_secs(1)).sessions(1);
    let provider = Pkcs11Provider::open(config).await.unwrap();
    let kek = provider.generate(1).await.unwrap();
    token.tell("hang");
    // The second one does not even get a session.
    for _ in 0..2 {
        let error = provider.wrap(&kek, &dek(), b"").await.unwrap_err();
        assert_eq!((error.code(), error.class()), ("hsm_timeout", ErrorClass::IoTransient));
    }
    assert_eq!(provider.generate(2).await.unwrap_err().effect(), Effect::Possible);
    token.untell("hang");
    assert_works(&provider, &kek).await;
}

#[tokio::test]
async fn the_pin_is_sent_no_more_than_it_must() {
    let Some(token) = in_process_of_vendor("vendor::the_pin_is_sent_no_more_than_it_must").await else { return };
    for (state, code) in [("pin-final-try", "pin_final_try"), ("pin-locked", "pin_locked")] {
        token.tell(state);
        let error = Pkcs11Provider::open(token.config()).await.unwrap_err();
        assert_eq!((error.code(), error.class()), (code, ErrorClass::Auth));
        token.untell(state);
    }
    assert_eq!(token.logins(), 0);
    let error = Pkcs11Provider::open(token.config_with_pin("wrong-pin")).await.unwrap_err();
    assert_eq!(error.code(), "pin_refused");
    assert_eq!(token.logins(), 1, "a wrong PIN is tried once");
    let provider = token.provider().await;
    let kek = provider.generate(1).await.unwrap();
    for _ in 0..10 {
        assert_works(&provider, &kek).await;
    }
    assert_eq!(token.logins(), 2, "one log-in holds for all calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_few_and_end_with_the_provider() {
    let Some(token) = in_process_of_vendor("vendor::sessions_are_few_and_end_with_the_provider").await else { return };
    let provider = Arc::new(Pkcs11Provider::open(token.config().sessions(3)).await.unwrap());
    let kek = provider.generate(1).await.unwrap();
    let mut tasks = JoinSet::new();
    for _ in 0..16 {
        let (provider, kek) = (provider.clone(), kek.clone());
        tasks.spawn(async move { assert_works(&provider, &kek).await });
    }
    tasks.join_all().await;
    assert!((1..=3).contains(&token.sessions()), "{} sessions are open", token.sessions());
    drop(provider);
    assert_eq!(token.sessions(), 0);
}

/// Some tokens say "failed" about data that are not authentic: what they are is found out with the key itself.
#[tokio::test]
async fn a_vague_answer_is_not_taken_for_an_outage_nor_the_reverse() {
    const TEST: &str = "vendor::a_vague_answer_is_not_taken_for_an_outage_nor_the_reverse";
    let Some(token) = in_process_of_vendor(TEST).await else { return };
    let provider = token.provider().await;
    let kek = provider.generate(1).await.unwrap();
    let wrapped = provider.wrap(&kek, &dek(), b"place").await.unwrap();
    token.tell("vague");
    let error = provider.unwrap(&kek, &wrapped, b"elsewhere").await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("envelope_rejected", ErrorClass::Validation));
    token.tell("broken");
    let error = provider.unwrap(&kek, &wrapped, b"place").await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("hsm_failed", ErrorClass::IoTransient));
    token.untell("broken");
    assert_eq!(provider.unwrap(&kek, &wrapped, b"place").await.unwrap().expose(), dek().expose());
}
