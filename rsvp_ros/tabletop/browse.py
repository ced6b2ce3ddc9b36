"""A contact sheet: scenes with what is said about them, the answers tinted, some reasoning in full.

Each instruction of a scene has a colour, and what it means is tinted in that colour; the other things, whose
masks are known too, have a thin outline.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from rsvp_ros.tabletop.instruction import Instruction
from rsvp_ros.tabletop.kinds import KINDS, is_held_out_pair
from rsvp_ros.tabletop.splits import Split
from rsvp_ros.tabletop.view import ObjectView, View
from rsvp_ros.types import Reasoning, ReasoningStep, RegionProposal
from rsvp_ros.visualization import (
    GREY,
    INK,
    PALETTE,
    Color,
    blend,
    font_index,
    pill_mask,
    reasoning_panel,
    shorten,
    text_mask,
    wrap_text,
)

GROUND: Color = (232, 233, 230)
CARD: Color = (252, 252, 251)
WHITE: Color = (255, 255, 255)
HELD_OUT: Color = (176, 42, 110)


@dataclass(frozen=True, eq=False)
class Scene:
    """A cell of the sheet."""

    split: Split
    seed: int
    view: View
    instructions: tuple[Instruction, ...]
    """All of them are shown, each in a colour."""


def drawable(text: str) -> bool:
    """Whether this machine has a font for each character."""
    return all(font_index(character, False) is not None for character in text)


def choose(
    view: View,
    instructions: Sequence[Instruction],
    count: int,
    shown: Counter,
    lead: Callable[[Instruction], bool] = lambda instruction: True,
) -> tuple[Instruction, ...]:
    """Some instructions about a view that differ in what they mean, in language, in kind, and from those chosen before.

    Those whose answers can be seen well are preferred; no two share a target.

    Args:
        shown: how often each language and kind was chosen before; updated here.
        lead: whether an instruction is wanted as the first one; if none is, any is taken.
    """
    chosen: list[Instruction] = []
    left = [instruction for instruction in instructions if drawable(instruction.text)]

    def badness(candidate: Instruction) -> float:
        alike = sum((other.language == candidate.language) + (other.kind == candidate.kind) for other in chosen)
        absent = candidate.absent and (3 * shown["absent"] + (0 if chosen else 9))
        unwanted = not chosen and not lead(candidate)
        seen = shown[candidate.language] / 4 + shown[candidate.kind]
        hidden = max((1 - min(view.object(i).visible, view.object(i).inside) for i in candidate.targets), default=0)
        return 20 * unwanted + 3 * alike + absent + seen + 4 * hidden

    while left and len(chosen) < count:
        best = min(left, key=badness)
        chosen.append(best)
        # A thing can have only one colour.
        left = [other for other in left if other is not best and not set(other.targets) & set(best.targets)]
        shown.update((best.language, best.kind, *(("absent",) * best.absent)))
    # Absent ones last: they have nothing in the picture.
    return tuple(sorted(chosen, key=lambda instruction: instruction.absent))


def contact_sheet(scenes: Sequence[Scene], columns: int = 3, cell_width: int = 400) -> np.ndarray:
    """The sheet, uint8 H x W x 3 RGB.

    Args:
        scenes: in reading order; the reasoning of the first instruction is written out beside the first scene and, if
            there are more than `columns`, beside the last.
        columns: cells in a row.
        cell_width: pixels; everything in a cell scales with it.
    """
    gap = cell_width // 20
    # A cell is a card, or None for the reasoning about the card before it, as high as its row.
    cells: list[tuple[Scene, np.ndarray | None]] = [(scene, _card(scene, cell_width)) for scene in scenes]
    if len(scenes) > columns:
        cells.append((scenes[-1], None))
    cells.insert(1, (scenes[0], None))
    width = columns * (cell_width + gap) + gap
    sheet = [_header(scenes, width, gap)]
    for start in range(0, len(cells), columns):
        row = cells[start : start + columns]
        height = max(cell_width if card is None else card.shape[0] for _, card in row)
        strip = np.full((height + gap, width, 3), GROUND, np.uint8)
        for column, (scene, card) in enumerate(row):
            x = gap + column * (cell_width + gap)
            strip[:height, x : x + cell_width] = CARD
            card = _reasoning(scene, height, cell_width) if card is None else card
            strip[: card.shape[0], x : x + cell_width] = card
        sheet.append(strip)
    return np.concatenate(sheet)


def _header(scenes: Sequence[Scene], width: int, gap: int) -> np.ndarray:
    """The title, and on the right what the marks mean."""
    size = round(gap * 1.25)
    header = np.full((round(size * 2.2), width, 3), GROUND, np.uint8)
    title = text_mask("The tabletop world", size, True)
    blend(header, gap, (header.shape[0] - title.shape[0]) // 2, title, INK)
    legend = [("coloured: what the instruction means", False, GREY), ("outlined: other things", False, GREY)]
    if any(_is_held_out(scene) for scene in scenes):
        legend.append(("◆ never in training", True, HELD_OUT))
    x = width - gap
    for text, bold, color in reversed(legend):
        mask = text_mask(text, round(size * 0.68), bold)
        x -= mask.shape[1]
        blend(header, x, (header.shape[0] - mask.shape[0]) // 2, mask, color)
        x -= gap
    return header


def _card(scene: Scene, width: int) -> np.ndarray:
    """The picture with the answers in it, the instructions below."""
    picture = draw_answers(scene.view, scene.instructions, width)
    margin, size = width // 40, max(10, round(width / 28))
    lines: list[np.ndarray] = [_caption(scene, width, margin, size)]
    for number, instruction in enumerate(scene.instructions):
        lines.append(_instruction_lines(instruction, PALETTE[number % len(PALETTE)], width, margin, size))
    lines.append(np.full((margin, width, 3), CARD, np.uint8))
    return np.concatenate([picture, *lines])


def draw_answers(view: View, instructions: Sequence[Instruction], width: int) -> np.ndarray:
    """The view's image `width` pixels wide; each instruction's targets lit in its colour, other things outlined."""
    # Drawn at twice the size, so that edges come out smooth.
    size = (2 * width, 2 * round(width * view.camera.height / view.camera.width))
    canvas = cv2.resize(view.image, size, interpolation=cv2.INTER_CUBIC)
    lit = _colors(instructions)
    unlit = {thing.id for thing in view.objects} - {target for target, _ in lit}
    for number, color in [(number, None) for number in sorted(unlit)] + lit:
        mask = cv2.resize(view.mask(number).astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
        mask = (mask >= 0.5).astype(np.uint8)
        # The rim goes around the thing, not on it: a fork is hardly wider than a line.
        around = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3) if color is None else (11, 11))
        rim = cv2.dilate(mask, around) - mask
        blend(canvas, 0, 0, rim * np.uint8(170 if color is None else 255), color or WHITE)
        if color is not None:
            blend(canvas, 0, 0, mask * np.uint8(40), color)
    return cv2.resize(canvas, (size[0] // 2, size[1] // 2), interpolation=cv2.INTER_AREA)


def _colors(instructions: Sequence[Instruction]) -> list[tuple[int, Color]]:
    """Each target and its colour, larger sets first: what several instructions mean gets the narrowest's colour."""
    numbered = sorted(enumerate(instructions), key=lambda pair: -len(pair[1].targets))
    return [(target, PALETTE[number % len(PALETTE)]) for number, one in numbered for target in one.targets]


