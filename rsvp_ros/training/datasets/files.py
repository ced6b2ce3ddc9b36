"""Reading annotation files, and the errors raised for unusable ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from rsvp_ros.errors import ConfigurationError


def read_bytes(path: Path) -> bytes:
    """Raises ConfigurationError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read ({error.strerror}): put the data set's file there, or correct the folder in the "
            "configuration"
        ) from error


def read_json(
    path: Path, encodings: tuple[str, ...] = ("utf-8",), object_hook: Callable[[dict], object] | None = None
) -> dict:
    """The JSON object in a file, decoded with the first of the encodings that works. Raises ConfigurationError."""
    data = read_bytes(path)
    for encoding in encodings:
        try:
            text = data.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    else:
        raise wrong_content(path, f"it is not text in {' or '.join(encodings)}")
    del data  # COCO's is half a gigabyte
    try:
        content = json.loads(text, object_hook=object_hook)
    except (ValueError, RecursionError) as error:
        raise wrong_content(path, f"it is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise wrong_content(path, "it holds no JSON object")
    return content


def wrong_content(path: Path, what: str) -> ConfigurationError:
    return ConfigurationError(f"{path}: {what}; put the published file there, or correct this one")


def wrong_annotation(path: Path, annotation: object, what: str) -> ConfigurationError:
    return ConfigurationError(f"{path}: annotation {annotation}: {what}; correct it, or take it out of the file")
