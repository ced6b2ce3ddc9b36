"""The tabletop as training data: the right answers, whole and in part, and nothing that is held out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hand_made_view import make_view

from rsvp_ros.geometry import Box, mask_iou
from rsvp_ros.tabletop.descriptions import has_color
from rsvp_ros.tabletop.kinds import COLORS, KINDS, PAINTED, is_held_out_pair
from rsvp_ros.tabletop.splits import Split
from rsvp_ros.tabletop.view_files import ViewFiles, read_view, write_view
from rsvp_ros.textures import TextureBank
from rsvp_ros.training.dataset import MixedDataset, Shares, collate
from rsvp_ros.training.prompts import PromptKind, Sample
from rsvp_ros.training.repainting import other_color
from rsvp_ros.training.tabletop_scenes import repainted, tabletop_scenes, to_scene

rendered = pytest.mark.usefixtures("headless_gl")


@pytest.fixture(scope="module")
def view(headless_gl):
    from rsvp_ros.tabletop.world import render_scene

    return next(
        view
        for seed in range(20)
        for view in render_scene(Split.TRAIN, seed, (640, 480), full_masks=False)
        if len(view.things) > 5
    )


# --- scenes


def test_a_whole_view_keeps_its_things(view):
    whole = to_scene(view, (0, 0, 640, 480))
    assert np.array_equal(whole.image, view.image) and np.array_equal(whole.ids, view.ids)
    assert {t.id for t in whole.things} <= {t.id for t in view.things}
    assert len(whole.things) > 3
    assert {t.id for t in whole.things + whole.doubtful} == set(np.unique(whole.ids)) - {0}
    for thing in whole.things:
        seen = view.object(thing.id)
        assert thing.color == seen.color and thing.kind in (seen.kind, "block")
        assert thing.area == seen.area and thing.box == seen.box
        assert np.array_equal(whole.mask(thing), view.mask(thing.id))
        assert thing.color in thing.description
        assert len(thing.foreign) == 3 and len(set(thing.foreign)) == 3
        called = {color for color in COLORS if has_color(seen, color) is not False}
        assert called | {thing.color} == {thing.color, *thing.perhaps}


def test_a_part_of_a_view_is_cut_where_it_says(view):
    thing = max(view.things, key=lambda t: t.area)
    x0, y0 = max(int(thing.box.x0) - 20, 0), max(int(thing.box.y0) - 10, 0)
    part = to_scene(view, (x0, y0, 640, 480))
    assert part.ids.shape == part.image.shape[:2] == (480 - y0, 640 - x0)
    (found,) = (t for t in part.things if t.id == thing.id)
    assert found.box.translate(x0, y0) == thing.box


def test_what_a_part_cuts_is_not_named(view):
    thing = max((t for t in view.things if t.box.x0 > 100), key=lambda t: t.area)
    columns = np.cumsum(np.count_nonzero(view.mask(thing.id), axis=0)) / thing.area
    for share, is_named in ((0.8, True), (0.3, False)):
        x = int(np.searchsorted(columns, share)) + 1
        part = to_scene(view, (0, 0, x, 480))
        assert (thing.id in {t.id for t in part.things}) is is_named
        assert (thing.id in {t.id for t in part.doubtful}) is not is_named


# --- prompts


@rendered
def test_prompts_have_the_right_answers_and_nothing_held_out(monkeypatch):
    monkeypatch.setattr("rsvp_ros.training.tabletop_scenes.INSTRUCTION_SHARE", 0.25)
    rng = np.random.default_rng(1)
    kinds, languages, resolutions = set(), 0, set()
    for size in ((240, 320), (192, 192), (240, 320)):
        scenes = tabletop_scenes(rng, size, 6, 4)
        assert len(scenes) == 4
        for scene, samples in scenes:
            height, width = scene.ids.shape
            assert scene.image.shape == (height, width, 3)
            assert width / height == pytest.approx(size[1] / size[0], rel=0.02)
            resolutions.add(height)
            for thing in scene.things:
                kind = "cube" if thing.kind == "block" else thing.kind
                assert not KINDS[kind].held_out and not is_held_out_pair(kind, thing.color)
            for sample in samples:
                kinds.add(sample.kind)
                assert (not sample.targets) == (sample.kind is PromptKind.ABSENT)
                assert {t.id for t in scene.things}.issuperset(sample.targets)
                assert Box(0, 0, width, height).intersection(sample.box) == pytest.approx(sample.box.area)
                if sample.kind is PromptKind.INSTRUCTION:
                    languages += not sample.text.isascii()
                    assert sample.box.area == width * height
    assert {PromptKind.ABSENT, PromptKind.WHOLE_TEXT} <= kinds
    assert languages > 0
    assert min(resolutions) <= 240 < max(resolutions), "both as the network sees them and sharper"


def test_some_tabletops_get_another_ground(tmp_path, monkeypatch):
    """The things on it stay as they are; so does all where none is to get one."""
    files = ViewFiles.among(tmp_path, "train_000000")
    write_view(files, make_view(320, 240), (), {"split": "train", "seed": 0})
    view, _ = read_view(files.record)

    def image(share: float) -> np.ndarray:
        monkeypatch.setattr("rsvp_ros.training.tabletop_scenes.RESURFACED_SHARE", share)
        monkeypatch.setattr("rsvp_ros.training.tabletop_scenes.REPAINTED_SHARE", 0.0)
        monkeypatch.setattr("rsvp_ros.training.tabletop_scenes.WHOLE_SHARE", 1.0)
        ((scene, _),) = tabletop_scenes(np.random.default_rng(5), (240, 320), 6, 1, [str(files.record)])
        assert np.array_equal(scene.ids, view.ids)
        return scene.image

    assert np.array_equal(image(0.0), view.image)
    other, ground = image(1.0), view.ids == 0
    assert np.array_equal(other[~ground], view.image[~ground])
    assert np.abs(other[ground].astype(int) - view.image[ground]).mean() > 10


def test_some_things_get_another_colour_and_its_name(view, monkeypatch):
    monkeypatch.setattr("rsvp_ros.training.tabletop_scenes.REPAINTED_SHARE", 1.0)
    other = repainted(view, np.random.default_rng(0))
    assert np.array_equal(other.ids, view.ids)
    painted = [(before, after) for before, after in zip(view.objects, other.objects, strict=True) if before != after]
    assert len(painted) > 2
    same = np.isin(view.ids, [before.id for before, _ in painted], invert=True)
    assert np.array_equal(other.image[same], view.image[same])
    described = {thing.id: thing for thing in to_scene(other, (0, 0, 640, 480)).things}
    for before, after in painted:
        assert before.kind == after.kind and before.color != after.color
        assert not is_held_out_pair(after.kind, after.color)
        assert not np.array_equal(other.image[view.mask(before.id)], view.image[view.mask(before.id)])
        if thing := described.get(after.id):
            assert thing.color == after.color and after.color in thing.description
            assert before.color not in (thing.color, *thing.description.split())

    monkeypatch.setattr("rsvp_ros.training.tabletop_scenes.REPAINTED_SHARE", 0.0)
    assert repainted(view, np.random.default_rng(0)).objects == view.objects


def test_a_thing_with_a_pattern_keeps_it():
    rng = np.random.default_rng(0)
    given = {pattern: {other_color(rng, "bowl", "red", pattern) for _ in range(300)} for pattern in ("plain", "dotted")}
    assert given["plain"] - given["dotted"] == {"white", "black", "gray"}, "the colours of the dots themselves"
    assert not any(is_held_out_pair("bowl", color) for color in given["plain"])
    assert other_color(rng, "cup", "red", "dotted", kept=set(PAINTED) - {"blue"}) == "blue"


@rendered
def test_instructions_are_among_the_prompts(monkeypatch):
    monkeypatch.setattr("rsvp_ros.training.tabletop_scenes.INSTRUCTION_SHARE", 0.7)
    scenes = tabletop_scenes(np.random.default_rng(1), (240, 320), 6, 6)
    said = [sample for _, samples in scenes for sample in samples if sample.kind is PromptKind.INSTRUCTION]
    assert len(said) > 3 and any(not sample.text.isascii() for sample in said)


# --- batches


def rendered_batch(sizes=((192, 256),), seed: int = 3, number: int = 7, records=()):
    bank = TextureBank(np.random.default_rng(0), 4)
    return MixedDataset(seed, sizes, 2, 4, bank, Shares(1.0, 0.0), 32, records)[number]


@rendered
def test_batches_of_tabletops_follow_from_seed_and_number():
    one, two = rendered_batch(), rendered_batch()
    assert torch.equal(one.images, two.images) and torch.equal(one.masks, two.masks) and one.texts == two.texts
    assert torch.equal(one.pixels, two.pixels) and torch.equal(one.regions, two.regions)
    whole = [box == [0, 0, 256, 192] for box in one.boxes.tolist()]
    assert one.exhaustive.tolist() == [
        w and bool(text) and judged for w, text, judged in zip(whole, one.texts, one.judged.tolist(), strict=True)
    ]
    assert 0 < one.exhaustive.sum() < len(whole)


def test_masks_lie_over_their_regions():
    """Of a scene with twice the network's resolution: as sharp as the scene, at the place in the network's input."""
    scene = to_scene(make_view(384, 256), (0, 0, 384, 256))
    mug = next(t for t in scene.things if t.kind == "mug")
    samples = [Sample(PromptKind.BOX, mug.box, "", (mug.id,)), Sample(PromptKind.ABSENT, mug.box, "the red key", ())]
    batch = collate(np.random.default_rng(0), [(scene, samples)], (128, 192), 64)
    assert batch.images.shape == (1, 3, 128, 192) and batch.pixels.shape == (2, 3, 64, 64)
    assert batch.boxes[0].tolist() == pytest.approx(mug.box.scale(0.5, 0.5).as_tuple())
    assert batch.present.tolist() == [True, False] and batch.masks[1].sum() == 0
    x0, y0, x1, y1 = batch.regions[0].tolist()
    xs = (x0 + (np.arange(64) + 0.5) / 64 * (x1 - x0)) * 2
    ys = (y0 + (np.arange(64) + 0.5) / 64 * (y1 - y0)) * 2
    there = np.ix_(ys.astype(int), xs.astype(int))
    assert mask_iou(batch.masks[0].numpy() > 0.5, scene.mask(mug)[there]) > 0.95
    assert np.abs(batch.pixels[0].permute(1, 2, 0).numpy() - scene.image[there].astype(float)).mean() < 6
    cells = batch.cells[0].repeat_interleave(16, 0).repeat_interleave(16, 1).numpy() > 0.5
    assert mask_iou(cells, scene.mask(mug)) > 0.7


def test_exported_scenes_are_used_where_they_are_given(tmp_path):
    """Without a renderer: it is not even there in this test."""
    files = ViewFiles.among(tmp_path, "train_000000")
    view = make_view(320, 240)
    write_view(files, view, (), {"split": "train", "seed": 0})
    batch = rendered_batch(((240, 320),), records=(str(files.record),))
    again = rendered_batch(((240, 320),), records=(str(files.record),))
    assert torch.equal(batch.images, again.images) and batch.texts == again.texts
    assert batch.images.shape == (2, 3, 240, 320)
    colors = view.image.reshape(-1, 3).mean(0)
    assert np.abs(batch.images.float().mean((0, 2, 3)).numpy() - colors).max() < 25
    assert any("mug" in text or "can" in text for text in batch.texts + batch.vocabulary)
