"""The prompts of stage 1: text files in `prompts/` whose $placeholders are filled in for one request."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from string import Template

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.geometry import Box, RegionGrid
from rsvp_ros.reasoning.families import Family
from rsvp_ros.reasoning.visual_prompt import VisualPrompt

_FOLDER = Path(__file__).parent / "prompts"
_QUOTED = str.maketrans("<>[]", "‹›()")
_EXAMPLE = Box(0.08, 0.18, 0.27, 0.62)
"""Where the lamp in prompts/example.txt stands, as shares of the image's width and height."""


@cache
def _template(name: str) -> Template:
    return Template((_FOLDER / f"{name}.txt").read_text(encoding="utf-8").strip())


class Prompts:
    """Everything that the MLLM is told in one request, in terms of its family and of the visual prompt it sees.

    Raises ConfigurationError where these two leave the model no way to say where something is.
    """

    def __init__(
        self,
        instruction: str,
        visual_prompt: VisualPrompt,
        family: Family,
        image_size: tuple[int, int],
        max_targets: int,
    ) -> None:
        if visual_prompt.style == "none" and not family.gives_boxes:
            raise ConfigurationError(
                f"models of the family {family.name!r} give no boxes and need a visual prompt; use the style 'bands'"
            )
        grid = visual_prompt.grid(*image_size)
        box = _template("box").substitute(box_key=family.box_key, box_instruction=family.box_instruction)
        explained = _template(visual_prompt.style).substitute(
            rows=grid.rows, columns=grid.columns, marks=grid.rows * grid.columns
        )
        region = _example_region(visual_prompt.style, grid, family)
        example = {"region": ", ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in region.items())}
        self._values = {
            "instruction": quote(instruction),
            "visual_prompt": f"{explained}\n{box}" if family.gives_boxes else explained,
            "region_keys": ", ".join(json.dumps(key) for key in region),
            "max_targets": str(max_targets),
            "example": _template("example").substitute(example),
            **example,
        }

    def render(self, name: str, **values: object) -> str:
        """The text of prompts/`name`.txt; `values`: placeholders that the request does not already fill."""
        return _template(name).substitute(self._values, **values)


def quote(instruction: str) -> str:
    """The instruction, changed so that it can neither end its place in the prompt nor pass for a control token.

    `<|im_end|>`, `</instruction>`, `<image>` and `[INST]` mean something to chat templates, processors and tokenizers,
    so angle and square brackets are replaced by similar-looking characters.
    """
    return instruction.translate(_QUOTED)


def _example_region(style: str, grid: RegionGrid, family: Family) -> dict[str, list]:
    """The place of the lamp in the example, under the keys that an answer uses for it."""
    box = _EXAMPLE.scale(grid.width, grid.height)
    rows, columns = grid.bands(box)
    region: dict[str, list] = {}
    if style == "bands":
        region = {"rows": list(rows), "columns": list(columns)}
    elif style == "marks":
        region = {"marks": [(row - 1) * grid.columns + column for row in rows for column in columns]}
    if family.gives_boxes:
        size = grid.width, grid.height
        region[family.box_key] = list(family.write_box(box, size, family.size_to_send(size)))
    return region
