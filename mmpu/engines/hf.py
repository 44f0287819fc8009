"""The student itself, in process: each prompt is encoded once, its cache is shared by the samples of a group.

Sampling draws one uniform number per token from a generator of its own per response, keyed by seed, sample id and
index, so a response does not depend on what else is in the batch. Inverse-CDF sampling; see docs/architecture.md for
why not `multinomial`.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from mmpu.core import Answer, Choice, Engine, Failed, Likelihood, Response, Sample, Sampling, UserError
from mmpu.knobs import MAY_CHANGE, Count
from mmpu.student import ROWS, Decoded, Decoding, Encoded, Footprint, Student, Tree, free_memory, share, within_budget

STEPS = 64
"""Steps of sampling whose random numbers are drawn at once."""
MARGIN = 16
"""Tokens that only frame what is said, or begin a character, beyond those of a stop string."""
BLOCK = 512
"""Tokens of the vocabulary that sampling adds up at a time."""


@dataclass(frozen=True)
class HF(Engine):
    student: Student
    weights: Literal["live", "frozen"] = "live"
    """`frozen` answers with the weights that the stage started from."""
    rows: Annotated[Count | None, MAY_CHANGE] = None
    """Responses decoded at a time; None takes 256 on a CPU, and on CUDA as many as half of the free memory holds."""
    tokens_per_pass: Annotated[Count | None, MAY_CHANGE] = None
    """Padded tokens of one forward of `choose` or `likelihoods`; None takes 2,048 on a CPU, where small passes stay in
    its caches, and 32,768 elsewhere."""

    @property
    def identity(self) -> str:
        return f"hf:{self.student.config.model}:{self.weights}"

    @contextlib.contextmanager
    def _inference(self):
        training = self.student.model.training
        self.student.model.eval()
        frozen = self.student.frozen() if self.weights == "frozen" else contextlib.nullcontext()
        with torch.no_grad(), frozen, self.student.computing():  # casts of weights are kept until the end
            yield
        self.student.model.train(training)

    def generate(self, samples: Sequence[Sample], n: int, sampling: Sampling) -> list[tuple[Response, ...] | Failed]:
        """A response that reaches the end of the model's context is left unfinished there; a prompt that does not fit
        fails. Several prompts of one sample, such as those that grade its answers, are encoded once as far as they are
        alike.

        Raises:
            UserError: sampling was found not to give what transformers gives when the model was loaded.
        """
        results: list[tuple[Response, ...] | Failed] = [()] * len(samples)
        with self._inference():
            for index, found in self._drawn(samples, n, sampling):
                results[index] = found
        return results

    def answers(self, samples: Sequence[Sample], n: int, sampling: Sampling) -> Iterator[Answer[tuple[Response, ...]]]:
        """`generate`, in the same batches."""
        drawn = self._drawn(samples, n, sampling)
        while True:
            with self._inference():  # who takes the answers is not in it
                piece = list(islice(drawn, max(1, self._rows(sampling) // n)))
            if not piece:
                return
            for index, found in piece:
                tokens = 0 if isinstance(found, Failed) else sum(len(response.tokens or ()) for response in found)
                yield Answer(index, found, {"tokens_out": tokens} if tokens else {})

    def _drawn(
        self, samples: Sequence[Sample], n: int, sampling: Sampling
    ) -> Iterator[tuple[int, tuple[Response, ...] | Failed]]:
        """What each sample is answered, by its place: what cannot be encoded first, then batches of alike lengths."""
        refuse_unsampled(self.student)
        encoded = [self._encode(sample) for sample in samples]
        yield from ((i, e) for i, e in enumerate(encoded) if isinstance(e, Failed))
        fits = [(i, e) for i, e in enumerate(encoded) if isinstance(e, Encoded)]
        alike = n == 1 and len({sample.id for sample in samples}) < len(samples)
        by_length = sorted(fits, key=lambda pair: len(pair[1].ids)) if not alike else fits
        longest = max((len(e.ids) for _, e in fits), default=0)
        per_call = max(1, self._rows(sampling, longest) // n)
        for start in range(0, len(by_length), per_call):
            chosen = by_length[start : start + per_call]
            streams = [_stream(sampling.seed, samples[i].id, k) for i, _ in chosen for k in range(n)]
            decoded = self._decoded([prompt for _, prompt in chosen], n, sampling, streams, alike)
            responses = [self._response(row) for row in decoded]
            for place, (i, _) in enumerate(chosen):
                yield i, tuple(responses[place * n : (place + 1) * n])

    def _decoded(
        self, prompts: list[Encoded], n: int, sampling: Sampling, streams: list[np.random.Generator], alike: bool
    ) -> list[Decoded]:
        student = self.student
        uniform = Uniform(streams, student.device)
        # A character is at most four tokens, so a stop string that ends with the last one begins among these.
        tail = 4 * max(map(len, sampling.stop), default=0) + MARGIN

        def drawn(logits_BV: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
            return draw(logits_BV, uniform(rows), sampling)

        def stopped(tokens: Sequence[int]) -> str | None:
            if not sampling.stop or sampling.before_stop(student.decode(tokens[-tail:])) is None:
                return None
            return sampling.before_stop(student.decode(tokens))

        return Decoding(student, n, sampling.max_tokens, drawn, stopped, student.eos, alike)(prompts)

    def _response(self, row: Decoded) -> Response:
        text = row.cut if row.cut is not None else self.student.decode(row.tokens)
        return Response(self.student.said(text), row.tokens, row.logp, row.finished)

    def choose(self, samples: Sequence[Sample], options: Sequence[str]) -> list[Choice | Failed]:
        ids = [self.student.option_ids(option) for option in options]
        encoded = [self._encode(sample) for sample in samples]
        # Short answers are often sampled twice; the same question is asked once.
        distinct = {(e.ids, e.images): e for e in encoded if isinstance(e, Encoded)}
        asked = (self.student.pad,)  # stands for the answer, which is predicted and not read
        shared = share(list(distinct.values()))
        trees = [Tree(trunk, tuple(branch + asked for branch in branches)) for trunk, branches in shared]
        choices: list[list[Choice]] = [[] for _ in trees]
        with self._inference():
            for places in self._passes(trees):
                packed = self.student.pack([trees[i] for i in places]).to(self.student.device)
                logits = self.student.logits(self.student.hidden(packed, packed.end_M))
                total_M1 = logits.logsumexp(1, keepdim=True)
                mass = torch.stack([(logits[:, i].double() - total_M1).exp().sum(1) for i in ids], 1).tolist()
                read = iter([Choice(dict(zip(options, row, strict=True)), max(0.0, 1.0 - sum(row))) for row in mass])
                for place in places:
                    choices[place] = [next(read) for _ in trees[place].branches]
        found = dict(zip(distinct, chain.from_iterable(choices), strict=True))
        return [e if isinstance(e, Failed) else found[e.ids, e.images] for e in encoded]

    def likelihoods(self, samples: Sequence[Sample], responses: Sequence[Response]) -> list[Likelihood | Failed]:
        """Consecutive prompts that begin alike are encoded once. What the student sampled is weighed token by token as
        sampled, any other text as it would be trained on."""
        results: list[Likelihood | Failed] = []
        asked: dict[int, tuple[Encoded, tuple[int, ...]]] = {}
        limit = self.student.encoder.limit
        for i, (sample, response) in enumerate(zip(samples, responses, strict=True)):
            prompt = self._encode(sample)
            results.append(prompt if isinstance(prompt, Failed) else Failed(f"sample {sample.id!r}: an empty answer"))
            if isinstance(prompt, Failed):
                continue
            ids = self.student.response_ids(sample, response)
            if limit and len(prompt.ids) + len(ids) > limit:
                together = f"a prompt of {len(prompt.ids)} tokens and an answer of {len(ids)}"
                results[i] = Failed(f"sample {sample.id!r}: {together} are more than the {limit} that the model reads")
            elif ids:
                asked[i] = prompt, ids
        targets = iter(ids for _, ids in asked.values())
        shared = share([prompt for prompt, _ in asked.values()])
        trees = [Tree(trunk, tuple(tail + next(targets) for tail in tails)) for trunk, tails in shared]
        found: list[list[Tensor]] = [[] for _ in trees]
        with self._inference():
            for places in self._passes(trees):
                chunk = [trees[i] for i in places]
                logp_N = self.student(self.student.pack(chunk)).double()
                read = iter(logp_N.split([len(branch) for tree in chunk for branch in tree.branches]))
                for place in places:
                    found[place] = [next(read) for _ in trees[place].branches]
        for (i, (_, ids)), logp_T in zip(asked.items(), chain.from_iterable(found), strict=True):
            results[i] = Likelihood(float(logp_T[-len(ids) :].sum()), len(ids))
        return results

    def _passes(self, trees: Sequence[Tree]) -> list[list[int]]:
        """The places of the trees that go through together: those of about one length, so that little is padding."""
        by_length = sorted(range(len(trees)), key=lambda i: trees[i].tokens)
        return within_budget(by_length, lambda i: trees[i].tokens, self._budget)

    def _rows(self, sampling: Sampling, prompt: int = 0) -> int:
        """Responses decoded at a time, to prompts of up to so many tokens."""
        student = self.student
        if self.rows is not None or student.device.type != "cuda":
            return self.rows or ROWS
        found, vocabulary = Footprint.of(student), int(student.head.weight_VH.shape[0])
        tokens = prompt + sampling.max_tokens
        return found.rows(free_memory(student.device), tokens, vocabulary) if found else ROWS

    @property
    def _budget(self) -> int:
        """Padded tokens of one forward."""
        return self.tokens_per_pass or (2048 if self.student.device.type == "cpu" else 32768)

    def _encode(self, sample: Sample) -> Encoded | Failed:
        try:
            return self.student.encode(sample)
        except UserError as error:
            return Failed(str(error))


class Uniform:
    """A number per row and step, of the row's own stream; drawn and taken to the device a block of steps at a time."""

    def __init__(self, streams: Sequence[np.random.Generator], device: torch.device) -> None:
        self.streams, self.device = streams, device
        self.step = 0
        self.block = torch.empty(0)
        self.rows: Sequence[int] = ()
        self.places = torch.empty(0, dtype=torch.long)

    def __call__(self, rows: Sequence[int]) -> Tensor:
        """(rows,) in float64, at every call the next step's; a row that was once left out does not come back."""
        if self.step % STEPS == 0:
            drawn = np.zeros((len(self.streams), STEPS))
            for row in rows:
                drawn[row] = self.streams[row].random(STEPS)
            self.block = torch.from_numpy(drawn.T.copy()).to(self.device)
        if self.rows is not rows:
            self.rows, self.places = rows, torch.tensor(rows, device=self.device)
        self.step += 1
        return self.block[(self.step - 1) % STEPS].index_select(0, self.places)


