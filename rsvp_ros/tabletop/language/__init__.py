"""Instructions and chains of thought in words: English, Spanish, German, Chinese."""

from rsvp_ros.tabletop.language.de import German
from rsvp_ros.tabletop.language.en import English
from rsvp_ros.tabletop.language.es import Spanish
from rsvp_ros.tabletop.language.grammar import Grammar, Phrase
from rsvp_ros.tabletop.language.zh import Chinese

GRAMMARS: dict[str, type[Grammar]] = {g.language: g for g in (English, Spanish, German, Chinese)}

__all__ = ["GRAMMARS", "Grammar", "Phrase"]
