"""Many scenes as files: rendered by a pool of processes, resumed where it stopped, then indexed in a format.

A folder holds `images/`, `depth/`, `ids/` and `scenes/` (see view_files.py), shared by all formats, and beside them

- ReasonSeg: `<split>/NAME.jpg` and `.json`, one per instruction, and `explanatory/<split>.json`: the folder is what
  LISA's code expects under reason_seg/ReasonSeg;
- COCO: `annotations/instances_<split>.json`.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.files import disk_errors
from rsvp_ros.tabletop import coco, reasonseg
from rsvp_ros.tabletop.instruction import LANGUAGES, Instruction
from rsvp_ros.tabletop.splits import Split
from rsvp_ros.tabletop.view import View
from rsvp_ros.tabletop.view_files import ViewFiles, read_record, read_view, write_json, write_view

FORMATS = ("reasonseg", "coco")


@dataclass(frozen=True)
class SceneOptions:
    """What is rendered for each seed and said about it."""

    split: Split = Split.TRAIN
    size: tuple[int, int] = (320, 240)
    """Width and height, pixels."""
    views: int = 1
    """Number of cameras that look at a scene, or of moments."""
    instructions: int = 6
    """Number of instructions about each view, at most."""
    languages: tuple[str, ...] = LANGUAGES
    moments: bool = False
    """Whether the views are moments of a clip in which a robot's hand is at work, not of things that lie still."""

    def made_with(self, seed: int, view: int) -> dict:
        """What a view can be made again from, as JSON values."""
        return {**asdict(self), "split": self.split.value, "size": list(self.size), "languages": list(self.languages),
                "seed": seed, "view": view}  # fmt: skip

    def names(self, seed: int) -> list[str]:
        """The files' stems, one per view."""
        stem = f"{self.split.value}_{seed:06d}"
        return [stem] if self.views == 1 else [f"{stem}_{view}" for view in range(self.views)]


