"""Masks at full resolution."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsvp_ros.segmentation.refinement import refine

GRID = 64


def gear(side: int) -> np.ndarray:
    """A shape with notches of a few cells: bool side x side."""
    y, x = (np.indices((side, side)) + 0.5) / side - 0.5
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    return radius < 0.33 + 0.05 * np.sign(np.sin(12 * angle))


def on_grid(mask: np.ndarray) -> np.ndarray:
    """Logits as a network that is right, and no surer than its cells allow, would give them."""
    return 6 * cv2.resize(mask.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA) - 3


def bilinear(logits: np.ndarray, side: int) -> np.ndarray:
    return cv2.resize(logits, (side, side), interpolation=cv2.INTER_LINEAR)


@pytest.mark.parametrize("side", [160, 320, 480, 640])
@pytest.mark.parametrize("contrast", [25, 90, -60])
def test_an_outline_is_put_where_the_image_has_it(side, contrast):
    """Far fewer pixels are wrong than on the grid alone: with sides of 2.5 to 10 pixels a cell."""
    mask = gear(side)
    noise = np.random.default_rng(0).normal(0, 4, (side, side, 3))
    image = np.clip(120 + contrast * mask[..., None] + noise, 0, 255).astype(np.uint8)
    logits = cv2.GaussianBlur(on_grid(mask), (3, 3), 0)
    before, after = ((fine > 0) != mask for fine in (bilinear(logits, side), refine(logits, image)))
    assert after.sum() < 0.7 * before.sum(), (before.sum(), after.sum())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_what_is_sure_stays_whatever_the_image_shows(seed):
    rng = np.random.default_rng(seed)
    height, width = (int(v) for v in rng.integers(1, 400, 2))
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    for sign in (-1.0, 1.0):
        fine = refine(np.full((GRID, GRID), sign * rng.uniform(1, 30), np.float32), image)
        assert fine.shape == (height, width) and fine.dtype == np.float32
        assert (np.sign(fine) == sign).all()


def test_where_the_image_shows_no_outline_the_grid_s_stays():
    side = 320
    mask = gear(side)
    logits = on_grid(mask)
    fine = refine(logits, np.full((side, side, 3), 127, np.uint8))
    assert ((fine > 0) != (bilinear(logits, side) > 0)).mean() < 0.01
