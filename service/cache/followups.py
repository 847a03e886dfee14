"""Prompts that mean nothing without what was said before: "make it shorter", "and in French?", "why?".

Two such prompts may be the same to the letter and ask for different things, and be near each other in every embedding.
They are hit exactly or not at all, and nobody else's prompt is answered from theirs. Only what begins and ends like one
counts, in a few words: a prompt that names its own subject is left alone. English, German, French and Spanish.
So does a short question about "it", "he" or "that" with a single common word of its own: "is it safe?".
"""

import re
from typing import Final

from index.lexicon import PRONOUNS, weight

_LONGEST = 80  # characters; a longer prompt says what it is about

_WORD: Final = re.compile(r"[^\W\d]+(?:'[^\W\d]+)*|\d+")
_MOST_WORDS: Final = 7
_STANDS_FOR: Final = PRONOUNS | {"it", "its", "this", "that", "these", "those"}
# Of a word's weight: one above function words and filler says something of its own, a rare one names a subject.
_TELLING: Final = 0.3
_SUBJECT: Final = 0.9

# "And Germany?" goes on from a question; "and operator" may be what somebody looks for.
_AND_WHAT: Final = re.compile(r"(?:and|or|but)(?:\s+[^\s?]+){1,3}\s*\?+", re.IGNORECASE)

