"""The tabletop world: simulated scenes of household things with exact answers (extra `sim`).

A camera that needs no hardware, a training ground and a benchmark. Rendering needs MuJoCo; the words, the instructions
and the readers of exported files do not.
"""
