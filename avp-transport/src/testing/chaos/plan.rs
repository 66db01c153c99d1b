//! What goes wrong with one direction of a stream, drawn from a seed.

use std::time::Duration;

use crate::testing::dice::Dice;

/// What happens to a direction of a stream when so many bytes have passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing.
    None,
    /// Bits change within 32 neighbouring ones: what any CRC-32 is sure to notice, if it covers them.
    Flip(u32),
    /// So many bytes are missing.
    Lose(u64),
    /// Nothing passes any more, and nobody is told.
    Stall,
    /// The direction ends (FIN); what still comes is discarded.
    Truncate,
    /// Both directions are closed.
    Close,
    /// Both directions are reset (RST).
    Reset,
}

/// How a direction of a stream is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What goes wrong.
    pub fault: Fault,
    /// After how many bytes.
    pub at: u64,
    /// Whether the first KiB goes in pieces of a few bytes, and the rest in pieces of any size.
    pub split: bool,
    /// Longest pause before a piece.
    pub pause: Duration,
}

impl Plan {
    /// Changes nothing.
    pub const NONE: Self = Self { fault: Fault::None, at: 0, split: false, pause: Duration::ZERO };

    /// Draws a plan whose fault is within `reach` bytes; every second has none.
    #[must_use]
    pub fn draw(dice: &mut Dice, reach: u64) -> Self {
        let fault = match dice.below(20) {
            0..=2 => Fault::Flip(match dice.below(3) {
                0 => 1 << dice.below(32),
                1 => 1 << dice.below(32) | 1 << dice.below(32),
                _ => (dice.bits() as u32).max(1),
            }),
            3 => Fault::Lose(1 + dice.below_by_magnitude(10_000)),
            4 | 5 => Fault::Stall,
            6 => Fault::Truncate,
            7 => Fault::Close,
            8 | 9 => Fault::Reset,
            _ => Fault::None,
        };
        let pause = if dice.chance(0.3) { dice.time(Duration::from_millis(20)) } else { Duration::ZERO };
        Self { fault, at: dice.below_by_magnitude(reach), split: dice.chance(0.5), pause }
    }
}
