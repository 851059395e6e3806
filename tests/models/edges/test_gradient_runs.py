"""Gradients taken node by node equal those of the whole model, and runs on the way are what they say."""

import pytest
import torch
from fixtures.families import TIERED

from vlmtrace.models import Readout, Site
from vlmtrace.models.edges.gradient_runs import gradient_runs, input_gradient
from vlmtrace.models.edges.nodes import IMAGE, PROMPT, Node
from vlmtrace.models.hooks import HookPoint, attach_hooks
from vlmtrace.models.sweep import reference
from vlmtrace.models.types import Patches

MEMORY = 2**28


def sites_of(stacks):
    return [
        (stack, Site(stack.wiring.block, module, layer))
        for stack in stacks
        for layer in range(stack.layers.block.n_layers)
        for module in stack.layers.modules
    ]


def whole_model_gradients(found, points, dropped=()):
    """The gradient of the corrupt run's logit difference at hook points, by autograd through the whole model."""
    probes = {}

    def probe(name):
        def add_zero(value):
            probes[name] = torch.zeros_like(value, requires_grad=True)
            return value + probes[name]

        return add_zero

    hooks = [(point, probe(name)) for name, point in points.items()]
    hooks += [(point, lambda value: value.detach()) for point in dropped]
    with torch.enable_grad(), attach_hooks(hooks, n_pairs=1):
        logits = found.model.answer_logits(found.runs.inputs)
        answer = Readout.of(logits, found.runs.answer_ids).logit_diff.sum()
        gradients = torch.autograd.grad(answer, list(probes.values()), allow_unused=True)
    return {
        name: torch.zeros_like(probe) if gradient is None else gradient
        for (name, probe), gradient in zip(probes.items(), gradients, strict=True)
    }


def assert_close(got, expected, what):
    scale = expected.abs().max().item()
    difference = (got - expected).abs().max().item()
    assert difference <= 1e-3 * scale + 1e-6, f"{what}: {difference} apart, of {scale}"


@pytest.mark.parametrize("name", ["random_blip", *TIERED])
def test_gradients_at_outputs_equal_those_through_the_whole_model(runs_of, model_store, name):
    model = model_store.shared(name)
    if model.nodes_unsupported_reason():
        pytest.skip(model.nodes_unsupported_reason())
    found = runs_of(name, "text")
    sites = sites_of(found.stacks)
    runs = gradient_runs(found.stacks, found.runs.answer_ids, [0.0])
    expected = whole_model_gradients(found, {site: model.hook_point(site) for _, site in sites})
    for stack, site in sites:
        own = runs.gradients[tuple(site)]
        assert_close(own, expected[site].reshape(1, -1, own.shape[-1])[:, stack.first :], site)
    assert max(gradient.abs().max() for gradient in runs.gradients.values()) > 1e-4, "a gradient of nothing"


