"""What the small MLLM is taught from: cached views and questions, and batches of them.

A batch holds a few images, several rows of text about each (instruction and answer), and blind rows, which see no image
but are given the list of things: they teach reasoning alone, at half the cost. Reading rows see no image either and end
with the target: they teach many ways to say a thing at little cost.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import mmap
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.files import written_whole
from rsvp_ros.geometry import RegionGrid
from rsvp_ros.reasoning.mllm.model_folder import EMBEDDED_PROMPTS
from rsvp_ros.reasoning.visual_prompt import VisualPrompt
from rsvp_ros.tabletop.instruction import LANGUAGES, InstructionKind
from rsvp_ros.tabletop.instructions import sample_questions
from rsvp_ros.tabletop.language import GRAMMARS
from rsvp_ros.tabletop.view import View
from rsvp_ros.training.mllm.chains import REASONS, Part, answer_words, without_thought, write_chain
from rsvp_ros.training.mllm.language import Frame
from rsvp_ros.training.mllm.questions import RememberingLayout
from rsvp_ros.training.mllm.seeing import DenseTruth, dense_truth, seeing_batch
from rsvp_ros.training.mllm.tokenizer import answer_ids, prompt_parts
from rsvp_ros.training.mllm.variety import (
    UNTAUGHT,
    Picture,
    mentioned_colors,
    misread,
    moved,
    pieces,
    recast,
    repainted,
    resurfaced,
    retold,
    with_unknown_noun,
    with_unknown_relation,
    with_unknown_words,
    without_colors,
)
from rsvp_ros.training.mllm.views import HEIGHT, WIDTH, ViewStore, network_image, recolored, to_patches

QUESTIONS = 8
"""Maximum number of questions about a view."""
WIDER_SHARE = 0.35
"""Share of the questions that are of forms which the test split's leave out, where their kind has some."""
PHRASINGS = 3
"""Phrasings of a question in each language."""
USUAL_SHARE = 0.8
"""Share of the images with the usual visual prompt, 9 x 9; the others have one of those used in the ablations."""
UNKNOWN_NOUNS = 0.3
"""Share of the instructions with unknown words that get one in place of a kind, if the answer can do without it."""
UNKNOWN_RELATIONS = 0.6
"""Share of the others that get one for how a thing lies relative to another, if they say so."""
CUT_SHARE = 0.5
"""Share of the varied instructions that are cut within some words."""
MISREAD_SHARE = 0.5
"""Share of the varied lists that have wrong words."""
RECAST_SHARE = 0.2
"""Share of the images with colours that are not taught; the rows about these only list what is there."""
WINDOW = 200
"""Number of views with similarly many things that a batch is drawn from, so that its rows are similarly long."""
ROWS_AT_ONCE = 16
"""Number of rows that are padded to the same length."""
BLIND = Part.LIST, Part.MEASURE
"""Parts that a blind row cannot know and that are not taught in it."""
WEIGHTS = {
    Part.GLUE: 0.3, Part.TARGET: 0.7, Part.LIST: 1.0, Part.MEASURE: 1.0, Part.FLAG: 1.5, Part.WORK: 1.5,
    Part.MEANT: 2.0, Part.OBJECT: 2.0, Part.REASON: 0.3,
}  # fmt: skip
"""Weights of the words' losses."""
TAUGHT_OFTEN = {
    InstructionKind.RELATION: 2.0, InstructionKind.TWO_STEP: 2.0, InstructionKind.NEGATION: 2.0,
    InstructionKind.SIZE: 4.0, InstructionKind.HAZARD: 4.0, InstructionKind.ORDINAL: 1.5, InstructionKind.ALL: 1.5,
}  # fmt: skip
"""How much more often the kinds of questions that are learned last are asked than others."""


@dataclass(frozen=True)
class Lesson:
    """A question about a view, in words, and its answer."""

    kind: str
    texts: dict[str, list[str]]
    """Phrasings by language; languages that cannot express the question are missing."""
    chains: dict[int, list[int]]
    """By the grid's number of bands: indices into `answer_words`."""
    parts: str
    """One digit per word: its Part."""


