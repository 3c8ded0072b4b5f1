"""The same in other words, by rules that keep what is meant (CheckList's invariances, arXiv:2005.04118; semantically
equivalent rules, Ribeiro et al., ACL 2018).

    contraction    I am still waiting        I'm still waiting
    courtesy       Cancel my card            Please cancel my card
    request        How do I cancel my card?  Could you tell me how to cancel my card?
    synonym        I want to pay             I would like to pay

English only. Each rule says where it holds; where none does, a text stays as it is. `variants` gives what one rule at
one place makes of a text, so that a search may try them all, and `rephrase` draws from them.
"""

import re
from collections.abc import Iterator
from functools import cache

from underlay.adapt.robust.chance import Chance

_SHORT = [
    ("I am", "I'm"),
    ("I have", "I've"),
    ("I will", "I'll"),
    ("you are", "you're"),
    ("we are", "we're"),
    ("they are", "they're"),
    ("it is", "it's"),
    ("that is", "that's"),
    ("what is", "what's"),
    ("where is", "where's"),
    ("there is", "there's"),
    ("do not", "don't"),
    ("does not", "doesn't"),
    ("did not", "didn't"),
    ("is not", "isn't"),
    ("are not", "aren't"),
    ("was not", "wasn't"),
    ("were not", "weren't"),
    ("have not", "haven't"),
    ("has not", "hasn't"),
    ("had not", "hadn't"),
    ("cannot", "can't"),
    ("could not", "couldn't"),
    ("would not", "wouldn't"),
    ("should not", "shouldn't"),
    ("will not", "won't"),
]
_BOTH_WAYS = [
    ("want to", "would like to"),
    ("need to", "have to"),
    ("help me", "assist me"),
    ("right away", "immediately"),
    ("right now", "at the moment"),
    ("maybe", "perhaps"),
    ("often", "frequently"),
    ("almost", "nearly"),
    ("phone", "telephone"),
    ("anyone", "anybody"),
    ("someone", "somebody"),
    ("everyone", "everybody"),
    ("until", "till"),
]
_ONE_WAY = [
    ("in order to", "to"),
    ("let me know", "tell me"),
    ("buy", "purchase"),
    ("begin", "start"),
    ("mistake", "error"),
    ("whenever", "every time"),
    ("why is it that", "why"),
]
"""What comes back from the right could be another kind of word: a purchase is no buy."""
_AFTER_HAS = r"(?! (?:been|got|had|gone|come|become|taken|made|done|\w+ed)\b)"
"""`it's` is not `it is` before these."""
_AFTER_NOT = r"(?! (?:I|you|he|she|it|we|they|there|this|that|my|your|the)\b)"
"""`isn't it` cannot be `is not it`."""
_OPENING = "what why when where which who how is are was do does did can could will would should has have my there"
"""What begins sentences, and has no capital within them."""
_ACTS = (
    "tell show help explain give send cancel change check find open close order make write list say describe block "
    "activate verify transfer refund track fix freeze reset name translate summarise summarize"
)
_ACT = rf"(?:{'|'.join(_ACTS.split())}) (?:me|my|us|our|your|the|a|an|this|that|these|it|all|some)"
"""A word that is done to something: `transfer my money` asks, `transfer not received` tells."""
_REQUESTS = [
    (r"^how (?:do|can|would) i (?P<rest>[^?.!]+)\?$", ("could you tell me how to {rest}?", "tell me how to {rest}.")),
    (r"^(?:please )?(?:tell|show) me how to (?P<rest>[^?.!]+)[.!]?$", ("how do I {rest}?",)),
    (r"^(?:could|can) you (?:please )?tell me how to (?P<rest>[^?.!]+)\?$", ("how do I {rest}?",)),
    (r"^is it possible to (?P<rest>[^?.!]+)\?$", ("can I {rest}?",)),
    (r"^(?:can|could|may) i (?P<rest>(?!not\b)[^?.!]+)\?$", ("is it possible to {rest}?",)),
    (r"^(?P<asks>(?:what|why|when|where|which|who|how)\b[^?.!]*\?)$", ("please tell me: {asks}", "{asks} Thanks.")),
    (r"^(?:hi|hello)[,.!]? (?P<rest>.+)$", ("{rest}",)),
    (r"^(?!hi\b|hello\b)(?P<asks>[^?]*\?)$", ("hello, {asks}",)),
]
_COURTESIES = [
    (rf"^(?P<act>{_ACT}\b[^?.!]*)[.!]?$", ("please {act}.", "could you {act}?", "could you please {act}?")),
    (rf"^please (?P<act>{_ACT}\b[^?.!]*)[.!]?$", ("{act}.", "could you {act}?")),
    (rf"^(?:could|can|would) you (?:please )?(?P<act>{_ACT}\b[^?.!]*)\?$", ("{act}, please.", "please {act}.")),
]


def variants(text: str) -> list[str]:
    """What each rule makes of a text at each place where it holds; in their order, each once."""
    return [one for one in dict.fromkeys(_variants(text)) if one != text]


def rephrase(text: str, chance: Chance, most: int = 2) -> str:
    """A text after one to `most` rules that are drawn; as it is where none holds."""
    begun, seen = text, {text}
    for _ in range(1 + chance.below(most)):
        if found := [one for one in variants(begun) if one not in seen]:
            begun = chance.one(found)
            seen.add(begun)
    return begun


def _variants(text: str) -> Iterator[str]:
    for rule, wording in _inside():
        for place in rule.finditer(text):
            yield text[: place.start()] + _cased(wording, place[0]) + text[place.end() :]
    stripped = text.strip()
    for rule, wordings in _whole():
        if found := rule.match(stripped):
            parts = {name: _lowered(part.strip()) for name, part in found.groupdict().items()}
            yield from (_cased(wording.format(**parts), stripped) for wording in wordings)


@cache
def _inside() -> list[tuple[re.Pattern[str], str]]:
    """Rules for some words of a text, and what comes in their place."""
    pairs = []
    for long, short in _SHORT:
        # A contraction does not end a sentence: nobody says "I know who I'm".
        pairs += [(rf"\b{long}\b(?= (?!to\b)\w)", short), (rf"\b{short}\b" + _opens(short), long)]
    for one, other in _BOTH_WAYS:
        pairs += [(rf"\b{one}\b", other), (rf"\b{other}\b", one)]
    pairs += [(rf"\b{one}\b", other) for one, other in _ONE_WAY]
    return [(re.compile(rule, re.IGNORECASE), wording) for rule, wording in pairs]


@cache
def _whole() -> list[tuple[re.Pattern[str], tuple[str, ...]]]:
    """Rules for a text as a whole."""
    return [(re.compile(rule, re.IGNORECASE), wordings) for rule, wordings in (*_REQUESTS, *_COURTESIES)]


def _opens(short: str) -> str:
    """Where a contraction may be written out."""
    return _AFTER_HAS if short.endswith("'s") else _AFTER_NOT if short.endswith("n't") else ""


def _cased(wording: str, like: str) -> str:
    """With a capital where `like` begins with one."""
    return wording[:1].upper() + wording[1:] if like[:1].isupper() else wording


def _lowered(part: str) -> str:
    """What no longer begins a sentence; names and `I` keep their capitals."""
    opens = part.partition(" ")[0].lower() in (*_ACTS.split(), *_OPENING.split())
    return part[:1].lower() + part[1:] if opens else part
