"""The images that the project draws itself: exact, named, repeatable."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from rsvp_ros.geometry import Box, mask_to_box
from rsvp_ros.tabletop.kinds import is_held_out_pair
from rsvp_ros.textures import TextureBank
from rsvp_ros.training.dataset import collate
from rsvp_ros.training.drawn_scenes import (
    COLORS,
    KINDS,
    Scene,
    Thing,
    dead_leaves,
    household_scene,
    is_held_out,
    sample_color,
)
from rsvp_ros.training.prompts import PromptKind, leaf_prompts, sample_prompts
from rsvp_ros.training.tabletop_scenes import TABLETOP
from rsvp_ros.training.texts import (
    CHINESE_NOUNS,
    CONFUSED_TIMES,
    NOUNS,
    SHADES,
    UNNAMED_NOUNS,
    colors_said,
    confused_pairs,
    description,
    is_never_shown,
    lookalikes,
    related,
    unknown_text,
)


@pytest.fixture(scope="module")
def bank() -> TextureBank:
    return TextureBank(np.random.default_rng(0), 12)


@pytest.mark.parametrize("draw", [household_scene, dead_leaves])
def test_a_scene_follows_from_its_generator(draw, bank):
    one, two, other = (draw(np.random.default_rng(seed), bank, 96, 128) for seed in (1, 1, 2))
    assert np.array_equal(one.image, two.image) and np.array_equal(one.ids, two.ids) and one.things == two.things
    assert not np.array_equal(one.image, other.image)


@pytest.mark.parametrize("draw", [household_scene, dead_leaves])
def test_things_are_where_the_scene_says(draw, bank):
    for seed in range(12):
        scene = draw(np.random.default_rng(seed), bank, 128, 96)
        assert scene.image.shape == (128, 96, 3) and scene.image.dtype == np.uint8
        assert scene.ids.shape == (128, 96)
        for thing in scene.things:
            mask = scene.mask(thing)
            assert mask_to_box(mask) == thing.box
            assert np.count_nonzero(mask) == thing.area


def test_every_kind_and_color_is_drawn_in_its_color(bank):
    """Pixels of a thing are nearest to its own colour more often than to any other (parts have other colours)."""
    hits: dict[str, list[bool]] = {name: [] for name in COLORS}
    kinds = set()
    rng = np.random.default_rng(3)
    centers = {name: np.mean([sample_color(rng, name) for _ in range(40)], 0) for name in COLORS}
    for seed in range(150):
        scene = household_scene(np.random.default_rng(seed), bank, 128, 128)
        for thing in scene.things:
            kinds.add(thing.kind)
            median = np.median(scene.image[scene.mask(thing)], 0)
            nearest = sorted(centers, key=lambda name, m=median: float(np.linalg.norm(centers[name] - m)))
            hits[thing.color].append(thing.color in nearest[:3])
    assert kinds == set(KINDS)
    assert all(len(found) > 10 and np.mean(found) > 0.6 for found in hits.values()), hits


def test_held_out_pairs_are_never_drawn_in_training(bank):
    held_out = [(k, c) for k in KINDS for c in COLORS if is_held_out(k, c)]
    assert 5 < len(held_out) < 40
    seen = [
        is_held_out(t.kind, t.color)
        for seed in range(80)
        for t in household_scene(np.random.default_rng(seed), bank, 96, 96).things
    ]
    assert not any(seen)
    allowed = [
        is_held_out(t.kind, t.color)
        for seed in range(80)
        for t in household_scene(np.random.default_rng(seed), bank, 96, 96, held_out_pairs=True).things
    ]
    assert any(allowed)


def test_a_description_fits_the_target_alone(bank):
    rng = np.random.default_rng(5)
    checked = 0
    for seed in range(60):
        things = household_scene(np.random.default_rng(seed), bank, 128, 128).things
        for target in things:
            others = [t for t in things if t is not target]
            text = description(rng, target, others)
            rivals = [t for t in others if t.kind == target.kind and target.color in colors_said(t)]
            assert (text is None) == bool(rivals)
            if text is None:
                continue
            checked += 1
            says_kind = any(name in text for name in (*NOUNS[target.kind], CHINESE_NOUNS[target.kind]))
            says_color = any(name in text for name in COLORS[target.color][3])
            assert says_kind or says_color
            if not says_color:
                assert all(t.kind != target.kind for t in others)
            if not says_kind:
                assert all(target.color not in colors_said(t) for t in others)
    assert checked > 200


@pytest.mark.parametrize(
    ("offset", "places"),
    [
        ((-60, 10), ("left of", "to the left of")),
        ((60, -10), ("right of", "to the right of")),
        ((-10, -60), ("behind",)),
        ((10, 60), ("in front of",)),
        ((50, 50), ()),
    ],
)
def test_a_place_beside_another_thing_is_where_the_camera_sees_it(offset, places):
    """Beside what is called otherwise alone: not beside its twin, nor what has no name."""

    def thing(id_: int, kind: str, color: str, x: float, y: float) -> Thing:
        return Thing(id_, kind, color, Box(100 + x, 100 + y, 120 + x, 120 + y), 400)

    mug = thing(1, "mug", "red", *offset)
    others = [thing(2, "plate", "white", 0, 0), thing(3, "mug", "red", 90, 90), thing(4, "", "", -90, -90)]
    rng = np.random.default_rng(0)
    said = {related(rng, "mug, red", mug, others) for _ in range(200)}
    plate = ("plate", "dish", "white plate", "white dish")
    assert said == ({f"mug, red, {place} the {name}" for place in places for name in plate} or {"mug, red"})
    assert related(rng, "mug, red", mug, others[1:]) == "mug, red"


def test_prompts_of_every_kind_with_the_right_answers(bank):
    seen, forms = set(), set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        scene = household_scene(rng, bank, 128, 128)
        for sample in sample_prompts(rng, scene, 8):
            seen.add(sample.kind)
            assert 0 <= sample.box.x0 <= sample.box.x1 <= 128 and 0 <= sample.box.y0 <= sample.box.y1 <= 128
            assert (not sample.targets) == (sample.kind is PromptKind.ABSENT)
            assert bool(sample.text) or sample.kind in (PromptKind.BOX, PromptKind.SHIFTED)
            if sample.kind is PromptKind.BOX:
                thing = next(t for t in scene.things if (t.id,) == sample.targets)
                assert sample.box.iou(thing.box) > 0.3
            if sample.kind is PromptKind.ABSENT:  # nothing in the region has all that is said
                inside = [t for t in scene.things if t.box.intersection(sample.box) > 0.15 * t.box.area]
                text = re.sub(r", (?:(?:to the )?(?:left|right) of|behind|in front of) the .*", "", sample.text)
                says_kind = any(_names(text, kind) for kind in NOUNS)
                says_color = any(name in text for names in COLORS.values() for name in names[3])
                forms.add((says_kind, says_color))
                for t in inside:
                    fits_kind = not says_kind or _names(text, t.kind)
                    fits_color = not says_color or any(name in text for name in COLORS[t.color][3])
                    assert not (fits_kind and fits_color) or _by_part(text, t), text
    assert forms == {(True, True), (True, False), (False, True)}
    assert seen == set(PromptKind) - {PromptKind.LEAF, PromptKind.INSTRUCTION}


def _names(text: str, kind: str) -> bool:
    return any(name in text for name in (*NOUNS[kind], CHINESE_NOUNS[kind]))


def test_what_only_another_thing_is_may_be_absent():
    """Two mugs and a book, of which the book is striped and a mug dotted: there is no striped mug."""
    looks = (("mug", "red", ("dotted",)), ("mug", "blue", ()), ("book", "green", ("striped",)))
    things = tuple(
        Thing(k, *look[:2], Box(40 * k, 20, 40 * k + 30, 50), 900, look[2]) for k, look in enumerate(looks, 1)
    )
    ids = np.zeros((120, 200), np.uint8)
    for thing in things:
        ids[thing.box.to_slices(200, 120)] = thing.id
    scene = Scene(np.zeros((120, 200, 3), np.uint8), ids, things, ())
    rng = np.random.default_rng(0)
    samples = [s for _ in range(1200) for s in sample_prompts(rng, scene, 6, TABLETOP)]
    said = {s.text.removeprefix("the ") for s in samples if not s.targets and s.box.area == 120 * 200}
    assert said & {"striped mug", "mug, striped"} and said & {"dotted book", "book, dotted"}
    assert not said & {"dotted mug", "mug, dotted", "striped book", "book, striped"}
    one_mug = {s.targets for s in samples if s.targets and s.text.removeprefix("the ") in ("dotted mug", "mug, dotted")}
    assert one_mug == {(1,)}


def test_what_some_would_call_a_thing_is_not_absent():
    """A mug that some would call orange: there may be an orange mug. Nobody would call it purple."""
    ids = np.zeros((120, 200), np.uint8)
    thing = Thing(1, "mug", "red", Box(40, 20, 100, 70), 3000, perhaps=("orange",))
    ids[thing.box.to_slices(200, 120)] = 1
    scene = Scene(np.zeros((120, 200, 3), np.uint8), ids, (thing,), ())
    rng = np.random.default_rng(0)
    said = {s.text for _ in range(1500) for s in sample_prompts(rng, scene, 6) if not s.targets}
    assert "purple mug" in said and said & set(_alone("purple"))
    assert any("orange" in text and not _names(text, "mug") for text in said)
    assert not [text for text in said if "orange" in text and _names(text, "mug")]
    assert not said & set(_alone("orange"))


def _alone(color: str) -> tuple[str, ...]:
    return f"the {color} one", f"the {color} thing", f"{color} object", f"thing, {color}"


def _by_part(text: str, thing) -> bool:
    """Whether a name is found only as part of a longer one of another kind ("can" in "tin can", "cup" in "cupcake")."""
    longer = [n for kind, names in NOUNS.items() if kind != thing.kind for n in names if n in text]
    return any(name in other for name in NOUNS[thing.kind] for other in longer)


def test_unknown_words_are_unknown():
    rng = np.random.default_rng(0)
    known = {name for names in (*NOUNS.values(), CHINESE_NOUNS.values()) for name in names}
    for _ in range(300):
        assert not known & set(unknown_text(rng, "red").replace(",", "").split())
    words = {word for names in known for word in names.split()}
    assert not words & set(UNNAMED_NOUNS) and len(set(UNNAMED_NOUNS)) == len(UNNAMED_NOUNS)
    assert not {"cat", "giraffe"} & set(UNNAMED_NOUNS), "test_node.py asks whether the box decides for these, too"
    for made_up, share in ((True, 0.0), (False, 0.5)):
        texts = [unknown_text(rng, "", made_up=made_up).removeprefix("the ") for _ in range(300)]
        assert sum(text in UNNAMED_NOUNS for text in texts) / 300 == pytest.approx(share, abs=0.1)


def test_a_batch_matches_its_scenes(bank):
    rng = np.random.default_rng(11)
    household, leaves = household_scene(rng, bank, 192, 256), dead_leaves(rng, bank, 96, 128)  # one twice as sharp
    scenes = [(household, sample_prompts(rng, household, 4)), (leaves, leaf_prompts(rng, leaves, 4))]
    batch = collate(rng, scenes, (96, 128), 32)
    count = sum(len(samples) for _, samples in scenes)
    assert batch.images.shape == (2, 3, 96, 128)
    assert batch.masks.shape == (count, 32, 32) and batch.pixels.shape == (count, 3, 32, 32)
    assert batch.boxes.shape == batch.regions.shape == (count, 4) and len(batch.texts) == count
    flat = [(i, s) for i, (_, samples) in enumerate(scenes) for s in samples]
    for n, (i, sample) in enumerate(flat):
        assert batch.image_index[n] == i
        scene, scale = scenes[i][0], (0.5, 1.0)[i]
        assert batch.boxes[n].tolist() == pytest.approx(sample.box.scale(scale, scale).as_tuple(), abs=1e-3)
        truth = np.isin(scene.ids, sample.targets)
        assert batch.cells[n].mean().item() == pytest.approx(truth.mean(), abs=1e-6)
        x0, y0, x1, y1 = (round(v / scale) for v in batch.regions[n].tolist())
        assert batch.masks[n].mean().item() == pytest.approx(truth[y0:y1, x0:x1].mean(), abs=0.03)
        shown = scene.image[y0:y1, x0:x1].mean((0, 1))
        assert batch.pixels[n].float().mean((1, 2)).numpy() == pytest.approx(shown, abs=4)
        assert bool(batch.present[n]) == bool(sample.targets)
    household, leaves = batch.grounding
    assert (leaves == -1).all(), "dead leaves have no names, also no background"
    pairs = {(t.kind, t.color) for t in scenes[0][0].things}
    assert len(pairs) < len(batch.vocabulary) <= (1 + 2 * CONFUSED_TIMES) * len(pairs), (
        "others, that are like them, are not there"
    )
    nothing = len(batch.vocabulary)
    assert set(household.unique().tolist()) <= {-1, *range(len(pairs)), nothing}
    assert (household == nothing).float().mean() > 0.2


def test_small_things_and_thin_ones_are_asked_for_more_often():
    things = (
        Thing(1, "pen", "red", Box(0, 0, 64, 8), 400),
        Thing(2, "ball", "blue", Box(0, 20, 20, 40), 400),
        Thing(3, "book", "green", Box(0, 50, 40, 90), 1600),
    )
    scene = Scene(np.zeros((96, 96, 3), np.uint8), np.zeros((96, 96), np.uint8), things)
    rng = np.random.default_rng(0)
    asked = [sample.targets for _ in range(600) for sample in sample_prompts(rng, scene, 6)]
    of_thin, of_compact, of_large = (asked.count((number,)) for number in (1, 2, 3))
    assert of_thin > 1.7 * of_compact and of_compact > 1.2 * of_large > 0


def test_leaves_are_prompted_by_their_boxes(bank):
    rng = np.random.default_rng(2)
    scene = dead_leaves(rng, bank, 128, 128)
    samples = leaf_prompts(rng, scene, 4, with_text=0.0)
    assert 0 < len(samples) <= 4 and all(s.kind is PromptKind.LEAF and s.text == "" and s.targets for s in samples)
    texts = [s for seed in range(30) for s in leaf_prompts(np.random.default_rng(seed), scene, 4, with_text=1.0)]
    names = [name for names in (*NOUNS.values(), CHINESE_NOUNS.values()) for name in names if name not in COLORS]
    assert all(s.text and s.judged != any(name in s.text for name in names) for s in texts if "box" not in s.text)
    assert {s.judged for s in texts} == {True, False}
    asked = leaf_prompts(rng, scene, 1, questions=2)
    assert [s.has_mask for s in asked] == [True, False, False] and len({s.targets for s in asked}) == 3
    assert all(s.judged and s.text for s in asked[1:]), "which only unknown words can be right about"


def test_what_training_never_shows_is_never_called_absent():
    """What is only ever heard of as absent would be learnt as absent, and its figures would say nothing."""
    rng = np.random.default_rng(0)
    shown = [(kind, color) for kind in NOUNS for color in SHADES if not is_never_shown(kind, color)]
    absent = set()
    for _ in range(400):
        pairs = [shown[i] for i in rng.integers(0, len(shown), 12)]
        confused = confused_pairs(rng, pairs)
        assert not set(confused) & set(pairs)
        perhaps = confused[::2]
        assert not set(confused_pairs(rng, pairs, perhaps)) & set(perhaps)
        absent |= set(confused)
    assert len(absent) > 0.8 * len(shown) and absent <= set(shown)
    assert is_never_shown("candle", "red") and not is_never_shown("lamp", "red")
    assert any(is_never_shown("block", color) for color in SHADES) is any(is_held_out_pair("cube", c) for c in SHADES)


def test_absent_kinds_often_look_like_what_is_there():
    assert set(lookalikes("fork", NOUNS)) >= {"spoon", "knife"} and "fork" not in lookalikes("fork", NOUNS)
    assert lookalikes("lamp", ["mug", "key"]) == ["mug", "key"], "nothing looks like it"
    scene = Scene(
        np.zeros((96, 96, 3), np.uint8), np.ones((96, 96), np.uint8), (Thing(1, "fork", "red", Box(0, 0, 9, 90), 400),)
    )
    rng = np.random.default_rng(0)
    texts = [s.text for _ in range(900) for s in sample_prompts(rng, scene, 6) if s.kind is PromptKind.ABSENT]
    spoons, balls = (sum(noun in text for text in texts) for noun in ("spoon", "ball"))
    assert spoons > 1.5 * balls > 0


def test_nothing_is_there_because_of_how_it_is_told():
    """What is absent is told of in every way in which what is there is told of."""
    looks = (("knife", "red", ()), ("mug", "blue", ("striped",)), ("cup", "green", ()), ("fork", "yellow", ()))
    named = (TABLETOP.imagine(np.random.default_rng(0), kind, color) for kind, color, _ in looks)
    things = tuple(
        replace(thing, id=k, box=Box(60 * k, 10, 60 * k + 30, 40), area=900, attributes=look[2])
        for k, (thing, look) in enumerate(zip(named, looks, strict=True), 1)
    )
    scene = Scene(np.zeros((120, 320, 3), np.uint8), np.ones((120, 320), np.uint8), things)
    rng = np.random.default_rng(0)
    samples = [s for _ in range(1500) for s in sample_prompts(rng, scene, 6, TABLETOP) if s.text]
    for form in ("handle", "paper cup", "striped", "left of the", "taza", "Tasse", "\u9a6c\u514b\u676f", " mug", "one"):
        there, absent = (
            np.mean([form in s.text for s in samples if (s.kind is PromptKind.ABSENT) is choice])
            for choice in (False, True)
        )
        assert absent > 0.1 * there > 0, form
    unknown = [s for s in samples if "ba" in s.text and not any(_names(s.text, kind) for kind in NOUNS)]
    assert {bool(s.targets) for s in unknown} == {True, False}, "also a word that names nothing decides nothing"
