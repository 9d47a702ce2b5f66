//! States: what was packed comes back; what was damaged is refused.

#![allow(clippy::unwrap_used)]

use ngram_copy_core::Error;
use ngram_copy_core::ngram::state::{HEADER_BYTES, Kind, Reader, VERSION, Writer, bits_for};
use proptest::prelude::*;

const CASES: u32 = 1024;

fn config(name: &str) -> ProptestConfig {
    println!("{name}: {CASES} cases");
    ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() }
}

fn pack(numbers: &[(u64, u32)]) -> Vec<u8> {
    let mut writer = Writer::new(Kind::Copier);
    for &(value, bits) in numbers {
        writer.put(value, bits);
        writer.put_number(value);
    }
    writer.finish()
}

fn message(bytes: &[u8], kind: Kind) -> String {
    match Reader::new(bytes, kind) {
        Err(Error::State(message)) => message,
        other => format!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(config("states"))]

    #[test]
    fn numbers_come_back(numbers in prop::collection::vec((any::<u64>(), 0..=64_u32), 0..40)) {
        let bytes = pack(&numbers);
        let bits: u32 = numbers.iter().map(|(value, bits)| bits + 7 + bits_for(*value)).sum();
        prop_assert_eq!(bytes.len(), HEADER_BYTES + bits.div_ceil(8) as usize);
        let mut reader = Reader::new(&bytes, Kind::Copier).unwrap();
        for (value, bits) in numbers {
            let low = if bits == 64 { value } else { value & ((1 << bits) - 1) };
            prop_assert_eq!(reader.take(bits).unwrap(), low);
            prop_assert_eq!(reader.take_number().unwrap(), value);
        }
        reader.finish().unwrap();
    }

    #[test]
    fn damage_is_seen(numbers in prop::collection::vec((any::<u64>(), 0..=64_u32), 0..20), at: prop::sample::Index, flip in 1..=255_u8) {
        let mut bytes = pack(&numbers);
        let end = at.index(bytes.len());
        prop_assert!(Reader::new(&bytes[..end], Kind::Copier).is_err());
        bytes[end] ^= flip;
        prop_assert!(matches!(Reader::new(&bytes, Kind::Copier), Err(Error::State(_))));
    }

    #[test]
    fn no_bytes_make_a_reader_panic(payload in prop::collection::vec(any::<u8>(), 0..30), sizes in prop::collection::vec(0..=64_u32, 0..9)) {
        let mut writer = Writer::new(Kind::PrefixMachine);
        for &byte in &payload {
            writer.put(u64::from(byte), 8);
        }
        let bytes = writer.finish();
        let mut reader = Reader::new(&bytes, Kind::PrefixMachine).unwrap();
        for bits in sizes {
            let left = reader.remaining();
            prop_assert_eq!(reader.take(bits).is_ok(), left >= bits as usize);
            let _ = reader.take_number();
        }
        let _ = reader.finish();
    }
}

#[test]
fn errors_say_what_is_wrong() {
    let bytes = pack(&[(5, 3)]);
    assert_eq!(message(&bytes[..4], Kind::Copier), "the state is truncated: 4 bytes, less than its header of 10");
    assert_eq!(
        message(b"PK\x03\x04123456", Kind::Copier),
        "not a state of ngram-copy: it begins with [50, 4b, 03, 04]"
    );
    assert_eq!(message(&bytes, Kind::BoundedTable), "the state of an n-gram copier is given to a bounded table");
    let mut newer = bytes.clone();
    newer[4] = VERSION + 1;
    assert_eq!(message(&newer, Kind::Copier), "the state is of version 3; version 2 is read");
    let reader = Reader::new(&bytes, Kind::Copier).unwrap();
    assert_eq!(
        reader.expect(u64::MAX, 64).unwrap_err().to_string(),
        "the state is truncated: 1180591620717411303360 bits are missing, 16 are there"
    );
    assert_eq!(reader.finish().unwrap_err().to_string(), "the state is invalid: 16 bits too many");
}
