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
from rsvp_ros.training.config import TrainConfig
from rsvp_ros.training.cutouts import MARGIN, SIDE, posed, read_cutouts
from rsvp_ros.training.dataset import Shares
from rsvp_ros.training.drawn_scenes import _Canvas, dead_leaves
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
    write(tmp_path / "large.PNG", disc(600, 290))
    write(tmp_path / "opaque.png", np.full((30, 30, 4), 255, np.uint8))
    write(tmp_path / "speck.png", disc(300, 4))
    cv2.imwrite(str(tmp_path / "photograph.png"), np.zeros((30, 30, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "sixteen_bits.png"), cv2.cvtColor(disc(), cv2.COLOR_RGBA2BGRA).astype(np.uint16) * 257)
    (tmp_path / "torn.png").write_bytes(b"torn")
    orange, large, sixteen = read_cutouts([str(tmp_path)])
    assert orange.shape == (25, 25, 4)
    assert orange[12, 12].tolist() == [*ORANGE, 255] and orange[0, 0, 3] == 0
    assert large.shape == (SIDE, SIDE, 4)
    assert np.array_equal(sixteen, orange)


@pytest.mark.parametrize("radius", [6, 12, 30])
def test_what_is_behind_a_cutout_does_not_leak_in(radius, tmp_path):
    write(tmp_path / "orange.png", disc())
    (orange,) = read_cutouts([str(tmp_path)])
    for seed in range(12):
        piece = posed(np.random.default_rng(seed), orange, radius)
        seen = piece[piece[..., 3] > 100, :3].astype(int)
        assert np.ptp(seen, 0).max() <= 3, seed
        edges = np.concatenate((piece[0], piece[-1], piece[:, 0], piece[:, -1]))
        assert edges[:, 3].max() < 128, "soft edges need room"


@pytest.mark.parametrize("folder", ["nowhere", "photographs"])
def test_a_folder_without_cutouts_is_refused(folder, tmp_path):
    write(tmp_path / "cutouts" / "orange.png", disc())
    (tmp_path / "photographs").mkdir()
    cv2.imwrite(str(tmp_path / "photographs" / "a.png"), np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(ConfigurationError, match=rf"`cutouts` .*{folder} holds no PNG picture .*transparent"):
        read_cutouts([str(tmp_path / "cutouts"), str(tmp_path / folder)])
    assert read_cutouts([]) == ()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 30), st.floats(1, 200), st.sampled_from([(60, 60), (12, 90), (90, 12), (12, 12)]))
def test_a_posed_cutout_has_the_size_and_is_whole(seed, radius, size):
    cutout = np.dstack((np.full((*size, 3), 128, np.uint8), np.full(size, 255, np.uint8)))
    piece = posed(np.random.default_rng(seed), cutout, radius)
    assert piece.dtype == np.uint8 and piece.shape[2] == 4
    longest = 2 * radius * 1.25 * np.sqrt(2) + 2 * MARGIN + 4
    assert max(piece.shape[:2]) <= longest
    if min(size) == 60 and radius > 20:
        assert np.count_nonzero(piece[..., 3] > 127) > 0.6 * (2 * radius) ** 2


@pytest.mark.parametrize("x", [-30, -8, 0, 25, 52, 90])
@pytest.mark.parametrize("y", [-30, -7, 20, 36, 80])
def test_a_piece_is_pasted_as_far_as_it_lies_in_the_image(x, y):
    """Its middle at (x, y): the same as cut from a paste into a larger image."""
    piece, size, border = disc(21, 9), (40, 60), 60
    canvas = _Canvas(np.zeros((*size, 3), np.uint8))
    canvas.paste(piece, np.array((x, y)), 7)
    wide = _Canvas(np.zeros((size[0] + 2 * border, size[1] + 2 * border, 3), np.uint8))
    wide.paste(piece, np.array((x + border, y + border)), 7)
    inside = np.s_[border : border + size[0], border : border + size[1]]
    assert np.count_nonzero(wide.ids == 7) == np.count_nonzero(piece[..., 3] > 127)
    assert np.array_equal(canvas.ids, wide.ids[inside]) and np.array_equal(canvas.image, wide.image[inside])
    assert (canvas.image[canvas.ids == 7] == ORANGE).all() and not canvas.image[canvas.ids == 0].any()


def test_cutouts_lie_among_the_leaves_where_the_ids_say():
    """A disc more vivid than all else: it is round, where nothing lies on it."""
    bank = TextureBank(np.random.default_rng(0), 4)
    found = whole = 0
    for seed in range(6):
        scene = dead_leaves(np.random.default_rng(seed), bank, 96, 128, (disc(60, 29),))
        for thing in scene.things:
            mask = scene.mask(thing)
            if np.ptp(np.median(scene.image[mask], 0)) > 120:
                found += 1
                radius = cv2.minEnclosingCircle(np.argwhere(mask)[:, ::-1].astype(np.float32))[1]
                whole += np.count_nonzero(mask) > 0.5 * np.pi * radius**2
    assert found >= 6 and whole >= 0.5 * found, (found, whole)


def test_a_training_takes_the_folders_that_are_configured(tmp_path, monkeypatch):
    write(tmp_path / "cutouts" / "orange.png", disc())
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "training.yaml"
    file.write_text("cutouts: [~/cutouts]\n")
    folders = TrainConfig.from_file(file, out="o").cutouts
    assert len(Trainer(small_config(tmp_path / "out", cutouts=folders)).dataset.cutouts) == 1
    file.write_text("cutouts: ~/cutouts\n")
    with pytest.raises(ConfigurationError, match=r"`?cutouts`? .*list"):
        TrainConfig.from_file(file, out="o")
    with pytest.raises(ConfigurationError, match="`cutouts` is for the dead leaves, and `shares` leave none"):
        TrainConfig("o", cutouts=folders, shares=Shares(0.6, 0.4))
    with pytest.raises(ConfigurationError, match="`cutouts` .*none"):
        Trainer(small_config(tmp_path / "out", cutouts=(str(tmp_path / "none"),)))
