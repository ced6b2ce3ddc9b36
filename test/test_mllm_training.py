"""The small MLLM's training: chains, tokenizer, the fast ways through the network, resuming."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
import math
import re
import shutil
import weakref
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from small_training import files_of_at_most
from torch.nn import functional
from transformers import AutoTokenizer

from rsvp_ros.cli import main
from rsvp_ros.config import build as build_config
from rsvp_ros.config import load as load_config
from rsvp_ros.errors import ConfigurationError, ModelLoadError, ModelRunError, ParseError
from rsvp_ros.geometry import Box, RegionGrid
from rsvp_ros.reasoning.families import FAMILIES, family_for
from rsvp_ros.reasoning.mllm.images import shrink
from rsvp_ros.reasoning.mllm.model_folder import EMBEDDED, EMBEDDED_PROMPTS
from rsvp_ros.reasoning.mllm.transformers_mllm import TransformersConfig, TransformersMllm
from rsvp_ros.reasoning.parsing import parse_answer
from rsvp_ros.reasoning.prompts import Prompts
from rsvp_ros.reasoning.reasoner import Reasoner, ReasonerConfig
from rsvp_ros.reasoning.visual_prompt import VisualPrompt
from rsvp_ros.tabletop.export import SceneOptions, export
from rsvp_ros.tabletop.instruction import LANGUAGES, InstructionKind
from rsvp_ros.tabletop.instructions import (
    english_name,
    phrase,
    sample_instructions,
    sample_questions,
    sought,
    visible_attributes,
)
from rsvp_ros.tabletop.kinds import COLORS, KINDS, TRAINING_KINDS, is_held_out_pair
from rsvp_ros.tabletop.language import GRAMMARS
from rsvp_ros.tabletop.layout import Layout
from rsvp_ros.tabletop.queries import Extreme, NearestEdge
from rsvp_ros.tabletop.splits import Split
from rsvp_ros.tabletop.view import Camera, ObjectView, View
from rsvp_ros.tabletop.view_files import read_view
from rsvp_ros.training.curve import read_log
from rsvp_ros.training.failures import TrainingDivergedError
from rsvp_ros.training.mllm import lessons as lessons_module
from rsvp_ros.training.mllm import material as material_module
from rsvp_ros.training.mllm import tokenizer as tokenizer_module
from rsvp_ros.training.mllm.chains import (
    ANCHOR_OF,
    FLAGS,
    NAME,
    NOT,
    PRESENT,
    RELATED,
    RELATIONS,
    SCENE,
    START,
    Part,
    answer_words,
    is_passed_on,
    kind_word,
    left_to_right,
    measure_told,
    place_words,
    places_of,
    relation,
    size,
    without_thought,
    write_chain,
)
from rsvp_ros.training.mllm.embeddings import put_in_order
from rsvp_ros.training.mllm.extents import CLASSES, Measure, edge_class, length_class, measure_classes, millimetres
from rsvp_ros.training.mllm.language import (
    COLUMNS,
    IMAGE_TOKENS,
    ROWS,
    Frame,
    read_frames,
    row_hidden,
    rows_of,
    write_rows,
)
from rsvp_ros.training.mllm.lessons import (
    TAUGHT_OFTEN,
    WIDER_SHARE,
    Lesson,
    LessonFile,
    Lessons,
    Rows,
    draw,
    make_lessons,
    request_ids,
    spoken_words,
    written_lessons,
)
from rsvp_ros.training.mllm.material import Material, gather
from rsvp_ros.training.mllm.measure import judge
from rsvp_ros.training.mllm.model import MERGE, PATCH, MllmSize, build_model, encode_images, load_weights
from rsvp_ros.training.mllm.questions import RememberingLayout
from rsvp_ros.training.mllm.seeing import FIELDS, NOTHING, cell_truth, dense_truth
from rsvp_ros.training.mllm.tokenizer import (
    FAMILY,
    answer_ids,
    make_processor,
    prompt_parts,
    request_text,
    system_text,
    train_tokenizer,
    with_answer_words,
)
from rsvp_ros.training.mllm.trainer import MllmTrainConfig, Trainer, train
from rsvp_ros.training.mllm.variety import (
    Picture,
    mentioned_colors,
    misread,
    moved,
    noun_pattern,
    pieces,
    recast,
    repainted,
    retold,
    unknown_word,
    with_unknown_noun,
    with_unknown_relation,
    with_unknown_words,
)
from rsvp_ros.training.mllm.views import (
    COLOR_NAMES,
    HEIGHT,
    KIND_NAMES,
    UNTOLD,
    WIDTH,
    network_image,
    seen_things,
    thing_rows,
    to_patches,
    write_store,
)
from rsvp_ros.training.mllm.word_loss import WordLoss
from rsvp_ros.training.places import FARTHEST, STEPS, Ground, offset
from rsvp_ros.training.resurfacing import resurface

TINY = MllmSize(
    vision_hidden=32, vision_layers=1, vision_heads=4, vision_intermediate=32,
    hidden=32, layers=2, heads=4, key_value_heads=2, intermediate=32,
)  # fmt: skip


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    export(folder, "coco", SceneOptions(Split.TRAIN, instructions=4), range(6))
    export(folder, "coco", SceneOptions(Split.VAL, instructions=4), range(2))
    return folder


@pytest.fixture(scope="module")
def views(scenes: Path) -> list[View]:
    return [read_view(record)[0] for record in sorted((scenes / "scenes").glob("train_*.json"))]


@pytest.fixture(scope="module")
def material(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Material:
    return gather(str(scenes), str(scenes), tmp_path_factory.mktemp("material"), 1200)


def config(scenes: Path, out: Path, **changes: object) -> MllmTrainConfig:
    options = {
        "steps": 4, "seeing_steps": 1, "seeing_images": 2, "images": 2, "rows": 2, "blind_rows": 2, "reading_rows": 3,
        "warmup_steps": 1, "more_images": 1, "validation_views": 0, "checkpoint_every": 2, "vocabulary": 1200,
        "bfloat16": False, "model": TINY,
    }  # fmt: skip
    return MllmTrainConfig(str(out), str(scenes), str(scenes), **{**options, **changes})


# --- Chains -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bands", [5, 9, 13])
def test_chains_say_the_truth(views: list[View], bands: int):
    """Read by the package's own parser, an answer means exactly the things that the question means; what is asked for
    by its looks alone is called so, and may be anywhere."""
    asked = passed_on = 0
    for seed, view in enumerate(views):
        layout = RememberingLayout(view)
        grid = RegionGrid(bands, bands, view.camera.width, view.camera.height)
        rng = np.random.default_rng(seed)
        for q in sample_questions(layout, rng, 18, LANGUAGES, is_training=True):
            chain = write_chain(q.query, q.answer, layout, q.language, grid)
            answer = parse_answer(chain.text, FAMILIES[FAMILY], (view.camera.width, view.camera.height))
            if is_passed_on(q.query):
                passed_on += 1
                (finding,) = answer.findings
                name, attributes = sought(q.query)
                assert (finding.name, finding.attributes) == ("thing" if name == "object" else name, attributes)
                assert finding.rows == finding.columns == tuple(range(1, bands + 1))
                continue
            targets = [view.object(i) for i in q.answer.ids]
            assert answer.present is bool(targets)
            said = {(f.name, f.attributes, f.rows, f.columns) for f in answer.findings}
            assert said == {(english_name(o.kind), visible_attributes(o), *grid.bands(o.box)) for o in targets}, (
                chain.text
            )
            assert [step.name for step in answer.steps][:3] == ["target", "scene", "presence"]
            asked += 1
    assert asked + passed_on > 40 and passed_on > 5


def test_without_thought_the_answer_is_the_same(views: list[View]):
    layout, grid = RememberingLayout(views[0]), RegionGrid(9, 9, 320, 240)
    absent = 0
    for q in sample_questions(layout, np.random.default_rng(0), 12, LANGUAGES, is_training=True):
        chain = write_chain(q.query, q.answer, layout, "de", grid)
        words, parts = without_thought(chain.words, chain.parts)
        assert len(words) == len(parts) and not {Part.TARGET, Part.LIST, Part.FLAG, Part.WORK} & set(parts)
        thought, told = (parse_answer("".join(said), FAMILIES[FAMILY], (320, 240)) for said in (chain.words, words))
        assert told.findings == thought.findings and told.present == thought.present
        absent += not told.present
    assert absent


def test_chain_lists_all_things_from_left_to_right(views: list[View]):
    view = max(views, key=lambda v: len(v.things))
    layout = RememberingLayout(view)
    asked = sample_questions(layout, np.random.default_rng(0), 9, LANGUAGES, is_training=True)
    q = next(q for q in asked if not is_passed_on(q.query))
    chain = write_chain(q.query, q.answer, layout, "en", RegionGrid(9, 9, 320, 240))
    listed = [w for w, part in zip(chain.words, chain.parts, strict=True) if part is Part.LIST and w.startswith("#")]
    assert listed == [f"#{k}" for k in range(1, len(view.things) + 1)]
    scene = chain.text.partition('"scene": "')[2].partition(";")
    things = [re.sub(r" (size\d|x-?\d|fits|reference|other).*$", "", t) for t in "".join(scene).split(";")][
        : len(listed)
    ]
    in_order = sorted(view.things, key=lambda o: o.box.center[0])
    assert [t.endswith(f" {english_name(o.kind)}") for t, o in zip(things, in_order, strict=True)] == [True] * len(
        listed
    )


def told_ways(words: Sequence[str], parts: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, str]]:
    """All ways of a chain from one reference: of the thing's place, the reference's, as told in the list; the way; and
    how the thing therefore lies."""
    text = "".join(word for word, part in zip(words, parts, strict=True) if part not in (Part.TARGET, Part.OBJECT))
    places = {n: np.array((int(x), int(y))) for n, x, y in re.findall(r"#(\d+)\[[^#;]* x(-?\d+) y(-?\d+)", text)}
    references = re.findall(rf"{ANCHOR_OF}#(\d+)", text)
    if len(references) != 1:
        return []
    assert [int(s) for s in re.search(rf"{ANCHOR_OF}#\d+ x(-?\d+) y(-?\d+)", text).groups()] == [*places[references[0]]]
    found = re.findall(r"#(\d+) x(-?\d+)#\1 y(-?\d+)( [a-z]+\d+)", text)
    return [(places[n], places[references[0]], np.array((int(x), int(y))), how) for n, x, y, how in found]


def test_ways_are_the_differences_of_places(views: list[View]):
    """In the chains, also after the picture was moved."""
    rng = np.random.default_rng(0)
    grid = RegionGrid(9, 9, 320, 240)
    compared = changed = 0
    for seed, view in enumerate(views):
        layout = RememberingLayout(view)
        for q in sample_questions(layout, np.random.default_rng(seed), 18, LANGUAGES, is_training=True):
            chain = write_chain(q.query, q.answer, layout, "en", grid)
            other = retold(chain.words, chain.parts, moved(pictures([view])[0], rng), grid)
            changed += Part.WORK in chain.parts and list(chain.words) != other
            for words in (chain.words, other):
                for place, reference, way, how in told_ways(words, chain.parts):
                    assert (way == place - reference).all() and how == relation(how.strip(" 0123456789"), way)
                    assert how.strip(" 0123456789") in RELATED
                    compared += 1
    assert compared > 100 and changed > 5


def test_what_is_excluded_is_told_from_what_is_sought(views: list[View]):
    excluded = 0
    for seed, view in enumerate(views):
        layout = RememberingLayout(view)
        for q in sample_questions(layout, np.random.default_rng(seed), 18, LANGUAGES, is_training=True):
            what = getattr(q.query, "what", None)
            if what is None or not what.not_color:
                continue
            chain = write_chain(q.query, q.answer, layout, "en", RegionGrid(9, 9, 320, 240))
            assert chain.words[chain.words.index(NOT) + 1] == f" {what.not_color}"
            flags = [word for word, part in zip(chain.words, chain.parts, strict=True) if part is Part.FLAG]
            for thing, flag in zip(left_to_right(layout.things), flags, strict=True):
                unless = dataclasses.replace(what, not_color=None).holds(thing) is True
                assert flag == FLAGS[what.holds(thing) is True, int(unless and thing.color == what.not_color)]
                excluded += " reference;" in flag
    assert excluded


def told_sizes(words: Sequence[str], parts: Sequence[int]) -> tuple[dict[str, int], list[tuple[int, str]]]:
    """Of the things in a chain's list, by their numbers, and each that is singled out by its size, with its number."""
    listed, singled, current = {}, [], ""
    for k, (word, part) in enumerate(zip(words, parts, strict=True)):
        if part == Part.LIST and word.startswith("#"):
            current = word
        elif word.startswith(" size"):
            if part == Part.MEASURE:
                listed[current] = int(word[5:])
            else:
                singled.append((int(word[5:]), words[k + 2]))
    return listed, singled


