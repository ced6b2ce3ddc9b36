"""How well the small MLLM answers, by kind of instruction and by language: on its own, and given the true list.

If the true list does not help, reasoning is the limit; if it does, seeing is.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from rsvp_ros.errors import ParseError
from rsvp_ros.geometry import Box, RegionGrid
from rsvp_ros.reasoning.families import FAMILIES
from rsvp_ros.reasoning.mllm.model_folder import EMBEDDED_PROMPTS
from rsvp_ros.reasoning.parsing import parse_answer
from rsvp_ros.reasoning.visual_prompt import VisualPrompt
from rsvp_ros.tabletop.instruction import LANGUAGES
from rsvp_ros.training.mllm.chains import PRESENT, SCENE, Part, answer_words
from rsvp_ros.training.mllm.language import COLUMNS, ROWS, read_frames, rows_of, write_rows
from rsvp_ros.training.mllm.lessons import Lesson, Lessons, request_ids, spoken_words
from rsvp_ros.training.mllm.model import encode_images
from rsvp_ros.training.mllm.tokenizer import FAMILY, answer_ids
from rsvp_ros.training.mllm.views import network_image, to_patches

IMAGES_AT_ONCE = 4
MOST_TOKENS = 220
FOUND = 0.3
"""IoU of band regions from which on a region is taken to mean a thing."""
_THING = re.compile(r"#(\d+)(\[[\d,]+\])(\[[\d,]+\])([a-z ]+)")


@dataclass(frozen=True)
class Judged:
    """The outcome of one question."""

    kind: str
    language: str
    present: bool
    parsed: bool
    right: bool
    refused: bool
    listed: float
    """Share of the true list that the answer's list has, with the right place and name; NaN if there is no list."""


def measure(
    model: Qwen3VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    lessons: Lessons,
    views: Sequence[int],
    forced: bool,
    prompt: VisualPrompt = EMBEDDED_PROMPTS[0],
) -> list[Judged]:
    """Ask all questions about some views, in alternating languages; forced: with the true list given."""
    judged: list[Judged] = []
    frame, text = lessons.frame.to(model.device), model.model.language_model
    index = 0
    for start in range(0, len(views), IMAGES_AT_ONCE):
        chosen = views[start : start + IMAGES_AT_ONCE]
        images = np.stack([network_image(np.array(lessons.store.images[v]), prompt) for v in chosen])
        with torch.no_grad():
            patches = torch.from_numpy(to_patches(images)).to(model.device)
            _, merged = encode_images(model.model.visual, patches, ROWS, COLUMNS)
            cache = read_frames(text, frame, merged)
        rows = [(k, lesson) for k, v in enumerate(chosen) for lesson in lessons.lessons[v]]
        requests, lists, languages = [], [], []
        for _, lesson in rows:
            languages.append(_language(lesson, index))
            index += 1
            requests.append(request_ids(tokenizer, frame, prompt, lesson.texts[languages[-1]][0]))
            lists.append(_forced_list(tokenizer, lesson, prompt.rows))
        owners = torch.tensor([k for k, _ in rows], device=model.device)
        answers = write_rows(
            model, frame, rows_of(cache, owners), requests, MOST_TOKENS,
            tokenizer.eos_token_id, lists if forced else None, tokenizer(SCENE)["input_ids"][0],
        )  # fmt: skip
        for (_, lesson), language, ids in zip(rows, languages, answers, strict=True):
            said = tokenizer.decode([i for i in ids if i != tokenizer.eos_token_id])
            judged.append(judge(said, lesson, language, prompt))
    return judged


def _language(lesson: Lesson, index: int) -> str:
    known = [language for language in LANGUAGES if language in lesson.texts]
    wanted = LANGUAGES[index % len(LANGUAGES)]
    return wanted if wanted in known else known[index % len(known)]


