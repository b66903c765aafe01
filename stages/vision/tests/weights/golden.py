"""Fixtures of tests/weights.rs, from Ultralytics run as a black box: `pip install ultralytics`, then run this file.

Makes YOLOv8n with 3 classes, fills it with formula weights (nothing is trained or downloaded), saves it in the usual way
and keeps of the file only its description (data.pkl) and which storage holds which tensor. golden.json has norm and
projection of what every layer makes of one formula picture of 64 x 96 pixels, in 64-bit floats.
"""

import json
import math
import os
import pathlib
import tempfile
import zipfile

os.environ.update(YOLO_OFFLINE="1", YOLO_AUTOINSTALL="0")
import numpy as np
import torch
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel

HERE = pathlib.Path(__file__).parent
NAMES = ["gate valve", "pump's \"head\"", "Prüfventil"]
HEIGHT, WIDTH = 64, 96


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


def summary(name, data):
    data = np.asarray(data, dtype=np.float64)
    return [float(np.sqrt((data**2).sum())), float((data * numbers("direction." + name, data.shape)).sum())]


def main():
    yolo = YOLO("yolov8n.yaml")
    yolo.model = DetectionModel("yolov8n.yaml", nc=len(NAMES), verbose=False)
    model = yolo.model
    for name, tensor in model.state_dict().items():
        if "dfl" not in name and not name.endswith("num_batches_tracked"):
            tensor.copy_(torch.tensor(first_value(name, tuple(tensor.shape))).half())
    model.names = dict(enumerate(NAMES))
    # Only what the network is, not how it was described.
    model.yaml, model.args, model.yaml_file = {}, {"imgsz": 96}, ""
    model.half()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "golden.pt"
        yolo.save(path)
        with zipfile.ZipFile(path) as file:
            (HERE / "data.pkl").write_bytes(file.read("golden/data.pkl"))
            of = {t.detach().numpy().tobytes(): n for n, t in model.state_dict().items()}
            stored = {n.split("/")[-1]: file.read(n) for n in file.namelist() if "/data/" in n}
    storages = {key: of.get(data, len(data)) if any(data) else len(data) for key, data in stored.items()}
    assert sum(isinstance(v, str) for v in storages.values()) == 298, storages

    model.double().eval()
    layers, hooks = {}, []
    for name, module in model.named_modules():
        # Convolution with normalisation and activation, or with a bias.
        if type(module).__name__ == "Conv" or getattr(module, "bias", None) is not None and module.weight.dim() == 4:
            keep = lambda _m, _i, out, name=name: layers.__setitem__(name, summary(name, out[0].numpy()))
            hooks.append(module.register_forward_hook(keep))
    picture = numbers("picture", (1, HEIGHT, WIDTH, 3)) * 0.5 + 0.5
    with torch.no_grad():
        out = model(torch.tensor(picture).permute(0, 3, 1, 2))[0][0]
    assert len(layers) == 63, len(layers)
    layers["decoded"] = summary("decoded", out.numpy())
    text = json.dumps({"storages": storages, "layers": layers}, indent=0)
    (HERE / "golden.json").write_text(text + "\n")


main()
