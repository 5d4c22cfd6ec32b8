// A byte of ternary digits: the smallest fraction of 256 that is at least number / 243.
fn packed_digits(number: u32) -> u32 {
    return (number * 256u + 242u) / 243u;
}
