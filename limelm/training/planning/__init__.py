"""Plan what a training will cost, before anything is spent: parameters, FLOPs, memory, disk and time.

Memory is simulated: a step of the model's real code on tensors without memory (`simulation.py`).
"""

from limelm.training.planning.here import require_memory
from limelm.training.planning.memory_plan import GIB, MemoryPlan, plan_memory
from limelm.training.planning.plan import Hardware, ModelPlan, Plan, make_plan, require_fit
from limelm.training.planning.simulation import Step, StepMemory, measure_step, simulate_step
from limelm.training.planning.table import plan_table

__all__ = [
    "GIB",
    "Hardware",
    "MemoryPlan",
    "ModelPlan",
    "Plan",
    "Step",
    "StepMemory",
    "make_plan",
    "measure_step",
    "plan_memory",
    "plan_table",
    "require_fit",
    "require_memory",
    "simulate_step",
]
