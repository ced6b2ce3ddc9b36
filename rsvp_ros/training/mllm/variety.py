"""More variety from the same views: pictures moved and repainted with their answers, and questions with unknown words.

A tower that sees a few thousand pictures over and over learns them by heart. The changes leave the answers certain: a
picture is moved only so far that all things stay in it and in their order, and a thing gets a colour that its questions
do not mention. No thing gets a colour that the training split holds out for its kind.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from rsvp_ros.geometry import Box, RegionGrid
from rsvp_ros.tabletop.kinds import COLORS, KINDS, TRAINING_KINDS
from rsvp_ros.tabletop.language import GRAMMARS, de, en, es, zh
from rsvp_ros.training.mllm.chains import (
    ANCHOR_OF,
    ATTRIBUTES,
    COLUMNS,
    DISTANCES,
    HANDLE,
    MOST_THINGS,
    NAME,
    NOT,
    RELATED,
    RELATIONS,
    ROWS,
    THING,
    Part,
    kind_word,
    measure_told,
    number,
    place_words,
    relation,
    size,
    span,
    told_place,
)
from rsvp_ros.training.mllm.extents import CLASSES
from rsvp_ros.training.mllm.recasting import recast_colors
from rsvp_ros.training.mllm.views import COLOR_NAMES, KIND_NAMES, PATTERN_NAMES, UNTOLD, SeenThing, ViewStore
from rsvp_ros.training.places import Ground, Place, offset
from rsvp_ros.training.repainting import is_repaintable, other_color, repaint
from rsvp_ros.training.resurfacing import resurface

UNTAUGHT = -1
"""Stands in for the Part of a word that is not taught."""
REPAINTED_SHARE = 0.3
"""Share of the repaintable things that get another colour."""
RESURFACED_SHARE = 0.5
"""Share of the pictures that get another ground."""
MISREAD_WORDS = 0.1
"""Share of the colours and kinds in a `misread` list that are wrong."""


@dataclass(frozen=True)
class Picture:
    """An image, the number of the thing under each pixel, the things, and the table that they lie on."""

    image: np.ndarray
    ids: np.ndarray
    things: tuple[SeenThing, ...]
    ground: Ground

    @property
    def is_recast(self) -> bool:
        """Whether its colours have been replaced by ones that are not taught."""
        return any(thing.color == UNTOLD for thing in self.things)

    @classmethod
    def of(cls, store: ViewStore, index: int) -> Picture:
        return cls(np.array(store.images[index]), np.array(store.ids[index]), store.things[index], store.grounds[index])

    def boxes(self) -> dict[int, Box]:
        """Box around the visible part of each thing, by id."""
        found = {}
        for thing in self.things:
            x, y, w, h = cv2.boundingRect((self.ids == thing.id).view(np.uint8))
            if w and h:
                found[thing.id] = Box(x, y, x + w, y + h)
        return found

    def order(self) -> list[int]:
        """Ids of the named things from left to right, as the chains number them."""
        boxes = self.boxes()
        return sorted((t.id for t in self.things if t.named and t.id in boxes), key=lambda i: (boxes[i].center[0], i))

    def places(self) -> dict[int, Place]:
        """Where each thing is on the table, by id."""
        found = self.ground.places([(thing.x, thing.y) for thing in self.things])
        return {thing.id: place for thing, place in zip(self.things, found, strict=True)}


def moved(picture: Picture, rng: np.random.Generator) -> Picture:
    """The picture slightly scaled, shifted, rotated and stretched.

    It stays unchanged if a thing would leave it or their order would change. What comes in from outside continues the
    image's border and is no thing.
    """
    height, width = picture.ids.shape
    turn, scale = np.deg2rad(rng.uniform(-4, 4)), rng.uniform(0.88, 1.15)
    stretch = rng.uniform(0.95, 1.05)
    linear = np.array([[np.cos(turn) * stretch, -np.sin(turn)], [np.sin(turn), np.cos(turn) / stretch]]) * scale
    middle = np.array([width, height]) / 2
    shift = rng.uniform(-0.08, 0.08, 2) * (width, height)
    matrix = np.column_stack((linear, middle - linear @ middle + shift))
    size = width, height
    ids = cv2.warpAffine(picture.ids, matrix, size, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
    there = Picture(picture.image, ids, picture.things, picture.ground.moved(matrix))
    named = [t.id for t in picture.things if t.named]
    areas = np.bincount(picture.ids.ravel(), minlength=256), np.bincount(ids.ravel(), minlength=256)
    if any(areas[1][i] < 0.9 * scale**2 * areas[0][i] for i in named) or there.order() != picture.order():
        return picture
    image = cv2.warpAffine(picture.image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return dataclasses.replace(there, image=image)


def repainted(picture: Picture, rng: np.random.Generator, spoken_of: Collection[str] = ()) -> Picture:
    """Some things in another colour; `spoken_of`: colours that must be neither removed from nor given to a thing."""
    image, things = picture.image, []
    for thing in picture.things:
        kind, old = KIND_NAMES[thing.kind], COLOR_NAMES[thing.color]
        can_be = old not in spoken_of and is_repaintable(kind, old, thing.wooden)
        if can_be and rng.random() < REPAINTED_SHARE:
            new = other_color(rng, kind, old, PATTERN_NAMES[thing.pattern], spoken_of)
            painted = repaint(image, picture.ids == thing.id, old, new, rng)
            if painted is not None:
                image, thing = painted, dataclasses.replace(thing, color=COLOR_NAMES.index(new))
        things.append(thing)
    return dataclasses.replace(picture, image=image, things=tuple(things))


def recast(picture: Picture, rng: np.random.Generator) -> Picture:
    """The picture in colours that are not taught (recasting.py)."""
    things = tuple(dataclasses.replace(thing, color=UNTOLD) for thing in picture.things)
    return dataclasses.replace(picture, image=recast_colors(picture.image, picture.ids, rng), things=things)


def resurfaced(picture: Picture, rng: np.random.Generator) -> Picture:
    """The picture, sometimes on another ground (resurfacing.py)."""
    if rng.random() >= RESURFACED_SHARE:
        return picture
    table = picture.ground.shows_table(*picture.ids.shape)
    return dataclasses.replace(picture, image=resurface(picture.image, picture.ids, table, rng))


def mentioned_colors(words: Sequence[str], parts: Sequence[int]) -> set[str]:
    """The colours that a question mentions, according to its target's words."""
    said = {word.rpartition(" ")[2] for word, part in zip(words, parts, strict=True) if part == Part.TARGET}
    return said & set(COLORS)


