"""The student in a `vllm serve` that runs elsewhere, kept at its weights by LoRA adapters loaded at run time.

    VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve MODEL --enable-lora --max-lora-rank 64 --dtype float32 \\
        --logprobs-mode processed_logprobs --max-logprobs 128 --enable-scale-out

MODEL holds the weights that the stage starts from; the adapter's folder is read by the server, so both see the same
file system. Token ids travel both ways (`/inference/v1/generate`), images as data URIs. Every version of the weights is
an adapter with a name of its own: a question names the version it wants, and an answer under another name is an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, cast

import torch

from mmpu.core import Failed, Response, Sample, Sampling, UserError
from mmpu.engines import _vllm
from mmpu.engines._vllm import Mirrored, Question, Said, StaleWeights
from mmpu.knobs import MAY_CHANGE, Parallel, Positive, Retries, Seconds
from mmpu.media import images as media
from mmpu.student import Student, Tree, pack

MALFORMED = (LookupError, TypeError, ValueError, AttributeError)
"""What reading a reply raises if it is not what the protocol says."""
PROBE = Sampling(max_tokens=8)


@dataclass
class _Served:
    """What the server holds of ours."""

    run: str = field(default_factory=lambda: secrets.token_hex(4))
    """Two runs on one server do not meet."""
    version: int = -1
    adapter: str = ""
    longest: int = 0
    checked: int = -1
    """The stage whose start has been compared with the server's weights."""


