//! From errors and sensitivities to a type for each tensor.
