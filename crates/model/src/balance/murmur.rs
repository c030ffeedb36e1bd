//! The hash of Envoy's `MURMUR_HASH_2`.

/// `MurmurHash` 2 of 64 bits as libstdc++ hashes bytes, by which Envoy's `MURMUR_HASH_2` places hosts.
///
/// Source: Appleby, "`MurmurHash2`", 64-bit version; libstdc++ `_Hash_bytes`.
pub(super) fn murmur2(bytes: &[u8]) -> u64 {
    const MULTIPLIER: u64 = 0xC6A4_A793_5BD1_E995;
    const SEED: u64 = 0xC70F_6907;
    let mix = |value: u64| value ^ (value >> 47);
    let (words, rest) = bytes.as_chunks::<8>();
    let mut hash = SEED ^ (bytes.len() as u64).wrapping_mul(MULTIPLIER);
    for word in words {
        let word = mix(u64::from_le_bytes(*word).wrapping_mul(MULTIPLIER)).wrapping_mul(MULTIPLIER);
        hash = (hash ^ word).wrapping_mul(MULTIPLIER);
    }
    if !rest.is_empty() {
        let word = rest.iter().rev().fold(0, |word, byte| (word << 8) | u64::from(*byte));
        hash = (hash ^ word).wrapping_mul(MULTIPLIER);
    }
    mix(mix(hash).wrapping_mul(MULTIPLIER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_hashes() {
        let check = |text: &str, expected: u64| assert_eq!(murmur2(text.as_bytes()), expected, "{text:?}");
        check("", 6_142_509_188_972_423_790);
        check("a", 4_993_892_634_952_068_459);
        check("foo", 9_631_199_822_919_835_226);
    }
}
