"""Measures the effective sample size per gradient of HMC, NUTS and MALA, beside blackjax's and Pyro's.

    python benchmarks/sampler_ess.py                     # in an environment with arviz, and with the rivals there are

Where a row says "fixed", all have the same step size, unit mass and number of leapfrogs, and start from the same draws; where it
says "adapted", each first tunes itself in its own way, in as many steps, which are not counted. (HMC has no such row: once
its mass is right, all coordinates turn as one, and it is luck whether L steps are whole turns.) Every seed has chains of its
own; the bulk effective sample size (arviz) of a seed's worst coordinate, and of the worst square of a centred one, is divided
by the gradients that its chains took. A chain's own are counted: that chains in a batch wait for the longest is not.

`--compiled` asks how long an effective draw takes instead: a sampler as it is, compiled (`Compiled`), blackjax's and (of 4
chains) Pyro's, at one step size, in turn; see `race`. Its bars are its own: at most 4 times blackjax's seconds with 4 chains,
1.2 times with 1,000. `--threads 1 2` races on one thread, in processor seconds, and then on two, by the clock.

Exit code 1: the toolkit is measurably below a rival (the 99% interval of the geometric mean of the ratio, over seeds, lies
below 1); or a ratio is more than a tenth below the one recorded in sampler_ess.json (`--record` writes that file).
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from recorded import Recorded
from scipy import stats
from torch import Tensor

from ebm.samplers import HMC, MALA, NUTS, Compiled, warm_up
from ebm.samplers.stepping import SteppingSampler

LEAPFROGS = 8

# -------------------------------------------------------------------------------------------------------------- problems

EnergyFn = Callable[[Any], Any]


def problems(library: Any, array: Callable[[np.ndarray], Any]) -> dict[str, tuple[int, EnergyFn]]:
    """The dimension and the energy of every problem, for torch or for jax.numpy."""
    draws = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(draws.standard_normal((20, 20)))
    precision = array(rotation / np.logspace(-0.5, 0.5, 20) ** 2 @ rotation.T)  # standard deviations from 0.3 to 3
    inputs = draws.standard_normal((200, 20)) * np.linspace(0.3, 3, 20)
    labels = draws.random(200) < 1 / (1 + np.exp(-inputs @ draws.standard_normal(20) / 4))
    signed, zero = array(np.where(labels, -1.0, 1.0)[:, None] * inputs), array(np.zeros(1))
    turned, _ = np.linalg.qr(draws.standard_normal((100, 100)))
    wide = array(turned / np.logspace(-0.5, 0.5, 100) ** 2 @ turned.T)
    return {
        "wide": (100, lambda y: (y * (y @ wide)).sum(-1) / 2),
        "normal": (50, lambda y: (y * y).sum(-1) / 2),
        "correlated": (20, lambda y: (y * (y @ precision)).sum(-1) / 2),
        "logistic": (20, lambda y: (y * y).sum(-1) / 2 + library.logaddexp(zero, y @ signed.T).sum(-1)),
    }


class Run(NamedTuple):
    """What a contestant did: draws (seeds, chains, draws, dim), and the gradients that every seed took."""

    draws: np.ndarray
    gradients: np.ndarray


class Setting(NamedTuple):
    """What a row of the table asks for. `starts` is (seeds, chains, dim)."""

    problem: str
    method: str
    starts: Tensor
    steps: int
    warming: int
    step_size: float | None  # None: adapted, else with unit mass


# ----------------------------------------------------------------------------------------------------------- contestants


def ours(setting: Setting) -> Run:
    _, energy = problems(torch, torch.from_numpy)[setting.problem]
    made: SteppingSampler = {
        "mala": lambda: MALA(setting.step_size or 0.1),
        "hmc": lambda: HMC(setting.step_size or 0.1, leapfrog_steps=LEAPFROGS),
        "nuts": lambda: NUTS(setting.step_size or 0.1),
    }[setting.method]()
    seeds, draws, counts = len(setting.starts), [], []
    parts = [setting.starts] if setting.step_size else list(setting.starts)
    for seed, y in enumerate(parts):
        generator, sampler = torch.Generator().manual_seed(1 + seed), made
        if setting.step_size is None:
            sampler, y = warm_up(made, energy, y, steps=setting.warming, generator=generator)
        path = [
            (state.y, getattr(info, "gradients", None))
            for state, info in sampler.trajectory(energy, y, steps=setting.steps, generator=generator)
        ]
        draws.append(torch.stack([y for y, _ in path], -2))
        counts.append(sum((torch.ones(y.shape[:-1]) if count is None else count) for y, count in path))
    whole = torch.stack(draws).reshape(*setting.starts.shape[:2], setting.steps, -1)
    return Run(whole.numpy(), torch.stack(counts).reshape(seeds, -1).sum(1).numpy())


def blackjax(setting: Setting) -> Run:
    import blackjax
    import jax

    jax.config.update("jax_enable_x64", True)
    dim, energy = problems(jax.numpy, jax.numpy.asarray)[setting.problem]

    def density(y: Any) -> Any:
        return -energy(y)

    extra = {"num_integration_steps": LEAPFROGS} if setting.method == "hmc" else {}

    def chain(key: Any, y: Any) -> Any:
        warming, sampling = jax.random.split(key)
        if setting.method == "mala":
            kernel = blackjax.mala(density, setting.step_size)
        elif setting.step_size is not None:
            kernel = getattr(blackjax, setting.method)(density, setting.step_size, jax.numpy.ones(dim), **extra)
        else:
            adaptation = blackjax.window_adaptation(blackjax.nuts, density, target_acceptance_rate=0.8)
            (state, found), _ = adaptation.run(warming, y, num_steps=setting.warming)
            kernel, y = blackjax.nuts(density, **found), state.position

        def step(state: Any, key: Any) -> Any:
            state, info = kernel.step(key, state)
            return state, (state.position, getattr(info, "num_integration_steps", 1))

        return jax.lax.scan(step, kernel.init(y), jax.random.split(sampling, setting.steps))[1]

    starts = jax.numpy.asarray(setting.starts.numpy())
    keys = jax.random.split(jax.random.key(1), starts.shape[:2])
    draws, counts = jax.jit(jax.vmap(jax.vmap(chain)))(keys, starts)
    return Run(np.asarray(draws), np.asarray(counts).reshape(len(starts), -1).sum(1))


def pyro(setting: Setting, first: int = 0) -> Run:
    import pyro.infer.mcmc as mcmc

    _, energy = problems(torch, torch.from_numpy)[setting.problem]
    calls = 0

    def potential(values: dict[str, Tensor]) -> Tensor:
        nonlocal calls
        calls += 1
        return energy(values["y"])

    adapts = setting.step_size is None
    common = {"potential_fn": potential, "step_size": setting.step_size or 0.1}
    common |= {"adapt_step_size": adapts, "adapt_mass_matrix": adapts}
    kernel: Any = mcmc.NUTS(**common) if setting.method == "nuts" else mcmc.HMC(num_steps=LEAPFROGS, **common)
    draws, counts = [], []
    for seed, chains in enumerate(setting.starts):
        taken = 0
        for chain, y in enumerate(chains):
            torch.manual_seed(1000 * (first + seed) + chain)
            before: dict[str, int] = {}

            def hook(_kernel: Any, _params: Any, stage: str, _index: int, before: dict[str, int] = before) -> None:
                before[stage.lower().split()[0]] = calls

            runner = mcmc.MCMC(
                kernel,
                num_samples=setting.steps,
                warmup_steps=setting.warming if adapts else 1,
                initial_params={"y": y.clone()},
                hook_fn=hook,
                disable_progbar=True,
            )
            runner.run()
            draws.append(runner.get_samples()["y"])
            taken += calls - before["warmup"]
        counts.append(taken)
    return Run(torch.stack(draws).reshape(*setting.starts.shape[:2], setting.steps, -1).numpy(), np.array(counts))


# method -> who has it; Pyro has no MALA.
RIVALS: dict[str, dict[str, Callable[[Setting], Run]]] = {
    "mala": {"blackjax": blackjax},
    "hmc": {"blackjax": blackjax, "pyro": pyro},
    "nuts": {"blackjax": blackjax, "pyro": pyro},
}


# ----------------------------------------------------------------------------------------------------------------- table


def efficiency(run: Run) -> np.ndarray:
    """Effective draws of the worst coordinate, and of the worst square, per thousand gradients: (2, seeds)."""
    import arviz

    def worst(values: np.ndarray) -> float:
        data = arviz.convert_to_dataset({"y": values})
        return float(arviz.ess(data, method="bulk")["y"].min())

    centred = run.draws - run.draws.mean((0, 1, 2))
    return np.array([[worst(of) for of in values] for values in (centred, centred**2)]) * 1000 / run.gradients


def interval(ratios: np.ndarray) -> tuple[float, float, float]:
    """The geometric mean of ratios, and its 99% interval."""
    logs = np.log(ratios)
    reach = stats.t.ppf(0.995, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs))
    mean, low, high = np.exp(logs.mean() + np.array([0.0, -reach, reach])).tolist()
    return mean, low, high


def available(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(f"{name} is left out ({error}): pip install {'pyro-ppl' if name == 'pyro' else name}")
        return False
    return True


def settings(problem: str, method: str, seeds: int, chains: int, steps: int, warming: int) -> list[tuple[str, Setting]]:
    """The rows of one problem and method: with what `warm_up` finds for the unit mass, and with everyone's own adaptation."""
    dim, energy = problems(torch, torch.from_numpy)[problem]
    generator = torch.Generator().manual_seed(0)
    far = torch.randn(seeds, chains, dim, generator=generator, dtype=torch.float64)
    warmed = warm_up(NUTS(), energy, far, steps=300, generator=generator)
    starts = warmed.sampler.sample(energy, warmed.y, steps=30, generator=generator)
    own: Any = {"mala": MALA(), "hmc": HMC(leapfrog_steps=LEAPFROGS), "nuts": NUTS()}[method]
    found = warm_up(own, energy, starts, steps=150, mass=None, generator=generator).sampler.step_size
    count = LEAPFROGS * steps if method == "mala" else steps  # as many gradients as HMC's
    fixed = ("fixed", Setting(problem, method, starts, count, warming, found))
    return [fixed, ("adapted", Setting(problem, method, far, steps, warming, None))] if method == "nuts" else [fixed]


