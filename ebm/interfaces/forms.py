"""The forms an energy may have besides `Energy`: functions, modules, and wrappers of an Energy.

A context and its landscapes reach every form that can take them. Where an energy would be scored
without the context that a batch has, that is an error.
"""

from __future__ import annotations

import dis
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ebm.interfaces.energy import Energy, EnergyFn, Given, Unconditional

DEEP = 4  # how far `energies_behind` looks: a function in an object in a closure …
MANY = 64  # and into containers of at most so many


def bind(energy: EnergyFn, context: Any = None, level: int = -1) -> EnergyFn:
    """Binds a context to an energy of any form; a function of y alone stays as it is.

    Raises:
        ValueError: at the first call, where an energy behind a function gets no context.
    """
    energy = interface_of(energy)
    return energy.given(context, level) if isinstance(energy, Energy) else energy


def landscapes(energy: EnergyFn | Sequence[EnergyFn], context: Any = None) -> list[EnergyFn]:
    """Lists the landscapes of an energy of any form, or of a list of them, with the context bound."""
    if isinstance(energy, list | tuple | nn.ModuleList):
        return [bind(part, context) for part in energy]
    energy = interface_of(energy)  # type: ignore[arg-type]  # the Sequences are lists and tuples
    return energy.landscapes(context) if isinstance(energy, Energy) else [energy]


def levels_of(energy: EnergyFn) -> int:
    """Counts the landscapes of an energy of any form.

    >>> levels_of(torch.nn.DataParallel(Energy())), levels_of(torch.sum)
    (1, 1)
    """
    energy = interface_of(energy)
    return energy.levels if isinstance(energy, Energy) else 1


def as_energy(energy: EnergyFn) -> Energy:
    """Makes an Energy of any form; an `Energy` stays as it is."""
    energy = interface_of(energy)
    return energy if isinstance(energy, Energy) else Function(energy)


def interface_of(energy: EnergyFn) -> EnergyFn:
    """Finds the Energy that an energy is, or that it wraps; a function of y alone stays as it is."""
    if isinstance(energy, Energy | Given) or not callable(energy):
        return energy  # what is no energy at all is refused where it is used
    second = second_of(energy)
    if second is not None and second.name == "code" and (core := _core(energy)) is not None:
        return Wrapped(energy, core)
    return Function(energy) if second is not None or energies_behind(energy) else energy


class Function(Energy):
    """Wraps a function of y, or of y and a context, with its module's parameters.

    A second argument gets the context as it is. A function of y alone ignores contexts, but not
    for an energy behind it, which would be scored without.

    Raises:
        ValueError: the function cannot be called; has a second argument that is no context (its
            default is not None); or scores an energy that gets no code where there is a context.

    >>> Function(lambda y: y.square().sum(-1))(torch.ones(3, 2))
    tensor([2., 2., 2.])
    >>> Function(lambda y, place: (y - place).square().sum(-1)).given(torch.ones(2))(torch.ones(3, 2))
    tensor([0., 0., 0.])
    """

    def __init__(self, function: EnergyFn) -> None:
        super().__init__()
        if not callable(function):
            raise ValueError(f"{function!r} is no energy: pass an Energy, or a function of y")
        self.function = function
        self.bound = function.energy if isinstance(function, Given) else None
        self.second = None if isinstance(function, Given | Energy) else second_of(function)
        # Not registered as modules: they are looked at, and need not be this energy's own. Whoever
        # wraps an Energy as a function means it to be one of y alone.
        self.behind = () if isinstance(function, Given | Energy) else tuple(energies_behind(function))

    def encode(self, context: Any = None, level: int = -1) -> Any:
        if context is not None and self.second is not None and self.second.default is not None:
            what = f"{_name(self.function)}(y, {self.second.name}={self.second.default!r})"
            raise ValueError(f"{what} gets a context: write {self.second.name}=None, or wrap it as lambda y: … if it takes none")
        if self.bound is None and (lost := _scripted(self.function)) is not None:
            raise ValueError(
                f"{lost.__name__} is scripted or traced: torch.jit keeps its forward, but not how it encodes a context and its "
                "landscapes: pass the energy itself"
            )
        return context

    def extend(self, code: Any, context: Any) -> Any:
        return code if self.second is None else super().extend(code, context)

    def forward(self, y: Tensor, code: Any = None) -> Tensor:
        if not self.behind:
            return self._call(y, code)
        hooks = [energy.register_forward_pre_hook(partial(_look, self, code), with_kwargs=True) for energy in self.behind]
        try:
            value = self._call(y, code)
        finally:
            for hook in hooks:
                hook.remove()
        if code is not None:
            self.behind = ()  # once is enough
        return value

    def _call(self, y: Tensor, code: Any) -> Tensor:
        if self.second is None or code is None:
            return self.function(y)
        if self.second.packed:
            return self.function((y, code))  # type: ignore[arg-type]
        if self.second.keyword:
            return self.function(y, **{self.second.name: code})
        return self.function(y, code)  # type: ignore[call-arg]

    def extra_repr(self) -> str:
        return "" if isinstance(self.function, nn.Module) else _name(self.function)


