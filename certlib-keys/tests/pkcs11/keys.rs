//! Keys are made, found and known; unfit ones are refused.

use std::fs;

use aws_lc_rs::cmac;
use aws_lc_rs::digest::{SHA256, digest};
use certlib_core::secret::{KekId, KeyProvider as _, WrappedDek};
use certlib_core::{ErrorClass, Secret};
use certlib_keys::pkcs11::{Fingerprint, Pkcs11Provider, TokenSelector};
use certlib_testkit::counterpart::SoftHsm;
use certlib_testkit::require;
use cryptoki::context::Function;
use cryptoki::error::{Error as Cryptoki, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeInfo, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use crate::support::{Token, assert_works, dek, in_process, run, say};

/// The key of the examples for AES-256 in NIST SP 800-38B.
const KNOWN_KEY: [u8; 32] = [
    0x60, 0x3d, 0xeb, 0x10, 0x15, 0xca, 0x71, 0xbe, 0x2b, 0x73, 0xae, 0xf0, 0x85, 0x7d, 0x77, 0x81, 0x1f, 0x35, 0x2c,
    0x07, 0x3b, 0x61, 0x08, 0xd7, 0x2d, 0x98, 0x10, 0xa3, 0x09, 0x14, 0xdf, 0xf4,
];

/// Puts a key with a known value into the token, as a key ceremony does.
pub(crate) fn import(session: &Session, label: &str, value: &[u8], extractable: bool) -> ObjectHandle {
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Value(value.to_vec()),
        Attribute::Label(label.into()),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(extractable),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        Attribute::Sign(true),
    ];
    session.create_object(&template).unwrap()
}

pub(crate) fn known_key() -> [u8; 32] {
    KNOWN_KEY
}

/// Keys and fingerprints outlive the process, and what was wrapped with them opens in another one.
#[tokio::test]
async fn a_restart_finds_the_same_keys() {
    const TEST: &str = "keys::a_restart_finds_the_same_keys";
    let Some(token) = Token::inherited() else {
        let hsm = require!(SoftHsm::start("certlib tests").await);
        run(TEST, &hsm, hsm.module(), "make").await;
        // An independent program sees what certlib made.
        let objects = hsm.objects().await.unwrap();
        assert_eq!(objects.matches("AES length 32").count(), 2, "{objects}");
        assert!(objects.contains("certlib-kek-v1") && objects.contains("certlib-kek-v3"), "{objects}");
        assert_eq!(objects.matches("sensitive, always sensitive, never extractable, local").count(), 2, "{objects}");
        assert!(!objects.contains("wrap"), "{objects}");
        run(TEST, &hsm, hsm.module(), "find").await;
        return;
    };
    let provider = token.provider().await;
    say(&provider);
    let file = token.folder.join("wrapped");
    if token.step == "make" {
        assert_eq!(provider.kind(), "pkcs11");
        assert_eq!(provider.keys().await.unwrap(), []);
        let third = provider.generate(3).await.unwrap();
        let first = provider.generate(1).await.unwrap();
        assert_eq!((first.version, third.version, first.provider.as_str()), (1, 3, "pkcs11"));
        assert_ne!(first.id, third.id);
        let error = provider.generate(1).await.unwrap_err();
        assert_eq!((error.code(), error.class()), ("kek_exists", ErrorClass::Validation));
        assert_eq!(provider.keys().await.unwrap(), [first.clone(), third]);

        let wrapped = provider.wrap(&first, &dek(), b"place").await.unwrap();
        let bytes = [first.id.as_bytes(), wrapped.salt.as_slice(), &wrapped.nonce, &wrapped.ciphertext].concat();
        fs::write(file, bytes).unwrap();
    } else {
        let bytes = fs::read(file).unwrap();
        let (id, rest) = bytes.split_at(KekId::LEN);
        let (salt, rest) = rest.split_at(32);
        let (nonce, ciphertext) = rest.split_at(12);
        let keys = provider.keys().await.unwrap();
        assert_eq!(keys.len(), 2);
        assert_eq!(keys[0].id.as_bytes(), id);
        let wrapped = WrappedDek {
            salt: salt.try_into().unwrap(),
            nonce: nonce.try_into().unwrap(),
            ciphertext: ciphertext.try_into().unwrap(),
        };
        assert_eq!(provider.unwrap(&keys[0], &wrapped, b"place").await.unwrap().expose(), dek().expose());
        assert_works(&provider, &keys[1]).await;
    }
}

#[tokio::test]
async fn a_key_cannot_leave_the_token() {
    let Some(token) = in_process("keys::a_key_cannot_leave_the_token").await else { return };
    token.provider().await.generate(1).await.unwrap();
    let session = token.session();
    let key = session.find_objects(&[Attribute::Label(b"certlib-kek-v1".to_vec())]).unwrap()[0];
    let value = session.get_attribute_info(key, &[AttributeType::Value]).unwrap();
    assert!(!matches!(value[0], AttributeInfo::Available(_)), "{value:?}");
    // Not even wrapped with another key, which is how keys leave tokens.
    let wrapping = [Attribute::Token(false), Attribute::ValueLen(32.into()), Attribute::Wrap(true)];
    let wrapping = session.generate_key(&Mechanism::AesKeyGen, &wrapping).unwrap();
    let error = session.wrap_key(&Mechanism::AesKeyWrap, wrapping, key).unwrap_err();
    assert!(matches!(error, Cryptoki::Pkcs11(RvError::KeyUnextractable, Function::WrapKey)), "{error:?}");
    // Nor can that be allowed later.
    let error = session.update_attributes(key, &[Attribute::Extractable(true)]).unwrap_err();
    assert!(matches!(error, Cryptoki::Pkcs11(..)), "{error:?}");
}

