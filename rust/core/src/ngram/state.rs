//! States as bytes: a checked header, then bit-packed numbers.
//!
//! | bytes | content |
//! |-------|---------|
//! | 0–3   | `NGCS` |
//! | 4     | version |
//! | 5     | kind of state |
//! | 6–9   | CRC-32 of all other bytes, little-endian |
//! | 10–   | numbers of a declared number of bits each, lowest bit first; the last byte is filled with zeros |

use crate::{Error, Result};

const MAGIC: [u8; 4] = *b"NGCS";

/// Version of the format, and of the hash that says in which slots n-grams stand; a state of another one is refused.
pub const VERSION: u8 = 2;

/// Bytes before the numbers.
pub const HEADER_BYTES: usize = 10;

/// Bits of the length that [`Writer::put_number`] writes before a number.
const LENGTH_BITS: u32 = 7;

/// Whose state it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The text of the exact n-gram copier.
    Copier = 1,
    /// The slots of a bounded table.
    BoundedTable = 2,
    /// The tokens and the group of the prefix machine.
    PrefixMachine = 3,
}

impl Kind {
    fn name(code: u8) -> Option<&'static str> {
        const NAMES: [&str; 3] = ["an n-gram copier", "a bounded table", "a prefix machine"];
        NAMES.get(usize::from(code).checked_sub(1)?).copied()
    }
}

/// Bits that hold every number up to `largest`.
#[must_use]
pub fn bits_for(largest: u64) -> u32 {
    u64::BITS - largest.leading_zeros()
}

/// Packs numbers.
#[derive(Debug, Clone)]
pub struct Writer {
    bytes: Vec<u8>,
    pending: u128,
    pending_bits: u32,
}

impl Writer {
    /// An empty state.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([VERSION, kind as u8, 0, 0, 0, 0]);
        Self { bytes, pending: 0, pending_bits: 0 }
    }

    /// Appends the low `bits` (at most 64) of a number.
    pub fn put(&mut self, value: u64, bits: u32) {
        let value = u128::from(value) & ((1 << bits) - 1);
        self.pending |= value << self.pending_bits;
        self.pending_bits += bits;
        while self.pending_bits >= 8 {
            self.bytes.push(self.pending as u8);
            self.pending >>= 8;
            self.pending_bits -= 8;
        }
    }

    /// Appends a number of any size, its length before it: for what is free, such as lengths.
    pub fn put_number(&mut self, value: u64) {
        let bits = bits_for(value);
        self.put(u64::from(bits), LENGTH_BITS);
        self.put(value, bits);
    }

    /// The bytes.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        if self.pending_bits > 0 {
            self.bytes.push(self.pending as u8);
        }
        let crc = checksum(&self.bytes).to_le_bytes();
        self.bytes[6..HEADER_BYTES].copy_from_slice(&crc);
        self.bytes
    }
}

/// Unpacks numbers; nothing that it reads can make it panic.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    payload: &'a [u8],
    /// The next bit.
    at: usize,
}

impl<'a> Reader<'a> {
    /// Checks the header.
    pub fn new(bytes: &'a [u8], kind: Kind) -> Result<Self> {
        let Some((header, payload)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(Error::state(format!(
                "the state is truncated: {} bytes, less than its header of {HEADER_BYTES}",
                bytes.len()
            )));
        };
        if header[..4] != MAGIC {
            return Err(Error::state(format!("not a state of ngram-copy: it begins with {:02x?}", &header[..4])));
        }
        if header[4] != VERSION {
            return Err(Error::state(format!("the state is of version {}; version {VERSION} is read", header[4])));
        }
        let found = u32::from_le_bytes([header[6], header[7], header[8], header[9]]);
        let expected = checksum(bytes);
        if found != expected {
            return Err(Error::state(format!(
                "the state is damaged or truncated: its checksum is {expected:08x}, it says {found:08x}"
            )));
        }
        if header[5] != kind as u8 {
            let name = |code| Kind::name(code).map_or_else(|| format!("kind {code}"), str::to_owned);
            return Err(Error::state(format!("the state of {} is given to {}", name(header[5]), name(kind as u8))));
        }
        Ok(Self { payload, at: 0 })
    }

    /// Bits that were not read yet.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.payload.len() * 8 - self.at
    }

    /// The next number of `bits` (at most 64).
    pub fn take(&mut self, bits: u32) -> Result<u64> {
        self.expect(1, bits)?;
        let (first, shift) = (self.at / 8, self.at % 8);
        let mut bytes = [0; 16];
        let there = &self.payload[first..self.payload.len().min(first + 9)];
        bytes[..there.len()].copy_from_slice(there);
        self.at += bits as usize;
        Ok(((u128::from_le_bytes(bytes) >> shift) & ((1 << bits) - 1)) as u64)
    }

    /// The next number that [`Writer::put_number`] wrote.
    pub fn take_number(&mut self) -> Result<u64> {
        let bits = self.take(LENGTH_BITS)? as u32;
        if bits > u64::BITS {
            return Err(Error::state(format!("the state is invalid: a number of {bits} bits")));
        }
        self.take(bits)
    }

    /// Checks that `count` numbers of `bits` each are there, before anything is allocated for them.
    pub fn expect(&self, count: u64, bits: u32) -> Result<()> {
        let needed = u128::from(count) * u128::from(bits);
        if needed > self.remaining() as u128 {
            return Err(Error::state(format!(
                "the state is truncated: {needed} bits are missing, {} are there",
                self.remaining()
            )));
        }
        Ok(())
    }

    /// Checks that nothing is left but the zeros that fill the last byte.
    pub fn finish(mut self) -> Result<()> {
        let left = self.remaining();
        if left >= 8 || self.take(left as u32)? != 0 {
            return Err(Error::state(format!("the state is invalid: {left} bits too many")));
        }
        Ok(())
    }
}

/// CRC-32 of all bytes but those that hold it.
fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..6]);
    crc.update(&bytes[HEADER_BYTES..]);
    crc.finalize()
}
