//! Base64 of RFC 4648 §4, with padding, as the C2SP formats want it: one text for each value.

use base64ct::{Base64, Encoding};

/// Characters of 32 bytes.
pub const HASH_LEN: usize = 44;

/// Encodes.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    Base64::encode_string(bytes)
}

/// Decodes the one encoding that `encode` makes; None for all else.
#[must_use]
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    Base64::decode_vec(str::from_utf8(text).ok()?).ok()
}

/// Decodes 32 bytes.
#[must_use]
pub fn decode_hash(text: &[u8]) -> Option<[u8; 32]> {
    if text.len() != HASH_LEN {
        return None;
    }
    let mut hash = [0; 32];
    (Base64::decode(text, &mut hash).ok()?.len() == hash.len()).then_some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_4648_section_10() {
        for (plain, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(plain.as_bytes()), text);
            assert_eq!(decode(text.as_bytes()).as_deref(), Some(plain.as_bytes()));
        }
    }

    #[test]
    fn one_text_for_each_value() {
        for bad in [
            "Zg", "Zh==", "Zm9=", "Z===", "====", "Zg==Zg==", "Zm9\n", "Zm-v",
        ] {
            assert_eq!(decode(bad.as_bytes()), None, "{bad}");
        }
    }
}
