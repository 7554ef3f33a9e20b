//! Each change of an envelope is noticed, and its error says what kind of change it was and nothing more.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use certlib_core::error::ErrorClass;
use certlib_core::secret::{Aad, KeyringEnvelope, Sealed, SecretEnvelope as _};

use super::by_hand::PARTS;
use super::{SUITES, envelope, now};

const ENVELOPES: usize = 200;

/// The envelope `number`, of `number` bytes, in a place of its own, under one of three keys.
struct Case {
    number: usize,
    record: String,
    envelope: KeyringEnvelope,
    sealed: Vec<u8>,
}

impl Case {
    fn new(number: usize) -> Case {
        let envelope = envelope(SUITES[number % 2], &[1, 2, 3]);
        envelope.promote(&envelope.keks()[number % 3].id).unwrap();
        let record = format!("record {number}");
        let plain: Vec<u8> = (0..number).map(|n| (n % 251) as u8).collect();
        let sealed = now(envelope.seal(&plain, &aad(&record))).unwrap().as_bytes().to_vec();
        let case = Case { number, record, envelope, sealed };
        assert_eq!(case.open(&case.sealed), Ok(plain));
        case
    }

    fn open(&self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let sealed = Sealed::from_bytes(bytes.to_vec());
        now(self.envelope.open(&sealed, &aad(&self.record))).map(|plain| plain.expose().clone()).map_err(|error| {
            assert_eq!(error.class(), ErrorClass::Validation);
            error.code().to_owned()
        })
    }

    fn verify(&self, bytes: &[u8]) -> Result<(), String> {
        let sealed = Sealed::from_bytes(bytes.to_vec());
        now(self.envelope.verify(&sealed, &aad(&self.record))).map_err(|error| error.code().to_owned())
    }
}

fn aad(record: &str) -> Aad<'_> {
    Aad::new("shop", "credential", record, "secret")
}

/// The part that the byte `at` belongs to, and the error that a change of it must give.
fn part(at: usize) -> (&'static str, &'static str) {
    let mut end = 0;
    for (name, length) in PARTS {
        end += length;
        if at < end {
            return match name {
                "magic" | "layout" | "suite" => (name, "envelope_invalid"),
                "key id" => (name, "kek_unknown"),
                "commitment" => (name, "commitment_mismatch"),
                _ => (name, "envelope_rejected"),
            };
        }
    }
    ("payload", "envelope_rejected")
}

/// Runs `check` on all cases, on all processors; returns the sum of what it returned.
fn on_all(check: impl Fn(&Case) -> usize + Sync) -> usize {
    let (next, sum) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let number @ ..ENVELOPES = next.fetch_add(1, Ordering::Relaxed) {
                    sum.fetch_add(check(&Case::new(number)), Ordering::Relaxed);
                }
            });
        }
    });
    sum.into_inner()
}

#[test]
fn every_flipped_bit_is_noticed() {
    let flips = on_all(|case| {
        let mut bytes = case.sealed.clone();
        for bit in 0..8 * bytes.len() {
            let (name, code) = part(bit / 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(case.open(&bytes), Err(code.to_owned()), "envelope {}, {name}, bit {bit}", case.number);
            // What authenticates the payload is not looked at without decrypting it.
            if case.number.is_multiple_of(10) && !name.starts_with("payload") {
                assert_eq!(case.verify(&bytes), Err(code.to_owned()), "envelope {}, {name}, bit {bit}", case.number);
            }
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        8 * bytes.len()
    });
    assert_eq!(flips, 8 * (ENVELOPES * Sealed::OVERHEAD + (0..ENVELOPES).sum::<usize>()));
}

#[test]
fn nothing_shorter_or_longer_opens() {
    let tried = on_all(|case| {
        let bytes = &case.sealed;
        for end in 0..bytes.len() {
            let code = if end < Sealed::OVERHEAD { "envelope_invalid" } else { "envelope_rejected" };
            assert_eq!(case.open(&bytes[..end]), Err(code.to_owned()), "the first {end} bytes of {}", bytes.len());
            assert!(
                case.open(&bytes[end + 1..]).is_err(),
                "the last {} bytes of {}",
                bytes.len() - end - 1,
                bytes.len()
            );
        }
        for length in 1..=64 {
            for byte in [0, 0xff, bytes[bytes.len() - 1]] {
                let longer = [&bytes[..], &vec![byte; length]].concat();
                assert_eq!(case.open(&longer), Err("envelope_rejected".to_owned()), "{length} bytes {byte} more");
            }
            assert!(case.open(&[&vec![b'C'; length][..], bytes].concat()).is_err(), "{length} bytes in front");
        }
        assert!(case.open(&bytes.repeat(2)).is_err(), "twice");
        2 * bytes.len() + 4 * 64 + 1
    });
    assert!(tried > 100_000, "{tried}");
}

#[test]
fn no_byte_may_be_missing_or_doubled_in_the_middle() {
    let case = Case::new(40);
    for at in 0..case.sealed.len() {
        let mut shorter = case.sealed.clone();
        shorter.remove(at);
        assert!(case.open(&shorter).is_err(), "without byte {at}");
        let mut longer = case.sealed.clone();
        longer.insert(at, longer[at]);
        assert!(case.open(&longer).is_err(), "byte {at} twice");
    }
}
