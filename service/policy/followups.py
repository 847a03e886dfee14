"""Turns that mean nothing alone: "make it shorter", "why?", "und jetzt auf Deutsch?".

They only say what to do with the answer before, so what their own words are near to says nothing of what it takes. Told
by words, not by the embedding: a turn of nothing but empty words, or a short one that points at something.
"""

import re
from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_EMPTY: Final = _words("""
    a about again all also an and another any are as be better bit but by can casual clearer concise continue could
    detail detailed details do does don't elaborate else even example examples expand explain fewer fix for form formal
    format from full further get give go good great hello hey hi how i in instead into is it it's its keep last less
    list little long longer lot make maybe me mean means more much my next nice no not now of ok okay on once one ones
    or other out part please previous put redo rephrase retry rewrite same say second sentence sentences short shorten
    shorter should show simple simpler simplify so some sorry style sure tell thank thanks that that's the them then
    these they this those to tone too try version very want was way well what what's when where which who why will with
    words would yeah yes you your
    aber auf bitte danke das einfacher es genauer ist ja jetzt kürzer länger mach mal nein noch nochmal und warum weiter
    wie wieso
    c'est ça continue court encore en est et fais la le les longue mais merci non oui plus pourquoi simple
    corto el en es esto gracias hazlo la largo lo más no otra por qué sigue sí vez y
""")
_POINTING: Final = _words("""
    it its it's that that's this those these them they one ones above previous former latter same instead again
    das dies diese dieser es ça cela celui esto eso lo
""")
_WORD: Final = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)?")
_SHORT: Final = 8
_LONGEST: Final = 400  # characters: what is longer has something to say of its own


def means_nothing_alone(text: str) -> bool:
    """Return whether a turn only says what to do with the answer before it."""
    if len(text) > _LONGEST:
        return False
    words = [word.replace("\u2019", "'") for word in _WORD.findall(text.casefold())]
    return _EMPTY.issuperset(words) or (len(words) <= _SHORT and not _POINTING.isdisjoint(words))
