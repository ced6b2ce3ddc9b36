"""Read the JSON in a model's text: anywhere in prose, fenced or not, malformed in the ways in which models malform it.

One pass over the text with a stack of open brackets, so the time is linear in its length, whatever it contains.
Accepted: comments, trailing and missing commas, single and typographic quotes, quotes inside quotes, unquoted words,
full-width punctuation, Python's constants and tuples, missing and superfluous brackets. What was cut off by the end of
the text is marked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from rsvp_ros.errors import ParseError

MAX_DEPTH = 32
"""Levels of nested brackets; answers need about five."""


@dataclass
class Array:
    """`[...]` or `(...)`."""

    start: int = field(compare=False)
    end: int = field(default=-1, compare=False)
    values: list[Value] = field(default_factory=list)
    complete: bool = False
    """False: the text ended in the middle of it."""


@dataclass
class Object:
    """`{...}`."""

    start: int = field(compare=False)
    end: int = field(default=-1, compare=False)
    members: dict[str, Value] = field(default_factory=dict)
    complete: bool = False
    repeated: str = ""
    """A key that occurs twice, with different values: two objects have run together, or one is damaged."""


Value = Array | Object | str | float | bool | None

_DOUBLE_QUOTES = '"\u201c\u201d\u201e'
_SINGLE_QUOTES = "'\u2018\u2019"
_COMMAS = ",;\uff0c\uff1b\u3001"  # also as written in Chinese and Japanese
_COLONS = ":=\uff1a"
_OPENING = re.compile(r"[{\[]|\((?=\s*[-+.\d(\[])")
"""In prose, a parenthesis opens a tuple only if a number follows."""
_TOKEN = re.compile(
    rf"""\s*(?:
      (?P<open>[{{\[(]) | (?P<close>[}}\])]) | (?P<comma>[{_COMMAS}]) | (?P<colon>[{_COLONS}])
    | (?P<comment>//[^\n]*|\#\s[^\n]*|/\*[^*\n]{{0,200}}\*/)
    | (?P<end>```|</|<[|\uff5c])
    | (?P<quote>[{_DOUBLE_QUOTES}{_SINGLE_QUOTES}])
    | (?P<word>[^\s{{}}\[\](){_COMMAS}{_COLONS}{_DOUBLE_QUOTES}]+)
    )""",
    re.VERBOSE,
)
_NUMBER = re.compile(r"[-+]?(?:\d{1,400}\.?\d{0,400}|\.\d{1,400})(?:[eE][-+]?\d{1,4})?")
_CONSTANTS: dict[str, Value] = {
    "true": True,
    "false": False,
    **dict.fromkeys(("null", "none", "undefined")),
    **dict.fromkeys(("nan", "infinity", "inf", "-infinity", "-inf"), float("nan")),
}
# A quote ends a string only if the grammar continues after it; any other one is part of the string. After a comma prose
# may continue, too (`labelled "Milk", which`): a bare word there must be a key, a list's last value, or a constant.
_COMMENT_OR_END = r"//|\#|/\*|\Z"
_AFTER_COMMA = rf"""(?:[{{}}()\[\]{_COMMAS}{_DOUBLE_QUOTES}{_SINGLE_QUOTES}]|{_COMMENT_OR_END}
    |[-+.\w]{{1,40}}\s*[{_COLONS}}}\])]|(?i:[-+.\d][-+.\de]{{0,40}}|{"|".join(_CONSTANTS)})\s*[{_COMMAS}])"""
_AFTER_STRING = rf"""(?=\s*(?:\)\s*)?(?:[{_COLONS}}}\]]|{_COMMENT_OR_END}|[{_COMMAS}]\s*{_AFTER_COMMA})
    |[^\S\n]*\n|\s*["']\w{{1,40}}["']\s*[{_COLONS}])"""
_STRING_END = {
    quote: re.compile(rf"\\.|[{ends}]{_AFTER_STRING}", re.DOTALL | re.VERBOSE)
    for quote, ends in (
        ('"', '"'),
        ("'", "'"),
        *((typographic, _DOUBLE_QUOTES) for typographic in _DOUBLE_QUOTES[1:]),
        *((typographic, _SINGLE_QUOTES) for typographic in _SINGLE_QUOTES[1:]),
    )
}
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


def read(text: str) -> list[Array | Object]:
    """The outermost arrays and objects of a text, in order.

    Raises ParseError where brackets are nested deeper than any answer needs.
    """
    found: list[Array | Object] = []
    position = 0
    while opening := _OPENING.search(text, position):
        value, position = _read_value(text, opening.start())
        found.append(value)
    return found


def walk(value: Value) -> Iterator[Array | Object]:
    """An array or object and all those in it, outer ones first, in the order of the text."""
    if isinstance(value, (Array, Object)):
        yield value
        for child in value.values if isinstance(value, Array) else value.members.values():
            yield from walk(child)


def to_number(word: str) -> float | None:
    """A number written as text; None where it is not one."""
    return float(word) if _NUMBER.fullmatch(word) else None


class _Open:
    """A bracket that is still open."""

    def __init__(self, bracket: str, start: int) -> None:
        self.value: Array | Object = Object(start) if bracket == "{" else Array(start)
        self.key: str | None = None
        self.colon = False
        self.expects_value = True

    def add(self, value: Value) -> None:
        self.expects_value = False
        if isinstance(self.value, Array):
            self.value.values.append(value)
        elif self.colon:
            if self.key is not None:
                if self.key in self.value.members and self.value.members[self.key] != value:
                    self.value.repeated = self.key
                self.value.members[self.key] = value
            self.key, self.colon = None, False
        else:
            self.key = value if isinstance(value, str) else None

    def separate(self, by_colon: bool) -> None:
        self.expects_value = True
        self.colon = by_colon
        if not by_colon:
            self.key = None


def _read_value(text: str, start: int) -> tuple[Array | Object, int]:
    """The array or object that begins at `start`, and where it ends."""
    stack = [_Open(text[start], start)]
    position = start + 1
    at_value_end = False  # if the text ended here, would only closing brackets be missing?
    while token := _TOKEN.match(text, position):
        kind = token.lastgroup
        if kind == "end":
            break  # a fence or a special token: the model forgot to close the open brackets
        position = token.end()
        if kind == "open":
            if len(stack) == MAX_DEPTH:
                raise ParseError(f"the answer has brackets nested more than {MAX_DEPTH} deep; use plain JSON")
            stack.append(_Open(token["open"], position - 1))
            at_value_end = False
        elif kind == "close":
            kind_closed = Object if token["close"] == "}" else Array
            partner = next((i for i in reversed(range(len(stack))) if isinstance(stack[i].value, kind_closed)), None)
            if partner is None:
                continue  # a bracket too many
            if value := _close(stack, partner, position, complete=True):
                return value, position
            at_value_end = True
        elif kind in ("comma", "colon"):
            stack[-1].separate(by_colon=kind == "colon")
            at_value_end = False
        elif kind == "quote":
            if token["quote"] in _SINGLE_QUOTES and not stack[-1].expects_value:
                continue  # an apostrophe
            value, position, at_value_end = _read_string(text, position - 1)
            stack[-1].add(value)
        elif kind == "word":
            stack[-1].add(_read_word(token["word"]))
            at_value_end = False
    return _close(stack, 0, position, complete=at_value_end), position


def _close(stack: list[_Open], down_to: int, end: int, complete: bool) -> Array | Object | None:
    """Close open brackets from the innermost one on; returns the outermost value once none is open."""
    while len(stack) > down_to:
        value = stack.pop().value
        value.end, value.complete = end, complete
        if not stack:
            return value
        stack[-1].add(value)
    return None


def _read_string(text: str, start: int) -> tuple[str, int, bool]:
    """The string whose opening quote is at `start`, where it ends, and whether it was closed."""
    closing = _STRING_END[text[start]]
    position = start + 1
    while match := closing.search(text, position):
        position = match.end()
        if match[0][0] != "\\":
            return _unescape(text[start + 1 : position - 1]), position, True
    return _unescape(text[start + 1 :]), len(text), False


def _unescape(raw: str) -> str:
    if "\\" not in raw:
        return raw
    plain = _ESCAPE.sub(lambda m: chr(int(m[1], 16)) if m[1] else _ESCAPED.get(m[2], m[2]), raw)
    # JSON writes characters beyond U+FFFF as two surrogates; one alone cannot be written to any output.
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _read_word(word: str) -> Value:
    number = to_number(word)
    return _CONSTANTS.get(word.lower(), word) if number is None else number
