//! What a user or a file does wrong: the right result, or one sentence that says what is wrong and what to do.

mod faults {
    pub mod folders;
    pub mod model;
    pub mod numbers;
    pub mod sources;
    pub mod templates;
    pub mod text;
    pub mod tokenizers;
}
