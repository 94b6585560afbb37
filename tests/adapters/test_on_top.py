"""What people do with a model goes on when routers are attached: generation in all its forms, trainers, scores."""

import copy

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    CLIPVisionConfig,
    DynamicCache,
    LlavaConfig,
    LlavaForConditionalGeneration,
    StaticCache,
    pipeline,
)

from limelm import attach, load_adapter, save_adapter, set_trainable
from limelm.data.dataset import load_prepared_tokenizer
from tests.families import ATTACHABLE, VOCAB, family_model, router_parameters, tokens, train_routers
from tests.recipes import prepared

routings = pytest.mark.parametrize("routing", ["kv", "static", "dynamic"])
GREEDY = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}


def trained(routing: str, family: str = "llama"):
    return train_routers(attach(family_model(family), routing))


def by_hand(model, prompt, steps: int = 6) -> torch.Tensor:
    """Greedy decoding, each token from the whole sequence."""
    for _ in range(steps):
        prompt = torch.cat([prompt, model(prompt, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    return prompt


@routings
@pytest.mark.parametrize("family", ATTACHABLE)
def test_greedy_generation(family, routing):
    model = trained(routing, family)
    expected = by_hand(model, tokens())
    assert torch.equal(model.generate(tokens(), **GREEDY, eos_token_id=VOCAB), expected)


@routings
@pytest.mark.parametrize("cache", ["dynamic", "static", "offloaded", "none"])
def test_every_cache(routing, cache):
    model = trained(routing)
    options = {
        "dynamic": {"past_key_values": DynamicCache(config=model.config)},
        "static": {"past_key_values": StaticCache(config=model.config, max_cache_len=32)},
        "offloaded": {"cache_implementation": "dynamic"},
        "none": {"use_cache": False},
    }[cache]
    generated = model.generate(tokens(), **GREEDY, eos_token_id=VOCAB, **options)
    assert torch.equal(generated, by_hand(model, tokens()))


@routings
def test_a_compiled_static_cache(routing):
    model = trained(routing)
    expected = by_hand(model, tokens(1))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    cache = StaticCache(config=model.config, max_cache_len=32)
    prompt, position = tokens(1), 0
    generated = prompt
    while generated.shape[1] < expected.shape[1]:
        new = generated[:, position:]
        logits = compiled(new, past_key_values=cache, use_cache=True).logits
        position = generated.shape[1]
        generated = torch.cat([generated, logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(generated, expected)


@routings
@pytest.mark.parametrize("assistant_has_routers", [False, True])
def test_assisted_decoding_gives_the_same_tokens(routing, assistant_has_routers):
    model = trained(routing)
    assistant = trained(routing) if assistant_has_routers else family_model("llama", seed=3)
    generated = model.generate(tokens(1), **GREEDY, eos_token_id=VOCAB, assistant_model=assistant)
    assert torch.equal(generated, by_hand(model, tokens(1)))


@routings
def test_left_padding_changes_nothing(routing):
    model = trained(routing)
    short = tokens(1, 5)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), short], dim=1)
    mask = (torch.arange(8) >= 3).long()[None]
    alone = model.generate(short, **GREEDY, eos_token_id=VOCAB)
    together = model.generate(padded, attention_mask=mask, **GREEDY, eos_token_id=VOCAB)
    assert torch.equal(together[:, 3:], alone)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    tokenizer = load_prepared_tokenizer(prepared(tmp_path_factory.mktemp("text") / "tokens"))
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def wide(routing: str, tokenizer):
    """A model with the tokenizer's vocabulary."""
    model = family_model("llama")
    model.resize_token_embeddings(len(tokenizer))
    return train_routers(attach(model.eval(), routing))


@routings
def test_pipeline(routing, tokenizer):
    model = wide(routing, tokenizer)
    generate = pipeline("text-generation", model=model, tokenizer=tokenizer)
    text = generate("Document 1", max_new_tokens=4, do_sample=False)[0]["generated_text"]
    prompt = tokenizer("Document 1", return_tensors="pt").input_ids
    assert text == tokenizer.decode(by_hand(model, prompt, 4)[0], skip_special_tokens=True)


def test_the_harness(tokenizer):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = wide("kv", tokenizer)
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2)
    (scored,) = harness.loglikelihood([Instance("loglikelihood", {}, ("Document 1", " memory layer"), 0)])
    whole = tokenizer("Document 1 memory layer", return_tensors="pt").input_ids
    context = tokenizer("Document 1", return_tensors="pt").input_ids.shape[1]
    logs = model(whole).logits.log_softmax(-1)[0, context - 1 : -1]
    assert scored[0] == pytest.approx(logs.gather(1, whole[0, context:, None]).sum().item(), abs=1e-4)


@pytest.mark.parametrize("with_lora", [False, True])
def test_trl_trains_routers(with_lora, tokenizer, tmp_path):
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    model = wide("kv", tokenizer)
    set_trainable(model)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    arguments = SFTConfig(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=2,
        max_length=24,
        learning_rate=1e-2,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict({"text": [f"Document {number}. memory layer router" for number in range(8)]}),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=2, target_modules=["v_proj"], modules_to_save=["router"]) if with_lora else None,
    )
    trainer.train()
    now = dict(trainer.model.named_parameters())
    changed = {name for name, value in now.items() if name in before and not torch.equal(value, before[name])}
    if not with_lora:
        assert changed == set(router_parameters(model))
        return
    trained_names = [name for name, value in now.items() if value.requires_grad]
    assert {"lora_A", "lora_B"} <= {part for name in trained_names for part in name.split(".")}
    copies = [name for name in trained_names if "router.modules_to_save" in name]
    assert len(copies) == 2
    for name in copies:
        original = name.replace("modules_to_save.default", "original_module")
        assert not torch.equal(now[name], now[original])


