use proptest::prelude::*;

use super::file::{joined, parts};
use super::*;

proptest! {
    // spec: projection 9.1
    #[test]
    fn any_bytes_are_a_map_or_a_fault(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        prop_assert!(ProjectionMap::decode(&bytes).is_err());
        let _ = LinearMap::from_safetensors(&bytes, 4, 6);
    }

    #[test]
    fn any_header_is_a_map_or_a_fault(
        header in "[\\x20-\\x7e]{0,120}", data in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
        prop_assert!(ProjectionMap::decode(&bytes).is_err());
    }

    /// What is taken of a changed file is a map that is as good as any: it comes back from its own bytes.
    #[test]
    fn a_changed_file_never_panics_and_is_a_fault_or_another_map(
        which in 0..3_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut bytes = maps()[which].encode();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
        if let Ok(map) = ProjectionMap::decode(&bytes) {
            prop_assert_eq!(&ProjectionMap::decode(&map.encode()).unwrap(), &map);
            let _ = map.apply(&source(), &target(), &[0.5; SOURCE_DIM], &ProjectionOptions::default());
        }
    }

    #[test]
    fn a_changed_field_never_panics(
        which in 0..3_usize, field in any::<prop::sample::Index>(), value in "\\PC{0,12}|[0-9.e-]{0,12}|NaN|inf",
    ) {
        let (mut header, data) = parts(&maps()[which].encode());
        let fields = header["__metadata__"].as_object_mut().unwrap();
        let name = fields.keys().nth(field.index(fields.len())).unwrap().clone();
        fields[&name] = value.into();
        if let Ok(map) = ProjectionMap::decode(&joined(&header, &data)) {
            prop_assert_eq!(&ProjectionMap::decode(&map.encode()).unwrap(), &map);
        }
    }

    #[test]
    fn numbers_come_back_bit_by_bit(
        norm in prop::num::f32::POSITIVE | prop::num::f32::SUBNORMAL, cosine in -1.001_f32..=1.001,
        values in prop::collection::vec(prop::num::f32::NORMAL, SOURCE_DIM * TARGET_DIM),
    ) {
        let norm = norm.abs();
        prop_assume!(norm.is_finite());
        let mut map =
            ProjectionMap::linear(source().info(), target().info(), LinearMap::new(values, None, norm)).unwrap();
        map.validation = Some(Validation { cosine, perplexity: Some(norm) });
        prop_assert_eq!(ProjectionMap::decode(&map.encode()).unwrap(), map);
    }
}
