"""Pre-training rows in which a request becomes a call of one of the tools on offer."""

import json
import random
from dataclasses import dataclass
from typing import Any

import words
from domains import Domain, invent_domain

Row = dict[str, Any]


@dataclass(frozen=True)
class Parameter:
    name: str
    schema: dict[str, Any]


@dataclass(frozen=True)
class Tool:
    name: str
    verb: str
    thing: str
    description: str
    parameters: tuple[Parameter, ...]

    def schema(self) -> dict[str, Any]:
        properties = {parameter.name: parameter.schema for parameter in self.parameters}
        parameters = {"type": "object", "properties": properties, "required": list(properties)}
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}


def tool_call_row(rng: random.Random, domains: list[Domain]) -> Row:
    domain = rng.choice(domains) if rng.random() < 0.6 else _nonsense_domain(rng)
    tools = _make_tools(rng, domain, count=rng.choice([2, 2, 3, 3, 4, 5]))
    requests = [_request(rng, domain, rng.choice(tools)) for _ in range(2 if rng.random() < 0.1 else 1)]
    text = " and ".join(request for request, _ in requests)
    messages = [
        {"role": "user", "content": words.dress(rng, text)},
        {"role": "assistant", "content": None, "tool_calls": [call for _, call in requests]},
    ]
    if rng.random() < 0.12:
        messages += _follow_up(rng, domain)
    if rng.random() < 0.05:
        messages.insert(0, {"role": "system", "content": f"You work for the {domain.name}."})
    return {"messages": messages, "tools": [tool.schema() for tool in tools]}


def no_tool_row(rng: random.Random, domains: list[Domain]) -> Row:
    """A request that none of the tools fits, so that tools in sight do not always mean a call."""
    domain = rng.choice(domains)
    tools = _make_tools(rng, domain, count=rng.randint(1, 3))
    person = rng.choice(words.PEOPLE)
    question, answer = rng.choice([
        (f"hello, my name is {person}", f"Hello {person}, how can I help?"),
        ("what can you do", "I can " + ", ".join(f"{tool.verb} a {tool.thing}" for tool in tools) + "."),
        (f"thank you, says {person}", f"You are welcome, {person}."),
    ])  # fmt: skip
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "tools": [tool.schema() for tool in tools]}


def _nonsense_domain(rng: random.Random) -> Domain:
    return invent_domain([rng.choice(words.SYLLABLES) for _ in range(26)])


def _make_tools(rng: random.Random, domain: Domain, count: int) -> list[Tool]:
    pairs = [(verb, thing) for verb in domain.verbs for thing in domain.things]
    return [_make_tool(rng, domain, verb, thing) for verb, thing in rng.sample(pairs, count)]


def _make_tool(rng: random.Random, domain: Domain, verb: str, thing: str) -> Tool:
    name = rng.choice([f"{verb}_{thing}", f"{thing}_{verb}", f"{verb}_{thing}", f"{verb}{thing.capitalize()}"])
    description = rng.choice([
        f"{verb.capitalize()} a {thing}", f"{verb.capitalize()} {thing} ({domain.name})",
        f"Use this to {verb} a {thing}.",
        f"{verb.capitalize()} one {thing} of the {domain.name}", f"{domain.name.capitalize()}: {verb} {thing}",
    ])  # fmt: skip
    kinds = rng.sample(list(_KINDS), k=rng.choice([1, 2, 2, 3]))
    return Tool(name, verb, thing, description, tuple(_make_parameter(rng, domain, kind) for kind in kinds))


_KINDS = {
    "place": ["place", "location", "where", "site", "area", "zone"],
    "count": ["count", "amount", "number", "quantity", "units"],
    "day": ["day", "date", "when"],
    "person": ["person", "name", "customer", "owner"],
    "share": ["percent", "share", "volume"],
    "state": ["state", "mode", "priority"],
    "hour": ["time", "hour", "at"],
    "flag": ["notify", "urgent", "repeat"],
}  # fmt: skip
_STATES = ["low", "high", "normal", "fast", "slow", "full", "partial", "silent"]


