"""Whatever a model writes: a result with all boxes inside the image, or ParseError. Never anything else."""

from __future__ import annotations

import contextlib
import json
import string
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_parsing import RECORDS, load

from rsvp_ros.errors import ParseError
from rsvp_ros.geometry import Box, RegionGrid
from rsvp_ros.reasoning import lenient_json
from rsvp_ros.reasoning.families import FAMILIES
from rsvp_ros.reasoning.parsing import MAX_CHARACTERS, MIN_AREA, parse_answer, partial_steps
from rsvp_ros.reasoning.proposals import propose

many = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
sizes = st.tuples(st.integers(2, 5000), st.integers(2, 5000))
families = st.sampled_from(sorted(FAMILIES)).map(FAMILIES.get)
FRAGMENTS = [
    *"{}[]()<>\"'`,:;=\\/#*-+.|\n 0aeE%",
    *("\u201c", "\u2019", "\u30fb", "\U0001f600", "\ud83d", "\x00", "\u0130", "\uff11", "\\u", "\\ud83d"),
    *("null", "NaN", "-Infinity", "true", "False", "1e999", "99999999999999999999", "-5", "0.5"),
    *("```", "```json\n", "//", "/*", "*/", "<think>", "</think>", "<answer>", "</answer>"),
    *("<box>", "</box>", "<ref>", "<|det|>", "<|box_start|>", "<loc0001>", "<loc_7>"),
    *('<point x="1" y="2">', "<points x1=1", '<points coords="1 1 525 366 2'),
    *('"bbox_2d": ', '"box_2d":', '"point_2d":[', '"rows": "1-9"', '"present": false', '"objects": []'),
    *("rows 3 columns 4", "no cup in the image", "Yes,", "[1, 2, 3, 4]", "(5, 6)", "[[1,2],[300,400]]"),
]

KINDS = ("delete", "insert", "double", "swap", "truncate", "number", "bracket", "character")


def check(text, family, size):
    """Read a text in all ways; the answer, or None where it was refused."""
    for step in partial_steps(text):
        assert step.text
        step.text.encode("utf-8")
    try:
        answer = parse_answer(text, family, size)
    except ParseError as error:
        assert len(str(error)) < 2000
        str(error).encode("utf-8")
        return None
    width, height = size
    for finding in answer.findings:
        finding.name.encode("utf-8")
        assert finding.box or finding.point or finding.rows or finding.columns or finding.marks
        if finding.box:
            assert 0 <= finding.box.x0 < finding.box.x1 <= width
            assert 0 <= finding.box.y0 < finding.box.y1 <= height
            assert finding.box.area >= MIN_AREA
        if finding.point:
            assert 0 <= finding.point[0] < width
            assert 0 <= finding.point[1] < height
        for ids in (finding.rows, finding.columns, finding.marks):
            assert list(ids) == sorted({i for i in ids if isinstance(i, int) and i >= 0})
    assert bool(answer.findings) <= (answer.present is True)
    try:
        proposals = propose(answer, RegionGrid(9, 9, width, height))
    except ParseError:
        return answer
    assert bool(proposals) == bool(answer.findings)
    for proposal in proposals:
        assert 0 <= proposal.box.x0 < proposal.box.x1 <= width
        assert 0 <= proposal.box.y0 < proposal.box.y1 <= height
        assert 0 <= proposal.score <= 1
        assert set(proposal.rows) | set(proposal.columns) <= set(range(1, 10))
    return answer