def retold(words: Sequence[str], parts: Sequence[int], picture: Picture, grid: RegionGrid) -> list[str]:
    """A chain about a picture that was moved and repainted, with its current bands, places, measures and colours.

    Colours that are not taught stay as they were; `without_colors` handles those.
    """
    boxes, order, places = picture.boxes(), picture.order()[:MOST_THINGS], picture.places()
    colors = {t.id: f" {COLOR_NAMES[t.color]}" for t in picture.things if t.color != UNTOLD}
    facts = {}
    for k, id_ in enumerate(order, 1):
        rows, columns = grid.bands(boxes[id_])
        facts[number(k)] = span(rows[0], rows[-1]), span(columns[0], columns[-1]), colors.get(id_)
    there = {number(k): places[id_] for k, id_ in enumerate(order, 1)}
    told = _relocated(words, parts, there)
    measure = measure_told(word for word, part in zip(words, parts, strict=True) if part == Part.TARGET)
    if measure is not None:
        of = {t.id: size(t.measures(picture.ground)[measure]) for t in picture.things}
        told = _remeasured(told, parts, {number(k): of[id_] for k, id_ in enumerate(order, 1)})
    current, since = None, 0
    for k, (word, part) in enumerate(zip(words, parts, strict=True)):
        since += 1
        if part in (Part.LIST, Part.OBJECT) and word in facts:
            current, since = facts[word], 0
        elif current is None:
            continue
        elif part == Part.LIST and 1 <= since <= 3:
            told[k] = (current[1], current[0], current[2])[since - 1] or word
        elif part == Part.OBJECT and words[k - 1] in (ROWS, COLUMNS, ATTRIBUTES):
            told[k] = {ROWS: current[0], COLUMNS: current[1], ATTRIBUTES: current[2]}[words[k - 1]] or word
    return told


