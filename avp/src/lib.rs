//! Agent Vector Protocol: agents that connect, serve, think and generate.
