"""Following targets from frame to frame: predicted box → segmenter → new box, and whether it is still the target."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rsvp_ros.geometry import Box, mask_iou, mask_to_box
from rsvp_ros.ranges import check_ranges
from rsvp_ros.tracking.appearance import (
    ADAPTATION,
    SLOW_ADAPTATION,
    SURE_MARGIN,
    SURE_SIMILARITY,
    adapted,
    color_distribution,
    similarity,
    surrounding_colors,
)
from rsvp_ros.tracking.motion import BoxMotion
from rsvp_ros.tracking.search import LastLook, Search
from rsvp_ros.types import Prediction, Prompt, RegionProposal, Target, TargetState

MAX_MARGIN = 0.3  # of a region around its mask's box: beyond this it is not a bias but another object
MAX_SEARCH = 1.0  # how far around its place a hidden target is looked for, in sizes of its region
RETURN_SIMILARITY = 0.55
SURE_PRESENCE = 0.85  # of what is found somewhere else
MAX_PIXELS_RATIO = 2.0  # of what is found somewhere else to what was seen …
RATIO_PER_S = 1.0  # … and more the longer it is unseen, as the camera may come nearer …
MOST_PIXELS_RATIO = 4.0  # … but never more than this
PLACE_WEIGHT = 0.3  # of the place relative to the colours, in `Track.fit` …
OLD_PLACE = 0.5  # … and this share of it for a place in which the target is not seen at present
SAME_IOU = 0.5  # of the masks of two targets that are one thing
PARTED_LOOKS = 5  # so many looks in a row must show two things before targets that are one thing count as two
JOINING_LOOKS = 5  # so many first looks may show that a new target and an old one are one thing
WHOLE = 0.8  # share of its usual pixels with which a target shows completely
MAX_GAP_S = 5.0  # without an image nobody looks: what goes beyond this is not time unseen
MOST_GIVEN_UP = 32  # targets that are no longer looked for but still reported
TAKEN = 0.5  # share of a mask in other targets' masks beyond which it shows another target
MAX_ID = 65535  # what a mono16 label image can hold


@dataclass(frozen=True)
class TrackerConfig:
    """When a mask counts as the target, and for how long an unseen target is looked for."""

    padding: float = 0.08
    """The first region of a target's own is the box of its mask, grown on every side by this share of its size."""
    min_score: float = 0.15
    """A mask of lower quality is not the target."""
    min_presence: float = 0.3
    """A region in which the description is less likely than this does not show the target."""
    max_area_ratio: float = 3.0
    """A mask whose box is larger or smaller, by more than this factor in area, than both the last box and the target's
    usual one is not the target."""
    min_similarity: float = 0.2
    """A mask whose colours have less than this in common with the target's is not the target."""
    lost_after_s: float = 2.0
    """Unseen for longer than this, by the images' stamps, a target is lost."""
    give_up_after_s: float = 30.0
    """Unseen for longer than this, a lost target is no longer looked for."""

    def __post_init__(self) -> None:
        """Raises ConfigurationError."""
        check_ranges(
            self,
            padding=(0, 1),
            min_score=(0, 1),
            min_presence=(0, 1),
            max_area_ratio=(1, 100),
            min_similarity=(0, 1),
            lost_after_s=(0, 3600),
            give_up_after_s=(0, 3600),
        )


