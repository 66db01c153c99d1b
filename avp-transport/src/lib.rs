//! Agent Vector Protocol: transports behind one set of traits.
