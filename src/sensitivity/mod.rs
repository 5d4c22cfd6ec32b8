//! What an error costs, in nats.