@routings
def test_gradients_of_each_row(routing):
    """torch.func, as for per-sample gradients and influence functions."""
    from torch.func import functional_call, grad, vmap

    model = trained(routing)
    rows = tokens()
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(weights, row):
        return functional_call(model, weights, (row[None],), {"labels": row[None], "use_cache": False}).loss

    together = vmap(grad(loss), (None, 0))(weights, rows)
    for index, row in enumerate(rows):
        model.zero_grad()
        model(row[None], labels=row[None], use_cache=False).loss.backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(together[name][index], parameter.grad, atol=1e-5, rtol=1e-4, msg=name)


@routings
def test_a_reward_model(routing, tmp_path):
    config = copy.deepcopy(ATTACHABLE["llama"])
    config.num_labels, config.pad_token_id = 1, 0
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "base")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    before = model(tokens()).logits
    assert torch.equal(attach(model, routing)(tokens()).logits, before)
    train_routers(model)
    with torch.no_grad():
        model.score.weight.mul_(2)
    save_adapter(model, tmp_path / "adapter")
    loaded = load_adapter(AutoModelForSequenceClassification.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    assert not torch.equal(model(tokens()).logits, before)
    assert torch.equal(loaded(tokens()).logits, model(tokens()).logits)


@routings
@torch.no_grad()
def test_images_before_the_text(routing):
    text = copy.deepcopy(ATTACHABLE["llama"])
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
    )
    model = LlavaForConditionalGeneration(
        LlavaConfig(text_config=text, vision_config=vision, image_token_index=VOCAB - 1)
    )
    model.eval()
    inputs = torch.cat([torch.full((2, 4), VOCAB - 1), tokens(2, 5).clamp(max=VOCAB - 2)], dim=1)
    images = {"input_ids": inputs, "pixel_values": torch.randn(2, 3, 8, 8), "attention_mask": torch.ones_like(inputs)}
    before = model(**images).logits
    assert torch.equal(attach(model, routing)(**images).logits, before)
    train_routers(model)
    assert not torch.equal(model(**images).logits, before)
    cached, uncached = (
        model.generate(**images, max_new_tokens=4, do_sample=False, use_cache=use, pad_token_id=0)
        for use in (True, False)
    )
    assert torch.equal(cached, uncached)
