"""Photographed things without their background: read, posed, and among the dead leaves."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_training import small_config

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.textures import TextureBank
from rsvp_ros.training.cutouts import SIDE, posed, read_cutouts
from rsvp_ros.training.drawn_scenes import dead_leaves
from rsvp_ros.training.trainer import Trainer

ORANGE = (240, 120, 10)


def disc(side: int = 40, radius: int = 12, behind: int = 255) -> np.ndarray:
    """An orange disc, red, green, blue and alpha; what is transparent is white, as much software leaves it."""
    rgba = np.full((side, side, 4), behind, np.uint8)
    rgba[..., 3] = 0
    cv2.circle(rgba, (side // 2, side // 2), radius, (*ORANGE, 255), -1)
    return rgba


def write(path: Path, rgba: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA))


def test_cutouts_are_read_as_large_as_their_things(tmp_path):
    write(tmp_path / "fruit" / "orange.png", disc())
    write(tmp_path / "large.png", disc(600, 290))
    write(tmp_path / "opaque.png", np.full((9, 9, 4), 255, np.uint8))
    write(tmp_path / "empty.png", np.zeros((9, 9, 4), np.uint8))
    cv2.imwrite(str(tmp_path / "photograph.png"), np.zeros((9, 9, 3), np.uint8))
    (tmp_path / "torn.png").write_bytes(b"torn")
    orange, large = read_cutouts([str(tmp_path)])
    assert orange.shape == (25, 25, 4)
    assert orange[12, 12].tolist() == [*ORANGE, 255] and orange[0, 0, 3] == 0
    assert large.shape == (SIDE, SIDE, 4)
    for pixels in (large, posed(np.random.default_rng(0), orange, 30)):
        seen = pixels[pixels[..., 3] > 100, :3].astype(int)
        assert np.ptp(seen, 0).max() <= 3, "what was behind it has leaked in"


@pytest.mark.parametrize("folder", ["nowhere", "photographs"])
def test_a_folder_without_cutouts_is_refused(folder, tmp_path):
    write(tmp_path / "cutouts" / "orange.png", disc())
    (tmp_path / "photographs").mkdir()
    cv2.imwrite(str(tmp_path / "photographs" / "a.png"), np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(ConfigurationError, match=rf"`cutouts` .*{folder} holds no PNG picture .*transparent"):
        read_cutouts([str(tmp_path / "cutouts"), str(tmp_path / folder)])
    assert read_cutouts([]) == ()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 30), st.floats(1, 200), st.sampled_from([(60, 60), (3, 90), (90, 2), (2, 2)]))
def test_a_posed_cutout_has_the_size_and_is_whole(seed, radius, size):
    cutout = np.dstack((np.full((*size, 3), 128, np.uint8), np.full(size, 255, np.uint8)))
    piece = posed(np.random.default_rng(seed), cutout, radius)
    assert piece.dtype == np.uint8 and piece.shape[2] == 4
    longest = 2 * radius * 1.25 * np.sqrt(2) + 4
    assert max(piece.shape[:2]) <= longest
    if min(size) == 60 and radius > 20:
        assert np.count_nonzero(piece[..., 3] > 127) > 0.6 * (2 * radius) ** 2


def test_cutouts_lie_among_the_leaves_where_the_ids_say():
    """A disc of a colour that nothing else has: where its pixels are, its id is, but for what lies on it."""
    bank = TextureBank(np.random.default_rng(0), 4)
    cutout = disc(60, 29)
    grown = shown = 0
    for seed in range(6):
        plain, scene = (dead_leaves(np.random.default_rng(seed), bank, 96, 128, c) for c in ((), (cutout,)))
        assert scene.things and not np.array_equal(plain.image, scene.image)
        for thing in scene.things:
            mask = scene.mask(thing)
            inside = np.median(scene.image[mask], 0)
            if np.ptp(inside) > 120:  # only the disc is as vivid, also in other light
                shown += 1
                outline = cv2.minEnclosingCircle(np.argwhere(mask)[:, ::-1].astype(np.float32))[1]
                grown += np.count_nonzero(mask) > 0.5 * np.pi * outline**2
    assert shown >= 6 and grown >= 0.5 * shown, (shown, grown)
    with_none = dead_leaves(np.random.default_rng(1), bank, 96, 128, ())
    assert np.array_equal(with_none.image, dead_leaves(np.random.default_rng(1), bank, 96, 128).image)


def test_a_training_takes_the_folders_that_are_configured(tmp_path):
    write(tmp_path / "cutouts" / "orange.png", disc())
    config = small_config(tmp_path / "out", cutouts=(str(tmp_path / "cutouts"),))
    assert len(Trainer(config).dataset.cutouts) == 1
    with pytest.raises(ConfigurationError, match="`cutouts` .*none"):
        Trainer(small_config(tmp_path / "out", cutouts=(str(tmp_path / "none"),)))
