"""Nets and their parts written out in NumPy, float64, row by row, without masks: lists are cut to their length."""

from __future__ import annotations

import numpy as np
from torch import nn


def f64(tensor):
    return tensor.detach().numpy().astype(np.float64)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(x - x.max(axis=-1, keepdims=True)) / np.exp(x - x.max(axis=-1, keepdims=True)).sum(-1, keepdims=True)


def linear(layer, x):
    return x @ f64(layer.weight).T + (0 if layer.bias is None else f64(layer.bias))


def layer_norm(norm, x):
    scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + norm.eps)
    return scaled if norm.weight is None else scaled * f64(norm.weight) + f64(norm.bias)


def mlp(net, x):
    linears = [layer for layer in net.layers if isinstance(layer, nn.Linear)]
    for place, layer in enumerate(linears):
        x = linear(layer, x)
        x = np.maximum(x, 0) if place < len(linears) - 1 else x
    return x


def item(items, batch, row, ids="item", attributes="item_attributes"):
    table, kinds = f64(items.ids.weight), f64(items.attributes.weight)
    place = (row,) if isinstance(row, int) else row
    used = [a for a in batch[attributes][place].tolist() if a]
    return table[int(batch[ids][place])] + (np.mean(kinds[used], axis=0) if used else 0)


def recent(items, batch, row):
    vectors = []
    for j in range(int(batch["recent_mask"][row].sum())):
        r = float(batch["recent_ratings"][row, j])
        rating = linear(items.rating, np.array([r, float(r > 0)]))
        vectors.append(item(items, batch, (row, j), "recent_items", "recent_attributes") + rating)
    return np.array(vectors).reshape(-1, f64(items.ids.weight).shape[1])


def mean_or_zero(vectors):
    return vectors.mean(axis=0) if len(vectors) else np.zeros(vectors.shape[1])


def attention(unit, history, target):
    """Σ_j a(h_j, t) h_j, a an MLP over [h, t, h - t, h * t]."""
    interest = np.zeros(len(target))
    for h in history:
        interest = interest + mlp(unit.unit, np.concatenate([h, target, h - target, h * target]))[0] * h
    return interest


def text(text_input, items, batch, row):
    x = f64(batch["text"][row])
    x = mlp(text_input.connector.mlp, layer_norm(text_input.connector.norm, x))
    if text_input.query is None:
        return x
    q = linear(text_input.query.query, x)
    interest = attention(text_input.query.attention, recent(items, batch, row), q)
    return np.concatenate([interest, q * item(items, batch, row)])


def side(inputs, batch, row):
    return np.concatenate([f64(batch["dense"][row]), text(inputs.text, inputs.items, batch, row)])


def fields(inputs, batch, row):
    return np.array(
        [
            f64(inputs.users.weight)[int(batch["user"][row])],
            item(inputs.items, batch, row),
            mean_or_zero(recent(inputs.items, batch, row)),
            linear(inputs.dense, f64(batch["dense"][row])),
            linear(inputs.text_field, text(inputs.text, inputs.items, batch, row)),
        ]
    )


def flat(inputs, batch, row):
    return np.concatenate([fields(inputs, batch, row).ravel(), f64(batch["dense"][row])])


def first_order(term, batch, row):
    user, target = int(batch["user"][row]), int(batch["item"][row])
    weights = f64(term.users.weight)[user, 0] + f64(term.items.weight)[target, 0]
    return weights + linear(term.dense, f64(batch["dense"][row]))[0]


def din(net, batch, row):
    t = item(net.inputs.items, batch, row)
    interest = attention(net.attention, recent(net.inputs.items, batch, row), t)
    return mlp(net.mlp, np.concatenate([interest, t, side(net.inputs, batch, row)]))[0]


def transformer(block, x):
    """One block over (T, D); its heads by hand."""
    mha = block.attention
    projected = x @ f64(mha.in_proj_weight).T + f64(mha.in_proj_bias)
    q, k, v = np.split(projected, 3, axis=-1)
    width = x.shape[1] // mha.num_heads
    heads = []
    for start in range(0, x.shape[1], width):
        part = slice(start, start + width)
        heads.append(softmax(q[:, part] @ k[:, part].T / np.sqrt(width)) @ v[:, part])
    s = layer_norm(block.first_norm, x + linear(mha.out_proj, np.concatenate(heads, axis=-1)))
    up = linear(block.up, s)
    return layer_norm(block.second_norm, s + linear(block.down, np.where(up > 0, up, 0.01 * up)))


def bst(net, batch, row):
    t, hs = item(net.inputs.items, batch, row), recent(net.inputs.items, batch, row)
    positions = f64(net.positions.weight)
    y = np.array([t + positions[0], *(h + positions[len(hs) - j] for j, h in enumerate(hs))])
    for block in net.blocks:
        y = transformer(block, y)
    return mlp(net.mlp, np.concatenate([y[0], mean_or_zero(y[1:]), t, side(net.inputs, batch, row)]))[0]


