"""Layers that do what few do: states, cross-attention, latent attention, sinks, queries scaled by their position.

Two pairs share a batch; the reference answers each of them by hooked forward passes of its own.
"""

import pytest
import torch
from fixtures.bare_models import BARE, bare_model

import vlmtrace as vt
from vlmtrace.models import Patches, Readout, Site
from vlmtrace.models.attention_mask import cut
from vlmtrace.models.hooks import attach_hooks
from vlmtrace.models.interventions import Interventions, Setting
from vlmtrace.models.sweep import reference
from vlmtrace.models.sweep.replay import Replay
from vlmtrace.models.sweep.replay_check import check_replay

BLOCK = "language_model"
PAIRS = ((0, 1), (2, 3))  # clean and corrupt
IDS = torch.tensor([[11, 12], [13, 14]])

#: Effects below this are too small, against what may differ, to prove anything.
VACUOUS = 2e-3

CARRY_STATES = ("lfm2_vl", "llava_qwen3_5", "llava_nemotron_h")


def joined(rows):
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


class Case:
    """A model, and clean and corrupt runs: of two pairs together, and of each alone."""

    def __init__(self, name, change=None):
        self.name = name
        self.model, make = bare_model(name)
        if change is not None:
            with torch.no_grad():
                change(self.model)
        self.block = self.model.blocks[BLOCK]
        self.alone = [tuple(make(number) for number in pair) for pair in PAIRS]
        clean, self.inputs = (joined([pair[side] for pair in self.alone]) for side in (0, 1))
        self.clean, self.corrupt = self.model.trace(clean), self.model.trace(self.inputs)
        self.traces = [tuple(self.model.trace(one) for one in pair) for pair in self.alone]
        self.length = self.inputs["input_ids"].shape[1]

    def assert_same(self, fast, slow):
        """Readouts (pair, patch): of both pairs together, and by hooks."""
        for name in ("correct", "incorrect", "log_normalizer"):
            worst = (getattr(fast, name) - getattr(slow, name)).abs().max().item()
            assert worst <= 1e-4, f"{self.name}: {name} is off by {worst:.2g}"
        effects = (slow.logit_diff - Readout.of(self.corrupt.logits, IDS).logit_diff[:, None]).abs()
        assert effects.max() > VACUOUS, "nothing changes: this proves nothing"

    def assert_swept_as_hooked(self, patches):
        fast = self.model.sweep(self.clean, self.corrupt, self.inputs, patches, IDS, memory=2**22)
        slow = [
            reference.sweep(self.model, clean, inputs[1], patches.of_pair(i), IDS[i : i + 1])
            for i, ((clean, _), inputs) in enumerate(zip(self.traces, self.alone, strict=True))
        ]
        self.assert_same(fast, Readout.cat(slow, dim=0))


@pytest.fixture(scope="module", params=BARE)
def case(request):
    return Case(request.param)


def patches_of(chosen, **more):
    """Of (module, layer, head, position), the same in both pairs."""
    modules, layers, heads, positions = (list(column) for column in zip(*chosen, strict=True))
    return Patches(BLOCK, modules, layers, heads, torch.tensor([positions] * len(PAIRS)), **more)


def test_layers_can_be_run_one_by_one(case):
    trace, inputs = case.traces[0][1], case.alone[0][1]
    check_replay(case.model, trace, inputs)
    assert not reference.hook_points_act(case.model, inputs)


def test_sweeps_equal_hooked_passes(case):
    block, places = case.block, (1, 4, case.length - 1)
    modules = [(module, layer) for module in block.modules for layer in block.layers_with(module)]
    case.assert_swept_as_hooked(patches_of([(*site, None, at) for site in modules for at in places]))
    heads = [
        ("self_attention", layer, head, at)
        for layer in block.layers_with("self_attention")
        for head in {0, case.block.heads_at(layer) - 1}
        for at in places
    ]
    case.assert_swept_as_hooked(patches_of(heads))