def export(
    folder: Path,
    format: str,
    options: SceneOptions,
    seeds: Sequence[int],
    workers: int = 1,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[int, Path]:
    """Render the scenes that `folder` does not hold yet, then write the format's files for all of the split's scenes.

    Args:
        format: one of FORMATS.
        workers: number of processes that render; 1: only this one.
        on_progress: called with the number of scenes that are done and the number of all.

    Returns:
        The number of the split's views in the folder, and the file or folder to give to a reader of the format.

    Raises:
        ConfigurationError: the folder cannot be written to, its disk is full, what it holds was made with other
            options, or a worker died.
        InvalidImageError: a file in it is damaged.
    """
    if format not in FORMATS:
        raise ConfigurationError(f"no format {format!r}: choose one of {', '.join(FORMATS)}")
    with disk_errors(folder):
        render_scenes(folder, options, seeds, workers, on_progress)
        names = sorted(path.stem for path in records(folder, options.split))
        if format == "coco":
            return len(names), _write_coco(folder, options.split, names)
        return len(names), _write_reasonseg(folder, options.split, names)


def render_scenes(
    folder: Path,
    options: SceneOptions,
    seeds: Sequence[int],
    workers: int,
    on_progress: Callable[[int, int], None],
) -> None:
    """Render the scenes that the folder does not hold yet. Raises OSError, ConfigurationError."""
    _check_options(folder, options)
    missing = [seed for seed in seeds if not _is_there(folder, options, seed)]
    done = len(seeds) - len(missing)
    on_progress(done, len(seeds))
    for _ in _in_processes(folder, options, missing, workers) if workers > 1 else _here(folder, options, missing):
        done += 1
        on_progress(done, len(seeds))


def render_scene_files(folder: Path, options: SceneOptions, seed: int) -> None:
    """Write one scene's files. Raises OSError."""
    views = render_views(options, seed)
    for number, (name, view) in enumerate(zip(options.names(seed), views, strict=True)):
        instructions = instructions_about(view, options, seed, number)
        write_view(ViewFiles.among(folder, name), view, instructions, options.made_with(seed, number))


def render_views(options: SceneOptions, seed: int) -> list[View]:
    """The images of one scene. Raises ConfigurationError if there is nothing to draw with."""
    if options.moments:
        from rsvp_ros.tabletop.clips import render_moments

        return render_moments(options.split, seed, options.size, options.views)
    from rsvp_ros.tabletop.world import render_scene

    return render_scene(options.split, seed, size=options.size, views=options.views)


def instructions_about(
    view: View, options: SceneOptions, seed: int, number: int = 0, wider: bool = False
) -> list[Instruction]:
    """What is said about one of a scene's views: the same for the same options and seed; `wider`: where the
    view allows it, what the other instructions leave out."""
    from rsvp_ros.tabletop.instructions import WIDER_KINDS, sample_instructions

    rng = options.split.generator(seed, f"instructions about view {number}")
    return sample_instructions(
        view,
        rng,
        options.instructions,
        options.languages,
        is_training=options.split.known,
        kinds=WIDER_KINDS if wider else None,
        wider=float(wider),
    )


def _is_there(folder: Path, options: SceneOptions, seed: int) -> bool:
    return all(ViewFiles.among(folder, name).there for name in options.names(seed))


def _check_options(folder: Path, options: SceneOptions) -> None:
    """Raise ConfigurationError if the folder's scenes of the split, all made alike, were made with other options."""
    record = next((record for record in records(folder, options.split) if record.stat().st_size), None)
    if record is None:
        return
    made_with = read_record(record)["made_with"]
    for option, value in options.made_with(0, 0).items():
        if option not in ("seed", "view") and made_with.get(option, False) != value:  # older records lack `moments`
            raise ConfigurationError(
                f"{folder} holds scenes made with {option} {made_with.get(option)}, not {value}: "
                "choose another folder with --out, or delete this one"
            )


def records(folder: Path, split: Split) -> Iterator[Path]:
    """JSON files of the views of a split that a folder holds, in no particular order."""
    return (folder / "scenes").glob(f"{split.value}_*.json")


def _here(folder: Path, options: SceneOptions, seeds: Sequence[int]) -> Iterator[None]:
    for seed in seeds:
        yield render_scene_files(folder, options, seed)


def _in_processes(folder: Path, options: SceneOptions, seeds: Sequence[int], workers: int) -> Iterator[None]:
    # Not forked: graphics drivers do not survive it.
    pool = concurrent.futures.ProcessPoolExecutor(
        min(workers, len(seeds)) or 1, multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    try:
        with _without_interrupts():
            running = {pool.submit(render_scene_files, folder, options, seed): seed for seed in seeds}
        for future in concurrent.futures.as_completed(running):
            try:
                yield future.result()
            except BrokenProcessPool as error:
                raise ConfigurationError(
                    "a process that renders has died, perhaps for want of memory: use fewer --workers; the same "
                    "command goes on where it stopped"
                ) from error
    finally:
        # Also after Ctrl-C: the scenes in progress are finished, the others are not begun.
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Delay Ctrl-C until the block has ended, and keep it from processes started in it until they handle it themselves.

    A new process inherits its parent's blocked signals.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent; if the parent is killed, do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _write_reasonseg(folder: Path, split: Split, names: Sequence[str]) -> Path:
    explanations: list[dict] = []
    for name in names:
        files = ViewFiles.among(folder, name)
        view, instructions = read_view(files.record)
        about = read_record(files.record)["made_with"]
        explanations += reasonseg.write_annotations(folder / split.value, name, files.image, view, instructions, about)
    write_json(folder / "explanatory" / f"{split.value}.json", explanations)
    return folder / split.value


def _write_coco(folder: Path, split: Split, names: Sequence[str]) -> Path:
    views = ((f"{name}.jpg", read_view(ViewFiles.among(folder, name).record)[0]) for name in names)
    path = folder / "annotations" / f"instances_{split.value}.json"
    write_json(path, coco.instances(views, f"RSVP tabletop world, split {split.value}"))
    return path
