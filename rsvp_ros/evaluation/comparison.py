"""Two runs that were asked the same: how much better one is, and how much of that may be chance."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.evaluation.report import markdown_table
from rsvp_ros.evaluation.scores import group_name, grouped
from rsvp_ros.evaluation.tabletop import Answer

Pair = tuple[Answer, Answer]

MEASURES: dict[str, tuple[Callable[[Answer], bool], Callable[[Answer], float]]] = {
    "gIoU": (lambda answer: True, lambda answer: answer.iou),
    "right": (lambda answer: answer.targets > 0, lambda answer: answer.right),
    "false refusals": (lambda answer: answer.targets > 0, lambda answer: answer.refused),
    "absent refused": (lambda answer: not answer.targets, lambda answer: answer.refused),
}
"""Compared figures: which answers count, and the value of each, as in `Scores`."""


@dataclass(frozen=True)
class Difference:
    """The difference between the means of paired values; NaN if there are none."""

    before: float
    after: float
    standard_error: float
    """Of after - before. Answers about the same scene are not independent, but scenes are: this is the cluster-robust
    estimate, from the sums of the deviations over each scene. NaN for a single scene."""

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]], scenes: Sequence[int]) -> Difference:
        """pairs: values before and after; scenes: the scene that each pair is about."""
        if not pairs:
            return cls(math.nan, math.nan, math.nan)
        before, after = np.array(pairs, float).T
        gains = after - before
        _, scene = np.unique(scenes, return_inverse=True)
        sums = np.bincount(scene, gains - gains.mean())
        clusters = len(sums)
        variance = (sums**2).sum() / len(gains) ** 2 * clusters / (clusters - 1) if clusters > 1 else math.nan
        return cls(float(before.mean()), float(after.mean()), math.sqrt(variance))


@dataclass(frozen=True)
class Run:
    """The compared part of what `Results.write` wrote."""

    answers: Sequence[Answer]
    size: str
    """Of the images, "320x240"."""
    complete: bool


def read_run(folder: Path) -> Run:
    """Raises ConfigurationError."""
    path = folder / "results.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = {field.name for field in dataclasses.fields(Answer)}
        answers = [
            Answer(**{name: value for name, value in answer.items() if name in names}) for answer in content["answers"]
        ]
        return Run(answers, content["settings"]["size"], content["complete"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"{path} cannot be read as results of `rsvp evaluate tabletop` of this version ({error})"
        ) from error


def paired(before: Run, after: Run) -> list[Pair]:
    """Pairs of answers to the same question. Raises ConfigurationError if the runs were not asked the same."""
    if before.size != after.size:
        raise ConfigurationError(
            f"the two runs saw images of {before.size} and {after.size}: give both the same --size"
        )
    if not (before.complete and after.complete):
        raise ConfigurationError("one of the two runs was broken off: let it finish")

    def question(answer: Answer) -> tuple:
        return answer.scene, answer.text, answer.targets, answer.objects

    for number, (one, other) in enumerate(zip(before.answers, after.answers, strict=False), 1):
        if question(one) != question(other):
            raise ConfigurationError(
                f"the two runs were not asked the same: instruction {number} is {one.text!r} about scene {one.scene} "
                f"in the first, {other.text!r} about scene {other.scene} in the second; give both the same split, "
                "seed, objects, instructions and languages"
            )
    counts = len(before.answers), len(after.answers)
    if counts == (0, 0):
        raise ConfigurationError("answers to instructions are compared, and the two runs have none: give --count")
    if len(set(counts)) > 1:
        raise ConfigurationError(f"the two runs have {counts[0]} and {counts[1]} answers: give both the same count")
    return list(zip(before.answers, after.answers, strict=True))


def compare(pairs: Iterable[Pair]) -> str:
    """A Markdown table by group: each measure of the second run, its gain over the first and the standard error."""
    rows = []
    for names, group in grouped(pairs, of=lambda pair: pair[0]).items():
        cells = []
        for counts, value in MEASURES.values():
            counted = [pair for pair in group if counts(pair[0])]
            gain = Difference.of([(value(one), value(other)) for one, other in counted], [p[0].scene for p in counted])
            cells.append(_cell(gain))
        rows.append([group_name(*names), f"{len(group)}", *cells])
    return "\n".join(markdown_table(["", "N", *MEASURES], rows))


def _cell(gain: Difference) -> str:
    if math.isnan(gain.after):
        return "-"
    error = "" if math.isnan(gain.standard_error) else f" ± {gain.standard_error:.3f}"
    return f"{gain.after:.3f} ({gain.after - gain.before:+.3f}{error})"
