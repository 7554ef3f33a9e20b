//! Envelopes that must open for ever. They were made with Python and OpenSSL from the layout's documentation, so they
//! also show that nothing in it depends on this implementation.

use certlib_core::secret::{Aad, Sealed, SecretEnvelope as _, Suite};

use super::by_hand::{self, Layout};
use super::{envelope, kek, now};

const KEK_ID: &str = "4f2b0516a4e9df7d0597f4ff45f3534caad41e0f54b71e608b12e51e62dbfb02";

struct Golden {
    aad: Aad<'static>,
    plain: &'static [u8],
    /// Hexadecimal.
    sealed: &'static str,
}

/// Under the key 00 01 02 .. 1f, as version 1.
fn goldens() -> [Golden; 4] {
    const BYTES: [u8; 64] = {
        let mut bytes = [0; 64];
        let mut n = 0;
        while n < bytes.len() {
            bytes[n] = n as u8;
            n += 1;
        }
        bytes
    };
    [
        Golden {
            aad: Aad::new("shop", "credential", "c-1", "secret"),
            plain: b"hunter2",
            sealed: "434c455601014f2b0516a4e9df7d0597f4ff45f3534caad41e0f54b71e608b12e51e62dbfb0200000001a643335b103907b1 \
                     e5917e48b46e8b8a8e960d146b38f9766c50a00cd95f1525dd458f6def83516ef66cbe375bd7d8e6eec80b7152be58696236 \
                     735f88caae0d320e2382920b145666dc4ee6b5af2e3717ffbeb84dd6b3f44eabe244de7036c77cebc6cbb642d07d48e8cf91 \
                     14ab74327a3dc7e27c9f0e48b1bb39ce87623640fdd082af8ffcf4bde959da99874c8ca69c7394189cb77ce0fd314e9eba51 \
                     ff",
        },
        Golden {
            aad: Aad { version: 7, ..Aad::new("", "node_key", "", "key") },
            plain: b"",
            sealed: "434c455601014f2b0516a4e9df7d0597f4ff45f3534caad41e0f54b71e608b12e51e62dbfb0200000001f88c18777eb70008 \
                     ae607c247cfcac5d8c85b011ec554d77f2236565be4feb820a3dac96f837ac1ec42490f4a46f8622a22d94d8cee89a6116a6 \
                     d0f270e3cecf82cd6cc88f8b722e019e34efe5cd1007e5cbae9e9ec099432b60cd736023f062b2a0c688caf73be66dce89f9 \
                     0508fc3a4b73915d0032b95fa03ae2c824540a67ec91d62c4a24ad6e4ed5035f486a07130f2310126e999c5d",
        },
        Golden {
            aad: Aad::new("shop", "certificate_version", "4711/3", "key"),
            plain: b"-----BEGIN PRIVATE KEY-----\n",
            sealed: "434c455601024f2b0516a4e9df7d0597f4ff45f3534caad41e0f54b71e608b12e51e62dbfb0200000001004777ab5e60b405 \
                     23163b6ab400eea531eec85dbac239cb0c5dbc70a049702db275f1ce680f1e3f504d2bda3953741458bae013dd1abef94ec1 \
                     4a5f4a4e2c0bc1965b2c34d78e9b30925ba8d7048e7ac45f7b7105398177f8e20d2a067c9478257ce86b63935a2947dd013e \
                     f8a6a8bdbc92d75ff67cf9d5072e0248e77334340eda63e2d409534729f614975bedb6c1a50e144aeef620c46b386a876c14 \
                     71c72b8744c1a20bdc9d9379256bf75fe29f5d83e79f",
        },
        Golden {
            aad: Aad { version: u32::MAX, ..Aad::new("café", "undo", "a/b/c", "entry") },
            plain: &BYTES,
            sealed: "434c455601024f2b0516a4e9df7d0597f4ff45f3534caad41e0f54b71e608b12e51e62dbfb0200000001927d2a4cb12d8651 \
                     3c98b472a64c261c2b2fa377bb193a54cfe9d851abed0301d1915ea0ff8a9ef338156f171eb73d99c43b778c1281366fdd22 \
                     c617d980f54e1d539a021df69f674083dff5ce86871574035743333286bde85d40491830399ac5e260002ac0c318e2f17a44 \
                     644a162ca0ebe71f4c623343807fbfda12e81870f8b1c9296d00f95e0d886a8ee0dc38f0b31b4e1d5f7f07748214359ac244 \
                     bee8e6a64676a6b58ee0d7530d7a16360a5408b2d59260803cedb9a234e2fcafdeeecef0b3cfb270c51bd7f1480f9c5772e0 \
                     57b4ad8d994aa635",
        },
    ]
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn they_open_for_ever() {
    // Which suite seals now, and which other keys there are, plays no part.
    for (suite, seeds) in [(Suite::Aes256Gcm, &[0][..]), (Suite::ChaCha20Poly1305, &[0, 9])] {
        let envelope = envelope(suite, seeds);
        assert_eq!(envelope.keks()[0].id.to_string(), KEK_ID);
        for golden in goldens() {
            let sealed = Sealed::from_bytes(bytes_of(golden.sealed));
            assert_eq!(sealed.kek().unwrap().to_string(), KEK_ID);
            assert_eq!(now(envelope.open(&sealed, &golden.aad)).unwrap().expose(), golden.plain);
            now(envelope.verify(&sealed, &golden.aad)).unwrap();
            let rewrapped = now(envelope.rewrap(&sealed, &golden.aad)).unwrap();
            assert_eq!(now(envelope.open(&rewrapped, &golden.aad)).unwrap().expose(), golden.plain);
        }
    }
}

#[test]
fn every_layer_is_as_documented() {
    let kek = kek(0);
    assert_eq!(by_hand::kek_id(&kek).to_vec(), bytes_of(KEK_ID));
    for golden in goldens() {
        let bytes = bytes_of(golden.sealed);
        let layout = Layout::read(&bytes);
        let dek = layout.data_key(&kek, &golden.aad).expect("the wrap opens by hand");
        assert_eq!(layout.commitment, by_hand::commitment(&dek));
        assert_eq!(layout.decrypt(&dek, &golden.aad).expect("the payload opens by hand"), golden.plain);
        // And the other way round: the same keys and nonces make the same bytes.
        let key = by_hand::payload_key(&dek);
        let payload =
            by_hand::encrypt(layout.suite, &key, layout.nonce, &layout.payload_aad(&golden.aad), golden.plain);
        let again = Layout { payload, commitment: by_hand::commitment(&dek), ..layout };
        assert_eq!(again.with_data_key(&kek, &dek, &golden.aad).write(), bytes);
    }
}

#[test]
fn what_is_sealed_today_is_as_documented() {
    for suite in super::SUITES {
        let envelope = envelope(suite, &[3, 0]);
        for golden in goldens() {
            let sealed = now(envelope.seal(golden.plain, &golden.aad)).unwrap();
            let layout = Layout::read(sealed.as_bytes());
            assert_eq!(layout.suite, if suite == Suite::Aes256Gcm { 1 } else { 2 });
            assert_eq!((layout.kek_id.to_vec(), layout.kek_version), (bytes_of(KEK_ID), 2));
            let dek = layout.data_key(&kek(0), &golden.aad).expect("the wrap opens by hand");
            assert_eq!(layout.commitment, by_hand::commitment(&dek));
            assert_eq!(layout.decrypt(&dek, &golden.aad).expect("the payload opens by hand"), golden.plain);
        }
    }
}
