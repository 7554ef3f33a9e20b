//! Where a secret lives: what binds an envelope to its place.

/// The additional authenticated data of an envelope: the one place where it can be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Aad<'a> {
    /// The tenant, that is the project, or `""` for what belongs to the installation.
    pub tenant: &'a str,
    /// The kind of record.
    pub collection: &'a str,
    /// The record's id.
    pub record: &'a str,
    /// The field within the record.
    pub field: &'a str,
    /// The version of the field's encoding.
    pub version: u32,
}

impl<'a> Aad<'a> {
    /// The place of `field` in the record `record` of kind `collection` owned by `tenant`.
    pub fn new(tenant: &'a str, collection: &'a str, record: &'a str, field: &'a str) -> Self {
        Self { tenant, collection, record, field, version: 1 }
    }

    /// Appends length-prefixed bytes: no two places encode alike.
    pub(super) fn encode_to(&self, bytes: &mut Vec<u8>) {
        for part in [self.tenant, self.collection, self.record, self.field] {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes.extend_from_slice(&self.version.to_be_bytes());
    }

    /// How many bytes [`Aad::encode_to`] appends.
    pub(super) fn encoded_len(&self) -> usize {
        4 * 8 + self.tenant.len() + self.collection.len() + self.record.len() + self.field.len() + 4
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(aad: &Aad<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        aad.encode_to(&mut bytes);
        assert_eq!(bytes.len(), aad.encoded_len());
        bytes
    }

    #[test]
    fn the_encoding_is_pinned() {
        let bytes = encode(&Aad { version: 0x0102_0304, ..Aad::new("ab", "c", "", "d") });
        let wanted = b"\0\0\0\0\0\0\0\x02ab\0\0\0\0\0\0\0\x01c\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01d\x01\x02\x03\x04";
        assert_eq!(bytes, wanted);
    }

    proptest! {
        #[test]
        fn no_two_places_encode_alike(
            a in proptest::array::uniform4("[ab]{0,3}"),
            b in proptest::array::uniform4("[ab]{0,3}"),
            versions in (0u32..2, 0u32..2),
        ) {
            let one = Aad { version: versions.0, ..Aad::new(&a[0], &a[1], &a[2], &a[3]) };
            let two = Aad { version: versions.1, ..Aad::new(&b[0], &b[1], &b[2], &b[3]) };
            prop_assert_eq!(one == two, encode(&one) == encode(&two));
        }
    }
}