def test_what_is_compared_is_singled_out_by_its_measure(views: list[View]):
    """In the chains, also after the picture was moved: the least or the greatest of what is sought, and hardly ever is
    another told as the same."""
    rng = np.random.default_rng(0)
    grid = RegionGrid(9, 9, 320, 240)
    compared = changed = 0
    ties = []
    for view in views:
        layout = RememberingLayout(view)
        for kinds in ((InstructionKind.SIZE,), (InstructionKind.HAZARD,)) * 4:
            for q in sample_questions(layout, rng, 4, LANGUAGES, is_training=True, kinds=kinds):
                if not isinstance(q.query, Extreme | NearestEdge) or not q.answer.ids:
                    continue
                chain = write_chain(q.query, q.answer, layout, "en", grid)
                picture = moved(pictures([view])[0], rng)
                other = retold(chain.words, chain.parts, picture, grid)
                changed += other[: other.index(PRESENT)] != list(chain.words[: other.index(PRESENT)])
                few = isinstance(q.query, NearestEdge) or q.query.measure in ("smallest", "shortest")
                for words, ground in ((chain.words, Ground.of(view)), (other, picture.ground)):
                    listed, ((singled, who),) = told_sizes(words, chain.parts)
                    assert listed[who] == singled and f"so{who}" in "".join(words)
                    order = dict(zip(listed, left_to_right(layout.things), strict=True))
                    wanted = [n for n, thing in order.items() if thing.id in q.answer.candidates]
                    assert singled == (min if few else max)(listed[n] for n in wanted)
                    ties.append(sum(listed[n] == singled for n in wanted) > 1)
                    measure = measure_told(words)
                    for n, thing in order.items():
                        assert listed[n] == measure_classes(millimetres(layout, thing), ground)[measure]
                    compared += 1
    assert compared > 40 and changed > 10
    assert np.mean(ties) < 0.05


def test_measures_grow_with_the_picture():
    """What is twice as long looks as long in a picture that shows twice as much of the table."""
    classes = [length_class(steps) for steps in np.arange(0.01, 40, 0.01)]
    assert classes == sorted(classes) and set(classes) == set(range(CLASSES))
    assert length_class(11.5) > length_class(10)
    assert [edge_class(steps) for steps in (-np.inf, -30, -8, 0, 1, 3, 900, np.inf)] == [
        0, 0, 0, 8, 9, 11, CLASSES - 1, CLASSES - 1,
    ]  # fmt: skip
    values = (50, 200, 100, -200, 0, 0, -100, 250, 0, 0, 100)
    shown = overhead(table=(1.0, 0.6))
    twice = overhead(table=(2.0, 1.2), height=2.0)
    assert measure_classes(values, shown) == measure_classes([2 * v for v in values], twice)


def overhead(table: tuple[float, float], height: float = 1.0) -> Ground:
    """A camera straight above the middle of a table, of which it sees 0.8 m x 0.6 m at 1 m."""
    camera = Camera(320, 240, 400.0, np.array([[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, height], [0, 0, 0, 1.0]]))
    return Ground.of(View(np.zeros((240, 320, 3), np.uint8), None, None, camera, (), table))


def test_only_edges_in_the_image_count():
    """Of a table whose left and right ends are outside it."""
    ground = overhead(table=(1.0, 0.5))
    points = np.array([[0.39, 0.0], [-0.39, -0.2], [0.1, 0.24], [0.0, 0.27], [0.6, 0.0], [0.53, 0.29]])
    assert np.allclose(ground.to_rim(points), [0.25, 0.05, 0.01, -0.02, -0.1, -0.05])
    assert np.isinf(overhead(table=(1.0, 1.0)).to_rim(points[:3])).all()
    seen = overhead(table=(0.7, 0.5)).to_rim(np.array([[0.33, 0.0], [-0.3, 0.22]]))
    assert np.allclose(seen, [0.02, 0.03])


# --- Places -----------------------------------------------------------------------------------------------------------


def test_places_are_as_on_a_map(views: list[View]):
    """Right and ahead of the camera, to scale; the middle of the image is their origin, its width their measure."""
    for view in views:
        layout, camera = Layout(view), view.camera
        places = places_of(layout)
        true = {o.id: layout.place[o.id] for o in view.things}
        ids = list(true)
        away = np.array([offset(places[i], places[ids[0]]) for i in ids])
        metres = np.array([true[i] - true[ids[0]] for i in ids])
        step = (metres**2).sum() / (metres * away).sum()
        assert np.abs(away - metres / step).max() <= 1.01
        ground = Ground.of(view)
        across = np.diff(camera.project(np.array([[*p, 0] for p in ground_points(ground, camera)]))[:, 0])
        assert np.allclose(across, camera.width / STEPS, rtol=0.02)


def ground_points(ground: Ground, camera: Camera) -> np.ndarray:
    """On the table, world, metres: the image's middle, and what is one step right of it in the image."""
    (u, v), matrix = camera.center, ground.world_from_image
    points = np.array([[u, v, 1], [u + camera.width / STEPS, v, 1]]) @ matrix.T
    points = points[:, :2] / points[:, 2:]
    assert ground.places(points[:1] * 1000) == [(0, 0)] and ground.places(points[1:] * 1000) == [(1, 0)]
    return points


@given(scale=st.floats(0.7, 1.5), shift=st.tuples(st.floats(-30, 30), st.floats(-30, 30)), mirrored=st.booleans())
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_moved_image_has_moved_places(views: list[View], scale: float, shift: tuple[float, float], mirrored: bool):
    """What lies in the moved image's middle is at (0, 0), and what is right of it in the image is so on the map."""
    camera = views[0].camera
    ground = Ground.of(views[0])
    move = np.array([[-scale if mirrored else scale, 0, shift[0]], [0, scale, shift[1]]])
    other = ground.moved(move)
    (u, v), back = camera.center, np.linalg.inv(np.vstack((move, (0, 0, 1))))
    pixels = np.array([[u, v, 1], [u + 20, v, 1], [u, v - 20, 1]]) @ back.T
    points = pixels @ ground.world_from_image.T
    middle, right, up = other.places(points[:, :2] / points[:, 2:] * 1000)
    assert middle == (0, 0) and right[0] == round(20 / camera.width * STEPS) and up[1] > 0
    assert ground.places([(1e9, -1e9)])[0] in {(x * FARTHEST, y * FARTHEST) for x in (-1, 1) for y in (-1, 1)}


def test_remembering_changes_no_question(views: list[View]):
    for view in views[:3]:
        said = [i.text for i in sample_instructions(view, np.random.default_rng(1), 6, is_training=True)]
        layout = RememberingLayout(view)
        rng = np.random.default_rng(1)
        asked = sample_questions(layout, rng, 6, LANGUAGES, is_training=True)
        assert [
            phrase(q.query, q.answer, layout, q.kind, q.language, rng, is_training=True).text for q in asked
        ] == said


# --- Tokenizer and processor ------------------------------------------------------------------------------------------


def test_every_word_of_an_answer_is_one_token(material: Material):
    ids = answer_ids(material.tokenizer, answer_words())
    assert len(set(ids[:-1])) == len(answer_words())


