"""The student in vLLM, in this process: a copy of its weights that follows every update.

A copy can be stale, which spoils training silently. So the student counts the changes of its weights; before it
answers, the engine brings its copy to that count; vLLM labels each answer with the count of the weights that sampled
it, and an answer with another label is an error. Full weights are copied in memory, tensor by tensor; under LoRA the
base is, once a stage, and the adapter goes through a disk of memory, under a new id. Prefix and image caches are
emptied each time. On a GPU vLLM sleeps while the student is updated, and wakes without weights, which are copied anew.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator, Sequence
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
FORMAT = "mmpu_student"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Sizes that vLLM lays out adapters for."""
SPREAD = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
"""Arguments that make processes."""
RAM = Path("/dev/shm")
"""A disk of memory, where Linux has one."""


@dataclass
class _Copy:
    """vLLM and what it holds."""

    llm: Any = None
    version: int = -1
    """Of the student, whose weights these are."""
    base: int = -1
    """The same of the weights without an adapter."""
    adapter: Any = None
    shelf: Path | None = None
    """Where adapters lie."""
    sleeps: bool = False
    asleep: bool = False


@dataclass(frozen=True)
class VLLM(Mirrored):
    student: Student
    folder: Path
    """For the model's configuration and its tokenizer; emptied on close."""
    max_length: Count | None = None
    """Tokens of a prompt and its answer together; None takes the model's limit."""
    rows: Annotated[Count, MAY_CHANGE] = 256
    """Responses decoded at a time."""
    memory: Annotated[Rate, MAY_CHANGE] = 0.4
    """Share of a GPU's memory for vLLM, its weights included; training needs the rest."""
    sleep: Annotated[bool, MAY_CHANGE] = True
    """Whether vLLM gives that memory up during updates, where the platform lets it."""
    options: dict[str, Any] | None = None
    """Further arguments of `vllm.LLM`, such as {enforce_eager: true}."""
    _copy: _Copy = field(default_factory=_Copy, init=False, repr=False)

    def __post_init__(self) -> None:
        if find_spec("vllm") is None:
            raise UserError("the engine vllm needs vLLM, which is not installed: pip install 'mmpu[vllm]'")
        spread = [name for name in SPREAD if (self.options or {}).get(name, 1) != 1]
        if spread:
            raise UserError(
                f"engine vllm: `options` sets {spread[0]}, and weights are copied within this process; start `vllm "
                "serve` on several GPUs and use `rollout: vllm_server`"
            )

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

    def rest(self) -> None:
        """Leaves the GPU to the trainer until the next question, for which the weights come back from the student."""
        copy = self._copy
        if copy.llm is not None and copy.sleeps and not copy.asleep:
            copy.llm.sleep(level=2)
            copy.asleep, copy.base, copy.version, copy.adapter = True, -1, -1, None

    def sync(self) -> None:
        """Brings the copy to the student's weights; nothing happens if it is there."""
        copy, student = self._copy, self.student
        if copy.version == student.version:
            return
        adapted = hasattr(student.model, "peft_config")
        base = student.stage_version if adapted else student.version
        if copy.llm is None:
            copy.llm, copy.base = self._start(adapted), base
        if copy.asleep:
            copy.llm.wake_up(tags=["weights"])
        if copy.base != base:
            self._load_weights()
            copy.base = base
        if copy.asleep:
            copy.llm.wake_up(tags=["kv_cache"])
            copy.asleep = False
        if adapted:
            self._load_adapter()
        copy.llm.reset_prefix_cache()
        copy.llm.reset_mm_cache()
        copy.llm.llm_engine.reset_encoder_cache()
        copy.llm.update_weight_version(str(student.version))
        copy.version = student.version

    def _start(self, adapted: bool) -> Any:
        """vLLM with the student's weights, but for its adapter."""
        import torch

        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise UserError(
                "the engine vllm runs inside a training process, and there are several; start `vllm serve` and use "
                "`rollout: vllm_server`"
            )
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        config, frame = self.student.config, self.folder / "frame"
        self.student.save_frame(frame)
        lora: dict[str, Any] = {}
        if adapted and config.lora:
            rank = min((r for r in RANKS if r >= config.lora.r), default=config.lora.r)
            lora = {"enable_lora": True, "max_loras": 1, "max_lora_rank": rank}
        self._copy.sleeps = self.sleep and library("vllm.platforms").current_platform.is_sleep_mode_available()
        with _loading(self.student) as load_format:
            return self._llm(model=str(frame), load_format=load_format, **lora)

    def _llm(self, **given: Any) -> Any:
        config = self.student.config
        return library("vllm").LLM(
            **{
                "dtype": config.computes_in,
                "max_model_len": self.max_length,
                "max_num_seqs": self.rows,
                "gpu_memory_utilization": self.memory,
                "enable_sleep_mode": self._copy.sleeps,
                "enable_prefix_caching": True,
                "logprobs_mode": "processed_logprobs",
                "generation_config": "vllm",
                "trust_remote_code": config.trust_remote_code,
                **given,
                **(self.options or {}),
            }
        )

    def _load_weights(self) -> None:
        """Copies the student's weights into vLLM's, layer by layer, within this process."""
        llm = self._copy.llm
        self._copy.adapter = None  # vLLM forgets adapters of another base
        llm.collective_rpc("reload_weights", kwargs={"weights_iterator": _vllm.weights(self.student)})
        if library("vllm.platforms").current_platform.is_cpu():
            llm.apply_model(_pack_heads)

    def _load_adapter(self) -> None:
        copy, before, version = self._copy, self._copy.adapter, self.student.version
        copy.shelf = copy.shelf or _shelf(self.folder)
        place = copy.shelf / f"adapter-{version}"
        self.student.save(place)
        adapter = library("vllm.lora.request").LoRARequest(f"mmpu-{version}", version, str(place))
        copy.llm.llm_engine.add_lora(adapter)
        copy.adapter = adapter
        if before is not None:
            copy.llm.llm_engine.remove_lora(before.lora_int_id)
        for old in copy.shelf.glob("adapter-*"):
            if old != place:
                shutil.rmtree(old, ignore_errors=True)

    def close(self) -> None:
        copy = self._copy
        if copy.llm is not None:
            copy.llm.llm_engine.engine_core.shutdown()
            copy.llm = copy.adapter = None
            copy.version, copy.asleep = -1, False
            library("vllm.distributed").cleanup_dist_env_and_memory()
        for folder in filter(None, (copy.shelf, self.folder)):
            shutil.rmtree(folder, ignore_errors=True)
        copy.shelf = None


