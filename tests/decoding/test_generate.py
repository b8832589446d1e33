"""Laws of generation: a cached past changes nothing but the time, rows are independent, and the same seed is the same text."""

from __future__ import annotations

import contextlib
import io
import json

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import ebm
from ebm import cli, recipes
from ebm.baselines import Transformer
from ebm.decoding.generate import draw, generate
from ebm.energies import MLPEnergy
from ebm.energies.ebt import ResidualTextEBT, TextEBT
from ebm.energies.ebt.streams import CausalStream
from ebm.interfaces import Given
from ebm.runs.run import Run
from ebm.samplers import GradientDescent
from ebm.tasks import Points
from ebm.tasks.text.tokenizers import Bytes, pieces
from ebm.tasks.text.writing import Continuation
from ebm.thinking import think
from tests.concatenated import landscapes_of
from tests.fake_plugins import quick_report

V = 13
TINY = {"dim": 8, "depth": 2, "heads": 2}
SAMPLER = GradientDescent(step_size=3.0, steps=2, retraction="softmax")
ENERGIES = {
    **{
        f"{c}-{levels}": lambda c=c, levels=levels: TextEBT(V, **TINY, conditioning=c, levels=levels)
        for c, levels in (("none", 1), ("none", 2), ("time", 2), ("adaln", 2), ("adaln-zero", 3))
    },
    "residual": lambda: ResidualTextEBT(V, **TINY, conditioning="time", levels=2),
    "transformer": lambda: Transformer(V, **TINY),
}


