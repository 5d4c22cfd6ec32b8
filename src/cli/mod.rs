//! One file per command. No arithmetic here.
