import dataclasses

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PrinterCallback, Trainer

from limelm.errors import UserError
from limelm.models.flops import model_cost
from limelm.optimization import checkpoint_activations
from limelm.planning import simulation
from limelm.planning.fit import ALLOWANCE, GIB, MemoryPlan, plan_memory, ways_to_fit
from limelm.planning.peak_memory import PeakMemory, Step, measure_step, peak_training_memory
from limelm.planning.plan import Hardware, make_plan, require_fit
from limelm.planning.simulation import simulate_step
from limelm.planning.table import plan_table
from limelm.routing.ops.source_matrix import CPU_CHUNK_BYTES, Cuts, assume_cuts, chunks, cuts_on
from limelm.training import load_recipe
from limelm.training.trainer import training_arguments
from tests.recipes import small_recipe

SHAPE = {
    "vocab_size": 500,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}
MODELS = {
    "llama": ("llama", {}),
    "llama-grouped": ("llama", {"num_key_value_heads": 2}),
    "hc": ("hyper_connection", {}),
    "static": ("lime", {"routing": "static"}),
    "dynamic": ("lime", {"routing": "dynamic"}),
    "kv": ("lime", {"routing": "kv"}),
    "kv-grouped": ("lime", {"routing": "kv", "num_key_value_heads": 2}),
    "top-p": ("lime", {"routing": "static", "routing_top_p": 0.9}),
    "static-bounded": ("lime", {"routing": "static", "routing_sources": {"first": 2, "last": 1}}),
}
STEP = Step(micro_batch_size=4, sequence_length=128)
# Vocabulary 50,257, D 2048, FFN 8192, L 16, H 32, tied embeddings.
PAPER_PARAMETERS = {
    "llama": 1_176_735_744,
    "static": 1_176_770_784,
    "dynamic": 1_185_613_824,
    "hc": 1_177_064_256,
    "kv": 1_176_873_984,
}


def model_config(name: str, **changes) -> LlamaConfig:
    model_type, options = MODELS[name]
    return AutoConfig.for_model(model_type, **(SHAPE | options | changes))


def with_engine(recipe, **changes):
    return dataclasses.replace(recipe, engine=dataclasses.replace(recipe.engine, **changes))


@pytest.mark.parametrize("checkpointing", [False, True], ids=["keeping", "recomputing"])
@pytest.mark.parametrize("name", ["llama", "hc", "static", "dynamic", "kv", "top-p"])
def test_the_simulated_peak_is_that_of_a_real_training(name, checkpointing):
    model = AutoModelForCausalLM.from_config(model_config(name)).train()
    if checkpointing:
        checkpoint_activations(model)
    step = dataclasses.replace(STEP, activation_checkpointing=checkpointing)
    simulated = simulate_step(model_config(name), step, on_cuda=False)
    assert simulated.peak == pytest.approx(peak_training_memory(model, 4, 128), rel=1e-3)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["keeping", "recomputing"])
@pytest.mark.parametrize("name", MODELS)
def test_each_part_under_autocast_is_that_of_a_real_step(name, checkpointing):
    step = dataclasses.replace(STEP, autocast=True, activation_checkpointing=checkpointing, accumulates=True)
    measured = measure_step(AutoModelForCausalLM.from_config(model_config(name)), step)
    assert simulate_step(model_config(name), step, on_cuda=False) == measured


@pytest.mark.parametrize("name", ["hc", "static-bounded", "dynamic", "kv-grouped"])
def test_doing_as_cuda_does_changes_chunks_only(name):
    here, there = (simulate_step(model_config(name), STEP, on_cuda=on_cuda) for on_cuda in (False, True))
    assert there.saved == here.saved
    assert there.peak == pytest.approx(here.peak, rel=0.02)
    assert cuts_on(torch.device("cpu")) == Cuts(CPU_CHUNK_BYTES, in_blocks=True)  # afterwards as before


@pytest.mark.parametrize("name", ["static", "dynamic"])
def test_one_chunk_tells_the_memory_of_all(name, monkeypatch):
    small = dataclasses.replace(simulation.ON_CUDA, chunk_bytes=2**17)
    with assume_cuts(dataclasses.replace(small, first_only=False)):
        assert (
            len(chunks(4 * 128, 4 * 4 * 64, torch.device("cpu"))) == 4
        )  # the mixed inputs of the keys' and values' heads
    config = model_config(name, vocab_size=50, intermediate_size=64)  # so that the mixed inputs make the peak
    one_large = simulate_step(config, STEP)
    memory = []
    for first_only in (True, False):
        monkeypatch.setattr(simulation, "ON_CUDA", dataclasses.replace(small, first_only=first_only))
        memory.append(simulate_step(config, STEP))
    assert memory[0] == memory[1]
    assert memory[0].peak < one_large.peak


