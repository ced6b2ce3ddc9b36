"""What models really wrote, read in each family's convention; and what they write when they go wrong."""

from __future__ import annotations

import json
import math
import re

import pytest

from rsvp_ros.errors import ConfigurationError, ParseError
from rsvp_ros.geometry import Box
from rsvp_ros.reasoning.families import FAMILIES, family_for, find_family, smart_resize
from rsvp_ros.reasoning.parsing import MAX_CHARACTERS, parse_answer, partial_steps
from rsvp_ros.types import ReasoningStep

GENERIC = FAMILIES["generic"]
SIZE = (640, 480)
GOOD = '{"objects": [{"name": "cup", "attributes": ["red"], "bbox_2d": [100, 200, 300, 400], "reason": "so"}]}'

RECORDS = {
    "deepseekvl2_giraffe": "deepseek_vl2",
    "gemini36flash_cupcakes": "gemini",
    "gemini_cupcakes_seg": "gemini",
    "gemini_socks": "gemini",
    "molmo7b_speakers": "molmo",
    "paligemma_cats": "paligemma",
    "qwen25vl7b_cakes": "qwen2_5_vl",
    "qwen25vl_mobile_c13": "qwen2_5_vl",
    "qwen2vl7b_desktop": "qwen2_vl",
    "qwen3vl235b_spatio_case2_aff": "qwen3_vl",
    "qwen3vl32b_omni_swedish_smorgasbord_how_to": "qwen3_vl",
    "qwen3vl_sample_food": "qwen3_vl",
    "qwen3vl_think_hopinn": "qwen3_vl",
    "qwenvl_apples": "qwen_vl",
    "qwenvl_highfive": "qwen_vl",
    "robobrain2_affordance": "robobrain2",
    "robobrain2_pointing": "robobrain2",
}
"""All recorded outputs that hold 2-D boxes or points, and the family that is to be told by the model's name."""


def load(shared_data, name):
    return json.loads((shared_data / "mllm_outputs" / f"{name}.json").read_text(encoding="utf-8"))


def raw_regions(record):
    """The numbers of all boxes and points in a record, found by a pattern made for that record's own syntax."""
    text, kind = record["raw_output"].split("<answer>")[-1], record["output_kind"]
    number = r"\s*(-?[\d.]+)\s*"
    four = r"\[" + ",".join([number] * 4) + r"\]"
    patterns = {
        "<loc": "<loc([0-9]{4})>" * 4,
        "<points": r'x\d="([\d.]+)" y\d="([\d.]+)"',
        "<ref>": r"<box>\((\d+),(\d+)\),\((\d+),(\d+)\)</box>",
        "point_2d": r'"point_2d": \[' + number + "," + number + r"\]",
        "<tool_call>": r'"coordinate": \[' + number + "," + number + r"\]",
        "think + [(x,y)": r"\(" + number + "," + number + r"\)",
    }
    pattern = next((pattern for key, pattern in patterns.items() if kind.startswith(key)), None)
    if pattern is None and record["name"].startswith("qwenvl"):
        pattern = patterns["<ref>"]
    return [tuple(map(float, numbers)) for numbers in re.findall(pattern or four, text)]


def to_pixels(record, numbers):
    """The record's own words on its convention, applied to its numbers."""
    convention = record["coord_convention"].removeprefix("box ")
    width, height = record["image_size_wh"]
    if "smart_resize" in convention:
        unit_x, unit_y = width / (round(width / 28) * 28), height / (round(height / 28) * 28)
    elif convention.startswith("absolute"):
        unit_x = unit_y = 1.0
    else:
        last = {"percent 0-100": 100, "0-1023": 1024, "0-999": 999}
        span = next((n for key, n in last.items() if convention.startswith(key)), 1000)
        if record["model_family"] == "Qwen-VL":
            span = 1000  # its README says [0, 1000), whole numbers
        unit_x, unit_y = width / span, height / span
    units = (unit_y, unit_x) if "[ymin" in convention else (unit_x, unit_y)
    pixels = [n * units[i % 2] for i, n in enumerate(numbers)]
    return pixels if "[ymin" not in convention else [pixels[i ^ 1] for i in range(len(pixels))]


@pytest.mark.parametrize("name", RECORDS)
def test_recorded_output_gives_the_coordinates_that_its_record_describes(shared_data, name):
    record = load(shared_data, name)
    family = family_for(record["model"])
    assert family.name == RECORDS[name]
    answer = parse_answer(record["raw_output"], family, tuple(record["image_size_wh"]))
    expected = [to_pixels(record, numbers) for numbers in raw_regions(record)]
    assert expected
    assert len(answer.findings) == len(expected)
    for finding, pixels in zip(answer.findings, expected, strict=True):
        found = finding.box.as_tuple() if len(pixels) == 4 else finding.point
        assert found == pytest.approx(pixels, abs=1e-6)
        assert (finding.box is None) == (len(pixels) == 2)
    assert answer.present
    assert answer.refused == ()


