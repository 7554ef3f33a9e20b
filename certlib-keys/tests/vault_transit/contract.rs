//! What every provider promises, and what Vault's versions make of it.

use std::collections::BTreeSet;

use certlib_core::ErrorClass;
use certlib_core::secret::{
    Aad, Kek, KeyProvider as _, Keyring, KeyringEnvelope, LocalKey, Secret, SecretEnvelope as _,
};
use certlib_keys::vault_transit::{TransitKey, VaultTransit};
use serde_json::json;

use crate::support::{AAD, KEY, dek, failure, on_each, only, round_trip};

#[tokio::test]
async fn wraps_are_bound_to_what_they_were_made_for() {
    on_each(async |server| {
        let provider = server.provider(1);
        assert_eq!(provider.kind(), "vault-transit");
        let kek = only(&provider).await;
        assert_eq!((kek.version, kek.provider.as_str()), (1, VaultTransit::KIND));
        let wrapped = round_trip(&provider, &kek).await.unwrap();
        let again = round_trip(&provider, &kek).await.unwrap();
        assert!(again.salt != wrapped.salt && again.nonce != wrapped.nonce && again.ciphertext != wrapped.ciphertext);

        let rejected = async |wrapped, aad: &[u8]| {
            let error = failure(provider.unwrap(&kek, &wrapped, aad).await);
            assert_eq!((error.code(), error.class()), ("envelope_rejected", ErrorClass::Validation), "{error}");
        };
        for aad in [&b"another place"[..], b"", b"a plac", b"a place\0"] {
            rejected(wrapped.clone(), aad).await;
        }
        for at in 0..wrapped.salt.len() {
            let mut changed = wrapped.clone();
            changed.salt[at] ^= 1 << (at % 8);
            rejected(changed, AAD).await;
        }
        for at in 0..wrapped.nonce.len() {
            let mut changed = wrapped.clone();
            changed.nonce[at] ^= 1 << (at % 8);
            rejected(changed, AAD).await;
        }
        for at in 0..wrapped.ciphertext.len() {
            let mut changed = wrapped.clone();
            changed.ciphertext[at] ^= 1 << (at % 8);
            rejected(changed, AAD).await;
        }
    })
    .await;
}

#[tokio::test]
async fn each_version_is_a_key_of_its_own() {
    on_each(async |server| {
        let before = server.provider(5);
        let first = only(&before).await;
        assert_eq!(first.version, 5);
        let wrapped = round_trip(&before, &first).await.unwrap();

        server.rotate(KEY).await;
        server.rotate(KEY).await;
        let after = server.provider(5);
        let keks = after.keys().await.unwrap();
        assert_eq!(keks.iter().map(|kek| kek.version).collect::<Vec<_>>(), [5, 6, 7]);
        assert_eq!(keks[0], first, "the fingerprint of a version stays");
        assert_eq!(keks.iter().map(|kek| kek.id).collect::<BTreeSet<_>>().len(), 3);
        assert_eq!(after.unwrap(&first, &wrapped, AAD).await.unwrap().expose(), dek(1).expose());
        for kek in &keks {
            let wrapped = round_trip(&after, kek).await.unwrap();
            for other in keks.iter().filter(|other| *other != kek) {
                let error = failure(after.unwrap(other, &wrapped, AAD).await);
                assert_eq!(error.code(), "envelope_rejected", "{error}");
            }
        }
        // A provider that was not asked for the new version yet does not have it.
        assert_eq!(failure(before.wrap(&keks[1], &dek(1), AAD).await).code(), "kek_unknown");
        let local = LocalKey::new(9, dek(3)).unwrap();
        assert_eq!(failure(after.wrap(local.kek(), &dek(1), AAD).await).code(), "kek_unknown");
    })
    .await;
}

#[tokio::test]
async fn versions_that_may_not_decrypt_are_not_at_hand() {
    on_each(async |server| {
        let provider = server.provider(1);
        let first = only(&provider).await;
        let wrapped = round_trip(&provider, &first).await.unwrap();
        server.rotate(KEY).await;
        server.configure(KEY, json!({ "min_decryption_version": 2 })).await;
        let error = failure(provider.unwrap(&first, &wrapped, AAD).await);
        assert_eq!((error.code(), error.class()), ("kek_unknown", ErrorClass::Validation), "{error}");
        let error = failure(provider.wrap(&first, &dek(1), AAD).await);
        assert_eq!(error.code(), "kek_unknown", "{error}");
        assert_eq!(only(&server.provider(1)).await.version, 2);
        server.configure(KEY, json!({ "min_decryption_version": 1 })).await;
        assert_eq!(provider.unwrap(&first, &wrapped, AAD).await.unwrap().expose(), dek(1).expose());
    })
    .await;
}

