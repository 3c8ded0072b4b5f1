"""llama.cpp by its own interface, as `llama-batched-bench` uses it: all sequences of a batch in one `llama_decode`.

Prompts go in together, then one token of each sequence a step; the likeliest token is found by NumPy in the row of
logits that llama.cpp owns, which takes microseconds.
"""

import ctypes
import time
from pathlib import Path
from typing import Any

from generation.turns import BenchmarkError, Rows, Tick, What

SETTINGS = ("BF16", "F16", "Q8_0", "Q4_0")
LENGTH = 256
"""Places of each sequence."""
FLAGS = {
    "avx2": "AVX2",
    "fma": "FMA",
    "f16c": "F16C",
    "avx512f": "AVX512",
    "avx512_vnni": "AVX512_VNNI",
    "avx512_bf16": "AVX512_BF16",
}
"""What a native build uses where the processor has it: the processor's names, and llama.cpp's."""


class LlamaCpp:
    """One GGUF file."""

    def __init__(self, what: What) -> None:
        import llama_cpp

        self.api: Any = llama_cpp
        llama_cpp.llama_backend_init()
        system = llama_cpp.llama_print_system_info().decode()
        _check_native(system)
        settings = llama_cpp.llama_model_default_params()
        settings.n_gpu_layers = 0
        path = Path(what.exports) / f"{what.setting}.gguf"
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
        if not self.model:
            raise BenchmarkError(f"llama.cpp cannot read {path}")
        context = llama_cpp.llama_context_default_params()
        context.n_seq_max = what.batch
        context.n_ctx = LENGTH * what.batch
        context.n_batch = 2048
        context.n_threads = context.n_threads_batch = what.threads
        self.context = llama_cpp.llama_init_from_model(self.model, context)
        if not self.context:
            raise BenchmarkError("llama.cpp makes no context")
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.tokens = llama_cpp.llama_batch_init(context.n_batch, 0, 1)
        self.room = int(context.n_batch)
        self.facts = {"llama-cpp-python": llama_cpp.__version__, "system": system.strip(), "threads": what.threads}

    def generate(self, prompts: Rows, count: int, tick: Tick, seconds: float) -> None:
        """See `Side`."""
        end = time.perf_counter() + seconds
        rows = range(len(prompts))
        self._forget()
        newest = [0] * len(prompts)
        length = len(prompts[0])
        together = max(1, self.room // length)
        for first in range(0, len(prompts), together):
            part = rows[first : first + together]
            where = self._read([(row, place, prompts[row][place], place == length - 1) for row in part
                                for place in range(length)])  # fmt: skip
            for row, at in zip(part, where, strict=True):
                newest[row] = int(self._logits(at).argmax())
        tick(rows)
        for step in range(count - 1):
            where = self._read([(row, length + step, newest[row], True) for row in rows])
            newest = [int(self._logits(at).argmax()) for at in where]
            tick(rows)
            if time.perf_counter() > end:
                return

    def score(self, rows: Rows) -> float:
        """See `Side`."""
        import numpy as np

        total = 0.0
        for row in rows:
            self._forget()
            where = self._read([(0, place, token, True) for place, token in enumerate(row)])
            for at, target in zip(where[:-1], row[1:], strict=True):
                logits = self._logits(at).astype(np.float64)
                top = logits.max()
                total += float(np.log(np.exp(logits - top).sum()) + top - logits[target])
        return total / sum(len(row) - 1 for row in rows)

    def _forget(self) -> None:
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)

    def _read(self, entries: list[tuple[int, int, int, bool]]) -> list[int]:
        """Decode (sequence, place, token, whether logits are wanted); returns where logits are."""
        batch = self.tokens
        batch.n_tokens = len(entries)
        for at, (row, place, token, wanted) in enumerate(entries):
            batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, place, 1
            batch.seq_id[at][0], batch.logits[at] = row, wanted
        if self.api.llama_decode(self.context, batch) != 0:
            raise BenchmarkError("llama_decode failed")
        return [at for at, entry in enumerate(entries) if entry[3]]

    def _logits(self, at: int) -> Any:
        import numpy as np

        row = self.api.llama_get_logits_ith(self.context, at)
        return np.ctypeslib.as_array(ctypes.cast(row, ctypes.POINTER(ctypes.c_float)), (self.vocabulary,))


def _check_native(system: str) -> None:
    """A build for any processor would be no rival."""
    line = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    missing = [name for flag, name in FLAGS.items() if flag in line.split() and f"{name} = 1" not in system]
    if missing:
        raise BenchmarkError(f"llama.cpp was not built for this processor: without {', '.join(missing)}")


def open_side(what: What) -> LlamaCpp:
    """Load it."""
    return LlamaCpp(what)