def test_every_record_is_accounted_for(shared_data):
    plain = {"qwen3vl235b_spatio_case1", "visionreasoner_thirsty"}
    assert {path.stem for path in (shared_data / "mllm_outputs").glob("*.json")} == set(RECORDS) | plain


@pytest.mark.parametrize("name", ["qwen3vl235b_spatio_case1", "visionreasoner_thirsty"])
def test_recorded_text_without_a_region_is_refused_with_its_words(shared_data, name):
    record = load(shared_data, name)
    with pytest.raises(ParseError, match="no region was found") as error:
        parse_answer(record["raw_output"], family_for(record["model"]), tuple(record["image_size_wh"]))
    assert record["raw_output"][:100] in str(error.value)


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("qwenvl_apples", ["Two apples", "Two apples", "a bowl"]),
        ("qwenvl_highfive", ["\u51fb\u638c"]),
        ("paligemma_cats", ["cat", "cat"]),
        ("molmo7b_speakers", ["speakers", "speakers"]),
        ("deepseekvl2_giraffe", ["The giraffe at the back"]),
        ("qwen3vl235b_spatio_case2_aff", ["point_1"]),
    ],
)
def test_recorded_names(shared_data, name, names):
    record = load(shared_data, name)
    answer = parse_answer(record["raw_output"], family_for(record["model"]), tuple(record["image_size_wh"]))
    assert [finding.name for finding in answer.findings] == names


def test_only_the_answer_after_a_thought_counts_and_the_thought_is_kept(shared_data):
    record = load(shared_data, "robobrain2_affordance")
    text = record["raw_output"].replace("affordance area is [577, 224, 638, 310]", "affordance area is [1, 2, 30, 40]")
    assert "[1, 2, 30, 40]" in text
    answer = parse_answer(text, FAMILIES["robobrain2"], SIZE)
    assert [finding.box for finding in answer.findings] == [Box(577, 224, 638, 310)]
    assert answer.steps[0].name == "thought"
    assert answer.steps[0].text.startswith("From the visual input")
    assert answer.steps[0].text.endswith("hold the cup effectively.")


@pytest.mark.parametrize("answer", [GOOD, f"The cup:\n```json\n{GOOD}\n```", f"<answer>{GOOD}</answer>"])
@pytest.mark.parametrize(
    "thought", ["I have to put it into <answer></answer> tags.", "Then: <answer>[1, 2, 30, 40]</answer>?", "<answer>"]
)
def test_answer_tags_in_a_thought_are_part_of_it(answer, thought):
    for separator in ("\n", ""):
        found = parse_answer(f"<think>{thought}</think>{separator}{answer}", GENERIC, SIZE)
        assert [finding.box for finding in found.findings] == [Box(64, 96, 192, 192)]
        words = re.sub("</?answer>", " ", thought).strip()
        assert not words or (found.steps[0].name == "thought" and found.steps[0].text.startswith(words))


def test_answer_tags_in_the_strings_of_an_answer_mark_nothing():
    text = "<think>Which?</think>" + GOOD.replace('"so"', '"put into <answer></answer>"')
    (finding,) = parse_answer(text, GENERIC, SIZE).findings
    assert finding.reason == "put into <answer></answer>"


@pytest.mark.parametrize(
    "text",
    [
        f"<think>Which of these cuts? <answer>{GOOD}</answer>",
        f"<think>Which of these cuts? <answer>{GOOD}</answer></think>\n",
        f"<think>Which of these cuts?</think>It is this: <answer>{GOOD}",
    ],
)
def test_an_answer_in_tags_is_found_wherever_the_thought_ends(text):
    answer = parse_answer(text, GENERIC, SIZE)
    assert [finding.box for finding in answer.findings] == [Box(64, 96, 192, 192)]
    assert answer.steps[0].text.startswith("Which of these cuts?")


def test_the_prose_around_tool_calls_is_the_thought(shared_data):
    record = load(shared_data, "qwen3vl_think_hopinn")
    answer = parse_answer(record["raw_output"], FAMILIES["qwen3_vl"], tuple(record["image_size_wh"]))
    thought = answer.steps[0]
    assert thought.name == "thought"
    assert "this picture was taken" in thought.text
    assert "bbox_2d" not in thought.text


# ---- the formats of A5 of which there is no record


