//! What binds a login to the TLS connection that it is made on: RFC 5929 `tls-server-end-point`.

use aws_lc_rs::digest::{Algorithm, SHA256, SHA384, SHA512, digest};

/// SHA-384 and SHA-512 as they stand in a signature algorithm: of RSA, of ECDSA, and as a parameter of RSA-PSS.
const WIDER: [(&[u8], &Algorithm); 6] = [
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c], &SHA384),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d], &SHA512),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03], &SHA384),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04], &SHA512),
    (&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02], &SHA384),
    (&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03], &SHA512),
];

/// The binding to a server that showed `certificate`, DER, in the form of `SEC_CHANNEL_BINDINGS`.
pub(super) fn bindings(certificate: &[u8]) -> Vec<u8> {
    let mut data = b"tls-server-end-point:".to_vec();
    data.extend_from_slice(digest(hash_of(certificate), certificate).as_ref());
    let length = u32::try_from(data.len()).unwrap_or(0);
    // No addresses, then the length and the place of the data.
    let head = [0, 0, 0, 0, 0, 0, length, 32_u32];
    head.iter().flat_map(|word| word.to_le_bytes()).chain(data).collect()
}

/// The hash in the certificate's signature, SHA-256 in place of anything weaker or unknown.
fn hash_of(certificate: &[u8]) -> &'static Algorithm {
    let algorithm = element(certificate)
        .and_then(|(certificate, _)| element(certificate))
        .and_then(|(_, rest)| element(rest))
        .map_or(&[][..], |(algorithm, _)| algorithm);
    let holds = |oid: &[u8]| algorithm.windows(oid.len()).any(|window| window == oid);
    WIDER.iter().find(|(oid, _)| holds(oid)).map_or(&SHA256, |(_, hash)| hash)
}

/// The content of the first DER element, and what follows it.
fn element(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_tag, der) = der.split_first()?;
    let (&first, mut der) = der.split_first()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let (digits, rest) = der.split_at_checked(usize::from(first & 0x7f))?;
        if digits.len() > 4 {
            return None;
        }
        length = digits.iter().fold(0, |value, byte| value << 8 | usize::from(*byte));
        der = rest;
    }
    der.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(algorithm: &[u8]) -> Vec<u8> {
        let tlv = |tag: u8, content: &[u8]| [&[tag, u8::try_from(content.len()).unwrap()], content].concat();
        let body = [tlv(0x30, b"tbs"), tlv(0x30, &tlv(0x06, algorithm)), tlv(0x03, b"\0s")].concat();
        tlv(0x30, &body)
    }

    #[test]
    fn the_hash_is_that_of_the_signature() {
        let sha256_rsa = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];
        let sha1_rsa = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05];
        for (algorithm, length) in
            [(&sha256_rsa[..], 32), (&sha1_rsa, 32), (WIDER[0].0, 48), (WIDER[1].0, 64), (WIDER[2].0, 48)]
        {
            let bindings = bindings(&certificate(algorithm));
            assert_eq!(bindings.len(), 32 + 21 + length);
            assert_eq!(bindings[24], u8::try_from(21 + length).unwrap());
            assert_eq!(&bindings[32..53], b"tls-server-end-point:");
        }
        assert_eq!(bindings(b"no certificate").len(), 32 + 21 + 32);
    }
}