@dataclass(frozen=True)
class VLLMServer(Mirrored):
    student: Student
    folder: Path
    """Where adapters are handed over; the server must be able to read it."""
    url: Annotated[str, MAY_CHANGE] = "http://localhost:8000"
    """The server's address, without /v1."""
    concurrency: Annotated[Parallel, MAY_CHANGE] = 64
    """Prompts in flight."""
    timeout: Annotated[Seconds, MAY_CHANGE] = 600.0
    """Seconds for one attempt."""
    retries: Annotated[Retries, MAY_CHANGE] = 3
    """Further attempts after 408, 409, 429, 5xx or a lost connection."""
    max_gap: Annotated[Positive, MAY_CHANGE] = 0.05
    """Largest mean difference, in nats per token, between the server's log-probabilities and the student's at a stage's
    start; above it, the server holds other weights."""
    _served: _Served = field(default_factory=_Served, init=False, repr=False)

    # ------------------------------------------------------------------------------------------------------- answering

    def ask(self, samples: Sequence[Sample], values: Sequence[dict[str, Any]]) -> list[Any]:
        """The reply, or `Failed`, to each question.

        Raises:
            StaleWeights: a reply names other weights than the student's.
            UserError: the server does not compute what the student computes.
        """
        self.sync()
        questions = _vllm.questions(self.student, samples, values, self._served.longest)
        stage = self.student.stage_version
        first = next((q for q in questions if isinstance(q, Question)), None)
        if first is not None and self._served.checked != stage:
            self._check(first)
            self._served.checked = stage
        return asyncio.run(self._post_all(questions, [_asking(value) for value in values]))

    def said(self, output: Any) -> Iterator[Said]:
        for answer in sorted(output["choices"], key=lambda answer: answer["index"]):
            logp = [entry["logprob"] for entry in answer["logprobs"]["content"]]
            yield answer["token_ids"], logp, answer["finish_reason"]

    def weighed(self, output: Any) -> dict[int, float]:
        entries = output["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        return {entry["token_id"]: entry["logprob"] for entry in entries}

    def _check(self, question: Question) -> None:
        """Compares the server with the student on one prompt, before anything is learned from its answers."""
        plain = _vllm.sampling_values(self.student, PROBE, 1, question.sample.id)
        # One candidate is certain under the sampling distribution, and seldom so under the model's.
        certain = _vllm.sampling_values(self.student, replace(PROBE, top_k=1), 1, question.sample.id)
        found = asyncio.run(self._post_all([question, question], [plain, certain]))
        answers = [self.responses(output, PROBE) for output in found]
        failed = [a.reason for a in answers if isinstance(a, Failed)]
        if failed:
            raise UserError(f"{self.url} does not answer as `vllm serve` does: {failed[0]}")
        sampled, fixed = (cast(tuple[Response, ...], a)[0] for a in answers)
        if any(logp < -1e-4 for logp in fixed.logp):
            raise UserError(
                f"{self.url} reports log-probabilities of another distribution than it samples from; start it with "
                "--logprobs-mode processed_logprobs"
            )
        with torch.no_grad():
            own = self.student(pack([Tree(question.encoded, (sampled.tokens or (),))], self.student.pad)).cpu()
        gap = float((own - torch.tensor(sampled.logp)).abs().mean())
        if not gap <= self.max_gap:
            raise UserError(
                f"{self.url} holds other weights than the student: log-probabilities differ by {gap:.3f} nats per "
                "token at the stage's start. Serve the model that the stage starts from (`mmpu export` writes it), in "
                "the student's dtype, or set rollout.max_gap if you know better"
            )

    # ------------------------------------------------------------------------------------------------------- the wire

    async def _post_all(
        self, questions: Sequence[Question | Failed], values: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any] | Failed]:
        gate = asyncio.Semaphore(self.concurrency)
        async with self._client() as client:

            async def one(question: Question | Failed, value: dict[str, Any]) -> dict[str, Any] | Failed:
                if isinstance(question, Failed):
                    return question
                async with gate:
                    return await self._post(client, question, value)

            return await asyncio.gather(*(one(q, v) for q, v in zip(questions, values, strict=True)))

    async def _post(self, client: Any, question: Question, value: dict[str, Any]) -> dict[str, Any] | Failed:
        openai = _openai()

        adapter = self._served.adapter
        body: dict[str, Any] = {
            "model": adapter,
            "token_ids": question.ids,
            "sampling_params": value,
            "return_token_ids": True,
        }
        if question.pictures:
            body["content_parts"] = [{"type": "image_url", "url": media.data_uri(p)} for p in question.pictures]
        try:
            reply: Any = await client.post("/inference/v1/generate", body=body, cast_to=object)
            model, prompt, answers = reply["model"], tuple(reply["prompt_token_ids"]), len(reply["choices"])
        except (openai.OpenAIError, *MALFORMED) as error:
            return Failed(f"{type(error).__name__}: {str(error)[:300]}")
        if model != adapter:
            raise StaleWeights(f"{self.url} answered with the weights {model!r}, the student's are {adapter!r}")
        if prompt != question.encoded.ids:
            return _vllm.misread(question, prompt)
        if answers != value.get("n", 1):
            return Failed(f"asked for {value.get('n', 1)} answers, got {answers}")
        return reply

    def _client(self) -> Any:
        openai = _openai()

        return openai.AsyncOpenAI(
            base_url=self.url.rstrip("/").removesuffix("/v1"),
            api_key=os.environ.get("OPENAI_API_KEY") or "EMPTY",
            timeout=self.timeout,
            max_retries=self.retries,
        )

    # --------------------------------------------------------------------------------------------------- the adapters

    def sync(self) -> None:
        """Loads the student's present adapter into the server; nothing happens if it is there.

        Raises:
            UserError: the student has no adapter, or the server takes none.
        """
        served, version = self._served, self.student.version
        if served.version == version:
            return
        if not hasattr(self.student.model, "peft_config"):
            raise UserError(
                "rollout: vllm_server hands LoRA adapters over; set `student.lora`, or use `rollout: vllm`, which "
                "reloads full weights"
            )
        name, before = f"mmpu-{served.run}-{version}", served.adapter
        place = (self.folder / name).resolve()
        self.student.save(place)
        asyncio.run(self._swap(name, place, before))
        if before:
            shutil.rmtree(self.folder / before, ignore_errors=True)
        served.version, served.adapter = version, name

    async def _swap(self, name: str, place: Path, before: str) -> None:
        openai = _openai()

        async with self._client() as client:
            try:
                models: Any = await client.get("/v1/models", cast_to=object)
                self._served.longest = min(m["max_model_len"] for m in models["data"] if m.get("max_model_len"))
                load = {"lora_name": name, "lora_path": str(place)}
                await client.with_options(max_retries=0).post("/v1/load_lora_adapter", body=load, cast_to=object)
                if before:
                    await client.post("/v1/unload_lora_adapter", body={"lora_name": before}, cast_to=object)
            except (openai.OpenAIError, *MALFORMED) as error:
                raise UserError(
                    f"{self.url} did not take the adapter {place}: {error}. It must be a `vllm serve` with "
                    "--enable-lora and --max-lora-rank, started with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, that can "
                    "read this folder"
                ) from error

    def close(self) -> None:
        """Takes the adapter out of the server, if that still runs."""
        openai = _openai()

        async def unload() -> None:
            async with self._client() as client:
                await client.post("/v1/unload_lora_adapter", body={"lora_name": self._served.adapter}, cast_to=object)

        if self._served.adapter:
            with contextlib.suppress(openai.OpenAIError):
                asyncio.run(unload())
            shutil.rmtree(self.folder / self._served.adapter, ignore_errors=True)
            self._served.adapter, self._served.version, self._served.checked = "", -1, -1


def _asking(values: dict[str, Any]) -> dict[str, Any]:
    """The reply lists the sampled token first and then as many as were asked for, less one if that token was not among
    them. So one is asked for twice."""
    tokens = values.get("logprob_token_ids")
    if tokens is None:
        return values
    wanted = [*tokens, *tokens[:1]]
    return {**values, "logprob_token_ids": wanted, "logprobs": len(wanted)}


def _openai() -> Any:
    """The client that vLLM brings with it; not a dependency of ours."""
    try:
        return importlib.import_module("openai")
    except ImportError:
        raise UserError("vllm_server needs the package `openai`: pip install 'mmpu[vllm]', or openai alone") from None
