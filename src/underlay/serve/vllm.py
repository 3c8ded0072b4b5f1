"""vLLM's engine behind our server, for those who outgrow ours (arXiv:2309.06180).

The model is written as a folder of `transformers` once, and vLLM runs it. Tokens go in and come out as ids: text is cut
into characters and at stop strings here, as with our own engine, and forms of answers go through the same library
(`llguidance`, which vLLM calls guidance). What differs: an answer may depend on its neighbours in the batch, the same
seed gives other tokens than with our engine, and of top-k, top-p and min-p vLLM applies min-p first. What vLLM cannot
honour is an error that names it. vLLM counts its users over the network unless it is told not to; it is told here.

Written for vLLM 0.11 and newer (`vllm.LLMEngine` of its V1 engine).
"""

import json
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, Literal

from underlay.errors import UserError
from underlay.formats.peft import CONFIG, read_adapter
from underlay.formats.transfer import export_model
from underlay.generate import ParameterError, Reply, Request, TokenEvent, TokenLogprob
from underlay.generate.grammar import GrammarCompiler
from underlay.generate.penalties import FORCED
from underlay.generate.request import MOST_BIAS, MOST_LOGPROBS, Constraint
from underlay.generate.serving import check_fits, fitted
from underlay.library import Artifact
from underlay.models.decoder import DecoderConfig
from underlay.models.storage import load_config
from underlay.text import Special, Tokenizer

COLDEST = 0.01
"""vLLM quietly raises temperatures below this, other than 0."""
HOTTEST = 2.0
LEAST_TOP_P = 1e-6
"""vLLM refuses 0, which means the likeliest token alone; so does this."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Of adapters, as vLLM sets room aside for them."""
USUAL_RANK = 64
"""Room for adapters that come later."""
TOGETHER = 8
"""Adapters that may answer in the same step."""
_QUIET = {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}


def require() -> None:
    """Raise UserError, which says how to install it, where vLLM is not there."""
    if find_spec("vllm") is None:
        raise UserError(
            "--engine vllm: vLLM is not installed here; `pip install 'vllm>=0.11'` puts it beside Underlay "
            "(it wants a GPU), or leave --engine out"
        )


def exported(artifact: Artifact, exports: Path) -> Path:
    """A model of the library as a folder of `transformers` within `exports`, written where it is not there yet.

    A version of a model never changes, so neither does what was written of it. Raises UserError where there is no
    place for the model in that format.
    """
    target = exports / f"{artifact.manifest.name}@{artifact.manifest.version}"
    if not target.is_dir():  # it comes into being whole
        export_model(artifact, target, "hf")
    return target


