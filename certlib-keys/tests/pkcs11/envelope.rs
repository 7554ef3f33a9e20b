//! Envelopes move between keys in memory and keys in a token.

use certlib_core::Secret;
use certlib_core::secret::{Aad, Keyring, KeyringEnvelope, SecretEnvelope as _};

use crate::support::in_process;

fn aad() -> Aad<'static> {
    Aad::new("shop", "credential", "c1", "secret")
}

fn key(seed: u8) -> Secret<[u8; 32]> {
    Secret::new(std::array::from_fn(|n| u8::try_from(n).unwrap() ^ seed))
}

#[tokio::test]
async fn envelopes_move_into_the_token_and_out_again() {
    let Some(token) = in_process("envelope::envelopes_move_into_the_token_and_out_again").await else { return };
    let provider = token.provider().await;
    provider.generate(2).await.unwrap();
    let mut ring = Keyring::new(key(1)).unwrap();
    let in_memory = KeyringEnvelope::new(ring.clone());
    ring.add_provider(provider).await.unwrap();
    let in_token = KeyringEnvelope::new(ring.clone());
    ring.add(3, key(3)).unwrap();
    let back = KeyringEnvelope::new(ring);
    assert_eq!(back.keks().iter().map(|kek| kek.provider.as_str()).collect::<Vec<_>>(), ["local", "pkcs11", "local"]);

    let first = in_memory.seal(b"canary", &aad()).await.unwrap();
    let second = in_token.rewrap(&first, &aad()).await.unwrap();
    let third = back.rewrap(&second, &aad()).await.unwrap();
    let (_, payload) = first.as_bytes().split_at(first.as_bytes().len() - 50);
    for (sealed, version) in [(&first, 1), (&second, 2), (&third, 3)] {
        let kek = back.keks().into_iter().find(|kek| Some(kek.id) == sealed.kek()).unwrap();
        assert_eq!(kek.version, version);
        assert!(sealed.as_bytes().ends_with(payload), "a rewrap changes no byte of the payload");
        assert_eq!(back.open(sealed, &aad()).await.unwrap().expose(), b"canary");
        back.verify(sealed, &aad()).await.unwrap();
        let elsewhere = Aad::new("shop", "credential", "c2", "secret");
        assert_eq!(back.open(sealed, &elsewhere).await.unwrap_err().code(), "envelope_rejected");
    }
    assert_eq!(in_memory.open(&second, &aad()).await.unwrap_err().code(), "kek_unknown");

    let sealed = in_token.seal(b"another", &aad()).await.unwrap();
    assert_eq!(sealed.kek(), second.kek());
    for bit in (0..8 * sealed.as_bytes().len()).step_by(7) {
        let mut bytes = sealed.as_bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let changed = certlib_core::secret::Sealed::from_bytes(bytes);
        assert!(in_token.open(&changed, &aad()).await.is_err(), "bit {bit}");
    }
    assert_eq!(in_token.open(&sealed, &aad()).await.unwrap().expose(), b"another");
}