@pytest.mark.parametrize(("name", "checkpointing"), [("llama", False), ("static", True)])
def test_the_trainer_takes_what_was_simulated(name, checkpointing, tmp_path):
    recipe = small_recipe(tmp_path).with_training(steps=2, batch_size=8, precision="bf16")
    recipe = with_engine(recipe, micro_batch_size=4, save_steps=100, activation_checkpointing=checkpointing)
    model = AutoModelForCausalLM.from_config(model_config(name))
    if checkpointing:
        checkpoint_activations(model)
    sequences = [{"input_ids": (tokens := torch.randint(500, (128,))), "labels": tokens} for _ in range(16)]
    arguments = training_arguments(recipe, "static", tmp_path)
    arguments.eval_strategy = arguments.save_strategy = "no"
    arguments.disable_tqdm = True
    trainer = Trainer(model, arguments, train_dataset=sequences)
    trainer.remove_callback(PrinterCallback)
    with PeakMemory() as memory:
        memory.add(*model.parameters(), *model.buffers())
        trainer.train()
    step = Step(4, 128, autocast=True, activation_checkpointing=checkpointing, accumulates=True)
    assert simulate_step(model_config(name), step, on_cuda=False).peak == pytest.approx(memory.peak_bytes, rel=0.01)


def test_what_only_cuda_runs_is_planned_without_it():
    chunked_peak, triton_peak = (
        simulate_step(model_config("dynamic", routing_backend=backend), STEP).peak for backend in ("chunked", "triton")
    )
    assert triton_peak == chunked_peak


def test_parts_are_what_arithmetic_says():
    config = model_config("llama", vocab_size=20_000)
    parameters, tokens = model_cost(config, 128).parameters, 4 * 128
    memory = simulate_step(config, dataclasses.replace(STEP, accumulates=True))
    at_loss, update = memory.phases["backward"], memory.phases["optimizer step"]
    assert at_loss["gradients"] == 4 * parameters
    assert at_loss["weights"] == pytest.approx(4 * parameters, rel=1e-3)  # and the frequencies of the rotary embedding
    assert at_loss["optimizer"] == pytest.approx(8 * parameters, rel=1e-3)  # and the steps' counts
    # The gradient of the loss, and the logits', while the log-probabilities are kept.
    assert at_loss["temporary"] == pytest.approx(2 * 4 * tokens * 20_000, rel=0.01)
    assert update["temporary"] == pytest.approx(4 * parameters, rel=0.01)  # the roots of the second moments


def test_activations_grow_with_the_sequences():
    saved = [simulate_step(model_config("dynamic"), Step(size, 128)).saved for size in (2, 4, 8)]
    assert saved[2] - saved[1] == pytest.approx(2 * (saved[1] - saved[0]), rel=1e-3)


@pytest.mark.parametrize("name", PAPER_PARAMETERS)
def test_the_papers_models_have_their_parameters(name):
    recipe = load_recipe("paper-1.2b")
    config = recipe.subjects[name].config(recipe.data.vocab_size)
    assert model_cost(config, recipe.data.sequence_length).parameters == PAPER_PARAMETERS[name]


def test_the_papers_training_is_planned():
    plan = make_plan(load_recipe("paper-1.2b"), "static", Hardware(gpus=8))
    assert (plan.micro_batch_size, plan.accumulation, plan.tokens) == (8, 16, 41_943_040_000)
    assert plan.model.cost.parameters == PAPER_PARAMETERS["static"]
    assert plan.baseline.cost.parameters == PAPER_PARAMETERS["llama"]
    parts = plan.model.memory.parts
    assert parts["gradients"] == parts["buckets"] == 4 * PAPER_PARAMETERS["static"]
    assert plan.missing < 0
    require_fit(plan)  # does not raise
    table = plan_table(plan)
    assert "1,176,770,784" in table and "41,943,040,000" in table and "+35,040" in table
    assert max(map(len, table.splitlines())) <= 120


@pytest.mark.parametrize("label", ["X", "LIMe static, top-p 0.9", "a name of a hundred letters" * 4])
def test_a_long_name_does_not_move_the_columns(tmp_path, label):
    recipe = small_recipe(tmp_path, ('label = "LIMe static"', f'label = "{label[:100]}"'))
    lines = plan_table(make_plan(recipe, "static", Hardware(1))).splitlines()
    rows = [line for line in lines if line.startswith(("parameters", "training FLOPs", "  total", "  hours"))]
    head = next(line for line in lines if line.endswith("difference"))
    assert label[:20] in head and len(rows) == 5
    assert {len(line) for line in [head, *rows]} == {98}
    assert {line.index("LLaMA") + 5 for line in [head]} == {len(head) - 16}


@pytest.fixture
def recipe(tmp_path):
    return small_recipe(tmp_path)


