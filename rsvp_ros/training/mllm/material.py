"""Turns a folder of rendered scenes into what the training reads: made once, then memory-mapped."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rsvp_ros.errors import ConfigurationError, ModelLoadError
from rsvp_ros.files import disk_errors
from rsvp_ros.tabletop.export import records
from rsvp_ros.tabletop.splits import Split
from rsvp_ros.tabletop.view import View
from rsvp_ros.tabletop.view_files import read_view, write_json
from rsvp_ros.training.mllm.lessons import WIDER_SHARE, Lesson, LessonFile, make_lessons, written_lessons
from rsvp_ros.training.mllm.tokenizer import train_tokenizer, with_answer_words
from rsvp_ros.training.mllm.views import ViewStore, write_store

_log = logging.getLogger(__name__)

MADE_OF = "made_of.json"
"""File that says what a part of the material was made of; material of earlier versions lacks it."""

Part = tuple[ViewStore, Sequence[list[Lesson]]]


@dataclass(frozen=True)
class Material:
    """What a training learns from and is measured on."""

    train: Part
    held_out: Part
    tokenizer: PreTrainedTokenizerFast
    folder: Path
    """Where it is stored."""


def gather(train: str, held_out: str, folder: Path, vocabulary: int, init: Path | None = None) -> Material:
    """The material from two folders of `rsvp tabletop export`, stored in `folder`; init: folder with another tokenizer.

    It takes the split `train` from `train` and the split `val` from `held_out`: one folder may hold both.

    Raises ConfigurationError, InvalidImageError, ModelLoadError (`init`).
    """
    parts = {
        name: _part(Path(source).expanduser(), split, folder / name)
        for name, source, split in (("train", train, Split.TRAIN), ("held_out", held_out, Split.VAL))
    }
    tokenizer = with_answer_words(_read_tokenizer(init)) if init else _tokenizer(parts["train"][1], folder, vocabulary)
    return Material(**parts, tokenizer=tokenizer, folder=folder)


def _part(source: Path, split: Split, folder: Path) -> Part:
    questions = folder / "questions.jsonl"
    found = sorted(records(source, split))
    # The held-out questions stay the same from version to version, so that figures can be compared
    wider = WIDER_SHARE if split is Split.TRAIN else 0.0
    made_of = {"folder": str(source.resolve()), "wider": wider, **({"views": len(found)} if found else {})}
    if questions.exists():  # then the scenes may be gone
        _check(folder, made_of)
    else:
        if not found:
            raise ConfigurationError(
                f"{source} holds no scenes of the split {split.value}: write some with "
                f"`rsvp tabletop export --format coco --split {split.value} --out {source}`"
            )
        _log.info("reading %d views of %s", len(found), source)
        with disk_errors(folder), written_lessons(questions) as write:  # appears last: if it exists, all is complete

            def views() -> Iterator[View]:
                for index, record in enumerate(found):
                    view, _ = read_view(record)
                    write(make_lessons(view, np.random.default_rng([index, 2]), wider=wider))
                    yield view

            write_store(folder, views(), len(found))
            write_json(folder / MADE_OF, made_of)
    try:
        store, lessons = ViewStore(folder), LessonFile(questions)
        if len(store) != len(lessons):
            raise ValueError(f"it holds {len(store)} views, and questions about {len(lessons)}")
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"{folder} is damaged, or of another version of this package ({error}): delete it, and it is made again"
        ) from error
    return store, lessons


def _check(folder: Path, made_of: dict[str, str | int]) -> None:
    """Raises ConfigurationError if the content of a folder is known to have been made from something else."""
    try:
        was = json.loads((folder / MADE_OF).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    was = {"wider": 0.0} | was  # earlier versions do not say so
    if was | made_of != was:
        before, now = (", ".join(f"{name} {value}" for name, value in of.items()) for of in (was, made_of))
        raise ConfigurationError(
            f"{folder} was made of other things ({before}) than are asked for ({now}): delete {folder.parent}, and it "
            "is made again, or choose another `out`"
        )


def _tokenizer(lessons: Sequence[list[Lesson]], folder: Path, vocabulary: int) -> PreTrainedTokenizerFast:
    folder = folder / "tokenizer"
    made_of = {"vocabulary": vocabulary}
    if (folder / "tokenizer.json").exists():
        _check(folder, made_of)
    else:
        texts = [text for of_view in lessons for lesson in of_view for said in lesson.texts.values() for text in said]
        try:
            tokenizer = train_tokenizer(texts, vocabulary)
        except ValueError as error:
            raise ConfigurationError(f"training option `vocabulary` is {vocabulary}: {error}") from error
        with disk_errors(folder):
            write_json(folder / MADE_OF, made_of)
            tokenizer.save_pretrained(folder)
    return _read_tokenizer(folder)


def _read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Raises ModelLoadError."""
    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # a damaged file makes transformers raise anything
        raise ModelLoadError(
            f"the tokenizer in {folder} cannot be read ({error}): download or make it again"
        ) from error
