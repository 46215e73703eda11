"""What every test shares."""

import sys

# With fla installed transformers computes in fla's kernels, not in the plain torch we
# compare with, and some releases crash without a GPU. Hidden before it is looked for;
# a test that wants fla runs a process of its own.
sys.modules["fla"] = None
