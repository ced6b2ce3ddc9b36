"""Pictures for people: targets on the camera's image, the region proposals, and the reasoning as text beside it.

The functions that return a picture do not change their input. All sizes scale with the image, from 320 x 240 to 4K.
Text may be in any script for which this machine has a font (for Chinese, Japanese and Korean e.g. Debian's
fonts-noto-cjk); other characters become their ASCII relatives or "?".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rsvp_ros.geometry import Box
from rsvp_ros.types import Reasoning, RegionProposal, Target, TargetState

Color = tuple[int, int, int]

PALETTE: tuple[Color, ...] = (
    (86, 180, 233),  # sky blue
    (230, 159, 0),  # orange
    (0, 158, 115),  # bluish green
    (204, 121, 167),  # reddish purple
    (240, 228, 66),  # yellow
    (213, 94, 0),  # vermillion
    (0, 114, 178),  # blue
)
"""Okabe and Ito's colours, which people who confuse red and green can also tell apart."""

INK: Color = (28, 32, 38)
SLATE: Color = (60, 65, 74)
GREY: Color = (112, 118, 128)
PAPER: Color = (250, 250, 248)


def target_color(target_id: int) -> Color:
    """The colour that a target has in every picture and in RViz, RGB."""
    return PALETTE[(target_id - 1) % len(PALETTE)]


# Targets and proposals on the image -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scale:
    """Line width and text size, pixels, for an image of this size."""

    line: int
    text: int

    @classmethod
    def of(cls, image: np.ndarray) -> _Scale:
        side = min(image.shape[:2])
        return cls(line=max(1, round(side / 320)), text=max(11, round(side / 32)))


def draw_targets(image: np.ndarray, targets: Iterable[Target]) -> np.ndarray:
    """A copy of the image with each target's mask, box and label (id, name, score), in the target's colour.

    An occluded target has a dashed box at its predicted place; a lost one is not drawn.

    Args:
        image: uint8 H x W x 3 RGB.
        targets: in that image; their masks bool H x W.
    """
    canvas = np.array(image, order="C")
    scale = _Scale.of(canvas)
    shown = [target for target in targets if target.state != TargetState.LOST]
    # Large ones first, so that what lies on or in front of another stays visible. Lines after all areas, so that none
    # is painted over.
    shown_large_first = sorted(shown, key=lambda target: -target.box.area)
    for target in shown_large_first:
        if target.mask is not None:
            _fill_mask(canvas, target.mask, target.box, target_color(target.id))
    for target in shown_large_first:
        if target.mask is not None:
            _draw_contour(canvas, target.mask, target.box, target_color(target.id), scale)
            _draw_corners(canvas, target.box, target_color(target.id), scale)
        else:
            _draw_dashed(canvas, target.box, target_color(target.id), scale)
    taken: list[Box] = []
    for target in shown:
        seen = target.state == TargetState.TRACKING
        _draw_label(
            canvas,
            target.box,
            f"{target.id} {target.name}".rstrip(),
            f"{target.score:.2f}" if seen else "occluded",
            target_color(target.id) if seen else GREY,
            scale,
            taken,
        )
    return canvas


def draw_proposals(image: np.ndarray, proposals: Sequence[RegionProposal]) -> np.ndarray:
    """A copy of the image with stage 1's regions lit, framed and named, and the rest darkened.

    Args:
        image: uint8 H x W x 3 RGB.
        proposals: of that image; without any, the copy is left as it is.
    """
    canvas = np.array(image, order="C")
    if not proposals:
        return canvas
    height, width = canvas.shape[:2]
    scale = _Scale.of(canvas)
    canvas = cv2.convertScaleAbs(canvas, alpha=0.5)
    for proposal in proposals:
        region = proposal.box.to_slices(width, height)
        canvas[region] = image[region]
    taken: list[Box] = []
    for number, proposal in enumerate(proposals, start=1):
        color = target_color(number)
        _draw_dashed(canvas, proposal.box, color, scale)
        _draw_label(canvas, proposal.box, proposal.description, "", color, scale, taken)
    return canvas