@pytest.mark.parametrize(
    ("family", "text", "expected"),
    [
        ("qwen2_vl", "<|object_ref_start|>a cup<|object_ref_end|><|box_start|>(100,200),(300,400)<|box_end|>", None),
        ("qwen2_vl", "a cup(100,200),(300,400)", None),
        ("internvl", "<ref>a cup</ref><box>[[100, 200, 300, 400]]</box>", None),
        ("qwen_vl", "<ref>a cup</ref><quad>(100,200),(300,200),(300,400),(100,400)</quad>", None),
        ("rex_omni", "<|object_ref_start|>a cup<|object_ref_end|><|box_start|><100><200><300><400><|box_end|>", None),
        ("florence2", "</s><s>a cup<loc_100><loc_200><loc_300><loc_400></s>", None),
        ("florence2", "a cup<loc_100><loc_200><loc_300><loc_200><loc_300><loc_400><loc_100><loc_400>", None),
        ("vision_reasoner", '<think>x</think><answer>[{"bbox_2d": [84, 168, 252, 336]}]</answer>', (64, 96, 192, 192)),
        ("gemini", '{"box_2d": {"ymin": 200, "xmin": 100, "ymax": 400, "xmax": 300}, "label": "a cup"}', None),
        ("qwen2_5_vl", '<points x1="64" y1="96" alt="a cup">a cup</points>', (63.602, 96.806)),
        ("molmo", ' <point x="10.0" y="20.5" alt="a cup">a cup</point>', (64, 98.4)),
        ("gemini", '[{"point": [200, 100], "label": "a cup"}]', (64, 96)),
        ("molmo2", '<points coords="1 1 525 366">a cup</points>', (336, 175.68)),
        ("molmo2", 'There it is: <points alt="a cup" coords="1 1 025 1000"/>', (16, 479.5)),
        ("paligemma", "<loc0256><loc0512><loc0768><loc1024><seg004><seg120> a cup", (320, 120, 640, 360)),
        ("generic", "The cup is at [0.1, 0.2, 0.3, 0.4].", (64, 96, 192, 192)),
        ("generic", '{"point_2d": [0.1, 0.2]}', (64, 96)),
        ("qwen3_vl", '{"point_2d": [1, 0.2]}', (639.5, 96)),
        ("qwen3_vl", '{"point_2d": [1, 1]}', (0.64, 0.48)),
        ("rex_omni", '{"point_2d": [0.1, 0.2]}', (64, 96)),
        ("molmo", '<point x="0.1" y="0.2" alt="a cup">a cup</point>', (0.64, 0.96)),
        ("robobrain2", "[(0.5, 0.25)]", (0.5, 0.25)),
    ],
)
def test_native_format(family, text, expected):
    family = FAMILIES[family]
    (finding,) = parse_answer(text, family, SIZE).findings
    unit = (640 / 999, 480 / 999) if family.scale == 999 else (0.64, 0.48)
    expected = expected or (100 * unit[0], 200 * unit[1], 300 * unit[0], 400 * unit[1])
    assert (finding.box.as_tuple() if finding.box else finding.point) == pytest.approx(expected, abs=1e-3)
    assert finding.name in ("a cup", "")


def test_several_boxes_of_one_name():
    text = "<|object_ref_start|>cup<|object_ref_end|><|box_start|><0><0><99><99>,<500><500><999><999><|box_end|>"
    answer = parse_answer(text, FAMILIES["rex_omni"], (999, 999))
    assert [finding.box for finding in answer.findings] == [Box(0, 0, 99, 99), Box(500, 500, 999, 999)]
    florence = "cup<loc_0><loc_0><loc_99><loc_99><loc_500><loc_500><loc_999><loc_999>"
    assert [f.box for f in parse_answer(florence, FAMILIES["florence2"], (999, 999)).findings] == [
        Box(0, 0, 99, 99),
        Box(500, 500, 999, 999),
    ]


def test_several_points_of_one_name():
    text = '<points coords="1 1 100 200 2 300 400 3 500 600">cups</points>'
    answer = parse_answer(text, FAMILIES["molmo2"], (1000, 1000))
    assert [(f.name, f.point) for f in answer.findings] == [("cups", p) for p in ((100, 200), (300, 400), (500, 600))]
    two_images = text.replace(" 3 500", "\t2 3 500")
    assert [f.point for f in parse_answer(two_images, FAMILIES["molmo2"], (1000, 1000)).findings][-1] == (500, 600)


def test_two_points_side_by_side_are_a_box_only_where_the_family_writes_boxes_so():
    text = "(100, 200), (300, 400)"
    assert len(parse_answer(text, FAMILIES["qwen_vl"], SIZE).findings) == 1
    assert [f.point for f in parse_answer(text, FAMILIES["robobrain2"], SIZE).findings] == [(100, 200), (300, 400)]


def test_a_box_with_its_point():
    text = '<answer>[{"bbox_2d": [0, 0, 420, 420], "point_2d": [210, 210]}]</answer>'
    (finding,) = parse_answer(text, FAMILIES["vision_reasoner"], (840, 420)).findings
    assert finding.box == Box(0, 0, 420, 210)
    assert finding.point == (210, 105)


def test_a_click_with_three_dimensional_boxes_beside_it_is_only_the_click():
    text = '[{"bbox_3d": [1, 2, 3, 4, 5, 6, 7, 8, 9], "label": "x"}, {"point_2d": [500, 500], "label": "cup"}]'
    (finding,) = parse_answer(text, GENERIC, SIZE).findings
    assert (finding.name, finding.point) == ("cup", (320, 240))


