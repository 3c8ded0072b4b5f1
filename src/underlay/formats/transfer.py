"""Models of other tools into the library, and models of the library out to other tools."""

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from underlay.errors import UserError
from underlay.formats import gguf, hf
from underlay.formats.checkpoint import Checkpoint
from underlay.formats.keymap import written_out
from underlay.formats.tokenizers import load_tokenizer
from underlay.library import Artifact, Draft, Library, Order
from underlay.library.manifest import digest, file_digest
from underlay.library.store import Made
from underlay.models.config import TextConfig
from underlay.models.encoder import EncoderConfig
from underlay.models.quantised_storage import read_notes
from underlay.models.storage import WEIGHTS, load_config, load_model, save_config, write_tensors
from underlay.progress import Progress, silent
from underlay.text import Special, Tokenizer
from underlay.text.files import CONFIG as TOKENIZER_CONFIG
from underlay.text.files import TOKENIZER

Format = Literal["hf", "gguf"]
_READ = ("*.json", "*.safetensors", "*.txt", "*.model", "*.tiktoken", "*.jinja", "1_Pooling/config.json")
_CARD, _GENERATION = "README.md", "generation_config.json"
_WRITTEN = {
    *("config.json", WEIGHTS, TOKENIZER, TOKENIZER_CONFIG, _CARD, _GENERATION),
    *("modules.json", "1_Pooling", "2_Normalize"),
}
"""All that the export of a folder writes."""
_LICENCE = re.compile(r"\A---\n(?:.*\n)*?license:[ \t]*['\"]?([A-Za-z0-9][A-Za-z0-9.+-]*)['\"]?[ \t]*\n")


def import_model(
    library: Library,
    folder: Path,
    name: str,
    ignore: frozenset[str] = frozenset(),
    progress: Progress = silent,
    log: Callable[[str], None] = lambda _: None,
) -> Made:
    """Bring a folder of `transformers` into the library as `model:NAME`, tokenizer and chat template included.

    Weights stay in the dtype they are stored in. At most the model and one tensor are in memory. The same folder under
    the same name is read once. Raises UserError, in one line, for what is missing, damaged, unknown or refused.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; import wants one with config.json and safetensors")
    incoming = hf.open_model(folder, ignore)
    tokenizer = load_tokenizer(folder)
    if tokenizer.size > incoming.config.vocabulary:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.size} ids, but the model only {incoming.config.vocabulary} rows"
        )
    if incoming.left_out:
        log(f"left out, for nothing here uses it: {', '.join(incoming.left_out)}")

    def work(draft: Draft) -> None:
        tensors = {}
        for name, tensor in incoming.tensors():
            tensors[name] = tensor
            progress(len(tensors), len(incoming.shapes))
        save_config(incoming.config, draft.folder)
        write_tensors(tensors, draft.folder / WEIGHTS)
        tokenizer.save(draft.folder)
        draft.metrics |= {
            "parameters": sum(tensor.numel() for tensor in tensors.values()),
            "dtype": ", ".join(sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()})),
            "licence": _licence(folder),
            "left_out": list(incoming.left_out),
        }

    config = {"source_sha256": _fingerprint(folder), "format": "hf", "ignore": sorted(ignore)}
    return library.make(Order("model", name, "import", config), work)


@dataclass(frozen=True)
class Written:
    """What an export came to."""

    path: Path
    size: int
    """Bytes."""
    notes: tuple[str, ...]
    """What a reader of it should know."""


def export_model(artifact: Artifact, target: Path, form: Format, kind: str = "F16", force: bool = False) -> Written:
    """Write a model of the library as a folder of `transformers` (`hf`) or as one file of llama.cpp (`gguf`).

    kind: how gguf stores matrices, one of `gguf.KINDS`; hf keeps the dtype. Raises UserError where the target is there
    already (unless forced) or the format has no place for the model.
    """
    target = target.absolute()
    _check_target(target, form, force)
    config, tokenizer = load_config(artifact.folder), Tokenizer.load(artifact.folder)
    checkpoint = _weights(artifact.folder)
    if form == "hf":
        return _export_folder(config, tokenizer, checkpoint, target, _card(artifact))
    if kind not in gguf.KINDS:
        raise UserError(f"{kind}: no way to store weights in gguf; there are {', '.join(gguf.KINDS)}")
    facts = gguf.facts_of(config, artifact.manifest.name)
    words = gguf.tokenizer_facts(tokenizer, isinstance(config, EncoderConfig))
    target.parent.mkdir(parents=True, exist_ok=True)
    done = gguf.export(target, gguf.KINDS[kind], facts, words, checkpoint.shapes, checkpoint.tensors())
    notes = list(done.warnings)
    if isinstance(checkpoint, _Dequantised) and gguf.KINDS[kind].block > 1:
        notes.append(
            f"the model's weights are rounded already, and {kind} rounds them once more: its own blocks differ"
        )
    if isinstance(config, EncoderConfig) and config.activation == "gelu":
        notes.append("llama.cpp approximates GELU: states differ by some tenths of a percent")
    if done.fallen_back:
        notes.append(f"{len(done.fallen_back)} matrices are F16, for their rows do not fill blocks of {kind}")
    if done.left_out:
        notes.append(f"llama.cpp has no use for {', '.join(done.left_out)}: left out")
    return Written(target, done.size, tuple(notes))


class _Weights(Protocol):
    """Tensors by our names, as a `Checkpoint` has them."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...
    @property
    def dtypes(self) -> Mapping[str, torch.dtype]: ...
    def tensors(self) -> Iterator[tuple[str, Tensor]]: ...
    def tensor(self, name: str) -> Tensor: ...


