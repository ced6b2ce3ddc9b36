"""Read what an MLLM answered: the steps of its thought, and where the targets are, in pixels of the image.

One parser for all families: `_EXTRACTORS` is an ordered table of the ways in which models write regions, and the first
that finds something wins. What the numbers mean comes from the `Family`. Malformed text is repaired where only one
reading is possible; else ParseError says what was wrong, in words that can be sent back to the model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from rsvp_ros.errors import ParseError
from rsvp_ros.geometry import Box
from rsvp_ros.reasoning import lenient_json
from rsvp_ros.reasoning.families import Family, Size
from rsvp_ros.reasoning.lenient_json import Array, Object, Value
from rsvp_ros.types import ReasoningStep

MAX_CHARACTERS = 2**20
"""Longer answers are refused; one that lists a thousand masks is shorter."""
MAX_ID = 9999
"""Largest ID of a band or a mark."""
MAX_RANGE = 200
"""Widest range of IDs, such as "3-5", that is filled in; of a wider one only the ends are kept."""
OVERSHOOT = 1.05
"""Factor on a relative scale: coordinates up to there are clipped, larger ones were not meant in this scale."""
MIN_AREA = 1.0
"""Smallest area of a box, square pixels of the original image."""


@dataclass(frozen=True)
class Finding:
    """One target as the model gave it. At least one of bands, marks, box and point is there."""

    name: str = ""
    attributes: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()
    """IDs, ascending, as the model wrote them: whether they are on the grid is not known here."""
    columns: tuple[int, ...] = ()
    marks: tuple[int, ...] = ()
    box: Box | None = None
    """Pixels of the original image, clipped to it, at least 1 square pixel."""
    point: tuple[float, float] | None = None
    """(x, y), pixels of the original image, inside it."""
    reason: str = ""
    text: str = ""
    """The passage of the answer that gives it, shortened."""


@dataclass(frozen=True)
class Answer:
    """An MLLM's answer to the whole question, or to one turn of the chain of thought."""

    steps: tuple[ReasoningStep, ...] = ()
    present: bool | None = None
    """Whether the target is in the image; None where the answer does not say."""
    findings: tuple[Finding, ...] = ()
    """Empty unless `present`; also empty where a turn only asked whether the target is there."""
    refused: tuple[str, ...] = ()
    """Regions that were not usable, each with its text and what is wrong with it."""


def parse_answer(text: str, family: Family, image_size: Size, model_image_size: Size | None = None) -> Answer:
    """Read a complete answer.

    `image_size`, `model_image_size`: (width, height) of the original image, and of the image that the model saw, if
    known. Raises ParseError where the answer has no usable region and does not say whether the target is in the image
    either, where it contradicts itself, and where it was cut off too early.
    """
    if len(text) > MAX_CHARACTERS:
        raise ParseError(f"the answer has {len(text)} characters, more than {MAX_CHARACTERS}; give only the regions")
    thought, body = split_thought(_encodable(text))
    values = lenient_json.read(body)
    reading = next(filter(None, (extract(body, values, family) for extract in _EXTRACTORS)), _Reading())
    findings, refused = _locate(reading, family, image_size, model_image_size)
    present = _presence(reading, bool(findings), refused, thought, body)
    return Answer(_steps(thought or _prose(body, values), reading), present, findings, tuple(refused))


def is_prose(text: str) -> bool:
    """Whether an answer holds neither an object nor a tag; all families say in one of these where something is."""
    return not set(split_thought(_encodable(text[:MAX_CHARACTERS]))[1]) & set("{<")


def partial_steps(text: str) -> tuple[ReasoningStep, ...]:
    """The steps in an answer that is still being written; the last one may be unfinished. Never raises."""
    thought, body = split_thought(_UNFINISHED_TAG.sub("", _encodable(text[:MAX_CHARACTERS])))
    try:
        values = lenient_json.read(body)
    except ParseError:
        values = []
    reading = _from_objects(body, values, None, partial=True)
    return _steps(thought or _prose(body, values, MIN_PROSE if reading else 1), reading)


# ---- what the model wrote, in its own numbers