def energy_of(name: str = "time-2", seed: int = 0):
    """Makes an energy in float64 with weights that are all random, since some start at zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        energy = ENERGIES[name]().double()
        for parameter in energy.parameters():
            nn.init.normal_(parameter, std=0.7)
    return energy


def texts(energy, prompts, count=12, **keywords) -> Tensor:
    keywords = {"window": 64, "temperature": 0.0, "max_new_tokens": count, **keywords}
    return torch.stack([*generate(energy, SAMPLER, prompts, **keywords)], 1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------------------------------------------------------- the cache


def recomputed(energy, prompt: list[int], count: int, landscapes=lambda energy, ids: energy.landscapes(ids)) -> list[int]:
    """Generates by thinking about every position of the whole prefix at each token."""
    ids = torch.tensor([prompt])
    for _ in range(count):
        start = torch.zeros(1, *ids.shape, V, dtype=torch.float64)
        y = think(landscapes(energy, ids), SAMPLER, start=start).y
        ids = torch.cat([ids, y[:, -1].argmax(-1, keepdim=True)], 1)
    return ids[0, len(prompt) :].tolist()


@pytest.mark.parametrize("name", ENERGIES)
def test_a_cached_past_generates_what_recomputing_it_does(name):
    for seed in range(2):
        energy = energy_of(name, seed)
        found = texts(energy, [[1, 2, 3]], 8)[0].tolist()
        assert found == recomputed(energy, [1, 2, 3], 8)
        assert len(set(found)) > 1


@pytest.mark.parametrize("name", [name for name in ENERGIES if name not in ("residual", "transformer")])
def test_it_is_what_one_concatenated_stream_generates(name):
    energy = energy_of(name)
    assert texts(energy, [[1, 2, 3]], 6)[0].tolist() == recomputed(energy, [1, 2, 3], 6, landscapes_of)


@pytest.mark.parametrize("name", ENERGIES)
def test_ragged_prompts_generate_what_each_does_alone(name):
    prompts = [[1, 2, 3, 4, 5], [6], [7, 8, 9]]
    energy = energy_of(name)
    together = texts(energy, prompts)
    for prompt, row in zip(prompts, together, strict=True):
        assert torch.equal(texts(energy, [prompt])[0], row)


@given(st.data(), st.sampled_from(sorted(ENERGIES)), st.booleans())
@settings(max_examples=30, deadline=None)
def test_extended_codes_never_change(data, name, padded):
    """Any tree of extensions, the same code extended twice included, holds what encoding from the start does."""
    from ebm.energies.ebt.text import Padded

    energy: CausalStream = energy_of(name)
    rows = data.draw(st.integers(1, 2))
    ids = torch.randint(V, (rows, 3), generator=generator(1))
    pad = torch.arange(rows)

    def context(ids):
        return Padded(ids, pad) if padded else ids

    with torch.no_grad():
        tree = [(ids, energy.encode(context(ids)))]
        for _ in range(data.draw(st.integers(1, 6))):
            old, code = tree[data.draw(st.integers(0, len(tree) - 1))]
            more = torch.randint(V, (rows, data.draw(st.integers(1, 3))), generator=generator(len(tree)))
            with torch.enable_grad() if data.draw(st.booleans()) else contextlib.nullcontext():
                tree.append((torch.cat([old, more], 1), energy.extend(code, more)))
        for ids, code in tree:
            fresh = energy.encode(context(ids))
            # What padding says to its own positions is nobody's business.
            assert code.length == fresh.length == ids.shape[1]
            y = torch.rand(rows, 1, V, dtype=torch.float64, generator=generator(2)).softmax(-1)
            torch.testing.assert_close(energy(y, code), energy(y, fresh))
            for a, b in zip((*code.keys, *code.values), (*fresh.keys, *fresh.values), strict=True):
                torch.testing.assert_close(a[..., energy.lead + rows - 1 :, :], b[..., energy.lead + rows - 1 :, :])


def test_appending_copies_the_past_only_now_and_then():
    energy = energy_of()
    with torch.no_grad():
        code = energy.encode(torch.tensor([[1, 2, 3]]))
        places = []
        for token in range(20):
            code = energy.extend(code, torch.tensor([[token % V]]))
            places.append(code.keys[0].untyped_storage().data_ptr())
    assert len(set(places)) <= 4


def test_a_graph_outlives_an_extension_of_its_code():
    energy = energy_of()
    one = torch.tensor([[1]])
    with torch.no_grad():
        code = energy.extend(energy.encode(torch.tensor([[1, 2, 3]])), one)
    y = torch.full((1, 1, V), 1 / V, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(energy(y, code).sum(), y)
    value = energy(y, code).sum()
    with torch.no_grad():
        energy.extend(code, one)
    torch.testing.assert_close(torch.autograd.grad(value, y)[0], expected)


def test_the_past_is_encoded_once_for_landscapes_that_are_one(monkeypatch):
    calls = []
    monkeypatch.setattr(TextEBT, "extend", lambda *a, old=TextEBT.extend: calls.append(1) or old(*a))
    texts(energy_of("none-2"), [[1]], 5)
    assert len(calls) == 4
    texts(energy_of("time-2"), [[1]], 5)
    assert len(calls) == 4 + 2 * 4


@pytest.mark.parametrize("window", [1, 2, 5, 8])
def test_a_full_window_goes_on_from_its_last_half(window):
    energy = energy_of()
    prompt = [1, 2, 3][:window]
    found = texts(energy, [prompt], 20, window=window)[0].tolist()
    ids, length = [*prompt], len(prompt)
    for token in found:
        if length > window:
            length = max(1, window // 2)
        assert [token] == recomputed(energy, ids[-length:], 1)
        ids.append(token)
        length += 1
    assert len(found) == 20


def test_rows_of_different_lengths_go_through_a_full_window():
    found = texts(energy_of(), [[1, 2, 3, 4, 5, 6], [7]], 30, window=6)
    assert found.shape == (2, 30)


# ------------------------------------------------------------------------------------------------------------------ drawing


@pytest.mark.parametrize("start", ["uniform", "noise"])
def test_the_same_generator_draws_the_same_text_and_no_other_is_touched(start):
    before = torch.get_rng_state()
    energy = energy_of()
    found = [
        texts(energy, [[1], [2, 3]], 20, start=start, candidates=2, temperature=1.0, generator=generator(s)) for s in (0, 0, 1)
    ]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert torch.equal(torch.get_rng_state(), before)


NOISY = GradientDescent(step_size=3.0, steps=2, retraction="softmax", noise_std=1.0)


@pytest.mark.parametrize("window", [64, 9])
@pytest.mark.parametrize(
    ("sampler", "keywords"),
    [(SAMPLER, {}), (NOISY, {}), (SAMPLER, {"start": "noise", "candidates": 2}), (SAMPLER, {"candidates": 2, "patience": 1})],
)
@pytest.mark.parametrize("name", ["time-2", "residual", "transformer"])
def test_with_a_generator_each_a_row_s_text_does_not_depend_on_the_rows_beside_it(name, sampler, keywords, window):
    energy, prompts = energy_of(name), [[1, 2, 3], [4], [5, 6, 7], [1, 2, 3]]

    def rows(which: list[int]) -> Tensor:
        own = [generator(index) for index in which]
        how = {"max_new_tokens": 12, "window": window, "temperature": 2.0, "generator": own, **keywords}
        found = torch.stack([*generate(energy, sampler, [prompts[index] for index in which], **how)], 1)
        return torch.nn.functional.pad(found, (0, 12 - found.shape[1]))  # a row that ended repeats its end, 0

    together = rows([0, 1, 2, 3])
    for index in range(4):
        assert torch.equal(rows([index])[0], together[index])
    assert torch.equal(rows([3, 1]), together[[3, 1]])
    assert not torch.equal(together[0], together[3])


@pytest.mark.parametrize(
    "keywords", [{"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-300}, {"temperature": 1e-9, "top_p": 1.0}]
)
def test_what_leaves_one_token_is_greedy(keywords):
    energy = energy_of()
    greedy = texts(energy, [[1, 2], [3]])
    assert torch.equal(texts(energy, [[1, 2], [3]], **{"temperature": 1.0, "generator": generator(), **keywords}), greedy)


@given(st.integers(0, 1000), st.one_of(st.none(), st.integers(1, 9)), st.one_of(st.none(), st.floats(0.01, 1.0)))
@settings(max_examples=30, deadline=None)
def test_only_the_likeliest_are_drawn_in_their_proportions(seed, top_k, top_p):
    logits = torch.randn(6, generator=generator(seed)).mul(2).round()  # ties are frequent
    kept = logits.sort(descending=True, stable=True).indices[:top_k].tolist()
    chances = logits.double()[kept].softmax(0)
    if top_p is not None:
        count = next((i for i in range(1, len(kept)) if chances[:i].sum() >= top_p), len(kept))
        kept = kept[:count]
        chances = chances[:count] / chances[:count].sum()
    n = 2000
    found = draw(logits.expand(n, -1), 1.0, top_k, top_p, generator=generator(seed + 1))
    shares = torch.bincount(found, minlength=6) / n
    assert set(found.unique().tolist()) <= set(kept)
    assert (shares[kept] - chances).abs().max() < 6 / (2 * n**0.5)  # six standard deviations


def test_nothing_is_left_out_at_1():
    logits = torch.zeros(1, 50_000)
    logits[0, 0] = 12.0
    found = draw(logits.expand(200, -1), 1.0, 10**9, 1.0, generator=generator())
    assert found.unique().numel() > 20


def test_temperature_0_takes_the_first_of_the_likeliest():
    assert draw(torch.tensor([[0.0, 1.0, 1.0]]), 0).tolist() == [1]
    assert draw(torch.tensor([[0.0, 1.0, 1.0]]), 1.0, top_k=1).tolist() == [1]
    assert draw(torch.tensor([[0.0, 1.0, 1.0]]), 1.0, top_p=0.1).tolist() == [1]


def test_temperature_flattens():
    logits = torch.tensor([[0.0, 1.0]]).expand(20_000, -1)
    for temperature in (0.5, 2.0):
        share = draw(logits, temperature, generator=generator()).double().mean()
        assert abs(share - torch.tensor(1 / temperature).sigmoid()) < 0.02


# ------------------------------------------------------------------------------------------------------ thinking and ending


def test_more_thinking_and_more_candidates_are_think_s():
    energy = energy_of()
    ids = torch.tensor([[1, 2, 3]])
    starts = torch.empty(4, 1, 1, V, dtype=torch.float64)
    drawing = generator()
    for one in starts:
        one.normal_(generator=drawing)
    thought = think([*energy.landscapes(ids)], SAMPLER, None, starts, candidates=4, steps=5, patience=2)
    keywords = {"candidates": 4, "steps": 5, "patience": 2, "start": "noise", "generator": generator()}
    assert texts(energy, [[1, 2, 3]], 1, **keywords).item() == thought.y[:, -1].argmax(-1).item()


def test_no_number_of_steps_and_no_step_size_is_drawn():
    drawing = GradientDescent(step_size=3.0, steps=(1, 4), step_scale=2.0, retraction="softmax").train()
    plain = GradientDescent(step_size=3.0, steps=4, retraction="softmax")
    found = [[*generate(energy_of(), s, [[1, 2]], max_new_tokens=8, window=9, temperature=0)] for s in (drawing, plain)]
    assert found[0] == found[1]
    assert drawing.training


def test_a_row_that_ended_repeats_the_end_and_the_last_one_to_end_stops_all():
    energy = energy_of()
    prompts = [[1, 2, 3, 4, 5], [6], [7, 8, 9]]
    free = texts(energy, prompts, 60)
    ends = {e: [row.tolist().index(e) for row in free] for e in range(V) if all((row == e).any() for row in free)}
    end, at = max(ends.items(), key=lambda item: len(set(item[1])))
    found = texts(energy, prompts, 60, end=end)
    assert found.shape[1] == max(at) + 1
    for row, plain, first in zip(found, free, at, strict=True):
        assert torch.equal(row[: first + 1], plain[: first + 1])
        assert (row[first:] == end).all()


def test_tokens_come_one_by_one_in_the_caller_s_own_modes():
    energy = energy_of().train()
    tokens = generate(energy, SAMPLER, [[1]], max_new_tokens=3, window=8)
    first = next(tokens)
    assert first.shape == (1,)
    assert torch.is_grad_enabled()
    assert energy.training
    first.fill_(0)  # what a caller does to a token is no concern of the text
    assert sum(1 for _ in tokens) == 2
    assert all(parameter.grad is None for parameter in energy.parameters())


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"prompts": []}, "prompts is empty"),
        ({"generator": [torch.Generator()] * 2}, "generator has 2 generators for 1 prompts"),
        ({"prompts": [[1], []]}, r"prompts\[1\] is empty"),
        ({"prompts": [[1] * 9]}, r"prompts\[0\] has 9 tokens, more than window=8"),
        ({"prompts": [[1, V]]}, "outside the 13 tokens"),
        ({"prompts": [[-1]]}, "outside the 13 tokens"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"window": 0}, "window=0"),
        ({"end": V}, "end=13"),
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 0.0}, r"top_p=0.0"),
        ({"top_p": 1.1}, r"top_p=1.1"),
        ({"start": "data"}, "start='data'"),
        ({"candidates": 0}, "candidates=0"),
        ({"select": "best"}, "select='best'"),
        ({"patience": 0}, "patience=0"),
        ({"steps": -1}, "steps=-1"),
        ({"energy": MLPEnergy(2)}, "energy is MLPEnergy"),
    ],
)
def test_what_cannot_work_is_said_at_the_call(keywords, words):
    call = {"energy": energy_of(), "sampler": SAMPLER, "prompts": [[1]], "max_new_tokens": 1, "window": 8, **keywords}
    with pytest.raises(ValueError, match=words):
        generate(**call)


def test_thinking_takes_a_list_of_landscapes():
    energy, ids = energy_of(), torch.tensor([[1, 2]])
    functions = [Given(energy, energy.encode(ids, level)) for level in range(2)]
    start = torch.zeros(1, 1, 2, V, dtype=torch.float64)
    assert torch.equal(think(functions, SAMPLER, start=start).y, think(energy, SAMPLER, ids, start).y)


# ----------------------------------------------------------------------------------------------------------- text, as it comes


@given(st.text(max_size=8), st.text(max_size=8))
def test_pieces_join_to_the_text_and_never_split_a_character(prompt, text):
    found = [*pieces(Bytes(), [*prompt.encode()], [*text.encode()])]
    assert "".join(found) == text
    assert all(piece.strip("\ufffd") or "\ufffd" in text for piece in found)


@given(st.lists(st.integers(0, 255), max_size=12))
def test_pieces_join_to_what_bytes_decode_to_even_where_they_are_no_text(ids):
    assert "".join(pieces(Bytes(), [65], ids)) == Bytes().decode(ids)


def subwords(kind: str):
    """Tokenizers whose pieces join in different ways: byte pairs, a space before a word, bytes that fall back, parts of words."""
    from tokenizers import Tokenizer as Model
    from tokenizers import decoders, models, pre_tokenizers

    from ebm.tasks.text.subwords import BytePairs, Subwords

    if kind == "bytes":
        return Bytes()
    if kind == "byte pairs":
        return BytePairs(["naïve 第三 🙂 ends, né " * 4], 300)
    if kind == "words":
        words = ["</s>", "▁the", "▁cat", "s", "▁", "é", ",", "▁第三", "🙂"]
        decoder = decoders.Metaspace()
    else:
        words = ["</s>", "the", "cat", "##s", "##é", ",", "第", "##三", "🙂"]
        decoder = decoders.WordPiece(cleanup=False)
    model = Model(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="</s>"))
    model.pre_tokenizer, model.decoder = pre_tokenizers.WhitespaceSplit(), decoder
    return Subwords(model, end=0)


@pytest.mark.parametrize("kind", ["bytes", "byte pairs", "words", "parts"])
def test_pieces_are_the_decoding_of_everything_at_the_same_cost_for_each_token(kind):
    tokenizer = subwords(kind)
    cost: list[int] = []

    class Counting:
        end = tokenizer.end

        def decode(self, ids):
            cost.append(len(ids))
            return tokenizer.decode(ids)

    @given(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=120), st.integers(0, 120))
    @settings(deadline=None, max_examples=100)
    def law(ids, cut):
        prompt, new = ids[:cut], [token for token in ids[cut:] if token != tokenizer.end]
        if prompt and tokenizer.decode(prompt).endswith("\ufffd"):
            prompt.append(tokenizer.encode("a")[-1] if "byte" in kind else 1)
        cost.clear()
        found = "".join(pieces(Counting(), prompt, new))
        assert tokenizer.decode(prompt) + found == tokenizer.decode([*prompt, *new])
        assert max(cost[1:], default=0) <= max(33, len(prompt) + 1)
        assert all(count <= 33 for count in cost[4:])

    law()


def test_pieces_end_with_the_text():
    assert [*pieces(Bytes(), [256], [72, 105, 256, 72])] == ["H", "i"]


LETTERS = st.text("ab", max_size=3)


@given(st.text("abé", max_size=12), st.lists(LETTERS.filter(bool), max_size=3), st.integers(0, 15))
@example("aba", ["b", "aba"], 3)
def test_a_continuation_ends_before_the_first_stop_string_and_never_says_a_part_of_it(text, stop, count):
    tokens = [*text.encode(), Bytes.end][:count]
    row = Continuation(Bytes(), [65], stop)
    said = ""
    whole = Bytes().decode(tokens)
    first = min(((whole.find(each) + len(each), whole.find(each)) for each in stop if each in whole), default=(0, None))[1]
    for token in tokens:
        said += row.push(token)
        assert first is None or len(said) <= first
    said += row.close()
    assert said == row.text == whole[:first]
    assert row.finish == ("stop" if first is not None else "end" if Bytes.end in tokens else "length")
    assert row.push(65) == row.close() == ""


def test_an_empty_stop_string_is_refused():
    with pytest.raises(ValueError, match="stop=''"):
        Continuation(Bytes(), [65], ["x", ""])


# --------------------------------------------------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def text_run(tmp_path_factory):
    """A run on text, of two steps."""
    folder = tmp_path_factory.mktemp("text")
    source = folder / "corpus.txt"
    source.write_text("In the beginning was the word, né. " * 40)
    recipe = {
        "summary": "Tiny.",
        "seed": 0,
        "task": {"use": "text", "source": str(source), "context": 16},
        "energy": {"use": "text-ebt", **TINY},
        "objective": {
            "use": "reconstruction",
            "sampler": {"use": "gradient-descent", "step_size": 10.0, "steps": 2, "retraction": "softmax"},
        },
        "fit": {"steps": 2, "batch_size": 2, "evaluate_limit": 2},
    }
    parts = recipes.assemble(recipes.resolve(recipe))
    with pytest.MonkeyPatch.context() as patch:
        quick_report(patch)
        ebm.fit(parts.energy, parts.objective, parts.task, **parts.fit, out=folder / "run", recipe=parts.recipe)
    return folder / "run"


@pytest.fixture
def said(capsys):
    def say(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            cli.main(["generate", *map(str, words)])
            status = 0
        except SystemExit as leaving:
            status = leaving.code or 0
        return status, *capsys.readouterr()

    return say


def test_the_command_streams_a_prompt_and_what_follows(said, text_run):
    words = (text_run, "--prompt", "In the né", "--max-new-tokens", 30, "--seed", 1)
    status, out, err = said(*words)
    assert (status, err) == (0, "")
    assert out.startswith("In the né")
    assert len(out) > 10
    assert said(*words)[1] == out
    assert said(*words[:-1], 2)[1] != out


def test_the_command_thinks_and_draws_as_it_is_told(said, text_run):
    drawing = ("--temperature", 1, "--top-k", 5, "--top-p", 0.9)
    thinking = ("--think-steps", 3, "--candidates", 2, "--patience", 1)
    status, out, _ = said(text_run, "--prompt", "In", "--max-new-tokens", 5, *drawing, *thinking)
    assert status == 0
    assert out.startswith("In")
    greedy = [said(text_run, "--prompt", "In", "--max-new-tokens", 5, "--temperature", 0, "--seed", seed)[1] for seed in (0, 1)]
    assert greedy[0] == greedy[1] == said(text_run, "--prompt", "In", "--max-new-tokens", 5, "--top-k", 1)[1]


def test_several_prompts_are_printed_at_the_end(said, text_run):
    greedy = ("--max-new-tokens", 5, "--temperature", 0)
    status, out, _ = said(text_run, "--prompt", "In the", "--prompt", "", "--prompt", "word", *greedy)
    assert status == 0
    assert out == "\n".join(said(text_run, "--prompt", prompt, *greedy)[1] for prompt in ("In the", "", "word")) + "\n"


def test_what_a_terminal_would_obey_is_shown_escaped(said, text_run, monkeypatch):
    """Of prompts, and of what is written: here a bell, an escape, a C1 control and one that turns text round."""
    told = [7, 27, *"\x9b\u202e".encode(), 65]
    drawn = iter([*told, *told])
    monkeypatch.setattr("ebm.decoding.generate.draw", lambda logits, *_, **__: torch.full(logits.shape[:1], next(drawn)))
    assert said(text_run, "--prompt", "w\x1bc\t\r", "--max-new-tokens", 8)[1] == "w\\x1bc\t\\x0d\\x07\\x1b\\x9b\\u202eA\n"
    status, out, err = said(text_run, "--prompt", "\x1b]0;owned\x07 and much more than the context allows")
    assert (status, "\x1b" in out + err) == (2, False)


def test_it_ends_with_the_text(said, text_run, monkeypatch):
    monkeypatch.setattr("ebm.decoding.generate.draw", lambda logits, *_, **__: torch.full(logits.shape[:1], Bytes.end))
    assert said(text_run, "--prompt", "word")[1] == "word\n"


def test_the_command_says_what_it_cannot_do(said, text_run, monkeypatch):
    for words, reason in (
        ((text_run, "--prompt", "x" * 17), "has 17 tokens, but the run's context is 16"),
        ((text_run, "--prompt", "x", "--temperature", "-1"), "temperature=-1.0"),
        ((text_run, "--prompt", "x", "--max-new-tokens", 0), "max_new_tokens=0"),
        ((text_run,), "--prompt"),
        ((text_run / "nowhere", "--prompt", "x"), "holds no run"),
    ):
        status, out, err = said(*words)
        assert status != 0
        assert reason in err + out
        assert "Traceback" not in err + out
    other = Run(text_run, {}, MLPEnergy(2), SAMPLER, None, Points("moons", n=60), {})
    monkeypatch.setattr("ebm.recipes.load_run", lambda _: other)
    assert "has no tokenizer" in said(text_run, "--prompt", "x")[2]


def test_python_writes_what_the_command_does(said, text_run):
    run = ebm.load(text_run)
    prompts, how = ["In the", "", "né"], {"max_new_tokens": 12, "temperature": 1.0, "seed": 3}
    texts = run.generate(prompts, n=2, **how)
    assert len(texts) == len(set(texts)) == 6
    assert run.generate(["In the", "In the", "né"], **how) == [texts[0], texts[1], texts[4]]  # whatever is beside it
    assert run.generate("né", **how) == [texts[4]]
    assert "".join(run.stream("né", **how)) == texts[4]
    given = [word for prompt in prompts for word in ("--prompt", prompt)]
    told = ("--max-new-tokens", 12, "--temperature", 1, "--seed", 3)
    status, out, _ = said(text_run, *given, "-n", 2, *told, "--json")
    assert status == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["prompt"], row["text"]) for row in rows] == [
        (prompt, texts[i]) for i, prompt in enumerate(sorted(prompts * 2, key=prompts.index))
    ]
    assert {row["finish_reason"] for row in rows} <= {"length", "end"}


def test_many_prompts_are_written_in_parts_that_nobody_notices(text_run, monkeypatch):
    run = ebm.load(text_run)
    prompts = ["In", "a", "word", "a"]
    whole = run.generate(prompts, max_new_tokens=6)
    monkeypatch.setattr("ebm.runs.writing.ROWS_AT_ONCE", 3)
    assert run.generate(prompts, max_new_tokens=6) == whole


def test_a_stop_string_ends_a_text_and_is_left_out(said, text_run, monkeypatch):
    told = iter([*b"one.\n\ntwo"] * 2)
    monkeypatch.setattr("ebm.decoding.generate.draw", lambda logits, *_, **__: torch.full(logits.shape[:1], next(told)))
    status, out, _ = said(text_run, "--prompt", "x", "--stop", "\n\n", "--stop", "zzz", "--json")
    assert (status, json.loads(out)) == (0, {"prompt": "x", "text": "one.", "finish_reason": "stop"})


def test_prompts_come_from_a_file_or_standard_input(said, text_run, tmp_path, monkeypatch):
    greedy = ("--max-new-tokens", 4, "--temperature", 0)
    expected = said(text_run, "--prompt", "In", "--prompt", "", "--prompt", "né", *greedy)
    (tmp_path / "p.txt").write_text("In\n\nné\n")
    (tmp_path / "p.jsonl").write_text('{"prompt": "In", "id": 1}\n""\n"n\\u00e9"')
    assert said(text_run, "--prompts", tmp_path / "p.txt", *greedy) == expected
    assert said(text_run, "--prompts", tmp_path / "p.jsonl", *greedy) == expected
    monkeypatch.setattr("sys.stdin", io.StringIO("In\n\nné\n"))
    assert said(text_run, "--prompts", "-", *greedy) == expected
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "bad.jsonl").write_text('"a"\n{"text": "b"}')
    (tmp_path / "latin.txt").write_bytes("né".encode("latin-1"))
    for name, words in (
        ("empty.txt", "no line"),
        ("bad.jsonl", 'line 2 is no string, and no object with a "prompt"'),
        ("latin.txt", "no UTF-8"),
    ):
        status, _, err = said(text_run, "--prompts", tmp_path / name)
        assert (status, words in err) == (2, True)


def test_a_prompt_longer_than_the_context_is_cut_on_request(said, text_run):
    long, greedy = "y" + "x" * 16, ("--max-new-tokens", 5, "--temperature", 0)
    status, _, err = said(text_run, "--prompt", long, *greedy)
    assert (status, "--cut" in err) == (2, True)
    status, out, _ = said(text_run, "--prompt", long, "--cut", *greedy)
    assert status == 0
    assert out == "y" + said(text_run, "--prompt", "x" * 16, *greedy)[1]


def test_a_prompt_may_begin_with_a_hyphen(said, text_run):
    assert said(text_run, "--prompt", "- a", "--stop", "---", "--max-new-tokens", 1)[1].startswith("- a")
