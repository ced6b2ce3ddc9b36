"""`rsvp evaluate tabletop`: hand-made views whose every figure is known, then the command itself on rendered scenes."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser

import numpy as np
import pytest
from mllm_server import RecordedServer, unused_url

from rsvp_ros.cli import main
from rsvp_ros.config import Config
from rsvp_ros.errors import ModelRunError
from rsvp_ros.evaluation.interrupt import interrupt_checked
from rsvp_ros.evaluation.oracles import OracleReasoner, OracleSegmenter, Region, _kind_and_colors
from rsvp_ros.evaluation.report import SHOWN_PER_KIND, Results, prompt_table
from rsvp_ros.evaluation.scores import Scores, clip_scores, scores_by_group
from rsvp_ros.evaluation.tabletop import (
    Answer,
    Followed,
    System,
    answer,
    follow_boxes,
    follow_instruction,
    position_error_mm,
)
from rsvp_ros.evaluation.tabletop_prompts import PromptKind, ask, presence_auc, prompt_scores, questions
from rsvp_ros.geometry import Box, box_to_mask, mask_to_box
from rsvp_ros.reasoning.mllm.base import Generation
from rsvp_ros.reasoning.reasoner import Reasoner
from rsvp_ros.tabletop.instruction import ChainStep, Instruction, InstructionKind
from rsvp_ros.tabletop.instructions import WIDER_KINDS, english_name
from rsvp_ros.tabletop.kinds import KINDS
from rsvp_ros.tabletop.scenes import sample_scene
from rsvp_ros.tabletop.splits import Split
from rsvp_ros.tabletop.view import Camera, ObjectView, View
from rsvp_ros.types import Prediction

WIDTH, HEIGHT = 320, 240
RGB = {"red": (200, 30, 30), "blue": (30, 60, 190), "yellow": (240, 210, 40), "green": (40, 140, 50)}
RED, BLUE, PEN = 1, 2, 3
LAYOUT = {
    RED: ("cube", "red", Box(40, 40, 80, 80)),
    BLUE: ("cube", "blue", Box(120, 60, 180, 120)),
    PEN: ("pen", "green", Box(200, 150, 290, 160)),
}


def make_view(layout=None, stamp_ns: int = 0) -> View:
    """Rectangles, later ones in front of earlier ones, 0.8 m away; behind them grey, 1 m away. f is 300 pixels."""
    layout = LAYOUT if layout is None else layout
    image = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    depth = np.ones((HEIGHT, WIDTH), np.float32)
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    full = {}
    for id, (_, color, box) in layout.items():
        full[id] = box_to_mask(box, WIDTH, HEIGHT)
        image[full[id]], depth[full[id]], ids[full[id]] = RGB[color], 0.8, id
    things = []
    for id, (kind, color, _) in layout.items():
        area = int(np.count_nonzero(ids == id))
        visible = area / max(np.count_nonzero(full[id]), 1)
        things.append(
            ObjectView(id, kind, color, "plain", "wood", (0.05, 0.05, 0.05), np.eye(4), True, mask_to_box(ids == id),
                       area, visible, 1.0, full[id])
        )  # fmt: skip
    camera = Camera(WIDTH, HEIGHT, 300.0, np.eye(4))
    return View(image, depth, ids, camera, tuple(things), (1.0, 1.0), stamp_ns)


def about(view: View, text: str, *targets: int, kind=InstructionKind.ATTRIBUTE, **options) -> Instruction:
    things = [view.object(target) for target in targets]
    return Instruction(
        text, options.pop("language", "en"), kind, targets, tuple(t.kind for t in things) or ("mug",),
        tuple((t.color,) for t in things) or ((),), (ChainStep("target", text), ChainStep("reason", "so")), **options,
    )  # fmt: skip


class ColorSegmenter:
    """Masks what in the region has the colour that is named last; less of it, where it is told so."""

    name = "colours"
    reads_text = True

    def __init__(self, keep: float = 1.0) -> None:
        self.keep = keep
        self.encoded = 0

    def encode(self, image):
        self.encoded += 1
        return image

    def segment(self, features, prompts):
        predictions = []
        for prompt in prompts:
            color = next((RGB[word] for word in reversed(prompt.description.split()) if word in RGB), (1, 2, 3))
            mask = (features == color).all(-1)
            box = mask_to_box(mask)
            if box is not None:
                mask[:, math.ceil(box.x0 + self.keep * box.width) :] = False
            inside = np.zeros_like(mask)
            inside[prompt.box.to_slices(WIDTH, HEIGHT)] = True
            predictions.append(Prediction(mask & inside, 0.9, float((mask & inside).any())))
        return predictions


class FailingSegmenter(ColorSegmenter):
    def segment(self, features, prompts):
        raise ModelRunError("out of memory: take a smaller model")


class Parrot:
    """An MLLM that always says the same."""

    name = "parrot"

    def __init__(self, text: str) -> None:
        self.text = text

    def prepare(self, cancel=None):
        pass

    def generate(self, messages, on_text=None, cancel=None):
        return Generation(self.text, 3, 5)

    def close(self):
        pass


def with_oracles(region: Region = Region.BOX) -> System:
    return System.configured(Config(), "oracle", "oracle", region)


def with_colors(reasoner=None, keep: float = 1.0) -> System:
    return System(Config(), reasoner, lambda: ColorSegmenter(keep))


# --- One answer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("region", Region)
def test_with_oracles_for_both_stages_everything_is_right(region):
    view = make_view()
    instructions = [
        about(view, "the red cube", RED),
        about(view, "all cubes", RED, BLUE, kind=InstructionKind.ALL),
        about(view, "everything", RED, BLUE, PEN, kind=InstructionKind.ALL),
        about(view, "a mug"),
    ]
    with with_oracles(region) as system:
        assert system.names == {"reasoner": f"oracle ({region.value})", "segmenter": "oracle"}
        answers = [answer(system, 7, view, instruction).answer for instruction in instructions]
    assert [a.targets for a in answers] == [a.found for a in answers] == [1, 2, 3, 0]
    for a in answers:
        assert (a.iou, a.boxes, a.right, a.scene, a.objects, a.problem) == (1, 1, True, 7, 3, "")
        assert a.errors_mm == (0.0,) * a.targets
    assert [a.refused for a in answers] == [False, False, False, True]
    assert [a.thin for a in answers] == [False, False, True, False]


def test_half_a_mask_has_the_figures_of_half_a_mask():
    view = make_view()
    with with_colors(OracleReasoner(), keep=0.5) as system:
        case = answer(system, 0, view, about(view, "the blue cube", BLUE))
    half = case.answer
    assert (half.intersection, half.union) == (1800, 3600)
    assert (half.boxes, half.right) == (1, True), "its box has an IoU of 0.5 with the true one"
    # The middle of the left half is 15 pixels to the left, 0.8 m away, at 300 pixels: 40 mm.
    assert half.errors_mm[0] == pytest.approx(40, abs=1)
    assert np.array_equal(case.predicted[0].mask, view.mask(BLUE) & (np.arange(WIDTH) < 150))


def test_the_words_alone_find_what_they_name_and_nothing_else():
    view = make_view()
    with with_colors() as system:
        assert system.names["reasoner"].startswith("none")
        right = answer(system, 0, view, about(view, "show me red", RED)).answer
        wrong = answer(system, 0, view, about(view, "what is right of red", BLUE)).answer
        absent = answer(system, 0, view, about(view, "a yellow mug")).answer
        made_up = answer(system, 0, view, about(view, "a mug that is green")).answer
    assert (right.iou, right.right) == (1, True)
    assert (wrong.iou, wrong.right, wrong.boxes, wrong.errors_mm, wrong.refused) == (0, False, 0, (None,), False)
    assert (absent.iou, absent.right, absent.refused) == (1, True, True)
    assert (made_up.iou, made_up.right, made_up.refused, made_up.found) == (0, False, False, 1)


def test_every_question_finds_the_system_as_new():
    view, segmenter = make_view(), ColorSegmenter()
    with System(Config(), None, lambda: segmenter) as system:
        for _ in range(3):
            answer(system, 0, view, about(view, "red", RED))
    assert segmenter.encoded == 3, "nothing of the question before is still followed"


def test_positions_are_compared_in_space():
    view = make_view({})
    here, there = (box_to_mask(Box.from_xywh(x, y, 20, 20), WIDTH, HEIGHT) for x, y in ((100, 100), (130, 140)))
    assert position_error_mm(here, there, view) == pytest.approx(50 / 300 * 1000, rel=1e-3)
    assert position_error_mm(here, here, view) == 0
    unknown = dataclasses.replace(view, depth=np.full_like(view.depth, np.nan))
    assert position_error_mm(here, there, unknown) is None


def test_one_of_two_targets_is_half_the_answer():
    view = make_view()
    with with_colors() as system:
        one = answer(system, 0, view, about(view, "cubes, like the red", RED, BLUE)).answer
    assert one.iou == pytest.approx(1600 / 5200)
    assert (one.boxes, one.right, one.errors_mm) == (0.5, False, (0.0, None))


def test_what_an_mllm_wrote_and_nobody_understood_is_wrong():
    view = make_view()
    with with_colors(Reasoner(Parrot("I like cubes."))) as system:
        present = answer(system, 0, view, about(view, "the red cube", RED)).answer
        absent = answer(system, 0, view, about(view, "a mug")).answer
    for a in (present, absent):
        assert "parrot" in a.problem
        assert (a.iou, a.right, a.refused, a.found) == (0, False, False, 0)
    assert absent.boxes == 1, "no boxes were made up; boxes of absent targets are not scored"


def test_an_answer_in_bands_is_followed_to_the_mask():
    view = make_view()
    text = '{"target": "t", "present": true, "objects": [{"name": "cube", "attributes": ["red"], "rows": [2, 3], "columns": [2, 3]}]}'  # noqa: E501
    with with_colors(Reasoner(Parrot(text))) as system:
        case = answer(system, 0, view, about(view, "the red cube", RED))
    assert case.answer.iou == 1
    assert case.reasoning.model == "parrot"


def test_a_failing_segmenter_is_an_error_and_no_wrong_answer():
    view = make_view()
    with (
        System(Config(), OracleReasoner(), FailingSegmenter) as system,
        pytest.raises(ModelRunError, match="smaller model"),
    ):
        answer(system, 0, view, about(view, "the red cube", RED))


# --- Oracles ----------------------------------------------------------------------------------------------------------


def test_the_oracle_knows_every_kind_by_its_name():
    colors = {"red"}
    for kind in KINDS:
        assert _kind_and_colors(f"{english_name(kind)}, red") == (kind, colors)


def test_how_exactly_the_oracle_says_where():
    view = make_view()
    instruction = about(view, "the red cube", RED)
    boxes = {}
    for region in Region:
        reasoner = OracleReasoner(region)
        reasoner.expect(view, instruction)
        (proposal,) = reasoner.reason(view.image, "the red cube").proposals
        assert proposal.description == "cube, red"
        boxes[region] = proposal.box
    truth = Box(40, 40, 80, 80)
    assert truth.iou(boxes[Region.BOX]) > 0.8
    assert boxes[Region.BANDS].intersection(truth) == truth.area
    assert boxes[Region.IMAGE] == Box(0, 0, WIDTH, HEIGHT)
    assert boxes[Region.BOX].area < boxes[Region.BANDS].area < boxes[Region.IMAGE].area
    with pytest.raises(ValueError, match="not told"):
        OracleReasoner().reason(view.image, "the red cube")
    with pytest.raises(ValueError, match="not told"):
        OracleSegmenter().encode(view.image)


# --- Clips ------------------------------------------------------------------------------------------------------------


def make_clip(frames: int = 20, hidden: range = range(8, 12)) -> list[View]:
    """The red cube moves right by 3 pixels a frame, at 10 Hz; the blue one hides the pen in some frames."""
    views = []
    for number in range(frames):
        layout = dict(LAYOUT)
        layout[RED] = ("cube", "red", Box.from_xywh(40 + 3 * number, 40, 30, 30))
        layout[BLUE] = ("cube", "blue", Box(120, 90, 180, 150))
        layout = {i: layout[i] for i in (RED, PEN, BLUE)}
        if number in hidden:
            layout[BLUE] = ("cube", "blue", Box(195, 140, 300, 170))
        views.append(make_view(layout, stamp_ns=10**9 + number * 10**8))
    return views


def test_a_clip_with_true_masks_and_a_thing_that_is_hidden():
    views = make_clip()
    with with_oracles() as system:
        by_name = {target.name: target for target in follow_boxes(system, 5, views)}
        asked = follow_instruction(system, 5, views, about(views[0], "the red cube", RED))
    assert set(by_name) == {"cube, red", "cube, blue", "pen, green"}
    moving, pen = by_name["cube, red"], by_name["pen, green"]
    for target in (moving, asked):
        assert (target.clip, target.frames, target.region, target.boundary) == (5, 19, 1, 1)
        assert target.error_mm == 0
    assert (moving.start, asked.start, asked.name) == ("box", "instruction", "the red cube")
    assert (moving.hidden, moving.hidden_right) == (0, 0)
    assert (pen.hidden, pen.hidden_right) == (4, 4)
    assert pen.region == 1, "nothing while it is hidden, and it is found again"


def test_what_is_never_found_scores_only_where_it_is_hidden():
    views = make_clip()
    with with_colors(Reasoner(Parrot('{"present": false, "objects": []}'))) as system:
        lost = follow_instruction(system, 0, views, about(views[0], "the pen", PEN))
    assert (lost.hidden, lost.hidden_right) == (4, 4)
    assert lost.region == lost.boundary == pytest.approx(4 / 19)
    assert lost.error_mm is None


def test_half_masks_in_a_clip():
    views = make_clip(6, range(0))
    with with_colors(keep=0.5) as system:
        halves = {target.name: target for target in follow_boxes(system, 0, views)}
    assert halves["cube, blue"].region == pytest.approx(0.5)
    assert 0.3 < halves["cube, blue"].boundary < 0.9
    assert halves["cube, blue"].error_mm == pytest.approx(40, abs=1)


# --- Figures ----------------------------------------------------------------------------------------------------------


def an_answer(intersection: int = 0, union: int = 0, **options) -> Answer:
    values = {
        "scene": 0, "text": "?", "language": "en", "kind": "use", "novel": (), "objects": 5, "thin": False,
        "targets": 1, "found": 1, "intersection": intersection, "union": union, "boxes": 1.0, "right": True,
        "errors_mm": (4.0,), "scores": (0.9,), "presences": (0.9,),
    }  # fmt: skip
    return Answer(**(values | options))


ANSWERS = [
    an_answer(80, 100, thin=True, novel=("kind",)),
    an_answer(0, 300, right=False, boxes=0.0, errors_mm=(None,), language="de", novel=("kind", "words")),
    an_answer(0, 100, right=False, boxes=0.0, errors_mm=(None,), found=0, objects=9),
    an_answer(50, 100, targets=2, found=2, boxes=0.5, errors_mm=(10.0, 30.0), kind="all"),
    an_answer(targets=0, found=0, boxes=1.0, errors_mm=(), objects=12, top="terrazzo"),
    an_answer(0, 60, targets=0, right=False, boxes=0.0, errors_mm=()),
    an_answer(0, 1, targets=0, found=0, right=False, boxes=1.0, errors_mm=(), problem="gibberish"),
]


def test_figures_of_known_answers():
    scores = Scores.of(ANSWERS)
    assert (scores.answers, scores.present, scores.absent, scores.problems) == (7, 4, 3, 1)
    assert scores.giou == pytest.approx((0.8 + 0 + 0 + 0.5 + 1 + 0 + 0) / 7)
    assert scores.ciou == pytest.approx(130 / 661)
    assert scores.giou_present == pytest.approx(1.3 / 4)
    assert scores.boxes == pytest.approx(1.5 / 4)
    assert scores.right == 0.5
    assert scores.false_refusals == 0.25
    assert scores.refused == pytest.approx(1 / 3), "what was not understood is no refusal"
    assert scores.position_mm == 10
    assert scores.near == pytest.approx(2 / 5)
    empty = Scores.of([])
    assert math.isnan(empty.giou) and math.isnan(empty.refused) and empty.answers == 0


def test_groups():
    table = scores_by_group(ANSWERS)
    counts = {grouping: {group: s.answers for group, s in groups.items()} for grouping, groups in table.items()}
    assert counts == {
        "all": {"all": 7},
        "instruction": {"all": 1, "use": 6},
        "language": {"de": 1, "en": 6},
        "things in sight": {"4-6": 5, "7-9": 1, "10+": 1},
        "targets": {"absent": 3, "one": 3, "several": 1},
        "novelty": {"none": 5, "kind": 2, "words": 1},
        "table top": {"terrazzo": 1},
        "shape": {"thin": 1, "other": 3},
    }
    assert table["shape"]["thin"].giou == pytest.approx(0.8)


def test_figures_of_clips():
    followed = [
        Followed(0, "box", "a", 10, 0.8, 0.6, 2, 1, 5.0, 0.1),
        Followed(0, "box", "b", 10, 0.4, 0.2, 2, 2, None, 0.1),
        Followed(0, "instruction", "c", 10, 1.0, 1.0, 0, 0, 7.0, 0.1),
    ]
    scores = clip_scores(followed)
    assert scores["box"].region == pytest.approx(0.6)
    assert scores["box"].both == pytest.approx(0.5)
    assert (scores["box"].hidden, scores["box"].hidden_right, scores["box"].position_mm) == (4, 0.75, 5)
    assert math.isnan(scores["instruction"].hidden_right)


# --- Report -----------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page refers to, its text, and whether its tags fit together."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources, self.tags, self.text, self._open = [], [], "", []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data


def results_of(system: System, *instructions) -> Results:
    results = Results({**system.names, "split": "test"})
    view = make_view()
    for text, *targets in instructions:
        results.add(answer(system, 3, view, about(view, text, *targets)))
    results.complete = True
    return results


def test_what_is_written(tmp_path):
    with with_colors() as system:
        results = results_of(
            system, ("red", RED), ("<script>alert('x')</script> & red", BLUE), ("yellow",), ("la taza, 杯子 green",)
        )
    results.followed.append(Followed(0, "box", "a", 10, 0.8, 0.6, 0, 0, None, 0.1))
    results.write(tmp_path / "new")
    content = json.loads((tmp_path / "new" / "results.json").read_text(), parse_constant=pytest.fail)
    assert content["complete"]
    assert content["scores"]["all"]["all"]["answers"] == 4
    assert content["clips"]["box"]["hidden_right"] is None, "JSON knows no NaN"
    assert [a["iou"] for a in content["answers"]] == [1, 0, 1, 0]
    table = (tmp_path / "new" / "table.txt").read_text()
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows[:-3]}) == len({row.count("|") for row in rows[-3:]}) == 1
    assert "BROKEN OFF" not in table
    page = Page((tmp_path / "new" / "worst.html").read_text())
    assert "script" not in page.tags
    assert "<script>alert('x')</script> & red" in page.text
    assert "杯子" in page.text
    assert len(page.sources) == 8 and all(source.startswith("data:image/jpeg;base64,") for source in page.sources)


def test_the_worst_of_each_kind_are_kept():
    view = make_view()
    texts = ["red", "blue", "red", "red", "blue", "red", "blue"]  # BLUE is meant: red is wrong
    results = Results({})
    with with_colors() as system:
        for text in texts:
            results.add(answer(system, 0, view, about(view, text, BLUE)))
        results.add(answer(system, 0, view, about(view, "green", PEN, kind=InstructionKind.USE)))
    kept = results.worst["attribute"]
    assert len(kept) == SHOWN_PER_KIND
    assert [case.answer.text for case in kept] == ["red"] * 4
    assert len(results.worst["use"]) == 1
    assert len(results.answers) == 8


def test_the_same_run_gives_the_same_figures():
    def run() -> list[Answer]:
        with with_colors(keep=0.6) as system:
            results = results_of(system, ("red", RED), ("blue", BLUE), ("green", PEN), ("yellow",))
        return [dataclasses.replace(a, reason_s=0, segment_s=0) for a in results.answers]

    assert run() == run()


# --- The segmenter alone ----------------------------------------------------------------------------------------------


def test_only_what_is_certain_is_asked():
    layout = dict(LAYOUT) | {4: ("cube", "green", Box(240, 40, 290, 90)), 5: ("cube", "blue", Box(244, 44, 300, 100))}
    view = make_view(layout)
    assert [thing.id for thing in view.glimpsed] == [4]
    rng = np.random.default_rng(0)
    asked = [question for _ in range(5) for question in questions(view, rng)]
    by_kind = {kind: [q for q in asked if q.kind is kind] for kind in PromptKind}
    assert {q.target for q in by_kind[PromptKind.BOX]} == {RED, BLUE, PEN, 5}
    assert {q.target for q in by_kind[PromptKind.WHOLE]} == {PEN}, "two blue cubes; a glimpsed one may be of any colour"
    assert {q.target for q in by_kind[PromptKind.PAIR]} >= {RED, BLUE}
    assert {q.target for q in by_kind[PromptKind.WHOLE_KIND]} == {PEN}
    assert all(by_kind[kind] for kind in PromptKind if kind.absent)
    kinds = {english_name(kind): kind for kind in KINDS}
    assert {"knife, red handle", "paper cup, red"} & {q.prompt.description for q in asked}, "as stage 1 writes it"
    assert {q.target for q in by_kind[PromptKind.FOREIGN]} == {PEN}
    assert {q.prompt.description for q in by_kind[PromptKind.FOREIGN]} == {"bolígrafo verde"}
    assert all(q.target == 0 and q.prompt.description for q in by_kind[PromptKind.ABSENT_FOREIGN])
    for question in asked:
        if question.kind in (PromptKind.FOREIGN, PromptKind.ABSENT_FOREIGN):
            continue
        name, _, color = question.prompt.description.partition(", ")
        kind, color = kinds.get(name, ""), color.removesuffix(" handle")
        inside = [o for o in view.objects if o.box.intersection(question.prompt.box) > 0]
        fitting = {o.id for o in inside if o.kind == kind and color in ("", o.color)}
        if question.kind.absent:
            assert question.target == 0 and not fitting
            assert color in KINDS[kind].colors or question.kind is PromptKind.ABSENT_KIND_ALONE
        elif question.kind in (PromptKind.WHOLE, PromptKind.WHOLE_KIND, PromptKind.LOOSE, PromptKind.PAIR):
            assert fitting == {question.target}
    for question in by_kind[PromptKind.ABSENT_PAIR]:
        name, _, color = question.prompt.description.partition(", ")
        kind, color = kinds.get(name, ""), color.removesuffix(" handle")
        assert any(o.kind == kind for o in view.objects) and any(o.color == color for o in view.objects)


@pytest.mark.parametrize(("material", "name"), [("metal", "spoon, red handle"), ("wood", "spoon, red")])
def test_only_a_coloured_handle_is_told_as_a_handle(material, name):
    view = make_view({1: ("spoon", "red", Box(40, 40, 80, 60)), 2: ("cube", "blue", Box(120, 60, 180, 120))})
    view = dataclasses.replace(view, objects=tuple(dataclasses.replace(o, material=material) for o in view.objects))
    told = {q.prompt.description for q in questions(view, np.random.default_rng(0)) if q.kind is PromptKind.WHOLE}
    assert told == {name, "wooden cube, blue"}


def test_figures_of_prompts():
    view = make_view()
    asked = list(questions(view, np.random.default_rng(1)))
    perfect = OracleSegmenter()
    perfect.expect(view)
    scores = prompt_scores(ask(perfect, view, asked), 0.3)
    for kind in (PromptKind.TIGHT, PromptKind.BOX, PromptKind.WHOLE, PromptKind.PAIR):
        assert (scores[kind].iou, scores[kind].iou_thin, scores[kind].right) == (1, 1, 1)
    assert scores[PromptKind.ABSENT_KIND].refused == 1
    assert math.isnan(scores[PromptKind.ABSENT_KIND].iou) and math.isnan(scores[PromptKind.BOX].refused)
    replies = ask(ColorSegmenter(0.5), view, asked)
    scores = prompt_scores(replies, 0.3)
    assert scores[PromptKind.WHOLE].iou == pytest.approx(0.5)
    assert scores[PromptKind.WHOLE].refused == 0
    assert scores[PromptKind.ABSENT_COLOR].refused == 1
    assert scores[PromptKind.ABSENT_PAIR].refused == 0
    assert 0.5 < presence_auc(replies) < 1
    table = prompt_table(scores, presence_auc(replies))
    assert "whole image + text" in table and "nan" not in table


# --- The command ------------------------------------------------------------------------------------------------------


def evaluate(*arguments) -> int:
    return main(["evaluate", "tabletop", *map(str, arguments)])


def test_the_command_with_oracles_is_right_about_everything(headless_gl, tmp_path, capsys):
    options = [
        "--count",
        2,
        "--instructions",
        6,
        "--clips",
        1,
        "--clip-seconds",
        1,
        "--seed",
        3,
        "--reasoner",
        "oracle",
    ]
    assert evaluate(*options, "--segmenter", "oracle", "--out", tmp_path) == 0
    content = json.loads((tmp_path / "results.json").read_text())
    scores = content["scores"]["all"]["all"]
    assert scores["answers"] >= 6
    assert (scores["giou_present"], scores["boxes"], scores["right"], scores["near"]) == (1, 1, 1, 1)
    assert {a["scene"] for a in content["answers"]} == {3, 4}
    tops = {seed: sample_scene(Split.TEST, seed).table.style for seed in (3, 4)}
    assert all(a["top"] == tops[a["scene"]] for a in content["answers"])
    assert set(content["scores"]["table top"]) == set(tops.values())
    assert content["clips"]["box"]["both"] > 0.9
    assert content["clips"]["box"]["targets"] >= 2
    assert content["complete"]
    assert "J&F" in capsys.readouterr().out


def test_the_command_s_scenes_have_as_many_things_as_asked_for(headless_gl, tmp_path):
    options = ["--count", 2, "--objects", 2, 2, "--out", tmp_path]
    assert evaluate(*options, "--reasoner", "oracle", "--segmenter", "oracle") == 0
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["settings"]["things in a scene"] == "2 to 2"
    assert content["answers"] and all(1 <= answer["objects"] <= 2 for answer in content["answers"])
    assert content["scores"]["all"]["all"]["right"] == 1
    usual = {answer["text"] for answer in content["answers"]}
    assert evaluate(*options, "--reasoner", "oracle", "--segmenter", "oracle", "--wider") == 0
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["settings"]["forms"] == "wider" and content["answers"]
    assert {answer["kind"] for answer in content["answers"]} <= {kind.value for kind in WIDER_KINDS}
    assert usual != {answer["text"] for answer in content["answers"]}
    assert evaluate(*options, "--prompts") == 0
    content = json.loads((tmp_path / "prompts.json").read_text())
    assert content["settings"]["things in a scene"] == "2 to 2"
    assert 1 <= content["prompts"]["tight box + text"]["replies"] <= 4


def test_the_command_with_the_embedded_segmenter(headless_gl, tmp_path):
    """Boxes say where, so the figures are far from chance; two runs agree."""
    contents = []
    for name in ("a", "b"):
        assert evaluate("--count", 1, "--reasoner", "oracle", "--out", tmp_path / name) == 0
        contents.append(json.loads((tmp_path / name / "results.json").read_text()))
    for content in contents:
        assert content["scores"]["all"]["all"]["giou_present"] > 0.5
        assert content["settings"]["segmenter"] == "vlsm (embedded)"
        del content["median_seconds"]
        for single in content["answers"]:
            del single["reason_s"], single["segment_s"]
    assert contents[0] == contents[1]


def test_the_command_asks_the_segmenter_alone(headless_gl, tmp_path, capsys):
    assert evaluate("--prompts", "--count", 2, "--out", tmp_path) == 0
    content = json.loads((tmp_path / "prompts.json").read_text())
    assert content["complete"] and content["scenes_asked_about"] == 2
    settings = {"segmenter": "vlsm (embedded)", "split": "test", "first seed": 0, "scenes": 2, "size": "320x240"}
    assert content["settings"] == {**settings, "things in a scene": "3 to 12", "parameters": "all default"}
    prompts = content["prompts"]
    assert prompts["tight box + text"]["iou"] > 0.5
    assert prompts["tight box + text"]["right"] > 0.8
    assert "whole image + text" in capsys.readouterr().out


def test_an_mllm_answers_over_http(headless_gl, tmp_path):
    """It always says that nothing is there: right where that is so, a false refusal where not."""
    with RecordedServer('{"target": "t", "present": false, "objects": []}', models=["qwen3-vl"]) as server:
        mllm = ["--set", "mllm.backend=openai", "--set", f"mllm.openai.base_url={server.url}"]
        assert evaluate("--count", 1, *mllm, "--out", tmp_path) == 0
    content = json.loads((tmp_path / "results.json").read_text())
    scores = content["scores"]["all"]["all"]
    assert scores["false_refusals"] == 1 and scores["giou_present"] == 0
    assert content["settings"]["reasoner"] == "qwen3-vl"
    assert server.url in content["settings"]["parameters"]


def test_a_dead_server_ends_it_with_what_there_is(headless_gl, tmp_path, capsys):
    url = unused_url()
    mllm = [
        "--set",
        "mllm.backend=openai",
        "--set",
        f"mllm.openai.base_url={url}",
        "--set",
        "mllm.openai.max_retries=0",
    ]
    assert evaluate("--count", 1, *mllm, "--out", tmp_path) == 2
    assert url in capsys.readouterr().err
    assert not json.loads((tmp_path / "results.json").read_text())["complete"]
    assert "BROKEN OFF" in (tmp_path / "table.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "segmenter.model=/no/such"], "/no/such"),
        (["--set", "no.such=1"], "no.such"),
        (["--config", "no_such.yaml"], "no_such.yaml"),
        (["--out", __file__], "test_evaluation_tabletop.py"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(tmp_path, capsys, arguments, words):
    assert evaluate("--count", 1, "--out", tmp_path, *arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


@pytest.mark.parametrize("mode", ["--segmenter=oracle", "--prompts"])
def test_ctrl_c_writes_what_it_has(headless_gl, tmp_path, mode):
    command = [sys.executable, "-m", "rsvp_ros.cli", "evaluate", "tabletop", "--count", "100000", mode]
    command += ["--out", str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stderr=pipe, text=True, stdout=pipe, env=os.environ) as run:
        line = run.stderr.readline()
        assert line.startswith("scene 1 of 100000"), line
        run.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 60
        while run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if run.poll() is None:
            run.kill()
        assert run.returncode == 130
        assert "Traceback" not in run.stderr.read()
        assert "BROKEN OFF" in run.stdout.read()
    prompts = mode == "--prompts"
    content = json.loads((tmp_path / ("prompts.json" if prompts else "results.json")).read_text())
    assert not content["complete"]
    assert content["settings"]["scenes"] == 100000
    assert content["prompts" if prompts else "answers"]
    assert not prompts or 1 <= content["scenes_asked_about"] < 100000


def test_without_the_words_a_segmenter_has_the_region_alone(headless_gl, tmp_path):
    """The true descriptions, in the whole image: with the words it finds some, without them nothing."""
    options = ["--count", 1, "--languages", "en", "--reasoner", "oracle", "--region", "image"]

    def right(*more) -> list[bool]:
        assert evaluate(*options, *more, "--out", tmp_path) == 0
        content = json.loads((tmp_path / "results.json").read_text())
        assert content["settings"]["segmenter"].endswith("boxes only") == bool(more)
        return [answer["right"] for answer in content["answers"] if answer["targets"]]

    assert sum(right("--segmenter", "boxes")) < sum(right())


@pytest.mark.parametrize(("presses", "answers"), [(1, 2), (2, 1)])
def test_ctrl_c_waits_for_the_answer_under_way_and_a_second_one_does_not(
    headless_gl, tmp_path, monkeypatch, presses, answers
):
    asked = []

    def interrupted(*arguments):
        asked.append(arguments)
        for _ in range(presses if len(asked) == 2 else 0):
            signal.raise_signal(signal.SIGINT)
        return answer(*arguments)

    monkeypatch.setattr("rsvp_ros.evaluation.tabletop.answer", interrupted)
    assert evaluate("--count", 1, "--segmenter", "oracle", "--out", tmp_path) == 130
    assert len(json.loads((tmp_path / "results.json").read_text())["answers"]) == answers
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupt_checked() as check:
            signal.raise_signal(signal.SIGINT)
            check()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("mode", "name"), [("--segmenter=oracle", "table.txt"), ("--prompts", "prompts.json")])
def test_the_table_is_printed_also_where_it_cannot_be_written(headless_gl, tmp_path, capsys, mode, name):
    (tmp_path / name).mkdir()
    assert evaluate("--count", 1, mode, "--out", tmp_path) == 2
    out, error = capsys.readouterr()
    assert "| " in out and "split: test" in out and "written to" not in out
    assert "cannot be written to" in error and "Traceback" not in error


def test_a_run_without_an_answer_replaces_none(headless_gl, tmp_path, capsys):
    (tmp_path / "results.json").write_text("those of an earlier run")
    server = ["--set", "mllm.backend=openai", "--set", f"mllm.openai.base_url={unused_url()}"]
    assert evaluate("--count", 1, *server, "--set", "mllm.openai.max_retries=0", "--out", tmp_path) == 2
    assert (tmp_path / "results.json").read_text() == "those of an earlier run"
    assert "written to" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--prompts", "--reasoner", "oracle", "--clips", 2], "leave out --reasoner, --clips"),
        (["--prompts", "--segmenter", "oracle"], "leave out --segmenter"),
        (["--prompts", "--region", "image"], "leave out --region"),
        (["--prompts", "--languages", "en"], "leave out --languages"),
        (["--region", "image"], "--region is for --reasoner oracle"),
        (["--count", 0], "nothing is asked"),
        (["--count", 0, "--prompts"], "nothing is asked"),
        (["--instructions", 0], "nothing is asked"),
        (["--objects", 8, 3], "no scene with 8 to 3 things"),
        (["--objects", 3, 25], "give --objects LEAST MOST, up to 24"),
    ],
)
def test_what_would_say_nothing_is_refused(tmp_path, capsys, options, words):
    with pytest.raises(SystemExit) as end:
        evaluate(*options, "--out", tmp_path / "out")
    assert end.value.code == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seconds", ["0", "0.1", "-1", "nan", "inf", "3601", "long"])
def test_a_clip_of_less_than_two_images_is_refused_at_once(tmp_path, capsys, seconds):
    with pytest.raises(SystemExit) as end:
        evaluate("--clips", 1, f"--clip-seconds={seconds}", "--out", tmp_path / "out")
    assert end.value.code == 2
    assert "from 0.2 to 3600 seconds" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("count", ["x", "-1", "1.5"])
def test_what_is_no_number_is_named(capsys, count):
    with pytest.raises(SystemExit):
        evaluate(f"--count={count}")
    assert "is not a whole number from 0 on" in capsys.readouterr().err


def test_the_shortest_clip_has_figures(headless_gl, tmp_path):
    oracles = ("--reasoner", "oracle", "--segmenter", "oracle")
    assert evaluate("--count", 0, "--clips", 1, "--clip-seconds", 0.2, *oracles, "--out", tmp_path) == 0
    assert json.loads((tmp_path / "results.json").read_text())["clips"]["box"]["targets"] >= 1
