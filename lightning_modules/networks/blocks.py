"""Find the blocks that a network runs, and cut it after one of them, with torch.fx: its forward pass may do more around them.

Shapes: B batch, C channels, H, W pixels, N tokens.
"""

import functools
import itertools
import math
from collections import Counter

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_modules.networks.surgery import evaluating

WHOLE = "network."  # prefix that the tracer adds to names
IDLE = (nn.Identity, nn.Dropout)
OF_HEAD = {  # names of what comes after the last block
    "avgpool", "classif", "classifier", "fc", "fc_norm", "flatten", "global_pool", "head", "head_dist", "head_drop",
    "last_linear", "pre_logits",
}  # fmt: skip
MOST_LAYERS = 12  # a sequence of up to this many layers is one block; a longer one (VGG's) is a container
POOLS = (nn.MaxPool2d, nn.AvgPool2d)
NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)  # timm's hold an activation


class Blocks(nn.Module):
    """The blocks of a network by name, in the order in which it runs them.

    A block is a module that the network or one of its containers calls; a container is a module that only runs its blocks one
    after the other (a stage). The inside of a block is not examined, since its forward pass may do anything.

    Attributes:
        names: names of the blocks that are called exactly once.
        ends: container -> its last block.
        stopped: why the search ended before the end of the network; None if it did not.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self._graph, tracer = self._trace(training=False)
        self.stopped = tracer.stopped
        called = [node.target.removeprefix(WHOLE) for node in self._graph.nodes if node.op == "call_module"]
        self.names = [name for name, count in Counter(called).items() if count == 1]
        self.ends = {name.removeprefix(WHOLE): end.removeprefix(WHOLE) for name, end in tracer.ends.items()}
        for name in self.names:  # a list that is a container is never called
            parent = name.rpartition(".")[0]
            if parent and isinstance(network.get_submodule(parent), nn.ModuleList):
                self.ends[parent] = name

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def _trace(self, *, training: bool) -> "tuple[fx.Graph, _Tracer]":
        """Return what the network runs in one of its modes, which a trace fixes: `F.dropout(x, training=self.training)`."""
        tracer = _Tracer()
        with evaluating(self.network):
            self.network.train(training)
            return tracer.trace(self), tracer

    @functools.cached_property
    def _graph_in_training(self) -> fx.Graph:
        return self._trace(training=True)[0]

    @property
    def cuts(self) -> list[str]:
        """Names of the blocks before the head; layers in a row (convolution, norm, activation) count as one, named by the last.

        A pooling ends a row.
        """
        before_head = itertools.takewhile(lambda name: name.split(".")[0] not in OF_HEAD, self.names)
        names = [name for name in before_head if not isinstance(self.network.get_submodule(name), IDLE)]
        modules = [self.network.get_submodule(name) for name in names]
        continues = [is_layer(module) and not isinstance(module, POOLS) for module in modules]
        layers = [*map(is_layer, modules), False]
        return [name for index, name in enumerate(names) if not (continues[index] and layers[index + 1])]

    def upto(self, name: str) -> nn.Module:
        """Return the network up to and including a block: a sequence of modules, or a graph if the network does more.

        The parts keep their names; parts that are not needed are dropped.
        """
        chain = _chain(self._graph, name)
        in_training = _chain(self._graph_in_training, name)
        targets, of_training = (
            [str(n.target) for n in nodes if n.op == "call_module"] for nodes in (chain, in_training)
        )
        if targets != of_training:  # such as blocks that are skipped at random
            in_training = chain
        graph, graph_in_training = self._copy(chain), self._copy(in_training)
        is_same = str(graph) == str(graph_in_training)
        if is_same and len(set(targets)) == len(targets) and _is_chain(chain[0], chain[1:]):
            names = [target.removeprefix(WHOLE) for target in targets]
            return _nested({name: self.network.get_submodule(name) for name in names})
        return Graph(self.network, graph, None if is_same else graph_in_training)

    def _copy(self, chain: list[fx.Node]) -> fx.Graph:
        """Return a graph of these nodes, the last of which it gives, with the names of the network."""
        graph, copies = fx.Graph(), {}
        for node in chain:
            copies[node] = graph.node_copy(node, copies.__getitem__)
            if node.op in ("call_module", "get_attr"):
                if not node.target.startswith(WHOLE):  # a constant
                    setattr(self.network, node.target, getattr(self, node.target))
                copies[node].target = node.target.removeprefix(WHOLE)
        graph.output(copies[chain[-1]])
        return graph


class Graph(nn.Module):
    """Run the part of a network that a graph describes, with its modules and their names; another graph in training, if any.

    It is not a GraphModule, which prints its code with every error, including that of an image that is too small.
    """

    def __init__(self, network: nn.Module, graph: fx.Graph, in_training: fx.Graph | None):
        super().__init__()
        made, whole = fx.GraphModule(network, graph), set(network.state_dict())
        for name, child in made.named_children():
            self.add_module(name, child)
        for name, parameter in made.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in made.named_buffers(recurse=False):
            self.register_buffer(name, buffer, persistent=name in whole)
        self._run = self._run_in_training = type(made).forward
        if in_training is not None:
            made = fx.GraphModule(network, in_training)
            self._run_in_training = type(made).forward
            for name, constant in made.named_buffers(recurse=False):
                if name not in self._buffers:
                    self.register_buffer(name, constant, persistent=False)
        self.to_map: ToMap | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = (self._run_in_training if self.training else self._run)(self, x)
        return x if self.to_map is None else self.to_map(x)


class _Tracer(fx.Tracer):
    """Record the modules that a network calls, without examining the inside of its blocks."""

    def __init__(self):
        super().__init__()
        self.ends: dict[str, str] = {}
        self.stopped: Exception | None = None

    def call_module(self, m, forward, args, kwargs):
        name = self.path_of_module(m)
        if name + "." == WHOLE:
            try:
                return forward(*args, **kwargs)
            except Exception as error:  # the forward pass needs numbers or shapes; the blocks before that are known
                self.stopped = error
                return args[0]
        if _may_hold_blocks(m) and len(args) == 1 and isinstance(args[0], fx.Proxy):
            before = len(self.graph.nodes)
            try:
                result = forward(*args, **kwargs)
            except Exception:  # it is a block, then
                result = None
            inside = list(self.graph.nodes)[before:]
            ends = isinstance(result, fx.Proxy) and inside and inside[-1] is result.node
            if ends and _is_chain(args[0].node, inside):
                self.ends[name] = inside[-1].target
                return result
            erased = {node.target for node in inside}
            self.ends = {container: end for container, end in self.ends.items() if end not in erased}
            for node in reversed(inside):
                self.graph.erase_node(node)
        return self.create_proxy("call_module", name, args, kwargs)


def _is_chain(start: fx.Node, nodes: list[fx.Node]) -> bool:
    """Return whether all nodes are modules, each with the output of the one before as its only input."""
    before = [start, *nodes]
    return all(
        node.op == "call_module" and node.args == (previous,) and not node.kwargs
        for previous, node in zip(before, nodes, strict=False)
    )


def _chain(graph: fx.Graph, name: str) -> list[fx.Node]:
    """Return what is computed up to and with a block, in its order; nothing where the graph has none of this name."""
    needed, waiting = set(), [n for n in graph.nodes if n.op == "call_module" and n.target == WHOLE + name][:1]
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting += node.all_input_nodes
    return [node for node in graph.nodes if node in needed]


def _nested(modules: dict[str, nn.Module]) -> nn.Sequential:
    """Return the modules in order, nested in containers according to the dots in their names."""
    root = nn.Sequential()
    for name, module in modules.items():
        *parents, last = name.split(".")
        container = root
        for parent in parents:
            if parent not in container._modules:
                container.add_module(parent, nn.Sequential())
            container = container._modules[parent]
        container.add_module(last, module)
    return root


def is_layer(module: nn.Module) -> bool:
    """Return whether a module is a single layer, not a block of several."""
    return not any(module.children()) or isinstance(module, NORMS)


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, (nn.Sequential, nn.ModuleList))


def _may_hold_blocks(module: nn.Module) -> bool:
    """Return whether a module looks like a container; its forward pass has to confirm it.

    A container is a sequence of parts larger than layers, or a module without weights of its own that holds such a sequence or
    only blocks that consist of blocks.
    """
    children = list(module.children())
    if _is_list(module):
        return not all(map(is_layer, children)) or len(children) > MOST_LAYERS
    if not children or any(True for _ in module.parameters(recurse=False)):
        return False
    if any(_is_list(child) and not all(map(is_layer, child)) for child in children):
        return True
    weighted = [child for child in children if any(True for _ in child.parameters())]
    return bool(weighted) and all(not is_layer(c) and not all(map(is_layer, c.children())) for c in weighted)


class ToMap(nn.Module):
    """Make a map (B, C, H, W) from tokens (B, N, C), without the first few, or from a map (B, H, W, C)."""

    def __init__(self, prefix_tokens: int = 0):
        super().__init__()
        self.prefix_tokens = prefix_tokens  # class token or registers, which are not part of the image

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 4:
            return x.permute(0, 3, 1, 2)
        x = x[:, self.prefix_tokens :].transpose(1, 2)  # (B, C, N)
        side = math.isqrt(x.shape[2])
        return x.unflatten(2, (side, side))

    def extra_repr(self) -> str:
        return f"prefix_tokens={self.prefix_tokens}"


def as_map(shape: torch.Size, network: nn.Module) -> tuple[int, ToMap | None] | None:
    """Return the channels of a cut's output for a square image, and the module that makes a map (B, C, H, W) of it, if needed.

    The map of a square image is square, which distinguishes (B, C, H, W) from (B, H, W, C), and patches from other tokens.
    Returns None if the output cannot become a map.
    """
    if len(shape) == 4 and math.prod(shape[1:]) > max(shape[1:]):
        if shape[1] == shape[2] and (shape[2] != shape[3] or getattr(network, "output_fmt", "") == "NHWC"):
            return shape[3], ToMap()
        if shape[2] == shape[3]:
            return shape[1], None
    if len(shape) == 3:
        for prefix_tokens in dict.fromkeys((0, getattr(network, "num_prefix_tokens", 1))):
            patches = shape[1] - prefix_tokens
            if patches > 1 and math.isqrt(patches) ** 2 == patches:
                return shape[2], ToMap(prefix_tokens)
    return None
