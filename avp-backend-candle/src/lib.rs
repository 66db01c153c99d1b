//! Agent Vector Protocol: safetensors models on candle.
