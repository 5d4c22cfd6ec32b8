//! One file per kernel: its dispatch beside its CPU twin. The shader has the same name.