@dataclass
class _Item:
    """One object in the answer, numbers in the family's units."""

    text: str
    name: str = ""
    attributes: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()
    columns: tuple[int, ...] = ()
    marks: tuple[int, ...] = ()
    boxes: list[tuple[float, ...]] = field(default_factory=list)
    points: list[tuple[float, ...]] = field(default_factory=list)
    reason: str = ""

    def describe(self) -> str:
        ids = (("rows", self.rows), ("columns", self.columns), ("marks", self.marks))
        parts = [f"{name} {', '.join(map(str, values))}" for name, values in ids if values]
        parts += [f"[{', '.join(f'{n:g}' for n in numbers)}]" for numbers in (*self.boxes, *self.points)]
        return ": ".join(filter(None, (self.name, "; ".join(parts))))


@dataclass
class _Reading:
    """What an extractor understood."""

    items: list[_Item] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    steps: dict[str, str] = field(default_factory=dict)
    present: bool | None = None
    empty: bool = False
    """Whether a list of objects, or an object's list of bands, is there but empty: RSVP's sign for "absent"."""
    cut: bool = False
    """The text ended in the middle of an object."""

    def __bool__(self) -> bool:
        return bool(self.items or self.refused or self.steps or self.empty or self.cut) or self.present is not None

    def add(self, text: str, numbers: Sequence[float], name: str = "") -> None:
        """Add a box or a point, depending on how many numbers there are."""
        if len(numbers) in _EITHER:
            item = _Item(_shorten(text), name)
            (item.boxes if len(numbers) == 4 else item.points).append(tuple(numbers))
            self.items.append(item)
        else:
            self.refused.append(f"{_quote(text)} has {len(numbers)} numbers, not 2 or 4")


# ---- JSON objects

