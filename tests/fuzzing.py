"""Hostile files made from valid ones: a value of every kind in every field of a schema, and random damage.

Fields come from the schema itself, so that a new one is covered without anybody thinking of it.
"""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

PLANTED = "PLANTED"  # a page's title, should a planted script run
TEXTS: dict[str, str] = {
    "climbs out": "x/../../../../escaped",
    "absolute path": "/tmp/escaped",
    "element": f"<img src=x onerror=\"document.title='{PLANTED}'\">",
    "breaks out of an attribute": f"\"><script>document.title='{PLANTED}'</script><b title='",
    "breaks out of another attribute": f"' onmouseover='document.title=\"{PLANTED}\"' autofocus onfocus='x",
    "ends a script": f"</script><script>document.title='{PLANTED}'</script><!--",
    "shell": "x; touch HACKED `touch HACKED` $(touch HACKED) ' \" \\",
    "second line": "x\ntouch HACKED",
    "markup of rich": "[/x] [link=file:///]",
    "formula": "$\\frac{",
    "control characters": "a\0\x1b[2J\r\x07\u202eb",
    "half a character": "a\ud800b",
    "very long": "x" * 100_000,
    "empty": "",
}


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


OTHERS: dict[str, Any] = {
    "10^12": 10**12,
    "10^400": 10**400,
    "-1": -1,
    "not a number": float("nan"),
    "infinite": float("inf"),
    "nested": _nested(200),
    "null": None,
    "a list": ["x"],
    "an object": {"x": {"y": "z"}},
    "true": True,
}

WHOLE_FILES: dict[str, bytes] = {  # in place of any JSON
    "nested lists": b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "a number of 5,000 digits": b'{"schema_version":' + b"9" * 5000 + b"}",
    "not a number": b'{"schema_version":NaN}',
    "nothing": b"",
    "a list": b"[]",
    "other encoding": b"\xff\xfe{\0",
    "names twice": b'{"schema_version":2,"schema_version":[],"kind":["x"]}',
}


def hostile_values(schema: type[BaseModel], instance: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(what was done, the whole with it): every field of `schema`, nested ones too, with one value of every kind."""
    whole = schema.model_validate(instance).model_dump(mode="json")  # with the fields that have defaults
    for place in _places(whole):
        for kind, value in {**TEXTS, **OTHERS}.items():
            yield f"{'.'.join(map(str, place))}: {kind}", _with(whole, place, value)


def planted(schema: type[BaseModel], instance: dict[str, Any], text: str) -> dict[str, Any]:
    """The instance with `text` wherever a string stands and the schema takes that one there."""
    whole = schema.model_validate(instance).model_dump(mode="json")
    for place in list(_places(whole)):
        if isinstance(_at(whole, place), str):
            changed = _with(whole, place, text)
            try:
                schema.model_validate(changed)
            except ValueError:
                continue
            whole = changed
    return whole


def mutations(data: bytes, seed: int, count: int) -> Iterator[bytes]:
    """Of a file, at random: damaged bytes and, of JSON, other values in its structure. The same for a seed."""
    chance = random.Random(seed)
    try:
        json.loads(data)
        ways = [_bytes_damaged, _structure_damaged]
    except ValueError:
        ways = [_bytes_damaged]
    for _ in range(count):
        yield chance.choice(ways)(data, chance)


def _bytes_damaged(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    end = min(len(data), start + chance.choice((1, 1, 4, 64)))
    middle = chance.choice(
        (
            b"",
            chance.randbytes(end - start),
            data[start:end] * 3,
            b"[" * 100_000,
            b'{"a":' * 50_000,
            b"9" * chance.choice((30, 5000)),
            b"1e999",
            b"NaN",
            b"\xff\xfe",
            b'"\\ud800"',
        )
    )
    return data[:start] + middle + (b"" if chance.random() < 0.1 else data[end:])


def _structure_damaged(data: bytes, chance: random.Random) -> bytes:
    whole = json.loads(data)
    for _ in range(chance.choice((1, 1, 3))):
        place = chance.choice(list(_places(whole)))
        parent = _at(whole, place[:-1])
        what = chance.random()
        if what < 0.2:
            del parent[place[-1]]
        elif what < 0.3 and isinstance(parent, dict):
            parent[chance.choice(list(TEXTS.values()))] = parent.pop(place[-1])
        elif what < 0.4:
            parent[place[-1]] = copy.deepcopy(_at(whole, chance.choice(list(_places(whole)))))
        else:
            parent[place[-1]] = chance.choice([*TEXTS.values(), *OTHERS.values()])
        if not whole:
            break
    return json.dumps(whole).encode()


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Keys that lead to each value; of a list the first item stands for all."""
    if place:
        yield place
    inside = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    for key, each in list(inside):
        yield from _places(each, (*place, key))


def _at(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        value = value[key]
    return value


def _with(whole: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(whole)
    _at(changed, place[:-1])[place[-1]] = copy.deepcopy(value)
    return changed
