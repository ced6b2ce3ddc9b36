"""The pictures for people: what is drawn where, in any size, with any text; nothing else is touched."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsvp_ros import visualization
from rsvp_ros.geometry import Box, mask_to_box
from rsvp_ros.types import Reasoning, ReasoningStep, RegionProposal, Target, TargetState
from rsvp_ros.visualization import draw_proposals, draw_targets, draw_text_bar, reasoning_panel, target_color


def target(id: int = 1, name: str = "cup", mask=None, box=None, state=TargetState.TRACKING) -> Target:
    return Target(id, name, name, state, box or mask_to_box(mask), mask, 0.9, 0.9)


def disc(height: int, width: int, x: float, y: float, radius: float) -> np.ndarray:
    v, u = np.mgrid[0:height, 0:width]
    return (u - x) ** 2 + (v - y) ** 2 <= radius**2


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return (before != after).any(axis=-1)


@pytest.fixture(scope="module")
def photo(shared_data) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(shared_data / "rgbd" / "000000-color.png")), cv2.COLOR_BGR2RGB)


def test_a_target_is_painted_in_its_colour_and_nothing_else_is(photo):
    mask = disc(480, 640, 300, 250, 45)
    before = photo.copy()
    after = draw_targets(photo, [target(2, mask=mask)])
    np.testing.assert_array_equal(photo, before)
    assert after.shape == photo.shape and after.dtype == np.uint8
    inner = cv2.erode(mask.view(np.uint8), np.ones((13, 13))).view(bool)
    color = np.array(target_color(2))
    closer = np.abs(after[inner].astype(int) - color).sum(-1) <= np.abs(photo[inner].astype(int) - color).sum(-1)
    assert closer.all() and np.abs(after[inner].astype(int) - color).mean() > 15  # tinted, not covered
    touched = changed(photo, after)
    assert not touched[300:].any() and not touched[:, 460:].any() and not touched[:150].any()
    label = touched[150:203, 200:460]
    assert 1000 < label.sum() < 6000  # the label stands above the box


def test_a_hole_in_a_mask_stays_a_hole(photo):
    mask = disc(480, 640, 300, 250, 80) & ~disc(480, 640, 300, 250, 40)
    hole = disc(480, 640, 300, 250, 30)
    after = draw_targets(photo, [target(mask=mask)])
    np.testing.assert_array_equal(after[hole], photo[hole])
    rim = disc(480, 640, 300, 250, 42) & ~disc(480, 640, 300, 250, 37)
    assert (after[rim] == target_color(1)).all(-1).mean() > 0.2  # it has a contour of its own


def test_states_look_different(photo):
    box = Box(200, 200, 320, 300)
    mask = np.zeros((480, 640), bool)
    mask[200:300, 200:320] = True
    seen = draw_targets(photo, [target(mask=mask)])
    occluded = draw_targets(photo, [target(box=box, state=TargetState.OCCLUDED)])
    lost = draw_targets(photo, [target(box=box, state=TargetState.LOST)])
    np.testing.assert_array_equal(lost, photo)
    inside = (slice(210, 290), slice(210, 310))
    assert changed(seen, photo)[inside].all() and not changed(occluded, photo)[inside].any()
    top = changed(occluded, photo)[200, 200:320]
    assert 0.3 < top.mean() < 0.95 and top[0] and top[-1]  # dashes and gaps; corners closed


def test_the_smaller_target_is_painted_over_the_larger(photo):
    tray, cup = disc(480, 640, 300, 250, 120), disc(480, 640, 300, 250, 30)
    center = (250, 300)
    for order in ((1, 2), (2, 1)):
        targets = sorted([target(1, mask=tray), target(2, mask=cup)], key=lambda t: order.index(t.id))
        pixel = draw_targets(np.zeros_like(photo), targets)[center].astype(int)
        own, other = (np.abs(pixel / pixel.max() - np.array(c) / max(c)).sum() for c in map(target_color, (2, 1)))
        assert own < other


def test_labels_do_not_hide_each_other():
    """Four targets in one place, as after a bad proposal: each label stays as visible as it is alone."""
    image = np.zeros((480, 640, 3), np.uint8)
    targets = [target(i, "mug", box=Box(300, 240, 360, 300)) for i in (1, 2, 3, 4)]

    def visible(drawn: np.ndarray, color) -> int:
        drawn[237:303, 297:363] = 0  # the boxes do hide each other
        return (drawn == np.array(color)).all(-1).sum()

    together = draw_targets(image, targets)
    for t in targets:
        color = target_color(t.id)
        assert visible(together, color) > 0.85 * visible(draw_targets(image, [t]), color) > 500


def test_colours_are_one_per_id_and_known_to_be_told_apart():
    assert len({target_color(i) for i in range(1, 8)}) == 7
    assert target_color(1) == target_color(8) and target_color(65535) in visualization.PALETTE


@pytest.mark.parametrize("size", [(2, 2), (2, 300), (90, 3), (240, 320), (480, 640), (1080, 1920), (2160, 3840)])
def test_every_size_of_image(size):
    height, width = size
    image = np.full((height, width, 3), 90, np.uint8)
    mask = disc(height, width, width * 0.6, height * 0.6, max(min(size) * 0.25, 1))
    names = ["a very long name of a target that no picture this small can hold", "杯子"]
    targets = [target(1, names[0], mask), target(2, names[1], box=Box(0, 0, width / 2, height / 2))]
    assert draw_targets(image, targets).shape == image.shape
    proposal = RegionProposal(Box(0, 0, width / 2, height), names[0], ("red", "left"))
    assert draw_proposals(image, [proposal]).shape == image.shape
    assert reasoning_panel(Reasoning("find it", (proposal,)), max(height, 16)).shape[0] == max(height, 16)


@pytest.mark.parametrize("size", [(240, 320), (480, 640), (1080, 1920)])
def test_a_label_keeps_its_share_of_the_picture(size):
    height, width = size
    image = np.zeros((height, width, 3), np.uint8)
    drawn = draw_targets(image, [target(1, "mug", box=Box(width / 3, height / 2, width / 2, height * 0.9))])
    rows = np.flatnonzero((drawn == target_color(1)).all(-1).sum(1) > width / 20)
    share = (rows < height / 2).sum() / height
    assert 0.03 < share < 0.08


@settings(max_examples=80, deadline=None)
@given(
    boxes=st.lists(st.tuples(*[st.floats(-200, 300)] * 4), max_size=4),
    state=st.sampled_from(TargetState),
    text=st.text(max_size=30),
)
def test_any_box_and_any_name(boxes, state, text):
    image = np.zeros((60, 80, 3), np.uint8)
    targets = [target(i, text, box=Box.ordered(*b), state=state) for i, b in enumerate(boxes, start=1)]
    assert draw_targets(image, targets).shape == image.shape
    proposals = [RegionProposal(t.box, text) for t in targets]
    assert draw_proposals(image, proposals).shape == image.shape


# Proposals ------------------------------------------------------------------------------------------------------------


def test_proposals_are_lit_and_the_rest_is_dark(photo):
    after = draw_proposals(photo, [RegionProposal(Box(300, 100, 420, 220), "drill", ("orange",))])
    np.testing.assert_array_equal(after[110:210, 310:410], photo[110:210, 310:410])
    assert after[300:].mean() < 0.6 * photo[300:].mean()
    np.testing.assert_array_equal(draw_proposals(photo, []), photo)


# Text -----------------------------------------------------------------------------------------------------------------


def ink(text: str) -> np.ndarray:
    """A label's pixels, without the id and the score that all have."""
    image = np.zeros((120, 400, 3), np.uint8)
    return draw_targets(image, [target(1, text, box=Box(10, 60, 200, 110))])[:58]