def _make_parameter(rng: random.Random, domain: Domain, kind: str) -> Parameter:
    name = rng.choice(_KINDS[kind])
    if kind in ("count", "share"):
        return Parameter(name, {"type": "integer"})
    if kind == "flag":
        return Parameter(name, {"type": "boolean"})
    if rng.random() < 0.4 and kind in ("place", "state"):
        values = [_identifier(place) for place in domain.places] if kind == "place" else _STATES
        return Parameter(name, {"type": "string", "enum": rng.sample(values, k=rng.randint(3, 4))})
    return Parameter(name, {"type": "string"})


def _identifier(phrase: str) -> str:
    return phrase.replace(" ", "_")


def _request(rng: random.Random, domain: Domain, tool: Tool) -> tuple[str, dict[str, Any]]:
    phrases, arguments = [], {}
    for parameter in tool.parameters:
        phrase, value = _fill(rng, domain, parameter)
        phrases.append(phrase)
        arguments[parameter.name] = value
    rng.shuffle(phrases)
    article = rng.choice(["the", "a", "our", "that", "one"])
    adjective = rng.choice(words.ADJECTIVES) + " " if rng.random() < 0.2 else ""
    order = f"{tool.verb} {article} {adjective}{tool.thing}"
    before = phrases.pop() + ", " if phrases and rng.random() < 0.2 else ""
    text = before + " ".join([order, *phrases])
    function = {"name": tool.name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return text, {"id": f"call_{rng.randrange(10**6)}", "type": "function", "function": function}


def _fill(rng: random.Random, domain: Domain, parameter: Parameter) -> tuple[str, Any]:
    """The words for one argument, and its value."""
    kind = next(kind for kind, names in _KINDS.items() if parameter.name in names)
    if kind == "place":
        choices = parameter.schema.get("enum") or [_identifier(place) for place in domain.places]
        place = rng.choice(choices)
        return f"{rng.choice(['at', 'in', 'near', 'for', 'from'])} the {place.replace('_', ' ')}", place
    if kind == "count":
        return _count_phrase(rng)
    if kind == "day":
        day = rng.choice(words.DAYS)
        return (day if day[-3:] != "day" or day == "today" else f"on {day}"), day
    if kind == "person":
        person = rng.choice(words.PEOPLE) if rng.random() < 0.6 else words.nonsense(rng).capitalize()
        return f"{rng.choice(['for', 'by order of', 'with', 'on behalf of'])} {person}", person
    if kind == "share":
        return _share_phrase(rng)
    if kind == "state":
        state = rng.choice(parameter.schema.get("enum") or _STATES)
        return rng.choice([f"with {state} {parameter.name}", f"{parameter.name} {state}", f"as {state}"]), state
    if kind == "hour":
        hour, half = rng.randint(1, 12), rng.random() < 0.3
        return f"at {f'half past {hour}' if half else f'{hour}'}", f"{hour:02d}:{'30' if half else '00'}"
    flag = rng.random() < 0.5
    return f"{'' if flag else 'do not '}{parameter.name}" if flag else f"no {parameter.name}", flag


def _count_phrase(rng: random.Random) -> tuple[str, int]:
    unit = rng.choice(["times", "pieces", "units", "of them"])
    if rng.random() < 0.5:
        word, number = rng.choice(list(words.NUMBERS.items()))
        return f"{word} {unit}", number
    number = rng.randint(1, 99)
    return f"{number} {unit}", number


def _share_phrase(rng: random.Random) -> tuple[str, int]:
    named = {"half": 50, "a quarter": 25, "three quarters": 75, "all": 100, "none": 0, "a third": 33}
    if rng.random() < 0.4:
        word, number = rng.choice(list(named.items()))
        return f"{word} of it", number
    number = rng.randint(0, 20) * 5
    return f"{number}{rng.choice(['%', ' percent', ' per cent'])}", number


def _follow_up(rng: random.Random, domain: Domain) -> list[dict[str, Any]]:
    status, place = rng.choice(["done", "failed", "queued"]), rng.choice(domain.places)
    content = json.dumps({"status": status, "place": place})
    return [
        {"role": "tool", "tool_call_id": "call_0", "content": content},
        {"role": "assistant", "content": f"The request is {status} at the {place}."},
    ]
