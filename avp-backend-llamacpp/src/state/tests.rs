//! States are made and read by these tests alone; that llama.cpp agrees is for `tests/` to show.

use proptest::prelude::*;

use super::*;

const CELLS: usize = 5;

fn layout(kind: CacheType, transposed: bool, interleaved: bool, head_dim: usize) -> Layout {
    Layout { layers: 2, kv_heads: 3, head_dim, kind, transposed, interleaved }
}

fn layouts() -> impl Strategy<Value = Layout> {
    let kinds = [CacheType::F32, CacheType::F16, CacheType::Bf16, CacheType::Q8];
    let kind = proptest::sample::select(kinds.to_vec());
    (kind, any::<bool>(), any::<bool>(), proptest::sample::select(vec![32, 64, 128])).prop_map(
        |(kind, transposed, interleaved, head_dim)| {
            layout(kind, transposed && kind != CacheType::Q8, interleaved, head_dim)
        },
    )
}

/// A state of so many cells, all elements 0.
fn blank(layout: &Layout, cells: usize) -> Vec<u8> {
    let mut state = vec![0; layout.state_bytes(cells)];
    layout.begin(&mut state, cells).unwrap();
    state
}

fn write(
    layout: &Layout,
    state: &mut [u8],
    cells: usize,
    layer: usize,
    tokens: Range<usize>,
    dtype: KvDtype,
    bytes: &[u8],
) {
    let planes = layout.layers_mut(state, cells).nth(layer).unwrap();
    layout.write(planes, cells, &tokens, dtype, bytes).unwrap();
}

fn read(layout: &Layout, state: &[u8], cells: usize, layer: usize, tokens: Range<usize>, out: &mut [u8]) {
    let planes = layout.layers(state, cells).nth(layer).unwrap();
    layout.read(planes, cells, &tokens, out).unwrap();
}

/// Canonical bytes of a layer's `tokens`.
fn canonical(layout: &Layout, tokens: usize, seed: u32) -> Vec<u8> {
    let count = u32::try_from(2 * layout.width() * tokens).unwrap();
    let value = |i: u32| (f32::from(u16::try_from((i * 37 + seed * 11) % 1009).unwrap()) - 500.0) / 64.0;
    let mut out = vec![0; count as usize * layout.kind.canonical().size()];
    elements::put(layout.kind.canonical(), &(0..count).map(value).collect::<Vec<_>>(), &mut out);
    out
}

