"""Measure MLX's float32 matrix product: `python -m tools.training.blas_probe` prints its speed and who computed it.

`{"gflops": …, "size": …, "library": …, "build": …}`; code 1 where the product is wrong. A program of its own because
the BLAS is chosen by the environment a process is started with.
"""

import ctypes
import itertools
import json
import sys
import time

SIZE = 384
"""Rows and columns: close to the shapes of a tiny model's layers, and 0.1 GFLOP a product."""

ROUNDS = 5
"""The fewest products, whatever they take."""

SPAN_S = 0.5
"""Products are repeated for so long: on a machine that others use, few of them have all its cores."""

LIMIT_S = 3.0

TOLERANCE = 0.2
"""Between two sums of 384 products of normal numbers: GPUs round the factors to ten bits (TF32), which moves a sum by
hundredths; a wrong library is off by whole numbers."""


class _Symbol(ctypes.Structure):
    """Where an address lies, as dladdr(3) tells it."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def answering() -> tuple[str, str]:
    """Return path and build of the preloaded library that computes matrix products, empty where there is none.

    A name in the program's global scope wins over the one that MLX brings.
    """
    scope = ctypes.CDLL(None)
    symbol = _Symbol()
    try:
        scope.dladdr(ctypes.cast(scope.cblas_sgemm, ctypes.c_void_p), ctypes.byref(symbol))
        function = scope.openblas_get_config
    except AttributeError:
        return (symbol.file or b"").decode(), ""
    function.restype = ctypes.c_char_p
    return (symbol.file or b"").decode(), str(function().decode()).strip()


def measure(size: int = SIZE) -> float:
    """Return GFLOP/s of the fastest of a few products; the others carry the noise of a busy machine."""
    import mlx.core as mx

    left = mx.random.normal((size, size))
    right = mx.random.normal((size, size))
    row = (left @ right)[0]
    if not mx.allclose(row, mx.sum(left[0][:, None] * right, axis=0), rtol=TOLERANCE, atol=TOLERANCE).item():
        raise SystemExit("The library computes a wrong matrix product.")
    best_s = float("inf")
    started = time.perf_counter()
    for done in itertools.count():
        before = time.perf_counter()
        if before - started > (SPAN_S if done >= ROUNDS else LIMIT_S):
            break
        mx.eval(left @ right)
        best_s = min(best_s, time.perf_counter() - before)
    return float(2 * size**3 / best_s / 1e9)


if __name__ == "__main__":
    library, build = answering()
    speed = {"gflops": round(measure(), 2), "size": SIZE, "library": library, "build": build}
    sys.stdout.write(json.dumps(speed) + "\n")
