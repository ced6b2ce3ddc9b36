"""The parts of the `Vlsm` network, one per file. They import torch."""
