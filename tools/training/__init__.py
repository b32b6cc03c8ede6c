"""Training by MLX in worker processes: one loop, adapters that stock mlx-lm opens."""
