"""Triton's ops run on the GPU where there is one, else on the CPU through Triton's interpreter.

They are skipped where triton is not installed; `pip install triton==3.7.1` gets it.
"""

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
