"""What a sweep is timed by, and its comparison with other ways."""

import pytest

import vlmtrace as vt
from vlmtrace.benchmarks import measure, rates, tables
from vlmtrace.benchmarks.random_models import llava, saved


@pytest.mark.slow
def test_bench_of_a_random_model(random_blip, random_pairs, monkeypatch):
    monkeypatch.setattr(measure, "MATMUL_SIZE", 512)
    found = rates.bench_model(random_blip, random_pairs.iloc[[0]], sampled=8, libraries=False)
    assert found["patches"] == 3 * 4 * 9
    assert found["largest_difference_to_hooked"] <= 1e-4 < found["largest_effect"]
    assert found["largest_difference_at_sites_of_every_module"] <= 1e-4
    assert found["largest_difference_at_quarter_memory"] <= 1e-5
    # At least the states above each patch: 108 patches, on average one layer of 9 positions, 12 × 48² × 2 operations.
    assert found["operations"] > 108 * 9 * 12 * 48**2 * 2
    assert 0 < found["share_of_matmul_rate"] < 1
    text = tables.render({"sweeps": {"random": found}})
    assert "| 108" in text and "published" in text and "hooked" in text


def test_a_random_llava_can_share_keys_and_tie_its_embeddings(tmp_path):
    hf, processor = llava(layers=2, width=48, heads=3, key_heads=1, inner=64, image_size=28, tied=True)
    text = hf.config.text_config
    assert (text.num_attention_heads, text.num_key_value_heads) == (3, 1)
    assert hf.lm_head.weight is hf.get_input_embeddings().weight
    loaded = vt.load_model(str(saved(hf, processor, tmp_path / "deep")))
    assert loaded.hf.lm_head.weight.data_ptr() == loaded.hf.get_input_embeddings().weight.data_ptr()
