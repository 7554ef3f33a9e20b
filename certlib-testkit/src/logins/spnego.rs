//! The wrapper of SPNEGO (RFC 4178) around NTLM: the few fields that matter, in DER.

use crate::der::{element, wrap};

/// 1.3.6.1.5.5.2
const SPNEGO: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x02];
/// 1.3.6.1.4.1.311.2.2.10
pub(crate) const NTLM: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x02, 0x0a];

/// What the client sends.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Token {
    /// The list of mechanisms, encoded as it is signed; only in the first token.
    pub(crate) list: Option<Vec<u8>>,
    /// The mechanisms, by object identifier.
    pub(crate) mechanisms: Vec<Vec<u8>>,
    /// The token of the mechanism.
    pub(crate) inner: Option<Vec<u8>>,
    /// The signature over the list.
    pub(crate) list_mic: Option<Vec<u8>>,
}

/// How a negotiation stands.
#[derive(Clone, Copy, Debug)]
pub(crate) enum State {
    Completed = 0,
    Incomplete = 1,
}

impl Token {
    /// Reads either token of a client.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (tag, content, _) = element(bytes)?;
        let (choice, fields) = match tag {
            // InitialContextToken: the mechanism, then NegTokenInit.
            0x60 => {
                let (tag, mechanism, rest) = element(content)?;
                if tag != 0x06 || mechanism != SPNEGO {
                    return None;
                }
                let (choice, fields, _) = element(rest)?;
                (choice, fields)
            }
            other => (other, content),
        };
        let (_, mut fields, _) = element(fields).filter(|(tag, ..)| *tag == 0x30)?;
        let first = match choice {
            0xa0 => true,
            0xa1 => false,
            _ => return None,
        };
        let mut token = Self::default();
        while !fields.is_empty() {
            let (tag, value, rest) = element(fields)?;
            fields = rest;
            let (kind, inner, _) = element(value)?;
            match (tag, kind, first) {
                (0xa0, 0x30, true) => {
                    token.list = Some(value.to_vec());
                    let mut list = inner;
                    while !list.is_empty() {
                        let (_, mechanism, rest) = element(list)?;
                        token.mechanisms.push(mechanism.to_vec());
                        list = rest;
                    }
                }
                (0xa2, 0x04, _) => token.inner = Some(inner.to_vec()),
                (0xa3, 0x04, _) => token.list_mic = Some(inner.to_vec()),
                _ => {}
            }
        }
        Some(token)
    }
}

/// What the server answers: NegTokenResp.
pub(crate) fn answer(state: State, chooses: bool, inner: Option<&[u8]>, list_mic: Option<&[u8]>) -> Vec<u8> {
    let mut fields = wrap(0xa0, &wrap(0x0a, &[state as u8]));
    if chooses {
        fields.extend(wrap(0xa1, &wrap(0x06, NTLM)));
    }
    if let Some(inner) = inner {
        fields.extend(wrap(0xa2, &wrap(0x04, inner)));
    }
    if let Some(mic) = list_mic {
        fields.extend(wrap(0xa3, &wrap(0x04, mic)));
    }
    wrap(0xa1, &wrap(0x30, &fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_both_kinds_are_read() {
        let list = wrap(0x30, &wrap(0x06, NTLM));
        let fields = [wrap(0xa0, &list), wrap(0xa2, &wrap(0x04, &[7; 300]))].concat();
        let init = wrap(0x60, &[wrap(0x06, SPNEGO), wrap(0xa0, &wrap(0x30, &fields))].concat());
        let token = Token::parse(&init).unwrap();
        assert_eq!((token.list, token.mechanisms), (Some(list), vec![NTLM.to_vec()]));
        assert_eq!(token.inner.unwrap(), [7; 300]);
        let token = Token::parse(&answer(State::Incomplete, true, Some(b"x"), Some(b"mic"))).unwrap();
        assert_eq!((token.inner.unwrap(), token.list_mic.unwrap()), (b"x".to_vec(), b"mic".to_vec()));
        for nonsense in [&[][..], &[0x60], &[0x60, 0x84, 0xff, 0xff, 0xff, 0xff], &[0xa1, 2, 0x30, 5], b"text"] {
            assert!(Token::parse(nonsense).is_none(), "{nonsense:?}");
        }
    }
}
