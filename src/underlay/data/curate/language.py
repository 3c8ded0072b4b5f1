"""Language: which one a text is written in, and how sure that is.

The model is that of `py3langid`: 140 languages, and it lies in the package, so nothing is ever downloaded. Its own loop
over bytes is plain Python; here it is compiled (`underlay.kernels.bytegrams`), and gives the same.
"""

import unicodedata

import numpy as np
from numpy.typing import NDArray
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from underlay.data.curate.texts import Texts
from underlay.kernels.bytegrams import Model, classify

_PART = 1024
"""Characters at the start of a text and in its middle that are looked at."""


class Languages:
    """Tells languages apart."""

    def __init__(self) -> None:
        """Read the model, which takes a second and about 100 MB."""
        known = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        self.codes: list[str] = list(known.nb_classes)
        self._model = Model(
            np.array(known.tk_nextmove, dtype=np.uint32),
            np.array(known.tk_row, dtype=np.int64) << 8,
            np.array(known.tk_output, dtype=np.int32),
            known.nb_ptc.astype(np.float32),
            known.nb_pc.astype(np.float32),
            np.array([self.codes.index(code) for code in self.codes], dtype=np.int64),
        )

    def __call__(self, texts: Texts) -> tuple[list[str], NDArray[np.float32]]:
        """The ISO 639 code of each text's language, `zxx` where it holds none, and its probability, (n,) float32."""
        parts = [_part(text).encode() for text in texts.strings]
        offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        classes, chances = classify(np.frombuffer(b"".join(parts), dtype=np.uint8), offsets, self._model)
        codes = [self.codes[number] if part else "zxx" for number, part in zip(classes.tolist(), parts, strict=True)]
        return codes, chances


def _part(text: str) -> str:
    """What is looked at of a text, as the model was trained to see it: composed, and not all in capitals."""
    text = text.strip()
    if len(text) > 2 * _PART:
        middle = len(text) // 2
        text = f"{text[:_PART]}\n{text[middle : middle + _PART]}"
    if text.isupper():
        text = text.lower()
    return text if text.isascii() else unicodedata.normalize("NFC", text)