#[tokio::test]
async fn versions_that_may_not_encrypt_are_at_hand_when_their_fingerprint_is_known() {
    on_each(async |server| {
        let provider = server.provider(1);
        let first = only(&provider).await;
        let wrapped = round_trip(&provider, &first).await.unwrap();
        server.rotate(KEY).await;
        server.configure(KEY, json!({ "min_encryption_version": 2 })).await;
        let error = failure(provider.wrap(&first, &dek(1), AAD).await);
        assert_eq!((error.code(), error.class()), ("kek_not_sealing", ErrorClass::Validation), "{error}");
        assert_eq!(provider.unwrap(&first, &wrapped, AAD).await.unwrap().expose(), dek(1).expose());

        let second = only(&server.provider(1)).await;
        assert_eq!(second.version, 2, "Vault gives no fingerprint of version 1");
        let mut key = TransitKey::new(KEY, 1);
        key.known = vec![second.id, first.id];
        let informed = VaultTransit::new(server.config_with(server.token(), vec![key])).unwrap();
        assert_eq!(informed.keys().await.unwrap(), [first.clone(), second]);
        assert_eq!(informed.unwrap(&first, &wrapped, AAD).await.unwrap().expose(), dek(1).expose());
        let mut changed = wrapped.clone();
        changed.ciphertext[0] ^= 1;
        assert_eq!(failure(informed.unwrap(&first, &changed, AAD).await).code(), "envelope_rejected");
        assert_eq!(failure(informed.wrap(&first, &dek(1), AAD).await).code(), "kek_not_sealing");
    })
    .await;
}

#[tokio::test]
async fn a_key_that_was_made_anew_is_another_one() {
    on_each(async |server| {
        let provider = server.provider(1);
        let kek = only(&provider).await;
        let wrapped = round_trip(&provider, &kek).await.unwrap();
        server.delete(KEY).await;
        for error in [failure(provider.unwrap(&kek, &wrapped, AAD).await), failure(provider.keys().await)] {
            assert_eq!((error.code(), error.class()), ("kek_unknown", ErrorClass::Validation), "{error}");
        }
        server.create(KEY, json!({})).await;
        let error = failure(provider.unwrap(&kek, &wrapped, AAD).await);
        assert_eq!(error.code(), "kek_unknown", "{error}");
        assert!(error.message().contains("made anew"), "{error}");
        assert_ne!(only(&server.provider(1)).await.id, kek.id);
    })
    .await;
}

#[tokio::test]
async fn keys_that_do_not_fit_are_refused() {
    on_each(async |server| {
        server.create("short", json!({ "type": "aes128-gcm96" })).await;
        server.create("chacha", json!({ "type": "chacha20-poly1305" })).await;
        server.create("derived", json!({ "derived": true })).await;
        for (name, shown) in [("short", "aes128-gcm96"), ("chacha", "chacha20-poly1305"), ("derived", "aes256-gcm96")] {
            let config = server.config_with(server.token(), vec![TransitKey::new(name, 1)]);
            let error = failure(VaultTransit::new(config).unwrap().keys().await);
            assert_eq!((error.code(), error.class()), ("kek_unsuitable", ErrorClass::Validation), "{error}");
            assert!(error.to_string().contains(shown) && error.to_string().contains(name), "{error}");
        }
        let config = server.config_with(server.token(), vec![TransitKey::new("absent", 1)]);
        assert_eq!(failure(VaultTransit::new(config).unwrap().keys().await).code(), "kek_unknown");
        let mut config = server.config(1);
        config.mount = "nowhere".to_owned();
        assert_eq!(failure(VaultTransit::new(config).unwrap().keys().await).code(), "kek_unknown");
        server.create("open", json!({ "exportable": true })).await;
        let config = server.config_with(server.token(), vec![TransitKey::new("open", 1)]);
        only(&VaultTransit::new(config).unwrap()).await;
    })
    .await;
}

#[tokio::test]
async fn envelopes_move_to_vault_and_back() {
    on_each(async |server| {
        let local = || Secret::new(std::array::from_fn(|n| u8::try_from(n).unwrap()));
        let place = Aad::new("shop", "credential", "c1", "secret");
        let mut ring = Keyring::new(local()).unwrap();
        let only_local = KeyringEnvelope::new(ring.clone());
        ring.add_provider(server.provider(2)).await.unwrap();
        assert_eq!(failure(ring.clone().add_provider(server.provider(7)).await).code(), "kek_duplicate");
        let both = KeyringEnvelope::new(ring);
        let keks: Vec<Kek> = both.keks();
        assert_eq!(keks.iter().map(|kek| kek.provider.as_str()).collect::<Vec<_>>(), ["local", "vault-transit"]);

        let sealed = only_local.seal(b"canary", &place).await.unwrap();
        let there = both.rewrap(&sealed, &place).await.unwrap();
        assert_eq!(there.kek(), Some(keks[1].id));
        assert_eq!(both.open(&there, &place).await.unwrap().expose(), b"canary");
        both.verify(&there, &place).await.unwrap();
        let elsewhere = Aad::new("shop", "credential", "c2", "secret");
        assert_eq!(failure(both.open(&there, &elsewhere).await).code(), "envelope_rejected");
        both.promote(&keks[0].id).unwrap();
        let back = both.rewrap(&there, &place).await.unwrap();
        assert_eq!(only_local.open(&back, &place).await.unwrap().expose(), b"canary");
    })
    .await;
}
