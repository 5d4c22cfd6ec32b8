//! What users and files do to the program, and what it must make of that.

#[path = "faults/devices.rs"]
mod devices;
#[path = "faults/outputs.rs"]
mod outputs;
#[path = "faults/stops.rs"]
mod stops;
#[path = "faults/terminal.rs"]
mod terminal;
#[path = "faults/work.rs"]
mod work;