def test_regions_and_windows_equal_hooked_passes(case):
    chosen = [
        ("residual", 0, None, 3),
        ("mlp", 1, None, 3),
        ("self_attention", 0, None, 3),
        ("self_attention", 2, 0, 3),
    ]
    members = torch.zeros(len(PAIRS), len(chosen), case.length, dtype=torch.bool)
    members[:, :, 3:6] = True
    case.assert_swept_as_hooked(patches_of(chosen, position_masks=members))
    last = case.length - 1
    # A window begins with a layer that has the module; those above it may lack it.
    lowest, second = case.block.layers_with("mlp")[0], case.block.layers_with("self_attention")[1]
    windows = [("mlp", lowest, None, 4), ("self_attention", second, None, 4), ("self_attention", 0, None, last)]
    case.assert_swept_as_hooked(patches_of(windows, windows=[3, 2, 3]))


def test_fixed_heads_equal_hooked_passes(case):
    generator = torch.Generator().manual_seed(0)
    keep = torch.rand(3, case.block.n_layers, case.block.n_heads, generator=generator) < 0.5
    (clean, corrupt), inputs, ids = case.traces[0], case.alone[0][1], IDS[:1]
    fast = case.model.run_with_fixed_heads(clean, corrupt, {"self_attention": keep}, "corrupt", ids)
    slow = reference.run_with_fixed_heads(case.model, clean, corrupt, inputs, {"self_attention": keep}, ids)
    torch.testing.assert_close(fast.correct, slow.correct, atol=1e-4, rtol=0)
    assert (fast.correct - fast.correct[:, :1]).abs().max() > VACUOUS


