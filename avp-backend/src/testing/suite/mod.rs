//! What every engine does: a suite over [`Backend`] and [`Sequence`] alone, instantiated by
//! [`backend_suite!`](crate::backend_suite).
//!
//! Each function panics where the engine breaks a promise of the traits. The model must have at least 3 layers, a window of at
//! least 64 positions, and ids 3 to 60 in its vocabulary. Bits are compared where nothing may change them: what a fork or an
//! import does is what its original does.

mod cache;
mod compute;

use avp_wire::KvDtype;

pub use cache::*;
pub use compute::*;

use crate::{Backend, Input, KvRange, Sequence};

/// Makes a test of each promise, for the backend that `$load` loads: an expression that gives one. Ways to compute the same may be
/// as far apart as its type lets them be, or `within` a share of the largest value.
#[macro_export]
macro_rules! backend_suite {
    ($load:expr) => {
        $crate::backend_suite!($load, within = $crate::testing::suite::tolerance(&$load));
    };
    ($load:expr, within = $within:expr) => {
        $crate::backend_suite!(@each $load, ();
            eight_generations_on_forks_leave_the_sequence_unchanged_bit_for_bit,
            forks_go_on_independently_of_each_other_and_of_the_original,
            import_of_an_export_goes_on_with_the_same_bits,
            a_cache_goes_on_in_memory_of_its_device_and_of_no_other,
            token_ranges_may_come_in_any_order_within_the_capacity,
            slabs_may_come_by_layer_and_by_token_range_in_any_order_of_layers,
            a_prompt_is_read_behind_a_cache_that_is_still_arriving,
            an_unfinished_import_is_dropped_by_the_next_pass,
            exports_of_ranges_are_slices_of_the_whole,
            imports_convert_between_types,
            one_imported_key_that_differs_changes_what_is_computed,
            what_is_not_finite_stays_in_its_sequence,
            growth_keeps_what_is_cached,
            one_position_has_room_in_a_sequence_for_one,
            nothing_goes_beyond_the_context_window,
            wrong_arguments_are_named_and_change_nothing,
            mixes_are_weighted_sums_of_embeddings,
            the_codec_gives_back_what_it_was_given,
        );
        $crate::backend_suite!(@each $load, ($within);
            forward_returns_the_last_of_what_forward_all_returns,
            embeddings_in_place_of_tokens_compute_the_same,
            token_by_token_agrees_with_one_pass,
            a_soft_embedding_is_that_of_logits_softmax_and_mix,
            latent_steps_at_once_are_those_of_projection_and_forward_in_turn,
        );
    };
    (@each $load:expr, $within:tt; $($promise:ident),* $(,)?) => {
        $($crate::backend_suite!(@one $load, $within, $promise);)*
    };
    (@one $load:expr, ($($within:expr)?), $promise:ident) => {
        #[test]
        fn $promise() {
            let backend = $load;
            $crate::testing::suite::$promise(&backend $(, $within)?);
        }
    };
}

/// Ids of 40 positions.
fn ids() -> Vec<u32> {
    (0..40).map(|i| 3 + i * i * 7 % 57).collect()
}

fn range(layers: std::ops::Range<usize>, tokens: std::ops::Range<usize>) -> KvRange {
    KvRange { layers, tokens }
}

fn layers(backend: &dyn Backend) -> usize {
    backend.info().identity.num_layers as usize
}

fn row(backend: &dyn Backend) -> usize {
    let id = &backend.info().identity;
    id.num_kv_heads as usize * id.head_dim as usize
}

fn export(backend: &dyn Backend, sequence: &dyn Sequence, range: &KvRange) -> Vec<u8> {
    let each = 2 * row(backend) * sequence.kv_dtype().size();
    let mut out = vec![0xAA; range.layers.len() * range.tokens.len() * each];
    sequence.export_kv(range, &mut out).unwrap();
    out
}

fn all(backend: &dyn Backend, sequence: &dyn Sequence) -> KvRange {
    range(0..layers(backend), 0..sequence.len())
}

fn prefilled(backend: &dyn Backend, tokens: &[u32]) -> Box<dyn Sequence> {
    let mut sequence = backend.new_sequence(tokens.len()).unwrap();
    sequence.forward(Input::Tokens(tokens)).unwrap();
    sequence
}

fn next(sequence: &mut dyn Sequence, tokens: &[u32]) -> Vec<f32> {
    sequence.forward(Input::Tokens(tokens)).unwrap()
}

/// Largest difference, as a share of the largest value.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.map(|d| if d.is_finite() { d } else { f32::INFINITY }).fold(0.0, f32::max) / largest
}

/// How far two ways to compute the same may be apart, as a share of the largest value.
pub fn tolerance(backend: &dyn Backend) -> f32 {
    match backend.info().dtype {
        KvDtype::F32 => 1e-3,
        KvDtype::F16 => 2e-2,
        KvDtype::Bf16 => 1e-1,
    }
}