def test_pixels_count_in_the_image_that_the_model_saw():
    text = '[{"bbox_2d": [77, 63, 154, 126], "label": "cup"}]'
    for size in ((308, 252), (320, 240)):  # in whole patches, and as sent to a server, which makes them of it
        (finding,) = parse_answer(text, FAMILIES["qwen2_5_vl"], (1232, 1008), model_image_size=size).findings
        assert finding.box == Box(308, 252, 616, 504)


# ---- the structured answer

STRUCTURED = {
    "target": "scissors: something that cuts",
    "scene": "A rope lies beside the scissors.",
    "present": True,
    "objects": [
        {
            "name": "scissors",
            "attributes": ["orange handle", "beside the rope"],
            "rows": [3, 4],
            "columns": [5, 6],
            "bbox_2d": [500, 250, 700, 450],
            "reason": "They cut.",
        }
    ],
}


def structured(**changes):
    """STRUCTURED as text, with changes to its object (lower case) or to the whole (upper case); `...` takes one out."""

    def changed(members, changes):
        return {key: value for key, value in {**members, **changes}.items() if value is not ...}

    whole = {key.lower(): value for key, value in changes.items() if key.isupper()}
    part = {key: value for key, value in changes.items() if not key.isupper()}
    return json.dumps(changed({**STRUCTURED, "objects": [changed(STRUCTURED["objects"][0], part)]}, whole))


def test_structured_answer():
    answer = parse_answer(structured(), GENERIC, SIZE)
    (finding,) = answer.findings
    assert finding.name == "scissors"
    assert finding.attributes == ("orange handle", "beside the rope")
    assert (finding.rows, finding.columns, finding.marks) == ((3, 4), (5, 6), ())
    assert finding.box == Box(320, 120, 448, 216)
    assert finding.reason == "They cut."
    assert answer.present is True
    assert answer.steps == (
        ReasoningStep("target", "scissors: something that cuts"),
        ReasoningStep("scene", "A rope lies beside the scissors."),
        ReasoningStep("presence", "yes"),
        ReasoningStep("region", "scissors: rows 3, 4; columns 5, 6; [500, 250, 700, 450]"),
        ReasoningStep("reason", "They cut."),
    )


@pytest.mark.parametrize(
    "text",
    [
        structured(PRESENT=False, OBJECTS=[]),
        structured(PRESENT="no", OBJECTS=...),
        structured(PRESENT=..., rows=[], columns=[], bbox_2d=...),
        structured(PRESENT=..., rows=[], columns=[], bbox_2d=[]),
        structured(PRESENT=..., rows="none", columns=[None], bbox_2d=None),
        structured(PRESENT=..., OBJECTS=[]),
        structured(PRESENT=..., OBJECTS=None),
        "[]",
        "```json\n[]\n```",
        "<think>Nothing here cuts.</think><answer>[]</answer>",
        "No.",
        "There are no scissors in the image.",
        "The scissors are not visible in this image.",
        "None",
        "Nein, keine Schere.",
    ],
)
def test_absent(text):
    answer = parse_answer(text, GENERIC, SIZE)
    assert answer.present is False
    assert answer.findings == ()


@pytest.mark.parametrize("text", ["Yes.", '{"reason": "there it lies", "present": true}', "Ja, links."])
def test_a_turn_that_only_says_that_it_is_there(text):
    answer = parse_answer(text, GENERIC, SIZE)
    assert answer.present is True
    assert answer.findings == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("C. window", "no region was found in the answer 'C. window'"),
        ("", "no region was found"),
        ("1. The scissors", "no region was found"),
        ("<think>They lie on the table", "a thought, but no answer after it"),
        (structured(PRESENT=False), "both that the target is not in the image and where it is"),
        (structured(OBJECTS=[]), "its lists are empty"),
        (structured(rows=[], columns=[], bbox_2d=[]), "its lists are empty"),
        (structured(rows=..., columns=..., bbox_2d=[5, 5, 5, 5]), r"\[5, 5, 5, 5\] in .* has no area"),
        (structured(rows=..., columns=..., bbox_2d=[-300, 10, -100, 90]), "wholly outside the image"),
        (structured(rows=..., columns=..., bbox_2d=[1200, 10, 1300, 90]), "coordinates go from 0 to 1000"),
        (structured(rows=..., columns=..., bbox_2d=[900, 10, 1051, 90]), "coordinates go from 0 to 1000"),
        ('{"point_2d": [1051, 10]}', r"\[1051, 10\] in .* coordinates go from 0 to 1000"),
        (structured(rows=..., columns=..., bbox_2d=[float("nan"), 10, 100, 90]), "is not a box of finite numbers"),
        (structured(rows=..., columns=..., bbox_2d=[1e308, 10, 1e309, 90]), "is not a box of finite numbers"),
        (structured(rows=..., columns=..., bbox_2d=[10, 20, 30]), r"'\[10, 20, 30\]' is not a box \[x, y, x, y\]"),
        (structured(rows=..., columns=..., bbox_2d="top left"), "'top left' is not a box"),
        (structured(rows=["top"], columns=["left"], bbox_2d=...), r"\"rows\" '\[\"top\"\]' has no IDs"),
        ('{"bbox_2d": [1, 2, 300, 400], "bbox_2d": [5, 6, 700, 800]}', 'has "bbox_2d" twice'),
        ('{"objects": [{"name": "cup", "bbox_2d": [100, 200, 30', "was cut off"),
        ('{"objects": [{"name": "cup", "bbox_2d": [100, 200, 300, 400', "was cut off"),
        ('{"target": "a cup", "present": true, "obj', "was cut off"),
        ("[100, 200, 300, 40", "was cut off"),
        ("[" * 100, "nested more than"),
        ("x" * (MAX_CHARACTERS + 1), "characters, more than"),
        ('<point x="20">cup</point>', "without an x or a y"),
        ('<point x="20" y="-1">cup</point>', "outside the image"),
        ('<point x="20" y="120">cup</point>', "coordinates go from 0 to 100;"),
        ('<points coords="1 1 20">cup</points>', "number, x and y of each point"),
        ('<points coords="1 1 20 x">cup</points>', "number, x and y of each point"),
        ('<points coords="1">cup</points>', "number, x and y of each point"),
    ],
)
def test_refused_with_the_reason(text, message):
    family = FAMILIES["molmo"] if "<point" in text else GENERIC
    with pytest.raises(ParseError, match=message) as error:
        parse_answer(text, family, SIZE)
    assert len(str(error.value)) < 1000


