"""`generate` of transformers: greedy, in the dtype of its setting, with a dynamic cache or a static one and compiled.

Its static cache is compiled on GPUs by itself, on a CPU only when told to; prompts are read without compiling even so.
Both caches are asked for as long as the whole answer, so that nothing is compiled anew for a short one.
"""

import time
from pathlib import Path
from typing import Any

from generation.turns import Rows, Tick, What

SETTINGS = ("bfloat16 dynamic", "bfloat16 static", "float32 dynamic", "float32 static")
LONGEST = 128


class HuggingFace:
    """One model in one setting."""

    def __init__(self, what: What) -> None:
        import torch
        import transformers

        torch.set_num_threads(what.threads)
        transformers.logging.set_verbosity_error()
        dtype, cache = what.setting.split()
        self.model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            Path(what.exports) / "hf", dtype=dtype, attn_implementation="sdpa"
        ).eval()
        self.options: dict[str, Any] = {}
        if cache == "static":
            compiling = transformers.CompileConfig(mode="default", dynamic=False)
            compiling._compile_all_devices = True  # else it compiles on GPUs alone
            self.options = {"cache_implementation": "static", "compile_config": compiling}
        self.facts = {"transformers": transformers.__version__, "torch": torch.__version__, "threads": what.threads}

    def generate(self, prompts: Rows, count: int, tick: Tick, seconds: float) -> None:
        """See `Side`."""
        import torch
        import transformers

        rows, end = range(len(prompts)), time.perf_counter() + seconds

        class Watch(transformers.StoppingCriteria):  # type: ignore[misc]
            """Called after each token."""

            done = 0

            def __call__(self, ids: Any, *_: Any, **__: Any) -> Any:
                tick(rows)
                self.done += 1
                full = self.done == count or (self.done > 1 and time.perf_counter() > end)
                return torch.full((len(ids),), full)

        tokens = torch.tensor(prompts)
        with torch.inference_mode():
            self.model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                do_sample=False,
                max_new_tokens=LONGEST,
                eos_token_id=-1,  # none: answers have a set length
                stopping_criteria=[Watch()],
                **self.options,
            )

    def score(self, rows: Rows) -> float:
        """See `Side`."""
        import torch

        total = 0.0
        with torch.inference_mode():
            for row in rows:
                tokens = torch.tensor([row])
                logits = self.model(tokens, use_cache=False).logits[0, :-1].float()
                total += float(torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum"))
        return total / sum(len(row) - 1 for row in rows)


def open_side(what: What) -> HuggingFace:
    """Load it."""
    return HuggingFace(what)
