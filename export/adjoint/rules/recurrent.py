"""Recurrent layers: LSTM, GRU and RNN, forward, reverse and bidirectional.

The node's own answer holds every state h_t, so that the gates of all steps come from two matrix products at
once. Only what is handed from step to step needs a loop: back from the last step a Scan carries h̄ (and
c̄), and gives the cotangents ā_t of what goes into the gates; x̄ = ā·W for all steps at once.

"Long Short-Term Memory" (Hochreiter and Schmidhuber, 1997) and "Learning Phrase Representations using RNN
Encoder-Decoder" (Cho et al., 2014), in the form of ONNX's operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnx import helper

from camrt.export.adjoint.registry import BackwardStep, rule
from camrt.export.graph.node_maker import TO_THE_END, NodeMaker

__all__: list[str] = []

DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


@dataclass(frozen=True)
class Direction:
    """One direction of a layer, its steps in the order they are taken.

    Attributes:
        step: The node.
        x: Inputs (T, B, I).
        before: The state before each step (T, B, H).
        w: Weight of the inputs (G·H, I), G gates one behind the other.
        r: Weight of the state (G·H, H).
        biases: Of either, (G·H,); None without.
        g: Cotangent of each state that is answered (T, B, H).
        last: Cotangent of the last state (B, H).
    """

    step: BackwardStep
    x: str
    before: str
    w: str
    r: str
    biases: tuple[str, str] | None
    g: str
    last: str

    @property
    def make(self) -> NodeMaker:
        return self.step.make

    @property
    def hidden(self) -> int:
        return int(self.step.attribute("hidden_size"))

    def gate(self, name: str, number: int) -> str:
        """The part of a tensor (..., G·H), or of a weight (G·H, ...) of two axes, that belongs to a gate."""
        axis = 0 if name in (self.w, self.r) or (self.biases and name in self.biases) else 2
        size = self.hidden
        return self.make.slice(name, [number * size], [(number + 1) * size], [axis])

    def project_inputs(self) -> str:
        """x·Wᵀ + b."""
        made = self.make.add("MatMul", self.x, self.make.transpose(self.w, [1, 0]))
        return self.make.add("Add", made, self.biases[0]) if self.biases else made

    def project_states(self, number: int | None = None) -> str:
        """h·Rᵀ + b, of all gates or of one."""
        r = self.r if number is None else self.gate(self.r, number)
        made = self.make.add("MatMul", self.before, self.make.transpose(r, [1, 0]))
        if not self.biases:
            return made
        return self.make.add(
            "Add", made, self.biases[1] if number is None else self.gate(self.biases[1], number)
        )

    def slope(self, gate: str) -> str:
        """s·(1 − s) of a gate s = σ(a)."""
        return self.make.add("Mul", gate, self.make.add("Sub", self.make.number(1.0), gate))

    def tanh_slope(self, t: str) -> str:
        """1 − t² of t = tanh(a)."""
        return self.make.add("Sub", self.make.number(1.0), self.make.add("Mul", t, t))


Back = Callable[[Direction, str | None, str | None], tuple[str, list[str]]]


def multiply_all(make: NodeMaker, *names: str) -> str:
    first, *others = names
    for name in others:
        first = make.add("Mul", first, name)
    return first


def make_scan(
    make: NodeMaker,
    states: Sequence[str],
    read: Sequence[str],
    body: Callable[[NodeMaker, Sequence[str], Sequence[str]], tuple[list[str], str]],
    *,
    backwards: bool,
) -> tuple[list[str], str]:
    """A loop over the first axis.

    Args:
        make: Where nodes are made.
        states: What is carried, at first.
        read: Tensors (T, ...) that each step reads its part of.
        body: Makes a step's nodes from the states and those parts: the next states, and its answer.
        backwards: Whether it runs from the last part to the first.

    Returns:
        The last states, and the answers (T, ...) in the order of `read`.
    """
    prefix = make.new_name()
    inner = NodeMaker(make.opset, make.element, prefix=f"{prefix}_step")
    given = [f"{prefix}_in_{i}" for i in range(len(states) + len(read))]
    following, answer = body(inner, given[: len(states)], given[len(states) :])
    made = []
    for name in (*following, answer):
        made.append(inner.add("Identity", name))
    graph = helper.make_graph(
        inner.nodes, prefix,
        [helper.make_tensor_value_info(name, make.element, None) for name in given],
        [helper.make_tensor_value_info(name, make.element, None) for name in made],
        inner.initializers,
    )  # fmt: skip
    outputs = [make.new_name() for _ in made]
    way = int(backwards)
    loop = helper.make_node("Scan", [*states, *read], outputs, body=graph, num_scan_inputs=len(read))
    loop.attribute.append(helper.make_attribute("scan_input_directions", [way] * len(read)))
    loop.attribute.append(helper.make_attribute("scan_output_directions", [way]))
    make.nodes.append(loop)
    return outputs[:-1], outputs[-1]


def lstm(way: Direction, first: str | None, last: str | None) -> tuple[str, list[str]]:
    """c = f·c' + i·k, h = o·tanh c, with i, o, f = σ(a) and k = tanh(a); gates in the order i, o, f, k."""
    make = way.make
    a = make.add("Add", way.project_inputs(), way.project_states())
    i, o, f = (make.add("Sigmoid", way.gate(a, number)) for number in range(3))
    k = make.add("Tanh", way.gate(a, 3))
    none = make.add("Mul", way.last, make.number(0.0)) if first is None else ""
    start = first or none

    def forth(inner: NodeMaker, states: Sequence[str], read: Sequence[str]) -> tuple[list[str], str]:
        cell = inner.add("Add", inner.add("Mul", states[0], read[0]), read[1])
        return [cell], cell

    _, c = make_scan(make, [start], [f, make.add("Mul", i, k)], forth, backwards=False)
    earlier = make.concat([make.unsqueeze(start, [0]), make.slice(c, [0], [-1], [0])], 0)
    t = make.add("Tanh", c)
    read = [
        way.g, make.add("Mul", o, way.tanh_slope(t)), multiply_all(make, k, way.slope(i)),
        multiply_all(make, t, way.slope(o)), multiply_all(make, earlier, way.slope(f)),
        multiply_all(make, i, way.tanh_slope(k)), f,
    ]  # fmt: skip

    def back(inner: NodeMaker, states: Sequence[str], read: Sequence[str]) -> tuple[list[str], str]:
        g, through, of_i, of_o, of_f, of_k, f = read
        h = inner.add("Add", g, states[0])
        cell = inner.add("Add", states[1], inner.add("Mul", h, through))
        parts = [inner.add("Mul", *pair) for pair in ((cell, of_i), (h, of_o), (cell, of_f), (cell, of_k))]
        into = inner.concat(parts, 1)
        return [inner.add("MatMul", into, way.r), inner.add("Mul", cell, f)], into

    ends = last or make.add("Mul", way.last, make.number(0.0))
    begin, into = make_scan(make, [way.last, ends], read, back, backwards=True)
    return make.add("MatMul", into, way.w), begin


