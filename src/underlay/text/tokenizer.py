"""The tokenizer: any algorithm of the `tokenizers` library, our own byte-level BPE among them.

What is special has a role (`Special`) or is flagged so in its file. Special tokens are written by id alone: text that
looks like one is encoded as ordinary text, so nobody can smuggle an end of turn into a prompt. Added tokens that are
neither, such as runs of spaces or `<think>`, are ordinary vocabulary and do arise from text, as their makers mean it.

What comes back: byte-level kinds give the exact bytes. Kinds with a mark for spaces (SentencePiece) give the exact
bytes of each token, but their normalisation may already have changed the text, and what begins a text brings a leading
space that only `decode` takes away. WordPiece gives lower-cased words between spaces, and loses what it does not know.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, decoders
from tokenizers import Tokenizer as Backend

from underlay.errors import UserError
from underlay.text.backend import ByteTable, private_name, shield
from underlay.text.files import (
    CONFIG,
    MOST_IDS,
    TOKENIZER,
    Config,
    added_tokens,
    no_panic,
    parse_backend,
    read_backend,
    read_config,
    stop_ids,
)
from underlay.text.ranks import Ranks, ranks_of
from underlay.text.roles import find_control, find_roles, frame_ends, unknown_id
from underlay.text.special import GAP, OWN_TEMPLATE, ROLE_KEYS, TRAINED, Special
from underlay.text.template import ChatTemplate

# One letter, for frames are read off a text that is certain to have a token of its own.
_ANY = "a"


class Framed(NamedTuple):
    """A text, or a pair of them, between the tokenizer's own marks."""

    ids: list[int]
    type_ids: list[int]
    """0 for the first text and its marks, 1 for the second, as BERT's segment embeddings want it."""


