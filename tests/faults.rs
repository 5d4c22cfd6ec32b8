//! What a user or a file does wrong: the right result, or one sentence that says what is wrong and what to do.

mod faults {
    pub mod devices;
    pub mod folders;
    pub mod model;
    pub mod numbers;
    pub mod outputs;
    pub mod sources;
    pub mod stops;
    pub mod templates;
    pub mod terminal;
    pub mod text;
    pub mod tokenizers;
    pub mod work;
}
