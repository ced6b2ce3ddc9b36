"""Training configuration: YAML files, and `NAME=VALUE` from the command line, turned into dataclasses."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from rsvp_ros.errors import ConfigurationError

T = TypeVar("T")


def read(path: str | Path) -> dict[str, Any]:
    """The content of a YAML file (JSON is YAML, too). Raises ConfigurationError if it does not map names to values."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"the configuration {path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigurationError(f"the configuration {path} holds no names with values")
    return values


def changed(values: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """A copy with some values replaced, each change given as "NAME=VALUE" (YAML); "model.dim=64" for a nested one.

    Raises ConfigurationError.
    """
    result = dict(values)
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise ConfigurationError(f"--set {change!r}: write it as NAME=VALUE")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        *outer, last = name.split(".")
        inner = result
        for depth, part in enumerate(outer, 1):
            within = inner.get(part) or {}
            if not isinstance(within, Mapping):
                raise ConfigurationError(f"--set {change!r}: `{'.'.join(outer[:depth])}` holds no names with values")
            inner[part] = dict(within)
            inner = inner[part]
        inner[last] = value
    return result


def load(
    cls: type[T], path: str | Path | None, changes: Sequence[str], given: Mapping[str, object], described_in: str
) -> T:
    """The dataclass from a file (None: its defaults). `changes` ("NAME=VALUE") take precedence over the file, and
    `given` over both.

    Raises ConfigurationError that names the file, what is wrong in it, and where the fields are `described_in`.
    """
    try:
        return build(cls, changed(read(path) if path else {}, changes) | given)
    except ConfigurationError as error:
        where = f"training configuration {path}: " if path else ""
        raise ConfigurationError(f"{where}{error}; see {described_in} for its fields") from error


def check_numbers(
    config: object, at_least_1: Sequence[str] = (), not_negative: Sequence[str] = (), above_0: Sequence[str] = ()
) -> None:
    """Raises ConfigurationError naming the first training option that is out of range; NaN always is."""
    for name in at_least_1:
        if not getattr(config, name) >= 1:
            raise ConfigurationError(f"training option `{name}` must be at least 1, it is {getattr(config, name)}")
    for name in not_negative:
        if not getattr(config, name) >= 0:
            raise ConfigurationError(f"training option `{name}` must not be negative, it is {getattr(config, name)}")
    for name in above_0:
        if not getattr(config, name) > 0:
            raise ConfigurationError(f"training option `{name}` must be above 0, it is {getattr(config, name)}")


def build(kind: type[T], values: Any, name: str = "") -> T:
    """Build a dataclass from a mapping of its field names to values; `name`: what it is called in errors.

    Raises ConfigurationError naming what is unknown, missing, of the wrong type, or rejected by the class itself.
    """
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"`{name}` is {values!r}, but holds names with values")
    hints = typing.get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(kind)}
    dotted = f"{name}." if name else ""
    for key in values:
        if key not in fields:
            raise ConfigurationError(f"there is no option `{dotted}{key}`; there are {', '.join(fields)}")
    for key, item in fields.items():
        if key not in values and item.default is item.default_factory is dataclasses.MISSING:
            raise ConfigurationError(f"the option `{dotted}{key}` is missing")
    try:
        return kind(**{key: _converted(hints[key], value, dotted + key) for key, value in values.items()})
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"`{name}`: {error}" if name else str(error)) from error


def _converted(kind: Any, value: Any, name: str) -> Any:
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (kind,) = (argument for argument in arguments if argument is not type(None))
        return _converted(kind, value, name)
    if dataclasses.is_dataclass(kind):
        return build(kind, value, name)
    if typing.get_origin(kind) is tuple and isinstance(value, (list, tuple)):
        endless = arguments[-1] is Ellipsis
        if endless or len(value) == len(arguments):
            kinds = [arguments[0]] * len(value) if endless else arguments
            return tuple(_converted(k, v, f"{name}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML 1.1 reads 1e-3, which has no decimal point, as a string
        except ValueError:
            pass
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        try:
            return kind(value)
        except ValueError:
            choices = ", ".join(str(member.value) for member in kind)
            raise ConfigurationError(f"`{name}` is {value!r}, but must be one of {choices}") from None
    if kind is Path and isinstance(value, str):
        return Path(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    raise ConfigurationError(f"`{name}` is {value!r}, but must be {_described(kind)}")


_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}


def _described(kind: Any) -> str:
    if typing.get_origin(kind) is not tuple:
        return _NAMES.get(kind, str(kind))
    arguments = typing.get_args(kind)
    if arguments[-1] is Ellipsis:
        return f"a list, each item {_described(arguments[0])}"
    return f"a list of {len(arguments)}: {', '.join(_described(argument) for argument in arguments)}"