def test_an_answer_is_cut_as_it_is_taught(material: Material):
    for lessons in material.train[1]:
        for lesson in lessons:
            words = [answer_words()[k] for k in lesson.chains[9]]
            assert material.tokenizer("".join(words))["input_ids"] == answer_ids(material.tokenizer, words)[:-1]
            assert material.tokenizer.decode(answer_ids(material.tokenizer, words)[:-1]) == "".join(words)


@pytest.mark.parametrize("prompt", EMBEDDED_PROMPTS, ids=lambda p: f"{p.style}-{p.rows}")
def test_the_processor_gives_what_is_taught(material: Material, views: list[View], prompt):
    """The reasoner's own prompts, through the processor, are the tokens and patches of the training."""
    said = "Where is the 3rd red mug, por favor? 那个红色的杯子。"
    prompts = Prompts(said, prompt, FAMILIES[FAMILY], (320, 240), ReasonerConfig().max_targets)
    image = views[0].image
    chat = [
        {"role": "system", "content": [{"type": "text", "text": prompts.render("system")}]},
        {"role": "user", "content": [
            {"type": "image", "image": Image.fromarray(prompt.draw(image))},
            {"type": "text", "text": prompts.render("mcot_structured")},
        ]},
    ]  # fmt: skip
    inputs = make_processor(material.tokenizer).apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    model = build_model(TINY, material.tokenizer, 0)
    frame = Frame.of(model, material.tokenizer)
    taught = [*frame.ids[0].tolist(), *request_ids(material.tokenizer, frame, prompt, said)]
    assert inputs["input_ids"][0].tolist() == taught
    assert len(taught) - frame.ids.shape[1] < 45  # the prompt's thousand words are a few tokens
    patches = torch.from_numpy(to_patches(network_image(image, prompt)[None]))[0]
    assert (patches - inputs["pixel_values"]).abs().mean() < 0.01


@pytest.mark.parametrize("size", [(160, 120), (320, 240), (640, 480), (1280, 960), (1000, 750)])
def test_an_image_of_any_size_is_scaled_to_the_one_that_is_taught(material: Material, size):
    image = np.zeros((size[1], size[0], 3), np.uint8)
    shrunk = Image.fromarray(shrink(image, HEIGHT * WIDTH))
    grid = make_processor(material.tokenizer).image_processor(shrunk)["image_grid_thw"]
    assert grid.tolist() == [[1, ROWS, COLUMNS]]


def test_the_prompts_are_known_to_the_tokenizer(material: Material):
    assert len(material.tokenizer(system_text())["input_ids"]) == 1
    for prompt in EMBEDDED_PROMPTS:
        for part in prompt_parts(prompt):
            assert len(material.tokenizer(part)["input_ids"]) == 1


# --- The network ------------------------------------------------------------------------------------------------------