def without_colors(words: Sequence[str], parts: Sequence[int], rng: np.random.Generator) -> tuple[list[str], list[int]]:
    """A chain up to the end of its list, with random colours; everything in it but colours and flags is taught.

    It is for recast pictures: a colour that is rare for a kind must not suggest another kind.
    """
    end = 1 + max(k for k, part in enumerate(parts) if part == Part.LIST)
    told, taught = list(words[:end]), [UNTAUGHT if part == Part.FLAG else part for part in parts[:end]]
    for k in range(end):
        if parts[k] == Part.LIST and words[k].startswith("#"):
            told[k + 3], taught[k + 3] = f" {rng.choice(COLOR_NAMES)}", UNTAUGHT
    return told, taught


def misread(words: Sequence[str], parts: Sequence[int], rng: np.random.Generator) -> tuple[list[str], list[int]]:
    """A chain whose list has some wrong colours or kinds; these are not taught, but the conclusions from the list are.

    A network gets some words of its own lists wrong. If it learns from lists that are always right, it relies on their
    words alone, and says that nothing fits when one of them was misread.
    """
    told, taught, wrong = list(words), list(parts), set()
    colors, kinds = [f" {name}" for name in COLOR_NAMES], [kind_word(kind) for kind in TRAINING_KINDS]
    for k, word in enumerate(words):
        if parts[k] == Part.LIST and word.startswith("#"):
            for place, names in ((k + 3, colors), (_kind_place(words, parts, k), kinds)):
                if rng.random() < MISREAD_WORDS:
                    told[place], taught[place] = str(rng.choice(names)), UNTAUGHT
                    wrong.add(word)
    current = ""
    for k, word in enumerate(words):
        if parts[k] == Part.OBJECT and word.startswith("#"):
            current = word
        elif parts[k] == Part.OBJECT and current in wrong and (word in colors or word in _KINDS_BY_WORD):
            taught[k] = UNTAUGHT  # copying the wrong word would be wrong, and the right one would not be a copy
    return told, taught


def _relocated(words: Sequence[str], parts: Sequence[int], there: Mapping[str, Place]) -> list[str]:
    """A chain with new places of its things, by number: in its list, in offsets from references and in distances."""
    told = list(words)
    references: list[Place] = []
    ways: list[Place] = []
    steps: Iterator[str] = iter(())
    compared = ""
    for k, (word, part) in enumerate(zip(words, parts, strict=True)):
        if part == Part.LIST and word in there:
            steps = iter(told_place(there[word]))
        elif part == Part.WORK and words[k - 1] == ANCHOR_OF and word in there:
            references.append(there[word])
            steps = iter(told_place(there[word]))
        elif part == Part.WORK and word in there and word != compared:
            compared = word
            ways = [offset(there[word], reference) for reference in references]
            steps = iter([step for way in ways for step in told_place(way)])
        elif part in (Part.MEASURE, Part.WORK) and word in _PLACE_WORDS:
            told[k] = next(steps)
        elif part == Part.WORK and word in _HOW:
            told[k] = relation(_HOW[word], ways[0])
    return told


