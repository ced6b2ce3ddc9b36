"""`python -m rsvp_ros.ros.parameters_page > docs/parameters.md`: the page that lists every parameter of the node."""

from __future__ import annotations

from rsvp_ros.config import Config, flatten
from rsvp_ros.ros.parameters import LIVE_PARTS, OPTIONS

HEAD = """# Parameters of `rsvp_node`

Made by `python -m rsvp_ros.ros.parameters_page`; a test holds it equal to the code. `ros2 param describe` tells the
same of a running node. Those marked *live* may change while it runs; all others are read when it is configured
(`ros2 lifecycle set /rsvp/rsvp_node deactivate`, then `cleanup`, `configure`, `activate`). `rsvp segment` takes them
with `--set NAME=VALUE`.

Besides: `autostart` (default true): the node configures and activates itself.
"""


def page() -> str:
    """The whole page, Markdown."""
    lines = [HEAD]
    section = ""
    for name, default in flatten(Config()).items():
        part = name.rpartition(".")[0]
        if part != section:
            section = part
            lines += [f"\n## `{part}`\n", "| parameter | default | | range |", "|---|---|---|---|"]
        option = OPTIONS[name]
        limits = ", ".join(f"`{choice}`" for choice in option.choices)
        if option.low is not None:
            limits = f"{option.low:g} to {option.high:g}"
        live = " *(live)*" if name.startswith(LIVE_PARTS) else ""
        shown = str(default).lower() if isinstance(default, bool) else default if default != "" else '""'
        lines.append(f"| `{name.rpartition('.')[2]}` | `{shown}` | {option.description}{live} | {limits} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