def test_the_fast_ways_give_what_the_network_gives(material: Material, views: list[View]):
    tokenizer = material.tokenizer
    model = build_model(TINY, tokenizer, 3).eval()
    text = model.model.language_model
    frame = Frame.of(model, tokenizer)
    rows = [
        request_ids(tokenizer, frame, EMBEDDED_PROMPTS[0], said)
        for said in ("The red mug.", "What is left of the book?")
    ]
    patches = torch.from_numpy(to_patches(np.stack([network_image(v.image, EMBEDDED_PROMPTS[0]) for v in views[:2]])))
    with torch.no_grad():
        _, merged = encode_images(model.model.visual, patches, ROWS, COLUMNS)
        cache = rows_of(read_frames(text, frame, merged), torch.tensor([1, 0]))
        length = max(map(len, rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        hidden = row_hidden(text, frame, cache, ids, torch.tensor([False, False]))
        written = write_rows(model, frame, cache, rows, 6, end=-1)
        for r, (row, owner) in enumerate(zip(rows, (1, 0), strict=True)):
            whole = torch.tensor([[*frame.ids[0].tolist(), *row]])
            inputs = {
                "input_ids": whole, "pixel_values": patches[owner],
                "image_grid_thw": torch.tensor([[1, ROWS, COLUMNS]]),
                "mm_token_type_ids": (whole == model.config.image_token_id).int(),
            }  # fmt: skip
            expected = model(**inputs).logits[0, -1]
            torch.testing.assert_close(model.lm_head(hidden[r, len(row) - 1]), expected, atol=1e-4, rtol=1e-4)
            said = model.generate(**inputs, attention_mask=torch.ones_like(whole), max_new_tokens=6, eos_token_id=-1)
            assert written[r] == said[0, whole.shape[1] :].tolist()


def test_a_blind_row_does_not_see(material: Material):
    model = build_model(TINY, material.tokenizer, 3)
    frame = Frame.of(model, material.tokenizer)
    text = model.model.language_model
    ids = torch.tensor([request_ids(material.tokenizer, frame, EMBEDDED_PROMPTS[0], "The red mug.")])
    with torch.no_grad():
        outputs = [
            row_hidden(text, frame, read_frames(text, frame, merged), ids, torch.tensor([blind]))
            for blind in (True, False)
            for merged in (torch.zeros(1, IMAGE_TOKENS, TINY.hidden), torch.ones(1, IMAGE_TOKENS, TINY.hidden))
        ]
    assert not torch.allclose(outputs[2], outputs[3])
    # What follows the image is written after looking at it, all else is not
    assert (outputs[0] - outputs[1]).abs().max() < (outputs[2] - outputs[3]).abs().max()


def test_dense_truth_is_the_view_s(views: list[View]):
    import cv2

    view = views[0]
    ids = cv2.resize(view.ids, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST_EXACT)
    fine, coarse = dense_truth(ids, seen_things(view), Ground.of(view))
    kind = list(FIELDS).index("kind")
    assert set(fine[:, kind]) - {UNTOLD, NOTHING} == {KIND_NAMES.index(o.kind) for o in view.things}
    rank = list(FIELDS).index("rank")
    middle = list(FIELDS).index("middle")
    in_order = sorted(view.things, key=lambda o: o.box.center[0])
    for token in np.flatnonzero(coarse[:, middle] == 1):
        assert KIND_NAMES[coarse[token, kind]] == in_order[coarse[token, rank]].kind


def test_dense_truth_has_the_places(views: list[View]):
    """Of all things in the patches; in merged tokens at least of the smallest of those with their middles there."""
    import cv2

    view = views[0]
    ids = cv2.resize(view.ids, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST_EXACT)
    places, ground = places_of(Layout(view)), Ground.of(view)

    def told(truth: np.ndarray) -> set[tuple[int, int]]:
        x, y = (truth[:, list(FIELDS).index(name)] for name in "xy")
        return set(zip(x, y, strict=True)) - {(UNTOLD, UNTOLD)}

    meant = {id_: (x + FARTHEST, y + FARTHEST) for id_, (x, y) in places.items()}
    side = MERGE * PATCH * view.camera.width / WIDTH
    smallest: dict[tuple[int, ...], ObjectView] = {}
    for thing in sorted(view.things, key=lambda thing: -thing.box.area):
        smallest[tuple(int(c // side) for c in thing.box.center)] = thing
    assert len(smallest) < len(view.things)  # a screwdriver shares its token with a larger bottle
    fine, coarse = dense_truth(ids, seen_things(view), ground)
    assert {meant[thing.id] for thing in smallest.values()} <= told(coarse) <= set(meant.values()) == told(fine)
    for id_, place in meant.items():
        fine, coarse = dense_truth(np.where(ids == id_, ids, 0), seen_things(view), ground)
        assert told(fine) == told(coarse) == {place}


def test_dense_truth_has_the_measures(views: list[View]):
    import cv2

    view = views[0]
    ids = cv2.resize(view.ids, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST_EXACT)
    layout, ground = Layout(view), Ground.of(view)
    for thing in view.things:
        wanted = measure_classes(millimetres(layout, thing), ground)
        for truth in dense_truth(np.where(ids == thing.id, ids, 0), seen_things(view), ground):
            shown = truth[truth[:, list(FIELDS).index("kind")] != NOTHING]
            for measure in Measure:
                told = shown[:, list(FIELDS).index(measure.name.lower())]
                assert set(told) - {UNTOLD} == {wanted[measure]}


def test_dense_truth_has_the_edge_of_the_bare_table(views: list[View]):
    import cv2

    for view in views:
        ids = cv2.resize(view.ids, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST_EXACT)
        ground, (picture,) = Ground.of(view), pictures([view])
        truth = cell_truth(ids, picture.things, ground, PATCH)
        points = view.camera.unproject(view.depth)
        on_top = (np.abs(points[..., 2]) < 0.002) & (view.ids == 0)
        on_top &= (np.abs(points[..., :2]) < np.array(view.table) / 2 + 0.002).all(-1)
        assert (ground.shows_table(*view.ids.shape) == on_top)[view.ids == 0].mean() > 0.98
        bare = truth[..., list(FIELDS).index("kind")] == NOTHING
        told = truth[..., list(FIELDS).index("edge")]
        scale, near = view.camera.width / WIDTH, []
        for row, column in np.argwhere(bare):
            u, v = (round((k + 0.5) * PATCH * scale - 0.5) for k in (column, row))
            if not on_top[max(v - 3, 0) : v + 4, max(u - 3, 0) : u + 4].all():
                continue
            wanted = edge_class(ground.to_rim(points[v, u, :2][None])[0] / ground.step)
            near.append(abs(told[row, column] - wanted) <= 1)
        assert len(near) > 50 and np.mean(near) > 0.95  # not all: which edge is the nearest in the image leaps


# --- Variety ----------------------------------------------------------------------------------------------------------


def pictures(views: list[View]) -> list[Picture]:
    return [Picture(view.image, view.ids, seen_things(view), Ground.of(view)) for view in views]


def test_a_picture_is_kept_with_its_places(material: Material, views: list[View]):
    for index, view in enumerate(views):
        kept = Picture.of(material.train[0], index).places()
        assert {o.id: kept[o.id] for o in view.things} == places_of(Layout(view))


def test_an_unchanged_picture_changes_no_answer(material: Material, views: list[View]):
    for picture, lessons in zip(pictures(views), material.train[1], strict=True):
        for lesson in lessons:
            for bands in (5, 9, 13):
                words = spoken_words(lesson, bands, "de")
                parts = [int(part) for part in lesson.parts]
                assert retold(words, parts, picture, RegionGrid(bands, bands, 320, 240)) == words


def test_a_moved_picture_keeps_its_things_and_their_order(material: Material, views: list[View]):
    rng = np.random.default_rng(0)
    grid = RegionGrid(9, 9, 320, 240)
    moves = 0
    for picture, lessons in zip(pictures(views), material.train[1], strict=True):
        for _ in range(6):
            other = moved(picture, rng)
            moves += other is not picture
            assert other.order() == picture.order()
            boxes = {grid.bands(box) for box in other.boxes().values()}
            for lesson in lessons:
                words, parts = spoken_words(lesson, 9, "en"), [int(part) for part in lesson.parts]
                said = "".join(retold(words, parts, other, grid))
                if Part.LIST not in parts:  # passed on to stage 2: it speaks of no place
                    assert said == "".join(words)
                    continue
                for finding in parse_answer(said, FAMILIES[FAMILY], (320, 240)).findings:
                    assert (finding.rows, finding.columns) in boxes
    assert moves > 12


def test_a_repainted_thing_has_its_new_colour(views: list[View]):
    rng = np.random.default_rng(0)
    painted, near = 0, 0
    for picture in pictures(views) * 6:
        other = repainted(picture, rng, {"red", "white"})
        assert (other.ids == picture.ids).all()
        same = np.ones(picture.ids.shape, bool)
        for before, after in zip(picture.things, other.things, strict=True):
            if before.color == after.color:
                continue
            same &= picture.ids != before.id
            old, new = COLOR_NAMES[before.color], COLOR_NAMES[after.color]
            assert not {old, new} & {"red", "white"}
            assert not is_held_out_pair(KIND_NAMES[after.kind], new)
            changed = (picture.ids == before.id) & (other.image != picture.image).any(-1)
            seen = np.median(other.image[changed], 0) / 255
            wanted, was = np.mean(COLORS[new], 0), np.mean(COLORS[old], 0)
            near += np.linalg.norm(seen - wanted) < np.linalg.norm(seen - was)
            painted += 1
        assert (other.image[same] == picture.image[same]).all()
    assert painted > 15
    assert near > 0.8 * painted


def test_a_recast_picture_teaches_all_but_colours(material: Material):
    store, rng = material.train[0], np.random.default_rng(0)
    whole = single = 0
    for index in range(len(store)):
        before = Picture.of(store, index)
        after = recast(before, rng)
        assert after.is_recast and not before.is_recast
        assert np.array_equal(after.ids, before.ids) and after.image.dtype == np.uint8
        changed = np.abs(after.image.astype(int) - before.image).max(-1) > 3
        assert changed[after.ids > 0].mean() > 0.5
        single += changed[after.ids == 0].mean() < 0.01
        whole += changed[after.ids == 0].mean() > 0.5
        for ours, theirs in zip(*(dense_truth(p.ids, p.things, p.ground) for p in (after, before)), strict=True):
            color = list(FIELDS).index("color")
            assert (ours[..., color] == UNTOLD).all()
            ours[..., color] = theirs[..., color]
            assert np.array_equal(ours, theirs)
    assert whole and single


def test_on_another_ground_things_stay_as_they_are(views: list[View]):
    rng, grounds = np.random.default_rng(0), []
    for view in views:
        other = resurface(view.image, view.ids, Ground.of(view).shows_table(*view.ids.shape), rng)
        assert other.dtype == np.uint8
        assert np.array_equal(other[view.ids > 0], view.image[view.ids > 0])
        changed = np.abs(other.astype(int) - view.image)[view.ids == 0].max(-1) > 3
        assert changed.mean() > 0.8
        grounds.append(np.median(other[view.ids == 0], 0))
    assert np.std(grounds, 0).min() > 10, "each time another"
    view = views[0]
    again = [resurface(view.image, view.ids, view.ids > 9, np.random.default_rng(3)) for _ in range(2)]
    assert np.array_equal(*again)
    everywhere = np.ones_like(view.ids)
    assert np.array_equal(resurface(view.image, everywhere, everywhere > 0, rng), view.image)


def test_beside_the_table_is_yet_another_ground():
    """So the table's edge can be seen on it."""
    image, nothing = np.full((60, 80, 3), 128, np.uint8), np.zeros((60, 80), np.uint8)
    everywhere = nothing == 0
    left = everywhere & (np.arange(80) < 40)

    def step(table: np.ndarray, seed: int) -> float:
        """Between the colours on both sides of the table's edge."""
        other = resurface(image, nothing, table, np.random.default_rng(seed))
        sides = (np.median(other[:, part], (0, 1)) for part in (slice(30, 38), slice(42, 50)))
        return float(np.abs(np.subtract(*sides)).mean())

    ends, goes_on = (np.mean([step(table, seed) for seed in range(30)]) for table in (left, everywhere))
    assert ends > 2 * goes_on


def test_shadows_stay_on_another_ground():
    image = np.full((60, 80, 3), 200, np.uint8)
    image[:, 40:] = 100
    ids = np.zeros((60, 80), np.uint8)
    ids[20:30, 20:30] = 1
    rng = np.random.default_rng(0)
    darker = [
        np.mean(out[:, 50:]) < np.mean(out[:, :15]) for out in (resurface(image, ids, ids == 0, rng) for _ in range(20))
    ]
    assert np.mean(darker) > 0.8


def test_about_recast_pictures_lists_are_taught_but_no_colours(monkeypatch, material: Material):
    monkeypatch.setattr(lessons_module, "RECAST_SHARE", 1.0)
    frame = Frame.of(build_model(TINY, material.tokenizer, 0), material.tokenizer)
    lessons = Lessons(*material.train, material.tokenizer, frame, 0, 2, 4, 0, varied=True)
    colors = {answer_ids(material.tokenizer, [f" {color}"])[0] for color in COLOR_NAMES}
    kinds = {answer_ids(material.tokenizer, [kind_word(kind)])[0] for kind in KIND_NAMES}
    told: list[int] = []
    for step in range(4):
        (rows,) = lessons.batch(step).rows
        assert set(rows.parts[rows.taught].tolist()) <= {Part.GLUE, Part.TARGET, Part.LIST, Part.MEASURE}
        in_list = rows.targets[rows.taught & (rows.parts == Part.LIST)].tolist()
        assert not (colors - kinds) & set(in_list), "an orange may be told, a colour not"
        assert len(kinds & set(in_list)) > 2
        told += [i for i in rows.targets[~rows.taught & (rows.targets >= 0)].tolist() if i in colors]
    assert len(set(told)) > 6, "colours drawn by lot"


def test_a_misread_list_teaches_what_is_meant_and_no_wrong_word(material: Material):
    rng, wrong, meant = np.random.default_rng(0), Counter(), 0
    for lesson in (lesson for of_view in material.train[1] for lesson in of_view):
        words, parts = spoken_words(lesson, 9, "en"), [int(part) for part in lesson.parts]
        told, taught = misread(words, parts, rng)
        for k, (word, part) in enumerate(zip(words, parts, strict=True)):
            if told[k] != word:
                assert part == Part.LIST and taught[k] == lessons_module.UNTAUGHT
                kinds = {word in map(kind_word, KINDS), told[k] in map(kind_word, KINDS)}
                assert len(kinds) == 1 or " orange" in (word, told[k]), "a kind for a kind, a colour for a colour"
                wrong[kinds.pop()] += 1
            elif taught[k] != part:
                assert taught[k] == lessons_module.UNTAUGHT and part in (Part.LIST, Part.OBJECT)
            if told[k] != word and told[k] in map(kind_word, KINDS) and told[k].strip() not in COLORS:
                assert told[k] in map(kind_word, TRAINING_KINDS)
            meant += part in (Part.FLAG, Part.MEANT) and told != words
    assert min(wrong.values()) > 10 and meant > 20


def test_a_question_s_colours_are_known(material: Material):
    words = [" one:", " not red", " mug", " blue"]
    assert mentioned_colors(words, [int(Part.TARGET)] * 3 + [int(Part.LIST)]) == {"red"}


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("en", "Give me the red mug, please."),
        ("es", "¿Dónde está el lápiz?"),
        ("de", "Wo ist der rote Stift?"),
        ("zh", "请给我那个红色的杯子。"),
    ],
)
def test_unknown_words_come_in_addition_or_in_place(language: str, said: str):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        longer = with_unknown_words(said, language, rng, replace=False)
        assert len(longer) > len(said)
        rest = iter(longer)
        assert all(letter in rest for letter in said)  # all that was said is there, in its order
    count, seeds = len(said.split()), range(40)
    in_place = [with_unknown_words(said, language, np.random.default_rng(k)) for k in seeds]
    parts = list(said) if language == "zh" else said.split()
    assert any(len(text.split()) == count and not all(part in text for part in parts) for text in in_place)
    compounds = [with_unknown_words(said, language, np.random.default_rng(k), replace=False) for k in seeds]
    assert any(len(text.split()) == count for text in compounds), "written together with the next word"


@pytest.mark.parametrize(
    ("language", "known"),
    [("en", "mug can red pen not no place"), ("es", "rojo taza mesa lugar no"), ("de", "rot schere schnur blatt in")],
)
def test_unknown_words_are_none_that_training_says(language: str, known: str):
    """But half of them begin as some do."""
    rng = np.random.default_rng(0)
    phrases = GRAMMARS[language].PARAPHRASES
    said = " ".join(text for usual, others in phrases.items() for text in (usual, *others))
    words = {word.lower() for word in re.findall(r"[^\W\d_]+", re.sub(r"\{.*?\}", "", said))}
    made = [unknown_word(rng, language).lower() for _ in range(3000)]
    assert len(set(made)) > 2000 and words.isdisjoint(made) and set(known.split()).isdisjoint(made)
    heads = {word[:4] for word in words if len(word) > 4}
    assert 500 < sum(word[:4] in heads for word in made) < 1500


@pytest.mark.parametrize(
    ("language", "said", "deciding"),
    [
        ("en", "Show me the second red mug left of the book.", "second red mug left book"),
        ("es", "¿Dónde está la segunda taza roja a la izquierda del libro?", "segunda taza roja izquierda libro"),
        ("de", "Zeig mir bitte den größten Hammer links neben dem Buch.", "größten Hammer links neben Buch"),
        ("zh", "请给我书左边那个红色的马克杯。", "书 左 红 马 克 杯"),
    ],
)
def test_a_word_that_decides_is_not_replaced(language: str, said: str, deciding: str):
    made = [with_unknown_words(said, language, np.random.default_rng(k)) for k in range(100)]
    assert all(word in text for word in deciding.split() for text in made)
    assert sum(len(text) > len(said) + 1 or text[:4] != said[:4] for text in made) > 50


def test_unknown_words_come_alone_or_in_a_row():
    said = "Give me the red mug, please."
    rng = np.random.default_rng(0)
    more = Counter(
        len(with_unknown_words(said, "en", rng, replace=False).split()) - len(said.split()) for _ in range(400)
    )
    assert max(more) in range(4, 9), "of two times up to four"
    assert more[0] and more[1] > more[3] > 0


@given(st.text(), st.integers(0, 99))
def test_pieces_are_the_whole_text_cut_within_words(said: str, seed: int):
    cut = pieces(said, np.random.default_rng(seed))
    assert "".join(cut) == said
    for before, after in itertools.pairwise(cut):
        assert before[-1].isalpha() and after[0].isalpha()


def test_words_in_pieces_are_other_tokens(material: Material):
    """Of the same text; and an instruction in one piece is what the chat template makes of it."""
    frame = Frame.of(build_model(TINY, material.tokenizer, 0), material.tokenizer)
    said = "Give me the thing to the right of the bottle."
    usual = request_ids(material.tokenizer, frame, EMBEDDED_PROMPTS[0], said)
    in_pieces = request_ids(
        material.tokenizer, frame, EMBEDDED_PROMPTS[0], "Give me the thing to the ri", "ght of the bottle."
    )
    assert material.tokenizer.decode(in_pieces) == material.tokenizer.decode(usual)
    assert len(in_pieces) > len(usual)
    text = request_text(said, EMBEDDED_PROMPTS[0]).split("<|vision_end|>")[1]
    assert usual == material.tokenizer(text)["input_ids"], "as the chat template writes it"


@pytest.mark.parametrize("varied", [False, True])
def test_only_varied_instructions_are_cut(material: Material, monkeypatch, varied: bool):
    monkeypatch.setattr(lessons_module, "CUT_SHARE", 1.0)
    frame = Frame.of(build_model(TINY, material.tokenizer, 0), material.tokenizer)
    lessons = Lessons(*material.train, material.tokenizer, frame, 0, 2, 4, 2, varied=varied)
    whole = {
        tuple(request_ids(material.tokenizer, frame, prompt, text))
        for of_view in material.train[1] for lesson in of_view for texts in lesson.texts.values() for text in texts
        for prompt in EMBEDDED_PROMPTS
    }  # fmt: skip
    rows = lessons.batch(0).rows[0].ids.tolist()
    longest = max(map(len, whole))
    found = sum(any(tuple(row[:n]) in whole for n in range(1, longest + 1)) for row in rows)
    assert found == len(rows) if not varied else found < len(rows) / 2


def test_an_unknown_noun_is_a_thing_of_its_colour(material: Material):
    """Its other words stay, and what the list says is meant still is."""
    rng, changed, listed = np.random.default_rng(0), 0, 0
    for lesson in (lesson for of_view in material.train[1] for lesson in of_view):
        parts = [int(part) for part in lesson.parts]
        for language, texts in lesson.texts.items():
            words = spoken_words(lesson, 9, language)
            new = with_unknown_noun(texts[0], words, parts, language, rng)
            if new is None:
                continue
            text, told = new
            different = [(a, b, words[k - 1]) for k, (a, b) in enumerate(zip(words, told, strict=True)) if a != b]
            assert len(different) == (1 if Part.LIST in parts else 2)
            for kind, thing, before in different:
                assert kind in map(kind_word, KINDS) and thing == " thing"
                assert before.strip() in COLORS or before == NAME
            kind = next(kind for kind in KINDS if kind_word(kind) == different[0][0])
            assert not noun_pattern(language, kind).search(text), "neither another one nor a verb was taken for it"
            changed, listed = changed + 1, listed + (Part.LIST in parts)
    assert changed > 5 and listed


@pytest.mark.parametrize(
    ("language", "said", "before", "after"),
    [
        ("en", "Give me the thing to the left of the mug.", "Give me the thing ", " of the mug."),
        ("en", "Give me the second thing from the left that is behind the mug.", "from the left that is ", " the mug."),
        ("es", "Dame lo que está justo al lado del tazón.", "Dame lo que está ", " del tazón."),
        ("de", "Was liegt rechts vom Becher?", "Was liegt ", " vom Becher?"),
        ("zh", "杯子前面是什么？", "杯子", "是什么？"),
    ],
)
def test_how_a_thing_lies_becomes_unknown_and_what_is_next_is_meant(language: str, said: str, before: str, after: str):
    words = [START, " thing", RELATIONS["left"], " one:", " mug", SCENE]
    parts = [Part.GLUE, *[Part.TARGET] * 4, Part.GLUE]
    for seed in range(20):
        text, told = with_unknown_relation(said, words, parts, language, np.random.default_rng(seed))
        assert before in text and text.endswith(after) and text != said
        assert told == [START, " thing", RELATIONS["next"], " one:", " mug", SCENE]
    for other in (" between", " one:"):  # says no side
        words[2] = other
        assert with_unknown_relation(said, words, parts, language, np.random.default_rng(0)) is None


def test_most_that_is_said_about_sides_can_become_unknown(material: Material):
    rng, sides = np.random.default_rng(0), {word for how, word in RELATIONS.items() if how != "between"}
    changed: Counter[tuple[str, bool]] = Counter()
    for lesson in (lesson for of_view in material.train[1] for lesson in of_view):
        parts = [int(part) for part in lesson.parts]
        for language, texts in lesson.texts.items():
            words = spoken_words(lesson, 9, language)
            said = [word for word, part in zip(words, parts, strict=True) if part == Part.TARGET and word in sides]
            new = with_unknown_relation(texts[0], words, parts, language, rng)
            assert new is None or len(said) == 1
            if len(said) == 1:
                changed[language, new is not None] += 1
    for language in LANGUAGES:
        assert changed[language, True] > 3 * changed[language, False]


def test_only_rows_for_reading_ask_for_another_thing(material: Material, monkeypatch):
    """Where a side is unknown: the answer of a whole row is to its own question."""
    monkeypatch.setattr(lessons_module, "UNKNOWN_RELATIONS", 1.0)
    frame = Frame.of(build_model(TINY, material.tokenizer, 0), material.tokenizer)
    options = {"reading_rows": 60, "unknown_words": 1.0}
    lessons = Lessons(*material.train, material.tokenizer, frame, 0, 2, 4, 60, **options)
    next_to = answer_ids(material.tokenizer, [RELATIONS["next"]])[0]
    questions = {
        tuple(answer_ids(material.tokenizer, [answer_words()[k] for k in chain])[:-1])
        for of_view in material.train[1] for lesson in of_view for chain in lesson.chains.values()
    }  # fmt: skip
    targets = {answer[: answer.index(answer_ids(material.tokenizer, [SCENE])[0])] for answer in questions}
    whole, *reading = lessons.batch(0).rows

    def told(rows: Rows) -> list[tuple[int, ...]]:
        end = answer_ids(material.tokenizer, [SCENE])[0]
        found = [row[row >= 0].tolist() for row in rows.targets]
        return [tuple(row[: row.index(end)]) for row in found]

    things = {answer_ids(material.tokenizer, [" thing"])[0]}  # that is what unknown kinds become, too
    own = [row for row in told(whole) if things.isdisjoint(row)]
    assert own and set(own) <= targets
    others = [row for rows in reading for row in told(rows) if row not in targets and things.isdisjoint(row)]
    assert others and all(next_to in row for row in others)


def test_what_is_learned_last_is_asked_more_often():
    lessons = [Lesson(kind.value, {}, {}, "") for kind in InstructionKind]
    rng = np.random.default_rng(0)
    counts = Counter(InstructionKind(lesson.kind) for _ in range(2000) for lesson in draw(lessons, 1, rng))
    usual = np.mean([counts[kind] for kind in InstructionKind if kind not in TAUGHT_OFTEN])
    for kind, often in TAUGHT_OFTEN.items():
        assert 0.7 * often < counts[kind] / usual < 1.4 * often
    assert {lesson.kind for lesson in draw(lessons, len(lessons), rng)} == {lesson.kind for lesson in lessons}


def test_a_batch_holds_more_images_than_are_asked_about(material: Material):
    frame = Frame.of(build_model(TINY, material.tokenizer, 0), material.tokenizer)
    options = {"varied": True, "unknown_words": 0.5, "seeing_images": 3}
    lessons = Lessons(*material.train, material.tokenizer, frame, 0, 2, 2, 1, **options)
    batch = lessons.batch(0)
    assert len(batch.patches) == len(batch.truth.patches) == len(batch.truth.merged) == 5
    (rows,), (again,) = batch.rows, lessons.batch(0).rows
    assert sorted(rows.owners[~rows.blind].tolist()) == [0, 0, 1, 1] and rows.owners[rows.blind].tolist() == [0]
    assert torch.equal(rows.ids, again.ids)
    assert torch.equal(batch.patches, lessons.batch(0).patches)


def test_rows_for_reading_end_with_the_target(material: Material):
    """Those of a question are as in a whole answer, and one more that says that it has ended."""
    frame = Frame.of(build_model(TINY, material.tokenizer, 0), material.tokenizer)
    lessons = Lessons(*material.train, material.tokenizer, frame, 0, 2, 2, 1, reading_rows=40, varied=True)
    whole, *reading = lessons.batch(0).rows
    assert sum(len(rows.ids) for rows in reading) == 40 and len(whole.ids) == 5
    lengths = [rows.ids.shape[1] for rows in reading]
    assert lengths == sorted(lengths, reverse=True) and lengths[0] > lengths[-1], "padded to those of their own group"
    assert lengths[0] < whole.ids.shape[1] / 2
    for rows in reading:
        assert rows.blind.all() and set(rows.parts[rows.taught].tolist()) == {Part.GLUE, Part.TARGET}
    targets = {
        tuple(answer_words()[k] for k, part in zip(chain, lesson.parts, strict=True) if int(part) == Part.TARGET)
        for of_view in material.train[1] for lesson in of_view for chain in lesson.chains.values()
    }  # fmt: skip
    words = {answer_ids(material.tokenizer, [word])[0]: word for word in answer_words()}
    for row in (row for rows in reading for row in rows.targets):
        told = [words[i] for i in row[row >= 0].tolist()]
        assert told[0] == START and told[-1] == SCENE and tuple(told[1:-1]) in targets


def test_a_measure_that_is_nearly_right_costs_little(material: Material):
    """Least where all classes are as likely as they are near; of other words it is the cross-entropy."""
    loss, tokenizer = WordLoss(material.tokenizer, torch.device("cpu")), material.tokenizer
    sizes = answer_ids(tokenizer, [size(k) for k in range(CLASSES)])[:-1]
    other = answer_ids(tokenizer, [kind_word("mug")])[0]
    targets = torch.tensor([sizes[20], other, sizes[0]])
    scores = torch.randn(3, len(tokenizer), generator=torch.Generator().manual_seed(0))
    assert loss(scores, targets)[1] == functional.cross_entropy(scores[1:2], targets[1:2])

    def cost(guess: int) -> float:
        sure = torch.zeros(3, len(tokenizer))
        sure[:, guess] = 9.0
        return loss(sure, targets)[0].item()

    costs = [cost(sizes[k]) for k in range(20, CLASSES)]
    assert costs == sorted(costs) and costs[1] - costs[0] < 0.25 * (costs[8] - costs[0])
    scores.requires_grad_()
    for _ in range(300):
        (gradient,) = torch.autograd.grad(loss(scores, targets).sum(), scores)
        scores = (scores - 3 * gradient).detach().requires_grad_()
    told = scores.detach()[0].softmax(0)[sizes]
    assert told.argmax() == 20 and told.sum() > 0.9 and told[18].item() == pytest.approx(told[22].item(), rel=0.1)
    assert scores.detach()[2].softmax(0)[sizes].argmax() == 0


# --- Training ---------------------------------------------------------------------------------------------------------


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


@pytest.mark.parametrize("options", [{}, {"bfloat16": True}, {"workers": 1}], ids=["float32", "bfloat16", "worker"])
def test_training_is_deterministic_and_resumes(scenes: Path, material: Material, tmp_path: Path, options: dict):
    whole = Trainer(config(scenes, tmp_path / "a", **options), material)
    whole.run()
    again = Trainer(config(scenes, tmp_path / "b", **options | {"workers": 0}), material)
    for _ in range(2):
        again.train_step(again.batches[again.step])
    again.save()
    resumed = Trainer(config(scenes, tmp_path / "b", **options), material)
    assert resumed.resume()
    assert resumed.step == 2
    resumed.run()
    for name, value in weights(whole).items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert (tmp_path / "a/log.jsonl").exists()


def test_all_that_is_computed_with_follows_the_network_s_device(scenes: Path, material: Material, tmp_path: Path):
    """What is made for no device in particular is made on "meta" here: with that a CPU computes as little as a GPU does
    with what is left on the CPU."""
    trainer = Trainer(config(scenes, tmp_path, bfloat16=True, validation_views=1), material)
    batches = [trainer.batches[step] for step in range(2)]
    assert not batches[0].rows and batches[1].rows
    with torch.device("meta"):
        for batch in batches:
            trainer.train_step(batch.to(trainer.device))
        assert "list given: right" in trainer.validate()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_and_its_training_goes_on_on_a_cpu(scenes: Path, material: Material, tmp_path: Path):
    trainer = Trainer(config(scenes, tmp_path, device="cuda", bfloat16=True, steps=2, validation_views=1), material)
    trainer.run()
    assert next(trainer.model.parameters()).is_cuda
    assert Trainer(config(scenes, tmp_path, device="cpu"), material).resume()


def test_too_little_memory_is_told_with_the_remedy(scenes: Path, material: Material, tmp_path: Path, monkeypatch):
    def fails(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    shutil.copytree(material.folder, tmp_path / "material")
    monkeypatch.setattr(Trainer, "train_step", fails)
    with pytest.raises(ModelRunError, match="at step 0: choose fewer `images`, `rows` or `more_images`"):
        train(config(scenes, tmp_path))


def test_several_processes_are_refused_before_they_write_the_same_files(scenes: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigurationError, match="one process"):
        train(config(scenes, tmp_path))
    assert not any(tmp_path.iterdir())


def test_a_damaged_checkpoint_is_passed_over(scenes: Path, material: Material, tmp_path: Path):
    trainer = Trainer(config(scenes, tmp_path), material)
    for _ in range(2):
        trainer.train_step(trainer.batches[trainer.step])
        trainer.save()
    (tmp_path / "checkpoint.pt").write_bytes(b"damaged")
    other = Trainer(config(scenes, tmp_path), material)
    assert other.resume()
    assert other.step == 1
    (tmp_path / "checkpoint_previous.pt").write_bytes(b"damaged")
    with pytest.raises(ConfigurationError, match="choose another `out`"):
        Trainer(config(scenes, tmp_path), material).resume()


def test_weights_that_are_no_numbers_are_not_kept(scenes: Path, material: Material, tmp_path: Path):
    trainer = Trainer(config(scenes, tmp_path), material)
    trainer.train_step(trainer.batches[trainer.step])
    trainer.save()
    good = (tmp_path / "checkpoint.pt").read_bytes()
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingDivergedError, match="learning_rate"):
        trainer.save()
    assert (tmp_path / "checkpoint.pt").read_bytes() == good


def test_a_full_disk_is_said_where_weights_are_written(scenes: Path, material: Material, tmp_path: Path):
    trainer = Trainer(config(scenes, tmp_path), material)
    message = r"weights cannot be written to \(.*too large"
    with files_of_at_most(20_000), pytest.raises(ConfigurationError, match=message):
        trainer.save_weights(tmp_path / "weights")


def test_without_a_chain_of_thought_answers_are_short(scenes: Path, material: Material, tmp_path: Path):
    options = {"chain_of_thought": False, "blind_rows": 0, "reading_rows": 0, "validation_views": 2, "seeing_steps": 0}
    trainer = Trainer(config(scenes, tmp_path, **options), material)
    said = trainer.train_step(trainer.batches[0])
    assert "object" in said and not {"target", "list", "flag"} & said.keys()
    assert not any("list given" in name for name in trainer.validate())


def test_learning_makes_the_loss_smaller(scenes: Path, material: Material, tmp_path: Path):
    # Rows that only list, about pictures in colours without a name, are harder: a step would not compare with another
    options = {"steps": 60, "seeing_steps": 0, "learning_rate": 5e-3, "varied": False, "unknown_words": 0.0}
    usual = dataclasses.replace(material, train=material.held_out)  # wider forms are learned more slowly
    trainer = Trainer(config(scenes, tmp_path, **options), usual)
    losses = [trainer.train_step(trainer.batches[step])["words"] for step in range(25)]
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:3])


def test_a_training_that_diverges_stops_with_its_weights_as_they_were(scenes: Path, material: Material, tmp_path: Path):
    trainer = Trainer(config(scenes, tmp_path, seeing_steps=0), material)
    before, heads = weights(trainer), [p.clone() for p in trainer.heads.parameters()]
    batch = trainer.batches[0]
    batch.patches[0, 0, 0] = math.inf
    with pytest.raises(TrainingDivergedError, match=r"at step 0: .*`learning_rate`"):
        trainer.train_step(batch)
    assert trainer.step == 0
    assert all(torch.equal(value, before[name]) for name, value in weights(trainer).items())
    assert all(torch.equal(*pair) for pair in zip(heads, trainer.heads.parameters(), strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["steps=0"], "steps"),
        (["stepz=1"], "no option `stepz`"),
        (["model.hidden=100"], "multiple of 8"),
        (["model.key_value_heads=3"], "must divide"),
        (["images=many"], "a whole number"),
        (["unknown_words=2"], "a share"),
        (["learning_rate=0"], "`learning_rate` must be above 0"),
        (["clip_norm=.nan"], "`clip_norm` must be above 0"),
        (["weight_decay=-1"], "`weight_decay` must not be negative"),
        (["chain_of_thought=false"], "`blind_rows` and `reading_rows` must be 0"),
        (["words_alone=true", "seeing_steps=0"], "`words_alone` needs `init`"),
        (["words_alone=true", "init=embedded"], "`seeing_steps` and `more_images` must be 0"),
    ],
)
def test_bad_configurations_are_refused(changes: list[str], message: str):
    with pytest.raises(ConfigurationError, match=message):
        MllmTrainConfig.from_file(None, changes, out="o", train="t", held_out="h")