def make_lessons(
    view: View, rng: np.random.Generator, is_training: bool = True, wider: float = 0.0
) -> Iterator[Lesson]:
    """Questions about a view with their answers; for the arguments, see `sample_questions`."""
    layout = RememberingLayout(view)
    index = {word: k for k, word in enumerate(answer_words())}
    size = view.camera.width, view.camera.height
    for q in sample_questions(layout, rng, QUESTIONS, LANGUAGES, is_training=is_training, wider=wider):
        texts = {}
        for language, grammar in GRAMMARS.items():
            if grammar.knows(q.query):
                said = (grammar(rng, is_training, len(q.answer.ids)).say(q.query) for _ in range(PHRASINGS))
                texts[language] = list(dict.fromkeys(said))
        chains = {}
        for bands in {prompt.rows for prompt in EMBEDDED_PROMPTS}:
            chain = write_chain(q.query, q.answer, layout, "en", RegionGrid(bands, bands, *size))
            chains[bands] = [index[word] for word in chain.words]
        yield Lesson(q.kind.value, texts, chains, "".join(str(int(part)) for part in chain.parts))


def _words_checksum() -> int:
    """Detects lessons whose indices refer to another list of words."""
    return zlib.crc32("\n".join(answer_words()).encode())


@contextlib.contextmanager
def written_lessons(path: Path) -> Iterator[Callable[[Iterable[Lesson]], None]]:
    """Yields a function that writes the lessons about one view at a time; the file appears only at the end.

    The first line is JSON about the words that the chains' indices refer to; then comes one line per view. Raises
    OSError.
    """
    with written_whole(path) as file:

        def write(line: object) -> None:
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")

        write({"words": _words_checksum()})
        yield lambda lessons: write([vars(lesson) for lesson in lessons])


class LessonFile(Sequence[list[Lesson]]):
    """What `written_lessons` writes: the lessons about each view, read on request.

    As objects, they take ten times the memory of their text; those about tens of thousands of views would not fit.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError, or ConfigurationError if the file is of another version."""
        self._path = path
        with path.open("rb") as file:
            head = file.readline().decode(errors="replace").rstrip("\n")
            if head != json.dumps({"words": _words_checksum()}):
                raise ConfigurationError(
                    f"{path} is of another version of this package: delete it, and it is made again"
                )
            self._starts = list(itertools.accumulate((len(line) for line in file), initial=file.tell()))
            self._text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __reduce__(self) -> tuple[type[LessonFile], tuple[Path]]:
        """Pickles the path only: another process opens the file itself."""
        return LessonFile, (self._path,)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> list[Lesson]:
        """Raises ConfigurationError if the file is damaged."""
        start, end = self._starts[index], self._starts[index + 1]
        try:
            found = json.loads(self._text[start:end])
            for one in found:
                one["chains"] = {int(bands): words for bands, words in one["chains"].items()}
            return [Lesson(**one) for one in found]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigurationError(f"{self._path} is damaged ({error}): delete it, and it is made again") from error


@dataclass(frozen=True)
class Rows:
    """Rows of text of about the same length."""

    owners: torch.Tensor
    """R: which image a row belongs to."""
    blind: torch.Tensor
    """bool R."""
    ids: torch.Tensor
    """R x length: the rows' tokens after the image."""
    targets: torch.Tensor
    """R x length: the next token; -100 if none is taught."""
    weights: torch.Tensor
    """R x length."""
    parts: torch.Tensor
    """R x length: the Part of the next token; -1 if none is taught."""

    @property
    def taught(self) -> torch.Tensor:
        """bool R x length."""
        return self.weights > 0

    def to(self, device: torch.device) -> Rows:
        return Rows(**{name: tensor.to(device) for name, tensor in vars(self).items()})


@dataclass(frozen=True)
class LessonBatch:
    """Some images and rows of text."""

    patches: torch.Tensor
    """I x N x values; images that no row is about come last."""
    truth: DenseTruth
    rows: tuple[Rows, ...]
    """Complete rows, then reading rows. Empty if only the vision tower learns."""

    def to(self, device: torch.device) -> LessonBatch:
        return LessonBatch(self.patches.to(device), self.truth.to(device), tuple(rows.to(device) for rows in self.rows))


def spoken_words(lesson: Lesson, bands: int, language: str) -> list[str]:
    """An answer's words, with the reason in the instruction's language."""
    words = [answer_words()[k] for k in lesson.chains[bands]]
    for k, part in enumerate(lesson.parts):
        if int(part) == Part.REASON:
            name = next(name for name, texts in REASONS.items() if texts[0] == words[k])
            words[k] = REASONS[name][LANGUAGES.index(language)]
    return words


def request_ids(tokenizer: PreTrainedTokenizerFast, frame: Frame, prompt: VisualPrompt, *text: str) -> list[int]:
    """A row's tokens from after the image to the start of the answer; text: the instruction, whole or in pieces."""
    spoken = [token for piece in text for token in tokenizer(piece)["input_ids"]]
    return [*tokenizer(prompt_parts(prompt)[0])["input_ids"], *spoken, *frame.after]


