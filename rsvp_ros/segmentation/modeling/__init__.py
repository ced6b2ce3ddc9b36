"""The parts of the `Vlsm` network, one a file. They import torch."""