@st.composite
def mutations(draw, text):
    """A text with one to four pieces deleted, inserted, doubled, swapped or changed."""
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(KINDS))
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 40)))
        piece = text[start:end]
        if kind == "delete":
            text = text[:start] + text[end:]
        elif kind == "insert":
            text = text[:start] + draw(st.sampled_from(FRAGMENTS)) + text[start:]
        elif kind == "double":
            text = text[:start] + piece * draw(st.integers(2, 5)) + text[end:]
        elif kind == "swap":
            other = draw(st.integers(0, max(len(text) - len(piece), 0)))
            rest = text[:start] + text[end:]
            text = rest[:other] + piece + rest[other:]
        elif kind == "truncate":
            text = text[:start]
        else:
            wanted, replacements = {
                "number": (string.digits, ["", "-1", "0", "99999", "1e400", ".5", "NaN", "\uff15", "null"]),
                "bracket": ("{}[]()<>", list("{}[]()<>")),
                "character": (string.punctuation + " \n", FRAGMENTS),
            }[kind]
            positions = [i for i in range(start, min(start + 400, len(text))) if text[i] in wanted]
            if positions:
                i = positions[0]
                text = text[:i] + draw(st.sampled_from(replacements)) + text[i + 1 :]
    return text


@pytest.mark.parametrize("name", [*RECORDS, "qwen3vl235b_spatio_case1", "visionreasoner_thirsty"])
def test_mutations_of_recorded_outputs(shared_data, name):
    record = load(shared_data, name)
    family = FAMILIES[RECORDS.get(name, "generic")]
    size = tuple(record["image_size_wh"])
    read = 0

    @many
    @given(mutations(record["raw_output"]))
    def run(text):
        nonlocal read
        read += check(text, family, size) is not None

    run()
    assert read > 10 or name not in RECORDS, "hardly one mutated text was readable: the mutations are too strong"


@settings(many, max_examples=1000)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=60).map("".join), families, sizes)
def test_random_pieces_of_answers(text, family, size):
    check(text, family, size)


@settings(many, max_examples=300)
@given(st.text(st.characters(), max_size=200), families)
def test_random_characters(text, family):
    check(text, family, (640, 480))


# ---- what is written right is read right

words = st.text(st.characters(exclude_categories=("Cs", "Cc", "Z")), min_size=1, max_size=12).filter(str.strip)
bands = st.lists(st.integers(1, 9), min_size=1, max_size=9, unique=True)


