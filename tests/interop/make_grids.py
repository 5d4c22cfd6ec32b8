"""Writes src/quant/codebook/grids.rs from the tables of the `gguf` package, which are part of the formats.

    python tests/interop/make_grids.py > src/quant/codebook/grids.rs
"""

from gguf import quants

GRIDS = ["IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_S", "IQ3_XXS", "IQ3_S"]
PER_LINE = 14


def words(format_class):
    """Each codeword as one integer, the level of its first weight in the lowest bits."""
    format_class.init_grid()
    level = {value: number for number, value in enumerate(format_class.grid_map)}
    bits = 2 if len(level) == 3 else 3
    for row in format_class.grid.reshape(format_class.grid_shape):
        yield sum(level[int(value)] << bits * n for n, value in enumerate(row))


def main():
    print("//! The codewords of the IQ formats, written by `tests/interop/make_grids.py`; the order is part of the formats.")
    print("//! IQ1 and IQ2 words hold eight levels of 2 bits, IQ3 words four levels of 3 bits, the first weight lowest.")
    for name in GRIDS:
        grid = list(words(getattr(quants, name)))
        print(f"\n#[rustfmt::skip]\npub const {name}: [u16; {len(grid)}] = [")
        for start in range(0, len(grid), PER_LINE):
            print("    " + " ".join(f"0x{word:04x}," for word in grid[start : start + PER_LINE]))
        print("];")


main()
