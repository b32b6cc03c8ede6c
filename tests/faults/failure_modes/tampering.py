"""Libraries that changed, and what people do to a campaign's folder between two commands."""

_HOOK = '''
import importlib.abc, importlib.util, sys


class Hook(importlib.abc.MetaPathFinder):
    """Changes one module as soon as it is imported."""

    def find_spec(self, name, path=None, target=None):
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            change(module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Hook())
'''

WITHOUT_LORA = f'''MODULE = "mlx_lm.tuner.utils"


def change(module):
    del module.linear_to_lora_layers

{_HOOK}'''
"""The function that adapters are built with is gone."""

FUSES_INTO_THE_GRID = f'''MODULE = "mlx_lm.tuner.lora"


def change(module):
    fuse = module.LoRALinear.fuse
    module.LoRALinear.fuse = lambda self, dequantize=False: fuse(self, dequantize=False)

{_HOOK}'''
"""A fused layer is quantized again, asked or not."""

LOADS_NOTHING = f'''MODULE = "mlx.nn"


def change(module):
    load = module.Module.load_weights
    keep = lambda self, weights, strict=True: load(self, weights, strict) if strict else self
    module.Module.load_weights = keep

{_HOOK}'''
"""Adapter weights are taken and not loaded."""
