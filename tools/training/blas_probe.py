"""Measure MLX's float32 matrix product: `python -m tools.training.blas_probe` prints `{"gflops": …, "size": …}`.

A program of its own because the BLAS is chosen by the environment a process is started with.
"""

import json
import sys
import time

SIZE = 384
"""Rows and columns: close to the shapes of a tiny model's layers, and 0.1 GFLOP a product."""

ROUNDS = 5
LIMIT_S = 3.0


def measure(size: int = SIZE) -> float:
    """Return GFLOP/s of the fastest of a few products; the others carry the noise of a busy machine."""
    import mlx.core as mx

    left = mx.random.normal((size, size))
    right = mx.random.normal((size, size))
    mx.eval(left @ right)
    best_s = float("inf")
    started = time.perf_counter()
    for _round in range(ROUNDS):
        before = time.perf_counter()
        mx.eval(left @ right)
        best_s = min(best_s, time.perf_counter() - before)
        if time.perf_counter() - started > LIMIT_S:
            break
    return float(2 * size**3 / best_s / 1e9)


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"gflops": round(measure(), 2), "size": SIZE}) + "\n")