def gru(way: Direction, first: str | None, last: str | None) -> tuple[str, list[str]]:
    """h = (1 − z)·n + z·h', z, r = σ(a), n = tanh of x·W + (r·h')·R, or of x·W + r·(h'·R); order z, r, n."""
    make = way.make
    after = bool(way.step.attribute("linear_before_reset", 0))
    inputs = way.project_inputs()
    z, r = (
        make.add("Sigmoid", make.add("Add", way.gate(inputs, number), way.project_states(number)))
        for number in range(2)
    )
    weight = way.gate(way.r, 2)
    if after:
        inside = way.project_states(2)
        new = make.add("Mul", r, inside)
    else:
        new = make.add("MatMul", make.add("Mul", r, way.before), make.transpose(weight, [1, 0]))
        if way.biases:
            new = make.add("Add", new, way.gate(way.biases[1], 2))
        inside = way.before
    n = make.add("Tanh", make.add("Add", way.gate(inputs, 2), new))
    read = [
        way.g, make.add("Mul", make.add("Sub", way.before, n), way.slope(z)),
        make.add("Mul", inside, way.slope(r)),
        make.add("Mul", make.add("Sub", make.number(1.0), z), way.tanh_slope(n)), z, r,
    ]  # fmt: skip
    of_gates = make.slice(way.r, [0], [2 * way.hidden], [0])

    def back(inner: NodeMaker, states: Sequence[str], read: Sequence[str]) -> tuple[list[str], str]:
        g, of_z, of_r, of_n, z, r = read
        h = inner.add("Add", g, states[0])
        a_z, a_n = inner.add("Mul", h, of_z), inner.add("Mul", h, of_n)
        if after:
            a_r = inner.add("Mul", a_n, of_r)
            kept = inner.add("MatMul", inner.add("Mul", a_n, r), weight)
        else:
            masked = inner.add("MatMul", a_n, weight)
            a_r = inner.add("Mul", masked, of_r)
            kept = inner.add("Mul", masked, r)
        gates = inner.concat([a_z, a_r], 1)
        parts = [inner.add("Mul", h, z), kept, inner.add("MatMul", gates, of_gates)]
        return [inner.add("Sum", *parts)], inner.concat([gates, a_n], 1)

    begin, into = make_scan(make, [way.last], read, back, backwards=True)
    return make.add("MatMul", into, way.w), begin


