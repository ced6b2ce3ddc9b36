"""From what the model found to where stage 2 looks: region proposals with a score (RSVP, sec. 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

from rsvp_ros.errors import ParseError
from rsvp_ros.geometry import Box, RegionGrid
from rsvp_ros.reasoning.parsing import Answer, Finding
from rsvp_ros.types import RegionProposal

DEFAULT_PADDING = 0.2
"""A region of bands is grown on every side by this share of its width and height: the middle value of the paper's
ablation."""
BOX_PADDING = 0.25
"""Share of that padding that a box gets: its edges follow the target, while those of bands only enclose it."""
AGREEMENT = 0.5
"""Share of a box that must lie in the region of its bands; if less does, the two contradict each other."""
BAND_TOLERANCE = 0.15
"""Share of a band's width: a box that reaches into a band by no more than this does not span it."""
DOUBT = 0.5
"""Score of a box whose bands are not on the grid: half of what the model said is known to be wrong."""


def propose(answer: Answer, grid: RegionGrid, padding: float = DEFAULT_PADDING) -> tuple[RegionProposal, ...]:
    """Turn what was found into regions of the image that `grid` divides, one for each finding, all inside the image.

    - Bands, or marks (cells of the grid, counted row by row): their bounding region, grown by `padding`. Where only
      rows are given, the region spans all columns, and the other way round.
    - A box: grown by a quarter of `padding`.
    - Both: the score is their agreement, the mean of two shares: how much of the box lies in the region, and the
      overlap (IoU) of the region with the region of the bands that the box spans. If at least half of the box lies in
      the region, they mean the same place and the box, being more exact, is used. If not, one of them is wrong, but it
      is unknown which (models trained to draw boxes are better at boxes, others at reading IDs), so the proposal covers
      both: stage 2 can still find the target by its description in a region that is too large, but never in one that
      leaves it out.
    - A point only: a box around it as large as one cell of the grid, moved into the image at its border and grown as
      a box is.

    IDs that are not on the grid are dropped. Empty where the target is not in the image. Raises ParseError where the
    target is said to be there, but nothing usable says where.
    """
    if answer.present is False:
        return ()
    if not answer.findings:
        raise ParseError("the answer says that the target is in the image, but not where; give its region")
    proposals = tuple(filter(None, (_propose(finding, grid, padding) for finding in answer.findings)))
    if not proposals:
        raise ParseError(
            f"no region in the answer is on the grid, which has rows 1 to {grid.rows} and columns 1 to {grid.columns}: "
            f"{answer.findings[0].text}"
        )
    return proposals


@dataclass(frozen=True)
class _Bands:
    """The bands that a finding names, without those that are not on the grid."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @classmethod
    def of(cls, finding: Finding, grid: RegionGrid) -> _Bands:
        rows, columns = set(finding.rows), set(finding.columns)
        for mark in finding.marks:
            if 1 <= mark <= grid.rows * grid.columns:
                rows.add((mark - 1) // grid.columns + 1)
                columns.add((mark - 1) % grid.columns + 1)
        return cls(
            tuple(sorted(row for row in rows if 1 <= row <= grid.rows)),
            tuple(sorted(column for column in columns if 1 <= column <= grid.columns)),
        )

    def region(self, grid: RegionGrid) -> Box | None:
        if not self.rows and not self.columns:
            return None
        return grid.box(self.rows or range(1, grid.rows + 1), self.columns or range(1, grid.columns + 1))


def _propose(finding: Finding, grid: RegionGrid, padding: float) -> RegionProposal | None:
    bands = _Bands.of(finding, grid)
    region = bands.region(grid)
    named_bands = bool(finding.rows or finding.columns or finding.marks)
    place = finding.box or (_cell_around(finding.point, grid) if finding.point else None)
    score = 1.0
    if place is None:
        if region is None:
            return None
        box = region.pad(padding)
    elif region is None:
        box = place.pad(padding * BOX_PADDING)
        score = DOUBT if named_bands else 1.0
    else:
        inside = place.intersection(region) / place.area
        score = (inside + region.iou(_spanned(place, grid))) / 2
        if inside < AGREEMENT:
            box = place.union(region).pad(padding * BOX_PADDING)
        elif finding.box:
            box = place.pad(padding * BOX_PADDING)
        else:
            box = region.pad(padding)  # a point says nothing about the size, bands do
    return RegionProposal(
        box=box.clip(grid.width, grid.height),
        name=finding.name,
        attributes=finding.attributes,
        rows=bands.rows,
        columns=bands.columns,
        score=score,
        reason=finding.reason,
    )


def _spanned(box: Box, grid: RegionGrid) -> Box:
    """The region of the bands that a box spans, without those that it only touches."""
    dx = min(BAND_TOLERANCE * grid.width / grid.columns, 0.49 * box.width)
    dy = min(BAND_TOLERANCE * grid.height / grid.rows, 0.49 * box.height)
    return grid.box(*grid.bands(Box(box.x0 + dx, box.y0 + dy, box.x1 - dx, box.y1 - dy)))


def _cell_around(point: tuple[float, float], grid: RegionGrid) -> Box:
    width, height = grid.width / grid.columns, grid.height / grid.rows
    x0 = min(max(point[0] - width / 2, 0.0), grid.width - width)
    y0 = min(max(point[1] - height / 2, 0.0), grid.height - height)
    return Box(x0, y0, x0 + width, y0 + height)
