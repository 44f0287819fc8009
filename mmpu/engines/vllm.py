"""The student in vLLM, in this process: a copy of its weights that follows every update.

A copy can be stale, which spoils training silently. So the student counts the changes of its weights; before it
answers, the engine brings its copy to that count; vLLM labels each answer with the count of the weights that sampled
it, and an answer with another label is an error. Full weights are written to a folder that vLLM reloads in place; under
LoRA only the adapter is written, and loaded under a new id. Prefix and image caches are emptied each time.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from mmpu.core import Sample, UserError
from mmpu.engines import _vllm
from mmpu.engines._vllm import Mirrored, Question, Said, StaleWeights
from mmpu.knobs import MAY_CHANGE, Count, Rate
from mmpu.student import Student

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
"""How vLLM behaves as a guest: in this process, silent, without reporting its use, and leaving the trainer's threads
where they are."""
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Sizes that vLLM lays out adapters for."""


@dataclass
class _Copy:
    """vLLM and what it holds."""

    llm: Any = None
    version: int = -1
    stage: int = -1
    adapter: Any = None


@dataclass(frozen=True)
class VLLM(Mirrored):
    student: Student
    folder: Path
    """Where weights are handed over; emptied on close."""
    max_length: Count | None = None
    """Tokens of a prompt and its answer together; None takes the model's limit."""
    rows: Annotated[Count, MAY_CHANGE] = 256
    """Responses decoded at a time."""
    memory: Annotated[Rate, MAY_CHANGE] = 0.4
    """Share of a GPU's memory for vLLM, its weights included; training needs the rest."""
    options: dict[str, Any] | None = None
    """Further arguments of `vllm.LLM`, such as {tensor_parallel_size: 2}."""
    _copy: _Copy = field(default_factory=_Copy, init=False, repr=False)

    def __post_init__(self) -> None:
        if find_spec("vllm") is None:
            raise UserError("the engine vllm needs vLLM, which is not installed: pip install 'mmpu[vllm]'")

    # ------------------------------------------------------------------------------------------------------- answering

    def ask(self, samples: Sequence[Sample], values: Sequence[dict[str, Any]]) -> list[Any]:
        """vLLM's output, or `Failed`, for each sample.

        Raises:
            StaleWeights: an answer is not labelled with the student's version.
        """
        self.sync()
        llm, expected = self._copy.llm, str(self._copy.version)
        longest = int(llm.model_config.max_model_len)
        asked = _vllm.questions(self.student, samples, values, longest)
        live = [(i, q) for i, q in enumerate(asked) if isinstance(q, Question)]
        outputs = llm.generate(
            [_prompt(q) for _, q in live],
            [library("vllm").SamplingParams(**values[i]) for i, _ in live],
            use_tqdm=False,
            lora_request=self._copy.adapter,
        )
        results: list[Any] = list(asked)
        for (i, q), output in zip(live, outputs, strict=True):
            labels = {span.version for answer in output.outputs for span in answer.weight_versions or ()}
            if labels != {expected}:
                raise StaleWeights(f"vLLM answered with weights {sorted(labels)}, the student's are {expected}")
            read = tuple(output.prompt_token_ids)
            results[i] = output if read == q.encoded.ids else _vllm.misread(q, read)
        return results

    def said(self, output: Any) -> Iterator[Said]:
        for answer in output.outputs:
            logp = [entry[token].logprob for token, entry in zip(answer.token_ids, answer.logprobs, strict=True)]
            yield answer.token_ids, logp, answer.finish_reason

    def weighed(self, output: Any) -> dict[int, float]:
        return {token: entry.logprob for token, entry in output.outputs[0].logprobs[0].items()}

    # ----------------------------------------------------------------------------------------------------- the copy

    def sync(self) -> None:
        """Brings the copy to the student's weights; nothing happens if it is there."""
        copy, student = self._copy, self.student
        if copy.version == student.version:
            return
        adapted = hasattr(student.model, "peft_config")
        if copy.llm is None or (adapted and copy.stage != student.stage_version):
            self.close()
            copy.llm = self._start(adapted)
            copy.stage = student.stage_version
        elif not adapted:
            _vllm.export(student, self._weights)
            copy.llm.collective_rpc("reload_weights", kwargs={"weights_path": str(self._weights)})
            if library("vllm.platforms").current_platform.is_cpu():
                copy.llm.apply_model(_pack_heads)
        if adapted:
            self._load_adapter()
        copy.llm.reset_prefix_cache()
        copy.llm.reset_mm_cache()
        copy.llm.llm_engine.reset_encoder_cache()
        copy.llm.update_weight_version(str(student.version))
        copy.version = student.version

    @property
    def _weights(self) -> Path:
        return self.folder / "weights"

    def _start(self, adapted: bool) -> Any:
        import torch

        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise UserError(
                "the engine vllm runs inside a training process, and there are several; start `vllm serve` and use "
                "`rollout: vllm_server`"
            )
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        config = self.student.config
        _vllm.export(self.student, self._weights)
        lora: dict[str, Any] = {}
        if adapted and config.lora:
            rank = min((r for r in RANKS if r >= config.lora.r), default=config.lora.r)
            lora = {"enable_lora": True, "max_loras": 1, "max_lora_rank": rank}
        return library("vllm").LLM(
            **{
                "model": str(self._weights),
                "dtype": config.computes_in,
                "max_model_len": self.max_length,
                "max_num_seqs": self.rows,
                "gpu_memory_utilization": self.memory,
                "enable_prefix_caching": True,
                "logprobs_mode": "processed_logprobs",
                "generation_config": "vllm",
                "trust_remote_code": config.trust_remote_code,
                **lora,
                **(self.options or {}),
            }
        )

    def _load_adapter(self) -> None:
        before, version = self._copy.adapter, self.student.version
        folder = self.folder / f"adapter-{version}"
        self.student.save(folder)
        adapter = library("vllm.lora.request").LoRARequest(f"mmpu-{version}", version, str(folder))
        self._copy.llm.llm_engine.add_lora(adapter)
        self._copy.adapter = adapter
        if before is not None:
            self._copy.llm.llm_engine.remove_lora(before.lora_int_id)
            shutil.rmtree(before.lora_path, ignore_errors=True)

    def close(self) -> None:
        if self._copy.llm is not None:
            self._copy.llm.llm_engine.engine_core.shutdown()
            self._copy.llm = self._copy.adapter = None
            self._copy.version = -1
            library("vllm.distributed").cleanup_dist_env_and_memory()
        shutil.rmtree(self.folder, ignore_errors=True)


def library(module: str) -> Any:
    """A module of vLLM, imported only where it is about to be used."""
    return import_module(module)


def _pack_heads(model: Any) -> None:
    """On a CPU vLLM computes logits from a packed copy of the output head, which a reload leaves as it was where the
    head is tied to the embeddings."""
    head = library("vllm.model_executor.layers.vocab_parallel_embedding").ParallelLMHead
    for module in model.modules():
        if isinstance(module, head):
            module.quant_method.process_weights_after_loading(module)


def _prompt(question: Question) -> dict[str, Any]:
    if not question.pictures:
        return {"prompt_token_ids": list(question.ids)}
    return {"prompt_token_ids": list(question.ids), "multi_modal_data": {"image": list(question.pictures)}}
