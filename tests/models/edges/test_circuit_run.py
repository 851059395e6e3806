"""Circuits run many at once equal a naive run: node by node, with hooked forward passes for every input of a node."""

from functools import partial

import pytest
import torch

from vlmtrace.models import Site
from vlmtrace.models.edges.circuit_run import divergences, run_circuits
from vlmtrace.models.edges.nodes import HEAD_INPUTS, IMAGE, PROMPT, THE_OUTPUT, Receiver, nodes_at
from vlmtrace.models.edges.reference import PROJECTIONS
from vlmtrace.models.edges.wiring import edges_of, wirings_of
from vlmtrace.models.hooks import HookPoint, attach_hooks
from vlmtrace.models.sweep.reference import read


class NaiveCircuit:
    """One circuit of one pair. Every input of every node is read in a forward pass of its own."""

    def __init__(self, found, inside):
        self.model, self.runs = found.model, found.runs
        self.edges = {edge for edge, is_in in zip(edges_of(found.model), inside, strict=True) if is_in}
        self.made = {}  # by node, what it gives in this run

    def sites(self):
        for wiring in wirings_of(self.model):
            for layer in range(self.model.blocks[wiring.block].n_layers):
                for module in wiring.modules:
                    yield Site(wiring.block, module, layer)

    def columns(self, site, node):
        nodes = nodes_at(self.model.blocks[site.block], site.module, site.layer)
        width = self.runs.corrupt[site].flatten(2).shape[-1] // len(nodes)
        return slice((node.head or 0) * width, ((node.head or 0) + 1) * width)

    def enters(self, receiver):
        """Inputs and hooks of a pass in which every node gives what its edge to the receiver carries."""
        hooks = []
        for site in self.sites():
            value = self.runs.corrupt[site].flatten(2).clone()
            for node in nodes_at(self.model.blocks[site.block], site.module, site.layer):
                if (node, receiver) in self.edges:
                    value[..., self.columns(site, node)] = self.made[node]
            value = value.view(self.runs.corrupt[site].shape)
            hooks.append((self.model.hook_point(site), partial(lambda given, _: given, value)))
        inputs = {}
        for name, value in self.runs.inputs.items():
            sender = PROMPT if name == "input_ids" else IMAGE
            inputs[name] = self.runs.clean_inputs[name] if (sender, receiver) in self.edges else value
        return inputs, hooks

    def seen(self, inputs, point, before=(), after=()):
        kept = []

        def keep(value):
            kept.append(value.clone())

        with attach_hooks([*before, (point, keep), *after], n_pairs=1):
            self.model.answer_logits(inputs)
        return kept[0]

    def projecting(self, site, kind):
        """The attention that makes an input of a layer's heads: keys and values may be those of a lower layer."""
        (wiring,) = (one for one in wirings_of(self.model) if one.block == site.block)
        at = wiring.keys_of(site.module, site.layer)
        is_lower = kind != "query" and isinstance(at, int)
        return self.model.attention_module(site._replace(layer=at) if is_lower else site)

    def compute(self, site, node):
        point = self.model.hook_point(site)
        if node.head is None:
            inputs, hooks = self.enters(Receiver(node))
            return self.seen(inputs, point, after=hooks)
        given = []
        for receiver in (Receiver(node, name) for name in HEAD_INPUTS):
            inputs, hooks = self.enters(receiver)
            attention = self.projecting(site, receiver.input)
            name = next(name for name in PROJECTIONS[receiver.input] if hasattr(attention, name))
            project = HookPoint(getattr(attention, name), is_input=False)
            value = self.seen(inputs, project, before=hooks)
            given.append((project, partial(lambda value, _: value, value)))
        return self.seen(self.runs.inputs, point, before=given).flatten(2)[..., self.columns(site, node)]

    @torch.no_grad()
    def readout(self):
        with attach_hooks(self.output_hooks(), n_pairs=1):
            return read(self.model, self.output_inputs(), self.runs.answer_ids)

    @torch.no_grad()
    def logits(self):
        """(vocabulary,) where the answer begins."""
        with attach_hooks(self.output_hooks(), n_pairs=1):
            return self.model.answer_logits(self.output_inputs())[0]

    def output_inputs(self):
        return self.enters(Receiver(THE_OUTPUT))[0]

    def output_hooks(self):
        for site in self.sites():
            for node in nodes_at(self.model.blocks[site.block], site.module, site.layer):
                self.made[node] = self.compute(site, node)
        return self.enters(Receiver(THE_OUTPUT))[1]


#: BLIP, plain language models, one whose mlps stand beside its heads, one whose upper layers read keys and values of
#: lower ones, and one that looks at the image from within.
KINDS = ["random_blip", "llava", "qwen2_vl", "gemma3", "aya_vision", "gemma4_shared", "mllama"]


@pytest.mark.medium
@pytest.mark.parametrize("corruption", ["image", "text"])
@pytest.mark.parametrize("name", KINDS)
def test_circuits_equal_a_naive_run(runs_of, name, corruption):
    found = runs_of(name, corruption)
    edges = edges_of(found.model)
    generator = torch.Generator().manual_seed(0)
    inside = torch.rand(3, len(edges), generator=generator) < torch.tensor([[0.2], [0.5], [0.9]])
    inside = torch.cat([inside, torch.tensor([[edge.sender.module != "mlp" for edge in edges]])])
    fast = run_circuits(found.stacks, edges, inside, 2**28)
    slow = [NaiveCircuit(found, one.tolist()).readout() for one in inside]
    for column in ("correct", "incorrect"):
        expected = torch.cat([getattr(one, column)[0] for one in slow])
        torch.testing.assert_close(getattr(fast, column)[0], expected, atol=1e-4, rtol=0)
    changes = (fast.correct[0] - found.base.correct).abs()
    assert changes.max() > 1e-3, "no circuit does anything"
    assert changes.unique().numel() > 2, "circuits all do the same"


@pytest.mark.medium
@pytest.mark.parametrize("name", ["random_blip", "llava", "qwen2_vl"])
def test_divergences_equal_those_of_a_naive_run(runs_of, name):
    """KL(whole model ‖ circuit) over the vocabulary, written out, of the logits that hooked passes give."""
    found = runs_of(name)
    edges = edges_of(found.model)
    generator = torch.Generator().manual_seed(1)
    some = torch.rand(len(edges), generator=generator) < 0.6
    inside = torch.stack([some, torch.ones_like(some), torch.zeros_like(some)])
    whole = found.model.answer_logits(found.runs.clean_inputs)[0]
    fast = divergences(found.stacks, edges, inside, whole, 2**28)
    naive = [NaiveCircuit(found, some.tolist()).logits(), whole, found.model.answer_logits(found.runs.inputs)[0]]
    p, slow = whole.double().softmax(-1), []
    for q in (logits.double().softmax(-1) for logits in naive):
        slow.append(sum(a * (a.log() - b.log()) for a, b in zip(p, q, strict=True)))
    torch.testing.assert_close(fast, torch.stack(slow), atol=1e-5, rtol=1e-4)
    assert fast[1].abs() < 1e-6, "the whole model is no way from itself"
    assert (fast[[0, 2]] > 1e-3).all(), "no circuit is any way from the whole model"
