"""Every Triton kernel becomes machine code for GPUs that this machine need not have."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

pytest.importorskip("triton", reason="Triton is for Linux")

# The most shared memory that one program may have, in KiB (CUDA C++ Programming Guide,
# table of compute capabilities).
LIMIT = {80: 163, 90: 227, 100: 227}
KERNELS = {
    "solve", "carry", "carry_back", "spread", "remember", "convolve", "norm_rows",
    "choose", "gate_up", "down", "gate_up_rows", "down_rows",
}  # fmt: skip
PACKED = {"one_row", "product", "gate_up", "down", "gate_up_rows", "down_rows"}
MATRICES = {"solve", "carry", "carry_back", "spread", "gate_up", "down", "product"}


@pytest.fixture(scope="module")
def compiled():
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.compile_kernels", *map(str, LIMIT)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_kernel_for_every_gpu(compiled):
    halves = [x for x in compiled if x["dtype"] == "bfloat16"]
    for cc, limit in LIMIT.items():
        mine = [x for x in halves if x["cc"] == cc]
        assert {x["kernel"] for x in mine if not x["form"]} == KERNELS
        for form in ("int8", "int4", "fp8") if cc <= 90 else ():
            assert {x["kernel"] for x in mine if x["form"] == form} == PACKED
        for x in (x for x in compiled if x["cc"] == cc):
            assert x["cubin"] and x["shared"] <= limit * 1024, x
    assert {x["kernel"] for x in compiled if x["dtype"] == "float32"} == MATRICES


def test_matrices_use_the_tensor_cores_of_their_day(compiled):
    """wgmma, which multiplies from shared memory while other warps go on."""
    for x in compiled:
        if x["cc"] == 90 and x["dtype"] == "bfloat16":
            assert (x["wgmma"] > 0) == (x["kernel"] in MATRICES), x


def test_nothing_is_spilled_on_hopper(compiled):
    """A number that has no register costs a trip to memory each time it is used."""
    for x in compiled:
        if x["cc"] == 90 and x["dtype"] == "bfloat16":
            assert x["spilled"] == 0, x
