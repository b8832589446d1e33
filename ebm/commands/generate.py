"""`ebm generate RUN`: write on from prompts."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import Any

from ebm.commands.console import say
from ebm.runs.run import Run
from ebm.runs.writing import write


def generate(
    run: Run,
    /,
    *,
    prompt: list[str] | None = None,
    prompts: str | None = None,
    n: int = 1,
    max_new_tokens: int = 200,
    stop: list[str] | None = None,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    think_steps: int | None = None,
    candidates: int = 1,
    patience: int | None = None,
    rerank: int | None = None,
    resample: bool = False,
    cut: bool = False,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Generate text from a run: prints what follows a prompt as it comes, or several one by one.

    Args:
        run: the run folder, or a model's name.
        prompt: what the text begins with ("" for a new document); more than once for several texts.
        prompts: a file of prompts, or - for standard input: a line each, or in a .jsonl a string, or
            an object with a "prompt", a line.
        n: how many texts of each prompt.
        max_new_tokens: how many tokens to add at most; end-of-text ends a text before.
        stop: a text that ends the text, and is left out; more than once for several.
        temperature: what logits are divided by; 0 takes the likeliest token.
        top_k: draw from this many of the likeliest tokens.
        top_p: draw from the likeliest tokens, as few as have this probability together.
        think_steps: steps per landscape for each token; by default the run's.
        candidates: starts that are tried for each token, of which the energy chooses.
        patience: think about a token until its energy fell no further for this many steps.
        rerank: how many texts the base of a sequence-nce run draws for each one that is shown: that of the
            lowest energy. The energies go to standard error, and into --json.
        resample: draw the one that is shown by its importance weight, softmax(-E) over them; at
            --temperature 1, without --top-k and --top-p, a draw of the model as their number grows.
        cut: keep the end of a prompt that is longer than the run's context.
        seed: what every random draw is derived from; a text does not depend on those beside it.
        json: print a line of JSON for each text: its prompt, text and finish_reason, which is "end"
            (of text), "stop" (a stop string) or "length" (max_new_tokens, or no more room).
    """
    asked = [*(prompt or []), *(read_prompts(prompts) if prompts is not None else [])]
    if not asked:
        raise ValueError('no prompt: pass --prompt TEXT ("" for a new document), or --prompts FILE')
    drawing = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "stop": stop, "seed": seed, "cut": cut}
    thinking = {"think_steps": think_steps, "candidates": candidates, "patience": patience}
    thinking |= {"rerank": rerank, "resample": resample}
    written = write(run, asked, n=n, max_new_tokens=max_new_tokens, **drawing, **thinking)  # type: ignore[arg-type]
    whole = [text for text in asked for _ in range(n)]
    if len(whole) == 1 and not json:
        say(whole[0], end="", flush=True)
        found: tuple[float, ...] = ()
        for _, piece, _, energies in written:
            say(piece, end="", flush=True)
            found = energies
        print(flush=True)
        _tell(found)
        return
    said, ended, shown = [""] * len(whole), [""] * len(whole), 0
    chosen: list[tuple[float, ...]] = [()] * len(whole)
    for row, piece, finish, energies in written:
        said[row] += piece
        ended[row], chosen[row] = finish or "", energies
        while shown < len(whole) and ended[shown]:  # texts are written beside each other, and shown in their order
            if json:
                line: dict[str, Any] = {"prompt": whole[shown], "text": said[shown], "finish_reason": ended[shown]}
                if chosen[shown]:
                    line |= {"energy": chosen[shown][0], "energies": sorted(chosen[shown])}
                print(jsonlib.dumps(line), flush=True)
            else:
                say(whole[shown], said[shown], "\n", sep="", flush=True)
                _tell(chosen[shown])
            shown += 1


def _tell(energies: tuple[float, ...]) -> None:
    """Says which energy was chosen, and among which."""
    if energies:
        among = f"among {len(energies)} from {min(energies):.4g} to {max(energies):.4g}"
        print(f"energy {energies[0]:.4g}, {among}", file=sys.stderr, flush=True)


def read_prompts(name: str) -> list[str]:
    """Reads prompts from a file, or from standard input where it is named "-".

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no UTF-8, has no line, or a line of a .jsonl is no prompt.
    """
    path = Path(name).expanduser()
    try:
        text = sys.stdin.read() if name == "-" else path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"--prompts {name}: it is no UTF-8 text ({error})") from error
    lines = text.removesuffix("\n").split("\n") if text else []
    if not lines:
        raise ValueError(f"--prompts {name}: it has no line")
    if path.suffix not in (".jsonl", ".json"):
        return [line.removesuffix("\r") for line in lines]
    found = []
    for number, line in enumerate(lines, 1):
        try:
            row = jsonlib.loads(line)
        except ValueError as error:
            raise ValueError(f"--prompts {name}: line {number} is no JSON ({error})") from error
        row = row.get("prompt") if isinstance(row, dict) else row
        if not isinstance(row, str):
            raise ValueError(f'--prompts {name}: line {number} is no string, and no object with a "prompt": {line[:60]}')
        found.append(row)
    return found
