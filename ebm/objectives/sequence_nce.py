"""Noise-contrastive estimation of whole sequences: the residual of a model that writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from ebm.decoding.rerank import Reranker
from ebm.decoding.sequences import check_base, draw, one_hot, split_rows
from ebm.interfaces import Batch, EnergyFn, Loss, Objective, Task, bind, evaluate
from ebm.interfaces.abilities import WritesAnswers, WritesText, lacking
from ebm.samplers import GradientDescent


class SequenceNCE(Objective):
    """Trains an energy of whole sequences to tell the data's from those that a base model draws.

        L = E[softplus(−G(x | c))] + ν E[softplus(G(x' | c))],    G(u | c) = −E(u | c) − log Z − log ν,

    for prompts c, with x as the data go on, and ν draws x' of the base for each. The base's
    likelihood is that of the noise and of the model p(x | c) = p_base(x | c) exp(−E(x | c)) / Z
    alike, so that it cancels: L is least where p is the data's. log Z, the parameter `log_z`, is
    shared by all prompts; `ebm.judging.residual` estimates each prompt's own.

    Rows of text are split into a prompt, whose length is drawn for each row, and what follows up to
    the end of text. Of answers, the context is the prompt. Draws are kept, and met again with
    further batches: a share `fresh` of a batch's prompts is drawn for anew. They are saved with
    checkpoints, and are each process's own.

    Source: Deng et al., Residual energy-based models for text generation (arXiv 2004.11714); EDLM
    (arXiv 2410.21357) has the same of each step of a diffusion model. NCE: Gutmann and Hyvärinen,
    2012.
    Terms: energy_data, energy_noise, accuracy (data and draws counting alike), log_z.

    Arguments:
        base: the model whose residual is trained, frozen: `Transformer`, `LeftToRight`, or any that
            `ebm.decoding.sequences.check_base` takes. A recipe names a run: base = "runs/x".
        task: says what ends a text.
        ratio: ν, draws for each row of data.
        prompt: the fewest and the most tokens of a prompt of text, drawn evenly.
        fresh: the share of a batch's prompts for which the base draws anew; 1 keeps nothing.
        capacity: how many draws are kept.
        log_z: where log Z starts.

    Raises:
        ValueError: for such a model as has no likelihood, numbers out of range, and (at the call) an
            energy of single tokens, or batches that are no sequences.

    >>> from ebm.baselines import Transformer
    >>> from ebm.energies import SequenceEBT
    >>> objective = SequenceNCE(Transformer(5, dim=8, depth=1, heads=2), prompt=(1, 2))
    >>> batch = Batch(torch.tensor([[1, 2, 3, 4]]), torch.tensor([[0, 1, 2, 3]]))
    >>> loss = objective(SequenceEBT(5, dim=8, depth=1, heads=2), batch)    # that is 0 at first
    >>> round(loss.value.item() / math.log(2), 4)
    2.0
    """

    def __init__(
        self,
        base: Any,
        task: Task | None = None,
        ratio: int = 1,
        prompt: Sequence[int] = (1, 8),
        fresh: float = 0.25,
        capacity: int = 4096,
        log_z: float = 0.0,
    ) -> None:
        super().__init__()
        check_base(base)
        if ratio < 1 or capacity < 1 or not 0 < fresh <= 1 or not math.isfinite(log_z):
            what = f"ratio={ratio}, capacity={capacity}, fresh={fresh}, log_z={log_z}"
            raise ValueError(f"{what}: ratio and capacity are at least 1, fresh is in (0, 1], and log_z finite")
        if len(prompt) != 2 or not 1 <= prompt[0] <= prompt[1]:
            raise ValueError(f"prompt={prompt}: pass (fewest, most) tokens, at least 1")
        self.base = base.requires_grad_(False)
        self.sampler = GradientDescent(step_size=float(getattr(base, "natural_step", 1)), steps=1, retraction="softmax")
        self.end: int | None = None if lacking(task, WritesText) else task.tokenizer.end  # type: ignore[union-attr]
        self.ratio, self.prompt, self.fresh, self.capacity = ratio, (prompt[0], prompt[1]), fresh, capacity
        self.log_z = nn.Parameter(torch.tensor(float(log_z)))
        # (P, T) -> prompts, draws and weights, the oldest first
        self.kept: dict[tuple[int, int], tuple[Tensor, ...]] = {}

    def pairs(self, batch: Batch, generator: Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Splits a batch: prompts (B, P), what follows (B, T), and weights (B,), 0 where nothing follows."""
        target, context, weight = batch
        for name, ids in (("target", target), ("context", context)):
            if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point():
                what = f"{ids.dtype} {tuple(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
                raise ValueError(f"the batch's {name} is {what}: sequences are ids (B, S), as of the tasks text and arithmetic")
        if isinstance(self.base, WritesAnswers):
            return context, target, self.log_z.new_ones(len(target)) if weight is None else weight
        low, high = self.prompt
        if high > target.shape[1]:
            raise ValueError(f"prompt={self.prompt}, but rows have {target.shape[1]} tokens to predict: pass shorter prompts")
        known = torch.randint(low, high + 1, (len(target),), generator=generator, device=target.device)
        prompts, rest = split_rows(batch, known, self.end, high)
        rest = rest[:, : target.shape[1] + 1 - low]
        going_on = rest[:, 0] >= 0  # the others have ended before: of them there is nothing to tell
        if not bool(going_on.any()):
            raise ValueError(f"prompt={self.prompt}: all rows of a batch end within their prompts: pass shorter ones")
        return prompts, rest, going_on.to(self.log_z.dtype)

    def draws(
        self, prompts: Tensor, weight: Tensor, length: int, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draws ν sequences for each prompt (B, P), or meets kept ones: prompts (ν B, P), (ν B, T), (ν B,)."""
        wanted = self.ratio * len(prompts)
        if self.fresh < 1 and self.capacity < wanted:
            raise ValueError(f"capacity={self.capacity}: a batch of {len(prompts)} rows needs {wanted} draws: pass as much")
        key = (prompts.shape[1], length)
        before = self.kept.get(key, (prompts[:0], prompts.new_empty(0, length), weight[:0]))
        count = math.ceil(self.fresh * len(prompts))
        if len(before[0]) + self.ratio * count < wanted:
            count = len(prompts)
        how: dict[str, Any] = {"length": length, "window": length + self.prompt[0], "end": self.end}  # no longer than the data's
        new = draw(self.base, prompts[:count], self.ratio, generator=generator, **how).flatten(0, 1)
        found = (prompts[:count].repeat(self.ratio, 1), new, weight[:count].repeat(self.ratio))
        if self.fresh == 1:
            return found
        kept = tuple(torch.cat([old.to(more), more])[-self.capacity :] for old, more in zip(before, found, strict=True))
        self.kept[key] = kept
        rows = torch.randperm(len(kept[0]), generator=generator, device=new.device)[:wanted]
        return kept[0][rows], kept[1][rows], kept[2][rows]

    def forward(self, energy: EnergyFn, batch: Batch, *, start: Tensor | None = None, generator: Generator | None = None) -> Loss:
        if start is not None:
            raise ValueError("start is given, but noise-contrastive estimation moves no chains: leave it out")
        prompts, rest, weight = self.pairs(batch, generator)
        asked, drawn, weight_of_draws = self.draws(prompts, weight, rest.shape[1], generator)
        y = one_hot(torch.cat([rest, drawn]), self.base.vocab_size).to(self.log_z.dtype)
        found = evaluate(bind(energy, torch.cat([prompts, asked])), y)
        if found.ndim != 1:
            raise ValueError(
                f"energies have shape {tuple(found.shape)} for {len(y)} sequences: pass an energy of whole sequences, such as "
                f"sequence-ebt or belief-ebt"
            )
        at_data, at_draws = found[: len(rest)], found[len(rest) :]
        odds = self.log_z + math.log(self.ratio)
        of_data, of_draws = Batch(None, weight=weight), Batch(None, weight=weight_of_draws)
        loss = of_data.mean(functional.softplus(at_data + odds))
        loss = loss + self.ratio * of_draws.mean(functional.softplus(-at_draws - odds))
        right = of_data.mean((at_data + odds < 0).to(loss.dtype)) + of_draws.mean((at_draws + odds > 0).to(loss.dtype))
        terms = {"energy_data": of_data.mean(at_data.detach()), "energy_noise": of_draws.mean(at_draws.detach())}
        return Loss(loss, {**terms, "accuracy": right / 2, "log_z": self.log_z.detach().clone()})

    def predictor(self, energy: EnergyFn) -> Reranker:
        """Makes what a task judges: the best of 16 draws, by the energy."""
        return Reranker(energy, self.base)

    def get_extra_state(self) -> dict[str, Tensor]:
        named = {f"{p}.{t}.{place}": part for (p, t), parts in self.kept.items() for place, part in enumerate(parts)}
        return {"kinds": torch.tensor(len(self.kept)), **named}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        keys = {tuple(map(int, name.split(".")[:2])) for name in state if name != "kinds"}
        self.kept = {(p, t): tuple(state[f"{p}.{t}.{place}"] for place in range(3)) for p, t in sorted(keys)}

    def extra_repr(self) -> str:
        return f"ratio={self.ratio}, prompt={self.prompt}, fresh={self.fresh}, capacity={self.capacity}"
