"""Products by oneDNN are those of torch, and whatever is unusual about one is left to torch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN

from vlmtrace.models import products
from vlmtrace.models.products import FastProducts, linear, linear_gelu, product, takes_onednn

needs_onednn = pytest.mark.skipif(products._ONEDNN is None, reason="this torch comes without oneDNN's product")


@pytest.fixture
def calls(monkeypatch):
    """How often oneDNN was called."""
    found = []

    def counted(*args):
        found.append(args)
        return args[0].new_full((*args[0].shape[:-1], len(args[1])), torch.nan)

    monkeypatch.setattr(products, "_ONEDNN", counted)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", True, raising=False)
    return found


@pytest.fixture(autouse=True)
def no_gradients():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


@pytest.mark.parametrize("shape", [(1, 24), (200, 24), (3, 50, 24), (0, 24)])
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_those_of_torch(shape, bias):
    layer, rows = nn.Linear(24, 40, bias=bias), torch.randn(shape)
    torch.testing.assert_close(linear(layer, rows), layer(rows), atol=1e-6, rtol=1e-6)
    spread = torch.randn(24, 200).t()
    torch.testing.assert_close(product(spread, layer.weight), F.linear(spread, layer.weight), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["gelu", "gelu_new", "relu"])
def test_activation_functions_are_those_of_transformers(name):
    layer, rows, activation = nn.Linear(24, 40), 3 * torch.randn(200, 24), ACT2FN[name]
    torch.testing.assert_close(linear_gelu(layer, activation, rows), activation(layer(rows)), atol=1e-6, rtol=1e-6)


@needs_onednn
def test_usual_products_go_to_onednn(calls):
    layer, rows = nn.Linear(24, 40), torch.randn(200, 24)
    linear(layer, rows)
    linear_gelu(layer, ACT2FN["gelu"], rows)
    assert len(calls) == 2


@needs_onednn
def test_a_weight_in_another_order_is_left_to_torch_and_rows_are_put_in_order(calls):
    """oneDNN computes with both, some hundred times as slowly."""
    weight, rows = torch.randn(24, 40), torch.randn(24, 200)
    product(rows.T, weight.T)
    assert not calls
    product(rows.T, weight.T.contiguous())
    assert len(calls) == 1 and calls[0][0].is_contiguous()


def test_unusual_products_are_left_to_torch(calls):
    layer, rows = nn.Linear(24, 40), torch.randn(200, 24)

    class Adapter(nn.Linear):
        def forward(self, rows):
            return super().forward(rows) + 1

    class Quantized(torch.Tensor):
        pass

    hooked = nn.Linear(24, 40)
    hooked.register_forward_hook(lambda _module, _args, output: output * 0 + 7)
    with torch.enable_grad():
        linear(layer, rows).sum().backward()
    assert layer.weight.grad is not None
    assert linear(layer.bfloat16(), rows.bfloat16()).dtype == torch.bfloat16
    assert (linear(hooked, rows) == 7).all()
    assert linear(Adapter(24, 40), rows).shape == (200, 40)
    assert not takes_onednn(rows, torch.randn(40, 24).as_subclass(Quantized))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert product(rows, torch.randn(40, 24)).dtype == torch.bfloat16
    weight = torch.randn(40, 24)
    for bias in (torch.randn(40, 2)[:, 0], torch.randn(1).expand(40), torch.randn(1), torch.randn(1, 40)):
        expected = rows @ weight.t() + bias
        torch.testing.assert_close(product(rows, weight, bias), expected, atol=1e-5, rtol=1e-5)
    assert product(rows, weight.to_sparse()).isfinite().all()
    assert (product(torch.zeros(200, 0), torch.zeros(40, 0)) == 0).all()
    with pytest.raises(RuntimeError, match=r"shape|size"):
        product(torch.randn(200, 48), weight)
    assert not calls, "oneDNN was given a product that it does not know"


def test_a_linear_module_with_a_forward_of_its_own_computes_by_it(calls):
    layer, rows = nn.Linear(24, 40), torch.randn(200, 24)
    layer.forward = lambda rows: F.linear(rows, layer.weight) * 0 + 7
    assert (linear(layer, rows) == 7).all()
    assert (linear_gelu(layer, nn.Identity(), rows) == 7).all()
    assert not calls, "a replaced forward was passed over"


@pytest.mark.parametrize("when", ["before", "after"])
def test_hooks_on_every_module_run(calls, when):
    seen = []
    register = {
        "before": torch.nn.modules.module.register_module_forward_pre_hook,
        "after": torch.nn.modules.module.register_module_forward_hook,
    }[when]
    handle = register(lambda module, *_: seen.append(module))
    layer, activation = nn.Linear(24, 40), ACT2FN["gelu"]
    try:
        linear(layer, torch.randn(200, 24))
        linear_gelu(layer, activation, torch.randn(200, 24))
    finally:
        handle.remove()
    assert seen == [layer, layer, activation]
    assert not calls, "a hook on every module was passed over"


def test_every_linear_module_computes_by_product_while_the_mode_is_on(calls):
    layer, rows = nn.Linear(24, 40), torch.randn(200, 24)
    with FastProducts():
        assert layer(rows).isnan().all()
        assert (rows @ layer.weight.t()).isfinite().all(), "another operation was replaced"
    assert len(calls) == 1
    assert layer(rows).isfinite().all(), "the mode outlives its block"