class VllmEngine:
    """Answers requests with vLLM; see `underlay.generate.ServingEngine`."""

    def __init__(
        self,
        folder: Path,
        whole: Path,
        slots: int = 8,
        precision: Literal["float32", "bfloat16"] | None = None,
        memory: int | None = None,
        adapters: Mapping[str, Path] | None = None,
        growing: bool = False,
    ) -> None:
        """Take a model's folder, and the same model as `exported`.

        precision: by default bfloat16. memory: bytes for keys and values; by default vLLM takes what is
        free. adapters: folders of `peft` by name. growing: whether more of them may come later. Raises UserError
        where vLLM is missing or refuses the model, or an adapter does not fit it.
        """
        require()
        for key, value in _QUIET.items():
            os.environ.setdefault(key, value)
        from vllm import EngineArgs, LLMEngine

        config = load_config(folder)
        if not isinstance(config, DecoderConfig):
            raise UserError(f"{folder}: this model does not write on; vLLM serves those that do")
        self._config = config
        self.tokenizer = Tokenizer.load(folder)
        self.context = config.context
        self.slots = slots
        self._grammars = GrammarCompiler(self.tokenizer, config.vocabulary)
        self._replies: dict[str, Reply] = {}
        """Those that vLLM works on, by its name for them."""
        self._begun: set[str] = set()
        self._names, self._numbers = count(), count(1)
        self._adapters: dict[str, Any] = {}
        """What vLLM calls them."""
        given = {name: self.read_adapter(place) for name, place in (adapters or {}).items()}
        settings: dict[str, Any] = {
            "model": str(whole),
            "dtype": precision or "bfloat16",
            "max_model_len": config.context,
            "max_num_seqs": slots,
            "max_logprobs": MOST_LOGPROBS,
            "logprobs_mode": "raw_logprobs",  # what the model itself holds
            "generation_config": "vllm",  # no settings but those of the request
            "structured_outputs_config": {"backend": "guidance", "disable_any_whitespace": True},
            "enable_prefix_caching": True,
            "disable_log_stats": True,
            "trust_remote_code": False,
        }
        if memory is not None:
            settings["kv_cache_memory_bytes"] = memory
        self._rank = 0
        if given or growing:
            self._rank = _room([*map(_rank, given.values()), *([USUAL_RANK] if growing else [])])
            settings |= {"enable_lora": True, "max_lora_rank": self._rank, "max_loras": TOGETHER}
        try:
            self._engine = LLMEngine.from_engine_args(EngineArgs(**settings))
        except (ValueError, RuntimeError) as error:
            raise UserError(f"vLLM does not take {whole}: {_line(error)}") from error
        for name, place in given.items():
            self.add_adapter(name, place)

    @property
    def adapters(self) -> list[str]:
        """The adapters that requests may name."""
        return list(self._adapters)

    @property
    def running(self) -> int:
        """Requests of which something has come back."""
        return len(self._begun)

    @property
    def waiting(self) -> int:
        """Requests of which nothing has come back yet."""
        return len(self._replies) - len(self._begun)

    @property
    def busy(self) -> bool:
        """Whether any request is still to be answered."""
        return bool(self._replies)

    def check(self, request: Request) -> None:
        """Raise ParameterError where vLLM cannot honour the request. May be called from any thread."""
        check_fits(request, self.context, self._config.vocabulary, self.adapters)
        self._parameters(request)
        if request.constraint is not None:  # ours has limits to what a form may cost; vLLM has none
            self._grammars.compile(request.constraint, self._stop_ids(request))

    def submit(self, request: Request) -> Reply:
        """Hand a request to vLLM. Raises ParameterError where it cannot be honoured."""
        self.check(request)
        ids = fitted(request, self.context, self.tokenizer.start)
        reply, name = Reply(request, len(ids), self._stop_ids(request)), str(next(self._names))
        prompt: dict[str, Any] = {"prompt_token_ids": ids}
        if request.salt:
            prompt["cache_salt"] = request.salt
        adapter = None if request.adapter is None else self._adapters[request.adapter]
        try:
            self._engine.add_request(name, prompt, self._parameters(request), lora_request=adapter)
        except ValueError as error:
            raise _refused(error) from error
        self._replies[name] = reply
        return reply

    def step(self) -> list[TokenEvent]:
        """Wait for what vLLM has done next, and say what it is."""
        events = self._sweep()
        if not self._replies:  # vLLM would wait for ever
            return events
        for output in self._engine.step():
            # A request that was let go may still be heard of once.
            if (reply := self._replies.get(output.request_id)) is not None:
                events += self._read(output, reply)
        return events

    def read_adapter(self, folder: Path) -> Path:
        """Check an adapter of this model in a folder of `peft`. May be called from any thread. See `load_adapter`."""
        read_adapter(folder, self._config)
        return folder.absolute()

    def add_adapter(self, name: str, adapter: Path) -> None:
        """Have vLLM load a folder that `read_adapter` let pass. Raises UserError where it does not."""
        from vllm.lora.request import LoRARequest

        if name in self._adapters:
            raise UserError(f"adapter {name!r} is loaded already; drop it first")
        if (rank := _rank(adapter)) > self._rank:
            raise UserError(f"{adapter}: its rank is {rank}, vLLM was started with room for {self._rank}")
        number = next(self._numbers)
        # vLLM remembers prompts by this name; another adapter may come under the same one of ours.
        wanted = LoRARequest(lora_name=f"{name}@{number}", lora_int_id=number, lora_path=str(adapter))
        try:
            self._engine.add_lora(wanted)
        except Exception as error:  # what its workers refuse, vLLM raises as a plain Exception
            raise UserError(f"{adapter}: vLLM does not take the adapter: {_line(error)}") from error
        self._adapters[name] = wanted

    def drop_adapter(self, name: str) -> None:
        """Forget an adapter. Raises UserError where there is none of that name, or requests still need it."""
        if name not in self._adapters:
            raise UserError(f"there is no adapter {name!r}")
        if any(reply.request.adapter == name for reply in self._replies.values()):
            raise UserError(f"adapter {name!r} is still answering; try again when it is done")
        self._engine.remove_lora(self._adapters.pop(name).lora_int_id)

    def _stop_ids(self, request: Request) -> frozenset[int]:
        return self.tokenizer.stop_ids if request.stop_ids is None else request.stop_ids

    def _parameters(self, request: Request) -> Any:
        """What vLLM calls the request's settings. Raises ParameterError where it has no name for one."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling, stop_ids = request.sampling, self._stop_ids(request)
        if sampling.typical < 1:
            raise ParameterError("typical", "vLLM cannot choose so; leave it out")
        if 0 < sampling.temperature < COLDEST or sampling.temperature > HOTTEST:
            raise ParameterError("temperature", f"{sampling.temperature} is neither 0 nor {COLDEST} to {HOTTEST:g}")
        form = None
        if request.constraint is not None:
            form, end = _form(request.constraint), Special.EOS
            if not self.tokenizer.has(end):
                raise ParameterError("constraint", "vLLM ends such answers by EOS, which this tokenizer has not")
            stop_ids |= {self.tokenizer.special(end)}
        try:
            return SamplingParams(
                max_tokens=request.max_tokens,
                temperature=sampling.temperature,
                top_k=sampling.top_k or 0,
                top_p=max(sampling.top_p, LEAST_TOP_P),
                min_p=sampling.min_p,
                repetition_penalty=sampling.repetition,
                presence_penalty=sampling.presence,
                frequency_penalty=sampling.frequency,
                logit_bias={token: _strength(value) for token, value in sampling.bias.items()} or None,
                seed=sampling.seed % 2**63,  # vLLM takes -1 for none
                stop_token_ids=sorted(stop_ids),
                ignore_eos=True,  # it is among them, where it is to end the answer
                logprobs=request.logprobs,
                prompt_logprobs=request.prompt_logprobs,
                structured_outputs=form,
                detokenize=False,
                output_kind=RequestOutputKind.DELTA,
            )
        except ValueError as error:
            raise _refused(error) from error

    def _sweep(self) -> list[TokenEvent]:
        """Let go of what was cancelled."""
        gone = [(name, reply) for name, reply in self._replies.items() if reply.cancelled]
        for name, _ in gone:
            self._forget(name)
        if gone:
            self._engine.abort_request([name for name, _ in gone])
        return [reply.end("cancelled") for _, reply in gone]

    def _forget(self, name: str) -> None:
        del self._replies[name]
        self._begun.discard(name)

    def _read(self, output: Any, reply: Reply) -> list[TokenEvent]:
        """What vLLM says of one request: tokens, if any, and perhaps why it ended."""
        name, told, events = output.request_id, output.outputs[0], list[TokenEvent]()
        if name not in self._begun:
            self._begun.add(name)
            reply.cached = output.num_cached_tokens or 0
        if output.prompt_logprobs and not reply.prompt_logprobs:  # of the first token there is none
            asked = zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True)
            reply.prompt_logprobs += [_logprob(token, entry, reply.request.prompt_logprobs) for token, entry in asked]
        ids: Sequence[int] = told.token_ids
        for place, token in enumerate(ids):
            logprob = None
            if reply.request.logprobs is not None:
                logprob = _logprob(token, told.logprobs[place], reply.request.logprobs)
            # A model's vocabulary may be padded beyond its tokenizer's; such an id has no bytes.
            data = self.tokenizer.decode_bytes((token,)) if token < self.tokenizer.size else b""
            events.append(reply.take(token, data, logprob, told.finish_reason == "stop" and place == len(ids) - 1))
            if reply.finish is not None:
                break
        ended = told.finish_reason
        if ended is not None and reply.finish is None:
            known = {"stop": "stop", "length": "length", "abort": "cancelled"}
            error = None if ended in known else f"vLLM ended it: {ended}"
            events.append(reply.end(known.get(ended, "failed"), error))  # type: ignore[arg-type]
        if reply.finish is not None:
            self._forget(name)
            if ended is None:  # a stop string, which vLLM does not know of
                self._engine.abort_request([name])
        return events


def _form(constraint: Constraint) -> Any:
    from vllm.sampling_params import StructuredOutputsParams

    if constraint.json_schema is not None:
        return StructuredOutputsParams(json=constraint.json_schema)
    if constraint.regex is not None:
        return StructuredOutputsParams(regex=constraint.regex)
    assert constraint.choices is not None
    return StructuredOutputsParams(choice=list(constraint.choices))


def _logprob(token: int, entries: Mapping[int, Any], wanted: int | None) -> TokenLogprob:
    """entries: the token's own, and the likeliest."""
    values = [(index, float(entry.logprob)) for index, entry in entries.items()]
    best = sorted(values, key=lambda pair: pair[1], reverse=True)[: wanted or 0]
    return TokenLogprob(token, float(entries[token].logprob), tuple(best))


def _strength(bias: float) -> float:
    """The ends of the scale mean what they say: ruled out, and forced."""
    return FORCED * bias / MOST_BIAS if abs(bias) == MOST_BIAS else bias


def _rank(adapter: Path) -> int:
    """The highest rank in an adapter that `load_adapter` let pass."""
    values = json.loads((adapter / CONFIG).read_text("utf-8"))
    return int(max(values.get("r", 8), *values.get("rank_pattern", {}).values(), 0))


def _room(ranks: Sequence[int]) -> int:
    wanted = max(ranks)
    if wanted > RANKS[-1]:
        raise UserError(f"adapter: a rank of {wanted} is more than the {RANKS[-1]} that vLLM takes")
    return next(rank for rank in RANKS if rank >= wanted)


def _refused(error: ValueError) -> ParameterError:
    """vLLM's newer errors say which of its parameters is at fault; clients call them the same."""
    return ParameterError(getattr(error, "parameter", None) or "request", f"vLLM refuses it: {_line(error)}")


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
