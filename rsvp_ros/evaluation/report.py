"""The benchmark's results: a table to read, JSON for programs, a page of pictures to look at."""

from __future__ import annotations

import base64
import dataclasses
import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rsvp_ros.evaluation.scores import (
    NEAR_MM,
    ClipScores,
    Scores,
    clip_scores,
    group_name,
    median_seconds,
    scores_by_group,
)
from rsvp_ros.evaluation.tabletop import Answer, Case, Followed
from rsvp_ros.evaluation.tabletop_prompts import PromptKind, PromptScores, Reply, presence_auc, prompt_scores

SHOWN_PER_KIND = 4
"""Number of cases of each kind of instruction on the page of the worst."""
BROKEN_OFF = "BROKEN OFF: these are the figures of what was run until then."
TRUTH_COLOR, PREDICTION_COLOR = (0, 220, 240), (255, 0, 200)


@dataclasses.dataclass
class Results:
    """All results of a run, complete or broken off."""

    settings: Mapping[str, Any]
    """What was run, so that it can be repeated."""
    answers: list[Answer] = dataclasses.field(default_factory=list)
    followed: list[Followed] = dataclasses.field(default_factory=list)
    complete: bool = False
    worst: dict[str, list[Case]] = dataclasses.field(default_factory=dict)
    """By kind of instruction, worst first; of equal cases, the earliest are kept."""

    def add(self, case: Case) -> None:
        self.answers.append(case.answer)
        kept = self.worst.setdefault(case.answer.kind, [])
        kept.append(case)
        kept.sort(key=lambda case: case.answer.iou)  # stable
        del kept[SHOWN_PER_KIND:]

    def write(self, folder: Path) -> None:
        """Write table.txt, results.json and worst.html."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "table.txt").write_text(self.table() + "\n", encoding="utf-8")
        (folder / "results.json").write_text(self.json() + "\n", encoding="utf-8")
        (folder / "worst.html").write_text(self.page(), encoding="utf-8")

    def json(self) -> str:
        """Settings, figures by group, and every single answer. NaN becomes null."""
        content = {
            "settings": dict(self.settings),
            "complete": self.complete,
            "scores": {
                grouping: {group: dataclasses.asdict(scores) for group, scores in groups.items()}
                for grouping, groups in scores_by_group(self.answers).items()
            },
            "clips": {
                start: {**dataclasses.asdict(scores), "both": scores.both}
                for start, scores in clip_scores(self.followed).items()
            },
            "median_seconds": median_seconds(self.answers, self.followed),
            "answers": [{**dataclasses.asdict(answer), "iou": answer.iou} for answer in self.answers],
            "followed": [dataclasses.asdict(target) for target in self.followed],
        }
        return json.dumps(without_nan(content), ensure_ascii=False, indent=1)

    def table(self) -> str:
        """The figures in columns, Markdown."""
        lines = [f"{name}: {value}" for name, value in self.settings.items()]
        if not self.complete:
            lines.append(BROKEN_OFF)
        if self.answers:
            lines += ["", *_answer_rows(scores_by_group(self.answers))]
        if self.followed:
            lines += ["", *_clip_rows(clip_scores(self.followed))]
        times = median_seconds(self.answers, self.followed)
        lines += ["", *(f"median time, {name}: {seconds * 1e3:.0f} ms" for name, seconds in times.items())]
        return "\n".join(lines)

    def page(self) -> str:
        """The worst cases of each kind of instruction, as HTML without links to other files."""
        parts = [_HEAD, f"<pre>{html.escape(self.table())}</pre>"]
        for kind, cases in sorted(self.worst.items()):
            parts.append(f"<h2>{html.escape(kind)}</h2>")
            parts += [_figure(case) for case in cases]
        return "\n".join([*parts, "</body></html>", ""])


@dataclasses.dataclass
class PromptResults:
    """All results of asking the segmenter alone, complete or broken off."""

    settings: Mapping[str, Any]
    """What was run, so that it can be repeated."""
    min_presence: float
    """A reply with a lower presence counts as refused."""
    replies: list[Reply] = dataclasses.field(default_factory=list)
    scenes: int = 0
    """Number of scenes about which everything was asked."""
    complete: bool = False

    def write(self, folder: Path) -> None:
        """Write prompts.json."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "prompts.json").write_text(self.json() + "\n", encoding="utf-8")

    def json(self) -> str:
        """Settings, and figures by kind of prompt. NaN becomes null."""
        scores = prompt_scores(self.replies, self.min_presence)
        content = {
            "settings": dict(self.settings),
            "complete": self.complete,
            "scenes_asked_about": self.scenes,
            "min_presence": self.min_presence,
            "presence_auc": presence_auc(self.replies),
            "prompts": {kind.value: dataclasses.asdict(s) for kind, s in scores.items()},
        }
        return json.dumps(without_nan(content), ensure_ascii=False, indent=1)

    def table(self) -> str:
        """The figures in columns, Markdown."""
        lines = [f"{name}: {value}" for name, value in self.settings.items()]
        if not self.complete:
            lines += [BROKEN_OFF, f"scenes until then: {self.scenes}"]
        lines += [f"refused: presence below tracker.min_presence, {self.min_presence:g}", ""]
        scores = prompt_scores(self.replies, self.min_presence)
        return "\n".join([*lines, prompt_table(scores, presence_auc(self.replies))])


