"""A tokenizer's JSON, taken apart: what each token's bytes are, and a copy in which no text is a special token.

Text can become a special token on two ways. The library looks for the names of added tokens in the text; and the model
itself may have such a name in its vocabulary. The shielded copy closes both: there each special token has a name that
nobody can know, so text that looks like one is cut as the ordinary text it is, and everything else is as before.
"""

import json
import secrets
from collections.abc import Collection, Iterator, Mapping
from typing import Any

Json = dict[str, Any]


def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte: printable bytes stand for themselves, others follow from U+0100."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


def private_name() -> str:
    """A name of noncharacters (U+FDD0 to U+FDED) that no text holds, because it is drawn anew in every process."""
    return "\ufdd0" + "".join(chr(0xFDD1 + secrets.randbelow(28)) for _ in range(16))


def shield(source: str, names: Mapping[str, str], keep: Collection[str] = ()) -> str:
    """The tokenizer's JSON with special tokens renamed: `names` maps their text to a private name.

    Those in `keep` hold their text, and are found in text even where `encode_special_tokens` is set.
    """
    whole: Json = json.loads(source)
    model: Json = whole["model"]
    names = {text: name for text, name in names.items() if text not in keep}
    for token in whole["added_tokens"]:
        if token["content"] in keep:
            token["special"] = False
        elif token["content"] in names:
            token["special"] = True
            token["content"] = names[token["content"]]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):
        model["vocab"] = [[names.get(text, text), score] for text, score in vocabulary]
        if isinstance(unknown := model.get("unk_id"), int):
            model["vocab"][unknown][0] = private_name()  # goes by its place, and its name is text
    else:
        model["vocab"] = {names.get(text, text): index for text, index in vocabulary.items()}
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if not _touches(merge, names)]
    return json.dumps(whole)


def _touches(merge: str | list[str], names: Mapping[str, str]) -> bool:
    left, _, right = merge.partition(" ") if isinstance(merge, str) else (merge[0], "", merge[1])
    return left in names or right in names or left + right in names


def steps(part: Json | None, lists: str) -> Iterator[Json]:
    """The steps of a decoder or pre-tokenizer, sequences (`lists` is their key) taken apart."""
    if part is None:
        return
    if part.get("type") == "Sequence":
        for inner in part[lists]:
            yield from steps(inner, lists)
    else:
        yield part


class ByteTable:
    """Which bytes a token's text stands for, by the tokenizer's decoder, where it is not the first of its text.

    Exact for byte-level kinds and for byte fallback, where a token may be a part of a character. For WordPiece and the
    like each word brings its leading space. Where there is no decoder, tokens are words between spaces.
    """

    def __init__(self, source: Json) -> None:
        self._alphabet = byte_alphabet()
        decoding = list(steps(source.get("decoder"), "decoders"))
        kinds = {step["type"] for step in decoding}
        cutting = {step["type"] for step in steps(source.get("pre_tokenizer"), "pretokenizers")}
        self.byte_level = "ByteLevel" in kinds or (not decoding and "ByteLevel" in cutting)
        self.byte_fallback = "ByteFallback" in kinds
        self._bare = not decoding
        self._replace: list[tuple[str, str]] = []
        self._prefix: str | None = None
        self._cleanup = False
        for step in decoding:
            match step:
                case {"type": "Replace", "pattern": {"String": old}, "content": new}:
                    self._replace.append((old, new))
                case {"type": "Metaspace", "replacement": old}:
                    self._replace.append((old, " "))
                case {"type": "BPEDecoder", "suffix": old} if old:
                    self._replace.append((old, " "))
                case {"type": "WordPiece", "prefix": prefix, "cleanup": cleanup}:
                    self._prefix, self._cleanup = prefix, cleanup

    def bytes_of(self, text: str) -> bytes:
        """The bytes of one token, special ones aside."""
        if self.byte_level:
            if all(char in self._alphabet for char in text):
                return bytes(self._alphabet[char] for char in text)
            return text.encode("utf-8", "replace")
        if self.byte_fallback and (byte := fallback_byte(text)) is not None:
            return bytes([byte])
        if self._prefix is not None:
            text = text.removeprefix(self._prefix) if text.startswith(self._prefix) else " " + text
        elif self._bare:
            text = " " + text
        for old, new in self._replace:
            text = text.replace(old, new)
        if self._cleanup:
            for old, new in CLEANUP:
                text = text.replace(old, new)
        return text.encode("utf-8", "replace")

    def name_of(self, byte: int) -> str | None:
        """The text of the token that stands for a single byte; None for kinds that have none."""
        if self.byte_level:
            return next(char for char, value in self._alphabet.items() if value == byte)
        return f"<0x{byte:02X}>" if self.byte_fallback else None


def fallback_byte(text: str) -> int | None:
    """The byte that `<0x0A>` stands for; None for any other text."""
    if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
        try:
            return int(text[3:5], 16)
        except ValueError:
            return None
    return None


# How the library's WordPiece decoder joins English punctuation to the word before it, in its order.
CLEANUP = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)
