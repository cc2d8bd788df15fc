"""Networks of a few layers on one example, their parameters, and the same networks in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def dense(params, x):
    for kernel, bias in params[:-1]:
        x = jax.nn.relu(x @ kernel + bias)
    return x @ params[-1][0] + params[-1][1]


def convolutional(params, image):
    image = image.reshape(1, 16, 16, 3)
    for kernel in params["convolutions"]:
        image = jax.nn.relu(convolve(image, kernel, (2, 2), "SAME"))
    return image.reshape(-1) @ params["head"]


def grouped(params, image):
    """The network for CIFAR-10 in the tests of TorchJD, "similar to what we used in 2406.16232"."""
    (first, second, third), (flat, head) = params["convolutions"], params["dense"]
    image = jax.nn.relu(convolve(image.reshape(1, 32, 32, 3), first[0]) + first[1])
    image = jax.nn.relu(pool(convolve(image, second[0], groups=32) + second[1], 2))
    image = jax.nn.relu(pool(convolve(image, third[0], groups=64) + third[1], 3))
    return jax.nn.relu(image.reshape(-1) @ flat[0] + flat[1]) @ head[0] + head[1]


def convolve(image, kernel, strides=(1, 1), padding="VALID", groups=1):
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        image, kernel, strides, padding, dimension_numbers=layout, feature_group_count=groups
    )


def pool(image, size):
    return lax.reduce_window(image, -jnp.inf, lax.max, (1, size, size, 1), (1, size, size, 1), "VALID")


def transformer(params, tokens):
    for layer in params["layers"]:
        query, key, value = (jnp.einsum("td,dhk->htk", layer_norm(tokens), layer[name]) for name in ("q", "k", "v"))
        mixed = jax.nn.softmax(query @ key.transpose(0, 2, 1) / key.shape[-1] ** 0.5) @ value
        tokens = tokens + jnp.einsum("htk,hkd->td", mixed, layer["out"])
        tokens = tokens + jax.nn.gelu(layer_norm(tokens) @ layer["up"]) @ layer["down"]
    return tokens.mean(0) @ params["head"]


def layer_norm(tokens):
    return (tokens - tokens.mean(-1, keepdims=True)) * lax.rsqrt(tokens.var(-1, keepdims=True) + 1e-3)


def gated(params, tokens):
    def cell(hidden, token):
        reset, update = jnp.split(jax.nn.sigmoid(token @ params["gates_in"] + hidden @ params["gates"]), 2)
        new = jnp.tanh(token @ params["new_in"] + (reset * hidden) @ params["new"])
        return update * hidden + (1 - update) * new, None

    return lax.scan(cell, jnp.zeros(params["new"].shape[0]), tokens)[0] @ params["head"]


def normal(key, *shape, fan_in=None):
    return jax.random.normal(key, shape) * (1 / (fan_in or shape[0])) ** 0.5


def keys(count):
    return iter(jax.random.split(jax.random.key(0), count))


def dense_params(width):
    key, sizes = keys(4), [64, width, width, width, 10]
    return [(normal(next(key), m, n) * 2**0.5, jnp.zeros(n)) for m, n in zip(sizes, sizes[1:], strict=False)]


def convolutional_params(width):
    key, sizes = keys(4), [3, width, width, width]
    kernels = [normal(next(key), 3, 3, m, n, fan_in=4 * m) for m, n in zip(sizes, sizes[1:], strict=False)]
    return {"convolutions": kernels, "head": normal(next(key), 4 * width, 10)}


def grouped_params():
    key = keys(5)
    kernels = [(normal(next(key), 3, 3, m, n, fan_in=9 * m), jnp.zeros(n)) for m, n in ((3, 32), (1, 64), (1, 64))]
    return {"convolutions": kernels, "dense": [(normal(next(key), m, n), jnp.zeros(n)) for m, n in DENSE]}


DENSE = ((1024, 128), (128, 10))  # behind the convolutions of `grouped`


def transformer_params(width):
    key, heads = keys(16), 4

    def layer():
        split = {name: normal(next(key), width, heads, width // heads) for name in ("q", "k", "v")}
        ends = {"up": normal(next(key), width, 4 * width), "down": normal(next(key), 4 * width, width)}
        return split | ends | {"out": normal(next(key), heads, width // heads, width, fan_in=width)}

    return {"layers": [layer(), layer()], "head": normal(next(key), width, 10)}


def gated_params(width):
    key = keys(5)
    kernels = {"gates_in": normal(next(key), 64, 2 * width), "gates": normal(next(key), width, 2 * width)}
    return kernels | {
        "new_in": normal(next(key), 64, width),
        "new": normal(next(key), width, width),
        "head": normal(next(key), width, 10),
    }


def in_torch(network, params):
    """Return the same network as a PyTorch module on a batch, or None where PyTorch is not installed."""
    try:
        import torch
    except ImportError:
        return None
    return TORCH[network.__name__](torch, params)


def _linear(torch, kernel, bias=None):
    kernel = np.asarray(kernel)
    layer = torch.nn.Linear(*kernel.shape, bias=bias is not None)
    layer.weight.data = torch.tensor(kernel.T.copy())
    if bias is not None:
        layer.bias.data = torch.tensor(np.asarray(bias))
    return layer


def _convolution(torch, kernel, bias=None, **options):
    kernel = np.asarray(kernel)
    groups, (height, _, inner, outer) = options.get("groups", 1), kernel.shape
    layer = torch.nn.Conv2d(inner * groups, outer, height, bias=bias is not None, **options)
    layer.weight.data = torch.tensor(kernel.transpose(3, 2, 0, 1).copy())
    if bias is not None:
        layer.bias.data = torch.tensor(np.asarray(bias))
    return layer


def _module(torch, layers, run):
    """Return a module with these layers, whose forward pass is `run(layers, x)`."""

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleDict(layers)

        def forward(self, x):
            return run(self.layers, x)

    return Network()


def _dense(torch, params):
    layers = [layer for kernel, bias in params for layer in (_linear(torch, kernel, bias), torch.nn.ReLU())]
    return torch.nn.Sequential(*layers[:-1])


def _convolutional(torch, params):
    layers = {f"{i}": _convolution(torch, k, stride=2) for i, k in enumerate(params["convolutions"])}

    def run(layers, x):
        x = x.reshape(-1, 16, 16, 3).permute(0, 3, 1, 2)
        for i in range(3):
            x = torch.relu(layers[f"{i}"](torch.nn.functional.pad(x, (0, 1, 0, 1))))
        return layers["head"](x.permute(0, 2, 3, 1).flatten(1))

    return _module(torch, layers | {"head": _linear(torch, params["head"])}, run)


def _grouped(torch, params):
    groups, (flat, head) = (1, 32, 64), params["dense"]
    layers = {f"{i}": _convolution(torch, *params["convolutions"][i], groups=groups[i]) for i in range(3)}

    def run(layers, x):
        x = torch.relu(layers["0"](x.reshape(-1, 32, 32, 3).permute(0, 3, 1, 2)))
        for i, size in ((1, 2), (2, 3)):
            x = torch.relu(torch.nn.functional.max_pool2d(layers[f"{i}"](x), size))
        return layers["head"](torch.relu(layers["flat"](x.permute(0, 2, 3, 1).flatten(1))))

    return _module(torch, layers | {"flat": _linear(torch, *flat), "head": _linear(torch, *head)}, run)


def _transformer(torch, params):
    layers, (width, heads, _) = {}, params["layers"][0]["q"].shape
    for i, layer in enumerate(params["layers"]):
        flat = {name: layer[name].reshape(width, -1) for name in ("q", "k", "v")}
        flat |= {"out": layer["out"].reshape(width, width), "up": layer["up"], "down": layer["down"]}
        layers |= {f"{name}{i}": _linear(torch, kernel) for name, kernel in flat.items()}
    functions = torch.nn.functional

    def run(layers, x):
        norm = lambda x: functions.layer_norm(x, (width,), eps=1e-3)
        for i in range(2):
            by_head = (
                layers[f"{name}{i}"](norm(x)).unflatten(-1, (heads, -1)).transpose(1, 2) for name in ("q", "k", "v")
            )
            query, key, value = by_head
            mixed = torch.softmax(query @ key.transpose(-1, -2) / key.shape[-1] ** 0.5, -1) @ value
            x = x + layers[f"out{i}"](mixed.transpose(1, 2).flatten(-2))
            x = x + layers[f"down{i}"](functions.gelu(layers[f"up{i}"](norm(x)), approximate="tanh"))
        return layers["head"](x.mean(1))

    return _module(torch, layers | {"head": _linear(torch, params["head"])}, run)


def _gated(torch, params):
    def run(layers, x):
        hidden = torch.zeros(len(x), params["new"].shape[0])
        for token in x.unbind(1):
            reset, update = torch.sigmoid(layers["gates_in"](token) + layers["gates"](hidden)).chunk(2, -1)
            new = torch.tanh(layers["new_in"](token) + layers["new"](reset * hidden))
            hidden = update * hidden + (1 - update) * new
        return layers["head"](hidden)

    return _module(torch, {name: _linear(torch, kernel) for name, kernel in params.items()}, run)


TORCH = {
    "dense": _dense,
    "convolutional": _convolutional,
    "grouped": _grouped,
    "transformer": _transformer,
    "gated": _gated,
}
