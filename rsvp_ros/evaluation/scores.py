"""From single answers to the benchmark's figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from rsvp_ros.evaluation.metrics import cumulative_iou, generalized_iou, mean
from rsvp_ros.evaluation.tabletop import Answer, Followed

T = TypeVar("T")

NEAR_MM = 20.0
"""A position this close is near enough for a gripper."""


@dataclass(frozen=True)
class Scores:
    """Scores of a group of answers. NaN if it has no answers that count."""

    answers: int
    giou: float
    """Over all answers; see `metrics.generalized_iou` for those without a target."""
    ciou: float
    """Over all answers."""
    present: int
    """Answers about something that is in the image; the next six fields are about these."""
    giou_present: float
    boxes: float
    """Mean of `metrics.box_accuracy`."""
    right: float
    """Share in which the masks show exactly the things that are meant."""
    false_refusals: float
    """Share in which nothing was found."""
    position_mm: float
    """Median error over the targets that a found mask overlaps."""
    near: float
    """Share of all targets whose position is within NEAR_MM."""
    absent: int
    """Answers about something that is not in the image."""
    refused: float
    """Share of these in which nothing was found."""
    problems: int
    """Answers of the MLLM that could not be understood; they count as wrong."""

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> Scores:
        present = [answer for answer in answers if answer.targets]
        absent = [answer for answer in answers if not answer.targets]
        errors = [error for answer in present for error in answer.errors_mm]
        known = [error for error in errors if error is not None]
        return cls(
            answers=len(answers),
            giou=generalized_iou((answer.intersection, answer.union) for answer in answers),
            ciou=cumulative_iou((answer.intersection, answer.union) for answer in answers),
            present=len(present),
            giou_present=mean(answer.iou for answer in present),
            boxes=mean(answer.boxes for answer in present),
            right=mean(answer.right for answer in present),
            false_refusals=mean(answer.refused for answer in present),
            position_mm=float(np.median(known)) if known else float("nan"),
            near=mean(error is not None and error <= NEAR_MM for error in errors),
            absent=len(absent),
            refused=mean(answer.refused for answer in absent),
            problems=sum(bool(answer.problem) for answer in answers),
        )


@dataclass(frozen=True)
class ClipScores:
    """Scores of targets followed through clips."""

    targets: int
    region: float
    """Mean J."""
    boundary: float
    """Mean F."""
    hidden: int
    """Frames in which a target is hidden."""
    hidden_right: float
    """Share of these in which no mask was given."""
    position_mm: float
    """Median over the targets."""

    @property
    def both(self) -> float:
        """J&F."""
        return (self.region + self.boundary) / 2

    @classmethod
    def of(cls, followed: Sequence[Followed]) -> ClipScores:
        hidden = sum(target.hidden for target in followed)
        errors = [target.error_mm for target in followed if target.error_mm is not None]
        return cls(
            targets=len(followed),
            region=mean(target.region for target in followed),
            boundary=mean(target.boundary for target in followed),
            hidden=hidden,
            hidden_right=sum(target.hidden_right for target in followed) / hidden if hidden else float("nan"),
            position_mm=float(np.median(errors)) if errors else float("nan"),
        )


def _objects(answer: Answer) -> list[str]:
    """Group by the number of things in the image."""
    for low, high in ((0, 3), (4, 6), (7, 9)):
        if answer.objects <= high:
            return [f"{low or 1}-{high}"]
    return ["10+"]


def _targets(answer: Answer) -> list[str]:
    return ["absent" if not answer.targets else "one" if answer.targets == 1 else "several"]


GROUPS: dict[str, Callable[[Answer], list[str]]] = {
    "all": lambda answer: ["all"],
    "instruction": lambda answer: [answer.kind],
    "language": lambda answer: [answer.language],
    "things in sight": _objects,
    "targets": _targets,
    "novelty": lambda answer: list(answer.novel) or ["none"],
    "table top": lambda answer: [answer.top] if answer.top else [],
    "shape": lambda answer: ["thin" if answer.thin else "other"] if answer.targets else [],
}
"""Groupings: for each, a function from an answer to the groups that it belongs to."""


def grouped(items: Iterable[T], of: Callable[[T], Answer]) -> dict[tuple[str, str], list[T]]:
    """Items by name of grouping (see GROUPS) and name of group, sorted within each grouping; `of`: an item's answer."""
    items = list(items)
    groups: dict[tuple[str, str], list[T]] = {}
    for grouping, groups_of in GROUPS.items():
        members: dict[str, list[T]] = {}
        for item in items:
            for group in groups_of(of(item)):
                members.setdefault(group, []).append(item)
        groups |= {(grouping, group): members[group] for group in sorted(members)}
    return groups


def group_name(grouping: str, group: str) -> str:
    """The name of a group's row in a table."""
    return group if group == grouping else f"{grouping}: {group}"


def scores_by_group(answers: Iterable[Answer]) -> dict[str, dict[str, Scores]]:
    """Scores by name of grouping and name of group; see `grouped`."""
    table: dict[str, dict[str, Scores]] = {grouping: {} for grouping in GROUPS}
    for (grouping, group), members in grouped(answers, lambda answer: answer).items():
        table[grouping][group] = Scores.of(members)
    return table


def clip_scores(followed: Iterable[Followed]) -> dict[str, ClipScores]:
    """Scores by how the following was started."""
    followed = list(followed)
    starts = sorted({target.start for target in followed})
    return {start: ClipScores.of([target for target in followed if target.start == start]) for start in starts}


def median_seconds(answers: Iterable[Answer], followed: Iterable[Followed]) -> dict[str, float]:
    """Median times, seconds: of the reasoner and of the segmenter (two looks at one image) for an instruction, and of
    the segmenter for a frame of a clip. They depend on the machine and are for information only.
    """
    answers = list(answers)
    times = {
        "reasoner, an instruction": [answer.reason_s for answer in answers],
        "segmenter, an instruction": [answer.segment_s for answer in answers],
        "segmenter, a frame of a clip": [target.segment_s for target in followed],
    }
    return {name: float(np.median(values)) for name, values in times.items() if values}