def rnn(way: Direction, first: str | None, last: str | None) -> tuple[str, list[str]]:
    """h = tanh(x·W + h'·R)."""
    make = way.make
    h = make.add("Tanh", make.add("Add", way.project_inputs(), way.project_states()))

    def back(inner: NodeMaker, states: Sequence[str], read: Sequence[str]) -> tuple[list[str], str]:
        into = inner.add("Mul", inner.add("Add", read[0], states[0]), read[1])
        return [inner.add("MatMul", into, way.r)], into

    begin, into = make_scan(make, [way.last], [way.g, way.tanh_slope(h)], back, backwards=True)
    return make.add("MatMul", into, way.w), begin


@rule("LSTM", "GRU", "RNN")
def _recurrent(step: BackwardStep) -> Sequence[str | None]:
    make, node = step.make, step.node
    refuse_variants(step)
    both = step.attribute("direction", "forward") == "bidirectional"
    states = node.output[0]
    if not states:
        states = make.new_name()
        again = helper.make_node(node.op_type, list(node.input), [states])
        again.attribute.extend(node.attribute)
        make.nodes.append(again)
    g, last, last_cell = (*step.cotangents, None, None, None)[:3]
    back: Back = {"LSTM": lstm, "GRU": gru, "RNN": rnn}[node.op_type]
    inputs: list[str] = []
    begins: list[list[str]] = []
    for number in range(2 if both else 1):
        reverse = number == 1 or step.attribute("direction", "forward") == "reverse"
        way = differentiate_direction(step, states, g, last, number, reverse)
        first = (
            select_direction(make, step.input(6), number)
            if node.op_type == "LSTM" and step.input(6)
            else None
        )
        x, begin = back(way, first, select_direction(make, last_cell, number) if last_cell else None)
        inputs.append(reverse_steps(make, x) if reverse else x)
        begins.append(begin)
    made: list[str | None] = [inputs[0] if len(inputs) == 1 else make.add("Sum", *inputs)]
    made += [None] * 4
    for state in zip(*begins, strict=True):
        made.append(make.concat([make.unsqueeze(part, [0]) for part in state], 0))
    return made


def refuse_variants(step: BackwardStep) -> None:
    """Refuses what no exporter writes for a layer of torch or Keras."""
    kind = step.node.op_type
    ways = 2 if step.attribute("direction", "forward") == "bidirectional" else 1
    said = [
        name.decode() if isinstance(name, bytes) else str(name)
        for name in step.attribute("activations", DEFAULTS[kind] * ways)
    ]
    if said != DEFAULTS[kind] * ways:
        raise step.refuse(f"its activations {said} have no rule")
    if step.attribute("clip") is not None or step.attribute("input_forget", 0) or step.attribute("layout", 0):
        raise step.refuse("with clip, input_forget or layout it has no rule")
    if step.input(4):
        raise step.refuse("sequences of different lengths have no rule")
    if step.input(7):
        raise step.refuse("peepholes have no rule")
    if any(step.needs_gradient(index) for index in (1, 2, 3)):
        raise step.refuse("its weights depend on the image")


def select_direction(make: NodeMaker, name: str, number: int, axis: int = 0) -> str:
    """A tensor's part that belongs to one direction."""
    return make.squeeze(make.slice(name, [number], [number + 1], [axis]), [axis])


def reverse_steps(make: NodeMaker, name: str) -> str:
    """The steps in the opposite order."""
    return make.slice(name, [-1], [-TO_THE_END], [0], [-1])


def differentiate_direction(
    step: BackwardStep, states: str, g: str | None, last: str | None, number: int, reverse: bool
) -> Direction:
    make = step.make
    h = select_direction(make, states, number, 1)
    of_all = select_direction(make, g, number, 1) if g else make.zeros(make.shape_of(h))
    x = step.x
    if reverse:
        h, of_all, x = (reverse_steps(make, name) for name in (h, of_all, x))
    sizes = make.slice(make.shape_of(h), [1], [3], [0])
    before = select_direction(make, step.input(5), number) if step.input(5) else make.zeros(sizes)
    biases = None
    if step.input(3):
        bias = select_direction(make, step.input(3), number)
        half = count_biases(step) // 2
        biases = (make.slice(bias, [0], [half], [0]), make.slice(bias, [half], [TO_THE_END], [0]))
    return Direction(
        step, x, make.concat([make.unsqueeze(before, [0]), make.slice(h, [0], [-1], [0])], 0),
        select_direction(make, step.input(1), number),
        select_direction(make, step.input(2), number), biases, of_all,
        select_direction(make, last, number) if last else make.zeros(sizes),
    )  # fmt: skip


def count_biases(step: BackwardStep) -> int:
    return step.shape(step.input(3))[1]