def test_a_bad_box_among_good_ones_is_dropped_and_said():
    text = '[{"bbox_2d": [9, 9, 9, 9], "label": "a"}, {"bbox_2d": [100, 200, 300, 400], "label": "b"}]'
    answer = parse_answer(text, GENERIC, SIZE)
    assert [finding.name for finding in answer.findings] == ["b"]
    assert len(answer.refused) == 1
    assert "[9, 9, 9, 9]" in answer.refused[0]


def test_a_bad_box_leaves_the_bands():
    answer = parse_answer(structured(bbox_2d=[5, 5, 5, 5]), GENERIC, SIZE)
    (finding,) = answer.findings
    assert finding.box is None
    assert finding.rows == (3, 4)
    assert len(answer.refused) == 1


def test_boxes_are_clipped_and_ordered():
    (finding,) = parse_answer("[1040, 900, 500, -100]", GENERIC, SIZE).findings
    assert finding.box == Box(320, 0, 640, 432)


def test_a_point_on_the_border_is_inside_the_image():
    (finding,) = parse_answer('{"point_2d": [1000, 1000]}', GENERIC, SIZE).findings
    assert finding.point == (639.5, 479.5)


@pytest.mark.parametrize("between", ["\nWait, that is wrong. Corrected:\n", "\n```\n\nCorrected:\n```json\n"])
def test_of_two_whole_answers_the_last_counts(between):
    mug = '{"present": true, "objects": [{"name": "mug", "bbox_2d": [100, 100, 200, 200]}]}'
    cup = '{"present": true, "objects": [{"name": "cup", "bbox_2d": [500, 500, 600, 600]}]}'
    none = '{"present": false, "objects": []}'
    assert [f.name for f in parse_answer(mug + between + cup, GENERIC, (640, 480)).findings] == ["cup"]
    assert parse_answer(mug + between + none, GENERIC, (640, 480)).present is False
    assert [f.name for f in parse_answer(none + between + cup, GENERIC, (640, 480)).findings] == ["cup"]


def test_the_same_box_twice_is_one_target_but_two_names_are_two():
    cup = {"bbox_2d": [100, 200, 300, 400], "label": "cup"}
    text = json.dumps([cup, cup, {**cup, "label": "lid"}])
    assert [finding.name for finding in parse_answer(text, GENERIC, SIZE).findings] == ["cup", "lid"]


def test_marks():
    (finding,) = parse_answer(structured(rows=..., columns=..., bbox_2d=..., marks=[12, "13"]), GENERIC, SIZE).findings
    assert finding.marks == (12, 13)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ("3-5", (3, 4, 5)),
        (["3-5"], (3, 4, 5)),
        ("row 3", (3,)),
        (["row 3", "row 4"], (3, 4)),
        ("3, 4 and 7", (3, 4, 7)),
        (3, (3,)),
        ([4.0, "3", 3], (3, 4)),
        ([[3, 4]], (3, 4)),
        ("5 to 3", (3, 4, 5)),
        ([3.5, -1, True, None, 4], (4,)),
        ("1-999999999", (1,)),
    ],
)
def test_ids(ids, expected):
    (finding,) = parse_answer(structured(rows=ids), GENERIC, SIZE).findings
    assert finding.rows == expected