def test_a_folder_without_scenes_is_refused(tmp_path: Path):
    (tmp_path / "scenes").mkdir()
    (tmp_path / "scenes/val_000000.json").touch()
    with pytest.raises(ConfigurationError, match=r"no scenes of the split train.*export .*--split train --out"):
        gather(str(tmp_path), str(tmp_path), tmp_path / "material", 1000)


def test_a_vocabulary_too_small_for_the_answers_is_refused(scenes: Path, tmp_path: Path):
    with pytest.raises(ConfigurationError, match="`vocabulary` is 300"):
        gather(str(scenes), str(scenes), tmp_path / "material", 300)


def test_of_a_folder_with_several_splits_each_part_takes_its_own(scenes: Path, material: Material):
    for part, name in ((material.train, "train"), (material.held_out, "val")):
        records = sorted((scenes / "scenes").glob(f"{name}_*.json"))
        assert np.array_equal(part[0].ids, [read_view(record)[0].ids for record in records])


def test_wider_forms_are_asked_in_training_only(scenes: Path, material: Material):
    """What is measured must stay comparable from version to version."""
    for part, name, wider in ((material.train, "train", WIDER_SHARE), (material.held_out, "val", 0.0)):
        for index, record in enumerate(sorted((scenes / "scenes").glob(f"{name}_*.json"))):
            view, _ = read_view(record)
            rng = np.random.default_rng([index, 2])
            assert [vars(lesson) for lesson in make_lessons(view, rng, wider=wider)] == [
                vars(lesson) for lesson in part[1][index]
            ]


