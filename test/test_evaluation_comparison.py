"""`rsvp evaluate compare`: two runs with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rsvp_ros.cli import main
from rsvp_ros.errors import ConfigurationError
from rsvp_ros.evaluation.comparison import MEASURES, Difference, Run, compare, paired, read_run
from rsvp_ros.evaluation.report import Results
from rsvp_ros.evaluation.scores import Scores
from rsvp_ros.evaluation.tabletop import Answer


def an_answer(iou: float, scene: int = 0, **options) -> Answer:
    values = {
        "scene": scene, "text": "the mug", "language": "en", "kind": "use", "novel": (), "objects": 5, "thin": False,
        "targets": 1, "found": 1, "intersection": round(iou * 100), "union": 100, "boxes": 1.0, "right": iou > 0.5,
        "errors_mm": (4.0,), "scores": (0.9,), "presences": (0.9,),
    }  # fmt: skip
    return Answer(**(values | options))


def test_the_standard_error_without_clusters_is_that_of_a_mean():
    rng = np.random.default_rng(0)
    before, after = rng.uniform(size=(2, 40))
    found = Difference.of(list(zip(before, after, strict=True)), range(40))
    assert found.after - found.before == pytest.approx((after - before).mean())
    assert found.standard_error == pytest.approx((after - before).std(ddof=1) / math.sqrt(40))


def test_what_is_asked_twice_about_a_scene_says_no_more():
    pairs = [(0.0, 1.0), (1.0, 1.0), (0.0, 0.5), (0.5, 0.0)]
    once = Difference.of(pairs, range(4))
    twice = Difference.of([*pairs, *pairs], [*range(4), *range(4)])
    assert twice.standard_error == pytest.approx(once.standard_error)


def test_the_standard_error_is_what_varies_between_runs():
    """Of many draws of 50 scenes with 4 instructions each, whose gains depend on their scene."""
    rng = np.random.default_rng(1)
    gains, errors = [], []
    for _ in range(400):
        of_scene = np.repeat(rng.normal(size=50), 4)
        after = 0.1 + of_scene + rng.normal(size=200)
        found = Difference.of([(0.0, a) for a in after], np.repeat(np.arange(50), 4))
        gains.append(found.after)
        errors.append(found.standard_error)
    assert np.mean(errors) == pytest.approx(np.std(gains), rel=0.1)


def test_one_scene_has_no_standard_error_and_nothing_no_figure():
    assert math.isnan(Difference.of([(0.0, 1.0), (0.0, 0.0)], [7, 7]).standard_error)
    assert math.isnan(Difference.of([], []).after)


BEFORE = [an_answer(0.2, 0), an_answer(0.9, 1), an_answer(0.0, 2, targets=0, right=False), an_answer(0, 3, found=0)]
AFTER = [an_answer(0.8, 0), an_answer(0.9, 1), an_answer(0, 2, targets=0, found=0, union=0), an_answer(0.7, 3)]


def run(answers: list[Answer], size: str = "320x240", complete: bool = True) -> Run:
    return Run(answers, size, complete)


def test_gains_are_told_by_group(tmp_path, capsys):
    for name, answers in (("before", BEFORE), ("after", AFTER)):
        Results({"size": "320x240"}, answers=answers, complete=True).write(tmp_path / name)
    assert main(["evaluate", "compare", str(tmp_path / "before"), str(tmp_path / "after")]) == 0
    rows = {
        cells[0].strip(): [cell.strip() for cell in cells[1:]]
        for cells in (line.strip("|").split("|") for line in capsys.readouterr().out.splitlines())
    }
    number, giou, right, false_refusals, refused = rows["all"]
    error = np.std([0.6, 0, 1, 0.7], ddof=1) / 2
    assert number == "4"
    assert giou == f"0.850 (+0.575 ± {error:.3f})"
    assert right.startswith("1.000 (+0.667 ± ")
    assert false_refusals.startswith("0.000 (-0.333 ± ")
    assert refused == "1.000 (+1.000)", "of one scene"
    assert rows["targets: absent"][2] == "-"


def test_measures_are_those_of_the_scores():
    for answers in (BEFORE, AFTER):
        scores = Scores.of(answers)
        of_scores = scores.giou, scores.right, scores.false_refusals, scores.refused
        for (counts, value), expected in zip(MEASURES.values(), of_scores, strict=True):
            assert np.mean([value(answer) for answer in answers if counts(answer)]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ([*AFTER[:3], an_answer(0.7, 3, text="the cup")], "instruction 4 is 'the mug' about scene 3"),
        ([an_answer(0.7, 9), *AFTER[1:]], "scene 9"),
        (AFTER[:3], "4 and 3 answers"),
        ([], "4 and 0 answers"),
    ],
)
def test_runs_that_were_asked_other_things_are_refused(after, words):
    with pytest.raises(ConfigurationError, match=words):
        paired(run(BEFORE), run(after))


def test_no_answers_cannot_be_compared():
    with pytest.raises(ConfigurationError, match="the two runs have none: give --count"):
        paired(run([]), run([]))


def test_runs_of_other_images_and_broken_off_ones_are_refused():
    with pytest.raises(ConfigurationError, match="320x240 and 640x480.*--size"):
        paired(run(BEFORE), run(AFTER, size="640x480"))
    with pytest.raises(ConfigurationError, match="broken off"):
        paired(run(BEFORE), run(AFTER, complete=False))


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"answers": 3}', '{"answers": [{"scene": 0}]}'])
def test_what_is_no_result_is_named(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(ConfigurationError, match="results.json"):
        read_run(tmp_path)
    assert main(["evaluate", "compare", str(tmp_path), str(tmp_path)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_table_is_markdown():
    rows = compare(paired(run(BEFORE), run(AFTER))).splitlines()
    assert len({row.count("|") for row in rows}) == 1
