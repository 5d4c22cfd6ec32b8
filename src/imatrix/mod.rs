//! Activation statistics and the two file formats that llama.cpp reads.
