//! What the types of secrets can do, and above all what they cannot.

use std::borrow::Borrow;
use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::ops::Deref;

use certlib_core::secret::{
    Dek, KEK_LEN, Keyring, KeyringEnvelope, LocalKey, Sealed, Secret, SecretBytes, SecretString,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::kek;

/// Whether a type implements a trait: an inherent constant, which is there only if it does, goes before that of a trait.
macro_rules! implements {
    ($type:ty: $($bound:tt)+) => {{
        #[allow(dead_code)]
        trait Absent {
            const THERE: bool = false;
        }
        impl<T: ?Sized> Absent for T {}
        #[allow(dead_code)]
        struct Probe<T: ?Sized>(std::marker::PhantomData<T>);
        #[allow(dead_code)]
        impl<T: ?Sized + $($bound)+> Probe<T> {
            const THERE: bool = true;
        }
        Probe::<$type>::THERE
    }};
}

/// At compile time: none of the types implements any of what shows or copies a value.
macro_rules! closed {
    ($($type:ty),+ $(,)?) => {
        $(const _: () = {
            assert!(!implements!($type: Clone));
            assert!(!implements!($type: Copy));
            assert!(!implements!($type: Display));
            assert!(!implements!($type: Serialize));
            assert!(!implements!($type: PartialEq));
            assert!(!implements!($type: Hash));
            assert!(!implements!($type: Deref));
            assert!(!implements!($type: AsRef<str>));
            assert!(!implements!($type: AsRef<[u8]>));
            assert!(!implements!($type: Borrow<str>));
            assert!(!implements!($type: Borrow<[u8]>));
            assert!(!implements!($type: Into<String>));
            assert!(!implements!($type: Into<Vec<u8>>));
            assert!(!implements!($type: Iterator));
            assert!(!implements!($type: IntoIterator));
        };)+
    };
}

closed!(SecretString, SecretBytes, Dek, Secret<[u8; KEK_LEN]>, Secret<u64>, LocalKey, KeyringEnvelope);

// What is meant to be there, and proof that `implements` finds it.
const _: () = {
    assert!(implements!(String: Display));
    assert!(implements!(String: Clone));
    assert!(implements!(String: Serialize));
    assert!(implements!(String: AsRef<str>));
    assert!(implements!(Vec<u8>: IntoIterator));
    assert!(implements!(SecretString: Debug));
    assert!(implements!(SecretString: DeserializeOwned));
    assert!(implements!(SecretString: Send));
    // A keyring is shared between threads and envelopes; what it holds is not copied.
    assert!(implements!(Keyring: Clone));
    assert!(!implements!(Keyring: Serialize));
    assert!(!implements!(Keyring: Display));
    assert!(implements!(Sealed: Serialize));
};

#[test]
fn debug_shows_no_part_of_a_key() {
    let key = kek(0x55);
    let mut ring = Keyring::new(Secret::new(key)).unwrap();
    ring.add(2, Secret::new(kek(0xaa))).unwrap();
    let local = LocalKey::new(1, Secret::new(key)).unwrap();
    let shown = [
        format!("{:?} {:#?}", Secret::new(key), Secret::new(key.to_vec())),
        format!("{local:?} {local:#?}"),
        format!("{ring:?} {ring:#?}"),
        format!("{:?} {:#?}", KeyringEnvelope::new(ring.clone()), KeyringEnvelope::new(ring)),
    ];
    let hex: String = key[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    let list = format!("{:?}", &key[..4]);
    for shown in shown {
        let shown = shown.to_lowercase();
        assert!(!shown.contains(&hex), "{shown}");
        let flat: String = shown.split_whitespace().collect();
        assert!(!flat.contains(list.trim_matches(['[', ']']).replace(' ', "").as_str()), "{shown}");
    }
}

#[test]
fn a_secret_within_other_types_is_redacted_too() {
    #[derive(Debug)]
    #[allow(dead_code)]
    struct Login {
        user: &'static str,
        password: Option<SecretString>,
        keys: Vec<SecretBytes>,
    }
    let login = Login {
        user: "deploy",
        password: Some(Secret::new("canary".to_owned())),
        keys: vec![Secret::new(b"canary".to_vec())],
    };
    let shown = format!("{login:?} {login:#?}");
    assert!(shown.contains("deploy") && !shown.contains("canary") && !shown.contains("99, 97"), "{shown}");
}
