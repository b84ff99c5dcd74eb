"""nbdev-test, for notebooks of all frameworks in the same processes: python tools/test_notebooks.py [PATH].

Triton and TensorFlow both carry LLVM. Triton crashes when it is imported after TensorFlow, so the process that the
workers are forked from imports it first; it looks only then whether its kernels are to be interpreted, as on machines
without a GPU.
"""

import os
from contextlib import suppress

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
with suppress(ImportError):
    import triton  # noqa: F401

from nbdev.test import nbdev_test

if __name__ == "__main__":
    nbdev_test()
