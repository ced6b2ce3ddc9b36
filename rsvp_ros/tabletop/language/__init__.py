"""Instructions and chains of thought in words: English, Spanish, German, Chinese."""

from rsvp_ros.tabletop.language.en import English
from rsvp_ros.tabletop.language.grammar import Grammar, Phrase

GRAMMARS: dict[str, type[Grammar]] = {"en": English}

__all__ = ["GRAMMARS", "Grammar", "Phrase"]