def test_time_and_disk_are_what_arithmetic_says(recipe):
    plan = make_plan(recipe.with_training(steps=1000, batch_size=8), "static", Hardware(2, tokens_per_second=400.0))
    assert plan.tokens == 1000 * 8 * 32
    assert plan.model.seconds == plan.baseline.seconds == plan.tokens / 800
    assert plan.shard_bytes == 2 * plan.tokens
    assert plan.model.checkpoint_bytes == 12 * plan.model.cost.parameters
    assumed = make_plan(recipe, "static", Hardware(1, mfu=0.5, peak_flops=1e9)).model
    forward = model_cost(recipe.subjects["static"].config(300), 32).forward_flops / 32
    assert assumed.training_flops == 3 * forward
    assert assumed.seconds == pytest.approx(recipe.training.steps * recipe.training.batch_size * 32 * 3 * forward / 5e8)


def test_a_llama_stands_alone(recipe):
    plan = make_plan(recipe, "llama", Hardware(1))
    assert plan.baseline is None and "difference" not in plan_table(plan)


def test_processes_add_buckets(recipe):
    config = recipe.subjects["kv"].config(300)
    recipe = recipe.with_training(batch_size=16)
    alone, ddp = (plan_memory(config, recipe, gpus) for gpus in (1, 4))
    weights = 4 * model_cost(config, 32).parameters
    assert alone.parts["context"] == ALLOWANCE and "buckets" not in alone.parts
    assert ddp.parts["buckets"] == weights


@pytest.mark.parametrize("name", ["llama", "kv"])
def test_a_plan_with_fsdp_has_all_but_memory(recipe, name):
    recipe = with_engine(recipe.with_training(batch_size=16), sharding="fsdp")
    plan = make_plan(recipe, name, Hardware(4, memory=1))
    assert plan.model.memory is None and plan.model.seconds > 0
    require_fit(plan)  # of what is not known nothing is refused
    table = plan_table(plan)
    assert "4 GPUs" in table and "FSDP2" in table and "memory per GPU: FSDP is not simulated" in table
    assert "GPU-hours" in table and "parameters" in table and "total" not in table
    alone = make_plan(with_engine(recipe, sharding="none"), name, Hardware(4)).model
    assert dataclasses.replace(alone, memory=None) == plan.model


def test_what_does_not_fit_is_refused_with_what_would(recipe):
    recipe = with_engine(recipe.with_training(batch_size=64), micro_batch_size=32)
    plan = make_plan(recipe, "llama", Hardware(1))
    parts = plan.model.memory.parts
    too_small = Hardware(1, memory=plan.model.memory.total - (parts["activations"] + parts["temporary"]) // 3)
    plan = dataclasses.replace(plan, hardware=too_small)
    config = plan.model.config
    ways = ways_to_fit(recipe, 1, too_small.memory, lambda recipe: plan_memory(config, recipe, 1))
    (smaller, total), *_ = ways
    assert smaller == "engine.micro_batch_size=16"
    followed = make_plan(with_engine(recipe, micro_batch_size=16), "llama", too_small)
    assert followed.model.memory.total == total and followed.missing <= 0 < plan.missing
    with pytest.raises(
        UserError, match=r"^small-llama needs .* than --gpu-memory .*with engine.micro_batch_size=16 \("
    ):
        require_fit(plan)
    with pytest.raises(UserError, match=r"no setting of the engine makes it fit$"):
        require_fit(dataclasses.replace(plan, hardware=Hardware(1, memory=GIB)))
    with pytest.raises(UserError, match=r"makes it fit, sharding=fsdp aside, which is not simulated$"):
        require_fit(make_plan(recipe, "llama", Hardware(2, memory=GIB)))


def test_the_largest_micro_batch_that_fits_is_found(recipe):
    """With a memory that is known exactly: a GiB per sequence, half of it with activation checkpointing."""
    recipe = with_engine(recipe.with_training(batch_size=64), micro_batch_size=64)

    def needed_by(changed):
        share = 2 if changed.engine.activation_checkpointing else 1
        return MemoryPlan({"activations": changed.engine.micro_batch_size * GIB // share}, "backward")

    for room, ways in {
        0: [],
        GIB // 2: [("engine.activation_checkpointing=true and engine.micro_batch_size=1", GIB // 2)],
        17 * GIB: [
            ("engine.micro_batch_size=16", 16 * GIB),
            ("engine.activation_checkpointing=true and engine.micro_batch_size=32", 16 * GIB),
        ],
        63 * GIB: [("engine.micro_batch_size=32", 32 * GIB), ("engine.activation_checkpointing=true", 32 * GIB)],
    }.items():
        assert ways_to_fit(recipe, 1, room, needed_by) == ways


def test_the_plan_shares_the_batch_as_training_does(recipe):
    with pytest.raises(UserError, match="batch_size=2 cannot be shared evenly by 3"):
        make_plan(recipe, "static", Hardware(3))
    with pytest.raises(UserError, match=r"engine.sharding='fsdp' needs several GPUs"):
        make_plan(with_engine(recipe, sharding="fsdp"), "static", Hardware(1))
