//! What a model is, as the hello announces it.

/// Identity of a model: what two peers compare to find out what they can share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelIdentity {
    /// Architecture family, e.g. `qwen2`.
    pub model_family: String,
    /// Name of the model, e.g. `Qwen/Qwen2.5-7B`.
    pub model_id: String,
    /// SHA-256 of the canonical config, hex.
    pub model_hash: String,
    /// Width of the hidden state.
    pub hidden_dim: u32,
    /// Number of decoder layers.
    pub num_layers: u32,
    /// Number of key/value heads.
    pub num_kv_heads: u32,
    /// Width of one head.
    pub head_dim: u32,
    /// SHA-256 of the vocabulary, hex; empty where unknown.
    pub tokenizer_hash: String,
}
