//! Streams a model through a device, one layer at a time, with *all* tokens passing each layer.
//! [`tap::Tap`]s see the input of every linear layer; other weights for the same graph are a [`weights::WeightSource`].
//! [`Stream::logits`] is the plain result; [`diverge`] compares two models without ever holding it.
//! [`lanes`] shows what quantized layers change for those behind them; [`reverse`] walks the layers backwards from kept layer inputs.

mod head;
pub mod lanes;
mod logits;
pub mod reverse;
mod store;
mod stream;
pub mod weights;

pub use head::{Divergence, FinalStates, FinalStatesOf, Side, diverge, same_vocabulary};
pub use stream::{Stream, StreamOptions};
