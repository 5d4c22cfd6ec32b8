"""Draws what examples/predictions.rs wrote: `plot_predictions.py FILE.csv ... OUT.svg`.

One panel per CSV, both axes logarithmic: predicted KL across, measured KL up, a colour per type, and the line where they are equal.
Needs nothing but Python.
"""

import csv
import math
import sys
from pathlib import Path

COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
SIZE, LEFT, TOP, BOTTOM, GAP = 340, 70, 40, 60, 90


def read(path):
    with open(path, newline="") as file:
        rows = [(row["type"], float(row["predicted"]), float(row["measured"])) for row in csv.DictReader(file)]
    if not rows:
        sys.exit(f"no pairs in the file: `{path}`")
    positive = [row for row in rows if row[1] > 0 and row[2] > 0]
    if len(positive) < len(rows):
        print(f"{path}: {len(rows) - len(positive)} pairs that are not above zero are left out", file=sys.stderr)
    return positive


def text(x, y, content, anchor="middle", size=12, extra=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" {extra}>{content}</text>'


def panel(title, rows, x0):
    """One square with its points; x0 is its left edge."""
    values = [math.log10(value) for _, *pair in rows for value in pair]
    low, high = math.floor(min(values)), math.ceil(max(values))
    scale = SIZE / (high - low)
    across = lambda value: x0 + (math.log10(value) - low) * scale
    up = lambda value: TOP + SIZE - (math.log10(value) - low) * scale
    parts = [f'<rect x="{x0}" y="{TOP}" width="{SIZE}" height="{SIZE}" fill="none" stroke="#888"/>']
    for power in range(low, high + 1):
        at = 10.0**power
        label = f'1e{power}'
        parts.append(text(across(at), TOP + SIZE + 18, label))
        parts.append(text(x0 - 6, up(at) + 4, label, "end"))
        if low < power < high:
            parts.append(f'<path d="M{across(at):.1f} {TOP}v{SIZE}M{x0} {up(at):.1f}h{SIZE}" stroke="#ddd" fill="none"/>')
    parts.append(f'<path d="M{x0} {TOP + SIZE}L{x0 + SIZE} {TOP}" stroke="#444" stroke-dasharray="4 3" fill="none"/>')
    for place, kind in enumerate(dict.fromkeys(kind for kind, _, _ in rows)):
        colour = COLOURS[place % len(COLOURS)]
        for _, predicted, measured in (row for row in rows if row[0] == kind):
            parts.append(f'<circle cx="{across(predicted):.1f}" cy="{up(measured):.1f}" r="3" fill="{colour}" fill-opacity="0.6"/>')
        y = TOP + 18 + 17 * place
        parts.append(f'<circle cx="{x0 + 14}" cy="{y - 4}" r="4" fill="{colour}"/>')
        parts.append(text(x0 + 24, y, kind, "start"))
    middle = TOP + SIZE / 2
    parts.append(text(x0 + SIZE / 2, TOP - 14, title, size=15))
    parts.append(text(x0 + SIZE / 2, TOP + SIZE + 42, "predicted KL, nats per token"))
    turn = f'transform="rotate(-90 {x0 - 50} {middle})"'
    parts.append(text(x0 - 50, middle, "measured KL, nats per token", extra=turn))
    return parts


def main():
    *files, out = sys.argv[1:] or [""]
    if not files:
        sys.exit(__doc__)
    width = LEFT + len(files) * SIZE + (len(files) - 1) * GAP + 20
    height = TOP + SIZE + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for place, file in enumerate(files):
        parts += panel(Path(file).stem, read(file), LEFT + place * (SIZE + GAP))
    Path(out).write_text("\n".join([*parts, "</svg>", ""]))


if __name__ == "__main__":
    main()
