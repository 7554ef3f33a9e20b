//! AES-GCM does not bind a ciphertext to one key: whoever chooses two keys can make one that opens under both. Here is
//! one, and an envelope that refuses it.

use aws_lc_rs::cipher::{AES_256, EncryptingKey, UnboundCipherKey};
use certlib_core::secret::{Aad, Sealed, SecretEnvelope as _, Suite};

use super::by_hand::{self, Layout};
use super::{SUITES, envelope, kek, now};

const HOME: Aad<'static> = Aad { tenant: "shop", collection: "credential", record: "c1", field: "secret", version: 1 };
const AES_GCM: u8 = 1;

/// An element of GF(2^128) as GCM has it: the first bit of a block is the coefficient of x^0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Element(u128);

impl Element {
    const ONE: Self = Self(1 << 127);

    /// Addition and subtraction.
    fn plus(self, other: Self) -> Self {
        Self(self.0 ^ other.0)
    }

    fn times(self, other: Self) -> Self {
        let (mut product, mut shifted) = (0, other.0);
        for bit in (0..128).rev() {
            product ^= shifted * ((self.0 >> bit) & 1);
            // x^128 = x^7 + x^2 + x + 1
            shifted = (shifted >> 1) ^ ((0xe1 << 120) * (shifted & 1));
        }
        Self(product)
    }

    /// To the power 2^128 - 2.
    fn inverse(self) -> Self {
        let mut inverse = Self::ONE;
        let mut square = self;
        for _ in 1..128 {
            square = square.times(square);
            inverse = inverse.times(square);
        }
        inverse
    }
}

/// What AES-256-GCM makes of one key and nonce.
struct Key {
    /// What the tag's polynomial is evaluated at.
    h: Element,
    /// What the tag is masked with.
    mask: Element,
    stream: Vec<Element>,
}

impl Key {
    fn new(key: &[u8; 32], nonce: [u8; 12], blocks: u32) -> Key {
        let cipher = EncryptingKey::ecb(UnboundCipherKey::new(&AES_256, key).unwrap()).unwrap();
        let encrypt = |mut block: [u8; 16]| {
            cipher.encrypt(&mut block).unwrap();
            Element(u128::from_be_bytes(block))
        };
        let counter = |n: u32| encrypt([&nonce[..], &n.to_be_bytes()].concat().try_into().unwrap());
        Key { h: encrypt([0; 16]), mask: counter(1), stream: (2..2 + blocks).map(counter).collect() }
    }

    /// The tag of the blocks, that of the lengths included.
    fn tag(&self, blocks: &[Element]) -> Element {
        let horner = |sum: Element, block: &Element| sum.plus(*block).times(self.h);
        blocks.iter().fold(Element(0), horner).plus(self.mask)
    }
}

fn blocks(bytes: &[u8]) -> Vec<Element> {
    let block = |chunk: &[u8]| {
        let mut block = [0; 16];
        block[..chunk.len()].copy_from_slice(chunk);
        Element(u128::from_be_bytes(block))
    };
    bytes.chunks(16).map(block).collect()
}

/// A ciphertext with its tag that is valid under both keys: its first block says `for_one` under the first of them, its
/// second says `for_other` under the second, and its third makes the tags equal.
fn craft(keys: [&[u8; 32]; 2], nonce: [u8; 12], aad: &[u8], for_one: &[u8; 16], for_other: &[u8; 16]) -> Vec<u8> {
    let [one, other] = keys.map(|key| Key::new(key, nonce, 3));
    let first = blocks(for_one)[0].plus(one.stream[0]);
    let second = blocks(for_other)[0].plus(other.stream[1]);
    let bits = |bytes: usize| 8 * u128::try_from(bytes).unwrap();
    let lengths = Element((bits(aad.len()) << 64) | bits(3 * 16));
    // A tag is linear in each block. The third of three blocks is followed by the lengths: its factor is h^2.
    let tagged = |third: Element| [&blocks(aad)[..], &[first, second, third, lengths]].concat();
    let without = tagged(Element(0));
    let difference = one.tag(&without).plus(other.tag(&without));
    let factor = one.h.times(one.h).plus(other.h.times(other.h));
    let third = difference.times(factor.inverse());
    let tag = one.tag(&tagged(third));
    assert_eq!(tag, other.tag(&tagged(third)));
    [first, second, third, tag].iter().flat_map(|block| block.0.to_be_bytes()).collect()
}

