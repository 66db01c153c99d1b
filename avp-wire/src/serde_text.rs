//! Serialize and Deserialize for the types that are written as text.

use alloc::borrow::Cow;

use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::{Serialize, Serializer};

use crate::ErrorCode;
use crate::ext::{FrameKind, SlabId};
use crate::slab::TransferId;

macro_rules! as_text {
    ($($type:ty: $parse:expr;)+) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'_, str>::deserialize(deserializer)?;
                $parse(&text).ok_or_else(|| {
                    D::Error::custom(format_args!("{text:?} is no {}", stringify!($type)))
                })
            }
        }
    )+};
}

as_text! {
    ErrorCode: ErrorCode::from_name;
    FrameKind: |text: &str| text.parse::<FrameKind>().ok();
    SlabId: |text: &str| text.parse::<SlabId>().ok();
    TransferId: |text: &str| text.parse::<TransferId>().ok();
}