class Track:
    """One target and what is known about it. All times are the images' stamps."""

    def __init__(self, id: int, proposal: RegionProposal, instruction: str, config: TrackerConfig) -> None:
        self.id = id
        self.name = proposal.name
        self.description = proposal.description
        self.instruction = instruction
        self.state = TargetState.OCCLUDED
        self._region = proposal.box
        self.config = config
        self._colors: np.ndarray | None = None  # of recent looks
        self._usual_colors: np.ndarray | None = None  # of many looks; those unlike them count less
        self._motion: BoxMotion | None = None  # None until it is first seen: only the region is known
        self._margins: tuple[float, float, float, float] | None = None
        self._fill = 1.0
        self._search: Search | None = None
        self._last_look: LastLook | None = None
        self._prompt = proposal.box
        self._box = self._seen_box = proposal.box
        self._prediction: Prediction | None = None
        self._twins: dict[int, int] = {}  # looks in a row that showed another thing, by the twin's id
        self._stamp_ns = self._seen_ns = self._found_ns = 0

    @property
    def seen(self) -> bool:
        """Whether it has ever been seen."""
        return self._motion is not None

    @property
    def given_up(self) -> bool:
        """Whether it is no longer looked for."""
        return self.state is TargetState.LOST and self._unseen_s > self.config.give_up_after_s

    @property
    def search(self) -> Search | None:
        """The search for it in other places; None while it is seen."""
        return self._search

    @property
    def mask(self) -> np.ndarray | None:
        """bool H x W; None while it is not seen."""
        return self._prediction.mask if self.state is TargetState.TRACKING else None

    @property
    def _unseen_s(self) -> float:
        return (self._stamp_ns - self._seen_ns) * 1e-9

    def prompt(self, stamp_ns: int, width: int, height: int) -> Prompt:
        """What to ask the segmenter about the image taken at `stamp_ns`, which has this size in pixels."""
        if self._motion is None:
            self._prompt = _inside(self._region, width, height)
            return Prompt(self._prompt, self.description)
        self._motion.predict((stamp_ns - self._stamp_ns) * 1e-9, seen=self.state is TargetState.TRACKING)
        self._stamp_ns = stamp_ns
        region = self._around(self._motion.box)
        if self.state is not TargetState.TRACKING:
            # It may have moved while it was not seen: look as far as it may have got.
            dx, dy = self._motion.uncertainty
            dx, dy = min(dx, MAX_SEARCH * region.width), min(dy, MAX_SEARCH * region.height)
            region = Box(region.x0 - dx, region.y0 - dy, region.x1 + dx, region.y1 + dy)
        self._prompt = region  # not cut off at the image's border: margins are measured from it
        return Prompt(_inside(region, width, height), self.description)

    def update(
        self, image: np.ndarray, prediction: Prediction | None, box: Box | None, stamp_ns: int, again: bool = False
    ) -> None:
        """Take in the segmenter's answer to the last prompt for this image (RGB); None if it failed.

        box: around the prediction's mask; None: the target is not seen in it.
        again: this is not the first look at the image; if it does not show the target, an earlier one that did counts.
        """
        if prediction is not None and box is not None and self._is_target(image, prediction, box):
            if self._motion is None:
                self._motion = BoxMotion(box)
                self._found_ns = stamp_ns
            elif self._margins is None and self.state is TargetState.TRACKING:
                moved = (0.0, 0.0) if again else np.subtract(box.center, self._prompt.center)
                self._margins = _margins(self._prompt.translate(*moved), box)
                self._motion = BoxMotion(box)
            else:
                self._motion.update(box)
            self._see(image, prediction, box, stamp_ns)
            return
        if again and self.state is TargetState.TRACKING:
            return
        self._prediction = prediction
        self.state = TargetState.OCCLUDED
        if self._motion is not None:
            self._box = self._motion.box
            if self._unseen_s > self.config.lost_after_s:
                self.state = TargetState.LOST
            if self._search is None:
                self._search = Search(self._box, self._seen_ns)

    def search_prompt(self, width: int, height: int, reads_text: bool) -> Prompt | None:
        """What else to ask, to find it elsewhere: about a place where it may be or, with its description, the image.

        reads_text: whether the segmenter reads text.
        """
        candidate = self._search.candidate
        if candidate is not None:
            return Prompt(_inside(self._around(candidate), width, height), self.description)
        if reads_text and self.description:
            return Prompt(Box(0, 0, width, height), self.description)
        return None

    def search_update(
        self, image: np.ndarray, prompt: Prompt | None, prediction: Prediction | None, taken: np.ndarray, stamp_ns: int
    ) -> None:
        """Take in the segmenter's answer to the last `search_prompt` for this image (RGB); None if it failed.

        taken: bool H x W, where other targets are seen.
        """
        search = self._search
        search.look(stamp_ns)
        asked_everywhere = prompt is not None and search.candidate is None
        box = mask_to_box(prediction.mask) if prediction is not None else None
        if prediction is not None and box is not None and self._is_surely_target(image, prediction, box, taken):
            if not search.may_be(box, stamp_ns, self._stood_there(image, prediction.mask, box)):
                search.candidate = None
            elif asked_everywhere:
                search.candidate = box  # found in the whole image, it is segmented better in a region of its own
                return
            else:
                self._relocate(prediction, box)
                self._see(image, prediction, box, stamp_ns)
                return
        search.refuse()
        if asked_everywhere or prompt is None:  # by words and by colours in turn
            search.by_color(image, self._usual_colors, taken)

    def _relocate(self, prediction: Prediction, box: Box) -> None:
        """Go on from where it was found again; with a new size if it shows completely, as it may have turned."""
        pixels = np.count_nonzero(prediction.mask)
        if pixels >= WHOLE * self._fill * self._motion.box.area:
            self._motion, self._fill = BoxMotion(box), pixels / box.area
        else:
            self._motion.relocate(box)

    def _see(self, image: np.ndarray, prediction: Prediction, box: Box, stamp_ns: int) -> None:
        self._stamp_ns = self._seen_ns = stamp_ns
        self._box = self._seen_box = box
        self._prediction, self.state = prediction, TargetState.TRACKING
        self._search = None
        # The mask may show a part only; the rest of the target is no other thing.
        self._last_look = LastLook(image, box.union(self._motion.box))

    def _stood_there(self, image: np.ndarray, mask: np.ndarray, box: Box) -> bool:
        """Whether an unseen target's mask shows what stood beside the target when that was last seen."""
        if self.state is TargetState.TRACKING or self._last_look is None:
            return False
        return self._last_look.shows(image, mask, box)

    def is_same(self, other: Track) -> bool:
        """Whether both were one thing, and have not been seen as two for PARTED_LOOKS since: it was asked for twice."""
        return other.id in self._twins

    def compare(self, other: Track) -> None:
        """Note whether both, seen in the same image, are one thing."""
        same = self._box.iou(other._box) >= SAME_IOU and mask_iou(self.mask, other.mask) >= SAME_IOU
        for track, twin in ((self, other.id), (other, self.id)):
            if same:
                track._twins[twin] = 0
            elif twin in track._twins:
                track._twins[twin] += 1
                if track._twins[twin] >= PARTED_LOOKS:
                    del track._twins[twin]

    def fit(self, image: np.ndarray, mask: np.ndarray, box: Box) -> float:
        """How well a mask fits the target: by its colours and, if things look alike, by where it was last seen."""
        if self.state is TargetState.TRACKING:
            near = max(self._box.iou(box), self._motion.box.iou(box))  # where it was, or should be by now
        else:
            near = OLD_PLACE * self._box.iou(box)
        return similarity(self._usual_colors, color_distribution(image, mask, box)) + PLACE_WEIGHT * near

    def jump(self, stamp_ns: int) -> None:
        """Time jumped (a bag was started again): go on from here."""
        self._found_ns += stamp_ns - self._stamp_ns
        self._seen_ns += stamp_ns - self._stamp_ns
        self._stamp_ns = stamp_ns
        if self._motion is not None:
            self._motion.halt()
        self._search = self._last_look = None

    def miss(self, time_ns: int) -> None:
        """Do not count this time as unseen: nobody looked."""
        self._seen_ns += time_ns

    def give_up(self) -> None:
        """It is no longer looked for: drop what was kept for that (an image, and a mask as large)."""
        self._prediction = self._search = self._last_look = None

    def rescale(self, sx: float, sy: float) -> None:
        """The image's resolution changed by these factors."""
        self._region = self._region.scale(sx, sy)
        self._box, self._seen_box = self._box.scale(sx, sy), self._seen_box.scale(sx, sy)
        if self._motion is not None:
            self._motion.rescale(sx, sy)
        self._search = self._last_look = None

    def target(self, width: int, height: int) -> Target:
        """What to report about it, for an image of this size."""
        prediction = self._prediction
        return Target(
            id=self.id,
            name=self.name,
            description=self.description,
            state=self.state,
            box=self._box if self.state is TargetState.TRACKING else _inside(self._box, width, height),
            mask=self.mask,
            score=prediction.score if prediction is not None else 0.0,
            presence=prediction.presence if prediction is not None else 0.0,
            instruction=self.instruction,
            age_ns=max(self._stamp_ns - self._found_ns, 0),
        )

    def _around(self, box: Box) -> Box:
        """The region in which to look for a target that is expected in this box.

        Every segmenter has a bias: its mask is a little larger or smaller than what the box shows, or shifted to one
        side. If its own boxes are fed back from frame to frame, that bias adds up until the target is the whole image
        or nothing. So the first image is segmented twice, the second time in the first mask's own box, and later
        regions lie around their boxes as that region lay around its mask: on a still image, region and mask then stay
        as they are.
        """
        if self._margins is None:
            return box.pad(self.config.padding)
        left, top, right, bottom = self._margins
        x0, x1 = box.x0 - left * box.width, box.x1 + right * box.width
        y0, y1 = box.y0 - top * box.height, box.y1 + bottom * box.height
        return Box(x0, y0, x1, y1)

    def takes(self, prediction: Prediction) -> bool:
        """Whether what a prediction shows may be the target as far as the segmenter can tell."""
        return prediction.score >= self.config.min_score and prediction.presence >= self.config.min_presence

    def _is_target(self, image: np.ndarray, prediction: Prediction, box: Box) -> bool:
        """Whether a prediction that it `takes` shows it, by size, colours and place."""
        config = self.config
        colors = color_distribution(image, prediction.mask, box)
        fill = np.count_nonzero(prediction.mask[box.to_slices(*prediction.mask.shape[::-1])]) / box.area
        if self._motion is None or self._colors is None:
            self._colors, self._usual_colors, self._fill = colors, colors, fill
            return True
        ratios = [max(box.area, 1.0) / max(known.area, 1.0) for known in (self._motion.box, self._seen_box)]
        if not any(1 / config.max_area_ratio <= ratio <= config.max_area_ratio for ratio in ratios):
            return False
        # If it was not seen in the last frame, it must look like itself: there is no other evidence.
        least = config.min_similarity
        if self.state is TargetState.OCCLUDED:
            least = max(least, RETURN_SIMILARITY)
        as_usual = similarity(self._usual_colors, colors) >= SURE_SIMILARITY
        if similarity(self._colors, colors) < least or (self.state is TargetState.LOST and not as_usual):
            return False
        if self._stood_there(image, prediction.mask, box):
            return False
        self._colors = adapted(self._colors, colors)
        # If the light has changed for good, this is what it looks like now: it must not be sought by its old colours
        share = SLOW_ADAPTATION if as_usual else SLOW_ADAPTATION / 2
        self._usual_colors = adapted(self._usual_colors, colors, share)
        self._fill += ADAPTATION * (fill - self._fill)
        return True

    def _is_surely_target(self, image: np.ndarray, prediction: Prediction, box: Box, taken: np.ndarray) -> bool:
        """Whether what is seen is the target, in a place where nothing else suggests it."""
        config = self.config
        if prediction.score < config.min_score or prediction.presence < max(config.min_presence, SURE_PRESENCE):
            return False
        pixels = np.count_nonzero(prediction.mask)
        if pixels == prediction.mask.size:
            return False  # it has no surroundings
        ratio = pixels / max(self._fill * self._motion.box.area, 1.0)
        most = min(MAX_PIXELS_RATIO + RATIO_PER_S * self._unseen_s, MOST_PIXELS_RATIO)
        if not 1 / most <= ratio <= most:
            return False
        if np.count_nonzero(prediction.mask & taken) > TAKEN * pixels:
            return False
        alike = similarity(self._usual_colors, color_distribution(image, prediction.mask, box))
        around = similarity(self._usual_colors, surrounding_colors(image, prediction.mask, box))
        return alike >= max(config.min_similarity, SURE_SIMILARITY, around + SURE_MARGIN)


