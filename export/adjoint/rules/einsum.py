"""Sums of products in Einstein's notation: the adjoint is one of the same kind."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from string import ascii_letters

from camrt.export.adjoint.registry import BackwardStep, rule

__all__: list[str] = []


@rule("Einsum")
def _einsum(step: BackwardStep) -> Sequence[str | None]:
    """y = Σ a·b in letters: the same with ȳ in the place of what is asked for.

    An operand's letters that nothing else has were summed over: every number along them gets the same. A
    letter that an operand has twice picked its diagonal: a unit matrix puts it back there.
    """
    make = step.make
    operands, out = expand_equation(step)
    sizes: dict[str, int] = {}
    for i, letters in enumerate(operands):
        for letter, size in zip(letters, step.shape(step.input(i)), strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    made: list[str | None] = []
    for i, letters in enumerate(operands):
        if not step.needs_gradient(i):
            made.append(None)
            continue
        terms = [(out, step.g), *((name, step.input(j)) for j, name in enumerate(operands) if j != i)]
        known = set(chain.from_iterable(name for name, _ in terms))
        unused = iter(letter for letter in ascii_letters if letter not in known | set(letters))
        wanted, alone, repeated = "", [], []
        for axis, letter in enumerate(letters):
            if letter in letters[:axis]:
                other = next(unused)
                along = make.slice(make.shape_of(step.input(i)), [axis], [axis + 1], [0])
                unit = make.units(along)
                terms.append((letter + other, unit))
                wanted += other
            elif letter in known:
                wanted += letter
            else:
                alone.append(axis)
            if step.shape(step.input(i))[axis] < sizes[letter]:
                repeated.append(axis)
        equation = ",".join(name for name, _ in terms) + f"->{wanted}"
        back = make.add("Einsum", *(name for _, name in terms), equation=equation)
        if alone:
            back = make.unsqueeze(back, alone)
        if repeated:
            back = make.reduce_sum(back, repeated, keepdims=True)
        made.append(make.expanded_like(back, step.input(i)) if alone else back)
    return made


def expand_equation(step: BackwardStep) -> tuple[list[str], str]:
    """The letters of each operand and of the answer, with letters for "..." and an answer not said."""
    equation = str(step.attribute("equation")).replace(" ", "")
    before, arrow, out = equation.partition("->")
    operands = before.split(",")
    unused = [letter for letter in ascii_letters if letter not in equation]
    if not arrow:
        once = sorted(letter for letter in set(before) - set(",.") if before.count(letter) == 1)
        out = ("..." if "..." in before else "") + "".join(once)
    spelled = []
    longest = ""
    for i, letters in enumerate(operands):
        count = len(step.shape(step.input(i))) - len(letters.replace("...", ""))
        hidden = "".join(unused[:count][::-1])  # counted from behind, so that they broadcast
        longest = max(longest, hidden, key=len)
        spelled.append(letters.replace("...", hidden))
    return spelled, out.replace("...", longest)
