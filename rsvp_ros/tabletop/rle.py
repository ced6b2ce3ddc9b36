"""COCO's run-length encoding of masks: the lengths of a mask's runs, column by column. numpy only."""

from __future__ import annotations

import numpy as np


def run_lengths(mask: np.ndarray) -> np.ndarray:
    """Lengths of the runs of a bool mask H x W, columns one after the other; the first run is of False and may be 0."""
    flat = np.asarray(mask, bool).ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(np.concatenate(([0], edges, [flat.size])))
    return np.concatenate(([0], lengths)) if flat.size and flat[0] else lengths


def encode(mask: np.ndarray) -> dict:
    """A bool mask H x W as COCO's `segmentation`: {"size": [H, W], "counts": compressed text}.

    From the fourth on, a count is written as its difference from the one two before it. Each number is split into
    groups of five bits, the lowest first, with a sixth bit set if more follow, written as characters from "0" on.
    """
    counts = run_lengths(mask).tolist()
    text = []
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        while True:
            bits, value = value & 0x1F, value >> 5
            # The top bit of the last group is the sign, as in two's complement.
            done = value == (-1 if bits & 0x10 else 0)
            text.append(chr(48 + (bits if done else bits | 0x20)))
            if done:
                break
    return {"size": list(mask.shape), "counts": "".join(text)}


def decode(segmentation: dict) -> np.ndarray:
    """The bool mask H x W of a `segmentation` whose counts are compressed text or a list of run lengths.

    Raises ValueError if the counts do not fill the mask.
    """
    height, width = segmentation["size"]
    counts = segmentation["counts"]
    if isinstance(counts, str):
        counts = _counts(counts)
    if min(counts, default=0) < 0 or sum(counts) != height * width:
        raise ValueError(f"the run lengths do not fill a mask of {height} x {width} pixels")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(height, width, order="F")


def _counts(text: str) -> list[int]:
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        value |= (code & 0x1F) << shift
        shift += 5
        if not code & 0x20:
            if code & 0x10:
                value -= 1 << shift
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = shift = 0
    return counts
