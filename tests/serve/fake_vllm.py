"""A stand-in for vLLM, for machines that cannot have it: the part of its API that we use, as its sources document it.

It is strict about what it is given, and answers with a small model of ours. What it keeps from the real one: names and
limits of parameters, deltas that carry the token which ended an answer, log-probabilities of a prompt told once, a step
that would wait for ever where there is nothing to do, aborts that are silent about unknown requests.
"""

import secrets
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any

import torch

from underlay.formats import hf
from underlay.generate import Constraint, Engine, Request, Sampling
from underlay.models import Decoder
from underlay.text import Special, Tokenizer


class VLLMValidationError(ValueError):
    def __init__(self, message: str, parameter: str | None = None, value: Any = None) -> None:
        super().__init__(message)
        self.parameter = parameter
        self.value = value


class RequestOutputKind(Enum):
    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass
class StructuredOutputsParams:
    json: str | dict[str, Any] | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None

    def __post_init__(self) -> None:
        if sum(getattr(self, one.name) is not None for one in fields(self)) != 1:
            raise VLLMValidationError("You can only use one kind of structured outputs constraint")


@dataclass(kw_only=True)
class SamplingParams:
    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    structured_outputs: StructuredOutputsParams | None = None
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None

    def __post_init__(self) -> None:
        if 0 < self.temperature < 1e-2:
            self.temperature = 1e-2
        if self.seed == -1:
            self.seed = None
        limits = {
            "presence_penalty": -2 <= self.presence_penalty <= 2,
            "frequency_penalty": -2 <= self.frequency_penalty <= 2,
            "repetition_penalty": self.repetition_penalty > 0,
            "temperature": 0 <= self.temperature <= 2,
            "top_p": 0 < self.top_p <= 1,
            "top_k": isinstance(self.top_k, int) and self.top_k >= -1,
            "min_p": 0 <= self.min_p <= 1,
            "max_tokens": self.max_tokens is None or self.max_tokens >= 1,
            "stop": not self.stop or self.detokenize,
            "stop_token_ids": all(isinstance(token, int) for token in self.stop_token_ids or ()),
        }
        for name, holds in limits.items():
            if not holds:
                raise VLLMValidationError(f"{name} is out of range, got {getattr(self, name)}.", name)


@dataclass
class EngineArgs:
    model: str
    tokenizer: str | None = None
    trust_remote_code: bool = False
    dtype: str = "auto"
    seed: int = 0
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_logprobs: int = 20
    logprobs_mode: str = "raw_logprobs"
    generation_config: str = "auto"
    structured_outputs_config: dict[str, Any] = field(default_factory=dict)
    enable_prefix_caching: bool | None = None
    disable_log_stats: bool = False
    gpu_memory_utilization: float = 0.9
    kv_cache_memory_bytes: int | None = None
    enable_lora: bool = False
    max_loras: int = 1
    max_lora_rank: int = 16
    max_cpu_loras: int | None = None

    def check(self) -> None:
        assert self.dtype in ("auto", "half", "float16", "bfloat16", "float", "float32")
        assert self.logprobs_mode in ("raw_logprobs", "processed_logprobs", "raw_logits", "processed_logits")
        assert self.max_lora_rank in (1, 8, 16, 32, 64, 128, 256, 320, 512)
        assert self.max_loras >= 1
        assert set(self.structured_outputs_config) <= {"backend", "disable_any_whitespace", "disable_fallback"}
        if not (Path(self.model) / "config.json").is_file():
            raise ValueError(f"Invalid repository ID or local directory specified: '{self.model}'.")


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str = ""

    def __post_init__(self) -> None:
        if self.lora_int_id < 1:
            raise ValueError(f"id must be > 0, got {self.lora_int_id}")
        assert self.lora_path


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt_token_ids: list[int]
    prompt_logprobs: list[dict[int, Logprob] | None] | None
    outputs: list[CompletionOutput]
    finished: bool
    num_cached_tokens: int | None = None


