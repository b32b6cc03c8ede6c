"""What a recipe leaves open and the trainer, the estimate of time and that of memory must fill in alike."""

PAD_TO = 8
"""Positions that a model computes per row are a multiple of this."""

ROLLOUTS_TOGETHER = {False: 8, True: 64}
"""Whether MLX computes with CUDA -> rollouts computed together in an update where the recipe does not say; few shapes
count for more than tokens there. On Metal nobody measured it."""