@st.composite
def targets(draw, width, height):
    x0, y0 = draw(st.floats(0, 0.7)) * width, draw(st.floats(0, 0.7)) * height
    box = Box(x0, y0, x0 + draw(st.floats(0.1, 0.3)) * width, y0 + draw(st.floats(0.1, 0.3)) * height)
    return {
        "name": draw(words),
        "attributes": draw(st.lists(words, max_size=3, unique=True)),
        "rows": draw(bands),
        "columns": draw(bands),
        "box": box,
        "reason": draw(words),
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_a_structured_answer_comes_back_as_it_was_written(name):
    family = FAMILIES[name]

    @settings(many, max_examples=60)
    @given(st.data())
    def run(data):
        size = data.draw(st.tuples(st.integers(64, 4000), st.integers(64, 4000)))
        seen = data.draw(st.none() | st.tuples(st.integers(64, 2000), st.integers(64, 2000)))
        written = data.draw(st.lists(targets(*size), min_size=1, max_size=4, unique_by=lambda t: t["name"].casefold()))
        scene = data.draw(words)
        objects = [
            {
                **{key: target[key] for key in ("name", "attributes", "rows", "columns", "reason")},
                family.box_key: family.write_box(target["box"], size, seen),
            }
            for target in written
        ]
        text = json.dumps(
            {"target": "x", "scene": scene, "present": True, "objects": objects},
            ensure_ascii=data.draw(st.booleans()),
            indent=data.draw(st.sampled_from([None, 2])),
        )
        if data.draw(st.booleans()):
            text = f"```json\n{text}\n```"
        answer = parse_answer(text, family, size, seen)
        assert answer.refused == ()
        assert len(answer.findings) == len(written)
        units = family.pixels_per_unit(size, seen)
        step = 1.0 if family.integers else 0.1
        for finding, target in zip(answer.findings, written, strict=True):
            for key in ("name", "attributes", "reason"):
                expected = target[key]
                assert getattr(finding, key) == (tuple(expected) if isinstance(expected, list) else expected)
            assert finding.rows == tuple(sorted(target["rows"]))
            assert finding.columns == tuple(sorted(target["columns"]))
            for i, (found, true) in enumerate(zip(finding.box.as_tuple(), target["box"].as_tuple(), strict=True)):
                assert abs(found - true) <= units[i % 2] * step / 2 + 1e-6
        steps = {step.name: step.text for step in answer.steps}
        assert steps["scene"] == scene

    run()


numbers = st.integers(-(10**6), 10**6).map(float)
printable = st.text(max_size=10).filter(str.isprintable)
values = st.recursive(
    st.none() | st.booleans() | numbers | printable,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(printable, inner, max_size=4),
    max_leaves=12,
)


def plain(value):
    if isinstance(value, lenient_json.Array):
        return [plain(child) for child in value.values]
    if isinstance(value, lenient_json.Object):
        return {key: plain(child) for key, child in value.members.items()}
    return value


@settings(many, max_examples=500)
@given(st.lists(values, min_size=1, max_size=3), st.booleans(), st.sampled_from([None, 0, 2]))
def test_every_valid_json_is_read_as_json_reads_it(value, ascii_only, indent):
    (read,) = lenient_json.read(json.dumps(value, ensure_ascii=ascii_only, indent=indent))
    assert read.complete
    assert plain(read) == json.loads(json.dumps(value))


# ---- time

UNITS = [
    *("[", "{", "(1", "[]", "{}", "[1,", "[1,2,3,4],", '"', "'", '{"', "{'", '{"a":', '{"\\', "\\", "/*", "{/*}", "//"),
    *("{//\n", '[ "', '"a" ', '{"a":1,"a":2,', '{"r":"\\u0041', "\u201c", "`", "a", " ", "\n", "( ", ".", ",", "x=1 "),
    *("<box>", "<box>1", "<box><1>", "<ref>", "<|det|>1,", "<points ", '<points x1="1"', "<loc0001>", "<loc_1>a", "<"),
    *("</", "<think>", "</think>", "<answer>", "no ", "no a ", "is not ", "not in ", "row 1 ", "rows 1,2,", "1", "1 "),
    *('<points coords="1 1 ', "1e", "-", '{"rows":"1-9999"},', '{"bbox_2d":[1,2,300,400]},', "\ud83d", "\u0130"),
    *('", a', '" ,  ', '",1', '", 1e', '") ', '" ), ', '" a, "', "' , ", '",\n'),
]


def cost(text):
    """CPU seconds to read a text in both ways."""
    started = time.thread_time()
    with contextlib.suppress(ParseError):
        parse_answer(text, FAMILIES["qwen_vl"], (640, 480))
    partial_steps(text)
    return time.thread_time() - started


@pytest.mark.parametrize("opening", ["", '{"a": ['])
@pytest.mark.parametrize("unit", UNITS)
def test_time_grows_with_the_length_and_not_with_its_square(unit, opening):
    small, factor = 3_000, 12
    texts = [opening + unit * (size // len(unit)) for size in (small, small * factor)]
    ratios = []
    for _ in range(4):  # the least disturbed of a few
        short, long = map(cost, texts)
        ratios.append(long / max(short, 1e-4))
        if ratios[-1] < 3 * factor:
            return
    pytest.fail(f"{factor} times the text took {min(ratios):.0f} times as long")


def test_a_megabyte_is_read():
    masks = [{"box_2d": [100, 200, 300, 400], "mask": "iVBOR" * 40_000, "label": str(i)} for i in range(5)]
    text = json.dumps(masks)
    assert 10**6 < len(text) < MAX_CHARACTERS
    assert len(parse_answer(text, FAMILIES["gemini"], (640, 480)).findings) == 5