@pytest.mark.parametrize(
    ("text", "rows", "columns"),
    [
        ("Rows: 3, 4; columns: 5", (3, 4), (5,)),
        ("It spans rows 3 to 5 and columns 1 and 2.", (3, 4, 5), (1, 2)),
        ("rows [3, 4], columns [5, 6]", (3, 4), (5, 6)),
        ("row IDs: 2-3, column IDs: 7", (2, 3), (7,)),
    ],
)
def test_bands_in_plain_text(text, rows, columns):
    (finding,) = parse_answer(text, GENERIC, SIZE).findings
    assert (finding.rows, finding.columns, finding.box) == (rows, columns, None)


def test_bands_and_a_box_in_plain_text_are_one_target():
    (finding,) = parse_answer("rows 3, 4; columns 5; box [100, 200, 300, 400]", GENERIC, SIZE).findings
    assert finding.rows == (3, 4)
    assert finding.box == Box(64, 96, 192, 192)


# ---- malformed text


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("]}]}", "],}],}").replace('"so"', '"so",'),
        GOOD[:-1],
        GOOD[:-2],
        GOOD[:-3],
        GOOD[:-2] + "\n```",
        GOOD + "}}}",
        GOOD.replace("400]", "400}"),
        GOOD.replace('"', "'"),
        GOOD.replace("[100, 200, 300, 400]", "(100, 200, 300, 400)"),
        GOOD.replace("[100, 200, 300, 400]", '["100", "200", 300.0, "400"]'),
        GOOD.replace("[100, 200, 300, 400]", '"[100, 200, 300, 400]"'),
        GOOD.replace("[100, 200, 300, 400]", "[[100, 200], [300, 400]]"),
        GOOD.replace("[100, 200, 300, 400]", "[[100, 200, 300, 400]]"),
        GOOD.replace("[100, 200, 300, 400]", '{"x1": 100, "y1": 200, "x2": 300, "y2": 400}'),
        GOOD.replace("[100, 200, 300, 400]", '{"x": 100, "y": 200, "width": 200, "height": 200}'),
        GOOD.replace("[100, 200, 300, 400]", "[300, 400, 100, 200]"),
        re.sub(r'"(\w+)"', "\u201c\\1\u201d", GOOD),
        GOOD.replace('"bbox_2d"', "// its box\n /* pixels? */ bbox_2d"),
        GOOD.replace("{", "{  # an object\n", 1),
        GOOD.replace(",", "\uff0c").replace(":", "\uff1a"),
        GOOD.replace(', "bbox_2d"', '\n"bbox_2d"'),
        GOOD.replace('"so"', '"the "red" one"'),
        GOOD.replace('"so"', "None"),
        GOOD.replace('"so"', "NaN"),
        GOOD.replace('"so"', '"line\nbreak, {brackets] (and "quotes" too"'),
        GOOD.replace("'", "\u2019").replace('"so"', "'it\u2019s the cup's'"),
        f"Here it is (the cup's place):\n```json\n{GOOD}\n```\nThe image has (640, 480) pixels.",
        f"<tool_call>{GOOD}</tool_call>",
    ],
)
def test_repaired(text):
    (finding,) = parse_answer(text, GENERIC, SIZE).findings
    assert finding.name == "cup"
    assert finding.box == Box(64, 96, 192, 192)


@pytest.mark.parametrize(
    "reason",
    [
        'It is the carton labelled "Milk", which can be drunk.',
        'It says "Milk"; it can be drunk.',
        'Der Karton mit der Aufschrift "Milch", wei\u00df, kann getrunken werden.',
        '\u5199\u7740"\u725b\u5976"\uff0c\u53ef\u4ee5\u559d\u3002',
        'The one with "Milk", 2 litres, and "fresh" on it.',
        'The carton (labelled "Milk") can be drunk.',
        'The white one reads "Milk"',
        '"Milk", it says.',
        "It is Mum's, who drinks milk.",
    ],
)
@pytest.mark.parametrize("quote", ['"', "'", "\u201c"])
def test_a_quotation_is_part_of_its_text(reason, quote):
    quoted = quote + re.sub("[\"']", quote, reason) + quote
    last = GOOD.replace('"so"', quoted)
    first = GOOD.replace(', "reason": "so"', "").replace('"name"', f'"reason": {quoted}, "name"')
    for text in (last, first):
        (finding,) = parse_answer(text, GENERIC, SIZE).findings
        assert (finding.name, finding.attributes) == ("cup", ("red",))
        assert finding.box == Box(64, 96, 192, 192)
        assert finding.reason == quoted[1:-1]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ('["white", "labelled "Milk", big"]', ("white", 'labelled "Milk", big')),
        ('["labelled "Milk"", "big"]', ('labelled "Milk"', "big")),
        ('["big", null, "red"]', ("big", "red")),
        ('["big", undefined, None, "red"]', ("big", "red")),
        ('["big", 1.5, "red"]', ("big", "1.5", "red")),
        ('["big", red]', ("big", "red")),
        ('["big",, "red",]', ("big", "red")),
        ('["big", # how large\n "red"]', ("big", "red")),
        ('["big"], colour: "red", marks: [1]', ("big",)),
        ('("big", "red")', ("big", "red")),
    ],
)
def test_after_a_comma_a_string_ends_where_json_goes_on(attributes, expected):
    (finding,) = parse_answer(GOOD.replace('["red"]', attributes), GENERIC, SIZE).findings
    assert finding.attributes == expected
    assert finding.box == Box(64, 96, 192, 192)


