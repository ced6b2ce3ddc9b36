"""`rsvp evaluate images` and `drawn`: the segmenter on masks of one's own, and on drawn scenes."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest

from rsvp_ros.cli import main
from rsvp_ros.evaluation.segmentation import Measure, read_masked_images, report
from rsvp_ros.training.prompts import PromptKind


@pytest.fixture
def discs(tmp_path):
    """Two images with a disc each, and their masks as DAVIS has them."""
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    y, x = np.mgrid[:240, :320]
    for name, (cx, cy, radius) in {"a": (150, 110, 60), "b": (80, 150, 45)}.items():
        mask = np.hypot(x - cx, y - cy) < radius
        image = np.where(mask[..., None], (40, 40, 200), (120, 125, 120)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"{name}.jpg"), image)
        cv2.imwrite(str(tmp_path / "masks" / f"{name}.png"), mask.astype(np.uint8))
    return tmp_path


def figures(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d\.\d{3}", text)]


def test_images_with_masks(discs, capsys):
    assert main(["evaluate", "images", str(discs), "--repeats", "3"]) == 0
    printed = capsys.readouterr().out
    ours, boxes = figures(printed)
    assert "of 6 masks" in printed and "embedded" in printed
    assert 0.5 < boxes < 0.85 < ours + 0.1, "a disc fills pi/4 of its box"
    assert ours > boxes


def test_boxes_follow_from_the_seed(discs, capsys):
    printed = []
    for seed in ("1", "1", "2"):
        assert main(["evaluate", "images", str(discs), "--repeats", "1", "--seed", seed]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != printed[2]


def test_boxes_that_are_not_moved(discs, capsys):
    assert main(["evaluate", "images", str(discs), "--repeats", "1", "--jitter", "0", "0"]) == 0
    _, boxes = figures(capsys.readouterr().out)
    assert boxes == pytest.approx(np.pi / 4, abs=0.02)


@pytest.mark.parametrize("shares", [("0.9", "0.1"), ("-0.1", "0.1"), ("0", "nan"), ("0", "inf")])
def test_shares_that_are_not_a_range_are_refused(discs, capsys, shares):
    assert main(["evaluate", "images", str(discs), "--jitter", *shares]) == 2
    assert f"--jitter {' '.join(shares)}: give LEAST MOST" in capsys.readouterr().err


def test_a_folder_without_masks_is_named(tmp_path, capsys):
    assert main(["evaluate", "images", str(tmp_path)]) == 2
    assert f"{tmp_path} holds no masks" in capsys.readouterr().err


def test_a_mask_without_its_image_is_named(discs, capsys):
    (discs / "images" / "b.jpg").unlink()
    assert main(["evaluate", "images", str(discs)]) == 2
    assert "b.png has no image" in capsys.readouterr().err


def test_a_mask_that_lacks_a_pixel_column_is_taken(discs):
    """As DAVIS's of videos of odd widths do."""
    path = str(discs / "masks" / "a.png")
    cv2.imwrite(path, cv2.imread(path, cv2.IMREAD_UNCHANGED)[:, :-1])
    (image, (mask,)), _ = read_masked_images(discs)
    assert mask.shape == image.shape[:2] and mask.sum() > 10_000


def test_masks_of_sixteen_bits(discs):
    """The numbers of objects are not cut to eight."""
    mask = cv2.imread(str(discs / "masks" / "a.png"), cv2.IMREAD_UNCHANGED).astype(np.uint16)
    mask[mask > 0] = 256
    mask[:5, :5] = 512 + 1
    cv2.imwrite(str(discs / "masks" / "a.png"), mask)
    (_, masks), _ = read_masked_images(discs)
    assert [np.count_nonzero(m) for m in masks] == [np.count_nonzero(mask == 256), 25]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: cv2.imwrite(str(path), np.zeros((240, 320, 3), np.uint8)), "several channels"),
        (lambda path: path.write_bytes(path.read_bytes()[:60]), "is damaged"),
        (lambda path: path.write_bytes(b"no PNG"), "is damaged"),
        (
            lambda path: cv2.imwrite(str(path), np.zeros((120, 160), np.uint8)),
            "has 160 x 120 pixels, its image 320 x 240",
        ),
    ],
)
def test_a_mask_that_cannot_be_used_is_named(discs, capsys, damage, words):
    damage(discs / "masks" / "b.png")
    assert main(["evaluate", "images", str(discs), "--repeats", "1"]) == 2
    error = capsys.readouterr().err
    assert "b.png" in error and words in error


def test_drawn_scenes(capsys):
    changed = ["--set", "tracker.min_presence=0.25"]
    assert main(["evaluate", "drawn", "--count", "6", "--seed", "5", *changed]) == 0
    printed = capsys.readouterr().out
    assert "absent descriptions refused at 0.25," in printed, "as the tracker does"
    assert "| box, dead leaves |" in printed and "| whole image + text |" in printed
    found = figures(printed)
    assert len(found) >= 6 and all(0 <= figure <= 1 for figure in found)
    (box,) = figures(next(line for line in printed.splitlines() if line.startswith("| box, dead leaves |")))[:1]
    assert box > 0.5


@pytest.mark.parametrize(("threshold", "refused", "lost"), [(0.3, 0.5, 0.0), (0.5, 1.0, 0.25)])
def test_presence_is_judged_at_the_threshold_that_is_given(threshold, refused, lost):
    measures = {
        PromptKind.ABSENT.value: Measure(presences=[0.1, 0.4]),
        PromptKind.WHOLE_TEXT.value: Measure([1.0] * 4, [True] * 4, [0.4, 0.6, 0.8, 0.9]),
    }
    said = report(measures, threshold).splitlines()[-1]
    assert said.startswith(f"Presence: {refused:.3f} of 2 absent descriptions refused at {threshold}, {lost:.3f} of 4 ")
