"""Language models as energies: minus the log-likelihood that the model itself gives, and what can be done with it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm.baselines import Transformer
from ebm.decoding.rerank import rerank
from ebm.decoding.sequences import draw, log_likelihood, one_hot, score
from ebm.energies import CausalLM, SequenceEBT
from ebm.interfaces import Batch
from ebm.objectives import SequenceNCE
from ebm.samplers import MirrorDescent
from ebm.testing import check_energy
from tests.helpers import close, laws, seeded, seeds

transformers = pytest.importorskip("transformers")
V = 7


def gpt2(seed: int = 0):
    torch.manual_seed(seed)
    sizes = {"vocab_size": V, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2, "initializer_range": 0.5}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


def ids(*shape: int, seed: int) -> torch.Tensor:
    return torch.randint(V, shape, generator=seeded(seed))


def own_loss(model, prompt, x) -> float:
    """The model's own mean loss of x, by its own labels, in all."""
    whole = torch.cat([prompt, x])[None]
    labels = whole.clone()
    labels[0, : len(prompt)] = -100
    with torch.no_grad():
        return model(whole, labels=labels).loss.item() * len(x)


@laws
@given(seed=seeds, length=st.integers(1, 4), known=st.integers(1, 3), pads=st.integers(0, 2))
def test_it_is_minus_the_model_s_own_log_likelihood(seed, length, known, pads):
    model = gpt2().eval()
    prompt, x = ids(1, known, seed=seed), ids(1, length, seed=seed + 1)
    expected = own_loss(model, prompt[0], x[0])
    energy = CausalLM(model)
    before = torch.cat([torch.full((1, pads), -1), prompt], 1)
    after = torch.cat([x, torch.full((1, pads), -1)], 1)
    found = energy.given(before)(one_hot(after, V))
    close(found.item(), expected, rtol=1e-4, atol=1e-4)
    close(log_likelihood(energy, before, after[None]).item(), -expected, rtol=1e-4, atol=1e-4)


def test_it_keeps_the_laws_of_energies():
    y = torch.rand(6, 2, 3, V, generator=seeded()).softmax(-1)
    check_energy(lambda: CausalLM(gpt2()), y, causal=False)


def test_without_a_prompt_it_begins_as_the_model_does():
    energy = CausalLM(gpt2())
    y = one_hot(ids(2, 3, seed=1), V)
    close(energy(y), energy.given(torch.zeros(2, 1, dtype=torch.long))(y))


def test_likelier_sequences_are_drawn_more_often():
    energy = CausalLM(gpt2())
    prompt, count = torch.tensor([[-1, 1], [2, 3]]), 3000
    drawn = draw(energy, prompt, count, length=1, generator=seeded())
    chances = (-score(energy, prompt, torch.arange(V)[:, None, None].expand(-1, 2, 1), V)).exp()
    seen = (drawn[None, :, :, 0] == torch.arange(V)[:, None, None]).double().mean(1)
    assert ((seen - chances).abs() < 4.5 * (chances * (1 - chances) / count).sqrt()).all()


def test_sampling_composition_and_reranking_work_on_it():
    energy = CausalLM(gpt2())
    prompt = torch.tensor([[1, 2]])
    composed = 0.5 * energy + SequenceEBT(V, dim=8, depth=1, heads=2)
    y = one_hot(ids(3, 1, 4, seed=2), V)
    close(composed.given(prompt)(y), 0.5 * energy.given(prompt)(y))
    start = torch.zeros(1, 3, V)
    sampler = MirrorDescent(step_size=0.5, steps=20)
    with torch.no_grad():
        end = sampler.point(sampler.sample(energy.given(prompt), start, generator=seeded()))
        assert energy.given(prompt)(end) < energy.given(prompt)(sampler.point(start))
    torch.manual_seed(1)
    base = Transformer(V, dim=8, depth=1, heads=2)
    found = rerank(energy, base, prompt, 6, length=4, generator=seeded())
    close(found.energies, -log_likelihood(energy, prompt, found.ids).float(), rtol=1e-4, atol=1e-4)


def test_it_is_a_base_and_a_predictor():
    energy = CausalLM(gpt2())
    tokens = ids(4, 6, seed=3)
    batch = Batch(tokens[:, 1:], tokens[:, :-1])
    objective, residual = SequenceNCE(energy, prompt=(1, 2)), SequenceEBT(V, dim=8, depth=1, heads=2)
    objective(residual, batch, generator=seeded()).value.backward()
    assert residual.head.weight.grad.abs().sum() > 0
    close(energy.predict(batch).y, energy.model(batch.context).logits.detach(), rtol=1e-4, atol=1e-4)


def test_a_folder_is_read_and_no_code_of_it_is_run(tmp_path):
    model = gpt2()
    model.save_pretrained(tmp_path / "tiny")
    y = one_hot(ids(1, 3, seed=1), V)
    close(CausalLM(tmp_path / "tiny")(y), CausalLM(model)(y))
    config = tmp_path / "tiny" / "config.json"
    config.write_text(
        config.read_text().replace('"model_type": "gpt2"', '"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}')
    )
    (tmp_path / "tiny" / "own.py").write_text("raise SystemExit('run')")
    with pytest.raises(ValueError, match="cannot be loaded"):
        CausalLM(tmp_path / "tiny")


def test_what_is_not_there_is_said_at_once(tmp_path, monkeypatch):
    def unreachable(url):
        raise OSError("offline")

    monkeypatch.setattr("ebm.energies.causal_lm.reachable", unreachable)
    with pytest.raises(ValueError, match="somebody/no-such-model.*the hub does not answer: pass a folder"):
        CausalLM("somebody/no-such-model")
    with pytest.raises(ValueError, match="there is no folder"):
        CausalLM(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="pass a causal model"):
        CausalLM(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("context", "y", "words"),
    [
        (torch.tensor([[V]]), torch.zeros(1, 2, V), "from 0 to 6"),
        (torch.tensor([[1, -1]]), torch.zeros(1, 2, V), "each row ends in a token"),
        (torch.zeros(1, 2), torch.zeros(1, 2, V), "pass a prompt's ids"),
        (torch.tensor([[1]]), torch.zeros(1, 2, V + 1), "a vector over the vocabulary"),
        (torch.tensor([[1], [2]]), torch.zeros(3, 2, V), "a vector over the vocabulary"),
    ],
)
def test_what_does_not_fit_is_refused(context, y, words):
    with pytest.raises(ValueError, match=words):
        CausalLM(gpt2()).given(context)(y)