def test_of_a_truncated_answer_the_complete_objects_are_kept(shared_data):
    record = load(shared_data, "qwen3vl32b_omni_swedish_smorgasbord_how_to")
    whole = parse_answer(record["raw_output"], FAMILIES["qwen3_vl"], (1200, 800)).findings
    text = record["raw_output"]
    for end in range(len(text) // 2, len(text) // 2 + 230):
        part = parse_answer(text[:end], FAMILIES["qwen3_vl"], (1200, 800)).findings
        assert part == whole[: len(part)] or part[-1].box == whole[len(part) - 1].box  # its label may be missing
        assert len(part) >= text[:end].count("}")


def test_halves_of_characters_do_not_survive():
    text = '{"name": "\\ud83d\\ude00 \\ud83d cup \ud83d", "bbox_2d": [100, 200, 300, 400]}'
    (finding,) = parse_answer(text, GENERIC, SIZE).findings
    assert finding.name.startswith("\U0001f600")
    assert finding.name.encode("utf-8")


# ---- while it is being written


def test_partial_steps_grow_to_the_whole_answer():
    text = "<think>Which of these cuts?</think>" + structured()
    whole = parse_answer(text, GENERIC, SIZE).steps
    seen = []
    for end in range(len(text) + 1):
        steps = partial_steps(text[:end])
        if not seen or len(steps) > seen[-1]:
            seen.append(len(steps))
        assert len(steps) == seen[-1], "a step disappeared"
        if len(steps) > 1:
            assert [step.name for step in steps] == [step.name for step in whole[: len(steps)]]
            done = [step for step in steps[:-1] if step.name != "region"]
            assert all(step in whole for step in done)
    assert partial_steps(text) == whole
    assert seen == [0, 1, 2, 3, 4, 5, 6]
    assert partial_steps(text[: text.index(" lies beside")])[-1] == ReasoningStep("scene", "A rope")


@pytest.mark.parametrize("text", ["", "[" * 1000, "{", '{"target": "\\', "plain words", "\ud83d"])
def test_partial_steps_never_raise(text):
    for step in partial_steps(text):
        assert step.text.encode("utf-8")


# ---- families


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("Qwen/Qwen3-VL-8B-Instruct", "qwen3_vl"),
        ("qwen3-vl:8b", "qwen3_vl"),
        ("Qwen/Qwen2.5-VL-72B-Instruct-AWQ", "qwen2_5_vl"),
        ("qwen2.5vl:7b", "qwen2_5_vl"),
        ("qwen/qwen2.5-vl-72b-instruct:free", "qwen2_5_vl"),
        ("Qwen/Qwen2-VL-2B-Instruct", "qwen2_vl"),
        ("Qwen/Qwen-VL-Chat", "qwen_vl"),
        ("Qwen/Qwen-VL", "qwen_vl"),
        ("Ricky06662/VisionReasoner-7B", "vision_reasoner"),
        ("Ricky06662/Seg-Zero-7B", "vision_reasoner"),
        ("OpenGVLab/InternVL3_5-8B-HF", "internvl"),
        ("gemini-2.5-flash", "gemini"),
        ("models/gemini-robotics-er-1.5-preview", "gemini"),
        ("deepseek-ai/deepseek-vl2-small", "deepseek_vl2"),
        ("allenai/Molmo-7B-D-0924", "molmo"),
        ("allenai/Molmo2-8B", "molmo2"),
        ("allenai/Molmo2-O-7B", "molmo2"),
        ("allenai/Molmo-72B-0924", "molmo"),
        ("google/paligemma2-3b-mix-448", "paligemma"),
        ("microsoft/Florence-2-large", "florence2"),
        ("IDEA-Research/Rex-Omni", "rex_omni"),
        ("BAAI/RoboBrain2.0-7B", "robobrain2"),
        ("BAAI/RoboBrain2.5-8B-NV", "qwen3_vl"),
        ("/models/Qwen2.5-VL-3B-Instruct/", "qwen2_5_vl"),
        ("/models/qwen3/llava-onevision", "qwen3_vl"),
        ("/cache/models--Qwen--Qwen3-VL-4B-Instruct/snapshots/0a1b2c", "qwen3_vl"),
        (r"C:\models\Qwen2-VL-2B", "qwen2_vl"),
        ("claude-opus-4-5-20251101", "claude"),
        ("anthropic/claude-sonnet-4.5", "claude"),
        ("Qwen3-VL-8B-Claude-Distill", "qwen3_vl"),
        ("gpt-4o", "generic"),
        ("HuggingFaceTB/SmolVLM2-2.2B-Instruct", "generic"),
        ("google/gemma-3-4b-it", "generic"),
        ("google/medgemma-4b-it", "generic"),
        ("google/gemma-4-E4B-it", "gemma4"),
        ("gemma4:12b", "gemma4"),
        ("nvidia/Cosmos-Reason1-7B", "qwen2_5_vl"),
        ("", "generic"),
    ],
)
def test_family_is_told_by_the_name(model, family):
    assert family_for(model).name == family


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_without_its_beginning_that_says_absent_is_no_target(family):
    """A small model may run away at once: the spans of its list are no places of anything."""
    text = '[8,9][8,9] red mug;#2[1,2][3,4] blue cup; so none", "scene": "", "present": false, "objects": []}'
    assert parse_answer(text, FAMILIES[family], (640, 480)).present is False


