"""Examples in other words: what is asked stays what it was, so its label stays true."""

from collections.abc import Sequence

from underlay.adapt.heads.texts import Text
from underlay.adapt.robust.chance import Chance
from underlay.adapt.robust.config import RobustConfig, Wording
from underlay.adapt.robust.paraphrase import rephrase
from underlay.adapt.robust.spelling import misspell


def harmed(text: str, wording: Wording, settings: RobustConfig, *key: object) -> str:
    """A text in other words, or misspelled; which way follows from the key."""
    chance = Chance(*key)
    if wording == "paraphrase":
        return rephrase(text, chance)
    return misspell(text, chance, settings.share, settings.first_letters)


def harmed_text(text: Text, wordings: Sequence[Wording], settings: RobustConfig, *key: object) -> Text:
    """A text, or both of a pair, harmed in one of several ways, which is drawn."""
    wording = Chance("wording", *key).one(wordings)
    if isinstance(text, str):
        return harmed(text, wording, settings, *key)
    return harmed(text[0], wording, settings, 0, *key), harmed(text[1], wording, settings, 1, *key)