def _answer_rows(table: Mapping[str, Mapping[str, Scores]]) -> list[str]:
    rows = []
    for grouping, groups in table.items():
        for group, s in groups.items():
            name = group_name(grouping, group)
            present = [_share(share) for share in (s.giou_present, s.boxes, s.right, s.false_refusals)]
            place = [_number(s.position_mm), _share(s.near)]
            absent = [f"{s.absent}", _share(s.refused), f"{s.problems}"]
            rows.append(
                [name, f"{s.answers}", _share(s.giou), _share(s.ciou), f"{s.present}", *present, *place, *absent]
            )
    head = ["", "N", "gIoU", "cIoU", "present", "gIoU", "box@0.5", "right", "refused", "3-D mm", f"<{NEAR_MM:.0f} mm"]
    return markdown_table([*head, "absent", "refused", "unread"], rows)


def _clip_rows(scores: Mapping[str, ClipScores]) -> list[str]:
    rows = []
    for start, s in scores.items():
        shares = [_share(share) for share in (s.both, s.region, s.boundary)]
        hidden = [f"{s.hidden}", _share(s.hidden_right)]
        rows.append([f"clips, from {start}", f"{s.targets}", *shares, *hidden, _number(s.position_mm)])
    return markdown_table(["", "targets", "J&F", "J", "F", "hidden", "said so", "3-D mm"], rows)


def prompt_table(scores: Mapping[PromptKind, PromptScores], auc: float) -> str:
    """The figures of `rsvp evaluate tabletop --prompts`, Markdown."""
    rows = [
        [kind.value, f"{s.replies}", *(_share(share) for share in (s.iou, s.iou_thin, s.right, s.refused))]
        for kind, s in scores.items()
    ]
    lines = markdown_table(["prompt", "N", "mIoU", "mIoU thin", "right", "refused"], rows)
    return "\n".join([*lines, "", f"AUC of presence: {_share(auc)}"])


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, with columns as wide as their content."""
    widths = [max(2, *(len(row[i]) for row in (head, *rows))) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [line(head), line(rule), *map(line, rows)]


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"


def without_nan(value: Any) -> Any:
    """The same lists and dictionaries with None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


# --- Pictures ---------------------------------------------------------------------------------------------------------

_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>The worst cases</title><style>
body { font: 14px/1.4 sans-serif; margin: 1.5em; color: #222; background: #fff; }
pre { overflow-x: auto; font-size: 12px; }
figure { display: inline-block; vertical-align: top; width: 656px; margin: 0 1.2em 1.5em 0; }
img { width: 324px; } q { font-weight: bold; } p { margin: .2em 0; }
.truth { color: #007f8c; } .found { color: #b0008a; }
</style></head><body>
<h1>The worst cases</h1>
<p>Of each kind of instruction, those with the lowest IoU. <span class="truth">Left, cyan: what is meant.</span>
<span class="found">Right, magenta: what was found.</span></p>"""


def _figure(case: Case) -> str:
    answer, view, instruction = case.answer, case.view, case.instruction
    truth = [view.mask(target) for target in instruction.targets]
    pictures = (
        draw_masks(view.image, truth, TRUTH_COLOR),
        draw_masks(view.image, [target.mask for target in case.predicted], PREDICTION_COLOR),
    )
    meant = [", ".join((name, *more)) for name, more in zip(instruction.names, instruction.attributes, strict=False)]
    found = [f"{t.description} (score {t.score:.2f}, presence {t.presence:.2f})" for t in case.predicted]
    novel = f", new: {', '.join(instruction.novel)}" if instruction.novel else ""
    lines = [
        f"<q>{html.escape(instruction.text)}</q> ({instruction.language}{novel})",
        f"scene {answer.scene}, IoU {answer.iou:.2f}",
        f'<span class="truth">Meant: {_listed(meant if instruction.targets else [])}</span>',
        f'<span class="found">Found: {_listed(found)}</span>',
        *(f"{html.escape(step.name)}: {html.escape(step.text)}" for step in case.reasoning.steps),
        *([f"Not understood: {html.escape(answer.problem)}"] if answer.problem else []),
    ]
    images = "".join(f'<img src="data:image/jpeg;base64,{_jpeg(picture)}" alt="">' for picture in pictures)
    return f"<figure>{images}{''.join(f'<p>{line}</p>' for line in lines)}</figure>"


def _listed(things: Sequence[str]) -> str:
    return html.escape("; ".join(things)) if things else "nothing"


def draw_masks(image: np.ndarray, masks: Sequence[np.ndarray | None], color: tuple[int, int, int]) -> np.ndarray:
    """A copy of an image, twice as large, with masks tinted and outlined in a colour.

    image: uint8 H x W x 3 RGB; masks: bool H x W.
    """
    size = (image.shape[1] * 2, image.shape[0] * 2)
    canvas = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    for mask in masks:
        if mask is None:
            continue
        large = cv2.resize(mask.view(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        inside = large.view(bool)
        canvas[inside] = (canvas[inside] * 0.6 + np.array(color) * 0.4).astype(np.uint8)
        contours, _ = cv2.findContours(large, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        for width, line in ((5, (0, 0, 0)), (2, color)):  # visible on light and on dark
            cv2.drawContours(canvas, contours, -1, line, width)
    return canvas


def _jpeg(image: np.ndarray) -> str:
    data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
    return base64.b64encode(data).decode("ascii")