class Wrapped(Energy):
    """Calls a wrapper, such as a compiled or a parallel module, by the interface of its energy.

    The energy inside encodes contexts and has the landscapes; the wrapper scores y and the code.

    Arguments:
        wrapper: a module, or a method, that hands y and the code on.
        core: the energy inside.

    >>> class Shifted(Energy):
    ...     def forward(self, y, code=None):
    ...         return (y - code).square().sum(-1)
    >>> Wrapped(torch.nn.DataParallel(energy := Shifted()), energy).given(torch.ones(2))(torch.ones(3, 2))
    tensor([0., 0., 0.])
    """

    def __init__(self, wrapper: Callable[..., Tensor], core: Energy) -> None:
        super().__init__()
        self.wrapper, self.levels = wrapper, core.levels
        if not isinstance(wrapper, nn.Module):
            self.core = core
        self._core = (core,)  # in a tuple, for it is registered as a part of the wrapper already

    def encode(self, context: Any = None, level: int = -1) -> Any:
        return self._core[0].encode(context, level)

    def extend(self, code: Any, context: Any) -> Any:
        return self._core[0].extend(code, context)

    def given(self, context: Any = None, level: int = -1) -> EnergyFn:
        return self._through(self._core[0].given(context, level))

    def landscapes(self, context: Any = None) -> list[EnergyFn]:
        return [self._through(function) for function in self._core[0].landscapes(context)]

    def _through(self, function: EnergyFn) -> EnergyFn:
        bound = isinstance(function, Given) and function.energy is self._core[0]  # or it is a part's, which nothing wraps
        return replace(function, energy=self) if bound else function  # type: ignore[type-var]

    def forward(self, y: Tensor, code: Any = None) -> Tensor:
        return self.wrapper(y, code)


# -------------------------------------------------------------------------------------- what a form is


class Second(NamedTuple):
    """The second argument of a function of y."""

    name: str  # "code" also where anything is handed on: forward(*arguments)
    default: Any = None
    keyword: bool = False  # it is given by name alone
    packed: bool = False  # it is given in a tuple with y


