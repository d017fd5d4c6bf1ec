"""The ops go through Triton's compiler to machine code, which needs no GPU.

In a process of its own: here they may be defined for the interpreter.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
pytestmark = pytest.mark.slow

SMALLEST_SHARED_BYTES = 99 << 10
PROGRAM = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from llmos.kernel.executor.attention import LayerShape
from llmos.kernel.executor.gpu import ops
from llmos.kernel.executor.gpu.blocks import choose_blocks

POINTERS = {"query", "key", "value", "keys", "values", "out"}
KINDS = {"slots": "*i64", "tiles": "*i32", "tables": "*i32", "lse": "*fp32", "parts": "*fp32",
         "scale": "fp32", "softcap": "fp32"}

def compile(op, constants, num_warps, **kinds):
    names = op.arg_names
    kinds = {name: "*bf16" if name in POINTERS else "i32" for name in names} | KINDS | kinds
    signature = {name: "constexpr" if name in constants else kinds[name] for name in names}
    source = ASTSource(op, signature, {(names.index(one),): constants[one] for one in constants})
    compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32),
                              options={"num_warps": num_warps, "num_stages": 2})
    print(compiled.metadata.shared, len(compiled.asm["cubin"]))

layer = LayerShape(2, 24, 40)
blocks = choose_blocks(layer, num_groups=3, itemsize_bytes=2, is_decode=False)
dims = {"KEY_DIM": 24, "VALUE_DIM": 40}
compile(ops.write, dims | {"NUM_HEADS": 2, "BLOCK_T": 16, "BLOCK_K": 32, "BLOCK_V": 64}, 4)
compile(ops.attend, dims | {
    "NUM_HEADS": 2, "NUM_GROUPS": 3, "WINDOW": 20, "HAS_SOFTCAP": True, "NUM_TURNS": 2,
    "PAGE_SIZE": 16, "BLOCK_M": blocks.num_rows, "BLOCK_N": blocks.num_keys,
    "BLOCK_K": blocks.key_dim, "BLOCK_V": blocks.value_dim,
}, blocks.num_warps, out="*fp32")
compile(ops.combine, {"NUM_QUERY_HEADS": 6, "VALUE_DIM": 40, "NUM_TURNS": 2, "BLOCK_T": 2,
                      "BLOCK_V": 64}, 4)
"""


def test_the_ops_compile_for_the_oldest_device_they_run_on(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}

    ran = subprocess.run(
        [sys.executable, program], env=environment, capture_output=True, text=True, check=False
    )

    assert ran.returncode == 0, ran.stderr
    sizes = [[int(word) for word in line.split()] for line in ran.stdout.splitlines()]
    assert len(sizes) == 3
    assert all(shared <= SMALLEST_SHARED_BYTES and code > 1000 for shared, code in sizes)