def _remeasured(words: Sequence[str], parts: Sequence[int], there: Mapping[str, str]) -> list[str]:
    """A chain with new measures of its things, by number: in its list, and for the thing that they single out."""
    told, current = list(words), ""
    for k, (word, part) in enumerate(zip(words, parts, strict=True)):
        if part == Part.LIST and word in there:
            current = word
        elif part == Part.MEASURE and word in _SIZE_WORDS:
            told[k] = there[current]
        elif part == Part.WORK and word in _SIZE_WORDS:
            told[k] = there[words[k + 2]]  # the number after ANCHOR_OF or SO
    return told


_SIZE_WORDS = frozenset(map(size, range(CLASSES)))
_PLACE_WORDS = frozenset(place_words())
_HOW = {f" {how}{k}": how for how in RELATED for k in range(DISTANCES)}


# --- Words ------------------------------------------------------------------------------------------------------------

_STARTS = (
    "b", "br", "c", "d", "f", "fl", "g", "gr", "h", "k", "l", "m", "n", "p", "pl", "r", "s", "sch", "st", "t", "tr",
    "v", "z",
)  # fmt: skip
_VOWELS = ("a", "e", "i", "o", "u", "ä", "ie", "ou", "ei")
_ENDS = ("", "", "n", "r", "l", "s", "st", "ck", "t", "ng", "do", "ra")
CUTS = 0.06
"""Share of the places between two letters at which `pieces` cuts."""
CHINESE_CUTS = 0.25
"""The same for Chinese, where a character is more than a letter."""
COMPOUNDS = 0.3
"""Share of the added unknown words that are joined to the next word without a space."""
ALONE = 0.65
"""Share of the additions that are a single unknown word; the same share of the rest are two in a row, and so on."""
MOST_UNKNOWN = 4
"""Maximum number of added unknown words in a row."""


def unknown_word(rng: np.random.Generator, language: str) -> str:
    """A word that means nothing: made of syllables or, half of the time, of the beginning of one training word and the
    end of another, since a tokenizer also knows the parts of most words that never occur in training. In Chinese, it is
    one or two random characters."""
    if language == "zh":
        return "".join(chr(int(rng.integers(0x4E00, 0x9FA6))) for _ in range(int(rng.integers(1, 3))))
    said = _long(language)
    while True:
        if rng.random() < 0.5:
            one, two = (said[int(k)] for k in rng.integers(0, len(said), 2))
            word = one[: int(rng.integers(2, min(6, len(one))))] + two[-int(rng.integers(2, min(6, len(two)))) :]
        else:
            syllables = [f"{rng.choice(_STARTS)}{rng.choice(_VOWELS)}" for _ in range(int(rng.integers(1, 4)))]
            word = "".join(syllables) + str(rng.choice(_ENDS))
        if word.lower() not in _known(language):
            return word


def _said(language: str) -> set[str]:
    """Words that occur in training."""
    phrases = GRAMMARS[language].PARAPHRASES.items()
    text = " ".join(said for usual, others in phrases for said in (usual, *others))
    return set(re.findall(r"[^\W\d_]+", re.sub(r"\{[^}]*\}", "", text)))


@cache
def _long(language: str) -> tuple[str, ...]:
    """Those of four letters and more."""
    return tuple(sorted(word for word in _said(language) if len(word) > 3))


@cache
def _known(language: str) -> frozenset[str]:
    """Words with a meaning, in lower case: those of `_said`, and all names of kinds and colours."""
    names = (
        *COLORS,
        *_COLORS[language].values(),
        *(noun for nouns in _MODULES[language].NOUNS.values() for noun in nouns),
    )
    return frozenset(word.lower() for word in (*_said(language), *re.findall(r"[^\W\d_]+", " ".join(names))))


_WORD = re.compile(r"[^\W\d_]+")
_CHARACTER = re.compile(r"[\u4e00-\u9fff]")