def test_a_damaged_tokenizer_is_named(scenes: Path, material: Material, tmp_path: Path):
    material.tokenizer.save_pretrained(tmp_path / "init")
    text = (tmp_path / "init" / "tokenizer.json").read_text()
    (tmp_path / "init" / "tokenizer.json").write_text(text[: len(text) // 2])
    with pytest.raises(ModelLoadError, match="tokenizer"):
        gather(str(scenes), str(scenes), tmp_path / "material", 1200, tmp_path / "init")


def test_material_of_other_scenes_or_words_is_refused(scenes: Path, material: Material, tmp_path: Path):
    """But not where it does not say what it is of, as of earlier versions, nor where its scenes are gone."""
    folder = shutil.copytree(material.folder, tmp_path / "kept")
    linked = tmp_path / "material"
    linked.symlink_to(folder)
    for part in ("train", "held_out"):
        other = shutil.copytree(scenes, tmp_path / f"of {part}")
        sources = {"train": str(scenes), "held_out": str(scenes)}
        with pytest.raises(ConfigurationError, match=rf"{part} was made of .*of {part}.*: delete .*another `out`"):
            gather(**sources | {part: str(other)}, folder=linked, vocabulary=1200)
    with pytest.raises(ConfigurationError, match=r"vocabulary 1200\) than .*vocabulary 1300"):
        gather(str(scenes), str(scenes), linked, 1300)
    moved = scenes.rename(tmp_path / "moved")
    try:
        gather(str(scenes), str(scenes), linked, 1200)
        (moved / "scenes/train_000006.json").touch()
        (tmp_path / "moved").rename(scenes)
        with pytest.raises(ConfigurationError, match=r"views 6\) than .*views 7"):
            gather(str(scenes), str(scenes), linked, 1200)
    finally:
        (scenes / "scenes/train_000006.json").unlink()
    for path in folder.rglob("made_of.json"):
        path.unlink()
    gather(str(other), str(other), linked, 1300)


def test_views_need_not_fit_into_memory(monkeypatch, scenes: Path, tmp_path: Path):
    seen: list[weakref.ref] = []

    def read(record: Path):
        gc.collect()
        assert sum(view() is not None for view in seen) <= 1
        view, instructions = read_view(record)
        seen.append(weakref.ref(view))
        return view, instructions

    monkeypatch.setattr(material_module, "read_view", read)
    gather(str(scenes), str(scenes), tmp_path, 1200)
    assert len(seen) == 8


def test_there_may_be_many_views(views: list[View]):
    assert set(thing_rows(40_000, views[0])[:, 0]) == {40_000}


def test_views_of_several_sizes_are_refused(views: list[View], tmp_path: Path):
    small = dataclasses.replace(views[1], image=views[1].image[::2, ::2], ids=views[1].ids[::2, ::2])
    with pytest.raises(ConfigurationError, match="same --size"):
        write_store(tmp_path, [views[0], small], 2)


@pytest.mark.parametrize("name", ["grounds.npy", "things.npy"])
def test_material_of_another_version_is_refused(scenes: Path, material: Material, tmp_path: Path, name: str):
    folder = shutil.copytree(material.folder, tmp_path / "material")
    values = np.load(folder / "held_out" / name)
    if name == "grounds.npy":
        (folder / "held_out" / name).unlink()
    else:
        np.save(folder / "held_out" / name, values[:, :-2])
    with pytest.raises(ConfigurationError, match="held_out is damaged, or of another version.*delete it"):
        gather(str(scenes), str(scenes), folder, 1200)


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "another version"), ('{"words": 1}\n', "another version"), ("{head}\n[{}]\n", "damaged")],
)
def test_questions_of_other_words_are_refused(material: Material, tmp_path: Path, content: str, message: str):
    path = tmp_path / "questions.jsonl"
    with written_lessons(path) as write:
        for lessons in material.train[1]:
            write(lessons)
    assert list(LessonFile(path)) == list(material.train[1])
    head = path.read_text(encoding="utf-8").splitlines()[0]
    path.write_text(content.replace("{head}", head), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=f"{message}.*delete it"):
        list(LessonFile(path))


