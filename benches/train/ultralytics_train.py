"""The peer of `pipeline bench recipe`: one whole training with `ultralytics`, used through its public interface alone.

`pipeline bench recipe --peer` runs this program once for each seed; it can also be run by hand:

    python3 ultralytics_train.py '{"data": "/data/data.yaml", "out": "/tmp/peer", "model": "yolov8n", "imgsz": 320,
                                   "batch": 16, "nominal_batch": 64, "epochs": 3, "seed": 0, "threads": 2}'

It says {"ultralytics", "torch", "python", "seconds", "map50", "map50_95"}: seconds are those of the training with its
reading of the data and its measuring, without the start of Python; the figures are its own, of its best weights.
"""

import contextlib
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
    import numpy
    import torch
    import ultralytics
except ImportError as missing:
    sys.stderr.write(f"{missing}\n")
    sys.exit(3)

# The pinned release was written for older versions of the two: a name that went, and a default that changed.
if not hasattr(numpy, "trapz"):
    numpy.trapz = numpy.trapezoid
load = torch.load
torch.load = lambda *args, **named: load(*args, **{**named, "weights_only": False})


def main():
    model = ultralytics.YOLO(request["model"] + ".yaml")
    # It would take one thread less than there are cores.
    model.add_callback("on_train_start", lambda _: torch.set_num_threads(request["threads"]))
    begun = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        found = model.train(
            data=request["data"],
            epochs=request["epochs"],
            imgsz=request["imgsz"],
            batch=request["batch"],
            nbs=request["nominal_batch"],
            seed=request["seed"],
            patience=0,
            device="cpu",
            cache="ram",
            pretrained=False,
            amp=False,
            plots=False,
            project=request["out"],
            name="peer",
            exist_ok=True,
        )
    seconds = time.perf_counter() - begun
    answer = {
        "ultralytics": ultralytics.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "seconds": seconds,
        "map50": float(found.box.map50),
        "map50_95": float(found.box.map),
    }
    print(json.dumps(answer), flush=True)


main()