_OBJECT = (
    r"(?:it|this|that|them|these|those|the\s(?:above|answer|text|reply|response|result|list|code|last\s(?:one|part)))"
)
_AGAIN = r"(?:please|pls|thanks|thank\syou|again|now|then|instead|too|as\swell|a\sbit|a\slittle|once\smore)"
_LANGUAGE = (
    r"(?:english|french|german|spanish|italian|portuguese|dutch|polish|russian|chinese|japanese|korean|arabic|hindi)"
)
# "Your last answer", "our conversation": what only those have who are talking.
_SAID = (
    r"(?:the|our|your|my|this)\s(?:(?:whole|last|first|previous|above|final)\s)?"
    r"(?:conversation|chat|discussion|answer|reply|response|message|question|explanation)"
)
_PIECES = r"(?:ones?|examples?|jokes?|ideas?|options?|details?|suggestions?|questions?|quotes?|facts?|names?|tips?)"
_COUNT = r"(?:one|two|three|four|five|ten|some|a\sfew|any|\d{1,2})"
_REFERS = re.compile(
    rf"""
    (?:(?:and|but|so|ok(?:ay)?|now|no|yes|hmm|well|then|can\ you|could\ you|would\ you|will\ you|please|pls)[\s,]+)*
    (?:
        # make it shorter; translate this to French; explain that again; rewrite the above in two sentences
        (?:make|keep|turn|translate|rewrite|rephrase|reword|shorten|expand|simplify|summari[sz]e|explain|elaborate\ on
           |fix|redo|repeat|continue|format|put|write|say|do|try|change|improve|show|send|give)
        \s+(?:me\s+)?{_OBJECT}
        (?:\s+(?:in(?:to)?|to|as|for|with|without|more|less|much|even|again|sound|shorter|longer|simpler|clearer|better
           |formal|polite|friendlier|bold|up|out|down|over|step|like|using|a|an|the|two|three|one|five|ten|few(?:er)?)
           (?:\s+\S+){{0,5}})?
        (?:\s+[\w-]+er)?
        # shorter; in French; and in two sentences
        |(?:much\s+)?(?:shorter|longer|simpler|briefer|more\s+(?:formal|detail(?:s|ed)?|polite|examples?)
           |less\s+(?:formal|technical))
        |in\s+{_LANGUAGE}
        |(?:and|now|but|same|what\ about|how\ about)\s+(?:it\s+)?in\s+[\w-]+(?:\s+[\w-]+)?
        # summarise our conversation; repeat your last answer in French; what was my first question; what did you say
        |(?:summari[sz]e|recap|repeat|rewrite|translate|shorten|simplify|improve|explain|expand|check|correct)\s+{_SAID}
           (?:\s+\S+){{0,4}}
        |what\s(?:is|was)\s(?:my|your)\s(?:first|last|previous)\s(?:question|answer|message|point)
        |what\sdid\s(?:you|i)\s(?:just\s)?(?:say|mean|ask|write)(?:\s(?:before|earlier))?
        |what\sare\s(?:the|your)\ssources
        # another example; give me two more jokes; any other ideas; ten more
        |(?:(?:tell|show|give)\sme\s)?(?:(?:another|a\sdifferent)(?:\s{_PIECES})?
           |(?:{_COUNT}\s)?(?:more|other)(?:\s{_PIECES})?)
        # make it rhyme; use simpler words; add an example; remove the last line; in bullet points; a bit longer
        |make\s(?:it|them|this|that)(?:\s[\w-]+){{1,3}}
        |use\s(?:emojis|(?:simpler|shorter|fewer|other|more|easier)\s\w+)
        |add\s(?:an?|some|more|{_COUNT}\smore)\s{_PIECES}
        |(?:remove|delete|change|fix)\sthe\s(?:(?:last|first|second|third)\s\w+|tone|style|format|title|ending|bug|error)
        |in\s(?:bullet\spoints|(?:one|two|three)\ssentences?|(?:simple|simpler|other|plain)\s(?:words|terms))
        |as\sa\s(?:table|list)|(?:a\s(?:bit|little)|slightly|even)\s(?:shorter|longer|simpler|more\s\w+|less\s\w+)
        # that's wrong; I meant the other one; I don't understand; which one is better; go back; option 2
        |(?:that(?:'s|\sis)|you(?:'re|\sare))\s(?:not\s)?(?:wrong|right|correct|incorrect|true|mistaken)|i\smeant\s.{{1,40}}
        |i\s(?:still\s)?(?:don't|do\snot|didn't)\s(?:understand|get)(?:\s(?:it|that|this))?
        |which\s(?:one|of\s(?:them|these|those))(?:\s\S+){{0,4}}
        |go\sback|undo\s(?:it|that)|keep\sgoing|continue\swhere\s.{{1,20}}|(?:same\s)?as\s(?:before|above)
        |both|(?:option|number|answer)\s(?:\d{{1,2}}|[a-d])
        # what about the second one; how about tomorrow; and Germany; the same for dogs; do the same in Python
        |(?:(?:what|how)\ about|same\s+(?:for|in|with|but(?:\s+for|\s+in|\s+with)?))\s+\S+(?:\s+\S+){{0,2}}
        |(?:do|say|show|repeat)?\s*the\ same(?:\s+thing)?\s+(?:for|in|with|but(?:\s+for|\s+in|\s+with)?)
           \s+\S+(?:\s+\S+){{0,2}}
        |(?:elaborate|go\ deeper|go\ into\ (?:more\ )?detail)(?:\s+(?:further|more|on\s+(?:it|this|that)))?
        |in\ more\ detail
        |explain\s+(?:more|further|in\ more\ detail|the\ (?:last|first|second|third|next)\s+\S+)
        # why; how so; go on; continue; more; the second one; tell me more; another one
        |why(?:\s+not|\s+so|\s+is\s+(?:that|this|it))?|how\s+(?:so|come)|go\s+on|continue|more|(?:tell|show|give)\s+me\s+(?:some\s+)?more
           (?:\s+(?:examples|details|of\s(?:it|them|that|those)))?
        |(?:and\s+)?then(?:\s+what)?|what\s+(?:else|next|now)|such\s+as|for\s+example|like\s+what|are\s+you\s+sure|really
        |(?:(?:the|that|this)\s+)?(?:first|second|third|fourth|last|next|other|previous)(?:\s+ones?)
        |(?:try|do)(?:\s+it)?\s+again|again|once\s+more|another(?:\s+one)?|one\s+more|next|yes|no|sure|ok(?:ay)?
        |what\s+do(?:es)?\s+(?:you|that|this|it)\s+mean(?:\s+by\s+(?:that|this|it))?
    )
    (?:[\s,]+{_AGAIN})*
    |(?:mach|mache|übersetz|übersetze|kürze|erklär|erkläre)\s+(?:das|es|dies)(?:\s+\S+){{0,4}}
    |(?:und\s+)?(?:auf|in)\s+(?:deutsch|englisch|französisch|spanisch|italienisch)|kürzer|weiter|nochmal|warum
    |(?:fais|fais-le|traduis|raccourcis|explique)(?:-le|-la|\s+(?:le|la|ça|cela))(?:\s+\S+){{0,4}}
    |(?:et\s+)?en\s+(?:français|anglais|allemand|espagnol|italien)|plus\s+court|continue|pourquoi|encore
    |(?:hazlo|tradúcelo|acórtalo|explícalo)(?:\s+\S+){{0,4}}
    |(?:y\s+)?en\s+(?:español|inglés|francés|alemán|italiano)|más\s+corto|sigue|por\s+qué|otra\s+vez
    """,
    re.IGNORECASE | re.VERBOSE,
)


def refers_back(text: str) -> bool:
    """Return whether a canonical prompt can only be understood by what was said before it."""
    if len(text) > _LONGEST:
        return False
    said = text.strip(" \t.,;:!?…¿¡\"'")
    return bool(_REFERS.fullmatch(said) or _AND_WHAT.fullmatch(text)) or _stands_for_all(said)


def _stands_for_all(text: str) -> bool:
    """Return whether "it", "he" or "that" stands for the subject: nothing else names one."""
    words = _WORD.findall(text)
    if len(words) > _MOST_WORDS or _STANDS_FOR.isdisjoint(map(str.casefold, words)):
        return False
    telling = [word for word in words if word.isdigit() or weight(word.casefold()) > _TELLING]
    named = any(word.isdigit() or word[0].isupper() or weight(word.casefold()) > _SUBJECT for word in telling)
    return len(telling) <= 1 and not named