def test_joint_patches_equal_hooked_passes(case):
    """Some heads of three layers and a residual stream, all at once."""
    generator = torch.Generator().manual_seed(1)
    overwritten = {}
    for layer in case.block.layers_with("self_attention")[:3]:
        mask = torch.rand(1, 2, case.length, case.block.heads_at(layer), generator=generator) < 0.5
        mask[:, :, :2] = False
        overwritten[Site(BLOCK, "self_attention", layer)] = Setting([0, 1], mask)
    stream = torch.zeros(1, 1, case.length, 1, dtype=torch.bool)
    stream[:, :, 5] = True
    overwritten[Site(BLOCK, "residual", 2)] = Setting([1], stream)
    found = case.model.intervene(
        case.clean, case.corrupt, case.inputs, Interventions(2, overwritten), IDS, memory=2**22
    )
    rows = []
    for i, ((clean, _), (_, inputs)) in enumerate(zip(case.traces, case.alone, strict=True)):
        states = []
        for state in range(2):
            points = []
            for site, setting in overwritten.items():
                if state not in setting.states:
                    continue
                mask = setting.mask[0, setting.states.index(state)]
                mask = mask.repeat_interleave(clean[site].shape[-1] // mask.shape[-1], dim=-1)
                points.append((case.model.hook_point(site), lambda v, m=mask, c=clean[site]: torch.where(m, c, v)))
            with attach_hooks(points):
                states.append(Readout.of(case.model.last_logits(inputs, 1), IDS[i : i + 1]))
        rows.append(Readout.cat(states, dim=1))
    case.assert_same(found, Readout.cat(rows, dim=0))


def test_hidden_positions_equal_hooked_passes(case):
    layers = [layer for layer in range(case.block.n_layers) if case.block.kind_at(layer) != "state"]
    hidden = torch.zeros(len(PAIRS), case.length, case.length, dtype=torch.bool)
    hidden[:, -2:, 3:6] = True
    blocked = {Site(BLOCK, "self_attention", layer): Setting([0], hidden[:, None]) for layer in layers}
    given = Interventions(1, blocked=blocked)
    found = case.model.intervene(case.clean, case.corrupt, case.inputs, given, IDS, memory=2**22)
    with cut(case.model, "self_attention", layers, hidden):
        logits = case.model.last_logits(case.inputs, 1)
    case.assert_same(found, Readout.of(logits, IDS))


def test_nothing_can_be_hidden_from_a_state(case):
    if case.name not in CARRY_STATES:
        assert "state" not in case.block.kinds
        return
    hidden = torch.zeros(len(PAIRS), case.length, case.length, dtype=torch.bool)
    given = Interventions(1, blocked={Site(BLOCK, "self_attention", 0): Setting([0], hidden[:, None])})
    sentence = rf"Layer 0 of {case.name} carries a state .* choose layers with attention \([\d, ]+\)\."
    with pytest.raises(vt.VlmtraceError, match=sentence):
        case.model.intervene(case.clean, case.corrupt, case.inputs, given, IDS, memory=2**22)
    with pytest.raises(vt.VlmtraceError, match=sentence), cut(case.model, "self_attention", [0], hidden):
        pass


def test_attention_weights_are_given_or_missed_in_a_sentence(case):
    if case.block.kinds:
        with pytest.raises(vt.VlmtraceError, match="gives no attention weights, since some of its layers carry"):
            case.model.attention(case.inputs, BLOCK, "self_attention")
        return
    weights = case.model.attention(case.inputs, BLOCK, "self_attention")
    assert weights.shape == (case.block.n_layers, len(PAIRS), case.block.n_heads, case.length, case.length)


def test_heads_are_those_of_each_layer():
    model, _ = bare_model("llava_qwen3_5")
    block = model.blocks[BLOCK]
    assert block.heads == (8, 8, 4, 8) and block.n_heads == 8
    assert "language_model 4×4–8" in repr(model)
    assert block.kinds == ("state", "state", "attention", "state")
    assert len(block.every_head) == 28
    model, _ = bare_model("lfm2_vl")
    assert model.blocks[BLOCK].heads == (1, 4, 1, 1)
    model, _ = bare_model("llava_nemotron_h")
    block = model.blocks[BLOCK]
    assert block.heads == (8, 0, 4, 8, 0) and len(block.every_head) == 20
    assert block.kinds == ("state", "none", "attention", "state", "none")
    assert block.layers_with("mlp") == [1, 4] and block.layers_with("residual") == [0, 1, 2, 3, 4]
    with pytest.raises(vt.VlmtraceError, match=r"Layer 0 of language_model of \w+ has no mlp: .* \(1, 4\)\."):
        model.check_site(Site(BLOCK, "mlp", 0))


@pytest.mark.parametrize("at", [-1, -3])
def test_states_start_with_what_the_layers_carry_there(case, at):
    """The last position alone takes a path of its own in the layers, which would overwrite the state in place."""
    last = case.length + at
    case.assert_swept_as_hooked(patches_of([("residual", 0, None, last), ("mlp", 1, None, last)] * 2))


def test_a_single_position_is_stepped_to_as_in_a_sequence():
    """State space models bound their steps from below, but not where a position comes alone."""

    def bound(model):
        for layer in (0, 3):
            mixer = model.layer_module(BLOCK, layer).mixer
            mixer.dt_bias.fill_(-20.0)  # steps of nothing, but for the bound
            mixer.time_step_limit = (0.5, float("inf"))

    case = Case("llava_nemotron_h", bound)
    last = case.length - 1
    case.assert_swept_as_hooked(patches_of([("residual", 0, None, last), ("mlp", 1, None, last)]))


def test_memory_counts_the_scan_of_a_state_space_model():
    case = Case("llava_nemotron_h")
    text, replay = case.model.hf.config.get_text_config(), Replay(case.model, case.corrupt)
    scores = text.chunk_size**2 * text.mamba_num_heads * 4  # of one chunk, in bytes
    for n_chunks in (1, 2):
        assert replay.state_bytes(case.length - n_chunks * text.chunk_size) > 4 * n_chunks * scores
    # Rows are filled up to whole chunks.
    few = replay.state_bytes(case.length - 1) - replay.state_bytes(case.length)
    assert few > 4 * scores


def test_the_image_is_read_in_layers_of_cross_attention():
    model, make = bare_model("mllama")
    inputs, other = make(0), make(1)
    assert model.blocks[BLOCK].kinds[1] == "cross_attention" and not model.is_image(inputs).any()
    embeddings = model.image_embeddings(inputs)
    assert embeddings.shape == (1, 2 * model.hf.model.vision_model.num_patches, 32)
    torch.testing.assert_close(model.last_logits(inputs, 1, embeddings), model.last_logits(inputs, 1))
    replaced = {**other, "pixel_values": inputs["pixel_values"]}
    given = model.last_logits(other, 1, embeddings)
    torch.testing.assert_close(given, model.last_logits(replaced, 1))
    assert (given - model.last_logits(other, 1)).abs().max() > VACUOUS
    longer = model.extend(inputs, [7, 8])
    assert longer["cross_attention_mask"].shape[1] == longer["input_ids"].shape[1]