class Tracker:
    """The targets that are followed. Used by one thread."""

    def __init__(self, config: TrackerConfig | None = None) -> None:
        self.config = config or TrackerConfig()
        self._tracks: list[Track] = []
        self._size: tuple[int, int] | None = None
        self._stamp_ns: int | None = None
        self._asked: list[Track] = []
        self._joined: list[Track] = []  # the last ones
        self._joining = 0  # looks left in which these may turn out to be things that are followed already
        self._sought: Track | None = None
        self._search_prompt: Prompt | None = None

    def start(self, ids: Sequence[int], proposals: Sequence[RegionProposal], instruction: str) -> None:
        """Look for these from the next frame on."""
        self._tracks += [
            Track(id, proposal, instruction, self.config) for id, proposal in zip(ids, proposals, strict=True)
        ]

    def keep_seen(self) -> None:
        """Forget the targets that were never seen: the proposed regions do not show them."""
        self._tracks = [track for track in self._tracks if track.seen]

    def join(self, other: Tracker) -> None:
        """Follow the other's targets, too; of many targets given up here, the oldest are forgotten."""
        other.set_config(self.config)
        self._resize(other._size)
        given_up = [track for track in self._tracks if track.given_up]
        forgotten = given_up[: max(0, len(given_up) - MOST_GIVEN_UP)]
        self._tracks = [track for track in self._tracks if track not in forgotten] + other._tracks
        self._joined, self._joining = other._tracks, JOINING_LOOKS
        self._stamp_ns = other._stamp_ns

    def clear(self, id: int | None = None) -> int:
        """Forget one target, or all. Returns how many were forgotten."""
        before = len(self._tracks)
        self._tracks = [] if id is None else [track for track in self._tracks if track.id != id]
        return before - len(self._tracks)

    def __len__(self) -> int:
        return len(self._tracks)

    @property
    def active(self) -> bool:
        """Whether a frame has to be segmented at all."""
        return any(not track.given_up for track in self._tracks)

    def prompts(self, stamp_ns: int, width: int, height: int, reads_text: bool = False) -> list[Prompt]:
        """What to ask the segmenter: one prompt for each target that is not given up, and at most one to find a hidden
        target elsewhere.

        reads_text: whether the segmenter reads text.
        """
        self._resize((width, height))
        if self._stamp_ns is not None and stamp_ns < self._stamp_ns:
            for track in self._tracks:
                track.jump(stamp_ns)
        elif self._stamp_ns is not None:
            missed_ns = stamp_ns - self._stamp_ns - int(MAX_GAP_S * 1e9)
            for track in self._active() if missed_ns > 0 else ():
                track.miss(missed_ns)
        self._stamp_ns = stamp_ns
        self._asked = self._active()
        prompts = [track.prompt(stamp_ns, width, height) for track in self._asked]
        # A target that may be in some place goes first, before it is gone from there; else the one that waited longest.
        hidden = [track for track in self._asked if track.search is not None]
        self._sought = min(hidden, key=lambda t: (t.search.candidate is None, t.search.looked_ns), default=None)
        self._search_prompt = None
        if self._sought is not None:
            self._search_prompt = self._sought.search_prompt(width, height, reads_text)
            prompts += [self._search_prompt] if self._search_prompt is not None else []
        return prompts

    def _resize(self, size: tuple[int, int] | None) -> None:
        """Go over to images of this size; None: no image was seen."""
        if self._size is not None and size is not None and self._size != size:
            for track in self._tracks:
                track.rescale(size[0] / self._size[0], size[1] / self._size[1])
        self._size = size or self._size

    def update(
        self, image: np.ndarray, predictions: Sequence[Prediction | None], stamp_ns: int, again: bool = False
    ) -> None:
        """Take in the segmenter's answers to the last `prompts` for this image (RGB), in the same order.

        again: whether it was asked about this image before.
        """
        predictions = list(predictions)
        found = predictions.pop() if self._search_prompt is not None else None
        looks = [_Look(*pair) for pair in zip(self._asked, predictions, strict=True)]
        _settle(image, looks, self._joined)
        self._joining -= 1
        if self._joining <= 0:
            self._joined = []
        for look in looks:
            look.track.update(image, look.prediction, look.box, stamp_ns, again)
            if look.track.given_up:
                look.track.give_up()
        seen = [track for track in self._asked if track.state is TargetState.TRACKING]
        for one, other in itertools.combinations(seen, 2):
            one.compare(other)
        sought = self._sought
        if sought is not None and sought.search is not None:
            taken = self._seen(image.shape[:2], sought)
            sought.search_update(image, self._search_prompt, found, taken, stamp_ns)

    def targets(self) -> tuple[Target, ...]:
        """All targets, as of the last image."""
        width, height = self._size or (1, 1)
        return tuple(track.target(width, height) for track in self._tracks)

    def set_config(self, config: TrackerConfig) -> None:
        """Take new thresholds, also for the targets already followed."""
        self.config = config
        for track in self._tracks:
            track.config = config

    def _active(self) -> list[Track]:
        return [track for track in self._tracks if not track.given_up]

    def _seen(self, shape: tuple[int, int], sought: Track) -> np.ndarray:
        """bool H x W: where targets are seen, but for those that are one thing with the one that is sought."""
        others = [track for track in self._tracks if track.mask is not None and not sought.is_same(track)]
        return np.logical_or.reduce([np.zeros(shape, bool), *(track.mask for track in others)])