fn floats(layout: &Layout, bytes: &[u8]) -> Vec<f32> {
    let dtype = layout.kind.canonical();
    let mut out = vec![0.0; bytes.len() / dtype.size()];
    Elements { dtype, bytes }.unpack(&mut out);
    out
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(layout in layouts(), start in 0..CELLS, seed in 0..100_u32) {
        let tokens = start..CELLS;
        let bytes = canonical(&layout, tokens.len(), seed);
        let mut state = blank(&layout, CELLS);
        write(&layout, &mut state, CELLS, 1, tokens.clone(), layout.kind.canonical(), &bytes);
        prop_assert!(layout.is_state(&state, CELLS));
        let mut out = vec![0; bytes.len()];
        read(&layout, &state, CELLS, 1, tokens.clone(), &mut out);
        if layout.kind == CacheType::Q8 {
            let (given, back) = (floats(&layout, &bytes), floats(&layout, &out));
            let square = |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>();
            let error = square(&mut given.iter().zip(&back).map(|(a, b)| a - b));
            prop_assert!(error < 1e-3 * square(&mut given.iter().copied()), "{error}");
            // What was quantised once comes back as it was.
            let mut again = blank(&layout, CELLS);
            write(&layout, &mut again, CELLS, 1, tokens.clone(), KvDtype::F32, &out);
            prop_assert!(again == state);
        } else {
            prop_assert_eq!(&out, &bytes);
        }
        // The other layer, and cells before, are untouched.
        let mut other = vec![1; layout.width() * 2 * CELLS * layout.kind.canonical().size()];
        read(&layout, &state, CELLS, 0, 0..CELLS, &mut other);
        prop_assert!(other.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_state_of_another_layout_is_none(layout in layouts(), at in any::<prop::sample::Index>()) {
        let mut state = blank(&layout, CELLS);
        prop_assert!(!layout.is_state(&state, CELLS - 1));
        prop_assert!(!layout.is_state(&state[..state.len() - 1], CELLS));
        let at = at.index(layout.planes(CELLS));
        state[at] ^= 0x40;
        prop_assert!(!layout.is_state(&state, CELLS));
    }
}

#[test]
fn keys_of_interleaved_models_are_reordered_and_values_are_not() {
    let plain = Layout { layers: 1, kv_heads: 1, ..layout(CacheType::F32, false, false, 4) };
    let interleaved = Layout { interleaved: true, ..plain.clone() };
    let bytes: Vec<u8> =
        [0, 1, 2, 3, 4, 5, 6, 7_u8].iter().flat_map(|&v| f32::from(v).to_le_bytes()).collect();
    let mut state = blank(&interleaved, 1);
    write(&interleaved, &mut state, 1, 0, 0..1, KvDtype::F32, &bytes);
    let mut stored = vec![0; bytes.len()];
    read(&plain, &state, 1, 0, 0..1, &mut stored);
    assert_eq!(floats(&plain, &stored), [0.0, 2.0, 1.0, 3.0, 4.0, 5.0, 6.0, 7.0].map(|v: f32| v).to_vec());
}

#[test]
fn a_transposed_state_holds_a_run_of_cells_for_each_channel() {
    let layout = Layout { layers: 1, kv_heads: 1, ..layout(CacheType::F32, true, false, 2) };
    let v = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0];
    let bytes: Vec<u8> = [0.0; 6].iter().chain(&v).flat_map(|v| v.to_le_bytes()).collect();
    let mut state = blank(&layout, 3);
    write(&layout, &mut state, 3, 0, 0..3, KvDtype::F32, &bytes);
    let plane = &state[state.len() - 24..];
    assert_eq!(floats(&layout, plane), [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
}

#[test]
fn the_first_cells_are_copied_whatever_the_room() {
    for transposed in [false, true] {
        let layout = layout(CacheType::F16, transposed, false, 32);
        let bytes = canonical(&layout, 3, 8);
        let (mut small, mut large) = (blank(&layout, 3), blank(&layout, CELLS));
        write(&layout, &mut small, 3, 1, 0..3, layout.kind.canonical(), &bytes);
        for (from, to) in layout.layers(&small, 3).zip(layout.layers_mut(&mut large, CELLS)) {
            layout.copy(from, to, (3, CELLS), 2).unwrap();
        }
        let (mut expected, mut copied) = (vec![0; bytes.len() / 3 * 2], vec![1; bytes.len() / 3 * 2]);
        read(&layout, &small, 3, 1, 0..2, &mut expected);
        read(&layout, &large, CELLS, 1, 0..2, &mut copied);
        assert!(copied == expected);
        let mut rest = vec![1; bytes.len()];
        read(&layout, &large, CELLS, 1, 2..CELLS, &mut rest);
        assert!(rest.iter().all(|byte| *byte == 0), "only so many");
    }
}

#[test]
fn elements_of_another_type_are_converted() {
    let layout = layout(CacheType::F16, false, true, 32);
    let values = canonical(&Layout { kind: CacheType::F32, ..layout.clone() }, 2, 3);
    let mut state = blank(&layout, 2);
    write(&layout, &mut state, 2, 0, 0..2, KvDtype::F32, &values);
    let mut out = vec![0; values.len() / 2];
    read(&layout, &state, 2, 0, 0..2, &mut out);
    assert_eq!(floats(&layout, &out), floats(&Layout { kind: CacheType::F32, ..layout }, &values));
}

#[test]
fn large_states_hold_the_same_elements() {
    let layout = layout(CacheType::F16, false, false, 128);
    let cells = LARGE / layout.row_bytes() / 4 + 1;
    let bytes = canonical(&layout, cells, 5);
    let mut state = blank(&layout, cells);
    assert!(state.len() >= LARGE);
    write(&layout, &mut state, cells, 1, 0..cells, layout.kind.canonical(), &bytes);
    let mut out = vec![0; bytes.len()];
    read(&layout, &state, cells, 1, 0..cells, &mut out);
    assert!(out == bytes);
}
