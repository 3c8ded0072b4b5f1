"""The side of `trl` in `bench/adapt.py`: its SFTTrainer, with `peft` for LoRA."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from adaptation.told import has_unit, tell

PAIRS = 8
"""A step."""


def reinforce(what: dict[str, Any]) -> None:
    """Answer and learn from rewards for some steps, by its GRPOTrainer."""
    import torch
    import transformers
    import trl
    from datasets import Dataset

    transformers.logging.set_verbosity_error()
    shape = what["rollouts"]
    rows = shape["prompts"] * shape["group"]
    prompts = [json.loads(line) for line in Path(what["prompts"]).read_text().splitlines()]
    pure = what["way"] == "trl-pure" and has_unit()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        what["exported"], dtype=torch.bfloat16 if pure else torch.float32
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(what["exported"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    arguments = trl.GRPOConfig(
        output_dir=what["scratch"],
        max_steps=what["steps"],
        per_device_train_batch_size=rows,
        num_generations=shape["group"],
        max_completion_length=shape["answer_tokens"],
        bf16=has_unit() and not pure,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        optim="adamw_torch_fused",
        learning_rate=3e-4,
        gradient_checkpointing=False,
        seed=0,
    )
    times: list[float] = []
    written: list[int] = []

    def length(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        written.append(sum(map(len, completion_ids)))
        return [float(len(one)) for one in completions]

    class Watch(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    trainer = trl.GRPOTrainer(
        model,
        length,
        args=arguments,
        train_dataset=Dataset.from_list(prompts),
        processing_class=tokenizer,
        callbacks=[Watch()],
    )
    trainer.train()
    tell(times, rows, sum(written) / len(written), True, trl=trl.__version__)


def prefer(what: dict[str, Any]) -> None:
    """Train on preferences for some steps, by its DPOTrainer."""
    import torch
    import transformers
    import trl
    from datasets import Dataset

    transformers.logging.set_verbosity_error()
    pairs = [json.loads(line) for line in Path(what["pairs"]).read_text().splitlines()]
    pure = what["way"] == "trl-pure" and has_unit()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        what["exported"], dtype=torch.bfloat16 if pure else torch.float32
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(what["exported"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    arguments = trl.DPOConfig(
        output_dir=what["scratch"],
        max_steps=what["steps"],
        per_device_train_batch_size=PAIRS,
        max_length=what["context"],
        precompute_ref_log_probs=True,
        bf16=has_unit() and not pure,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        optim="adamw_torch_fused",
        learning_rate=5e-5,
        gradient_checkpointing=False,
        seed=0,
    )
    times: list[float] = [time.perf_counter()]

    class Watch(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    trainer = trl.DPOTrainer(
        model, args=arguments, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer, callbacks=[Watch()]
    )
    times[:] = [time.perf_counter()]
    trainer.train()
    tell(times, PAIRS, 0.0, True, trl=trl.__version__)


def main(what: dict[str, Any]) -> None:
    """Train for some steps."""
    if what["method"] in ("dpo", "grpo"):
        (prefer if what["method"] == "dpo" else reinforce)(what)
        return
    import peft
    import torch
    import transformers
    import trl
    from datasets import Dataset

    transformers.logging.set_verbosity_error()
    way, context, steps = what["way"], what["context"], what["steps"]
    rows = [json.loads(line) for line in Path(what["rows"]).read_text().splitlines()]
    data = Dataset.from_list(
        [{"input_ids": ids, "completion_mask": [int(weight) for weight in weights]} for ids, weights in rows]
    )
    pure = way == "trl-pure" and has_unit()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        what["exported"], dtype=torch.bfloat16 if pure else torch.float32
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(what["exported"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    packed = way == "trl-packed"
    mean = sum(len(ids) for ids, _ in rows) / len(rows)
    # As many as make a step's tokens on average; padding to the longest comes on top.
    batch = what["tokens"] // context if packed else max(1, round(what["tokens"] / mean))
    arguments = trl.SFTConfig(
        output_dir=what["scratch"],
        max_steps=steps,
        per_device_train_batch_size=batch,
        max_length=context,
        packing=packed,
        bf16=has_unit() and not pure,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        optim="adamw_torch_fused",
        learning_rate=3e-4,
        gradient_checkpointing=False,
        dataset_kwargs={"skip_prepare_dataset": False},
        seed=0,
    )
    times: list[float] = [time.perf_counter()]

    class Watch(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    lora = None
    if what["method"] == "lora":
        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        lora = peft.LoraConfig(r=16, lora_alpha=32, target_modules=targets, task_type="CAUSAL_LM")
    trainer = trl.SFTTrainer(
        model, arguments, train_dataset=data, processing_class=tokenizer, peft_config=lora, callbacks=[Watch()]
    )
    trainer.train()
    share = batch / len(trainer.train_dataset)  # of a pass
    learned = sum(sum(weights) for _, weights in rows)
    tell(times, share * len(rows), share * learned, not packed, trl=trl.__version__, peft=peft.__version__)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
