//! Whatever is sealed opens again, and whatever is opened gives an answer.

use certlib_core::secret::{Aad, Sealed, SecretEnvelope as _, Suite};
use proptest::prelude::*;

use super::{SUITES, envelope, now};

/// How many bytes a rewrap replaces: all before the commitment.
const HEAD: usize = Sealed::OVERHEAD - 32 - 12 - 16;

#[derive(Debug)]
struct Place {
    parts: [String; 4],
    version: u32,
}

impl Place {
    fn aad(&self) -> Aad<'_> {
        let [tenant, collection, record, field] = &self.parts;
        Aad { version: self.version, ..Aad::new(tenant, collection, record, field) }
    }
}

fn places() -> impl Strategy<Value = Place> {
    (proptest::array::uniform4(".{0,40}"), any::<u32>()).prop_map(|(parts, version)| Place { parts, version })
}

fn suites() -> impl Strategy<Value = Suite> {
    proptest::sample::select(&SUITES[..])
}

/// Bytes that are more and more like an envelope.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let id = envelope(Suite::default(), &[1]).keks()[0].id;
    (0..5_usize, 1..3_u8, proptest::collection::vec(any::<u8>(), 0..400)).prop_map(move |(like, suite, noise)| {
        let start: [&[u8]; 4] = [b"CLEV", &[1], &[suite], id.as_bytes()];
        [start[..like.min(4)].concat(), noise].concat()
    })
}

proptest! {
    #[test]
    fn what_is_sealed_opens_before_and_after_a_rewrap(
        suite in suites(),
        plain in proptest::collection::vec(any::<u8>(), 0..2000),
        place in places(),
    ) {
        let envelope = envelope(suite, &[1, 2]);
        let [former, newer] = [0, 1].map(|n| envelope.keks()[n].id);
        let aad = place.aad();
        envelope.promote(&former).unwrap();
        let sealed = now(envelope.seal(&plain, &aad)).unwrap();
        prop_assert_eq!(sealed.kek(), Some(former));
        prop_assert_eq!(sealed.as_bytes().len(), plain.len() + Sealed::OVERHEAD);
        let opened = now(envelope.open(&sealed, &aad)).unwrap();
        prop_assert_eq!(opened.expose(), &plain);

        envelope.promote(&newer).unwrap();
        let rewrapped = now(envelope.rewrap(&sealed, &aad)).unwrap();
        prop_assert_eq!(rewrapped.kek(), Some(newer));
        prop_assert_eq!(&rewrapped.as_bytes()[HEAD..], &sealed.as_bytes()[HEAD..]);
        prop_assert_ne!(&rewrapped.as_bytes()[6..HEAD], &sealed.as_bytes()[6..HEAD]);
        now(envelope.verify(&rewrapped, &aad)).unwrap();
        let opened = now(envelope.open(&rewrapped, &aad)).unwrap();
        prop_assert_eq!(opened.expose(), &plain);

        let json = serde_json::to_string(&rewrapped).unwrap();
        prop_assert_eq!(serde_json::from_str::<Sealed>(&json).unwrap(), rewrapped);
    }

    #[test]
    fn the_same_secret_is_never_sealed_alike(suite in suites(), plain in proptest::collection::vec(any::<u8>(), 0..64)) {
        let envelope = envelope(suite, &[1]);
        let aad = Aad::new("shop", "credential", "c1", "secret");
        let [one, other] = [0, 1].map(|_| now(envelope.seal(&plain, &aad)).unwrap());
        // Salt, nonce and wrapped key; commitment and nonce; the payload with its tag.
        for part in [42..74, 74..86, 86..134, 134..166, 166..178, 178..one.as_bytes().len()] {
            prop_assert_ne!(&one.as_bytes()[part.clone()], &other.as_bytes()[part]);
        }
    }

    #[test]
    fn any_bytes_get_an_answer(bytes in bytes(), place in places()) {
        let envelope = envelope(Suite::default(), &[1]);
        let sealed = Sealed::from_bytes(bytes);
        let aad = place.aad();
        let codes = [
            now(envelope.open(&sealed, &aad)).unwrap_err(),
            now(envelope.verify(&sealed, &aad)).unwrap_err(),
            now(envelope.rewrap(&sealed, &aad)).unwrap_err(),
        ];
        for error in codes {
            prop_assert!(["envelope_invalid", "envelope_rejected", "kek_unknown"].contains(&error.code()), "{}", error);
        }
    }
}