# -------------------------------------------------------------------------------------------------------------- seconds

RACED = {4: {"mala": 2000, "hmc": 500, "nuts": 200}, 1000: {"mala": 60, "hmc": 30, "nuts": 10}}  # chains -> draws of each
BARS = {4: 4.0, 1000: 1.2}


def race(problem: str, method: str, chains: int, rounds: int, rivals: list[str], threads: int, recorded: Recorded) -> bool:
    """Times draws of one method: prints a row each, and says whether the compiled sampler met its bar.

    Columns: seconds that the first draws take longer than later ones (compilation, with the compilers that it starts);
    milliseconds a step, the median over rounds; seconds per thousand effective draws of the worst coordinate; and these over
    blackjax's, of 1,000 chains those of a step, since few draws do not tell; the step at which ours, compilation included, has
    cost no more than blackjax's.
    """
    import jax

    dim, energy = problems(torch, torch.from_numpy)[problem]
    generator = torch.Generator().manual_seed(0)
    plain: Any = {"mala": MALA(), "hmc": HMC(leapfrog_steps=LEAPFROGS), "nuts": NUTS()}[method]
    start = torch.randn(32, dim, generator=generator, dtype=torch.float64)
    warmed = warm_up(HMC(leapfrog_steps=LEAPFROGS), energy, start, steps=200, mass=None, generator=generator)
    plain = warm_up(plain, energy, warmed.y, steps=150, mass=None, generator=generator).sampler
    y = warmed.y.repeat(math.ceil(chains / 32), 1)[:chains]
    y = HMC(warmed.sampler.step_size, leapfrog_steps=LEAPFROGS).sample(energy, y, steps=20, generator=generator)
    density = problems(jax.numpy, jax.numpy.asarray)[problem][1]
    steps, compiled = RACED[chains][method], Compiled(plain)
    drawn = blackjax_drawn(lambda y: -density(y), method, plain.step_size, dim, steps)
    made: dict[str, Callable[[int], np.ndarray]] = {
        "compiled": lambda seed: torch_drawn(compiled, energy, y, steps, seed),
        "blackjax": lambda seed: drawn(y.numpy(), seed),
    }
    made["eager"] = lambda seed: torch_drawn(plain, energy, y, steps, seed)
    if "pyro" in rivals and "pyro" in RIVALS[method] and chains < 100:  # it takes chains one after the other
        asked = Setting(problem, method, y[None], steps, 1, plain.step_size)
        made["pyro"] = lambda seed: pyro(asked, seed).draws[0]
    now = time.process_time if threads == 1 else time.perf_counter
    first, took, draws = {}, {name: [] for name in made}, {}
    for name, draw in made.items():
        begun = now(), sum(os.times()[2:4])
        draw(0)
        compilers = sum(os.times()[2:4]) - begun[1] if threads == 1 else 0.0  # which the clock has counted
        first[name] = now() - begun[0] + compilers
    for seed in range(1, rounds + 1):
        for name in sorted(made, reverse=bool(seed % 2)):
            began = now()
            draws.setdefault(name, []).append(made[name](seed))
            took[name].append(now() - began)
    cost = {name: float(np.median(seconds)) for name, seconds in took.items()}
    whole = {name: np.concatenate(runs, 1) if chains < 100 else np.stack(runs, 0) for name, runs in draws.items()}
    sizes = {name: efficiency_of(values) for name, values in whole.items()} if chains < 100 else {}
    rate = {name: sizes[name] / rounds if sizes else 1.0 for name in made}  # effective draws of a round
    met = True
    case = f"{problem} {method}, {chains} chains, threads {threads}"
    print(f"\n{case}: {steps} steps of {plain.step_size:.3g}, {rounds} rounds")
    for name in made:
        ratio = cost[name] / rate[name] / (cost["blackjax"] / rate["blackjax"])
        gain, extra = (cost["blackjax"] - cost[name]) / steps, first[name] - cost[name] - (first["blackjax"] - cost["blackjax"])
        even = "" if name == "blackjax" else f"  even after {max(0, extra) / gain:.0f} steps" if gain > 0 else "  never even"
        per = f"{1000 * cost[name] / rate[name]:9.3f} s/1000 effective" if sizes else ""
        print(f"  {name:9} compiled in {first[name] - cost[name]:6.1f} s  {1000 * cost[name] / steps:9.3f} ms/step {per}", end="")
        verdict = ""
        if name in ("compiled", "eager"):
            for rival in made.keys() & RIVALS[method].keys():  # of a step: effective draws differ from run to run
                recorded.see(f"seconds a step: {rival} / {name}, {case}", cost[rival] / cost[name])
        if name == "compiled":
            met = ratio <= BARS[chains]
            verdict = f" (bar {BARS[chains]}: {'met' if met else 'MISSED'})"
        print(f"  {ratio:6.2f} of blackjax's{verdict}{even}", flush=True)
    return met