def _caption(scene: Scene, width: int, margin: int, size: int) -> np.ndarray:
    """Split and seed, and what in the scene training never shows."""
    small = max(9, round(size * 0.8))
    origin = text_mask(f"{scene.split.value} {scene.seed}", small, False)
    line = np.full((origin.shape[0] + margin, width, 3), CARD, np.uint8)
    y = margin // 2 + 1
    blend(line, width - margin - origin.shape[1], y, origin, GREY)
    held_out = ", ".join(_held_out(scene))
    if held_out:
        space = width - 3 * margin - origin.shape[1]
        blend(line, margin, y, text_mask(shorten(f"◆ {held_out}", small, True, space), small, True), HELD_OUT)
    return line


def _held_out(scene: Scene) -> list[str]:
    """Things in sight that training never shows: kinds, and colours of kinds."""
    names = [_held_out_name(thing) for thing in scene.view.things]
    return sorted({name for name in names if name})


def _held_out_name(thing: ObjectView) -> str:
    if KINDS[thing.kind].held_out:
        return thing.kind
    return f"{thing.color} {thing.kind}" if is_held_out_pair(thing.kind, thing.color) else ""


def _is_held_out(scene: Scene) -> bool:
    return bool(_held_out(scene)) or any(instruction.novel for instruction in scene.instructions)


