"""Runs judged by lm-evaluation-harness, through its own interface of language models."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from ebm.commands.console import print_json, print_table
from ebm.randomness import stream
from ebm.runs.run import Run
from ebm.runs.writing import writes
from ebm.tasks.text.answering import written
from ebm.tasks.text.likelihood import likelihoods

try:
    from lm_eval.api.model import TemplateLM as Base
except ImportError:  # whoever makes a HarnessModel is told what to install
    Base: Any = object  # type: ignore[no-redef]

NEW_TOKENS = 256  # that a task's answer has at most, where it says nothing else: the harness's own number
SAID = {"until", "max_gen_toks", "temperature", "do_sample"}  # of generation, by tasks


class HarnessModel(Base):
    """A run as a language model of lm-evaluation-harness (its `LM` interface).

    A text begins behind an end-of-text, as documents do in training. Log-likelihoods are minus the
    sums of the task's `distance`; what is longer than the run's context loses its beginning, and
    what is to be scored is never cut, but scored in parts.

    Arguments:
        run: a run on text.
        batch_size: rows that are predicted at a time.
        seed: what starts, noise and sampled texts are drawn from.

    Raises:
        ImportError: the harness is not installed.
        ValueError: the run was not trained on text.
    """

    def __init__(self, run: Run, *, batch_size: int = 32, seed: int = 0) -> None:
        if Base is object:
            raise ImportError("lm_eval is not installed: pip install 'ebm-toolkit[lm-eval]'")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: it must be at least 1")
        super().__init__()
        self.run, self.task, self.batch_size = run, writes(run), batch_size
        self.generator = stream(seed, "lm-eval", device=run.device)

    @property
    def eot_token_id(self) -> int:
        return self.task.tokenizer.end

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        return self.task.tokenizer.encode(string)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Computes the log-likelihood of each whole text, each token once, behind an end-of-text."""
        texts = [request.args[0] for request in requests]
        found = [each[0] for each in self._scored(([self.eot_token_id], self.tok_encode(text)) for text in texts)]
        for text, value in zip(texts, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), value)
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Writes on from contexts, whose beginnings are cut where they are too long.

        Raises:
            ValueError: a task asks for a way of generating that there is not.
        """
        found: list[str] = []
        for how, group in groupby(requests, key=lambda request: request.args[1]):
            options, asked = _options(how), list(group)
            for first in range(0, len(asked), self.batch_size):
                contexts = [request.args[0] for request in asked[first : first + self.batch_size]]
                prompts = [[self.eot_token_id, *self.tok_encode(text)] for text in contexts]
                self._warn([len(ids) for ids in prompts])
                prompts = [ids[-self.task.context_length :] for ids in prompts]
                tokenizer, generator = self.task.tokenizer, self.generator
                texts = written(self.run.thinker, self.task, tokenizer, prompts, **options, generator=generator)
                for context, text in zip(contexts, texts, strict=True):
                    self.cache_hook.add_partial("generate_until", (context, how), text)
                found += texts
        return found

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        end = self.eot_token_id
        pairs = [(before if before == [end] else [end, *before], tokens) for _, before, tokens in requests]
        self._warn([len(before) + len(tokens) - 1 for before, tokens in pairs])
        found = self._scored(pairs)
        for (texts, *_), value in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, value)
        return found

    def _warn(self, lengths: list[int]) -> None:
        window = self.task.context_length
        if cut := sum(length > window for length in lengths):
            what = f"{cut} of {len(lengths)} contexts lose their beginning"
            warnings.warn(f"{what}: they are longer than the run's context={window}", stacklevel=3)

    def _scored(self, pairs: Iterable[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        how: dict[str, Any] = {"rows_at_once": self.batch_size, "generator": self.generator}
        return [tuple(each) for each in likelihoods(self.run.thinker, self.task, pairs, **how)]  # type: ignore[misc]


def _options(how: dict[str, Any]) -> dict[str, Any]:
    if unknown := how.keys() - SAID:
        raise ValueError(
            f"a task generates with {', '.join(sorted(unknown))}={how[min(unknown)]!r}: only {', '.join(sorted(SAID))} work"
        )
    until, temperature = how.get("until") or [], float(how.get("temperature") or 0.0)
    stop = [text for text in ([until] if isinstance(until, str) else until) if text]
    drawn = how.get("do_sample", temperature > 0)
    return {
        "stop": stop,
        "max_new_tokens": how.get("max_gen_toks", NEW_TOKENS),
        "temperature": (temperature or 1.0) if drawn else 0.0,
    }


def lm_eval(
    run: Run,
    /,
    *,
    tasks: list[str],
    include: Path | None = None,
    limit: int | None = None,
    few_shot: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Judge a run by tasks of lm-evaluation-harness (pip install 'ebm-toolkit[lm-eval]').

    Args:
        run: the run folder, or a model's name.
        tasks: names of the harness's tasks, divided by commas; or more than once.
        include: a folder with tasks of your own (the harness's .yaml files, which may run code).
        limit: how many documents of each task at most.
        few_shot: how many solved examples are put before each; by default the task's own number.
        batch_size: rows that are predicted at a time.
        seed: what starts, noise and sampled texts are drawn from.
        json: print JSON.
    """
    model = HarnessModel(run, batch_size=batch_size, seed=seed)  # says where the harness is missing
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    names = [name.strip() for each in tasks for name in each.split(",")]
    manager = TaskManager(include_path=None if include is None else str(include))
    if unknown := [name for name in names if not manager.match_tasks([name])]:
        raise ValueError(f"--tasks {','.join(unknown)}: the harness has no task of this name; --include FOLDER names your own")
    how: dict[str, Any] = {"num_fewshot": few_shot, "limit": limit, "task_manager": manager, "log_samples": False}
    results = simple_evaluate(model, tasks=names, **how)["results"]
    if json:
        print_json(results)
        return
    rows = []
    for task, numbers in results.items():
        for key, value in numbers.items():
            metric, _, kind = key.partition(",")
            if isinstance(value, int | float) and not isinstance(value, bool) and kind and not metric.endswith("_stderr"):
                error = numbers.get(f"{metric}_stderr,{kind}")
                rows.append((task, metric, kind, f"{value:.5g}", f"{error:.2g}" if isinstance(error, float) else ""))
    print_table("lm-evaluation-harness", ("task", "metric", "filter", "value", "standard error"), rows)
