"""Loading: what is refused, what is checked."""

import json
import shutil

import pytest
import torch
from PIL import Image

import vlmtrace as vt
from vlmtrace.models import Site, self_check
from vlmtrace.models.hooks import attach_hooks
from vlmtrace.models.sweep import reference


def test_blocks_are_read_from_the_config(random_blip):
    shapes = {block.name: (block.n_layers, block.n_heads, block.modules) for block in random_blip.blocks.values()}
    assert shapes == {
        "vision_encoder": (3, 4, ("residual",)),
        "text_encoder": (3, 4, ("residual", "mlp", "self_attention", "cross_attention")),
        "text_decoder": (3, 4, ("residual", "mlp", "self_attention", "cross_attention")),
    }


def test_unknown_model_says_what_there_is(tmp_path):
    with pytest.raises(vt.VlmtraceError, match=r"holds no config\.json"):
        vt.load_model(tmp_path)
    with pytest.raises(vt.VlmtraceError, match=r"no usable model .*bundled name"):
        vt.load_model("no-such-model")


def test_unsupported_family_names_the_supported_ones(random_blip_dir, tmp_path):
    other = shutil.copytree(random_blip_dir, tmp_path / "other")
    config = json.loads((other / "config.json").read_text()) | {"architectures": ["BlipForConditionalGeneration"]}
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        vt.VlmtraceError, match=r"is a BlipForConditionalGeneration.*families_table.. lists the [0-9]+ types"
    ):
        vt.load_model(other)


def test_devices_and_dtypes_are_checked(random_blip_dir):
    with pytest.raises(vt.VlmtraceError, match="device 'gpu0' cannot be used"):
        vt.load_model(random_blip_dir, device="gpu0")
    with pytest.raises(vt.VlmtraceError, match="Unknown dtype 'int8'"):
        vt.load_model(random_blip_dir, dtype="int8")


def test_attention_rows_sum_to_one(random_blip, random_pairs):
    inputs = random_blip.encode(random_pairs["clean_image"][::4], random_pairs["clean_prompt"][::4])
    for module, keys in (("self_attention", inputs["input_ids"].shape[1]), ("cross_attention", 17)):
        weights = random_blip.attention(inputs, "text_encoder", module)
        assert weights.shape == (3, 2, 4, inputs["input_ids"].shape[1], keys)
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


def test_prompts_of_unlike_length_share_no_batch(random_blip, random_pairs):
    with pytest.raises(vt.VlmtraceError, match="Prompts of 9, 11 tokens cannot share a batch"):
        random_blip.encode(random_pairs["clean_image"][:2], random_pairs["clean_prompt"][:2])


def test_hooks_do_not_outlive_an_error(random_blip):
    point = random_blip.hook_point(Site("text_encoder", "residual", 0))
    with pytest.raises(ZeroDivisionError), attach_hooks([(point, lambda _: 1 / 0)]):
        random_blip.answer_logits(random_blip.encode(*_dummy()))
    assert not point.module._forward_hooks and not point.module._forward_pre_hooks


def _dummy():
    return [Image.new("RGB", (32, 32))], ["is this red or blue?"]


def test_every_hook_point_acts(random_blip):
    assert reference.hook_points_act(random_blip, random_blip.encode(*_dummy())) == []


def test_self_check_catches_a_wrong_fast_path(random_blip_dir, monkeypatch):
    model = vt.load_model(random_blip_dir)
    assert model.uses_fast_sweep
    right = type(model).sweep

    def wrong(self, *args, **kwargs):
        readout = right(self, *args, **kwargs)
        return type(readout)(readout.correct + 0.1, readout.incorrect, readout.log_normalizer)

    monkeypatch.setattr(type(model), "sweep", wrong)
    with pytest.warns(UserWarning, match="will use the reference"):
        self_check(model)
    assert not model.uses_fast_sweep


def test_the_self_check_runs_unless_it_is_told_not_to(random_blip_dir, monkeypatch):
    checked = []
    monkeypatch.setattr("vlmtrace.models.loading.self_check", checked.append)
    model = vt.load_model(random_blip_dir)
    assert checked == [model]
    assert vt.load_model(random_blip_dir, check=False).fingerprint() == model.fingerprint()
    assert checked == [model]


def test_fingerprint_tells_weights_apart(random_blip_dir):
    one, two = vt.load_model(random_blip_dir), vt.load_model(random_blip_dir)
    assert one.fingerprint() == two.fingerprint()
    with torch.no_grad():
        next(two.hf.parameters()).add_(1e-3)
    assert one.fingerprint() != two.fingerprint()


def test_unknown_submodule_is_named_and_left_to_the_reference(random_blip_dir):
    model = vt.load_model(random_blip_dir)
    assert model.sweep_unsupported_reason({}) is None
    model.hf.text_encoder.encoder.layer[1].adapter = torch.nn.Linear(48, 48)
    with pytest.warns(UserWarning, match=r"does not know the submodule text_encoder\.encoder\.layer\.1\.adapter"):
        self_check(model)
    assert not model.uses_fast_sweep


def test_another_class_in_a_known_place_is_unknown(random_blip_dir):
    model = vt.load_model(random_blip_dir)
    layer = model.hf.vision_model.encoder.layers[2]

    class Other(type(layer.self_attn)):
        pass

    layer.self_attn.__class__ = Other
    assert model.sweep_unsupported_reason({}) == "the Other at vision_model.encoder.layers.2.self_attn"
    assert model.sweep_unsupported_reason({"attention_mask": torch.ones(1)}) == "the input attention_mask"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"eos_token_id": ', r"generation_config\.json is not valid JSON .*: download it again"),
        ("[]", r"generation_config\.json holds no JSON object, but \[\]"),
        ('{"early_stopping": "?"}', r"^generation_config\.json of .* cannot be used .*early_stopping.*: correct it"),
        ('{"max_new_tokens": "many"}', r"^generation_config\.json of .* cannot be used .*: correct it"),
    ],
)
def test_a_broken_generation_config_is_named(random_blip_dir, tmp_path, text, said):
    """transformers leaves a file out that it cannot parse: then other tokens than the model's own end its answers."""
    folder = shutil.copytree(random_blip_dir, tmp_path / "copy")
    (folder / "generation_config.json").write_text(text)
    with pytest.raises(vt.VlmtraceError, match=said):
        vt.load_model(folder)


def test_the_fingerprint_tells_models_apart_that_differ_in_one_number(model_store):
    """A fine-tuned one may differ in one row, far behind the first values; a buffer that is saved is a weight, too."""
    model = model_store.load("llava")
    seen = {model.fingerprint()}
    for key in ("lm_head.weight", "model.language_model.embed_tokens.weight", "model.vision_tower.pre_layrnorm.bias"):
        with torch.no_grad():
            model.hf.get_parameter(key).view(-1)[-1] += 1e-3
        seen.add(model.fingerprint())
    assert len(seen) == 4
    model.hf.register_buffer("scale", torch.ones(3))
    with_buffer = model.fingerprint()
    model.hf.scale[2] = 2
    assert len({*seen, with_buffer, model.fingerprint()}) == 6
    model.hf.register_buffer("scratch", torch.ones(3), persistent=False)
    before = model.fingerprint()
    model.hf.scratch[0] = 5
    assert model.fingerprint() == before


def test_the_fingerprint_reads_a_weight_in_parts_of_any_size(model_store, monkeypatch):
    model = model_store.shared("llava")
    expected = model.fingerprint()
    monkeypatch.setattr("vlmtrace.models.weight_values.AT_ONCE", 7)
    assert model.fingerprint() == expected