def gru(cell, xs):
    """torch's GRU: r, z, n."""
    w, u = f64(cell.weight_ih_l0), f64(cell.weight_hh_l0)
    b, c = f64(cell.bias_ih_l0), f64(cell.bias_hh_l0)
    state, states = np.zeros(u.shape[1]), []
    for x in xs:
        (rx, zx, nx), (rh, zh, nh) = np.split(w @ x + b, 3), np.split(u @ state + c, 3)
        z = sigmoid(zx + zh)
        state = (1 - z) * np.tanh(nx + sigmoid(rx + rh) * nh) + z * state
        states.append(state)
    return np.array(states).reshape(-1, u.shape[1])


def augru(cell, xs, attention_weights):
    state = np.zeros(f64(cell.of_state.weight).shape[1])
    for x, a in zip(xs, attention_weights, strict=True):
        (ux, rx, nx), (uh, rh, nh) = np.split(linear(cell.of_input, x), 3), np.split(linear(cell.of_state, state), 3)
        u = a * sigmoid(ux + uh)
        state = (1 - u) * state + u * np.tanh(nx + sigmoid(rx + rh) * nh)
    return state


def dien(net, batch, row):
    t = item(net.inputs.items, batch, row)
    interests = gru(net.extractor, recent(net.inputs.items, batch, row))
    weights = softmax(linear(net.attention, interests) @ t) if len(interests) else []
    evolved = augru(net.evolution, interests, weights)
    return mlp(net.mlp, np.concatenate([evolved, t, side(net.inputs, batch, row)]))[0]


def deepfm(net, batch, row):
    v = fields(net.inputs, batch, row)
    pairs = sum(v[i] @ v[j] for i in range(len(v)) for j in range(i + 1, len(v)))
    return first_order(net.linear, batch, row) + pairs + mlp(net.mlp, flat(net.inputs, batch, row))[0]


def dnn(net, batch, row):
    return mlp(net.mlp, flat(net.inputs, batch, row))[0]


def cross(net, x0):
    x = x0
    for layer in net.layers:
        x = x0 * linear(layer, x) + x
    return x


def dcnv2(net, batch, row):
    x0 = flat(net.inputs, batch, row)
    return mlp(net.output, np.concatenate([cross(net.cross, x0), np.maximum(mlp(net.deep, x0), 0)]))[0]


def cin(net, v):
    """x^k_m = Σ_ij W_mij (x^{k-1}_i * x^0_j), map by map."""
    x, pooled = v, []
    for weight in map(f64, net.weights):
        maps = [
            sum(weight[m, i, j] * x[i] * v[j] for i in range(len(x)) for j in range(len(v))) for m in range(len(weight))
        ]
        x = np.array(maps)
        pooled.append(x.sum(axis=1))
    return np.concatenate(pooled)


def xdeepfm(net, batch, row):
    explicit = linear(net.cin_output, cin(net.cin, fields(net.inputs, batch, row)))[0]
    return first_order(net.linear, batch, row) + explicit + mlp(net.mlp, flat(net.inputs, batch, row))[0]


def interacting(layer, v):
    q, k, e = np.split(v @ f64(layer.projections.weight).T, 3, axis=-1)
    width = q.shape[1] // layer.n_heads
    heads = []
    for start in range(0, q.shape[1], width):
        part = slice(start, start + width)
        heads.append(softmax(q[:, part] @ k[:, part].T) @ e[:, part])
    return np.maximum(np.concatenate(heads, axis=-1) + linear(layer.residual, v), 0)


def autoint(net, batch, row):
    v = fields(net.inputs, batch, row)
    for layer in net.layers:
        v = interacting(layer, v)
    explicit = linear(net.output, v.ravel())[0]
    return first_order(net.linear, batch, row) + explicit + mlp(net.mlp, flat(net.inputs, batch, row))[0]


def senet(layer, v):
    weights = np.maximum(linear(layer.excite, np.maximum(linear(layer.squeeze, v.mean(axis=1)), 0)), 0)
    return v * weights[:, None]


def bilinear(layer, v):
    w = f64(layer.weights)
    return np.array([(v[i] @ w[i]) * v[j] for i in range(len(v)) for j in range(i + 1, len(v))])


def fibinet(net, batch, row):
    v = fields(net.inputs, batch, row)
    pairs = np.concatenate([bilinear(net.bilinear, v), bilinear(net.senet_bilinear, senet(net.senet, v))])
    deep = mlp(net.mlp, np.concatenate([pairs.ravel(), f64(batch["dense"][row])]))[0]
    return first_order(net.linear, batch, row) + deep


def lightfm(net, batch, row):
    q = f64(net.users.weight)[int(batch["user"][row])] + mean_or_zero(recent(net.items, batch, row))
    q = q + linear(net.text_vector, text(net.text, net.items, batch, row))
    return q @ item(net.items, batch, row) + first_order(net.linear, batch, row)
