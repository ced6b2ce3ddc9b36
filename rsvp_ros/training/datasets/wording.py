"""What a human-written description refers to, as far as its words tell."""

from __future__ import annotations

import re

_SIDE = re.compile(r"\b(left|right|lft|lt\b|rt\b|izquierd|derech|link|recht)|o'?clock|左|右", re.IGNORECASE)
_PLACE = re.compile(
    r"\b(cent(er|re|ral)|mid(dle)?|top|bottom|upper|lower|corner|edge|"
    r"first|second|third|fourth|fifth|sixth|last|\d+(st|nd|rd|th)|number|one of|"
    r"mitte|mittler|oben|unten|ober|unter|ecke|rand|erste|zweite|dritte|letzte|"
    r"centro|medio|arriba|abajo|esquina|borde|primer|segund|tercer|últim)|中|上|下|角|第|最后",
    re.IGNORECASE,
)
_PEOPLE = re.compile(
    r"\b(person|people|m[ae]n|wom[ae]n|boys?|girls?|guys?|lady|ladies|gentlem[ae]n|kids?|child(ren)?|baby|toddler|dude|"
    r"players?|batter|catcher|umpire|pitcher|skier|surfer|rider|chef|mom|dad|mother|father)\b",
    re.IGNORECASE,
)


def says_side(text: str) -> bool:
    """Whether it mentions left or right, in English, Spanish, German or Chinese: wrong in a mirrored image."""
    return bool(_SIDE.search(text))


def says_place(text: str) -> bool:
    """Whether it may mention a place in the whole image or in a row of things: wrong in a part of the image."""
    return says_side(text) or bool(_PLACE.search(text))


def says_name(text: str, name: str) -> bool:
    """Whether an English text contains a category's name or, for COCO's "person", any usual word for people.

    "The blue one" does not, and may fit something of another category.
    """
    return name.lower() in text.lower() or (name == "person" and bool(_PEOPLE.search(text)))
