//! A refusal on the wire.

use std::collections::BTreeMap;

use avp_wire::ext::{self, FrameKind};
use avp_wire::{ErrorCode, Frame, Limits, Metadata, Mode, TransmitResponse};

/// Longest text of a refusal that is kept, in characters.
const MAX_MESSAGE: usize = 256;

/// A refusal: an `ack` frame whose `TransmitResponse` says no and names an [`ErrorCode`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The code; `None` where the peer named one that is not known here, or none.
    pub code: Option<ErrorCode>,
    /// For humans.
    pub message: String,
}

impl Reject {
    /// A refusal for a reason.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code: Some(code), message: message.into() }
    }

    /// The frame that tells the peer.
    #[must_use]
    pub fn to_frame(&self) -> Frame {
        let code = self.code.map(|code| (ext::CODE.to_owned(), code.as_str().to_owned()));
        let response = TransmitResponse {
            success: false,
            message: Some(self.message.clone()),
            request_id: None,
            extra: code.into_iter().collect(),
        };
        let metadata = Metadata {
            mode: Mode::Json,
            extra: BTreeMap::from([(ext::KIND.to_owned(), FrameKind::Ack.as_str().to_owned())]),
            ..Metadata::default()
        };
        Frame::new(metadata, response.to_vec())
    }

    /// Reads a refusal; `None` for any other frame.
    #[must_use]
    pub fn from_frame(frame: &Frame) -> Option<Self> {
        if frame.kind() != Ok(Some(FrameKind::Ack)) {
            return None;
        }
        let response = TransmitResponse::decode(&frame.payload, &Limits::default()).ok()?;
        if response.success {
            return None;
        }
        let code = response.extra.get(ext::CODE).and_then(|name| ErrorCode::from_name(name));
        let message = response.message.unwrap_or_default().chars().take(MAX_MESSAGE).collect();
        Some(Self { code, message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: handshake 4.2
    #[test]
    fn a_refusal_reads_back_from_its_frame() {
        let reject = Reject::new(ErrorCode::HandshakeTimeout, "too late");
        assert_eq!(Reject::from_frame(&reject.to_frame()), Some(reject));
    }

    #[test]
    fn other_frames_are_no_refusals() {
        assert_eq!(Reject::from_frame(&Frame::default()), None);
        let mut ack = Reject::new(ErrorCode::Busy, "").to_frame();
        ack.payload = TransmitResponse { success: true, ..Default::default() }.to_vec().into();
        assert_eq!(Reject::from_frame(&ack), None);
        ack.payload = vec![0xff; 3].into();
        assert_eq!(Reject::from_frame(&ack), None);
    }

    // spec: handshake 4.10
    #[test]
    fn a_code_from_the_future_and_a_long_text_do_no_harm() {
        let mut frame = Reject::new(ErrorCode::Busy, "").to_frame();
        let response = TransmitResponse {
            message: Some("x".repeat(10_000)),
            extra: BTreeMap::from([(ext::CODE.to_owned(), "new.code".to_owned())]),
            ..Default::default()
        };
        frame.payload = response.to_vec().into();
        assert_eq!(Reject::from_frame(&frame), Some(Reject { code: None, message: "x".repeat(256) }));
    }
}
