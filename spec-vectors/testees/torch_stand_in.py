"""The little of torch that the SDK's KV-cache code calls, over numpy, so that its checks can be tested without gigabytes of
packages. Tensors keep their bytes; bfloat16 is read and written as 16-bit integers, as the SDK does it itself.
"""

import sys
import types

import numpy as np

HELD_AS = {"float32": "<f4", "float16": "<f2", "bfloat16": "<i2", "int16": "<i2"}


class Tensor:
    def __init__(self, array, dtype):
        self.array, self.dtype, self.shape = array, dtype, array.shape

    def numpy(self):
        return self.array

    def unsqueeze(self, axis):
        return Tensor(np.expand_dims(self.array, axis), self.dtype)

    def squeeze(self, axis):
        return Tensor(np.squeeze(self.array, axis), self.dtype)

    def view(self, dtype):
        return Tensor(self.array, dtype)

    def to(self, device=None):
        return self

    contiguous = cpu = to


def tensor(data, name, shape):
    """A tensor of these bytes, in the type of this name."""
    return Tensor(np.frombuffer(data, HELD_AS[name]).reshape(shape), f"torch.{name}")


def install():
    """Answers `import torch` from here on."""
    torch = types.ModuleType("torch")
    torch.Tensor, torch.float16, torch.bfloat16, torch.int16 = Tensor, "torch.float16", "torch.bfloat16", "torch.int16"
    torch.from_numpy = lambda array: Tensor(array, f"torch.{array.dtype.name}")
    sys.modules["torch"] = torch
