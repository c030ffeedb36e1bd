//! XXH64, by which consistent hashing and hash policies place a key. The same function as Envoy's, so that a request
//! meets the same endpoint behind either.
//!
//! Source: xxHash specification 0.1.1, "XXH64 algorithm description".

const PRIME_1: u64 = 0x9E37_79B1_85EB_CA87;
const PRIME_2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const PRIME_3: u64 = 0x1656_67B1_9E37_79F9;
const PRIME_4: u64 = 0x85EB_CA77_C2B2_AE63;
const PRIME_5: u64 = 0x27D4_EB2F_1656_67C5;

/// The hash of some bytes.
pub fn xxhash64(bytes: &[u8], seed: u64) -> u64 {
    let (stripes, rest) = bytes.as_chunks::<32>();
    let mut hash = if stripes.is_empty() { seed.wrapping_add(PRIME_5) } else { converge(stripes, seed) };
    hash = hash.wrapping_add(bytes.len() as u64);
    avalanche(finish(hash, rest))
}

/// The state of the four lanes after all full stripes.
fn converge(stripes: &[[u8; 32]], seed: u64) -> u64 {
    let mut lanes = [
        seed.wrapping_add(PRIME_1).wrapping_add(PRIME_2),
        seed.wrapping_add(PRIME_2),
        seed,
        seed.wrapping_sub(PRIME_1),
    ];
    for stripe in stripes {
        for (lane, word) in lanes.iter_mut().zip(stripe.as_chunks::<8>().0) {
            *lane = round(*lane, u64::from_le_bytes(*word));
        }
    }
    let turned = lanes.iter().zip([1, 7, 12, 18]).map(|(lane, by)| lane.rotate_left(by));
    let hash = turned.fold(0u64, u64::wrapping_add);
    lanes.iter().fold(hash, |hash, lane| (hash ^ round(0, *lane)).wrapping_mul(PRIME_1).wrapping_add(PRIME_4))
}

fn round(lane: u64, input: u64) -> u64 {
    lane.wrapping_add(input.wrapping_mul(PRIME_2)).rotate_left(31).wrapping_mul(PRIME_1)
}

/// Takes in what is shorter than a stripe.
fn finish(mut hash: u64, rest: &[u8]) -> u64 {
    let (words, rest) = rest.as_chunks::<8>();
    for word in words {
        hash ^= round(0, u64::from_le_bytes(*word));
        hash = hash.rotate_left(27).wrapping_mul(PRIME_1).wrapping_add(PRIME_4);
    }
    let (halves, rest) = rest.as_chunks::<4>();
    for half in halves {
        hash ^= u64::from(u32::from_le_bytes(*half)).wrapping_mul(PRIME_1);
        hash = hash.rotate_left(23).wrapping_mul(PRIME_2).wrapping_add(PRIME_3);
    }
    rest.iter().fold(hash, |hash, byte| {
        (hash ^ u64::from(*byte).wrapping_mul(PRIME_5)).rotate_left(11).wrapping_mul(PRIME_1)
    })
}

fn avalanche(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(PRIME_2);
    hash = (hash ^ (hash >> 29)).wrapping_mul(PRIME_3);
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_hashes() {
        let check = |text: &str, seed: u64, expected: u64| {
            assert_eq!(xxhash64(text.as_bytes(), seed), expected, "{text:?} {seed}");
        };
        check("", 0, 0xEF46_DB37_51D8_E999);
        check("a", 0, 0xD24E_C4F1_A98C_6E5B);
        check("abc", 0, 0x44BC_2CF5_AD77_0999);
        check("foo", 0, 3_728_699_739_546_630_719);
        check("bar", 0, 5_234_164_152_756_840_025);
        check("foo\nbar", 0, 8_917_841_378_505_826_757);
        check("Nobody inspects the spammish repetition", 0, 0xFBCE_A83C_8A37_8BF1);
        check("", 1, 0xD5AF_BA13_36A3_BE4B);
    }
}
