"""The peer of `pipeline bench train`: whole training steps of the same network with PyTorch, eager.

A step is forward, loss, backward, gradient clip, AdamW update and moving average, as `ultralytics` trains; the package
is used through its public interface alone. `pipeline bench train --peer torch` runs this program once for each line of
its table; it can also be run by hand:

    yes | head -5 | python3 torch_step.py '{"imgsz": 320, "batch": 8, "threads": 2, "classes": 80, "objects": 12,
                                            "model": "yolov8n", "how": "fp32"}'

"how" is fp32 (as people train: NCHW), channels_last, or bf16 (autocast, channels last). It says {"torch",
"ultralytics", "python"} when it is ready, then does one step for each line that it reads and says {"ms", "cpu_ms",
"loss", "peak_mb"}.
"""

import json
import os
import platform
import sys
import time

request = json.loads(sys.argv[1])
# Nothing is fetched, installed or sent.
os.environ.update(YOLO_OFFLINE="1", YOLO_AUTOINSTALL="0", YOLO_VERBOSE="0")
os.environ["OMP_NUM_THREADS"] = str(request["threads"])

try:
    import torch
    import ultralytics
    from ultralytics.nn.tasks import DetectionModel
except ImportError as missing:
    sys.stderr.write(f"{missing}\n")
    sys.exit(3)

from copy import deepcopy
from types import SimpleNamespace

CLIP = 10.0
DECAY = 0.9999


def peak_mb():
    """Most memory that this process used, in millions of bytes; None where the system does not tell."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            line = next(line for line in status if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    except (OSError, StopIteration):
        return None


def say(answer):
    print(json.dumps(answer), flush=True)


def main():
    torch.set_num_threads(request["threads"])
    torch.manual_seed(0)
    batch, side, classes, objects = (request[key] for key in ("batch", "imgsz", "classes", "objects"))
    model = DetectionModel(request["model"] + ".yaml", nc=classes, verbose=False).train()
    model.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5, cls_pw=0.0)
    images = torch.rand(batch, 3, side, side)
    if request["how"] != "fp32":
        model = model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    # As many objects as ours, of the same sizes: 24 pixels and up.
    number = torch.arange(objects).repeat(batch)
    size = (24 + 3 * number) / side
    data = {
        "img": images,
        "batch_idx": torch.arange(batch).repeat_interleave(objects).float(),
        "cls": (number % classes).float()[:, None],
        "bboxes": torch.cat([0.1 + 0.7 * torch.rand(batch * objects, 2), size[:, None], size[:, None]], 1),
    }
    average = deepcopy(model).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=5e-4)

    def step():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=request["how"] == "bf16"):
            loss = model.loss(data)[0].sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for mean, now in zip(average.state_dict().values(), model.state_dict().values()):
                if mean.dtype.is_floating_point:
                    mean.mul_(DECAY).add_(now, alpha=1 - DECAY)
        return loss.item()

    step()
    versions = {"torch": torch.__version__, "ultralytics": ultralytics.__version__}
    say({**versions, "python": platform.python_version()})
    for _ in sys.stdin:
        started, worked = time.perf_counter(), time.process_time()
        loss = step()
        ms, cpu_ms = (time.perf_counter() - started) * 1e3, (time.process_time() - worked) * 1e3
        say({"ms": ms, "cpu_ms": cpu_ms, "loss": loss, "peak_mb": peak_mb()})


if __name__ == "__main__":
    main()
