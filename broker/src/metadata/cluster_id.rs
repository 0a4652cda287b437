//! Ids in Kafka's text form: the 16 bytes of a UUID as 22 characters of URL-safe base64.

use std::sync::Arc;

use uuid::Uuid;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A new cluster id.
pub fn random() -> Arc<str> {
    base64(random_uuid()).into()
}

/// A new id as Kafka makes them: random, and not beginning with `-` in text form, where tools would take it for a flag.
pub fn random_uuid() -> Uuid {
    loop {
        let id = Uuid::new_v4();
        if !base64(id).starts_with('-') {
            return id;
        }
    }
}

/// Without padding.
pub fn base64(id: Uuid) -> String {
    let bits = id.as_u128();
    // 22 characters hold 132 bits: the last has four zero bits at its end.
    let sextet = |at: u32| {
        let shift = 122i32 - 6 * at as i32;
        let value = if shift >= 0 { bits >> shift } else { bits << -shift };
        char::from(ALPHABET[(value & 63) as usize])
    };
    (0..22).map(sextet).collect()
}

/// The inverse of [`base64`].
pub fn parse(text: &str) -> Option<Uuid> {
    if text.len() != 22 {
        return None;
    }
    let mut bits = 0u128;
    for (at, letter) in (0u32..).zip(text.bytes()) {
        let sextet = ALPHABET.iter().position(|known| *known == letter)? as u128;
        let shift = 122i32 - 6 * at as i32;
        bits |= if shift >= 0 { sextet << shift } else { sextet >> -shift };
    }
    let id = Uuid::from_u128(bits);
    // The last character has bits to spare; an id has one spelling.
    (base64(id) == text).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_is_kafkas() {
        assert_eq!(base64(Uuid::nil()), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(base64(Uuid::from_u128(u128::MAX)), "_____________________w");
        // RFC 4648: "foobar" is Zm9vYmFy.
        let bytes = *b"foobarfoobarfoob";
        assert_eq!(base64(Uuid::from_bytes(bytes)), "Zm9vYmFyZm9vYmFyZm9vYg");
    }

    #[test]
    fn random_ids_are_no_flags() {
        assert!((0..1000).all(|_| !base64(random_uuid()).starts_with('-')));
    }

    #[test]
    fn an_id_parses_back_and_nothing_else_does() {
        for _ in 0..100 {
            let id = random_uuid();
            assert_eq!(parse(&base64(id)), Some(id));
        }
        for text in
            ["", "short", "AAAAAAAAAAAAAAAAAAAAAB", "AAAAAAAAAAAAAAAAAAAA/A", "AAAAAAAAAAAAAAAAAAAAAAA"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