class Lessons:
    """All that is taught; `batch(step)` depends on the seed and the step alone."""

    def __init__(
        self,
        store: ViewStore,
        lessons: Sequence[Sequence[Lesson]],
        tokenizer: PreTrainedTokenizerFast,
        frame: Frame,
        seed: int,
        images: int,
        rows: int,
        blind_rows: int,
        reading_rows: int = 0,
        varied: bool = False,
        unknown_words: float = 0.0,
        seeing_images: int = 0,
        chain_of_thought: bool = True,
    ) -> None:
        """rows: number per image; blind_rows, reading_rows: number per batch. For the others, see MllmTrainConfig."""
        self.store, self.lessons, self.tokenizer, self.frame = store, lessons, tokenizer, frame
        self.seed, self.images, self.rows = seed, images, rows
        self.blind_rows, self.reading_rows = blind_rows, reading_rows
        self.varied, self.unknown_words, self.seeing_images = varied, unknown_words, seeing_images
        self.chain_of_thought = chain_of_thought
        usable = [i for i in range(min(len(store), len(lessons))) if lessons[i]]
        self.order = sorted(usable, key=lambda i: sum(t.named for t in store.things[i]))
        if len(self.order) < images:
            raise ConfigurationError(
                f"there are {len(self.order)} views with questions, fewer than a batch's {images}: choose fewer "
                "`images`, or export more scenes"
            )

    def batch(self, step: int) -> LessonBatch:
        rng = np.random.default_rng([self.seed, step])
        window = min(WINDOW, len(self.order))
        start = int(rng.integers(len(self.order) - window + 1))
        near = self.order[start : start + window]
        drawn = [near[k] for k in rng.choice(window, self.images, replace=False)]
        pictures, fine, coarse, rows = [], [], [], []
        for k, index in enumerate(drawn):
            prompt = self._prompt(rng)
            lessons = self.lessons[index]
            chosen = draw(lessons, min(self.rows, len(lessons)), rng)
            picture = Picture.of(self.store, index)
            listing = [lesson for lesson in chosen if str(int(Part.LIST)) in lesson.parts]
            is_recast = self.varied and self.chain_of_thought and bool(listing) and rng.random() < RECAST_SHARE
            if is_recast:
                chosen, picture = listing, moved(resurfaced(recast(picture, rng), rng), rng)
            elif self.varied:
                picture = vary(picture, chosen, rng)
            ids = cv2.resize(picture.ids, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST_EXACT)
            truth = dense_truth(ids, picture.things, picture.ground)
            pictures.append(network_image(recolored(picture.image, rng), prompt))
            fine.append(truth[0])
            coarse.append(truth[1])
            rows += [(k, False, *self._row(lesson, prompt, rng, picture)) for lesson in chosen]
        for _ in range(self.blind_rows):
            (lesson,) = draw(self.lessons[near[int(rng.integers(window))]], 1, rng)
            rows.append((0, True, *self._row(lesson, self._prompt(rng), rng)))
        reading = [(0, True, *self._reading_row(rng)) for _ in range(self.reading_rows)]
        if self.seeing_images:
            patches, seen = seeing_batch(self.store, rng, self.seeing_images, self.varied)
            fine += list(seen.patches.numpy())
            coarse += list(seen.merged.numpy())
        truth = DenseTruth(torch.from_numpy(np.stack(fine)), torch.from_numpy(np.stack(coarse)))
        shown = torch.from_numpy(to_patches(np.stack(pictures)))
        shown = torch.cat((shown, patches)) if self.seeing_images else shown
        return LessonBatch(shown, truth, tuple(map(_collate, [*_by_length(rows), *_by_length(reading)])))

    def _prompt(self, rng: np.random.Generator) -> VisualPrompt:
        usual, *others = EMBEDDED_PROMPTS
        return usual if rng.random() < USUAL_SHARE else others[int(rng.integers(len(others)))]

    def _row(
        self, lesson: Lesson, prompt: VisualPrompt, rng: np.random.Generator, picture: Picture | None = None
    ) -> tuple[list[int], list[int], list[int]]:
        """Tokens of the request, tokens of the answer, and the answer's parts; picture: what is seen, None: blind."""
        request, words, parts = self._request(lesson, prompt, rng, is_blind=picture is None)
        if picture is not None:
            height, width = picture.ids.shape
            words = retold(words, parts, picture, RegionGrid(prompt.rows, prompt.columns, width, height))
            if picture.is_recast:
                words, parts = without_colors(words, parts, rng)
                return request, answer_ids(self.tokenizer, words)[:-1], parts
            if self.varied and self.chain_of_thought and rng.random() < MISREAD_SHARE:
                words, parts = misread(words, parts, rng)
        if not self.chain_of_thought:
            words, parts = without_thought(words, parts)
        return request, answer_ids(self.tokenizer, words), [*parts, Part.GLUE]

    def _reading_row(self, rng: np.random.Generator) -> tuple[list[int], list[int], list[int]]:
        """Like `_row`, about any view, but only up to the end of the target."""
        (lesson,) = draw(self.lessons[self.order[int(rng.integers(len(self.order)))]], 1, rng)
        request, words, parts = self._request(lesson, self._prompt(rng), rng, is_blind=True, is_reading=True)
        end = 2 + max(k for k, part in enumerate(parts) if part == Part.TARGET)
        return request, answer_ids(self.tokenizer, words[:end])[:-1], parts[:end]

    def _request(
        self,
        lesson: Lesson,
        prompt: VisualPrompt,
        rng: np.random.Generator,
        is_blind: bool,
        is_reading: bool = False,
    ) -> tuple[list[int], list[str], list[int]]:
        """A question in one of its languages and phrasings, varied: its tokens, the answer's words and their parts.

        is_reading: only the target is taught, so it may change.
        """
        language = str(rng.choice(sorted(lesson.texts)))
        texts = lesson.texts[language]
        text = texts[int(rng.integers(len(texts)))]
        words, parts = spoken_words(lesson, prompt.rows, language), [*map(int, lesson.parts)]
        if rng.random() < self.unknown_words:
            changed = with_unknown_noun(text, words, parts, language, rng) if rng.random() < UNKNOWN_NOUNS else None
            if changed is None and rng.random() < UNKNOWN_RELATIONS:
                changed = with_unknown_relation(text, words, parts, language, rng)
                if changed is not None and changed[1] != words and not is_reading:
                    changed = None  # the question would mean another thing
            # No arbitrary words are replaced in a blind row: what it cannot see, it could only guess
            text, words = changed or (with_unknown_words(text, language, rng, replace=not is_blind), words)
        is_cut = self.varied and rng.random() < CUT_SHARE
        request = request_ids(self.tokenizer, self.frame, prompt, *(pieces(text, rng) if is_cut else (text,)))
        return request, words, parts


