"""Which nodes of a graph are products to quantize, what they are called, which are attention."""

from __future__ import annotations

import numpy as np
import pytest

from splitfrozen_export.precision.products import attention_products, find_products, layer_name
from tests.export.text_graphs import normal, parse

BLOCK = """
block (float[batch, seq, 32] x) => (float[batch, seq, 32] y) {
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    kt = Transpose<perm = [0, 2, 1]>(k)
    s = MatMul(q, kt)
    p = Softmax(s)
    v = MatMul(x, wv)
    a = MatMul(p, v)
    o = MatMul(a, wo)
    h = Add(x, o)
    u = MatMul(h, w1)
    g = Gelu(u)
    d = MatMul(g, w2)
    y = Add(h, d)
}"""
FUSED = """
block (float[batch, heads, seq, 32] x) => (float[batch, heads, seq, 32] y) {
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    a = Attention(q, k, v)
    o = MatMul(a, wo)
    h = Add(x, o)
    u = MatMul(h, w1)
    y = Mul(u, h)
}"""


def test_a_layer_is_called_by_its_module_path() -> None:
    assert layer_name("model.h.0.mlp.c_proj.weight") == "h.0.mlp.c_proj"
    model = parse("b (float[t, 48] x) => (float[t, 20] y) { y = MatMul(x, w) }", w=normal(48, 20))
    model.graph.initializers["w"].name = "model.layers.3.mlp.up_proj.weight"
    assert [product.layer for product in find_products(model.graph)] == ["layers.3.mlp.up_proj"]


def test_a_layer_keeps_its_name_behind_a_transpose() -> None:
    text = """
    block (float[tokens, 48] x) => (float[tokens, 20] y) {
        t = Transpose<perm = [1, 0]>(w)
        y = MatMul(x, t)
    }"""
    (product,) = find_products(parse(text, w=normal(20, 48)).graph)
    assert product.layer == "w"
    assert product.weight.read().shape == (48, 20)


@pytest.mark.parametrize(
    "node", ["y = Gemm<alpha = 0.5>(x, w)", "y = Gemm<transA = 1>(x, w)", "y = MatMul(x, x)"]
)
def test_other_products_are_left_alone(node: str) -> None:
    text = f"block (float[48, 48] x) => (float[48, 48] y) {{ {node} }}"
    constants = {"w": normal(48, 48)} if "w" in node else {}
    assert find_products(parse(text, **constants).graph) == []


def test_a_product_that_no_token_reaches_does_not_vary() -> None:
    text = """
    block (float[8, 48] x) => (float[8, 20] y) {
        n = Neg(table)
        fixed = MatMul(n, w)
        own = MatMul(x, w)
        y = Add(own, fixed)
    }"""
    model = parse(text, table=normal(8, 48, seed=4), w=normal(48, 20))
    assert [product.varies for product in find_products(model.graph)] == [False, True]


@pytest.mark.parametrize(("text", "others"), [(BLOCK, {"w1", "w2"}), (FUSED, {"w1"})])
def test_attention_is_what_stands_next_to_its_core(text: str, others: set[str]) -> None:
    names = {"wq", "wk", "wv", "wo"} | others
    weights = {name: normal(32, 32, seed=i) for i, name in enumerate(sorted(names))}
    graph = parse(text, **weights).graph
    products = find_products(graph)
    chosen = attention_products(graph, products)
    assert {product.layer for product in products if product.node in chosen} == names - others


def test_reading_a_product_does_not_change_it() -> None:
    w = normal(48, 20)
    model = parse("b (float[t, 48] x) => (float[t, 20] y) { y = MatMul(x, w) }", w=w)
    (product,) = find_products(model.graph)
    assert np.array_equal(product.weight.read(), w)
