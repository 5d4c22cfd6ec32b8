//! Nothing that a user or a file does breaks it: a test for each kind of fault, with the right value.

mod faults {
    pub mod templates;
    pub mod text;
    pub mod tokenizers;
}