def _instruction_lines(instruction: Instruction, color: Color, width: int, margin: int, size: int) -> np.ndarray:
    """The language in a pill of the instruction's colour and what is said, on as many lines as it needs."""
    tag = text_mask(instruction.language.upper(), max(9, round(size * 0.8)), True)
    pill_width, pill_height = round(size * 2.1), round(size * 1.35)
    x = margin + pill_width + margin
    lines = wrap_text(instruction.text, size, False, width - x - margin)
    notes = []
    if instruction.absent:
        notes.append(("nothing of the kind here", GREY))
    if "words" in instruction.novel:
        notes.append(("◆ words never in training", HELD_OUT))
    advance = round(size * 1.35)
    small = max(9, round(size * 0.85))
    area = np.full((advance * len(lines) + (advance if notes else 0) + size // 2, width, 3), CARD, np.uint8)
    pill = pill_mask(pill_width, pill_height)
    blend(area, margin, 0, pill, GREY if instruction.absent else color)
    tag_x = margin + (pill_width - tag.shape[1]) // 2
    blend(area, tag_x, (pill_height - tag.shape[0]) // 2, tag, WHITE if instruction.absent else INK)
    y = 0
    for line in lines:
        blend(area, x, y, text_mask(line, size, False), INK)
        y += advance
    for note, note_color in notes:
        mask = text_mask(note, small, False)
        blend(area, x, y, mask, note_color)
        x += mask.shape[1] + margin
    return area


def _reasoning(scene: Scene, height: int, width: int) -> np.ndarray:
    """The chain of thought of a scene's first instruction."""
    instruction = scene.instructions[0]
    targets = [scene.view.object(target) for target in instruction.targets]
    proposals = [
        RegionProposal(thing.box, name, attributes)
        for thing, name, attributes in zip(targets, instruction.names, instruction.attributes, strict=False)
    ]
    reasoning = Reasoning(
        instruction=instruction.text,
        proposals=tuple(proposals),
        steps=tuple(ReasoningStep(step.name, step.text) for step in instruction.chain),
    )
    # All in the first colour, as in the picture.
    return reasoning_panel(reasoning, height, width, ids=(1,) * len(proposals))


def pick_scenes(
    views: Iterable[tuple[Split, int, View, Sequence[Instruction]]], count: int, instructions: int = 3
) -> list[Scene]:
    """The first `count` views about which something can be said, with the instructions to show.

    Of the two whose reasoning is shown, the first is in English and the last in another language, if there are such.
    """
    shown: Counter = Counter()
    scenes: list[Scene] = []
    for split, seed, view, candidates in views:
        lead = (lambda one: one.language == "en") if not scenes else (lambda one: one.language != "en")
        if chosen := choose(view, candidates, instructions, shown, lead):
            scenes.append(Scene(split, seed, view, chosen))
        if len(scenes) == count:
            break
    return scenes
