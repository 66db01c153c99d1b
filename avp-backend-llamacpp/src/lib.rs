//! Agent Vector Protocol: GGUF models on llama.cpp (not built yet; see the README's table).