def _forced_list(tokenizer: PreTrainedTokenizerFast, lesson: Lesson, bands: int) -> list[int | None]:
    """The true list's tokens; None where the network is to write its own (measures and flags)."""
    words = [answer_words()[k] for k in lesson.chains[bands]]
    ids = answer_ids(tokenizer, words)
    parts = [Part(int(part)) for part in lesson.parts]
    return [
        ids[k] if part is Part.LIST else None
        for k, part in enumerate(parts)
        if part in (Part.LIST, Part.MEASURE, Part.FLAG)
    ]


def judge(said: str, lesson: Lesson, language: str, prompt: VisualPrompt) -> Judged:
    """Compare an answer with the true one by the places and names of its things."""
    size = (320, 240)
    truth = "".join(spoken_words(lesson, prompt.rows, language))
    meant = parse_answer(truth, FAMILIES[FAMILY], size)
    grid = RegionGrid(prompt.rows, prompt.columns, *size)
    present = bool(meant.findings)
    listed = list(_listed(truth, grid))
    try:
        answer = parse_answer(said, FAMILIES[FAMILY], size)
        found = [(grid.box(f.rows, f.columns), f.name) for f in answer.findings]
    except (ParseError, ValueError, IndexError):
        return Judged(lesson.kind, language, present, False, False, False, _recall(said, listed, grid))
    if not listed:  # passed on to stage 2
        same = [(f.name, f.attributes, f.rows, f.columns) for f in answer.findings] == [
            (f.name, f.attributes, f.rows, f.columns) for f in meant.findings
        ]
        return Judged(lesson.kind, language, present, True, same, not found, math.nan)
    wanted = [(grid.box(f.rows, f.columns), f.name) for f in meant.findings]
    things = [(box, name.rpartition(" ")[2]) for box, name in listed]

    def thing(box: Box, name: str) -> int:
        """Which thing of the true list is meant; -1: none."""
        scores = [box.iou(other) + (0.5 if name.endswith(kind) else 0.0) for other, kind in things]
        best = int(np.argmax(scores)) if scores else -1
        return best if best >= 0 and box.iou(things[best][0]) >= FOUND else -1

    right = sorted({thing(*f) for f in found}) == sorted({thing(*w) for w in wanted}) and len(found) == len(wanted)
    return Judged(lesson.kind, language, present, True, right, not found, _recall(said, listed, grid))


def _listed(answer: str, grid: RegionGrid) -> Iterator[tuple[Box, str]]:
    """The things in an answer's list: where they are and what they are called."""
    _, _, scene = answer.partition(SCENE)
    for _, columns, rows, words in _THING.findall(scene.partition(PRESENT)[0]):
        name = re.sub(r" (size|x|fits|reference|other)\b.*", "", words).strip()
        ids = [[int(k) for k in span.strip("[]").split(",")] for span in (rows, columns)]
        if max(ids[0]) <= grid.rows and max(ids[1]) <= grid.columns:
            yield grid.box(*ids), name


def _recall(said: str, listed: Sequence[tuple[Box, str]], grid: RegionGrid) -> float:
    own = list(_listed(said, grid))
    hits = [any(name == n and box.iou(b) >= FOUND for b, n in own) for box, name in listed]
    return float(np.mean(hits)) if hits else math.nan


def figures(judged: Sequence[Judged], prefix: str = "") -> dict[str, float]:
    """Share of right answers (overall, by kind, by language), refusals, readable answers, and the list's recall."""
    groups: dict[str, list[float]] = defaultdict(list)
    for j in judged:
        groups["right"].append(j.right)
        groups[f"right, {j.kind}"].append(j.right)
        groups[f"right, {j.language}"].append(j.right)
        groups["parsed"].append(j.parsed)
        if not math.isnan(j.listed):
            groups["listed"].append(j.listed)
        groups["false refusals" if j.present else "absent refused"].append(j.refused)
    return {f"{prefix}{name}": float(np.mean(values)) for name, values in sorted(groups.items())}