def test_questions_are_whole_or_not_there(material: Material, scenes: Path, tmp_path: Path):
    folder = shutil.copytree(material.folder, tmp_path / "material")
    path = folder / "train/questions.jsonl"
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:-1]), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"train is damaged.*6 views, and questions about 5.*delete it"):
        gather(str(scenes), str(scenes), folder, 1200)
    path.unlink()
    (folder / "train/.questions.jsonl.part").symlink_to("/dev/full")
    with pytest.raises(ConfigurationError, match="no space is left"):
        gather(str(scenes), str(scenes), folder, 1200)
    assert not path.exists()


def test_trained_weights_answer_through_the_reasoner(
    scenes: Path, material: Material, views: list[View], tmp_path: Path
):
    """Saved weights are a model like any other: what a few steps taught of the form is not yet an answer."""
    out = tmp_path / "out"
    shutil.copytree(material.folder, out / "material")
    folder = train(config(scenes, out))
    mllm = TransformersMllm(TransformersConfig(str(folder), device="cpu", max_new_tokens=5))
    try:
        reasoner = Reasoner(mllm, ReasonerConfig(reask=0))
        assert reasoner.family.name == FAMILY
        with pytest.raises(ParseError, match="was cut off"):
            reasoner.reason(views[0].image, "the red mug")
    finally:
        mllm.close()


def test_the_command_trains_and_goes_on(scenes: Path, material: Material, tmp_path: Path, capsys):
    out, path = tmp_path / "out", tmp_path / "train.yaml"
    shutil.copytree(material.folder, out / "material")
    path.write_text(json.dumps(dataclasses.asdict(config(scenes, tmp_path / "ignored"))))
    command = ["train", "mllm", "--config", str(path), "--out", str(out)]
    for steps, said in (("2", "step 1 of 2"), ("4", "step 3 of 4")):
        assert main([*command, "--steps", steps]) == 0
        printed = capsys.readouterr()
        assert printed.out.strip() == str(out / "weights")
        assert printed.err.startswith(said)
    assert [record["step"] for record in read_log(out / "log.jsonl")] == [2, 4]
    assert (out / "weights/model.safetensors").is_file()
    assert not (tmp_path / "ignored").exists()
    files = [path for path in out.rglob("*") if path.is_file()]
    before = [path.read_bytes() for path in files]
    assert main([*command, "--steps", "0", "--set", f"init={out / 'weights'}"]) == 2
    assert "holds a training, which `steps` 0 would overwrite: choose another `out`" in capsys.readouterr().err
    assert [path.read_bytes() for path in files] == before


def test_training_goes_on_from_weights(scenes: Path, material: Material, tmp_path: Path):
    """With their tokenizer; as long as the vision tower's heads know nothing, they do not spoil it."""
    first = Trainer(config(scenes, tmp_path / "first"), material)
    first.run()
    first.save_weights(tmp_path / "weights")
    start = str(tmp_path / "weights")
    again = config(scenes, tmp_path / "again", init=start, seeing_steps=2, vocabulary=1300)
    shutil.copytree(material.folder, tmp_path / "again/material", ignore=shutil.ignore_patterns("tokenizer"))
    trainer = Trainer(again)
    assert trainer.tokenizer.get_vocab() == first.tokenizer.get_vocab()
    begun, heads = weights(trainer), [p.clone() for p in trainer.heads.parameters()]
    for name, value in weights(first).items():
        assert torch.equal(begun[name], value.to(torch.bfloat16).float()), name
    trainer.train_step(trainer.batches[0])
    assert all(torch.equal(value, begun[name]) for name, value in weights(trainer).items())
    assert not all(torch.equal(*pair) for pair in zip(heads, trainer.heads.parameters(), strict=True))
    trainer.train_step(trainer.batches[1])
    eyes = "model.visual.patch_embed.proj.weight"
    assert not torch.equal(weights(trainer)[eyes], begun[eyes])
    measured = Trainer(config(scenes, tmp_path / "measured", init=start, steps=0, validation_views=2), material)
    measured.run()
    assert all(torch.equal(value, begun[name]) for name, value in weights(measured).items())
    (record,) = read_log(tmp_path / "measured/log.jsonl")
    assert record["step"] == 0 and "right" in record["validation"]
    with pytest.raises(ModelLoadError) as refused:
        Trainer(config(scenes, tmp_path / "other", init=start, model=MllmSize()), material)
    assert str(refused.value) == (
        f"{start} holds weights of another size: `model.vision_hidden` 32, not 192, `model.vision_intermediate` 32, "
        "not 512, `model.hidden` 32, not 256, `model.heads` 4, not 8, `model.key_value_heads` 2, not 4, "
        "`model.intermediate` 32, not 512: set these to what it has, or choose another `init`"
    )
    with pytest.raises(ModelLoadError, match="there is no model folder"):
        Trainer(config(scenes, tmp_path / "other", init=str(tmp_path / "nowhere")), material)