def torch_drawn(sampler: Any, energy: EnergyFn, y: Tensor, steps: int, seed: int) -> np.ndarray:
    path = sampler.trajectory(energy, y, steps=steps, generator=torch.Generator().manual_seed(seed))
    return torch.stack([state.y for state, _ in path], 1).numpy()


def blackjax_drawn(density: Any, method: str, step_size: float, dim: int, steps: int) -> Callable[[np.ndarray, int], np.ndarray]:
    import blackjax
    import jax

    extra = {"num_integration_steps": LEAPFROGS} if method == "hmc" else {}
    mass = () if method == "mala" else (jax.numpy.ones(dim),)
    kernel = getattr(blackjax, method)(density, step_size, *mass, **extra)

    def chain(key: Any, y: Any) -> Any:
        def step(state: Any, key: Any) -> Any:
            state, _ = kernel.step(key, state)
            return state, state.position

        return jax.lax.scan(step, kernel.init(y), jax.random.split(key, steps))[1]

    every = jax.jit(jax.vmap(chain))
    return lambda y, seed: np.asarray(every(jax.random.split(jax.random.key(seed), len(y)), y))


def efficiency_of(draws: np.ndarray) -> float:
    """Effective draws (arviz, bulk) of the worst coordinate of draws (chains, draws, dim)."""
    import arviz

    return float(arviz.ess(arviz.convert_to_dataset({"y": draws}), method="bulk")["y"].min())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", nargs="+", default=["normal", "correlated", "logistic"])
    parser.add_argument("--method", nargs="+", default=list(RIVALS), choices=list(RIVALS))
    parser.add_argument("--rival", nargs="*", default=["blackjax", "pyro"], choices=["blackjax", "pyro"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--chains", type=int, default=4, help="per seed (4)")
    parser.add_argument("--steps", type=int, default=500, help="draws per chain (500)")
    parser.add_argument("--warming", type=int, default=500, help="steps of adaptation (500)")
    parser.add_argument("--compiled", action="store_true", help="race compiled samplers for seconds")
    parser.add_argument(
        "--raced", type=int, nargs="+", default=list(RACED), choices=list(RACED), help="chains of the race (both)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="of the race (5)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="everyone's, in turn (1)")
    parser.add_argument("--record", action="store_true", help="write the ratios into sampler_ess.json")
    options = parser.parse_args()
    if len(options.threads) > 1:  # a process each, since jax reads the number once
        how, codes = sys.argv[1:], []
        place = how.index("--threads")
        for threads in options.threads:
            own = [*how[:place], "--threads", str(threads), *how[place + 1 + len(options.threads) :]]
            codes.append(subprocess.run([sys.executable, __file__, *own], check=False).returncode)
        sys.exit(max(codes))
    (threads,) = options.threads
    torch.set_num_threads(threads)
    recorded = Recorded(__file__, options.record)
    if threads == 1:  # read by jax's first import; of two threads the machine has no more
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    if options.compiled:
        if not all(map(available, ("arviz", "blackjax"))):
            raise SystemExit("the race needs: pip install blackjax 'arviz<1'")
        import jax

        jax.config.update("jax_enable_x64", True)
        rivals = [name for name in options.rival if available(name)]
        problem = ["wide", "logistic"] if options.problem == parser.get_default("problem") else options.problem
        how = (options.rounds, rivals, threads, recorded)
        met = all([race(p, m, n, *how) for n in options.raced for p in problem for m in options.method])
        sys.exit(recorded.end() or int(not met))
    warnings.filterwarnings("ignore", category=FutureWarning)
    if not available("arviz"):
        raise SystemExit("effective sample sizes are arviz's: pip install 'arviz<1'")
    rivals, met = [name for name in options.rival if available(name)], True
    size = f"{options.seeds} x {options.chains} x {options.steps}, threads {threads}"
    print(f"seeds x chains x draws: {size}")
    print("effective draws per 1000 gradients of the worst coordinate | square; ratio: ebm's to the rival's, 99% over seeds")
    for problem in options.problem:
        for method in options.method:
            for kind, setting in settings(problem, method, options.seeds, options.chains, options.steps, options.warming):
                mine = ours(setting)
                found = efficiency(mine)
                told = "" if setting.step_size is None else f" step size {setting.step_size:.3g}"
                each = mine.gradients.sum() / mine.draws[..., 0].size
                print(f"\n{problem} {method} {kind}{told}, {each:.1f} gradients a step")
                print(f"  ebm       {found[0].mean():7.2f} | {found[1].mean():7.2f}", flush=True)
                for name in rivals:
                    if name not in RIVALS[method]:
                        continue
                    other = RIVALS[method][name](setting)
                    theirs, line = efficiency(other), ""
                    for of, one, two in zip(("coordinate", "square"), found, theirs, strict=True):
                        mean, low, high = interval(one / two)
                        recorded.see(
                            f"draws per gradient: ebm / {name}, {problem} {method} {kind}, {of}, threads {threads}", mean
                        )
                        met = met and high >= 1
                        line += f"   {mean:.2f} ({low:.2f}-{high:.2f}){'' if high >= 1 else ' BELOW'}"
                    line += f"   {other.gradients.sum() / other.draws[..., 0].size:.1f} gradients a step"
                    print(f"  {name:9} {theirs[0].mean():7.2f} | {theirs[1].mean():7.2f}{line}", flush=True)
    sys.exit(recorded.end() or int(not met))


if __name__ == "__main__":
    main()
