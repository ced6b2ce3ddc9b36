"""The tabletop as training data: the right answers, whole and in part, and nothing that is held out."""

from __future__ import annotations

import numpy as np
import pytest

from rsvp_ros.geometry import mask_iou
from rsvp_ros.tabletop.kinds import KINDS, is_held_out_pair
from rsvp_ros.tabletop.splits import Split

pytestmark = pytest.mark.usefixtures("headless_gl")


@pytest.fixture(scope="module")
def view():
    from rsvp_ros.tabletop.world import render_scene

    return next(
        view
        for seed in range(20)
        for view in render_scene(Split.TRAIN, seed, (640, 480), full_masks=False)
        if len(view.things) > 5
    )


def test_a_part_of_a_view_keeps_its_things(view):
    from rsvp_ros.training.tabletop_scenes import to_scene

    whole = to_scene(view, (0, 0, 640, 480), (240, 320))
    assert {t.id for t in whole.things} <= {t.id for t in view.things}
    assert {t.id for t in whole.things + whole.doubtful} == set(np.unique(whole.ids)) - {0}
    for thing in whole.things:
        seen = view.object(thing.id)
        assert thing.color == seen.color and thing.kind in (seen.kind, "block")
        large = np.repeat(np.repeat(whole.mask(thing), 2, 0), 2, 1)
        assert mask_iou(large, view.mask(thing.id)) > 0.7
        assert thing.box.scale(2, 2).iou(seen.box) > 0.7
        assert thing.color in thing.description


def test_what_a_part_cuts_is_not_named(view):
    from rsvp_ros.training.tabletop_scenes import to_scene

    thing = max((t for t in view.things if t.box.x0 > 100), key=lambda t: t.area)
    x = int(thing.box.center[0]) + int(0.25 * thing.box.width)
    left = max(0, x - 480)
    part = to_scene(view, (left, 0, max(x, left + 1), 480), (192, 192))
    assert thing.id in {t.id for t in part.things}, "most of it is there"
    x = int(thing.box.x0 + 0.2 * thing.box.width)
    part = to_scene(view, (max(0, x - 480), 0, x, 480), (192, 192))
    assert thing.id not in {t.id for t in part.things}


def test_prompts_have_the_right_answers_and_nothing_held_out():
    from rsvp_ros.training.prompts import PromptKind
    from rsvp_ros.training.tabletop_scenes import tabletop_scenes

    rng = np.random.default_rng(1)
    kinds, languages = set(), 0
    for size in ((240, 320), (192, 192), (240, 320)):
        scenes = tabletop_scenes(rng, size, 6, 4)
        assert len(scenes) == 4
        for scene, samples in scenes:
            assert scene.image.shape == (*size, 3) and scene.ids.shape == size
            for thing in scene.things:
                kind = "cube" if thing.kind == "block" else thing.kind
                assert not KINDS[kind].held_out and not is_held_out_pair(kind, thing.color)
            for sample in samples:
                kinds.add(sample.kind)
                assert (not sample.targets) == (sample.kind is PromptKind.ABSENT)
                assert {t.id for t in scene.things}.issuperset(sample.targets)
                if sample.kind is PromptKind.INSTRUCTION:
                    languages += not sample.text.isascii()
                    assert sample.box.area == size[0] * size[1]
    assert {PromptKind.INSTRUCTION, PromptKind.ABSENT, PromptKind.WHOLE_TEXT} <= kinds
    assert languages


def test_batches_of_tabletops_follow_from_seed_and_number():
    import torch

    from rsvp_ros.textures import TextureBank
    from rsvp_ros.training.dataset import MixedDataset, Shares

    one, two = (
        MixedDataset(3, ((192, 256),), 2, 4, TextureBank(np.random.default_rng(0), 4), Shares(tabletop=1.0))[7]
        for _ in range(2)
    )
    assert torch.equal(one.images, two.images) and torch.equal(one.masks, two.masks) and one.texts == two.texts
    whole = [box == [0, 0, 256, 192] for box in one.boxes.tolist()]
    assert one.exhaustive.tolist() == [w and bool(text) for w, text in zip(whole, one.texts, strict=True)]
    assert 0 < one.exhaustive.sum() < len(whole)
    assert (one.masks[~one.present] == 0).all() and (one.masks[one.present].flatten(1).sum(1) > 0).all()
