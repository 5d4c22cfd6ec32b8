//! Streams layers through a device; taps see the inputs of linear layers, lanes carry other weights.
