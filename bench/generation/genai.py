"""OpenVINO GenAI: its pipeline with continuous batching, on models that optimum-intel converts.

Weights are float32, int8 or int4 (groups of 32, symmetric, embedding and head int8, as Q4_0 here); what is not a weight
is computed as OpenVINO thinks best for the processor, which is float32 without a unit for bfloat16.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from generation.turns import BenchmarkError, Rows, Tick, What

SETTINGS = ("float32", "int8", "int4")


class OpenVINO:
    """One converted model."""

    def __init__(self, what: What) -> None:
        import openvino
        import openvino_genai

        self.api: Any = openvino_genai
        self.folder = Path(what.exports) / f"openvino-{what.setting}"
        if not self.folder.exists():
            raise BenchmarkError(f"{self.folder}: was not converted")
        self.properties = {"INFERENCE_NUM_THREADS": what.threads, "PERFORMANCE_HINT": "LATENCY"}
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = 1
        scheduler.max_num_seqs = what.batch
        scheduler.max_num_batched_tokens = 2048
        scheduler.enable_prefix_caching = False
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(self.folder, scheduler, "CPU", self.properties)
        core = openvino.Core()
        precision = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.facts = {"openvino-genai": openvino_genai.__version__, "capabilities": list(precision), **self.properties}
        self.numbers = 0

    def generate(self, prompts: Rows, count: int, tick: Tick, seconds: float) -> None:
        """See `Side`."""
        import numpy as np
        import openvino

        end = time.perf_counter() + seconds
        config = self.api.GenerationConfig(max_new_tokens=count, ignore_eos=True, do_sample=False)
        handles = {}
        for row, prompt in enumerate(prompts):
            self.numbers += 1
            tokens = openvino.Tensor(np.array([prompt], np.int64))
            handles[row] = self.pipeline.add_request(self.numbers, tokens, config)
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()
            came = []
            for row, handle in handles.items():
                if handle.can_read():
                    came += [row] * sum(len(output.generated_ids) for output in handle.read().values())
            tick(came)
            if time.perf_counter() > end:
                for handle in handles.values():
                    handle.stop()

    def score(self, rows: Rows) -> float:
        """See `Side`; by the same file in OpenVINO itself, for the pipeline gives no logits."""
        import numpy as np
        import openvino

        request = openvino.Core().compile_model(self.folder / "openvino_model.xml", "CPU", self.properties)
        inference = request.create_infer_request()
        total = 0.0
        for row in rows:
            inference.reset_state()
            tokens = np.array([row], np.int64)
            inputs = {
                "input_ids": tokens,
                "attention_mask": np.ones_like(tokens),
                "position_ids": np.arange(len(row))[None],
                "beam_idx": np.zeros(1, np.int32),
            }
            logits = inference.infer(inputs)["logits"][0, :-1].astype(np.float64)
            top = logits.max(-1, keepdims=True)
            sums = np.log(np.exp(logits - top).sum(-1)) + top[:, 0]
            total += float((sums - np.take_along_axis(logits, tokens[0, 1:, None], 1)[:, 0]).sum())
        return total / sum(len(row) - 1 for row in rows)


def convert(precision: str, source: Path, target: Path) -> None:
    """Write OpenVINO's form of a folder of transformers."""
    command = ["export", "openvino", "--model", str(source), "--task", "text-generation-with-past"]
    command += ["--weight-format", {"float32": "fp32"}.get(precision, precision)]
    if precision == "int4":
        command += ["--sym", "--group-size", "32"]
    program = Path(sys.executable).with_name("optimum-cli")
    subprocess.run([program, *command, str(target)], check=True, stdout=sys.stderr)


def open_side(what: What) -> OpenVINO:
    """Load it."""
    return OpenVINO(what)