class LLMEngine:
    burst = 1
    """Tokens that a delta may carry; more than one where vLLM guesses ahead."""

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs) -> "LLMEngine":
        engine_args.check()
        return cls(engine_args)

    def __init__(self, args: EngineArgs) -> None:
        self.args = args
        incoming = hf.open_model(Path(args.model))
        model = Decoder(incoming.config)  # type: ignore[arg-type]
        model.load_state_dict(dict(incoming.tensors()))
        self.tokenizer = Tokenizer.load(Path(args.model))
        self.vocabulary = incoming.config.vocabulary
        self.inner = Engine(model, self.tokenizer, args.max_num_seqs or 8)
        self.requests: dict[str, Any] = {}
        self.told: set[str] = set()
        self.loras: dict[int, LoRARequest] = {}
        self.aborted: list[str] = []
        self.names: set[str] = set()

    def has_unfinished_requests(self) -> bool:
        return bool(self.requests)

    def add_request(
        self,
        request_id: str,
        prompt: Mapping[str, Any],
        params: SamplingParams,
        arrival_time: float | None = None,
        lora_request: LoRARequest | None = None,
        tokenization_kwargs: dict[str, Any] | None = None,
        trace_headers: Mapping[str, str] | None = None,
        priority: int = 0,
    ) -> str:
        if not isinstance(request_id, str):
            raise TypeError(f"request_id must be a string, got {type(request_id)}")
        assert request_id not in self.requests
        assert set(prompt) <= {"prompt_token_ids", "cache_salt"}
        assert prompt.get("cache_salt", "salt")
        ids = prompt["prompt_token_ids"]
        assert self.args.max_model_len
        if len(ids) + (params.max_tokens or 1) > self.args.max_model_len:
            raise VLLMValidationError("The decoder prompt is longer than the maximum model length", "prompt")
        for name in ("stop_token_ids", "logit_bias"):
            if any(not 0 <= token < self.vocabulary for token in getattr(params, name) or ()):
                raise VLLMValidationError(f"token_id(s) in {name} contain out-of-vocab token ids.", name)
        for name in ("logprobs", "prompt_logprobs"):
            if (getattr(params, name) or 0) > self.args.max_logprobs:
                raise VLLMValidationError("Requested logprobs greater than max allowed", name)
        if lora_request is not None and not self.args.enable_lora:
            raise ValueError(f"Got lora_request {lora_request} but LoRA is not enabled!")
        assert params.n == 1
        assert params.output_kind is RequestOutputKind.DELTA
        self.requests[request_id] = self.inner.submit(
            self._inner(ids, params, prompt.get("cache_salt", ""), lora_request)
        )
        return request_id

    def _inner(self, ids: list[int], params: SamplingParams, salt: str, lora: LoRARequest | None) -> Request:
        ends = frozenset(params.stop_token_ids or ())
        if not params.ignore_eos:
            ends |= {self.tokenizer.special(Special.EOS)}
        form = None
        if (given := params.structured_outputs) is not None:
            assert self.tokenizer.special(Special.EOS) in ends  # it alone ends such an answer
            assert given.json is None or isinstance(given.json, str)
            form = Constraint(given.json, given.regex, tuple(given.choice) if given.choice else None)  # type: ignore[arg-type]
        sampling = Sampling(
            temperature=params.temperature,
            top_k=params.top_k if params.top_k > 0 else None,
            top_p=params.top_p,
            min_p=params.min_p,
            repetition=params.repetition_penalty,
            presence=params.presence_penalty,
            frequency=params.frequency_penalty,
            bias={token: max(-100, min(100, value)) for token, value in (params.logit_bias or {}).items()},
            seed=secrets.randbits(40) if params.seed is None else params.seed,
        )
        assert params.max_tokens
        return Request(
            ids,
            params.max_tokens,
            sampling,
            stop_ids=ends,
            logprobs=params.logprobs,
            prompt_logprobs=params.prompt_logprobs,
            constraint=form,
            adapter=None if lora is None else str(lora.lora_int_id),
            salt=salt,
        )

    def step(self) -> list[RequestOutput]:
        assert self.requests, "vLLM would wait for ever"
        events: dict[str, list[Any]] = {}
        for _ in range(self.burst):
            for event in self.inner.step():
                name = next((name for name, handle in self.requests.items() if handle is event.handle), None)
                if name is not None:
                    events.setdefault(name, []).append(event)
        return [self._output(name, found) for name, found in events.items()]

    def _output(self, name: str, events: list[Any]) -> RequestOutput:
        handle, finish = self.requests[name], events[-1].finish
        told = handle.request.prompt_logprobs is not None
        first = name not in self.told
        self.told.add(name)
        if finish is not None:
            del self.requests[name]
        logprobs = None
        if handle.request.logprobs is not None:
            logprobs = [_entries(event.logprob) for event in events]
        return RequestOutput(
            name,
            handle.tokens[: handle.prompt_length],
            ([None, *map(_entries, handle.prompt_logprobs)] if first else []) if told else None,
            [CompletionOutput(0, "", [event.id for event in events], None, logprobs, finish)],
            finish is not None,
            handle.cached,
        )

    def abort_request(self, request_ids: list[str], internal: bool = False) -> None:
        assert not isinstance(request_ids, str)
        for name in request_ids:
            self.aborted.append(name)
            if (handle := self.requests.pop(name, None)) is not None:
                handle.cancel()

    def add_lora(self, lora_request: LoRARequest) -> bool:
        if not self.args.enable_lora:
            raise Exception("Call to add_lora method failed: LoRA is not enabled")
        assert lora_request.lora_int_id not in self.loras
        assert lora_request.lora_name not in self.names, "what vLLM remembers of prompts is another's"
        self.names.add(lora_request.lora_name)
        adapter = self.inner.read_adapter(Path(lora_request.lora_path))
        if any(change.down.shape[0] > self.args.max_lora_rank for change in adapter.changes.values()):
            raise Exception("Call to add_lora method failed: LoRA rank is greater than max_lora_rank")
        self.inner.add_adapter(str(lora_request.lora_int_id), adapter)
        self.loras[lora_request.lora_int_id] = lora_request
        return True

    def remove_lora(self, lora_id: int) -> bool:
        if self.loras.pop(lora_id, None) is None:
            return False
        self.inner._sweep()
        self.inner.drop_adapter(str(lora_id))
        return True


def _entries(told: Any) -> dict[int, Logprob]:
    entries = {told.id: Logprob(told.logprob)}
    return entries | {token: Logprob(value, rank) for rank, (token, value) in enumerate(told.top, 1)}


def install(monkeypatch: Any) -> None:
    """Make `import vllm` find the stand-in, until the test ends."""
    parts = {
        "vllm": (EngineArgs, LLMEngine, SamplingParams),
        "vllm.sampling_params": (SamplingParams, StructuredOutputsParams, RequestOutputKind),
        "vllm.lora": (),
        "vllm.lora.request": (LoRARequest,),
    }
    for name, members in parts.items():
        module = types.ModuleType(name)
        module.__spec__ = types.SimpleNamespace(name=name)  # type: ignore[assignment]
        for member in members:
            setattr(module, member.__name__, member)
        monkeypatch.setitem(sys.modules, name, module)
    for key in ("VLLM_NO_USAGE_STATS", "VLLM_DO_NOT_TRACK", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(key, "1")  # as we set them, and gone with the test
    torch.manual_seed(0)
