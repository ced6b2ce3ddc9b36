"""Files that are written completely or not at all, and what to do if that fails."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from rsvp_ros.errors import ConfigurationError


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A temporary file to write, renamed to `path` at the end: a file at `path` is complete, however the writing ends.

    Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    try:
        with aside.open("wb") as file:
            yield file
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise


def write_whole(path: Path, data: bytes) -> None:
    """See `written_whole`."""
    with written_whole(path) as file:
        file.write(data)


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError in the block into a ConfigurationError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = f"no space is left for {folder}: free some, and the same command goes on where it stopped"
        else:
            message = f"{folder} cannot be written to ({error.strerror}): choose another folder with --out"
        raise ConfigurationError(message) from error