#[test]
fn the_arithmetic_is_that_of_a_field() {
    let element = Element(0x0123_4567_89ab_cdef_0f1e_2d3c_4b5a_6978);
    assert_eq!(element.times(Element::ONE), element);
    assert_eq!(element.times(element.inverse()), Element::ONE);
    let key = [7; 32];
    let sealed = by_hand::encrypt(AES_GCM, &key, [9; 12], b"", &[0; 32]);
    let ours = Key::new(&key, [9; 12], 2);
    let mut expected = ours.stream.clone();
    expected.push(ours.tag(&[&ours.stream[..], &[Element(8 * 32)]].concat()));
    assert_eq!(blocks(&sealed), expected);
}

#[test]
fn a_ciphertext_under_two_keys_opens_without_a_commitment_and_not_with_it() {
    let envelope = envelope(Suite::Aes256Gcm, &[1]);
    // The frame of a real envelope, whose payload and data key the attacker replaces: he may know the key-encryption key.
    let frame = Layout::read(now(envelope.seal(&[0; 48], &HOME)).unwrap().as_bytes());
    let (one, other) = ([0x11; 32], [0x22; 32]);
    let keys = [by_hand::payload_key(&one), by_hand::payload_key(&other)];
    let aad = frame.payload_aad(&HOME);
    let payload = craft(keys.each_ref(), frame.nonce, &aad, b"Deploy to shop-1", b"Deploy to evil-9");

    let plain = keys.map(|key| {
        let plain = by_hand::decrypt(AES_GCM, &key, frame.nonce, &aad, &payload);
        plain.expect("AES-256-GCM alone accepts it under both keys")
    });
    assert!(plain[0].starts_with(b"Deploy to shop-1") && plain[1][16..].starts_with(b"Deploy to evil-9"));
    assert_ne!(plain[0], plain[1]);

    let honest = Layout { payload, commitment: by_hand::commitment(&one), ..frame };
    let honest = honest.with_data_key(&kek(1), &one, &HOME);
    let sealed = Sealed::from_bytes(honest.write());
    assert_eq!(*now(envelope.open(&sealed, &HOME)).unwrap().expose(), plain[0], "it is a good envelope under one key");

    // The same payload and commitment; only the wrapped key is another one.
    let switched = honest.clone().with_data_key(&kek(1), &other, &HOME);
    assert_eq!(switched.decrypt(&other, &HOME).unwrap(), plain[1], "only the commitment stands in the way");
    let sealed = Sealed::from_bytes(switched.write());
    assert_eq!(now(envelope.open(&sealed, &HOME)).unwrap_err().code(), "commitment_mismatch");
    assert_eq!(now(envelope.verify(&sealed, &HOME)).unwrap_err().code(), "commitment_mismatch");
    assert_eq!(now(envelope.rewrap(&sealed, &HOME)).unwrap_err().code(), "commitment_mismatch");
}

#[test]
fn any_other_data_key_is_refused_before_anything_is_decrypted() {
    for suite in SUITES {
        let envelope = envelope(suite, &[1]);
        let layout = Layout::read(now(envelope.seal(b"canary", &HOME)).unwrap().as_bytes());
        for broken in [layout.clone(), Layout { payload: vec![0; 16], ..layout }] {
            let sealed = Sealed::from_bytes(broken.with_data_key(&kek(1), &[0x33; 32], &HOME).write());
            assert_eq!(now(envelope.open(&sealed, &HOME)).unwrap_err().code(), "commitment_mismatch");
        }
    }
}
