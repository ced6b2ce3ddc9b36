"""From a folder of rendered scenes to what the training reads: made once, then memory-mapped."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.tabletop.export import disk_errors
from rsvp_ros.tabletop.view_files import read_view
from rsvp_ros.training.mllm.lessons import Lesson, make_lessons, read_lessons, write_lessons
from rsvp_ros.training.mllm.tokenizer import train_tokenizer, with_answer_words
from rsvp_ros.training.mllm.views import ViewStore, write_store

_log = logging.getLogger(__name__)

Part = tuple[ViewStore, list[list[Lesson]]]


@dataclass(frozen=True)
class Material:
    """What a training learns from and is measured on."""

    train: Part
    held_out: Part
    tokenizer: PreTrainedTokenizerFast
    folder: Path
    """Where it is kept."""


def gather(train: str, held_out: str, folder: Path, vocabulary: int, init: Path | None = None) -> Material:
    """The material of two folders of `rsvp tabletop export`, kept in `folder`; init: folder with another tokenizer.

    Raises ConfigurationError, InvalidImageError.
    """
    parts = {
        name: _part(Path(source).expanduser(), folder / name)
        for name, source in (("train", train), ("held_out", held_out))
    }
    tokenizer = (
        with_answer_words(AutoTokenizer.from_pretrained(init))
        if init
        else _tokenizer(parts["train"][1], folder, vocabulary)
    )
    return Material(**parts, tokenizer=tokenizer, folder=folder)


def _part(source: Path, folder: Path) -> Part:
    questions = folder / "questions.jsonl"
    if not questions.exists():
        records = sorted((source / "scenes").glob("*.json"))
        if not records:
            raise ConfigurationError(f"{source} holds no scenes: rsvp tabletop export --format coco --out {source}")
        _log.info("reading %d views of %s", len(records), source)
        with disk_errors(folder):
            views, lessons = [], []
            for index, record in enumerate(records):
                view, _ = read_view(record)
                views.append(view)
                lessons.append(list(make_lessons(view, np.random.default_rng([index, 2]))))
            write_store(folder, views)
            write_lessons(questions, lessons)  # last: where it is, all is
    try:
        store = ViewStore(folder)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"{folder} is damaged, or of another version of this package ({error}): delete it, and it is made again"
        ) from error
    return store, read_lessons(questions)


def _tokenizer(lessons: list[list[Lesson]], folder: Path, vocabulary: int) -> PreTrainedTokenizerFast:
    folder = folder / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        texts = [text for of_view in lessons for lesson in of_view for said in lesson.texts.values() for text in said]
        with disk_errors(folder):
            train_tokenizer(texts, vocabulary).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)