_BOX, _POINT, _EITHER = (4,), (2,), (2, 4)
_REGION_KEYS = {
    **dict.fromkeys(("bbox_2d", "box_2d", "bbox2d", "box2d", "bbox", "box", "bounding_box"), _BOX),
    **dict.fromkeys(("bboxes", "boxes", "bboxes_2d", "boxes_2d", "bounding_boxes"), _BOX),
    **dict.fromkeys(("point_2d", "point2d", "point", "points", "points_2d"), _POINT),
    **dict.fromkeys(("coordinate", "coordinates"), _EITHER),
}
_ID_KEYS = {
    **dict.fromkeys(("rows", "row", "row_ids", "horizontal_ids"), "rows"),
    **dict.fromkeys(("columns", "column", "cols", "col", "column_ids", "vertical_ids"), "columns"),
    **dict.fromkeys(("marks", "mark", "mark_ids"), "marks"),
}
_NAME_KEYS = ("name", "label", "label_en", "name_en", "object", "object_name", "class", "category", "target")
_ATTRIBUTE_KEYS = ("attributes", "attribute")
_REASON_KEYS = ("reason", "reasoning", "explanation")
_LIST_KEYS = {"objects", "targets", "detections", "findings"}
_STEP_KEYS = {
    **dict.fromkeys(("thought", "thinking"), "thought"),
    "target": "target",
    "scene": "scene",
    **dict.fromkeys(("present", "presence", "is_present"), "presence"),
    **dict.fromkeys(_REASON_KEYS, "reason"),
}
_CORNER_KEYS = (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"), ("left", "top", "right", "bottom"))
_NUMBER = re.compile(r"[-+]?(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})(?:[eE][-+]?\d{1,3})?")
_IDS = re.compile(r"(\d{1,9})(?:\s{0,3}(?:-|\u2013|\u2014|~|\.\.|to|through)\s{0,3}(\d{1,9}))?")
_YES = {"yes", "true", "1", "present", "visible", "ja", "oui", "si", "s\u00ed", "sim"}
_YES |= {"\u662f", "\u6709", "\u306f\u3044"}
_NO = {"no", "false", "0", "absent", "not", "none", "nein", "non", "n\u00e3o"}
_NO |= {"\u5426", "\u6ca1\u6709", "\u3044\u3044\u3048"}


def _from_objects(body: str, values: list[Array | Object], family: Family | None, partial: bool = False) -> _Reading:
    """`{"target": ..., "objects": [{"name": ..., "bbox_2d": [...]}]}` and every other JSON with objects in it."""
    reading = _Reading()

    def visit(value: Value) -> None:
        if isinstance(value, Array):
            for child in value.values:
                visit(child)
        elif isinstance(value, Object):
            members = {re.sub(r"[\s-]+", "_", key.strip().lower()): child for key, child in value.members.items()}
            is_item = any(key in _REGION_KEYS or key in _ID_KEYS for key in members)
            if is_item and not (value.complete or partial):
                reading.cut = True
            elif is_item:
                _read_object(value, members, body, family, reading)
            _read_steps(members, is_item, reading)
            for key, child in members.items():
                if key not in _REGION_KEYS and key not in _ID_KEYS:
                    visit(child)
                if key in _LIST_KEYS:
                    reading.empty |= child is None or (isinstance(child, Array) and child.complete and not child.values)

    if not partial:
        values = _last_answer(values)
    for value in values:
        visit(value)
    if reading:
        reading.cut |= not all(value.complete for value in values)
        for item in reading.items:
            item.name = item.name or _shorten(reading.steps.get("target", ""))
    elif len(values) == 1 and isinstance(values[0], Array):
        reading.empty = values[0].complete and not values[0].values  # the whole answer is []
    return reading


def _last_answer(values: list[Array | Object]) -> list[Array | Object]:
    """The values from the last of several complete answers on: a model that corrects itself means that one."""
    answers = [v for v in values if isinstance(v, Object) and v.complete and _LIST_KEYS & _keys(v)]
    return [v for v in values if v.start >= answers[-1].start] if len(answers) > 1 else values


def _keys(value: Object) -> set[str]:
    return {key.strip().lower() for key in value.members}


def _read_object(value: Object, members: dict[str, Value], body: str, family: Family | None, reading: _Reading) -> None:
    """An object that has a region: add it to the items, or to what is refused."""
    text = body[value.start : value.end]
    if value.repeated:
        reading.refused.append(f'{_quote(text)} has "{_shorten(value.repeated)}" twice')
        return
    item = _Item(
        _shorten(text),
        name=next((name for key in _NAME_KEYS if (name := _to_text(members.get(key)))), ""),
        attributes=next((_to_texts(members[key]) for key in _ATTRIBUTE_KEYS if key in members), ()),
        reason=next((reason for key in _REASON_KEYS if (reason := _to_text(members.get(key)))), ""),
        **{_ID_KEYS[key]: _to_ids(child) for key, child in members.items() if key in _ID_KEYS},
    )
    refused = []
    for key, child in members.items():
        lengths = _REGION_KEYS.get(key)
        if _is_empty(child):
            continue
        if key in _ID_KEYS and not _to_ids(child):
            refused.append(f'"{key}" {_quote(_source(child, body))} has no IDs')
        if lengths is None:
            continue
        for numbers in _to_regions(child, family is not None and family.axes == "yx", lengths != _POINT):
            if numbers is None or len(numbers) not in lengths:
                refused.append(f'"{key}" {_quote(_source(child, body))} is not {_expected(lengths, family)}')
            else:
                (item.boxes if len(numbers) == 4 else item.points).append(numbers)
    reading.refused += dict.fromkeys(refused)
    if item.boxes or item.points or item.rows or item.columns or item.marks:
        reading.items.append(item)
    elif not refused:
        reading.empty = True


def _read_steps(members: dict[str, Value], is_item: bool, reading: _Reading) -> None:
    for key, child in members.items():
        step = _STEP_KEYS.get(key)
        if step is None or (is_item and step == "reason" and "target" not in members):
            continue
        if step == "presence" and reading.present is None:
            reading.present = _to_truth(child)
        if isinstance(child, bool):
            reading.steps.setdefault(step, "yes" if child else "no")
        elif words := _to_text(child):
            reading.steps.setdefault(step, words)


def _is_empty(value: Value) -> bool:
    if isinstance(value, Array):
        return all(map(_is_empty, value.values))
    return value is None or (isinstance(value, str) and value.strip().lower() in ("", "none", "n/a", "-"))


def _source(value: Value, body: str) -> str:
    return body[value.start : value.end] if isinstance(value, (Array, Object)) else _to_text(value)


def _expected(lengths: tuple[int, ...], family: Family | None) -> str:
    box = "[y, x, y, x]" if family is not None and family.axes == "yx" else "[x, y, x, y]"
    return " or ".join({4: f"a box {box} of four numbers", 2: "a point of two numbers"}[n] for n in lengths)


def _to_regions(value: Value, y_first: bool, corners_in_pairs: bool) -> Iterator[tuple[float, ...] | None]:
    """The numbers of each box or point in a value; None for what is not numbers."""
    numbers = _to_named_numbers(value, y_first) if isinstance(value, Object) else _to_numbers(value)
    if numbers is None and isinstance(value, Array):
        regions = [region for child in value.values for region in _to_regions(child, y_first, corners_in_pairs)]
        if corners_in_pairs and len(regions) == 2 and all(region and len(region) == 2 for region in regions):
            regions = [regions[0] + regions[1]]
        yield from regions
    else:
        yield numbers


def _to_numbers(value: Value) -> tuple[float, ...] | None:
    """`[1, "2", 3, 4]` or `"1, 2, 3, 4"` as numbers; None where it is something else."""
    if isinstance(value, str):
        words = list(filter(None, re.split(r"[\s,;\[\](){}]+", value[:200])))
        numbers = tuple(map(lenient_json.to_number, words))
    else:
        numbers = tuple(map(_to_number, value.values)) if isinstance(value, Array) else ()
    return numbers if numbers and None not in numbers else None


def _to_named_numbers(value: Object, y_first: bool) -> tuple[float, ...] | None:
    """`{"x1": 1, "y1": 2, "x2": 3, "y2": 4}` and the like, in the family's order; None where it is something else."""
    named = {key.strip().lower().replace("_", ""): _to_number(child) for key, child in value.members.items()}
    if all(named.get(key) is not None for key in ("x", "y", "width", "height")):
        named |= {"x1": named["x"], "y1": named["y"]}
        named |= {"x2": named["x"] + named["width"], "y2": named["y"] + named["height"]}
    for keys in (*_CORNER_KEYS, ("x", "y")):
        if all(named.get(key) is not None for key in keys):
            pairs = [(named[x], named[y]) for x, y in zip(keys[::2], keys[1::2], strict=True)]
            return tuple(n for pair in pairs for n in (reversed(pair) if y_first else pair))
    return None


def _to_number(value: Value) -> float | None:
    if isinstance(value, str):
        return lenient_json.to_number(value.strip())
    return value if isinstance(value, float) else None


def _to_text(value: Value) -> str:
    if isinstance(value, Array):
        return ", ".join(filter(None, map(_to_text, value.values)))
    if isinstance(value, Object):
        return ", ".join(filter(None, map(_to_text, value.members.values())))
    if isinstance(value, float):
        return f"{value:g}"
    return value.strip() if isinstance(value, str) else ""


def _to_texts(value: Value) -> tuple[str, ...]:
    values = value.values if isinstance(value, Array) else _to_text(value).split(",")
    return tuple(dict.fromkeys(text.strip() for text in map(_to_text, values) if text.strip()))


def _to_ids(value: Value) -> tuple[int, ...]:
    """Band or mark IDs from `[3, 4]`, `3`, `"3-5"`, `["row 3", "row 4"]`, ascending."""
    ids: set[int] = set()
    for child in value.values if isinstance(value, Array) else [value]:
        if isinstance(child, Array):
            ids.update(_to_ids(child))
        elif isinstance(child, float) and child.is_integer():
            ids.add(int(child))
        elif isinstance(child, str):
            for first, last in _IDS.findall(child[:1000]):
                low, high = sorted((int(first), int(last or first)))
                ids.update(range(low, high + 1) if high - low <= MAX_RANGE else (low, high))
    return tuple(sorted(i for i in ids if 0 <= i <= MAX_ID))


def _to_truth(value: Value) -> bool | None:
    if isinstance(value, bool):
        return value
    word = re.match(r"\W*(\w*)", _to_text(value)[:100].lower())[1]
    return True if word in _YES else False if word in _NO else None


# ---- tags and special tokens

_TAG = re.compile(
    r"""(?:<ref>|<\|ref\|>|<\|object_ref_start\|>)(?P<name>[^<]*)
    | (?:<box>|<quad>|<\|det\|>|<\|box_start\|>)(?P<region>(?:[^<]|<\d{1,9}>)*)
      (?:</box>|</quad>|<\|/det\|>|<\|box_end\|>)""",
    re.VERBOSE,
)
_LOCATION_TOKENS = re.compile(r"(?:<loc(?P<underscore>_?)\d{1,4}>)(?:<loc_?\d{1,4}>)*")
_POINT_TAG = re.compile(r"<points?\b(?P<attributes>[^<>]*)>(?P<text>[^<]*)")
_COORDS_ATTRIBUTE = re.compile(r"""\bcoords\s{0,3}=\s{0,3}["']([^"']*)["']""")
_POINT_ATTRIBUTE = re.compile(r"""\b([xy])(\d{0,4})\s{0,3}=\s{0,3}["']?\s{0,3}([-+.\deE]{1,30})""")
_ALT_ATTRIBUTE = re.compile(r"""\balt\s{0,3}=\s{0,3}(?:"([^"]*)"|'([^']*)')""")


def _from_tags(body: str, values: list[Array | Object], family: Family) -> _Reading:
    """`<ref>name</ref><box>(x1,y1),(x2,y2)</box>` and its relatives.

    Qwen-VL, Qwen2-VL: `<|box_start|>(x1,y1),(x2,y2)<|box_end|>`; InternVL: `<box>[[x1, y1, x2, y2], ...]</box>`;
    DeepSeek-VL2: `<|det|>[[...]]<|/det|>`; Rex-Omni: `<|box_start|><x1><y1><x2><y2>,...<|box_end|>`.
    """
    reading, name = _Reading(), ""
    for match in _TAG.finditer(body):
        if match["region"] is None:
            name = match["name"].strip().rstrip(".")
            continue
        numbers = [float(n) for n in _NUMBER.findall(match["region"])]
        reading.empty |= not numbers
        _add_regions(reading, match[0], numbers, name)
    return reading


def _from_location_tokens(body: str, values: list[Array | Object], family: Family) -> _Reading:
    """PaliGemma: `<loc0046><loc0538><loc0795><loc1022> cat ; ...`; Florence-2: `cat<loc_46><loc_538>...`."""
    reading = _Reading()
    matches = list(_LOCATION_TOKENS.finditer(body))
    for i, match in enumerate(matches):
        if match["underscore"]:
            name = body[matches[i - 1].end() if i else 0 : match.start()]
        else:
            name = body[match.end() : matches[i + 1].start() if i + 1 < len(matches) else None].split(";")[0]
        name = re.sub(r"<[^<>]{0,40}>", " ", name).strip()
        _add_regions(reading, match[0] + name, [float(n) for n in re.findall(r"\d+", match[0])], name)
    return reading


def _add_regions(reading: _Reading, text: str, numbers: list[float], name: str) -> None:
    """Numbers that stand together without structure: a point, boxes, or the corners of a quadrangle or polygon."""
    boxes = [numbers[i : i + 4] for i in range(0, len(numbers), 4)]
    if len(numbers) % 4 == 0 and (len(boxes) == 1 or all(x0 < x1 and y0 < y1 for x0, y0, x1, y1 in boxes)):
        for box in boxes:
            reading.add(text, box, name)
    elif len(numbers) >= 6 and len(numbers) % 2 == 0:
        xs, ys = numbers[::2], numbers[1::2]
        reading.add(text, (min(xs), min(ys), max(xs), max(ys)), name)
    elif numbers:
        reading.add(text, numbers, name)


def _from_point_tags(body: str, values: list[Array | Object], family: Family) -> _Reading:
    """Molmo, Qwen2.5-VL: `<points x1="32.0" y1="62.8" x2="68.5" y2="62.8" alt="speakers">speakers</points>`.

    Molmo2: `<points coords="1 1 525 366 2 700 400">speakers</points>`: the number of the image, then each point's
    number, x and y; a tab, a comma, a colon or a semicolon separates several images.
    """
    reading = _Reading()
    for match in _POINT_TAG.finditer(body):
        alt = _ALT_ATTRIBUTE.search(match["attributes"])
        name = (match["text"].strip() or (alt and (alt[1] or alt[2])) or "").strip()
        if coords := _COORDS_ATTRIBUTE.search(match["attributes"]):
            _add_coords(reading, match[0], coords[1], name, family)
            continue
        points: dict[str, dict[str, float]] = {}
        for axis, index, number in _POINT_ATTRIBUTE.findall(match["attributes"]):
            value = lenient_json.to_number(number)
            if value is not None:
                points.setdefault(index, {})[axis] = value
        for point in points.values():
            if point.keys() == {"x", "y"}:
                numbers = (point["x"], point["y"]) if family.axes == "xy" else (point["y"], point["x"])
                reading.add(match[0], numbers, name)
            else:
                reading.refused.append(f"{_quote(match[0])} has a point without an x or a y")
    return reading


def _add_coords(reading: _Reading, text: str, coords: str, name: str, family: Family) -> None:
    for of_image in filter(str.strip, re.split(r"[\t,:;]", coords)):
        _, *numbers = map(lenient_json.to_number, of_image.split())
        if not numbers or None in numbers or len(numbers) % 3:
            reading.refused.append(f"{_quote(text)} is not an image's number and then number, x and y of each point")
            continue
        for x, y in zip(numbers[1::3], numbers[2::3], strict=True):
            reading.add(text, (x, y) if family.axes == "xy" else (y, x), name)


# ---- plain text

_BAND_WORDS = {
    key: re.compile(
        rf"\b(?:{words})\b(?:\W{{0,3}}(?:ids?|numbers?|are|is)\b)?[^\w\n]{{0,5}}"
        r"(\d{1,4}(?:\s{0,3}(?:,|;|and|to|through|&|-|\u2013|\.\.)\s{0,3}\d{1,4}\b)*)",
        re.IGNORECASE,
    )
    for key, words in (("rows", "rows?"), ("columns", "columns?|cols?"), ("marks", "marks?"))
}


def _from_lists(body: str, values: list[Array | Object], family: Family) -> _Reading:
    """`[577, 224, 638, 310]`, `[(376, 309), (332, 357)]`, "rows 3 and 4, column 5" in plain text."""
    reading = _Reading()
    bands = {key: match for key, pattern in _BAND_WORDS.items() if (match := pattern.search(body))}
    lists = []
    for array in _lists_of_numbers(values):
        if any(match.start() < array.end and array.start < match.end() for match in bands.values()):
            continue
        if not array.complete:
            reading.cut = True
        elif len(array.values) > 1:  # one number is a footnote
            lists.append((array.start, array.end, _to_numbers(array)))
    if family.pairs_are_corners:
        lists = _join_corners(lists, body)
    for start, end, numbers in lists:
        reading.add(body[start:end], numbers)
    ids = {key: _to_ids(match[1].replace("and", ",")) for key, match in bands.items()}
    if not reading.items and (words := _from_words(body, values, family)):
        return words
    if any(ids.values()):
        if len(reading.items) == 1:
            reading.items = [replace(reading.items[0], **ids)]
        elif not reading.items:
            start, end = min(m.start() for m in bands.values()), max(m.end() for m in bands.values())
            reading.items = [_Item(_shorten(body[start:end]), **ids)]
    return reading


def _lists_of_numbers(values: Iterable[Value]) -> Iterator[Array]:
    for value in values:
        if isinstance(value, Array):
            if _to_numbers(value) is not None:
                yield value
            else:
                yield from _lists_of_numbers(value.values)


_NumberList = tuple[int, int, tuple[float, ...]]


def _join_corners(lists: list[_NumberList], body: str) -> list[_NumberList]:
    """Join `(x1,y1),(x2,y2)`, which is what is left of a box without its tags, into one box."""
    joined: list[_NumberList] = []
    for start, end, numbers in lists:
        if joined and len(joined[-1][2]) == len(numbers) == 2 and body[joined[-1][1] : start].strip() == ",":
            first = joined.pop()
            joined.append((first[0], end, first[2] + numbers))
        else:
            joined.append((start, end, numbers))
    return joined


_IMAGE_WORDS = r"(?:the|this|your)\ (?:image|picture|photo|photograph|scene|frame|view)\b"
_ABSENT = re.compile(
    rf"""\b(?:not|n['\u2019]t)(?:\ be)?(?:\ (?:present|visible|shown|found|seen|depicted))?(?:\ anywhere)?
        \ in\ {_IMAGE_WORDS}
    | (?:\A\W*|[.!?\n]\s{{0,3}}|\b(?:is|are|contains?|shows?|see|has|have|find)\ )
        no\ (?:[\w-]{{1,40}}\ ){{1,6}}in\ {_IMAGE_WORDS}
    | \bthere\ (?:is|are)\ no\ such\b
    | \A\W*(?:none|null|n/a|not\ (?:present|found|visible|there))\W*\Z""",
    re.IGNORECASE | re.VERBOSE,
)
_YES_OR_NO = re.compile(r"\W{0,9}(\w{1,9})\s{0,3}(?:[,.;:!\n\u3002\uff0c]|\Z)")


def _from_words(body: str, values: list[Array | Object], family: Family) -> _Reading:
    """`Yes`, `No, ...`, `There are no scissors in the image`."""
    reading = _Reading()
    if _ABSENT.search(body):
        reading.present = False
    elif match := _YES_OR_NO.match(body):
        reading.present = None if match[1].isdigit() else _to_truth(match[1])
    if reading.present is not None:
        reading.steps["presence"] = body.strip()
    return reading


_ABSENT_AT_LAST = re.compile(
    r'"(?:is_)?presen(?:t|ce)"\s*:\s*false\s*,\s*"(?:objects|targets)"\s*:\s*\[\s*\]\s*\}\s*\Z'
)


def _from_fragment(body: str, values: list[Array | Object], family: Family) -> _Reading:
    """What is left of an object that lost its beginning, and ends by saying that nothing is there: its numbers name no
    place."""
    match = _ABSENT_AT_LAST.search(body)
    return _Reading(present=False, steps={"presence": match[0]}) if match else _Reading()


_EXTRACTORS: tuple[Callable[[str, list[Array | Object], Family], _Reading], ...] = (
    _from_objects,
    _from_tags,
    _from_location_tokens,
    _from_point_tags,
    _from_fragment,
    _from_lists,
    _from_words,
)


# ---- from the family's numbers to pixels


class _Refusal(Exception):
    """A box or a point that cannot be used, and why."""


def _locate(
    reading: _Reading, family: Family, image_size: Size, model_image_size: Size | None
) -> tuple[tuple[Finding, ...], list[str]]:
    """The items in pixels, duplicates merged, and what was refused."""
    findings: dict[object, Finding] = {}
    refused = list(reading.refused)

    def usable(to_pixels, numbers, text):
        try:
            return to_pixels(numbers, family, image_size, model_image_size)
        except _Refusal as refusal:
            refused.append(f"[{', '.join(f'{n:g}' for n in numbers)}] in {_quote(text)} {refusal}")
            return None

    for item in reading.items:
        boxes = [usable(_to_box, numbers, item.text) for numbers in item.boxes]
        points = [usable(_to_point, numbers, item.text) for numbers in item.points]
        if not boxes:
            places = [(None, point) for point in points]
        elif len(boxes) == len(points):
            places = list(zip(boxes, points, strict=True))
        else:
            places = [(box, None) for box in boxes]
        ids = (item.rows, item.columns, item.marks)
        for box, point in places or [(None, None)]:
            if box or point or any(ids):
                finding = Finding(item.name, item.attributes, *ids, box, point, item.reason, item.text)
                findings.setdefault((item.name.casefold(), box or (point, ids)), finding)
    return tuple(findings.values()), refused


def _to_box(numbers: Sequence[float], family: Family, image_size: Size, model_image_size: Size | None) -> Box:
    width, height = image_size
    if _are_fractions(numbers):
        family = replace(family, scale=1)  # in no family's units is a box that small
    corners = (
        *family.read_point(numbers[:2], image_size, model_image_size),
        *family.read_point(numbers[2:], image_size, model_image_size),
    )
    if not all(map(math.isfinite, corners)):
        raise _Refusal("is not a box of finite numbers")
    _check_range(numbers, family)
    box = Box.ordered(*corners)
    if box.x0 >= width or box.y0 >= height or box.x1 <= 0 or box.y1 <= 0:
        raise _Refusal("lies wholly outside the image")
    box = box.clip(width, height)
    if box.area < MIN_AREA:
        raise _Refusal("has no area in the image")
    return box


def _to_point(
    numbers: Sequence[float], family: Family, image_size: Size, model_image_size: Size | None
) -> tuple[float, float]:
    width, height = image_size
    if isinstance(family.scale, (int, float)) and family.scale >= 999 and _are_fractions(numbers):
        family = replace(family, scale=1)  # fractions of a percent or a pixel may be meant, of a thousandth not
    _check_range(numbers, family)
    x, y = family.read_point(numbers, image_size, model_image_size)
    if not (0 <= x <= width and 0 <= y <= height):  # NaN compares false
        raise _Refusal("lies outside the image")
    return min(x, width - 0.5), min(y, height - 0.5)


def _are_fractions(numbers: Sequence[float]) -> bool:
    """Whether they are shares of the image's width and height, which many models write although asked otherwise."""
    return all(0 <= n <= 1 for n in numbers) and any(n != int(n) for n in numbers)


def _check_range(numbers: Sequence[float], family: Family) -> None:
    """Refuse pixels where a relative scale is due: clipped to the scale, they would make a box in another place."""
    if isinstance(family.scale, (int, float)) and max(numbers) > OVERSHOOT * family.scale:
        raise _Refusal(f"is beyond the image: coordinates go from 0 to {family.scale:g}")


# ---- the whole answer

_THOUGHT_END = re.compile(r"</think(?:ing)?>|\u25c1/think\u25b7", re.IGNORECASE)
_THOUGHT_START = re.compile(r"<think(?:ing)?>|\u25c1think\u25b7", re.IGNORECASE)
_ANSWER_START = re.compile(r"<answer>", re.IGNORECASE)
_ANSWER_END = re.compile(r"</answer>", re.IGNORECASE)
MIN_PROSE = 24
"""Letters; a shorter text says nothing ("Here is the JSON:")."""
_JSON_START = re.compile(r"""\s*(?:```\w{0,10}\s*)?[\[{]\s*[\[{"']""")
_UNFINISHED_TAG = re.compile(r"<[^<>]{0,10}\Z")
_HOW = "give the region of each target, or an empty list if it is not in the image"


def split_thought(text: str) -> tuple[str, str]:
    """What the model thought before it answered, and its answer; only the answer counts for coordinates."""
    thought, body = "", text
    if _JSON_START.match(text):
        return thought, body  # tags, if there are any, are inside its strings
    ends = list(_THOUGHT_END.finditer(text))
    after = ends[-1].end() if ends and text[ends[-1].end() :].strip() else 0  # tags in the thought mark no answer
    answers = [] if _JSON_START.match(text, after) else list(_ANSWER_START.finditer(text, after))
    if answers:
        thought, body = text[: answers[-1].start()], text[answers[-1].end() :]
        if end := _ANSWER_END.search(body):
            body = body[: end.start()]
    elif ends:
        thought, body = text[: ends[-1].start()], text[ends[-1].end() :]
    elif start := _THOUGHT_START.search(text):
        thought, body = text[start.end() :], text[: start.start()]
    thought = _ANSWER_START.sub(" ", _ANSWER_END.sub(" ", _THOUGHT_START.sub(" ", _THOUGHT_END.sub(" ", thought))))
    return thought.strip(), body


def _prose(body: str, values: list[Array | Object], min_letters: int = MIN_PROSE) -> str:
    """What is written around the JSON and the tags; empty if it has fewer than `min_letters` letters."""
    starts, ends = [value.start for value in values], [value.end for value in values]
    around = "\n".join(body[start:end] for start, end in zip([0, *ends], [*starts, len(body)], strict=True))
    lines = re.sub(r"<[^<>]{0,200}>|```\w{0,10}", " ", around).splitlines()
    prose = "\n".join(line.strip() for line in lines if line.strip())
    return prose if sum(map(str.isalpha, prose)) >= min_letters else ""


def _presence(reading: _Reading, found: bool, refused: list[str], thought: str, body: str) -> bool | None:
    """Whether the target is in the image. Raises ParseError where the answer is of no use."""
    if found:
        if reading.present is False:
            raise ParseError(f"the answer says both that the target is not in the image and where it is; {_HOW}")
        return True
    if reading.present is False:
        return False
    if refused:
        raise ParseError(f"no region in the answer can be used: {_shorten('; '.join(refused), 500)}; {_HOW}")
    if reading.cut:
        raise ParseError(f"the answer was cut off before a region was complete: {_quote(body[-200:])}; be shorter")
    if reading.empty:
        if reading.present:
            raise ParseError(f"the answer says that the target is in the image, but its lists are empty; {_HOW}")
        return False
    if reading.present:
        return True
    if thought and not body.strip():
        raise ParseError(f"there is a thought, but no answer after it: {_quote(thought[-200:])}; {_HOW}")
    raise ParseError(f"no region was found in the answer {_quote(body)}; {_HOW}")


def _steps(thought: str, reading: _Reading) -> tuple[ReasoningStep, ...]:
    texts = {
        "thought": thought or reading.steps.get("thought", ""),
        "target": reading.steps.get("target", ""),
        "scene": reading.steps.get("scene", ""),
        "presence": reading.steps.get("presence", ""),
        "region": "\n".join(filter(None, (item.describe() for item in reading.items))),
        "reason": reading.steps.get("reason") or "\n".join(dict.fromkeys(i.reason for i in reading.items if i.reason)),
    }
    return tuple(ReasoningStep(name, text) for name, text in texts.items() if text)


def _encodable(text: str) -> str:
    """The text with lone surrogates replaced: no output encoding can hold them."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _shorten(text: str, limit: int = 160) -> str:
    text = " ".join(text[: 4 * limit].split())
    return text if len(text) <= limit else f"{text[: limit - 1]}\u2026"


def _quote(text: str) -> str:
    return f"'{_shorten(text)}'"
