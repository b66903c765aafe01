"""Reference numbers for tests/yolov8.rs, from JAX in 64 bits: `pip install jax safetensors`, then run this file beside them.

YOLOv8n with 2 classes, written from the published description, on two pictures of 64 x 96 pixels with formula weights.
Writes reference.safetensors: raw heads in both modes, and norm and projection of every gradient and running statistic.
"""

import math
import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

jax.config.update("jax_enable_x64", True)
CLASSES, BATCH, HEIGHT, WIDTH = 2, 2, 64, 96


def numbers(name, shape):
    """Numbers in -1..1 from a hash of the name (FNV-1a) and the index, rounded to 32 bits."""
    seed = 2166136261
    for byte in name.encode():
        seed = ((seed ^ byte) * 16777619) % 2**32
    x = (np.arange(math.prod(shape), dtype=np.uint64) * 2654435761 + seed) % 2**32
    x ^= x >> 16
    x = x * 0x45D9F3B % 2**32
    x ^= x >> 16
    return (x / 2.0**31 - 1.0).astype(np.float32).astype(np.float64).reshape(shape)


def first_value(name, shape):
    u = numbers(name, shape)
    if name.endswith("running_var"):
        return 0.4 + 0.3 * u
    if name.endswith("running_mean"):
        return 0.2 * u
    if name.endswith("bn.weight"):
        return 1.0 + 0.3 * u
    if name.endswith("bias"):
        return 0.3 * u
    return u * 1.7 / math.sqrt(math.prod(shape[1:]))


def rounded(x):
    return np.asarray(x, np.float32).astype(np.float64)


class Network:
    """With `values` None: collects shapes. Else computes; `train` uses batch statistics and notes the running ones."""

    def __init__(self, values, train):
        self.values, self.train, self.noted = values, train, {}

    def get(self, name, shape):
        if self.values is None:
            self.noted[name] = shape
            return jnp.asarray(rounded(first_value(name, shape)))
        return self.values[name]

    def plain(self, x, name, out, k, s):
        w = self.get(name + ".weight", (out, x.shape[1], k, k))
        return jax.lax.conv_general_dilated(x, w, (s, s), [(k // 2, k // 2)] * 2)

    def conv(self, x, name, out, k=1, s=1):
        y = self.plain(x, name + ".conv", out, k, s)
        weight, bias, mean, var = (self.get(f"{name}.bn.{p}", (out,)) for p in ("weight", "bias", "running_mean", "running_var"))
        if self.train:
            n = y.size // out
            m, v = y.mean((0, 2, 3)), y.var((0, 2, 3))
            if self.values is not None:
                self.noted[name + ".bn.running_mean"] = 0.97 * mean + 0.03 * m
                self.noted[name + ".bn.running_var"] = 0.97 * var + 0.03 * v * n / (n - 1)
            mean, var = m, v
        at = lambda a: a[None, :, None, None]
        return jax.nn.silu((y - at(mean)) / jnp.sqrt(at(var) + 1e-3) * at(weight) + at(bias))

    def c2f(self, x, name, out, n, add):
        parts = jnp.split(self.conv(x, name + ".cv1", out), 2, 1)
        for i in range(n):
            y = self.conv(self.conv(parts[-1], f"{name}.m.{i}.cv1", out // 2, 3), f"{name}.m.{i}.cv2", out // 2, 3)
            parts.append(parts[-1] + y if add else y)
        return self.conv(jnp.concatenate(parts, 1), name + ".cv2", out)

    def sppf(self, x, name):
        parts = [self.conv(x, name + ".cv1", x.shape[1] // 2)]
        for _ in range(3):
            parts.append(jax.lax.reduce_window(parts[-1], -jnp.inf, jax.lax.max, (1, 1, 5, 5), (1, 1, 1, 1), "SAME"))
        return self.conv(jnp.concatenate(parts, 1), name + ".cv2", x.shape[1])

    def __call__(self, x):
        up = lambda a: a.repeat(2, 2).repeat(2, 3)
        cat = lambda *a: jnp.concatenate(a, 1)
        x = self.conv(x, "model.0", 16, 3, 2)
        x = self.c2f(self.conv(x, "model.1", 32, 3, 2), "model.2", 32, 1, True)
        l4 = self.c2f(self.conv(x, "model.3", 64, 3, 2), "model.4", 64, 2, True)
        l6 = self.c2f(self.conv(l4, "model.5", 128, 3, 2), "model.6", 128, 2, True)
        l8 = self.c2f(self.conv(l6, "model.7", 256, 3, 2), "model.8", 256, 1, True)
        l9 = self.sppf(l8, "model.9")
        l12 = self.c2f(cat(up(l9), l6), "model.12", 128, 1, False)
        l15 = self.c2f(cat(up(l12), l4), "model.15", 64, 1, False)
        l18 = self.c2f(cat(self.conv(l15, "model.16", 64, 3, 2), l12), "model.18", 128, 1, False)
        l21 = self.c2f(cat(self.conv(l18, "model.19", 128, 3, 2), l9), "model.21", 256, 1, False)
        heads = []
        for i, f in enumerate((l15, l18, l21)):
            outs = []
            for branch, hidden, out in (("cv2", 64, 64), ("cv3", max(64, min(CLASSES, 100)), CLASSES)):
                name = f"model.22.{branch}.{i}"
                y = self.conv(self.conv(f, name + ".0", hidden, 3), name + ".1", hidden, 3)
                y = self.plain(y, name + ".2", out, 1, 1) + self.get(name + ".2.bias", (out,))[None, :, None, None]
                outs.append(y)
            heads.append(cat(*outs).transpose(0, 2, 3, 1))
        return heads


pictures = jnp.asarray(numbers("pictures", (BATCH, HEIGHT, WIDTH, 3))).transpose(0, 3, 1, 2)
collector = Network(None, True)
collector(pictures)
shapes = dict(collector.noted)
values = {name: jnp.asarray(rounded(first_value(name, shape))) for name, shape in shapes.items()}


def loss(values):
    network = Network(values, True)
    heads = network(pictures)
    total = sum((h * numbers(f"gradient.{i}", h.shape)).sum() for i, h in enumerate(heads))
    return total, (heads, network.noted)


def summary(arrays, names):
    rows = []
    for name in names:
        a = np.asarray(arrays[name])
        rows.append([np.sqrt((a**2).sum()), (a * numbers("direction." + name, a.shape)).sum()])
    return np.asarray(rows, np.float32)


(_, (train, running)), gradients = jax.value_and_grad(loss, has_aux=True)(values)
eval_heads = Network(values, False)(pictures)
trainable = sorted(name for name in shapes if "running" not in name)
out = {"gradients": summary(gradients, trainable), "running": summary(running, sorted(running))}
for i in range(3):
    out[f"train.{i}"], out[f"eval.{i}"] = (np.asarray(h[i], np.float32) for h in (train, eval_heads))
save_file(out, "reference.safetensors")
print(sum(math.prod(shapes[name]) for name in trainable), "parameters")
