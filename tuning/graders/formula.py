"""The formula of a multi grader: read once into a tree, then computed with floats. Nothing is ever handed to `eval`.

sum      = product (("+" | "-") product)*
product  = negated (("*" | "/") negated)*
negated  = ("-" | "+") negated | power
power    = atom ("^" negated)?                 so that 2^3^2 is 2^9, and -2^2 is -4
atom     = number | name | function "(" sum ("," sum)* ")" | "(" sum ")"
"""

import math
import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

MAX_CHARACTERS = 4000
MAX_DEPTH = 50
"""Of parentheses, signs and powers: each goes one call deeper."""

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)|(?P<name>[^\W\d]\w*)|(?P<sign>[-+*/^(),]))"
)
_END = ""


class FormulaError(Exception):
    """What is wrong with it, in a user's words."""


def _divide(dividend: float, divisor: float) -> float:
    if divisor == 0:
        raise FormulaError("division by zero")
    return dividend / divisor


_OPERATORS: Mapping[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _divide,
    "^": math.pow,
}
_FUNCTIONS: Mapping[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}
_OF_MANY = ("min", "max")


@dataclass(frozen=True)
class _Number:
    value: float

    def compute(self, variables: Mapping[str, float]) -> float:
        return self.value


@dataclass(frozen=True)
class _Variable:
    name: str

    def compute(self, variables: Mapping[str, float]) -> float:
        return variables[self.name]


@dataclass(frozen=True)
class _Call:
    name: str
    function: Callable[..., float]
    arguments: "tuple[Formula, ...]"

    def compute(self, variables: Mapping[str, float]) -> float:
        return _apply(self.name, self.function, [argument.compute(variables) for argument in self.arguments])


@dataclass(frozen=True)
class _Chain:
    """`a + b - c`, from left to right; not a tree, which a thousand terms would make a thousand deep."""

    first: "Formula"
    rest: "tuple[tuple[str, Formula], ...]"

    def compute(self, variables: Mapping[str, float]) -> float:
        result = self.first.compute(variables)
        for sign, operand in self.rest:
            result = _apply(sign, _OPERATORS[sign], [result, operand.compute(variables)])
        return result


Formula = _Number | _Variable | _Call | _Chain


def _apply(name: str, function: Callable[..., float], values: Sequence[float]) -> float:
    shown = ", ".join(f"{value:g}" for value in values[:5])
    try:
        result = float(function(*values))
    except (ValueError, OverflowError) as error:  # log(-1), exp(1000)
        raise FormulaError(f"'{name}' of {shown} is no finite number") from error
    if not math.isfinite(result):
        raise FormulaError(f"'{name}' of {shown} is no finite number")
    return result


def parse_formula(text: str, names: Collection[str]) -> Formula:
    """Raises FormulaError, also when a name of `names` could not be written in a formula."""
    for name in names:
        if not re.fullmatch(r"[^\W\d]\w{0,255}", name) or name in _FUNCTIONS:
            raise FormulaError(f"the name {name[:100]!r} cannot stand in a formula: use letters, digits and '_'")
    if len(text) > MAX_CHARACTERS:
        raise FormulaError(f"it is longer than {MAX_CHARACTERS} characters")
    return _Parser(text, names).parse()


def compute_formula(text: str, variables: Mapping[str, float]) -> float:
    """Raises FormulaError when the result is no finite number."""
    return parse_formula(text, variables.keys()).compute(variables)


class _Parser:
    def __init__(self, text: str, names: Collection[str]) -> None:
        self._text = text.rstrip()
        self._names = names
        self._position = 0
        self._depth = 0
        self._kind = self._token = _END
        self._advance()

    def parse(self) -> Formula:
        formula = self._sum()
        if self._token != _END:
            raise FormulaError(f"{self._token!r} was not expected {self._place()}")
        return formula

    def _sum(self) -> Formula:
        return self._chain(("+", "-"), self._product)

    def _product(self) -> Formula:
        return self._chain(("*", "/"), self._negated)

    def _negated(self) -> Formula:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise FormulaError(f"it is nested more than {MAX_DEPTH} deep")
        if self._token in ("-", "+"):
            sign = self._take()
            operand = self._negated()
            negated = _Call("-", operator.neg, (operand,)) if sign == "-" else operand
        else:
            negated = self._power()
        self._depth -= 1
        return negated

    def _power(self) -> Formula:
        base = self._atom()
        if self._token != "^":
            return base
        return _Chain(base, ((self._take(), self._negated()),))

    def _atom(self) -> Formula:
        if self._kind == "number":
            return _Number(_finite(self._take()))
        if self._kind == "name":
            return self._named(self._take())
        self._expect("(")
        inner = self._sum()
        self._expect(")")
        return inner

    def _named(self, name: str) -> Formula:
        if name in self._names:
            return _Variable(name)
        if name not in _FUNCTIONS:
            known = ", ".join(sorted(self._names))
            raise FormulaError(f"{name[:100]!r} is none of the graders ({known[:300]}) nor of the functions")
        self._expect("(")
        arguments = [self._sum()]
        while self._token == ",":
            self._advance()
            arguments.append(self._sum())
        self._expect(")")
        if len(arguments) > 1 and name not in _OF_MANY:
            raise FormulaError(f"'{name}' takes one number")
        if len(arguments) == 1 and name in _OF_MANY:
            return arguments[0]
        return _Call(name, _FUNCTIONS[name], tuple(arguments))

    def _chain(self, signs: tuple[str, str], operand: Callable[[], Formula]) -> Formula:
        first, rest = operand(), []
        while self._token in signs:
            rest.append((self._take(), operand()))
        return _Chain(first, tuple(rest)) if rest else first

    def _take(self) -> str:
        token = self._token
        self._advance()
        return token

    def _expect(self, token: str) -> None:
        if self._token != token:
            found = repr(self._token[:100]) if self._token != _END else "nothing"
            raise FormulaError(f"{token!r} was expected {self._place()}, not {found}")
        self._advance()

    def _advance(self) -> None:
        self._start = self._position
        if self._position == len(self._text):
            self._kind = self._token = _END
            return
        found = _TOKEN.match(self._text, self._position)
        if found is None or found.lastgroup is None:
            raise FormulaError(f"{self._text[self._position :].strip()[:1]!r} was not expected {self._place()}")
        self._kind, self._token = found.lastgroup, found[found.lastgroup]
        self._position = found.end()

    def _place(self) -> str:
        return f"at character {self._start + 1}"


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise FormulaError(f"{number[:100]} is too large")
    return value
