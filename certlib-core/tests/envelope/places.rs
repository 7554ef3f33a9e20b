//! A sealed secret opens in its place only.

use certlib_core::secret::{Aad, Keyring, KeyringEnvelope, Sealed, Secret, SecretEnvelope as _};

use super::by_hand::{Layout, PARTS};
use super::{SUITES, envelope, kek, now};

const HOME: Aad<'static> = Aad { tenant: "shop", collection: "credential", record: "c1", field: "secret", version: 1 };

#[test]
fn a_secret_that_was_moved_does_not_open() {
    let moved = [
        ("tenant", Aad { tenant: "shop2", ..HOME }),
        ("no tenant", Aad { tenant: "", ..HOME }),
        ("collection", Aad { collection: "issuer_secret", ..HOME }),
        ("record", Aad { record: "c2", ..HOME }),
        ("field", Aad { field: "key", ..HOME }),
        ("version", Aad { version: 2, ..HOME }),
        ("tenant and collection", Aad { tenant: "shopc", collection: "redential", ..HOME }),
        ("record and field", Aad { record: "c1s", field: "ecret", ..HOME }),
        ("exchanged", Aad { record: "secret", field: "c1", ..HOME }),
    ];
    for suite in SUITES {
        let envelope = envelope(suite, &[1, 2]);
        let sealed = now(envelope.seal(b"canary", &HOME)).unwrap();
        assert_eq!(now(envelope.open(&sealed, &HOME)).unwrap().expose(), b"canary");
        for (what, place) in &moved {
            assert_eq!(now(envelope.open(&sealed, place)).unwrap_err().code(), "envelope_rejected", "{what}");
            assert_eq!(now(envelope.verify(&sealed, place)).unwrap_err().code(), "envelope_rejected", "{what}");
            assert_eq!(now(envelope.rewrap(&sealed, place)).unwrap_err().code(), "envelope_rejected", "{what}");
        }
    }
}

/// A payload is bound to its place by itself, not only by the wrap of its key.
#[test]
fn a_payload_that_was_moved_with_its_data_key_does_not_open() {
    let there = Aad { record: "c2", ..HOME };
    for suite in SUITES {
        let envelope = envelope(suite, &[1]);
        let layout = Layout::read(now(envelope.seal(b"canary", &HOME)).unwrap().as_bytes());
        let dek = layout.data_key(&kek(1), &HOME).unwrap();
        let moved = Sealed::from_bytes(layout.with_data_key(&kek(1), &dek, &there).write());
        now(envelope.verify(&moved, &there)).expect("the data key is wrapped for that place");
        assert_eq!(now(envelope.open(&moved, &there)).unwrap_err().code(), "envelope_rejected");
    }
}

/// Whatever is put together from two envelopes of one place opens as neither.
#[test]
fn parts_of_two_secrets_make_no_third() {
    for suite in SUITES {
        let envelope = envelope(suite, &[1]);
        let (one, other) = (now(envelope.seal(b"one", &HOME)).unwrap(), now(envelope.seal(b"two", &HOME)).unwrap());
        let (one, other) = (one.as_bytes(), other.as_bytes());
        let mut from = 0;
        let mut tried = 0;
        let parts = PARTS.into_iter().chain([("payload", one.len() - PARTS.iter().map(|part| part.1).sum::<usize>())]);
        for (what, length) in parts {
            let mut mixed = one.to_vec();
            mixed[from..from + length].copy_from_slice(&other[from..from + length]);
            let cut = [&one[..from], &other[from..]].concat();
            for bytes in [mixed, cut] {
                if bytes == one || bytes == other {
                    continue;
                }
                tried += 1;
                let error = now(envelope.open(&Sealed::from_bytes(bytes), &HOME)).unwrap_err();
                let wanted = if what == "commitment" { "commitment_mismatch" } else { "envelope_rejected" };
                assert_eq!(error.code(), wanted, "{what}");
            }
            from += length;
        }
        assert!(tried >= 10, "{tried}");
    }
}

#[test]
fn keys_are_known_by_what_they_are_not_by_their_number() {
    for suite in SUITES {
        let sealed = now(envelope(suite, &[1]).seal(b"canary", &HOME)).unwrap();
        let other = envelope(suite, &[2]);
        assert_eq!(now(other.open(&sealed, &HOME)).unwrap_err().code(), "kek_unknown", "another key as version 1");
        let mut ring = Keyring::default();
        ring.add(9, Secret::new(kek(1))).unwrap();
        let renumbered = KeyringEnvelope::new(ring);
        assert_eq!(now(renumbered.open(&sealed, &HOME)).unwrap().expose(), b"canary", "the same key as version 9");
    }
}