def draw(lessons: Sequence[Lesson], count: int, rng: np.random.Generator) -> list[Lesson]:
    """Some of the questions about a view, each at most once."""
    weights = np.array([TAUGHT_OFTEN.get(InstructionKind(lesson.kind), 1.0) for lesson in lessons])
    return [lessons[j] for j in rng.choice(len(lessons), count, replace=False, p=weights / weights.sum())]


def vary(picture: Picture, lessons: Sequence[Lesson], rng: np.random.Generator) -> Picture:
    """Move, repaint and resurface a picture such that the given questions about it keep their answers."""
    spoken_of: set[str] = set()
    for lesson in lessons:
        words = [answer_words()[k] for k in next(iter(lesson.chains.values()))]
        spoken_of |= mentioned_colors(words, [int(part) for part in lesson.parts])
    return moved(resurfaced(repainted(picture, rng, spoken_of), rng), rng)


def _by_length(rows: list) -> list[list]:
    """Rows in groups of similar length, the longest first: in a single group, half of the tokens would be padding."""
    longest_first = sorted(rows, key=lambda row: -len(row[2]) - len(row[3]))
    return [longest_first[k : k + ROWS_AT_ONCE] for k in range(0, len(rows), ROWS_AT_ONCE)]


def _collate(rows: list) -> Rows:
    length = max(len(request) + len(answer) for _, _, request, answer, _ in rows) - 1
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    targets = torch.full((len(rows), length), -100)
    weights = torch.zeros(len(rows), length)
    parts = torch.full((len(rows), length), -1)
    for r, (_, blind, request, answer, kinds) in enumerate(rows):
        whole = torch.tensor(request + answer)
        ids[r, : len(whole) - 1] = whole[:-1]
        here = slice(len(request) - 1, len(whole) - 1)
        taught = [UNTAUGHT if blind and part in BLIND else part for part in kinds]
        targets[r, here] = torch.tensor(answer)
        weights[r, here] = torch.tensor([0.0 if part == UNTAUGHT else WEIGHTS[Part(part)] for part in taught])
        parts[r, here] = torch.tensor(taught)
    owners, blind = (torch.tensor([row[k] for row in rows]) for k in (0, 1))
    return Rows(owners, blind, ids, targets, weights, parts)
