//! What agents of other models send: distributions over our tokens.

use avp_backend::{Backend, BackendError, Context, ProjectionError, embed_distributions};
use avp_handshake::Reject;
use avp_wire::{Distribution, ErrorCode, Frame};

/// Distributions that came, in the ids of the agent's model.
pub(crate) struct Incoming(pub(crate) Vec<Distribution>);

impl Incoming {
    /// Reads a frame of them.
    pub(crate) fn of_frame(frame: &Frame, backend: &dyn Backend) -> Result<Self, Reject> {
        let invalid = |what: String| Reject::new(ErrorCode::InvalidDistribution, what);
        let [count] = frame.metadata.tensor_shape[..] else {
            return Err(invalid("tensor_shape is not the number of positions".to_owned()));
        };
        let positions = Distribution::decode_all(&frame.payload, count);
        let positions = positions.map_err(|error| invalid(error.to_string()))?;
        let (rows, window) = (backend.info().vocab_size, backend.info().max_positions);
        let last = positions.iter().filter_map(|position| position.ids().last()).max();
        if let Some(last) = last.filter(|last| **last as usize >= rows) {
            return Err(invalid(format!("token {last} is none of this model's {rows}")));
        }
        if positions.len() > window {
            let message =
                format!("{} positions are more than the model's window of {window}", positions.len());
            return Err(Reject::new(ErrorCode::KvModelMismatch, message));
        }
        Ok(Self(positions))
    }

    /// A context that has read them.
    pub(crate) fn into_context(self, backend: &dyn Backend) -> Result<Context, Reject> {
        let embeddings = embed_distributions(backend, &self.0, None).map_err(|error| refusal(&error))?;
        Context::of_embeddings(backend, &embeddings)
            .map_err(|error| Reject::new(ErrorCode::Internal, error.to_string()))
    }
}

/// What the peer hears of a projection that failed here.
pub(crate) fn refusal(error: &ProjectionError) -> Reject {
    let code = match error {
        // Numbers and ids that do not fit are the sender's.
        ProjectionError::Backend(BackendError::Shape { .. } | BackendError::TokenId { .. }) => {
            ErrorCode::InvalidArgument
        }
        ProjectionError::Backend(_) => ErrorCode::Internal,
        _ => ErrorCode::InvalidDistribution,
    };
    Reject::new(code, error.to_string())
}