def test_where_words_learn_alone_the_vision_tower_stays_as_it_is(scenes: Path, material: Material, tmp_path: Path):
    start = tmp_path / "weights"
    Trainer(config(scenes, tmp_path / "first"), material).save_weights(start)
    options = {"init": str(start), "words_alone": True, "seeing_steps": 0, "more_images": 0}
    trainer = Trainer(config(scenes, tmp_path / "again", **options), material)
    begun = weights(trainer)
    for step in range(2):
        trainer.train_step(trainer.batches[step])
    changed = {name for name, value in weights(trainer).items() if not torch.equal(value, begun[name])}
    assert changed and not any("visual" in name for name in changed)


def test_weights_that_know_fewer_words_are_gone_on_from(monkeypatch, tmp_path: Path):
    """The words that have come are added at the end, with vectors in their order and as long as the others."""
    fewer = [word for word in answer_words() if word not in place_words()]
    monkeypatch.setattr(tokenizer_module, "answer_words", lambda: fewer)
    old = train_tokenizer(["the red mug", "the blue bowl"], 1200)
    first = build_model(TINY, old, 0)
    first.save_pretrained(tmp_path)
    old.save_pretrained(tmp_path)
    monkeypatch.undo()
    new = with_answer_words(AutoTokenizer.from_pretrained(tmp_path))
    assert all(len(new(word)["input_ids"]) == 1 for word in answer_words())
    assert {word: new.get_vocab()[word] for word in old.get_vocab()} == old.get_vocab()
    assert len(new) == len(old) + len(place_words())
    model = build_model(TINY, new, 1)
    put_in_order(model, new, 1)
    load_weights(model, tmp_path)
    table, known = model.get_input_embeddings().weight, first.get_input_embeddings().weight
    assert torch.equal(table[: len(old)], known) and model.lm_head.weight is table
    added = table[len(old) :]
    assert torch.isclose(added.std(), known.std(), rtol=0.01)
    steps = added[: len(place_words()) // 2]
    near, far = (functional.cosine_similarity(steps[:-k], steps[k:]).mean() for k in (1, 20))
    assert near > far + 0.1
    model.save_pretrained(tmp_path / "more")
    with pytest.raises(ModelLoadError, match="vocabulary"):
        load_weights(build_model(TINY, old, 0), tmp_path / "more")


def test_weights_with_fewer_layers_are_gone_on_from(material: Material, tmp_path: Path):
    """Tower and language model that have become deeper compute the same, and their new layers learn."""
    first = build_model(dataclasses.replace(TINY, vision_layers=2), material.tokenizer, 0)
    first.save_pretrained(tmp_path)
    more = TINY.layers + 2
    deeper = build_model(dataclasses.replace(TINY, vision_layers=5, layers=more), material.tokenizer, 1)
    load_weights(deeper, tmp_path)
    image = torch.from_numpy(to_patches(np.random.default_rng(0).integers(0, 256, (1, HEIGHT, WIDTH, 3), np.uint8)))
    _, wanted = encode_images(first.model.visual, image, ROWS, COLUMNS)
    _, merged = encode_images(deeper.model.visual, image, ROWS, COLUMNS)
    assert torch.allclose(merged, wanted, atol=1e-6)
    merged.square().mean().backward()
    assert all(block.mlp.linear_fc2.weight.grad.abs().max() > 0 for block in deeper.model.visual.blocks)
    words = torch.arange(9)[None]
    wanted, said = (model.model.language_model(words).last_hidden_state for model in (first, deeper))
    assert torch.allclose(said, wanted, atol=1e-5)
    said.square().mul(torch.arange(said.shape[-1])).mean().backward()
    layers = deeper.model.language_model.layers
    assert len(layers) == more and all(layer.mlp.down_proj.weight.grad.abs().max() > 0 for layer in layers)
    deeper.save_pretrained(tmp_path / "deeper")
    with pytest.raises(ModelLoadError, match=r"size: `model.vision_layers` 5, not 2, `model.layers` 4, not 2: set"):
        load_weights(first, tmp_path / "deeper")


def test_weights_of_another_size_or_kind_are_refused_in_one_line(material: Material, tmp_path: Path):
    """Also where only the heads are more or fewer, which the tensors do not tell."""
    first = build_model(TINY, material.tokenizer, 0)
    first.save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match=r"size: `model.vision_heads` 4, not 2: set"):
        load_weights(build_model(dataclasses.replace(TINY, vision_heads=2), material.tokenizer, 0), tmp_path)
    for name, content in (("model.safetensors", "torn"), ("config.json", '{"model_type": "llama"}')):
        (tmp_path / name).write_text(content)
        with pytest.raises(ModelLoadError, match=r"holds no weights as .* \(.*\): copy it again.*`init`$") as refused:
            load_weights(first, tmp_path)
        assert "\n" not in str(refused.value)


def test_judging_knows_right_from_wrong(views: list[View]):
    lessons = [lesson for lesson in make_lessons(views[0], np.random.default_rng(0))]
    lesson = next(f for f in lessons if str(int(Part.REASON)) in f.parts and str(int(Part.LIST)) in f.parts)
    truth = "".join(answer_words()[k] for k in lesson.chains[9])
    assert judge(truth, lesson, "en", EMBEDDED_PROMPTS[0]).right
    assert judge(truth, lesson, "en", EMBEDDED_PROMPTS[0]).listed == 1.0
    other = next(found for found in lessons if found.chains[9] != lesson.chains[9])
    wrong = '{"target": " one: mug", "scene": "", "present": false, "objects": []}'
    assert not judge(wrong, lesson, "en", EMBEDDED_PROMPTS[0]).right
    assert not judge("nonsense", other, "en", EMBEDDED_PROMPTS[0]).parsed
    passed_on = next(found for found in lessons if str(int(Part.LIST)) not in found.parts)
    truth = "".join(answer_words()[k] for k in passed_on.chains[9])
    judged = judge(truth, passed_on, "en", EMBEDDED_PROMPTS[0])
    assert judged.right and math.isnan(judged.listed)
    assert not judge(truth.replace('"name": "', '"name": "un'), passed_on, "en", EMBEDDED_PROMPTS[0]).right
    assert not judge(wrong, passed_on, "en", EMBEDDED_PROMPTS[0]).right


# --- The weights in the package ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"reasoner.turns": True},
        {"reasoner.max_targets": 1},
        {"reasoner.visual_prompt.style": "marks"},
        {"reasoner.visual_prompt.rows": 5},
    ],
)
def test_prompts_that_the_embedded_model_does_not_know_are_refused(changes: dict):
    embedded = {"mllm.backend": "transformers", "mllm.transformers.model": "embedded"}
    with pytest.raises(ConfigurationError, match=r"the embedded MLLM knows.*or another `mllm\.transformers\.model`"):
        build_config(embedded | changes)
    build_config(embedded | changes | {"mllm.transformers.model": "Qwen/Qwen3-VL-4B-Instruct"})


def test_prompts_that_it_was_trained_with_are_taken():
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)

    def is_known(prompt: VisualPrompt) -> bool:
        return all(len(tokenizer(part)["input_ids"]) == 1 for part in prompt_parts(prompt))

    assert not is_known(VisualPrompt("bands", 7, 7))
    for prompt in EMBEDDED_PROMPTS:
        assert is_known(prompt)
        drawn = {f"reasoner.visual_prompt.{name}": value for name, value in vars(prompt).items()}
        build_config({"mllm.backend": "transformers", "mllm.transformers.model": "embedded"} | drawn)


def test_the_true_list_is_given_where_it_is_measured(scenes: Path, material: Material, tmp_path: Path):
    """Of images that show nothing, so that it comes from nowhere else."""
    shutil.copytree(material.folder, tmp_path / "material")
    trainer = Trainer(config(scenes, tmp_path, init="embedded", steps=0, validation_views=1, model=MllmSize()))
    lessons = trainer.held_out
    lessons.store.images = np.zeros_like(lessons.store.images)
    found = trainer.validate()
    assert found["list given: listed"] == 1.0 and found["listed"] < 0.3
    groups = {*(lesson.kind for lesson in lessons.lessons[lessons.order[0]]), *LANGUAGES}
    for prefix in ("", "list given: "):
        assert {f"{prefix}right, {group}" for group in groups} <= found.keys()
    assert found["list given: right"] > 0.8 > found["right"]
    assert all(0 <= share <= 1 for share in found.values())


def test_the_embedded_model_reasons(headless_gl):
    """Through the reasoner, as a full-size model: every answer can be read, and far more are right than by chance.

    What is passed on to stage 2 names no place, and lists no things.
    """
    from rsvp_ros.tabletop.world import render_scene

    shipped = load_config(Path(__file__).parents[1] / "config" / "embedded.yaml")
    assert shipped.mllm.transformers.max_pixels == HEIGHT * WIDTH
    mllm = TransformersMllm(dataclasses.replace(shipped.mllm.transformers, device="cpu"))
    reasoner = Reasoner(mllm, shipped.reasoner)
    assert mllm.name == "mllm_embedded"
    assert family_for(mllm.name) is FAMILIES["embedded"], "which stretches images to the size that it was trained on"
    right, asked, passed_on, steps = Counter(), Counter(), 0, []
    try:
        for seed in range(6):
            (view,) = render_scene(Split.VAL, seed, full_masks=False)
            for said in sample_instructions(view, np.random.default_rng(seed), 8, is_training=False):
                reasoning = reasoner.reason(view.image, said.text, on_steps=lambda found, text: steps.append(found))
                names = [step.name for step in reasoning.steps]
                if "scene" not in names:
                    assert names[:2] == ["target", "presence"]
                    assert [p.box for p in reasoning.proposals] == [Box(0, 0, 320, 240)]
                    passed_on += 1
                    continue
                assert names[:3] == ["target", "scene", "presence"]
                wanted = [view.object(i).box for i in said.targets]
                hit = [any(p.box.intersection(box) > 0.5 * box.area for p in reasoning.proposals) for box in wanted]
                right[said.language] += len(reasoning.proposals) == len(wanted) and all(hit)
                asked[said.language] += 1
    finally:
        mllm.close()
    assert right.total() / asked.total() > 0.7 and passed_on > 1
    assert all(right[language] for language in LANGUAGES)
    assert any(0 < len(found) < 3 for found in steps)  # the steps came one after the other
