"""`ebm eval RUN`: judge a run once more, or by data of one's own."""

from __future__ import annotations

from ebm.commands.console import print_json, print_numbers
from ebm.randomness import stream
from ebm.runs.run import Run


def evaluate(
    run: Run,
    /,
    *,
    split: str | None = None,
    limit: int | None = None,
    seed: int | None = None,
    data: str | None = None,
    format: str | None = None,
    column: str = "text",
    json: bool = False,
) -> None:
    """Evaluate a run by its task; without options, to the numbers that the run ended with.

    With data of one's own, a language model's perplexity of all the text (each token counts once),
    or what a question set's benchmark counts.

    Args:
        run: the run folder, or a model's name.
        split: the part of the run's own data to judge by; by default test.
        limit: how many examples at most; by default what the recipe says, of --data all.
        seed: what every random draw is derived from; by default the recipe's.
        data: a file, folder, glob or hub name of documents, or of questions and answers.
        format: of --data: text, lambada, gsm8k, squad, arc or bigbench; by default what the fields
            of its rows say, where text is no lambada.
        column: where the text of --data's documents is.
        json: print JSON.
    """
    if data is None:
        if format is not None or column != "text":
            raise ValueError("--format and --column say how --data is read: pass --data FILE, too")
        found = run.evaluate(split or "test", limit=limit, seed=seed)
    else:
        from ebm.runs.writing import writes
        from ebm.tasks.text.whole import task_of

        if split is not None:
            raise ValueError(
                f"--split {split} is of the run's own data, but --data {data} is judged whole: leave one of them out"
            )
        task = task_of(data, writes(run), format, column)
        generator = stream(run.recipe.get("seed", 0) if seed is None else seed, "evaluate", "data", device=run.device)
        found = task.evaluate(run.thinker, limit=limit, generator=generator)
    (print_json if json else print_numbers)(found)