@dataclass(frozen=True)
class _Dequantised:
    """What the quantised weights of a model stand for."""

    state: Mapping[str, Tensor]

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.state.items()}

    @property
    def dtypes(self) -> Mapping[str, torch.dtype]:
        return {name: tensor.dtype for name, tensor in self.state.items()}

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.state.items()

    def tensor(self, name: str) -> Tensor:
        return self.state[name]


def _weights(folder: Path) -> _Weights:
    if read_notes(folder) is None:
        return Checkpoint.open(folder / WEIGHTS)
    return _Dequantised(load_model(folder).state_dict())


def _check_target(target: Path, form: Format, force: bool) -> None:
    """Raises UserError where writing there would lose something else than an exported model, or cannot be."""
    if any((folder / "library.json").exists() for folder in target.parents):
        raise UserError(f"{target}: is inside a library, whose files are not written over; choose another path")
    blocked = next((folder for folder in target.parents if folder.exists()), target)
    if not blocked.is_dir():
        raise UserError(f"{target}: {blocked} is no folder; choose another path")
    if not target.exists() and not target.is_symlink():
        return
    if not force:
        raise UserError(f"{target}: is there already; choose another path or use --force")
    if target.is_symlink() or (form == "hf") != target.is_dir():
        kind = "a link" if target.is_symlink() else "a folder" if target.is_dir() else "a file"
        what = "gguf is one file" if form == "gguf" else "hf is a folder of several files"
        raise UserError(f"{target}: is {kind}, and {what}; choose another path")
    if form == "hf" and (other := sorted({path.name for path in target.iterdir()} - _WRITTEN)):
        raise UserError(f"{target}: holds {other[0]}, which no export wrote; --force replaces exported models only")


def _export_folder(config: TextConfig, tokenizer: Tokenizer, checkpoint: _Weights, target: Path, card: str) -> Written:
    values, rows = hf.outgoing(config, tokenizer.special(Special.PAD) if tokenizer.has(Special.PAD) else None)
    roles = {"bos_token_id": Special.BOS, "eos_token_id": Special.EOS, "pad_token_id": Special.PAD}
    values |= {key: tokenizer.special(role) for key, role in roles.items() if tokenizer.has(role)}
    values["dtype"] = str(next(iter(checkpoint.dtypes.values()))).removeprefix("torch.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as beside:
        whole = Path(beside) / "whole"
        whole.mkdir()
        write_tensors(dict(written_out(rows, checkpoint.tensor)), whole / WEIGHTS, {"format": "pt"})
        (whole / "config.json").write_text(json.dumps(values, indent=2) + "\n", "utf-8")
        tokenizer.save(whole)
        if not isinstance(config, EncoderConfig):
            ids = {key: values[key] for key in roles if values.get(key) is not None}
            ends = sorted(tokenizer.stop_ids)  # a config has one, a model may stop at several
            (whole / _GENERATION).write_text(json.dumps(ids | {"eos_token_id": ends}, indent=2) + "\n", "utf-8")
        hf.write_pooling(config, whole)
        (whole / _CARD).write_text(card, "utf-8")
        if target.exists():
            target.rename(Path(beside) / "replaced")
        whole.rename(target)
    return Written(target, sum(path.stat().st_size for path in target.rglob("*") if path.is_file()), ())


def _card(artifact: Artifact) -> str:
    """What the model is and what it was made from, as the page that goes with it."""
    manifest = artifact.manifest
    licence = manifest.metrics.get("licence", "unknown")
    lines = ["---", f"license: {licence}", "---", "", f"# {manifest.name}", ""]
    lines.append(f"Exported by Underlay {manifest.tool} from `{manifest.reference}`, which `{manifest.verb}` made.")
    lines += [f"- {parent.role}: `{parent.reference}`" for parent in manifest.parents]
    if manifest.licences:
        lines += ["", "Licences found in what it learned from, in bytes of text:", ""]
        lines += [f"- {name}: {size:,}" for name, size in manifest.licences.items()]
    return "\n".join(lines) + "\n"


def _fingerprint(folder: Path) -> str:
    """SHA-256 over names and bytes of every file that is read."""
    files = sorted({path for pattern in _READ for path in folder.glob(pattern) if path.is_file()})
    return digest([[path.relative_to(folder).as_posix(), file_digest(path)] for path in files])


def _licence(folder: Path) -> str:
    """The licence that the model's card names."""
    card = folder / _CARD
    text = card.read_bytes()[: 1 << 16].decode("utf-8", "replace") if card.is_file() else ""
    found = _LICENCE.search(text.partition("\n---\n")[0] + "\n")
    return found[1] if found else "unknown"
