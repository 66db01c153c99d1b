//! What a peer can do wrong with shared memory.

/// A peer broke the rules of docs/spec/shm.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum ShmFault {
    /// The greeting is not one of this protocol.
    #[error("its greeting is not that of AVP over shared memory; does another service own the socket?")]
    NotAvp,
    /// The greeting, or a record, says what it may not.
    #[error("a greeting or record says what it may not")]
    Malformed,
    /// A descriptor is due and did not come.
    #[error("a descriptor is missing")]
    NoDescriptor,
    /// A descriptor came that no record speaks of.
    #[error("it passed a descriptor that no record speaks of")]
    ExtraDescriptor,
    /// The descriptor is not of memory that can be sealed.
    #[error("it passed a descriptor that is not of shared memory")]
    NotMemory,
    /// A seal is missing, so the memory could vanish or change while it is read.
    #[error("the memory it passed is not sealed against resizing{}", if *.write { " and writing" } else { "" })]
    Unsealed {
        /// Whether a seal against writing is due too.
        write: bool,
    },
    /// The memory has another size than was said.
    #[error("the memory it passed has {got} bytes, and it said {said}")]
    Size {
        /// Bytes that it said.
        said: u64,
        /// Bytes that there are.
        got: u64,
    },
    /// Not all pages of the memory are there.
    #[error("the memory it passed is not all there")]
    Sparse,
    /// The id is in use already, or was never passed.
    #[error("it named segment {id}, which is in use already or unknown")]
    Segment {
        /// The id.
        id: u32,
    },
    /// A payload lies outside of its memory.
    #[error("a payload of {len} bytes at {offset} lies outside of its memory of {size} bytes")]
    OutOfRange {
        /// Where it begins.
        offset: u64,
        /// Its length.
        len: u64,
        /// Bytes of the memory.
        size: u64,
    },
    /// More memory, or more pieces of it, than this side maps.
    #[error("it passed more memory than this side maps ({limit} bytes, `shm.peer_arena`)")]
    TooMuchMemory {
        /// Bytes that this side maps.
        limit: u64,
    },
    /// Records without frames.
    #[error("it keeps passing and retiring memory without sending frames")]
    Churn,
    /// It took or gave back a payload that it does not hold.
    #[error("it took or gave back a payload that it does not hold")]
    UnknownLoan,
    /// A payload that has to lie in memory came through the socket.
    #[error("a payload of {len} bytes came through the socket")]
    LongInline {
        /// Its length.
        len: u64,
    },
}