@cache
def _replaceable(language: str) -> frozenset[str]:
    """Words in lower case (in Chinese, characters) of sentences, uses and hazards: several of these together tell what
    is meant, whereas a name, a colour or a place is told by one word, which is never in this set."""
    grammar, module = GRAMMARS[language], _MODULES[language]
    told = {said for table in (module.USES, module.HAZARDS) for said in itertools.chain(*table.values())}
    by_several: list[str] = []
    by_one = [*COLORS, *_COLORS[language].values(), *itertools.chain(*_MODULES[language].NOUNS.values())]
    for usual, others in grammar.PARAPHRASES.items():
        (by_several if usual in told or usual[-1] in ".?!。？" else by_one).extend((usual, *others))

    def words(texts: Sequence[str]) -> set[str]:
        text = re.sub(r"\{[^}]*\}", "", " ".join(texts)).lower()
        return set((_CHARACTER if language == "zh" else _WORD).findall(text))

    return frozenset(words(by_several) - words(by_one) - _SPOKEN_IN_PASSING)


_SPOKEN_IN_PASSING = frozenset((
    "between", "two", "isn", "entre", "dos", "todos", "todas", "cercano", "pero", "zwischen", "beide", "alles",
    "nächsten", "kein", "keinen", "grünen", "离", "两", "四",
))  # fmt: skip
"""Deciding words that sentences and uses also have, or that are in no table of a grammar."""


def with_unknown_words(text: str, language: str, rng: np.random.Generator, replace: bool = True) -> str:
    """An instruction with unknown words added or (only with `replace`) put in place of one or two of its own.

    They teach a network to go by the other words when it does not know one, rather than conclude that nothing fits. A
    name, a colour or a place, which alone decides what is meant, is never replaced: it could then only be guessed.
    Some are joined to the next word without a space, like German compounds; others come up to MOST_UNKNOWN in a row,
    like questions phrased in ways that never occur in training.
    """
    chinese = language == "zh"
    puts = replace and rng.random() < 0.5
    word = _CHARACTER if chinese else _WORD
    for _ in range(1 + int(rng.random() < 0.35)):
        places = [m.span() for m in word.finditer(text) if not puts or m[0].lower() in _replaceable(language)]
        if not places:
            break
        a, b = places[int(rng.integers(len(places)))]
        count = 1 if puts else min(int(rng.geometric(ALONE)), MOST_UNKNOWN)
        words = ("" if chinese else " ").join(unknown_word(rng, language) for _ in range(count))
        joint = "" if chinese or rng.random() < COMPOUNDS else " "
        rest = text[b:] if puts else joint + text[a:]
        text = text[:a] + words + rest
    return text


def pieces(text: str, rng: np.random.Generator) -> list[str]:
    """An instruction cut within some of its words, to be tokenised piece by piece.

    A word that is always one token teaches nothing about its parts, which other forms of the word may be made of.
    """
    letters = [k for k in range(1, len(text)) if text[k - 1].isalpha() and text[k].isalpha()]
    cuts = [k for k in letters if rng.random() < (CHINESE_CUTS if "\u4e00" <= text[k] <= "\u9fff" else CUTS)]
    return [text[a:b] for a, b in itertools.pairwise((0, *cuts, len(text)))]


def with_unknown_noun(
    text: str, words: Sequence[str], parts: Sequence[int], language: str, rng: np.random.Generator
) -> tuple[str, list[str]] | None:
    """An instruction in which a noun with a colour is replaced by an unknown word, and the answer to it: that speaks of
    a thing of that colour, and neither guesses the kind nor refuses.

    None if no noun can be replaced like this, or if another thing of that colour might be meant.
    """
    target = [k for k, part in enumerate(parts) if part == Part.TARGET]
    told = list(words)
    for k in target[:-1]:
        color, kind = words[k], _KINDS_BY_WORD.get(words[k + 1])
        one_kind = k + 2 not in target or words[k + 2] not in _KINDS_BY_WORD
        if color.strip() not in COLORS or words[k - 1] == NOT or kind is None or not one_kind:
            continue
        listed = [i for i, part in enumerate(parts) if part == Part.LIST and words[i] == color]
        if HANDLE in words and Part.LIST not in parts:
            continue  # only the kind would tell whether it has a handle
        if Part.LIST in parts and (len(listed) != 1 or words[_kind_place(words, parts, listed[0])] != words[k + 1]):
            continue
        nouns = [*noun_pattern(language, kind).finditer(text)]
        if len(nouns) != 1:  # the other may be that of another thing, or a verb ("can")
            continue
        (noun,) = nouns
        told[k + 1] = THING
        if Part.LIST not in parts:
            told[told.index(NAME) + 1] = THING
        return text[: noun.start()] + unknown_word(rng, language) + text[noun.end() :], told
    return None


