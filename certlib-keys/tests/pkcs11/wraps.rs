//! Wraps are standard AES-GCM, bound to all they should be, and may be made by many at a time.

use std::collections::HashSet;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use certlib_core::ErrorClass;
use certlib_core::secret::{Kek, KekId, KeyProvider as _};
use cryptoki::object::Attribute;
use tokio::task::JoinSet;

use crate::keys::{import, known_key};
use crate::support::{assert_works, dek, in_process, say};

#[tokio::test]
async fn a_wrap_opens_unchanged_and_in_its_place_only() {
    let Some(token) = in_process("wraps::a_wrap_opens_unchanged_and_in_its_place_only").await else { return };
    let provider = token.provider().await;
    let (kek, other) = (provider.generate(1).await.unwrap(), provider.generate(2).await.unwrap());
    let wrapped = provider.wrap(&kek, &dek(), b"place").await.unwrap();
    assert_eq!(provider.unwrap(&kek, &wrapped, b"place").await.unwrap().expose(), dek().expose());

    let mut refused = Vec::new();
    for (kek, aad) in [(&kek, b"other".as_slice()), (&kek, b""), (&other, b"place")] {
        refused.push(provider.unwrap(kek, &wrapped, aad).await.unwrap_err());
    }
    for bit in 0..8 * (wrapped.ciphertext.len() + wrapped.nonce.len() + wrapped.salt.len()) {
        let mut changed = wrapped.clone();
        let (salt, nonce) = (&mut changed.salt, &mut changed.nonce);
        let byte = changed.ciphertext.iter_mut().chain(nonce).chain(salt).nth(bit / 8).unwrap();
        *byte ^= 1 << (bit % 8);
        refused.push(provider.unwrap(&kek, &changed, b"place").await.unwrap_err());
    }
    for error in &refused {
        assert_eq!((error.code(), error.class()), ("envelope_rejected", ErrorClass::Validation), "{error:?}");
    }
    say(&refused[0]);
    assert_works(&provider, &kek).await;
}

/// Any implementation opens it that has the key: nothing is special to the token.
#[tokio::test]
async fn a_wrap_is_standard() {
    let Some(token) = in_process("wraps::a_wrap_is_standard").await else { return };
    import(&token.session(), "certlib-kek-v1", &known_key(), false);
    let provider = token.provider().await;
    let kek = provider.keys().await.unwrap().remove(0);
    let wrapped = provider.wrap(&kek, &dek(), b"place").await.unwrap();
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &known_key()).unwrap());
    let mut bytes = wrapped.ciphertext;
    let aad = [b"place".as_slice(), &wrapped.salt].concat();
    let plain = key.open_in_place(Nonce::from(&wrapped.nonce), Aad::from(aad), &mut bytes).unwrap();
    assert_eq!(plain, dek().expose());
}

#[tokio::test]
async fn a_key_that_is_not_there_is_unknown() {
    let Some(token) = in_process("wraps::a_key_that_is_not_there_is_unknown").await else { return };
    let provider = token.provider().await;
    let kek = provider.generate(1).await.unwrap();
    let stranger = Kek::new(KekId::new([7; KekId::LEN]), 1, "pkcs11");
    let error = provider.wrap(&stranger, &dek(), b"").await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("kek_unknown", ErrorClass::Validation));

    // Deleted while in use, and made again under the same name: that is another key.
    let wrapped = provider.wrap(&kek, &dek(), b"place").await.unwrap();
    let session = token.session();
    for key in session.find_objects(&[Attribute::Label(b"certlib-kek-v1".to_vec())]).unwrap() {
        session.destroy_object(key).unwrap();
    }
    assert_eq!(provider.wrap(&kek, &dek(), b"").await.unwrap_err().code(), "kek_unknown");
    let again = provider.generate(1).await.unwrap();
    assert_ne!(again.id, kek.id);
    assert_eq!(provider.unwrap(&kek, &wrapped, b"place").await.unwrap_err().code(), "kek_unknown");
    assert_eq!(provider.unwrap(&again, &wrapped, b"place").await.unwrap_err().code(), "envelope_rejected");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_wrap_at_a_time_over_few_sessions() {
    let Some(token) = in_process("wraps::many_wrap_at_a_time_over_few_sessions").await else { return };
    let provider = token.provider().await;
    let keks = [provider.generate(1).await.unwrap(), provider.generate(2).await.unwrap()];
    let mut tasks = JoinSet::new();
    for task in 0..16 {
        let (provider, kek) = (provider.clone(), keks[task % 2].clone());
        tasks.spawn(async move {
            let mut made = Vec::new();
            for n in 0..25 {
                let aad = format!("{task}/{n}");
                let wrapped = provider.wrap(&kek, &dek(), aad.as_bytes()).await.unwrap();
                let opened = provider.unwrap(&kek, &wrapped, aad.as_bytes()).await.unwrap();
                assert_eq!(opened.expose(), dek().expose());
                made.push(wrapped);
            }
            made
        });
    }
    let made = tasks.join_all().await.concat();
    let nonces: HashSet<_> = made.iter().map(|wrapped| wrapped.nonce).collect();
    let salts: HashSet<_> = made.iter().map(|wrapped| wrapped.salt).collect();
    assert_eq!((nonces.len(), salts.len()), (400, 400), "no nonce and no salt comes twice");
}
