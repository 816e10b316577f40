"""Small models with random weights and their own small tokenizer, made on the spot.

They have every part that a real model has (config, weights, byte-level BPE tokenizer, chat template), so a whole
study can run on them in seconds; and they are a null: what a method finds on them was not learned from text.

    write(Path("model"), architecture="llama", layers=2, width=32, heads=4, vocabulary=384, seed=0)
"""

from pathlib import Path
from typing import Any

from diptych.runtime.errors import DiptychError

CONTEXT = 512
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXT = """
The people of the United States have in every year of our history asked the same things of their government: peace
with all nations, justice between citizens, and money that keeps its value. Congress has the power to make laws; the
President shall see that they are carried out, and the courts say what they mean. In the past year the state of the
country has been good. Our commerce with other nations has grown, the public debt has been paid in part, and the land
has given more than the people could use. There are still questions that must be settled. Some of them are old, and
others have come with new means of transportation, new machines and new territory. I shall recommend measures for each
of them, and I trust that you will consider them with care. The first is the army and the navy. The second is the
revenue of the government, which should be enough for its work and no more. The third is education, which is the best
protection of freedom. What would have been called impossible when this country was young is now done every day, and
what we think impossible today our children will do. With the help of the world and the work of American hands, this
generation can do more than any before it: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 years from now they will judge us by it.
"""
"""Text that the tokenizer's merges are learned from."""


def write(
    directory: Path, *, architecture: str, layers: int, width: int, heads: int, vocabulary: int, seed: int
) -> None:
    """Write a random model into an existing directory.

    Args:
        directory: gets config.json, model.safetensors and the tokenizer's files.
        architecture: llama, gpt2, neox or gemma2.
        layers: blocks.
        width: of the residual stream, a multiple of 2 * heads.
        heads: attention heads.
        vocabulary: tokens, at least 259 (256 bytes and 3 special ones); fewer if the merges run out.
        seed: of the weights.

    Raises:
        DiptychError: the sizes do not fit each other.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if width % (2 * heads):
        raise DiptychError(f"random model: width {width} must be a multiple of 2 x heads ({2 * heads})")
    if vocabulary < 256 + len(SPECIAL_TOKENS):
        raise DiptychError(f"random model: vocabulary {vocabulary} must be at least {256 + len(SPECIAL_TOKENS)}")
    tokenizer = _tokenizer(vocabulary)
    tokenizer.save_pretrained(directory)
    config = _config(architecture, layers, width, heads, len(tokenizer))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(directory)


def _tokenizer(vocabulary: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([TEXT.replace("\n", " ")], trainer)
    end = SPECIAL_TOKENS[0]
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=end,
        eos_token=end,
        pad_token=end,
        model_max_length=CONTEXT,
        chat_template=CHAT_TEMPLATE,
    )


def _config(architecture: str, layers: int, width: int, heads: int, vocabulary: int) -> Any:
    """A transformers config with weights of spread width^-1/2: large enough that every block changes the residual."""
    import transformers

    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    sizes = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": CONTEXT,
        "initializer_range": width**-0.5,
        **ends,
    }
    match architecture:
        case "llama":
            return transformers.LlamaConfig(**sizes, num_key_value_heads=heads)
        case "neox":
            return transformers.GPTNeoXConfig(**sizes)
        case "gemma2":
            head = width // heads
            return transformers.Gemma2Config(
                **sizes, num_key_value_heads=heads, head_dim=head, query_pre_attn_scalar=head, sliding_window=CONTEXT
            )
        case "gpt2":
            return transformers.GPT2Config(
                vocab_size=vocabulary,
                n_embd=width,
                n_layer=layers,
                n_head=heads,
                n_positions=CONTEXT,
                initializer_range=width**-0.5,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                **ends,
            )
        case _:
            raise DiptychError(f"random model: unknown architecture {architecture!r}; use llama, gpt2, neox or gemma2")