@pytest.mark.parametrize("name", ["random_blip", "llava", "qwen2_vl"])
@pytest.mark.parametrize("corruption", ["image", "text"])
def test_gradients_at_the_inputs_of_heads_equal_those_through_the_whole_model(runs_of, name, corruption):
    """Naively: the gradient behind a projection, of one head's columns, back through the projection and the norm."""
    found = runs_of(name, corruption)
    model = found.model
    runs = gradient_runs(found.stacks, found.runs.answer_ids, [0.0])
    heads = [(stack, site) for stack, site in sites_of(found.stacks) if site.module == "self_attention"]
    stack, site = heads[len(heads) // 2]
    entering = stack.layers.entering(site.layer).detach().requires_grad_()
    for kind in ("query", "key", "value"):
        attention = model.attention_module(site)
        projection = getattr(attention, kind if name == "random_blip" else f"{kind[0]}_proj")
        behind = whole_model_gradients(found, {kind: HookPoint(projection, is_input=False)})[kind][:, stack.first :]
        n_heads = stack.layers.block.heads_at(site.layer)
        if behind.shape[-1] != projection.in_features:
            continue  # heads share keys: what goes through one of them alone cannot be read there
        own = input_gradient(stack, runs, site.module, site.layer, kind, MEMORY).entering
        for head in range(n_heads):
            columns = torch.zeros_like(behind).unflatten(-1, (n_heads, -1))
            columns[..., head, :] = behind.unflatten(-1, (n_heads, -1))[..., head, :]
            with torch.enable_grad():
                rows = entering
                if name != "random_blip":
                    rows = model.hf.model.language_model.layers[site.layer].input_layernorm(entering)
                expected = torch.autograd.grad((projection(rows) * columns.flatten(-2)).sum(), entering)[0][0]
            assert_close(own[head], expected, (kind, head))
        assert own.abs().max() > 1e-6 or kind != "value", "a gradient of nothing"


@pytest.mark.parametrize("name", ["random_blip", "llava"])
def test_no_gradient_goes_through_a_dropped_layer(runs_of, name):
    found = runs_of(name)
    sites = sites_of(found.stacks)
    block, layer = found.model.head_block.name, 1
    runs = gradient_runs(found.stacks, found.runs.answer_ids, [0.0], dropped=(block, layer))
    dropped = [site for _, site in sites if site.block == block and site.layer == layer]
    points = {site: found.model.hook_point(site) for _, site in sites}
    expected = whole_model_gradients(
        found, {site: point for site, point in points.items() if site not in dropped}, [points[one] for one in dropped]
    )
    plain = gradient_runs(found.stacks, found.runs.answer_ids, [0.0])
    for stack, site in sites:
        if site in dropped:
            assert not runs.gradients[tuple(site)].any()
        else:
            assert_close(runs.gradients[tuple(site)], expected[site][:, stack.first :], site)
    below = (block, found.stacks[0].layers.modules[0], 0)
    assert not torch.allclose(runs.gradients[below], plain.gradients[below], rtol=1e-2)


@pytest.mark.parametrize("corruption", ["image", "text"])
@pytest.mark.parametrize(
    "name",
    # The last ones are given embeddings of their own, carry a state, and look at the image from within.
    [
        "random_blip", "llava", "qwen3_vl", "gemma3",
        *(pytest.param(name, marks=pytest.mark.medium) for name in ("gemma4", "qwen3_5", "mllama")),
    ],
)  # fmt: skip
def test_the_way_goes_from_the_corrupt_to_the_clean_run(runs_of, name, corruption):
    found = runs_of(name, corruption)
    answers = gradient_runs(found.stacks, found.runs.answer_ids, [0.0, 0.5, 1.0]).answers
    ends = torch.cat([found.base.logit_diff, found.clean.logit_diff])
    torch.testing.assert_close(answers[[0, 2]], ends, atol=1e-4, rtol=0)
    assert (answers[1] - ends).abs().min() > 1e-4, "the middle is neither end"


@pytest.mark.parametrize("name", ["random_blip", "llava"])
def test_runs_together_are_runs_apart(runs_of, name):
    found = runs_of(name)
    node = Node(found.model.head_block.name, "self_attention", 1, 0)
    for moved in (None, PROMPT if name == "llava" else IMAGE, node):
        both = gradient_runs(found.stacks, found.runs.answer_ids, [0.3, 0.8], moved)
        for i, share in enumerate([0.3, 0.8]):
            alone = gradient_runs(found.stacks, found.runs.answer_ids, [share], moved)
            torch.testing.assert_close(both.answers[i : i + 1], alone.answers, atol=1e-5, rtol=1e-5)
            for at, gradient in alone.gradients.items():
                assert_close(both.gradients[at][i : i + 1], gradient, at)


@pytest.mark.parametrize("name", ["random_blip", "llava"])
def test_a_moved_module_ends_as_if_it_were_patched(runs_of, name):
    found = runs_of(name, "text")
    block = found.model.head_block.name
    for module in ("self_attention", "mlp"):
        answers = gradient_runs(
            found.stacks, found.runs.answer_ids, [0.0, 1.0], Node(block, module, 0, None if module == "mlp" else 0)
        ).answers
        length = found.runs.clean[block, module, 0].shape[1]
        patch = Patches(
            block, [module], [0], [None], torch.zeros(1, 1, dtype=torch.long),
            torch.ones(1, 1, length, dtype=torch.bool),
        )  # fmt: skip
        patched = reference.sweep(found.model, found.runs.clean, found.runs.inputs, patch, found.runs.answer_ids)
        expected = torch.cat([found.base.logit_diff, patched.logit_diff[0]])
        torch.testing.assert_close(answers, expected, atol=1e-4, rtol=0)
        assert (answers[0] - answers[1]).abs() > 1e-4