def second_of(function: Any) -> Second | None:
    """Finds what a function takes besides y, by its signature; None if that is nothing.

    >>> second_of(lambda y, label=None: y), second_of(lambda y: y)
    (Second(name='label', default=None, keyword=False, packed=False), None)
    """
    if isinstance(function, torch.jit.ScriptModule):
        schema: Any = function.forward.schema  # type: ignore[attr-defined]
        arguments = schema.arguments[2:]
        return Second(arguments[0].name if arguments[0].name != "code" else "context") if arguments else None
    if isinstance(function, partial) and function.func is torch.func.functional_call and len(function.args) == 2:
        return Second("context", packed=True)
    try:
        parameters = inspect.signature(function.forward if isinstance(function, nn.Module) else function).parameters.values()
    except (TypeError, ValueError):
        return None  # such as torch.sum, whose signature Python does not know
    kinds = inspect.Parameter
    placed = [p for p in parameters if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    if len(placed) < 2 and any(p.kind is kinds.VAR_POSITIONAL for p in parameters):
        return Second("code")
    named = [p for p in parameters if p.kind is kinds.KEYWORD_ONLY and p.name in ("context", "code")]
    found = placed[1] if len(placed) > 1 else named[0] if named else None
    if found is None:
        return None
    default = None if found.default is kinds.empty else found.default
    return Second(found.name, default, found.kind is kinds.KEYWORD_ONLY)


def energies_behind(function: Any) -> list[Energy]:
    """Finds the outermost energies that a function can reach: in a module, a closure, a partial …"""
    found: dict[int, Energy] = {}
    seen: set[int] = set()
    here = [function]
    for _ in range(DEEP):
        ahead: list[Any] = []
        for one in here:
            if id(one) in seen or isinstance(one, Given | Tensor | str | type):
                continue  # a Given has its context
            seen.add(id(one))
            if isinstance(one, Energy):
                found[id(one)] = one
            elif isinstance(one, nn.Module):
                found |= {id(energy): energy for energy in _inside(one)}
            else:
                ahead += _parts(one)
        here = ahead
    return list(found.values())


def _inside(module: nn.Module) -> Iterator[Energy]:
    """Finds a module's outermost energies."""
    for child in module.children():
        if isinstance(child, Energy):
            yield child
        else:
            yield from _inside(child)


def _parts(one: Any) -> list[Any]:
    """Lists what an object that is no module holds, as far as that may score y."""
    if isinstance(one, list | tuple | Mapping):
        values = [*one.values()] if isinstance(one, Mapping) else [*one]
        return values if len(values) <= MANY else []
    if isinstance(one, partial):
        return [one.func, one.args, one.keywords]
    if inspect.ismethod(one):
        return [one.__self__, one.__func__]
    if not inspect.isfunction(one):
        return [*vars(one).values()] if callable(one) and hasattr(one, "__dict__") and not inspect.isroutine(one) else []
    cells = [cell.cell_contents for cell in one.__closure__ or () if _is_filled(cell)]
    names = {each.argval for each in dis.get_instructions(one) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    known = [one.__globals__[name] for name in names if name in one.__globals__]
    known = [value for value in known if isinstance(value, nn.Module | partial) or inspect.isfunction(value)]
    return [*cells, *known, *(one.__defaults__ or ()), *(one.__kwdefaults__ or {}).values(), getattr(one, "__wrapped__", None)]


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a variable that is not set yet
        return False


def _core(wrapper: Any) -> Energy | None:
    """Finds the one energy that a module or a method hands its arguments on to."""
    owner = wrapper if isinstance(wrapper, nn.Module) else getattr(wrapper, "__self__", None)
    if isinstance(owner, Energy):
        return owner
    cores = {id(energy): energy for energy in _inside(owner)} if isinstance(owner, nn.Module) else {}
    if len(cores) > 1 and any(core.levels > 1 or _encodes(core) for core in cores.values()):
        what = ", ".join(type(core).__name__ for core in cores.values())
        raise ValueError(
            f"{_name(wrapper)} holds several energies ({what}), so none can encode for it: derive it from ebm.Energy"
        )
    return next(iter(cores.values()), None) if len(cores) == 1 else None


def _look(function: Function, context: Any, energy: Energy, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
    """Raises ValueError where an energy behind a function is scored without its context or landscape."""
    code = arguments[1] if len(arguments) > 1 else keywords.get("code")
    what, inner = _name(function.function), type(energy).__name__
    way_out = f"pass {inner} itself, bind by hand as in {inner}.given(context)(y), or derive the wrapper from ebm.Energy"
    if code is None and context is not None and _uses_code(energy):
        raise ValueError(f"the batch has a context, but {what} scores {inner} without: {way_out}")
    if code is None and energy.levels > 1 and isinstance(function.function, nn.Module):
        raise ValueError(f"{inner} has {energy.levels} landscapes, but {what} scores it without choosing one: {way_out}")
    if code is not None and code is context and _encodes(energy):
        raise ValueError(f"{what} hands the context on to {inner}, which expects what its encode makes of it: {way_out}")


def _encodes(energy: Energy) -> bool:
    """Tells whether an energy's code differs from its context."""
    return type(energy).encode is not Energy.encode and not isinstance(energy, Unconditional)


def _uses_code(energy: Energy) -> bool:
    """Tells whether an energy's forward reads its second argument."""
    if isinstance(energy, Unconditional):
        return False
    if isinstance(energy, Function):
        return energy.second is not None
    forward: Any = type(energy).forward
    names = getattr(getattr(forward, "__code__", None), "co_varnames", ())[2:3]
    if not names or forward.__code__.co_argcount < 3:
        return True  # *arguments, or no Python
    loads = (each.argval for each in dis.get_instructions(forward) if each.opname.startswith("LOAD"))
    return any(names[0] == value or (isinstance(value, tuple) and names[0] in value) for value in loads)


def _scripted(function: Any) -> type[Energy] | None:
    """Finds the class of a scripted or traced energy whose encoding is lost."""
    if not isinstance(function, torch.jit.ScriptModule):
        return None
    name = re.sub(r"___torch_mangle_\d+\.", "", function._c._type().qualified_name().removeprefix("__torch__."))
    module, _, kind = name.rpartition(".")
    found = getattr(sys.modules.get(module or "__main__"), kind, None)
    if not inspect.isclass(found) or not issubclass(found, Energy) or issubclass(found, Unconditional):
        return None
    return found if found.encode is not Energy.encode or found.levels > 1 else None


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)