class _Look:
    """What was seen in a target's place; `box` is None if it cannot be the target."""

    def __init__(self, track: Track, prediction: Prediction | None) -> None:
        self.track = track
        self.prediction = prediction
        self.box = mask_to_box(prediction.mask) if prediction is not None and track.takes(prediction) else None

    def is_same(self, other: _Look) -> bool:
        """Whether both show one thing, although the targets were two things before."""
        if self.box is None or other.box is None or self.box.iou(other.box) < SAME_IOU:
            return False
        if mask_iou(self.prediction.mask, other.prediction.mask) < SAME_IOU:
            return False
        return self.track.seen and other.track.seen and not self.track.is_same(other.track)


def _settle(image: np.ndarray, looks: Sequence[_Look], new: Sequence[Track]) -> None:
    """Where two targets' masks are on one thing, count only the target that fits it better as seen.

    `new`: tracks that have joined lately. Nothing shows yet that one of these and an old one are two things, so such
    pairs are left alone: what is asked for again is followed twice.
    """
    for i, look in enumerate(looks):
        for other in looks[i + 1 :]:
            if (look.track in new) == (other.track in new) and look.is_same(other):
                loser = min(look, other, key=lambda it: it.track.fit(image, it.prediction.mask, it.box))
                loser.box = None


def _margins(region: Box, box: Box) -> tuple[float, float, float, float]:
    """How far a region reaches beyond a box: left, top, right and bottom, as shares of the box's size."""

    def limited(margin: float) -> float:
        return min(max(margin, -MAX_MARGIN), MAX_MARGIN)

    width, height = max(box.width, 1.0), max(box.height, 1.0)
    return (
        limited((box.x0 - region.x0) / width),
        limited((box.y0 - region.y0) / height),
        limited((region.x1 - box.x1) / width),
        limited((region.y1 - box.y1) / height),
    )


def _inside(box: Box, width: int, height: int) -> Box:
    """The box clipped to the image, but never without a pixel: a target at the border may have half its box outside."""
    x0 = min(max(box.x0, 0.0), width - 1.0)
    y0 = min(max(box.y0, 0.0), height - 1.0)
    return Box(x0, y0, max(min(box.x1, width), x0 + 1.0), max(min(box.y1, height), y0 + 1.0))
