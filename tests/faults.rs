//! What a user or a file does wrong: the right result, or one sentence that says what is wrong and what to do.

#[path = "faults/folders.rs"]
mod folders;
#[path = "faults/model.rs"]
mod model;
#[path = "faults/numbers.rs"]
mod numbers;
#[path = "faults/sources.rs"]
mod sources;
