//! Signing and sealing after the login: one key and one RC4 stream for each direction, and a count of messages.

use super::crypto::{Rc4, hmac_md5, md5};

const CLIENT_SIGNING: &[u8] = b"session key to client-to-server signing key magic constant\0";
const SERVER_SIGNING: &[u8] = b"session key to server-to-client signing key magic constant\0";
const CLIENT_SEALING: &[u8] = b"session key to client-to-server sealing key magic constant\0";
const SERVER_SEALING: &[u8] = b"session key to server-to-client sealing key magic constant\0";

/// How long a signature is.
pub(crate) const SIGNATURE: usize = 16;

/// A side of a session, in one direction.
struct Direction {
    sign_key: [u8; 16],
    seal_key: [u8; 16],
    stream: Rc4,
    count: u32,
    /// Whether the checksum goes through the stream, which it does when keys were exchanged.
    hides_checksum: bool,
}

impl Direction {
    fn new(session_key: &[u8; 16], signing: &[u8], sealing: &[u8], hides_checksum: bool) -> Self {
        let seal_key = md5(&[session_key, sealing]);
        let sign_key = md5(&[session_key, signing]);
        Self { sign_key, seal_key, stream: Rc4::new(&seal_key), count: 0, hides_checksum }
    }

    /// The signature of the next message. For a sealed one, the message has gone through the stream already.
    fn signature(&mut self, message: &[u8]) -> [u8; SIGNATURE] {
        let count = self.count.to_le_bytes();
        self.count = self.count.wrapping_add(1);
        let mut checksum = hmac_md5(&self.sign_key, &[&count, message])[..8].to_vec();
        if self.hides_checksum {
            checksum = self.stream.apply(&checksum);
        }
        let mut signature = [0; SIGNATURE];
        signature[0] = 1;
        signature[4..12].copy_from_slice(&checksum);
        signature[12..].copy_from_slice(&count);
        signature
    }
}

/// The server's side of a session that both sides sign and seal.
pub(crate) struct Seal {
    incoming: Direction,
    outgoing: Direction,
}

impl Seal {
    pub(super) fn new(session_key: &[u8; 16], keys_exchanged: bool) -> Self {
        Self {
            incoming: Direction::new(session_key, CLIENT_SIGNING, CLIENT_SEALING, keys_exchanged),
            outgoing: Direction::new(session_key, SERVER_SIGNING, SERVER_SEALING, keys_exchanged),
        }
    }

    /// Opens a message of the client; `None` when the signature, or the place in the sequence, is wrong.
    pub(crate) fn unseal(&mut self, signature: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let message = self.incoming.stream.apply(sealed);
        (self.incoming.signature(&message) == signature).then_some(message)
    }

    /// Seals a message of the server.
    pub(crate) fn seal(&mut self, message: &[u8]) -> ([u8; SIGNATURE], Vec<u8>) {
        let sealed = self.outgoing.stream.apply(message);
        (self.outgoing.signature(message), sealed)
    }

    /// Checks what SPNEGO signs during the login. The stream starts anew afterwards, the count goes on.
    pub(crate) fn verify_list(&mut self, list: &[u8], signature: &[u8]) -> bool {
        let right = self.incoming.signature(list) == signature;
        self.incoming.stream = Rc4::new(&self.incoming.seal_key);
        right
    }

    /// Signs the same for the client.
    pub(crate) fn sign_list(&mut self, list: &[u8]) -> [u8; SIGNATURE] {
        let signature = self.outgoing.signature(list);
        self.outgoing.stream = Rc4::new(&self.outgoing.seal_key);
        signature
    }
}

#[cfg(test)]
mod tests {
    use super::{super::crypto::utf16, *};

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The vectors of MS-NLMP 4.2.4.
    #[test]
    fn the_published_vectors_come_out() {
        let session_key = [0x55; 16];
        let mut seal = Seal::new(&session_key, true);
        assert_eq!(hex(&seal.incoming.sign_key), "4788dc861b4782f35d43fd98fe1a2d39");
        assert_eq!(hex(&seal.incoming.seal_key), "59f600973cc4960a25480a7c196e4c58");
        assert_eq!(hex(&seal.outgoing.sign_key), "d04d6f10741041d1d246d64188d7a8ad");
        assert_eq!(hex(&seal.outgoing.seal_key), "9355f3a957c1583d25c4c2f11e40390e");
        let sealed = seal.incoming.stream.apply(&utf16("Plaintext"));
        assert_eq!(hex(&sealed), "54e50165bf1936dc996020c1811b0f06fb5f");
        assert_eq!(hex(&seal.incoming.signature(&utf16("Plaintext"))), "010000007fb38ec5c55d497600000000");
    }

    #[test]
    fn a_message_out_of_turn_is_not_opened() {
        let (mut client, mut server) = (Seal::new(&[1; 16], true), Seal::new(&[1; 16], true));
        std::mem::swap(&mut client.incoming, &mut client.outgoing);
        let (first, second) = (client.seal(b"first"), client.seal(b"second"));
        assert_eq!(server.unseal(&first.0, &first.1).unwrap(), b"first");
        let (mut other, _) = (Seal::new(&[1; 16], true), ());
        assert!(other.unseal(&second.0, &second.1).is_none());
        assert_eq!(server.unseal(&second.0, &second.1).unwrap(), b"second");
    }
}