/// Fingerprints depend on the key alone, and may never change from one release to the next.
#[tokio::test]
async fn fingerprints_are_those_of_the_key() {
    let Some(token) = in_process("keys::fingerprints_are_those_of_the_key").await else { return };
    import(&token.session(), "certlib-kek-v7", &KNOWN_KEY, false);
    import(&token.session(), "another-v9", &KNOWN_KEY, false);

    let by_cmac = token.provider().await.keys().await.unwrap();
    assert_eq!(by_cmac.iter().map(|kek| kek.version).collect::<Vec<_>>(), [7]);
    let key = cmac::Key::new(cmac::AES_256, &KNOWN_KEY).unwrap();
    let tags = [b"certlib kek id 1", b"certlib kek id 2"].map(|block| cmac::sign(&key, block).unwrap());
    let text = [b"certlib pkcs11 kek id v1 cmac".as_slice(), tags[0].as_ref(), tags[1].as_ref()].concat();
    assert_eq!(by_cmac[0].id.as_bytes(), digest(&SHA256, &text).as_ref());
    assert_eq!(by_cmac[0].id.to_string(), "fa181f226360828da44606e58939fcaed73b1f1615b03961b854682f6895f8e7");

    let other = Pkcs11Provider::open(token.config().label_prefix("another-")).await.unwrap();
    let other = other.keys().await.unwrap();
    assert_eq!((other[0].id, other[0].version), (by_cmac[0].id, 9), "the same key under another label");

    let by_ecb = Pkcs11Provider::open(token.config().fingerprint(Fingerprint::Ecb)).await.unwrap();
    assert_eq!(
        by_ecb.keys().await.unwrap()[0].id.to_string(),
        "5e5b135d0e631294b47a62bb1987f5457911edb2bef682d560aa881dc061a035"
    );
}

#[tokio::test]
async fn a_token_without_cmac_is_told_so_and_works_with_ecb() {
    const TEST: &str = "keys::a_token_without_cmac_is_told_so_and_works_with_ecb";
    let Some(token) = Token::inherited() else {
        let hsm = require!(SoftHsm::with_mechanisms("certlib tests", "CKM_AES_KEY_GEN,CKM_AES_GCM,CKM_AES_ECB").await);
        return run(TEST, &hsm, hsm.module(), "").await;
    };
    let error = Pkcs11Provider::open(token.config()).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("hsm_mechanism_missing", ErrorClass::IoPermanent));
    let text = error.to_string();
    assert!(text.contains("missing=CKM_AES_CMAC") && text.contains("`ecb`"), "{text}");

    let provider = Pkcs11Provider::open(token.config().fingerprint(Fingerprint::Ecb)).await.unwrap();
    let kek = provider.generate(1).await.unwrap();
    assert_works(&provider, &kek).await;
    assert_eq!(provider.keys().await.unwrap(), [kek]);
}

#[tokio::test]
async fn a_token_that_cannot_make_keys_is_refused() {
    const TEST: &str = "keys::a_token_that_cannot_make_keys_is_refused";
    let Some(token) = Token::inherited() else {
        let hsm = require!(SoftHsm::with_mechanisms("certlib tests", "CKM_AES_CMAC,CKM_AES_ECB").await);
        return run(TEST, &hsm, hsm.module(), "").await;
    };
    let error = Pkcs11Provider::open(token.config()).await.unwrap_err();
    assert_eq!(error.code(), "hsm_mechanism_missing");
    assert!(error.to_string().contains("CKM_AES_KEY_GEN"), "{error}");
}

#[tokio::test]
async fn unfit_keys_are_refused_and_do_not_hinder_others() {
    let Some(token) = in_process("keys::unfit_keys_are_refused_and_do_not_hinder_others").await else { return };
    let provider = token.provider().await;
    let good = provider.generate(1).await.unwrap();
    let session = token.session();
    import(&session, "another-v2", &KNOWN_KEY, true);
    import(&session, "certlib-kek-old", &KNOWN_KEY, true);
    for (value, extractable, code) in
        [(KNOWN_KEY.as_slice(), true, "kek_extractable"), (&KNOWN_KEY[..16], false, "kek_weak")]
    {
        let key = import(&session, "certlib-kek-v2", value, extractable);
        let error = provider.keys().await.unwrap_err();
        assert_eq!((error.code(), error.class()), (code, ErrorClass::Validation), "{error}");
        assert!(error.to_string().contains("certlib-kek-v2"), "{error}");
        assert_works(&*token.provider().await, &good).await;
        session.destroy_object(key).unwrap();
    }
    let twin = import(&session, "certlib-kek-v1", &KNOWN_KEY, false);
    assert_eq!(provider.keys().await.unwrap_err().code(), "kek_ambiguous");
    assert_works(&*token.provider().await, &good).await;
    session.destroy_object(twin).unwrap();
    assert_eq!(provider.keys().await.unwrap(), [good]);
}

#[tokio::test]
async fn tokens_are_found_by_label_serial_number_and_slot() {
    let Some(token) = in_process("keys::tokens_are_found_by_label_serial_number_and_slot").await else { return };
    let slot = token.slot();
    let serial = token.library().get_token_info(slot).unwrap().serial_number().to_owned();
    let kek = token.provider().await.generate(1).await.unwrap();
    for selector in [TokenSelector::Serial(serial), TokenSelector::Slot(slot.id())] {
        let config = certlib_keys::pkcs11::Pkcs11Config::new(&token.module, selector, Secret::new(token.pin.clone()));
        assert_eq!(Pkcs11Provider::open(config).await.unwrap().keys().await.unwrap(), std::slice::from_ref(&kek));
    }
}
