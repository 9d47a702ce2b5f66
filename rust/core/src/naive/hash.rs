//! The definition of the n-gram hash, a multiplication at a time in 128 bits.

const TWO_16: u128 = 1 << 16;
const TWO_32: u128 = 1 << 32;
const TWO_64: u128 = 1 << 64;

fn mix(h: u128) -> u128 {
    let h = (h ^ (h >> 30)) * 0xbf58_476d_1ce4_e5b9 % TWO_64;
    let h = (h ^ (h >> 27)) * 0x94d0_49bb_1331_11eb % TWO_64;
    h ^ (h >> 31)
}

fn finish(sum: u128) -> u128 {
    let (high, low) = (sum / TWO_32, sum % TWO_32);
    let low = low ^ (high * high / (1 << 16) % TWO_32);
    (high * TWO_32 + low * 0x9e37_79b1) % TWO_64
}

/// `finish(offset + Σ_p Σ_k c_pk·w_pk mod 2^64)` of every window of n symbols: `w_pk` has the k-th 16 bits of symbols 2p and
/// 2p + 1.
#[must_use]
pub fn hash_ngrams(symbols: &[u64], n: usize, seed: u64) -> Vec<u64> {
    let state = mix(u128::from(seed));
    let offset = mix(state ^ mix(n as u128));
    let coefficient = |j: usize| mix((state + (j as u128 + 1) * 0x9e37_79b9_7f4a_7c15) % TWO_64) | 1;
    let limb = |symbol: u64, k: u32| u128::from(symbol) / TWO_16.pow(k) % TWO_16;
    let hash = |window: &[u64]| {
        let mut sum = offset;
        for (p, pair) in window.chunks(2).enumerate() {
            for k in 0..3 {
                let word = pair.iter().rev().fold(0, |word, &symbol| word * TWO_16 + limb(symbol, k));
                sum = (sum + coefficient(3 * p + k as usize) * word) % TWO_64;
            }
        }
        finish(sum) as u64
    };
    symbols.windows(n).map(hash).collect()
}