def _fill_mask(canvas: np.ndarray, mask: np.ndarray, box: Box, color: Color) -> None:
    region = box.to_slices(mask.shape[1], mask.shape[0])
    crop = np.ascontiguousarray(mask[region]).view(np.uint8)
    if crop.size:
        part = canvas[region]
        cv2.copyTo(cv2.LUT(part, _tint(color)), crop, part)


@lru_cache(maxsize=64)
def _tint(color: Color, opacity: float = 0.4) -> np.ndarray:
    """Lookup table that lays a translucent colour over a picture, 1 x 256 x 3."""
    values = np.arange(256)[None, :, None] * (1 - opacity) + np.array(color) * opacity
    return values.round().astype(np.uint8)


def _draw_contour(canvas: np.ndarray, mask: np.ndarray, box: Box, color: Color, scale: _Scale) -> None:
    ys, xs = box.to_slices(mask.shape[1], mask.shape[0])
    # An empty frame around it, so that the contour closes along the image's border, too.
    padded = np.pad(mask[ys, xs].view(np.uint8), 1)
    contours, _ = cv2.findContours(
        padded, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_TC89_KCOS, offset=(xs.start - 1, ys.start - 1)
    )
    _draw_lines(canvas, contours, True, color, scale)


def _draw_lines(canvas: np.ndarray, lines: Sequence[np.ndarray], closed: bool, color: Color, scale: _Scale) -> None:
    """Polylines with a dark outline, visible on any background; one-pixel lines have none, which would hide them."""
    if scale.line > 1:
        cv2.polylines(canvas, lines, closed, INK, scale.line + max(2, scale.line // 2), cv2.LINE_AA)
    cv2.polylines(canvas, lines, closed, color, scale.line, cv2.LINE_AA)


def _draw_corners(canvas: np.ndarray, box: Box, color: Color, scale: _Scale) -> None:
    """The box drawn as its four corners: as clear as a whole frame, and hides less."""
    x0, y0, x1, y1 = _pixels(box, canvas)
    arm = max(2 * scale.line, min(round(min(x1 - x0, y1 - y0) / 4), 8 * scale.line + 4))
    lines = [
        np.array([(x, y + dy * arm), (x, y), (x + dx * arm, y)], np.int32)
        for x, dx in ((x0, 1), (x1, -1))
        for y, dy in ((y0, 1), (y1, -1))
    ]
    _draw_lines(canvas, lines, False, color, scale)


def _draw_dashed(canvas: np.ndarray, box: Box, color: Color, scale: _Scale) -> None:
    x0, y0, x1, y1 = _pixels(box, canvas)
    dash = 5 * scale.line + 3
    lines = []
    for (ax, ay), (bx, by) in (((x0, y0), (x1, y0)), ((x1, y0), (x1, y1)), ((x1, y1), (x0, y1)), ((x0, y1), (x0, y0))):
        length = abs(bx - ax) + abs(by - ay)
        # An odd number of pieces, alternately drawn and left out, so that each side begins and ends with a dash.
        pieces = max(1, round(length / dash)) | 1
        at = np.linspace((ax, ay), (bx, by), pieces + 1).round().astype(np.int32)
        lines += [at[i : i + 2] for i in range(0, pieces, 2)]
    _draw_lines(canvas, lines, False, color, scale)


def _pixels(box: Box, canvas: np.ndarray) -> tuple[int, int, int, int]:
    """First and last column and row of the part of a box that is in the image."""
    height, width = canvas.shape[:2]
    x0, y0, x1, y1 = (round(value) for value in box.clip(width, height).as_tuple())
    x0, y0 = min(x0, width - 1), min(y0, height - 1)
    return x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)


def _draw_label(
    canvas: np.ndarray, box: Box, text: str, detail: str, color: Color, scale: _Scale, taken: list[Box]
) -> None:
    """A pill with the text in bold and the detail beside it, above the box or where there is room; added to `taken`."""
    height, width = canvas.shape[:2]
    margin, gap = max(2, scale.text // 3), max(2, scale.text // 3)
    detail_mask = text_mask(detail, scale.text, False) if detail else None
    detail_width = gap + detail_mask.shape[1] if detail_mask is not None else 0
    text = shorten(text, scale.text, True, width - 2 * margin - detail_width)
    name_mask = text_mask(text, scale.text, True)
    pill_height = name_mask.shape[0] + 2 * (margin // 2)
    pill_width = name_mask.shape[1] + detail_width + 2 * margin

    x0, y0, x1, y1 = _pixels(box, canvas)
    space = scale.line + 1
    above, below = y0 - pill_height - space, y1 + 1 + space
    wanted = [(x0, above), (x0, below), (x1 - pill_width, above), (x1 - pill_width, below)]
    wanted += [(x0, above - pill_height), (x0, below + pill_height), (x0, above - 2 * pill_height), (x0, y0)]
    pills = [_inside(Box.from_xywh(x, y, pill_width, pill_height), width, height) for x, y in wanted]

    def badness(i: int) -> float:
        """How much of other labels it hides, and how far it was moved up or down to fit into the image."""
        hidden = sum(pills[i].intersection(other) for other in taken)
        return hidden + pill_width * abs(pills[i].y0 - wanted[i][1])

    pill = pills[min(range(len(pills)), key=badness)]
    taken.append(pill)

    x, y = round(pill.x0), round(pill.y0)
    blend(canvas, x, y, pill_mask(pill_width, pill_height), color)
    ink = INK if _luminance(color) > 0.19 else (255, 255, 255)
    blend(canvas, x + margin, y + margin // 2, name_mask, ink)
    if detail_mask is not None:
        blend(canvas, x + margin + name_mask.shape[1] + gap, y + margin // 2, detail_mask, ink)


def _inside(box: Box, width: int, height: int) -> Box:
    """The box moved into the image; of one that is too large, the top left corner is inside."""
    x = max(min(box.x0, width - box.width), 0)
    y = max(min(box.y0, height - box.height), 0)
    return Box.from_xywh(x, y, box.width, box.height)


def _luminance(color: Color) -> float:
    """Relative luminance (WCAG 2), 0 to 1: decides whether dark or light text is easier to read on a colour."""
    r, g, b = ((c / 255) ** 2.2 for c in color)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def blend(canvas: np.ndarray, x: int, y: int, alpha: np.ndarray, color: Color) -> None:
    """Lay `color` on the canvas with opacity `alpha` (uint8), whose top left corner is at x, y."""
    height, width = canvas.shape[:2]
    left, top = max(-x, 0), max(-y, 0)
    alpha = alpha[top : max(height - y, 0), left : max(width - x, 0)]
    if not alpha.size:
        return
    y, x = y + top, x + left
    part = canvas[y : y + alpha.shape[0], x : x + alpha.shape[1]]
    weight = alpha[..., None].astype(np.uint16)
    weight += weight >> 7  # 0 to 256, so that a shift divides exactly and all fits into 16 bits
    part[:] = (part * (256 - weight) + np.array(color, np.uint16) * weight) >> 8


@lru_cache(maxsize=256)
def pill_mask(width: int, height: int) -> np.ndarray:
    """A rectangle with rounded corners as an opacity mask, uint8."""
    mask = Image.new("L", (width * 4, height * 4))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, width * 4 - 1, height * 4 - 1), radius=height * 4 // 4, fill=255)
    return np.asarray(mask.resize((width, height), Image.Resampling.BOX))


# Text -----------------------------------------------------------------------------------------------------------------

# File names, which Pillow looks up in the system's font folders. The first font present in each tuple is used.
_CJK_FONT_FILES = ("SourceHanSansSC-Regular.otf", "wqy-microhei.ttc", "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf")
_CJK_FONT_FILES += ("PingFang.ttc", "msyh.ttc", "Arial Unicode.ttf")
_FONT_FILES = {
    True: (
        ("DejaVuSans-Bold.ttf", "NotoSans-Bold.ttf", "LiberationSans-Bold.ttf", "Arial Bold.ttf", "arialbd.ttf"),
        ("NotoSansCJK-Bold.ttc", "NotoSansCJK-Regular.ttc", *_CJK_FONT_FILES),
    ),
    False: (
        ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "arial.ttf"),
        ("NotoSansCJK-Regular.ttc", *_CJK_FONT_FILES),
    ),
}


@lru_cache(maxsize=64)
def _fonts(size: int, bold: bool) -> tuple[ImageFont.FreeTypeFont, ...]:
    """The fonts to try for a character, in order; Pillow's own where the machine has none."""
    found = []
    for names in _FONT_FILES[bold]:
        for name in names:
            try:
                found.append(ImageFont.truetype(name, size))
                break
            except OSError:
                continue
    return tuple(found) or (ImageFont.load_default(size),)


@lru_cache(maxsize=4096)
def font_index(character: str, bold: bool) -> int | None:
    """Which of `_fonts` has a glyph for a character; None if none has. A missing glyph looks like U+FFFF's."""
    if character.isspace():
        return 0
    for index, font in enumerate(_fonts(24, bold)):
        glyph, missing = font.getmask(character), font.getmask("\uffff")
        if glyph.size != missing.size or bytes(glyph) != bytes(missing):
            return index
    return None


@lru_cache(maxsize=2048)
def _runs(text: str, bold: bool) -> tuple[tuple[str, int], ...]:
    """The text split into runs of one font each; characters that no font has are replaced."""
    runs: list[tuple[str, int]] = []
    for character in text:
        index = font_index(character, bold)
        if index is None:
            relatives = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
            character, index = relatives or "?", 0
        if runs and runs[-1][1] == index:
            runs[-1] = (runs[-1][0] + character, index)
        else:
            runs.append((character, index))
    return tuple(runs)


def _text_width(text: str, size: int, bold: bool) -> float:
    fonts = _fonts(size, bold)
    return sum(fonts[index].getlength(run) for run, index in _runs(text, bold))


@lru_cache(maxsize=1024)
def text_mask(text: str, size: int, bold: bool) -> np.ndarray:
    """One line of text as an opacity mask, uint8, equally high for all texts of a size. Cached: most labels recur."""
    fonts = _fonts(size, bold)
    ascent, descent = fonts[0].getmetrics()
    mask = Image.new("L", (max(1, int(np.ceil(_text_width(text, size, bold)))), ascent + descent))
    draw, x = ImageDraw.Draw(mask), 0.0
    for run, index in _runs(text, bold):
        draw.text((x, ascent), run, fill=255, font=fonts[index], anchor="ls")
        x += fonts[index].getlength(run)
    return np.asarray(mask)


def shorten(text: str, size: int, bold: bool, width: float) -> str:
    """The text, or as much of it as fits with an ellipsis."""
    text = " ".join(text.split())
    if _text_width(text, size, bold) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        fits = _text_width(text[:middle].rstrip() + "…", size, bold) <= width
        low, high = (middle, high) if fits else (low, middle - 1)
    return text[:low].rstrip() + "…"


# Where a line may break: after a space, and around each character of a script that is written without spaces.
_CJK = r"\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef"
_PIECES = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+\s*|\s+")


def wrap_text(text: str, size: int, bold: bool, width: int) -> list[str]:
    """Lines no wider than `width`; a single word that is wider is cut."""
    lines = []
    for paragraph in text.splitlines() or [""]:
        line = ""
        for piece in _PIECES.findall(paragraph):
            if line and _text_width(line + piece.rstrip(), size, bold) > width:
                lines.append(line.rstrip())
                line = ""
            while piece and _text_width(piece.rstrip(), size, bold) > width:
                count = next(n for n in range(1, len(piece) + 1) if _text_width(piece[: n + 1], size, bold) > width)
                lines.append(piece[:count])
                piece = piece[count:]
            line += piece
        if line.strip():
            lines.append(line.rstrip())
    return lines


def draw_text_bar(parts: Sequence[tuple[str, Color]], width: int, height: int) -> np.ndarray:
    """A dark bar of text to go under a picture or a video: what is too long for it is cut with an ellipsis.

    Args:
        parts: texts and their colours, placed side by side with a gap between them.
        width, height: pixels.

    Returns:
        uint8 height x width x 3 RGB.
    """
    bar = np.full((height, width, 3), INK, np.uint8)
    size, gap = max(9, round(height * 0.4)), round(height * 0.5)
    x = gap
    for text, color in parts:
        room = width - gap - x
        if room < 2 * size:
            break
        mask = text_mask(shorten(text, size, False, room), size, False)
        blend(bar, x, (height - mask.shape[0]) // 2, mask, color)
        x += mask.shape[1] + gap
    return bar


# The reasoning as text ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    text: str
    size: int
    bold: bool
    color: Color
    x: int
    advance: int
    dot: Color | None = None


def reasoning_panel(
    reasoning: Reasoning, height: int, width: int | None = None, complete: bool = True, ids: Sequence[int] = ()
) -> np.ndarray:
    """A page with the instruction, the steps of the chain of thought and what was found; to go beside the picture.

    The text is as large as the page allows; what does not fit at the smallest readable size is cut with an ellipsis.

    Args:
        reasoning: the whole reasoning, or what has been written of it so far.
        height: of the page, pixels: the same as the picture's.
        width: three quarters of the height if not given.
        complete: whether the reasoning is finished: only then does the page say what was found, or that nothing was.
        ids: of the proposals' targets, for their colours; without any, the proposals are numbered from 1.

    Returns:
        uint8 height x width x 3 RGB.
    """
    width = width or max(160, height * 3 // 4)
    panel = np.full((height, width, 3), PAPER, np.uint8)
    largest, smallest = max(10, round(height / 26)), max(9, round(height / 60))
    for size in range(largest, smallest - 1, -1):
        lines = _panel_lines(reasoning, complete, size, width, ids)
        y, bottom = round(1.2 * size), height - round(2.2 * size)
        if y + sum(line.advance for line in lines) <= bottom:
            break
    footer = _Line(_footer(reasoning), max(9, round(size * 0.75)), False, GREY, 0, 0)
    for line in lines:
        if y + line.advance > bottom:
            blend(panel, line.x, y, text_mask("…", line.size, line.bold), line.color)
            break
        if line.dot:
            radius = max(2, round(line.size * 0.28))
            center = (line.x - round(0.9 * line.size), y + round(0.68 * line.size))
            cv2.circle(panel, center, radius, line.dot, -1, cv2.LINE_AA)
        blend(panel, line.x, y, text_mask(line.text, line.size, line.bold), line.color)
        y += line.advance
    margin = round(1.2 * size)
    text = shorten(footer.text, footer.size, False, width - 2 * margin)
    blend(panel, margin, height - round(1.8 * size), text_mask(text, footer.size, False), GREY)
    panel[:, : max(2, size // 6)] = PALETTE[0]
    return panel


def _footer(reasoning: Reasoning) -> str:
    parts = [reasoning.model] if reasoning.model else []
    parts += [f"{reasoning.duration_s:.1f} s"] if reasoning.duration_s >= 0.05 else []
    parts += [f"{reasoning.completion_tokens} tokens"] if reasoning.completion_tokens else []
    return "  ·  ".join(parts)


def _panel_lines(reasoning: Reasoning, complete: bool, size: int, width: int, ids: Sequence[int] = ()) -> list[_Line]:
    """The page's lines at a text size, top to bottom."""
    margin, indent = round(1.2 * size), round(2.6 * size)
    told = {"", *(step.text for step in reasoning.steps)}
    lines: list[_Line] = []

    def add(text: str, x: int, size: int, bold: bool, color: Color, after: float, dot: Color | None = None) -> None:
        wrapped = wrap_text(text, size, bold, width - x - margin)
        for i, line in enumerate(wrapped):
            last = i == len(wrapped) - 1
            advance = round(1.35 * size) + (round(after * size) if last else 0)
            lines.append(_Line(line, size, bold, color, x, advance, dot if i == 0 else None))

    add(reasoning.instruction, margin, round(1.3 * size), True, INK, 0.7)
    for step in reasoning.steps:
        add(step.name.capitalize(), indent, size, True, INK, 0, GREY)
        add(step.text, indent, size, False, SLATE, 0.6)
    if complete and not reasoning.found:
        add("Not in this image", indent, size, True, INK, 0, PALETTE[5])
    proposals = reasoning.proposals if complete else ()
    numbers = ids if len(ids) == len(proposals) else range(1, len(proposals) + 1)
    for number, proposal in zip(numbers, proposals, strict=True):
        add(proposal.description, indent, size, True, INK, 0, target_color(number))
        if proposal.reason not in told:
            add(proposal.reason, indent, size, False, SLATE, 0.4)
    return lines