def test_scripts_are_drawn_not_boxed():
    # As boxes, and as "?", the letters look alike in any order; DejaVu and Noto have all of these.
    for text, shuffled in (("ñäß", "ßñä"), ("чашка", "кашча"), ("κούπα", "πούκα")):
        assert changed(ink(text), ink(shuffled)).any()


def test_a_machine_without_fonts_still_names_things(monkeypatch):
    """Pillow's own font has Latin; of the rest ASCII relatives or "?" are shown, never empty boxes."""
    monkeypatch.setattr(visualization, "_FONT_FILES", {True: (("none.ttf",),), False: (("none.ttf",),)})
    caches = [visualization._fonts, visualization.font_index, visualization._runs, visualization.text_mask]
    try:
        for cache in caches:
            cache.cache_clear()
        np.testing.assert_array_equal(ink("杯子"), ink("??"))
        np.testing.assert_array_equal(ink("ｃｕｐ"), ink("cup"))
        assert changed(ink("cup"), ink("mug")).any()
    finally:
        for cache in caches:
            cache.cache_clear()


def test_text_as_models_write_it():
    """Half a surrogate pair, control characters, line breaks, right to left, emoji: drawn somehow, never an error."""
    texts = ("half \ud83d", "bell\x07 nul\0", "two\nlines\tand tab", "كوب", "a\u0301", "😀 cup", "\u200b", "")
    image = np.zeros((120, 400, 3), np.uint8)
    for text in texts:
        draw_targets(image, [target(1, text, box=Box(10, 60, 200, 110))])
        reasoning_panel(Reasoning(text, steps=(ReasoningStep(text, text),)), 240)