@pytest.mark.parametrize(
    "text",
    [
        'They ask for "present": false if nothing fits. Here the red mug is visible, at [250, 300, 500, 600].',
        '"present": false, "objects": []}\nWait, I was wrong. There is a blue mug: [250, 300, 500, 600]',
        'red mug", "presence": "No doubt, the red mug is there", "bbox_2d": [250, 300, 500, 600]',
    ],
)
def test_an_answer_that_only_speaks_of_absence_is_read(text):
    (found,) = parse_answer(text, FAMILIES["qwen3_vl"], (640, 480)).findings
    assert found.box is not None


def test_an_unknown_family_is_refused_with_the_names():
    assert find_family("gemini") is FAMILIES["gemini"]
    with pytest.raises(ConfigurationError, match=r"'bert' is unknown; use one of .*qwen3_vl"):
        find_family("bert")


def test_families_tell_how_they_count():
    assert FAMILIES["gemini"].box_instruction == (
        "Boxes are [ymin, xmin, ymax, xmax]: the top, left, bottom and right edge, as integers from 0 to 1000 relative "
        "to the image's width and height."
    )
    assert "in pixels of the image" in FAMILIES["qwen2_5_vl"].box_instruction
    box = Box(64, 96, 192, 384)
    assert FAMILIES["gemini"].write_box(box, SIZE) == (200, 100, 800, 300)
    assert FAMILIES["qwen3_vl"].write_box(box, SIZE) == (100, 200, 300, 800)
    assert FAMILIES["vision_reasoner"].write_box(box, SIZE) == (84, 168, 252, 672)
    assert FAMILIES["robobrain2"].write_box(box, SIZE) == (64, 96, 192, 384)
    assert FAMILIES["robobrain2"].write_box(box, SIZE, (320, 240)) == (32, 48, 96, 192), "it knows what it was sent"
    assert FAMILIES["qwen2_5_vl"].write_box(box, SIZE, (1288, 952)) == (129, 190, 386, 762)
    assert FAMILIES["qwen2_5_vl"].write_box(box, SIZE, (1280, 960)) == (129, 190, 386, 762)


@pytest.mark.parametrize(
    "size", [(640, 480), (1280, 960), (1920, 1080), (1080, 1920), (4000, 500), (9000, 1), (1568, 733)]
)
def test_claude_gets_no_image_that_it_would_shrink(size):
    """Its documentation: neither side longer than 1568 pixels, and at most 1568 tokens of 28 x 28 pixels."""
    family = FAMILIES["claude"]
    width, height = sent = family.size_to_send(size)
    assert max(sent) <= 1568
    assert math.ceil(width / 28) * math.ceil(height / 28) <= 1568
    if max(size) <= 1568 and math.prod(size) <= 1_150_000:
        assert sent == size
    elif min(size) > 1:
        assert width * height > 1_140_000 or max(sent) >= 1567, "it was shrunk more than need be"
        assert width / height == pytest.approx(size[0] / size[1], rel=0.01)
    (finding,) = parse_answer(f"[0, 0, {width}, {height}]", family, size, sent).findings
    assert finding.box.as_tuple() == pytest.approx((0, 0, *size))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1024, 1024), (1036, 1036)),  # recorded: Qwen2.5-VL's own notebook
        ((720, 1280), (728, 1288)),  # recorded: its mobile agent's prompt
        ((640, 480), (644, 476)),
        ((1, 1), (56, 56)),
        ((20, 3000), (28, 2996)),
        ((8000, 6000), (4116, 3080)),
        ((1919, 1080), (1932, 1092)),
        ((31, 99), (28, 112)),
        ((5000, 31), (5012, 28)),
    ],
)
def test_smart_resize(size, expected):
    """What transformers' function of that name gives with the limits of Qwen2.5-VL's preprocessor_config.json."""
    assert smart_resize(*size) == expected
    assert smart_resize(*expected) == expected
