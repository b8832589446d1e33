"""Measures effective draws per gradient and per second on posteriors that people know, beside blackjax and Pyro.

    python benchmarks/posteriors.py                      # in an environment with arviz, and with the rivals there are

Everyone starts from the same normal draws and tunes itself in as many steps, in its own way (ours by `warm_up`, which pools
the chains; blackjax's and Pyro's by windows for each chain); only what follows is counted. Ours and blackjax move all chains at
once, Pyro one after the other. Only we tune a MALA. Of each run:

    ess/1000g  bulk effective draws (arviz) of the worst free coordinate per thousand gradients of all chains; squares likewise
    ess/s      the same per second of processor time, compilation not counted
    off        the largest distance of a mean from the posterior's reference, in standard deviations
    rhat       the largest split R-hat: above 1.01 the effective draws mean little

Numbers are means ± standard deviations over seeds, where there are several: how far one run lies from the next, its tuning
included. The table is also written as csv, each deviation beside its mean.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sampler_ess import LEAPFROGS, Run, available, efficiency
from torch import Tensor

from ebm.energies import BrownianBridge, EightSchools, ItemResponse, LogisticRegression, Posterior, StochasticVolatility
from ebm.judging import split_rhat
from ebm.samplers import HMC, MALA, NUTS, warm_up

POSTERIORS: dict[str, Callable[[], Posterior]] = {
    "eight-schools": lambda: EightSchools(),
    "eight-schools-non-centred": lambda: EightSchools(centred=False),
    "logistic-regression": lambda: LogisticRegression(),
    "brownian-bridge": lambda: BrownianBridge(),
    "stochastic-volatility": lambda: StochasticVolatility(),
    "item-response": lambda: ItemResponse(),
}


class Asked(NamedTuple):
    """What everyone is asked for; `starts` is (chains, dim)."""

    posterior: str
    energy: Posterior
    method: str
    starts: Tensor
    draws: int
    warming: int
    seed: int


class Found(NamedTuple):
    """Draws (chains, draws, dim) after the tuning, and what they took."""

    draws: np.ndarray
    gradients: float
    seconds: float


# ---------------------------------------------------------------------------------------------------------- contestants


def ours(asked: Asked) -> Found:
    plain = {"nuts": NUTS(), "hmc": HMC(leapfrog_steps=LEAPFROGS), "mala": MALA()}[asked.method]
    generator = torch.Generator().manual_seed(asked.seed)
    sampler, y = warm_up(plain, asked.energy, asked.starts, steps=asked.warming, generator=generator)
    draws, gradients, begun = [], 0.0, time.process_time()
    for state, info in sampler.trajectory(asked.energy, y, steps=asked.draws, generator=generator):
        draws.append(state.y)
        gradients += getattr(info, "gradients", torch.ones(())).expand(len(y)).sum().item()
    return Found(torch.stack(draws, 1).numpy(), gradients, time.process_time() - begun)


def blackjax(asked: Asked) -> Found:
    import blackjax
    import jax

    density, starts = in_jax(asked), jax.numpy.asarray(asked.starts.numpy())
    algorithm = {"nuts": blackjax.nuts, "hmc": blackjax.hmc}[asked.method]
    extra = {"num_integration_steps": LEAPFROGS} if asked.method == "hmc" else {}
    warming, sampling = (jax.random.split(key, len(starts)) for key in jax.random.split(jax.random.key(asked.seed)))

    def tune(key: Any, y: Any) -> Any:
        adaptation = blackjax.window_adaptation(algorithm, density, target_acceptance_rate=0.8, **extra)
        (state, found), _ = adaptation.run(key, y, num_steps=asked.warming)
        return state.position, found["step_size"], found["inverse_mass_matrix"]

    def sample(key: Any, y: Any, step_size: Any, inverse_mass: Any) -> Any:
        kernel = algorithm(density, step_size, inverse_mass, **extra)

        def step(state: Any, key: Any) -> Any:
            state, info = kernel.step(key, state)
            return state, (state.position, info.num_integration_steps)

        return jax.lax.scan(step, kernel.init(y), jax.random.split(key, asked.draws))[1]

    tuned = jax.jit(jax.vmap(tune))(warming, starts)
    compiled = jax.jit(jax.vmap(sample)).lower(sampling, *tuned).compile()
    begun = time.process_time()
    draws, gradients = jax.block_until_ready(compiled(sampling, *tuned))
    return Found(np.asarray(draws), float(np.asarray(gradients).sum()), time.process_time() - begun)


def pyro(asked: Asked) -> Found:
    import pyro.infer.mcmc as mcmc

    calls, draws, gradients, seconds = 0, [], 0, 0.0

    def potential(values: dict[str, Tensor]) -> Tensor:
        nonlocal calls
        calls += 1
        return asked.energy(values["y"])

    for chain, y in enumerate(asked.starts):
        torch.manual_seed(1000 * asked.seed + chain)
        warmed = [0, 0.0]

        def hook(_kernel: Any, _params: Any, stage: str, _index: int, warmed: list[float] = warmed) -> None:
            if stage.lower().startswith("warmup"):
                warmed[:] = [calls, time.process_time()]

        kernel = (
            mcmc.NUTS(potential_fn=potential) if asked.method == "nuts" else mcmc.HMC(potential_fn=potential, num_steps=LEAPFROGS)
        )
        how = {"num_samples": asked.draws, "warmup_steps": asked.warming, "hook_fn": hook, "disable_progbar": True}
        runner = mcmc.MCMC(kernel, initial_params={"y": y.clone()}, **how)
        runner.run()
        gradients, seconds = gradients + calls - warmed[0], seconds + time.process_time() - warmed[1]
        draws.append(runner.get_samples()["y"])
    return Found(torch.stack(draws).numpy(), float(gradients), seconds)


# ----------------------------------------------------------------------------------- the densities once more, for blackjax


def in_jax(asked: Asked) -> Callable[[Any], Any]:
    """Writes −E(y) of one chain (dim,) in jax, up to a constant, and holds it against the torch energy."""
    import jax
    from jax import numpy as jnp
    from jax.nn import log_sigmoid

    jax.config.update("jax_enable_x64", True)
    data = {name: jnp.asarray(value.numpy()) for name, value in asked.energy.named_buffers()}
    data = {name.rpartition(".")[2]: value for name, value in data.items()}

    def normal(away: Any, scale: Any = 1.0) -> Any:
        return (-((away / scale) ** 2) / 2 - jnp.log(scale)).sum()

    def half_cauchy(log: Any, scale: float) -> Any:
        return log - jnp.log1p((jnp.exp(log) / scale) ** 2)

    def schools(y: Any) -> Any:
        mean, scale, effects = y[0], jnp.exp(y[1]), y[2:]
        prior = normal(mean, 5.0) + half_cauchy(y[1], 5.0) + normal(effects - mean, jnp.full(8, scale))
        return prior + normal(data["seen"] - effects, data["errors"])

    def schools_apart(y: Any) -> Any:
        seen = normal(data["seen"] - y[0] - jnp.exp(y[1]) * y[2:], data["errors"])
        return normal(y[0], 5.0) + half_cauchy(y[1], 5.0) + normal(y[2:]) + seen

    def regression(y: Any) -> Any:
        return normal(y) + log_sigmoid(data["signed"] @ y[:-1] + data["sign"] * y[-1]).sum()

    def bridge(y: Any) -> Any:
        path, scale, noise = y[2:], jnp.exp(y[0]), jnp.exp(y[1])
        walk = normal(jnp.diff(path, prepend=0.0), jnp.full(path.shape, scale))
        away = data["there"] * (data["seen"] - path)
        return normal(y[:2], 2.0) + walk - ((away / noise) ** 2).sum() / 2 - data["there"].sum() * y[1]

    def volatility(y: Any) -> Any:
        persistence, mean, scale, log_variance = jnp.tanh(y[0] / 2), y[1], jnp.exp(y[2]), y[3:]
        away = log_variance - mean
        first = normal(away[0], scale / jnp.sqrt((1 - persistence) * (1 + persistence)))
        shocks = away[1:] - persistence * away[:-1]
        prior = 20 * log_sigmoid(y[0]) + 1.5 * log_sigmoid(-y[0]) - jnp.log1p((mean / 5) ** 2) + half_cauchy(y[2], 2.0)
        likelihood = normal(data["returns"], jnp.exp(log_variance / 2))
        return prior + first + normal(shocks, jnp.full(shocks.shape, scale)) + likelihood

    def response(y: Any) -> Any:
        students = data["sign"].shape[0]
        logits = y[0] + y[1 : 1 + students, None] - y[1 + students :]
        return normal(y[0] - 0.75) + normal(y[1:]) + (data["asked"] * log_sigmoid(data["sign"] * logits)).sum()

    found = dict(zip(POSTERIORS, (schools, schools_apart, regression, bridge, volatility, response), strict=True))[
        asked.posterior
    ]
    drops = asked.energy(asked.starts[:2]).diff().item() + float(found(asked.starts[1].numpy()) - found(asked.starts[0].numpy()))
    if not abs(drops) < 1e-6 * asked.energy(asked.starts[:2]).abs().max():
        raise AssertionError(f"{asked.posterior} in jax is another density than the torch energy: {drops}")
    return found


# library -> who it is, and what it can tune.
CONTESTANTS: dict[str, tuple[Callable[[Asked], Found], tuple[str, ...]]] = {
    "ebm": (ours, ("nuts", "hmc", "mala")),
    "blackjax": (blackjax, ("nuts", "hmc")),
    "pyro": (pyro, ("nuts", "hmc")),
}


# ---------------------------------------------------------------------------------------------------------------- table


def judged(energy: Posterior, found: Found) -> dict[str, float]:
    """One run's numbers, by the table's columns."""
    per_thousand = efficiency(Run(found.draws[None], np.array([found.gradients])))[:, 0]
    draws = torch.from_numpy(found.draws.copy()).transpose(0, 1)
    values, known = energy.constrain(draws), energy.reference
    assert known is not None
    off = [((values[name].mean((0, 1)) - mean).abs() / known.deviation[name]).max().item() for name, mean in known.mean.items()]
    return {
        "ess/1000g": per_thousand[0],
        "squares/1000g": per_thousand[1],
        "ess/s": per_thousand[0] * found.gradients / 1000 / found.seconds,
        "gradients a draw": found.gradients / found.draws[..., 0].size,
        "off": max(off),
        "rhat": split_rhat(draws).max().item(),
        "seconds": found.seconds,
    }


def shown(values: list[float]) -> str:
    return f"{np.mean(values):.4g}" + (f" ±{spread(values):.2g}" if len(values) > 1 else "")


def spread(values: list[float]) -> float:
    """The standard deviation over seeds, NaN for one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posterior", nargs="+", default=list(POSTERIORS), choices=list(POSTERIORS))
    parser.add_argument("--method", nargs="+", default=["nuts", "hmc", "mala"], choices=["nuts", "hmc", "mala"])
    parser.add_argument("--rival", nargs="*", default=["blackjax", "pyro"], choices=["blackjax", "pyro"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--chains", type=int, default=4, help="per seed (4)")
    parser.add_argument("--draws", type=int, default=500, help="per chain (500); a MALA's are as many as HMC's gradients")
    parser.add_argument("--warming", type=int, default=500, help="steps of tuning (500)")
    parser.add_argument("--threads", type=int, default=1, help="torch's (1); jax has one where this is 1")
    parser.add_argument("--csv", type=Path, default=Path("posteriors.csv"), help="where the table goes (posteriors.csv)")
    options = parser.parse_args()
    if options.seeds < 1 or options.chains < 2 or options.draws < 4 or options.threads < 1:
        raise SystemExit("pass at least 1 seed, 2 chains, 4 draws and 1 thread")
    torch.set_num_threads(options.threads)
    torch.set_default_dtype(torch.float64)
    if options.threads == 1:  # read when jax is first imported
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    warnings.filterwarnings("ignore")
    if not available("arviz"):
        raise SystemExit("effective sample sizes are arviz's: pip install 'arviz<1'")
    libraries = ["ebm", *(name for name in options.rival if available(name))]
    with options.csv.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        for posterior in options.posterior:
            energy = POSTERIORS[posterior]()
            for method in options.method:
                for library in libraries:
                    contestant, tunes = CONTESTANTS[library]
                    if method not in tunes:
                        continue
                    rows = []
                    for seed in range(options.seeds):
                        generator = torch.Generator().manual_seed(seed)
                        starts = torch.randn(options.chains, energy.dim, generator=generator)
                        draws = options.draws * (LEAPFROGS if method == "mala" else 1)
                        asked = Asked(posterior, energy, method, starts, draws, options.warming, seed)
                        rows.append(judged(energy, contestant(asked)))
                    if file.tell() == 0:
                        both = [column for name in rows[0] for column in (name, f"{name} deviation")]
                        table.writerow(["posterior", "method", "library", "seeds", "chains", "draws", "warming", *both])
                        print(f"{'posterior':26}{'method':7}{'library':10}" + "".join(f"{name:>19}" for name in rows[0]))
                    over = [[row[name] for row in rows] for name in rows[0]]
                    numbers = [f"{number:.6g}" for values in over for number in (np.mean(values), spread(values))]
                    table.writerow([posterior, method, library, options.seeds, options.chains, draws, options.warming, *numbers])
                    file.flush()
                    columns = "".join(f"{shown(values):>19}" for values in over)
                    print(f"{posterior:26}{method:7}{library:10}{columns}", flush=True)


if __name__ == "__main__":
    main()
