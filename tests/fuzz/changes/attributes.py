"""Changes of the attributes of nodes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from onnx import AttributeProto, ModelProto

from fuzz.changes.parts import ATTRIBUTES, REAL, STRINGS, all_nodes, kind, pick, some_number, some_tensor

__all__ = ["attribute_added", "attribute_gone_or_twice", "attribute_type", "attribute_value"]


@kind
def attribute_value(model: ModelProto, chance: random.Random) -> str | None:
    node = pick(chance, (node for node in all_nodes(model) if node.attribute))
    if node is None:
        return None
    item = chance.choice(list(node.attribute))
    if item.type == AttributeProto.INT:
        item.i = some_number(chance)
    elif item.type == AttributeProto.FLOAT:
        item.f = chance.choice(REAL)
    elif item.type == AttributeProto.INTS:
        change_list(item.ints, chance, some_number)
    elif item.type == AttributeProto.FLOATS:
        change_list(item.floats, chance, lambda chance: chance.choice(REAL))
    elif item.type == AttributeProto.STRING:
        item.s = some_text(chance)
    elif item.type == AttributeProto.TENSOR:
        item.t.CopyFrom(some_tensor(chance))
    else:
        return None
    return f"{node.op_type}.{item.name}"


def some_text(chance: random.Random) -> bytes:
    if chance.random() < 0.2:
        return bytes(chance.randrange(256) for _ in range(chance.randrange(6)))
    return chance.choice(STRINGS).encode("utf-8", "surrogatepass")


def change_list(values: Any, chance: random.Random, some: Callable[[random.Random], Any]) -> None:
    """Changes, drops, adds, repeats or shuffles numbers of a list."""
    how = chance.randrange(6)
    listed = list(values)
    if how <= 1 and listed:
        listed[chance.randrange(len(listed))] = some(chance)
    elif how == 2 and listed:
        del listed[chance.randrange(len(listed))]
    elif how == 3:
        listed.insert(chance.randrange(len(listed) + 1), some(chance))
    elif how == 4:
        chance.shuffle(listed)
    else:
        listed = chance.choice([[], listed * 2, [some(chance)] * chance.randrange(9), [1] * 1000])
    del values[:]
    values.extend(listed)


@kind
def attribute_gone_or_twice(model: ModelProto, chance: random.Random) -> str | None:
    node = pick(chance, (node for node in all_nodes(model) if node.attribute))
    if node is None:
        return None
    place = chance.randrange(len(node.attribute))
    name = node.attribute[place].name
    how = chance.randrange(3)
    if how == 0:
        del node.attribute[place]
    elif how == 1:
        node.attribute.add().CopyFrom(node.attribute[place])
    else:
        other = pick(chance, (node for node in all_nodes(model) if node.attribute))
        node.attribute.add().CopyFrom(chance.choice(list(other.attribute)))
    return f"{node.op_type}.{name} {('gone', 'twice', 'another')[how]}"


@kind
def attribute_added(model: ModelProto, chance: random.Random) -> str | None:
    node = pick(chance, all_nodes(model))
    if node is None:
        return None
    name = chance.choice(ATTRIBUTES)
    item = node.attribute.add(name=name)
    fill_attribute(item, chance)
    return f"{node.op_type}.{name}"


@kind
def attribute_type(model: ModelProto, chance: random.Random) -> str | None:
    node = pick(chance, (node for node in all_nodes(model) if node.attribute))
    if node is None:
        return None
    item = chance.choice(list(node.attribute))
    if chance.random() < 0.3:
        item.type = chance.randrange(15)
        return f"{node.op_type}.{item.name} says another type"
    name = item.name
    item.Clear()
    item.name = name
    fill_attribute(item, chance)
    return f"{node.op_type}.{name} of another type"


def fill_attribute(item: AttributeProto, chance: random.Random) -> None:
    how = chance.randrange(7)
    if how <= 1:
        item.type, item.i = AttributeProto.INT, some_number(chance)
    elif how == 2:
        item.type, item.f = AttributeProto.FLOAT, chance.choice(REAL)
    elif how == 3:
        item.type = AttributeProto.INTS
        item.ints.extend(some_number(chance) for _ in range(chance.randrange(6)))
    elif how == 4:
        item.type, item.s = AttributeProto.STRING, some_text(chance)
    elif how == 5:
        item.type = AttributeProto.FLOATS
        item.floats.extend(chance.choice(REAL) for _ in range(chance.randrange(4)))
    else:
        item.type = AttributeProto.TENSOR
        item.t.CopyFrom(some_tensor(chance))