@contextlib.contextmanager
def _loading(student: Student) -> Generator[str]:
    """Inside, vLLM loads the student's weights from where they lie, under this format's name."""
    loader = _loader()
    loader.student = student
    try:
        yield FORMAT
    finally:
        loader.student = None


@functools.cache
def _loader() -> Any:
    """A model loader of vLLM's, registered once."""
    base: Any = library("vllm.model_executor.model_loader.base_loader").BaseModelLoader

    class Loader(base):
        student: Student | None = None

        def download_model(self, model_config: Any) -> None:
            pass

        def load_weights(self, model: Any, model_config: Any) -> None:
            assert self.student is not None, "vLLM loads outside its start"
            model.load_weights(_vllm.weights(self.student))

    library("vllm.model_executor.model_loader").register_model_loader(FORMAT)(Loader)
    return Loader


def _shelf(folder: Path) -> Path:
    """Where adapters are handed over: in memory, where the system has a disk of it, else in `folder`. What processes
    that were killed have left there is swept up."""
    if not os.access(RAM, os.W_OK):
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    for left in RAM.glob("mmpu-*-*"):
        owner = left.name.split("-")[1]
        if owner.isdecimal() and not Path("/proc", owner).exists() and left.stat().st_uid == os.getuid():
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"mmpu-{os.getpid()}-", dir=RAM))


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