# The panel ------------------------------------------------------------------------------------------------------------


def panel_reasoning(text: str, found: bool = True) -> Reasoning:
    proposals = (RegionProposal(Box(0, 0, 5, 5), "scissors", ("orange",), reason="they cut"),) if found else ()
    steps = (ReasoningStep("target", text), ReasoningStep("reason", text))
    return Reasoning("something to cut the rope", proposals, steps, model="a-vlm", duration_s=1.5)


@pytest.mark.parametrize("height", [240, 480, 720, 1080])
@pytest.mark.parametrize(
    "text",
    ["It cuts.", "A long sentence. " * 30, "没有空格的长句子，" * 40, "supercalifragilistic" * 20, "x\n" * 300],
    ids=["short", "long", "chinese", "one-word", "many-lines"],
)
def test_text_stays_on_the_page(height, text):
    panel = reasoning_panel(panel_reasoning(text), height)
    assert panel.shape[0] == height and panel.dtype == np.uint8
    written = changed(panel, np.full_like(panel, visualization.PAPER))
    written[:, :8] = False  # the coloured edge
    assert written.any() and not written[:, -3:].any() and not written[-2:].any() and not written[:2].any()


def test_lines_break_between_words_and_between_chinese_characters():
    words = "scissors are on the left of the mug and cut ropes well"
    lines = visualization.wrap_text(words, 14, False, 150)
    assert len(lines) > 2 and " ".join(lines) == words
    lines = visualization.wrap_text("剪刀在杯子的左边，能剪断绳子" * 3, 14, False, 150)
    assert len(lines) > 2 and "".join(lines) == "剪刀在杯子的左边，能剪断绳子" * 3


def test_short_text_is_larger_than_long_text():
    def first_line(text: str) -> int:
        panel = reasoning_panel(panel_reasoning(text), 480, 360)[:, 8:]
        rows = (panel < 100).any(axis=(1, 2))
        return int(np.argmin(rows[np.argmax(rows) :]))

    assert first_line("It cuts.") > first_line("A long sentence about scissors. " * 12)


def test_text_is_made_smaller_before_it_is_cut(monkeypatch):
    written = []
    draw = visualization.text_mask
    monkeypatch.setattr(visualization, "text_mask", lambda *line: written.append(line) or draw(*line))
    cut = 0
    for words in range(5, 200, 2):
        written.clear()
        reasoning_panel(panel_reasoning("word " * words), 480, 360)
        if [size for text, size, _ in written if text == "…"]:
            cut += 1
            assert written[1][1] == 9, f"{words} words are cut before the text is as small as it may be"
    assert cut, "all fitted"


def test_only_a_finished_page_says_what_was_found():
    found, absent = panel_reasoning("yes"), panel_reasoning("no", found=False)
    assert changed(reasoning_panel(found, 480), reasoning_panel(found, 480, complete=False)).any()
    assert changed(reasoning_panel(absent, 480), reasoning_panel(absent, 480, complete=False)).any()


def test_what_was_found_has_its_target_s_colour():
    def holds(panel: np.ndarray, target_id: int) -> bool:
        return (panel[:, 8:] == target_color(target_id)).all(axis=-1).any()

    found = panel_reasoning("yes")
    counted, given = reasoning_panel(found, 480), reasoning_panel(found, 480, ids=(3,))
    assert holds(counted, 1) and not holds(counted, 3)
    assert holds(given, 3) and not holds(given, 1)
    # Not one id for each: nobody can tell which is whose.
    np.testing.assert_array_equal(reasoning_panel(found, 480, ids=(3, 4)), counted)


def test_a_bar_holds_its_texts_side_by_side():
    colors = target_color(1), target_color(2)
    bar = draw_text_bar([("first", colors[0]), ("第二", colors[1])], 400, 36)
    assert bar.shape == (36, 400, 3) and bar.dtype == np.uint8
    places = [np.flatnonzero((bar == color).all(axis=-1).any(axis=0)) for color in colors]
    assert places[0].size and places[1].size and places[0].max() < places[1].min()
    np.testing.assert_array_equal(bar[:, :10], np.broadcast_to(visualization.INK, (36, 10, 3)))
    for texts in (["a long text " * 30], ["word"] * 50, [""], []):
        bar = draw_text_bar([(text, colors[0]) for text in texts], 400, 36)
        np.testing.assert_array_equal(bar[:, -10:], np.broadcast_to(visualization.INK, (36, 10, 3)))
