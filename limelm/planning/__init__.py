"""Plan what a training will cost, before anything is spent: parameters, FLOPs, memory, disk and time.

Memory is simulated: a step of the model's real code on tensors without memory (`simulation.py`).
"""
