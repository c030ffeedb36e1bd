//! Which bytes may stand where: the length of the longest valid prefix, for each kind of text.

/// Bytes of a token. Source: RFC 9110 §5.6.2.
const TOKEN: [bool; 256] =
    members(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~");

/// Bytes of a request target: printable ASCII, but no `#` (a fragment is never sent; who reads one reads another
/// path than who does not).
const TARGET: [bool; 256] = members(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!\"$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
);

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Length of the token at the start of `bytes`.
pub(crate) fn token_len(bytes: &[u8]) -> usize {
    prefix_len(bytes, &TOKEN)
}

/// Length of the target text at the start of `bytes`.
pub(crate) fn target_len(bytes: &[u8]) -> usize {
    prefix_len(bytes, &TARGET)
}

/// Length of the field value text at the start of `bytes`: all but control bytes, of which tab is allowed. Source:
/// RFC 9110 §5.5.
pub(crate) fn value_len(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        match control_in(u64::from_le_bytes(*word)) {
            None => at += 8,
            Some(offset) if word[offset] == b'\t' => at += offset + 1,
            Some(offset) => return at + offset,
        }
    }
    at + bytes[at..].iter().position(|b| !is_value_byte(*b)).unwrap_or(bytes.len() - at)
}

/// Whether a byte may stand in a field value.
pub(crate) fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || !byte.is_ascii_control()
}

/// The first of eight bytes (little-endian) that is below 0x20 or 0x7f. A borrow between the bytes can only raise
/// a false alarm above a true one, so the first is always true.
fn control_in(word: u64) -> Option<usize> {
    let below_space = word.wrapping_sub(ONES * 0x20) & !word;
    let delete = word ^ (ONES * 0x7f);
    let is_delete = delete.wrapping_sub(ONES) & !delete;
    let found = (below_space | is_delete) & HIGH;
    (found != 0).then_some(found.trailing_zeros() as usize / 8)
}

fn prefix_len(bytes: &[u8], valid: &[bool; 256]) -> usize {
    bytes.iter().position(|b| !valid[usize::from(*b)]).unwrap_or(bytes.len())
}

const fn members(set: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut at = 0;
    while at < set.len() {
        table[set[at] as usize] = true;
        at += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_in_the_right_class() {
        for byte in 0..=u8::MAX {
            let token = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            let target = (0x21..0x7f).contains(&byte) && byte != b'#';
            let value = byte == b'\t' || byte >= 0x20 && byte != 0x7f;
            for at in 0..20 {
                let mut text = [b'a'; 20];
                text[at] = byte;
                let expected = |valid: bool| if valid { 20 } else { at };
                assert_eq!(token_len(&text), expected(token), "token {byte:#x} at {at}");
                assert_eq!(target_len(&text), expected(target), "target {byte:#x} at {at}");
                assert_eq!(value_len(&text), expected(value), "value {byte:#x} at {at}");
            }
        }
    }

    #[test]
    fn the_first_of_several_control_bytes_is_found() {
        for first in 0..16 {
            for second in first + 1..16 {
                let mut text = [0x80; 16];
                (text[first], text[second]) = (b'\r', 0x7f);
                assert_eq!(value_len(&text), first);
                (text[first], text[second]) = (0x7f, 0);
                assert_eq!(value_len(&text), first);
            }
        }
    }
}