class Tokenizer:
    """Encodes text into ids and decodes ids into text."""

    def __init__(self, backend: Backend, config: Mapping[str, object] | None = None) -> None:
        """Take an algorithm, and what `tokenizer_config.json` says about roles (`underlay.text.files.read_config`).

        Raises UserError where ids are so high that no model can have them.
        """
        backend.no_truncation()
        backend.no_padding()
        self._config: Config = dict(config or {})
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self._size = max(vocabulary.values(), default=-1) + 1
        if self._size > MOST_IDS:
            raise UserError(f"the tokenizer has an id of {self._size - 1}; no model has so many tokens")
        self._roles = find_roles(backend, self._config, vocabulary)
        self._backend = backend
        self.native = (
            all(self.has(role) and backend.id_to_token(self._roles[role]) == role.value for role in TRAINED)
            and self._config.get("chat_template", OWN_TEMPLATE) == OWN_TEMPLATE
        )
        """Whether it is one of ours: byte-level, with our marks of turns."""
        if self.native:
            self._adopt(backend)
        if backend.post_processor is None:
            frame_ends(backend, self._roles, self._config)
        self._skipped = {i for i, token in backend.get_added_tokens_decoder().items() if token.special}
        self._skipped |= {self._roles[mark] for mark in GAP if self.has(mark)}  # not every maker flags them
        # The vocabulary's JSON is large, so it is parsed once here and again only for rarer ways to encode.
        source = backend.to_str()
        parsed = json.loads(source)
        self._table = ByteTable(parsed)
        unknown = unknown_id(parsed["model"], vocabulary)
        structure = {index for role, index in self._roles.items() if role is not Special.UNK}
        if unknown is not None:
            self._roles.setdefault(Special.UNK, unknown)
        control = find_control(backend, self._config, vocabulary, self.template)
        self._control = {name: i for name, i in control.items() if i != unknown or i in structure}
        self._private = {name: private_name() for name in self._control}
        self._plain = self._shielded(source)
        self._plain.encode_special_tokens = True

    def _adopt(self, backend: Backend) -> None:
        """Complete what older artefacts of ours lack, so that other tools read them alike."""
        if backend.decoder is None:
            backend.decoder = decoders.ByteLevel()
        own = {key: role.value for key, role in ROLE_KEYS.items() if role in TRAINED}
        self._config = {"add_bos_token": True, "chat_template": OWN_TEMPLATE} | own | self._config

    def _shielded(self, source: str, keep: Sequence[str] = ()) -> Backend:
        backend = parse_backend(shield(source, self._private, keep), TOKENIZER)
        for name, index in self._control.items():
            if backend.token_to_id(name if name in keep else self._private[name]) != index:
                raise UserError(f"{TOKENIZER}: the id of {name} is not {index}, as the order of its tokens has it")
        return backend

    @property
    def size(self) -> int:
        """One more than the highest id, special tokens included; ids between that have no token decode to nothing."""
        return self._size

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that never arise from text."""
        return frozenset(self._control.values())

    @property
    def control(self) -> Mapping[str, int]:
        """Text and id of the tokens that never arise from text."""
        return self._control

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end an answer: EOS, END, and what the model's settings name as `stop_tokens`."""
        ids = {self._roles[role] for role in (Special.EOS, Special.END) if role in self._roles}
        found = (self._backend.token_to_id(name) for name in self._config.get("stop_tokens", ()))
        return frozenset(ids | {index for index in found if index is not None})

    def same_tokens(self, other: "Tokenizer") -> bool:
        """Whether each id means the same in both, and each text is cut alike."""
        return self._backend.to_str() == other._backend.to_str() and self.stop_ids == other.stop_ids

    def configured(self, **settings: object) -> "Tokenizer":
        """The same tokens under other settings, named as in `tokenizer_config.json`."""
        return Tokenizer(parse_backend(self._backend.to_str(), TOKENIZER), {**self._config, **settings})

    def extended(self, tokens: Sequence[str]) -> "Tokenizer":
        """One with more tokens, whose ids follow on its size; their text becomes one id wherever it stands.

        Raises UserError where a token is empty or has spaces at its ends, is named twice, or is there already.
        """
        backend = parse_backend(self._backend.to_str(), TOKENIZER)
        for number, text in enumerate(tokens):
            if not text or text != text.strip():
                raise UserError(f"new token {text!r}: write at least a sign, and no space at its ends")
            if backend.token_to_id(text) is not None:
                raise UserError(f"new token {text!r}: the tokenizer has it already")
            backend.add_tokens([AddedToken(text, normalized=False)])
            if backend.token_to_id(text) != self._size + number:
                raise UserError(f"new token {text!r}: the tokenizer's ids have gaps, so nothing can follow on them")
        return Tokenizer(backend, self._config)

    @property
    def config(self) -> Mapping[str, object]:
        """What `tokenizer_config.json` says, as far as it is understood here."""
        return self._config

    @cached_property
    def template(self) -> ChatTemplate | None:
        """How this tokenizer's model wants conversations written, where it says so."""
        source = self._config.get("chat_template")
        return None if source is None else ChatTemplate(source)

    def has(self, token: Special) -> bool:
        """Whether there is a token for this role."""
        return token in self._roles

    def special(self, token: Special) -> int:
        """The id of a role's token. Raises UserError where the tokenizer has none."""
        if token not in self._roles:
            key = next((key for key, role in ROLE_KEYS.items() if role is token), None)
            mend = f"name one as {key} in {CONFIG}" if key else "use a model that was trained with it"
            raise UserError(f"the tokenizer has no token for {token.name}; {mend}")
        return self._roles[token]

    def name(self, index: int) -> str | None:
        """The text of a token as its file has it, `<|eos|>` or `Ġthe`; None for an id without a token."""
        name: str | None = self._backend.id_to_token(index)
        return name

    def _checked(self, ids: list[int]) -> list[int]:
        # Only a tokenizer that uses a mark of structure for what it does not know can come here.
        if not self.special_ids.isdisjoint(ids):
            raise UserError("the text has characters that this tokenizer knows only as a special token; leave them out")
        return ids

    def encode(self, text: str) -> list[int]:
        """Ids of the text; never a special one."""
        with no_panic():
            return self._checked(self._plain.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """`encode` for many texts, as arrays: several times as fast where `underlay.text.ranks` can do it.

        That takes some preparation at the first call, up to seconds for a large vocabulary. Several threads may call it
        at once, and share the work.
        """
        ranks = self._ranks
        with no_panic():
            found = [None if ranks is None else ranks.encode(text) for text in texts]
            others = [text for text, ids in zip(texts, found, strict=True) if ids is None]
            slower = iter(self._plain.encode_batch_fast(others, add_special_tokens=False) if others else ())
        return [np.array(self._checked(next(slower).ids), np.uint32) if ids is None else ids for ids in found]

    @cached_property
    def _ranks(self) -> Ranks | None:
        return ranks_of(json.loads(self._plain.to_str()))

    def frame(self, text: str, pair: str | None = None, masks: bool = False) -> Framed:
        """A text, or two, between the marks the tokenizer's maker puts there: `[CLS] a [SEP] b [SEP]`, `<s> a`.

        The words never become special; with `masks` the text of the mask token, `[MASK]` or `<mask>`, does.
        """
        with no_panic():
            found = (self._masking if masks else self._plain).encode(text, pair, add_special_tokens=True)
        return Framed(found.ids, found.type_ids)

    @cached_property
    def start(self) -> list[int]:
        """What a text begins with in the tokenizer's own frame, `<s>` or `[CLS]`; empty for a model not used to any.

        It is the frame that counts: GPT-2 names a BOS, but its texts do not begin with one. Ours always do.
        """
        if self.native:
            return [self.special(Special.BOS)]
        return list(takewhile(self.special_ids.__contains__, self.frame(_ANY).ids))

    @cached_property
    def end(self) -> list[int]:
        """What a text ends with in the tokenizer's own frame, such as `[SEP]`; often empty."""
        return list(takewhile(self.special_ids.__contains__, reversed(self.frame(_ANY).ids)))[::-1]

    @property
    def longest(self) -> int | None:
        """Most ids of a text that its model is used to, marks included, where the tokenizer's files say so."""
        length = self._config.get("model_max_length")
        return length if isinstance(length, int) else None

    @property
    def converses(self) -> bool:
        """Whether it knows how conversations are written: by our marks of turns, or by a chat template."""
        return self.native or self._config.get("chat_template") is not None

    def prompt(self, text: str) -> list[int]:
        """Ids of a text that a decoder is to continue: `start`, then the text.

        An empty text has nothing but its beginning, so there BOS comes first wherever the tokenizer has one. Raises
        UserError where it has none.
        """
        ids = [*self.start, *self.encode(text)]
        if not ids:
            if not self.has(Special.BOS):
                raise UserError("the prompt is empty, and this model has no token that begins a text; write a word")
            ids = [self.special(Special.BOS)]
        return ids

    def encode_masked(self, text: str) -> list[int]:
        """Ids of a text in which the mask token's text stands for the mask, and nothing else is special.

        Raises UserError where the tokenizer has no mask.
        """
        with no_panic():
            ids: list[int] = self._masking.encode(text, add_special_tokens=False).ids
        return ids

    @cached_property
    def _masking(self) -> Backend:
        mask = self._backend.id_to_token(self.special(Special.MASK))
        backend = self._shielded(self._backend.to_str(), [str(mask)])
        backend.encode_special_tokens = True
        return backend

    @cached_property
    def _marking(self) -> Backend:
        backend = self._shielded(self._backend.to_str())
        backend.post_processor = None  # it may shift the places of tokens
        return backend

    def private(self, name: str) -> str:
        """What stands for a special token in `encode_marked`: a name that no text can hold."""
        return self._private[name]

    def encode_marked(self, text: str) -> list[tuple[int, int, int]]:
        """(id, start, end) of the tokens of a text in which private names stand for special tokens; characters."""
        with no_panic():
            found = self._marking.encode(text, add_special_tokens=False)
        return [(index, *place) for index, place in zip(found.ids, found.offsets, strict=True)]

    @cached_property
    def _bytes(self) -> list[bytes]:
        names = (self._backend.id_to_token(index) for index in range(self._size))
        return [
            b"" if name is None or index in self._skipped else self._table.bytes_of(name)
            for index, name in enumerate(names)
        ]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes the ids stand for, each as within a text; special tokens and ids without a token stand for none."""
        return b"".join(self._bytes[index] for index in ids if index < self._size)

    def decode(self, ids: Iterable[int]) -> str:
        """The text the ids stand for; bytes that are no UTF-8 become U+FFFD."""
        if self._table.byte_level:
            return self.decode_bytes(ids).decode("utf-8", errors="replace")
        with no_panic():
            text: str = self._backend.decode(list(ids), skip_special_tokens=True)
        return text

    def encode_bytes(self, data: bytes) -> list[int]:
        """Ids of any bytes: UTF-8 is encoded as text, what is not UTF-8 byte by byte.

        Raises UserError for the latter where the tokenizer has no tokens for bytes.
        """
        ids: list[int] = []
        while data:
            try:
                return ids + self.encode(data.decode("utf-8"))
            except UnicodeDecodeError as error:
                if error.start:
                    ids += self.encode(data[: error.start].decode("utf-8"))
                ids += [self._byte_id(byte) for byte in data[error.start : error.end]]
                data = data[error.end :]
        return ids

    def _byte_id(self, byte: int) -> int:
        name = self._table.name_of(byte)
        index: int | None = None if name is None else self._backend.token_to_id(name)
        if index is None:
            raise UserError(f"this tokenizer has no token for the byte 0x{byte:02X}; give it UTF-8 text")
        return index

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json` into an existing folder, as other tools read them."""
        (folder / TOKENIZER).write_text(self._backend.to_str(pretty=True), "utf-8")
        config = {"tokenizer_class": "PreTrainedTokenizerFast"} | dict(sorted(self._config.items()))
        (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Read a folder that holds `tokenizer.json`, and what else says something about it.

        Raises UserError naming the file where one is missing or damaged.
        """
        backend = read_backend(folder / TOKENIZER)
        return assemble(backend, folder)


def assemble(backend: Backend, folder: Path, defaults: Mapping[str, object] | None = None) -> Tokenizer:
    """A tokenizer from its algorithm and what the folder says about it; `defaults` where the folder says nothing.

    Raises UserError where a token that the folder adds cannot have the id it is given.
    """
    config: Config = {**(defaults or {}), **read_config(folder)}
    named = {config.get(key) for key in ROLE_KEYS} | {*config.get("additional_special_tokens", ())}
    for index, text, flags in added_tokens(folder):
        known = {t.content for t in backend.get_added_tokens_decoder().values()}
        if text not in known:
            given = {key: flags.get(key, False) for key in ("single_word", "lstrip", "rstrip", "normalized", "special")}
            given["special"] |= text in named
            backend.add_tokens([AddedToken(text, **given)])
        if (got := backend.token_to_id(text)) != index:
            raise UserError(f"{folder}: the added token {text!r} has id {index}, but its place gives {got}")
    stops = [name for index in stop_ids(folder) if (name := backend.id_to_token(index)) is not None]
    if stops:
        config["stop_tokens"] = sorted({*config.get("stop_tokens", ()), *stops})
    return Tokenizer(backend, config)
