"""Which tokens of an algorithm play which role, and which must not arise from text."""

import re
from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as Backend

from underlay.errors import UserError
from underlay.text.files import Config
from underlay.text.special import GAP, GAP_NAMES, ROLE_KEYS, TRAINED, Special
from underlay.text.template import ChatTemplate

# The look of a mark: a template may also write newlines or words that happen to be added tokens.
_MARK = re.compile(r"\s*[<\[{(|].*[>\]})|]\s*", re.DOTALL)

Roles = dict[Special, int]


def find_roles(backend: Backend, config: Config, vocabulary: Mapping[str, int]) -> Roles:
    """Ids by role: by the settings first, then by known names. What has a role becomes an added token.

    A role whose token is not in the vocabulary is left out: its model has no embedding for it.
    """
    named = {role: str(config.get(key)) for key, role in ROLE_KEYS.items() if key in config}
    roles = {role: vocabulary[name] for role, name in named.items() if name in vocabulary}
    added = {token.content: index for index, token in backend.get_added_tokens_decoder().items()}
    for role in TRAINED:
        if role.value in added:
            roles.setdefault(role, added[role.value])
    gap = gap_names(vocabulary)
    roles |= {role: vocabulary[name] for role, name in zip(GAP, gap, strict=False)}
    # As transformers does, where the file forgot to say so.
    names = {*named.values(), *gap} & set(vocabulary) - set(added)
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in sorted(names)])
    return roles


def gap_names(vocabulary: Mapping[str, int]) -> tuple[str, ...]:
    """What the vocabulary calls the marks of a gap, in the order of `GAP`; empty where it has not all three."""
    return next((names for names in GAP_NAMES if all(name in vocabulary for name in names)), ())


def unknown_id(model: Mapping[str, Any], vocabulary: Mapping[str, int]) -> int | None:
    """The id that the algorithm itself gives to what it does not know."""
    if isinstance(index := model.get("unk_id"), int):
        return index
    return vocabulary.get(str(model.get("unk_token")))


def find_control(
    backend: Backend, config: Config, vocabulary: Mapping[str, int], template: ChatTemplate | None
) -> dict[str, int]:
    """Text and id of the special tokens: flagged so, named by the settings, marks of a gap, or of the template.

    Marks that the template looks for in the messages, such as `</think>`, are text.
    """
    tokens = {token.content: token.special for token in backend.get_added_tokens_decoder().values()}
    try:
        written, sought = ("", "") if template is None else template.literals()
    except UserError:  # told when a conversation is to be written; everything else works without a template
        written, sought = "", ""
    names = {name for name, special in tokens.items() if special} | {*gap_names(vocabulary)}
    names |= {name for name in tokens if _MARK.fullmatch(name) and name in written and name not in sought}
    names |= {str(config[key]) for key in ROLE_KEYS if key in config}
    for key in ("stop_tokens", "additional_special_tokens", "extra_special_tokens"):
        names |= set(config.get(key, ()))
    return {name: vocabulary[name] for name in sorted(names) if name in vocabulary}


def frame_ends(backend: Backend, roles: Roles, config: Config) -> None:
    """Put the beginning and the end into the algorithm where only the settings ask for them."""
    ends = {"add_bos_token": Special.BOS, "add_eos_token": Special.EOS}
    bos, eos = (
        str(backend.id_to_token(roles[role])) if config.get(key) and role in roles else "" for key, role in ends.items()
    )
    wanted = {name: backend.token_to_id(name) for name in (bos, eos) if name}

    def framed(text: str, kind: int) -> list[str]:
        return [f"{part}:{kind}" for part in (bos, text, eos) if part]

    if wanted:
        backend.post_processor = processors.TemplateProcessing(
            single=framed("$A", 0), pair=framed("$A", 0) + framed("$B", 1), special_tokens=list(wanted.items())
        )
