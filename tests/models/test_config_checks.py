"""What config.json says is checked before anything is made of it."""

import json

import pytest

import vlmtrace as vt
from vlmtrace.models.config_checks import check_config, check_layers
from vlmtrace.models.load_options import check_quantization


@pytest.fixture
def check(tmp_path):
    def check_entries(**entries):
        (tmp_path / "config.json").write_text(json.dumps(entries))
        return check_config(tmp_path, "m")

    return check_entries


@pytest.mark.parametrize("config", [{"quant_method": "awq"}, {"bits": 4}, {}, "int8", {"quant_method": ["x"]}], ids=str)
def test_unknown_quantization_is_refused_wherever_it_is_said(config):
    for entries in ({"quantization_config": config}, {"text_config": {"compression_config": config}}):
        with pytest.raises(vt.VlmtraceError, match=r"m is quantized by .*, which is not supported"):
            check_quantization(entries, "m")
    assert check_quantization({"quantization_config": None}, "m") is None


@pytest.mark.parametrize("config", [{"quant_method": "bitsandbytes"}, {"load_in_4bit": True}], ids=str)
def test_known_quantization_is_told(config):
    assert check_quantization({"text_config": {"quantization_config": config}}, "m") == "bitsandbytes"


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"vision_config": {"depth": 10**9}}, r"has vision_config\.depth = 1000000000, where at most 10000"),
        ({"num_hidden_layers": 0}, "where a whole number of at least 1 is expected"),
        ({"hidden_size": -1}, "where a whole number of at least 1"),
        ({"num_attention_heads": 1.5}, "where a whole number of at least 1"),
        ({"num_key_value_heads": True}, "= true, where a whole number of at least 1"),
        ({"image_size": [56, 0]}, r"image_size = \[56, 0\], where a whole number"),
        ({"layer_norm_eps": 0.0}, "where a number above 0 and up to 0.01 is expected"),
        ({"rms_norm_eps": 10.0**9}, "where a number above 0 and up to 0.01"),
        ({"rope_parameters": {"rope_theta": 0}}, r"rope_parameters\.rope_theta = 0, where a number above 0"),
        ({"rope_parameters": {"rope_theta": True}}, r"rope_theta = true, where a number above 0"),
        ({"rope_parameters": {"mrope_section": 9}}, "= 9, where a list of three or four numbers"),
        ({"transformers_weights": "x.bin"}, "names other weights"),
    ],
)
def test_impossible_numbers_are_refused_with_their_place(check, entries, expected):
    with pytest.raises(vt.VlmtraceError, match=expected):
        check(**entries)


def test_what_is_possible_is_let_through(check):
    entries = {
        "num_hidden_layers": 40, "max_window_layers": 80, "layer_norm_eps": 1e-12, "num_key_value_heads": None,
        "image_size": [56, 56], "rope_parameters": {"rope_theta": 1e6}, "hidden_size": 10**9,
    }  # fmt: skip
    assert check(**entries) == entries


def test_there_are_no_more_layers_than_tensors():
    config = {"vision_config": {"num_hidden_layers": 41}, "max_window_layers": 80}
    check_layers(config, "m", n_tensors=41)
    with pytest.raises(vt.VlmtraceError, match=r"vision_config\.num_hidden_layers = 41, but .* hold 40 tensors"):
        check_layers(config, "m", n_tensors=40)