def with_unknown_relation(
    text: str, words: Sequence[str], parts: Sequence[int], language: str, rng: np.random.Generator
) -> tuple[str, list[str]] | None:
    """An instruction with unknown words for how a thing lies relative to another, and the chain's words with a target
    that takes these to mean "next to". A guessed side would be wrong three times out of four, with nothing found there.

    None if no such words can be replaced: there may be two relations, or the sentence may not show them plainly.
    """
    said = [k for k, part in enumerate(parts) if part == Part.TARGET and words[k] in _SIDES]
    places = [*_relation_pattern(language).finditer(text)]
    if len(said) != 1 or len(places) != 1:
        return None
    told = list(words)
    told[said[0]] = RELATIONS["next"]
    chinese = language == "zh"
    unknown = ("" if chinese else " ").join(unknown_word(rng, language) for _ in range(int(rng.integers(1, 3))))
    start, end = places[0].span()
    if chinese and end - start > 1 and rng.random() < 0.5:
        end -= 1  # keep 边 or 面, which alone says that it is a place, but not which
    return text[:start] + unknown + text[end:], told


_SIDES = frozenset(word for how, word in RELATIONS.items() if how != "between")


@cache
def _relation_pattern(language: str) -> re.Pattern:
    """Training's phrases for how a thing lies relative to another, except a final preposition that may merge with an
    article."""
    usual = [*_MODULES[language].NEAR, *(said for sayings in _MODULES[language].SIDES.values() for said in sayings)]
    usual = [said for said in usual if not said.startswith("~")]
    known = {*usual, *(other for said in usual for other in GRAMMARS[language].PARAPHRASES.get(said, ()))}
    forms = [re.sub(r" (of|von|de|a)$", r"(?= \1)", re.escape(said).replace("\\ ", " ")) for said in known]
    any_form = "|".join(sorted(forms, key=len, reverse=True))
    any_form = any_form.replace("(?= von)", "(?= vo[nm])")
    return re.compile(any_form if language == "zh" else rf"\b(?:{any_form})\b")


_KINDS_BY_WORD = {kind_word(kind): kind for kind in KINDS}
_MODULES = {"en": en, "es": es, "de": de, "zh": zh}
_COLORS = {"en": {}, "es": es.COLORS, "de": de.COLORS, "zh": zh.COLORS}
"""The English names are those that the tabletop world itself uses."""


def _kind_place(words: Sequence[str], parts: Sequence[int], index: int) -> int:
    """Index of the kind of the listed thing that the word at `index` belongs to."""
    while parts[index + 1] == Part.LIST and not words[index + 1].startswith("#"):
        index += 1
    return index


@cache
def noun_pattern(language: str, kind: str) -> re.Pattern:
    """A kind's names in training, singular and plural, also with up to two more letters, as German endings."""
    usual = [noun for noun in _MODULES[language].NOUNS[kind] if not noun.startswith("~")]
    said = [*usual, *(other for noun in usual for other in GRAMMARS[language].PARAPHRASES.get(noun, ()))]
    forms = {form for noun in said for form in re.sub(r"^\S ", "", noun).split("|") if form}
    any_form = "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
    return re.compile(any_form if language == "zh" else rf"\b(?:{any_form})\w{{0,2}}\b")