def _stream(seed: int, sample_id: str, index: int) -> np.random.Generator:
    key = hashlib.sha256(f"{seed}|{sample_id}|{index}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16])))


def draw(logits_BV: Tensor, uniform_B: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Tokens and their log-probabilities under the sampling distribution, by inverse CDF.

    Truncations apply in the order top-k, top-p, min-p to the tempered distribution, which is then renormalised.
    """
    if sampling.temperature == 0:
        token = logits_BV.argmax(1)
        return token, torch.zeros_like(token, dtype=torch.float32)
    tempered_BV = logits_BV if sampling.temperature == 1 else logits_BV / sampling.temperature
    if not (sampling.top_k == 0 and sampling.top_p == 1 and sampling.min_p == 0):
        tempered_BV = _truncate(tempered_BV, sampling)
    # torch's log_softmax adds float32 up in no more sums than a vector has lanes: over 128k tokens of nearly equal mass
    # it is off by 2e-4 with AVX2.
    shifted_BV = tempered_BV - tempered_BV.amax(1, keepdim=True)
    mass_BV = shifted_BV.exp()
    token = _inverse_cdf(mass_BV, uniform_B)
    return token, shifted_BV.gather(1, token[:, None])[:, 0] - mass_BV.sum(1).log()


def _inverse_cdf(mass_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """The first token whose cumulative mass exceeds `uniform` of the whole, which therefore has mass.

    First its block is found, then its place there: cumulative sums in float64 over the whole vocabulary cost more than
    the rest of the drawing.
    """
    rest = -mass_BV.shape[1] % BLOCK
    blocks_BGW = (pad(mass_BV, (0, rest)) if rest else mass_BV).unflatten(1, (-1, BLOCK))
    edge_BG = blocks_BGW.sum(2).cumsum(1, dtype=torch.float64)
    at_B1 = (uniform_B * edge_BG[:, -1])[:, None]
    block_B1 = torch.searchsorted(edge_BG, at_B1, right=True).clamp(max=edge_BG.shape[1] - 1)
    before_B1 = pad(edge_BG, (1, 0)).gather(1, block_B1)
    chosen_BW = blocks_BGW.gather(1, block_B1[:, :, None].expand(-1, -1, BLOCK))[:, 0]
    inside_BW = chosen_BW.cumsum(1, dtype=torch.float64)
    place_B1 = torch.searchsorted(inside_BW, at_B1 - before_B1, right=True)
    last_B1 = torch.searchsorted(inside_BW, inside_BW[:, -1:].contiguous())  # guards the last bit of rounding
    return (block_B1 * BLOCK + torch.minimum(place_B1, last_B1))[:, 0]


def _truncate(logits_BV: Tensor, sampling: Sampling) -> Tensor:
    ranked, order = logits_BV.sort(1, descending=True)
    keep = torch.ones_like(ranked, dtype=torch.bool)
    if sampling.top_k:
        keep[:, sampling.top_k :] = False
    kept = ranked.masked_fill(~keep, float("-inf")).softmax(1)
    # A token stays if the mass before it is below top_p, so the likeliest always stays.
    keep &= kept.cumsum(1) - kept < sampling.top_p
    keep &= ranked >= ranked[:, :1] + np.log(sampling.min_p) if sampling.min_p else keep
    return logits_BV.masked_fill(~torch.zeros_like(keep).scatter(1, order, keep), float("-inf"))


def refuse_unsampled(student: Student) -> None:
    """Raises:
    UserError: sampling was found not to give what transformers gives when the model was loaded.
    """
    if student.unsampled:
        raise UserError(
            f"{student.config.model} cannot be sampled in process: {student.unsampled}. "
            "Sample it with vLLM, if that knows it (`rollout: vllm`), or train on answers that are given (sft)"
        )
