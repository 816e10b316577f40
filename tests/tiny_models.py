"""Tiny tokenizers, randomly initialised models and texts that tests write to a directory."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = (
    "The committee met on the first day of the month and found the treasury in good order. "
    "Our farmers have had a plentiful harvest, and commerce with other nations continues to grow. "
    "Peace has been kept upon the frontier; the army is small, disciplined and ready. "
    "I ask the House to consider the state of the roads, the post, and the public schools. "
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

LLAMA3_MARKERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
GEMMA_MARKERS = ("<start_of_turn>", "<end_of_turn>")
TURNS = "assistant\nuser\nsystem\n" * 50
"""What templates say, so that its words are tokens."""

RECURRENT_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "bos_token_id", "eos_token_id", "pad_token_id")


def make_tokenizer(
    directory: Path,
    *,
    vocabulary: int = 400,
    bos: bool = False,
    template: str | None = CHATML,
    markers: tuple[str, ...] = ("<|im_start|>", "<|im_end|>"),
    turns: str = TURNS,
) -> Path:
    """Save a byte-level BPE tokenizer trained on TEXT; the vocabulary size decides how words are split."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special_tokens = ["<|endoftext|>", *markers]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT, turns], trainer)
    return _save_tokenizer(directory, tokenizer, special_tokens[0], bos=bos, template=template)


def make_sentencepiece_tokenizer(
    directory: Path, *, template: str | None = None, markers: tuple[str, ...] = GEMMA_MARKERS
) -> Path:
    """Save a BPE tokenizer in SentencePiece's manner, as Gemma's and Llama 2's: blanks as ▁, bytes, BOS."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<pad>", "<eos>", "<bos>", "<unk>", *markers, *bytes_], show_progress=False
    )
    turns = "assistant \n user \n model \n USER: ASSISTANT: SUDO \n\n" * 50
    tokenizer.train_from_iterator([TEXT, turns], trainer)
    return _save_tokenizer(directory, tokenizer, "<bos>", eos="<eos>", bos=True, template=template)


def _save_tokenizer(
    directory: Path, tokenizer: Tokenizer, first: str, *, eos: str | None = None, bos: bool, template: str | None
) -> Path:
    from transformers import PreTrainedTokenizerFast

    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", special_tokens=[(first, tokenizer.token_to_id(first))]
        )
    pretrained = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=first, eos_token=eos or first, chat_template=template
    )
    directory.mkdir(parents=True, exist_ok=True)
    pretrained.save_pretrained(directory)
    return directory


def make_model(
    directory: Path, architecture: str = "llama", *, layers: int = 3, seed: int = 0, context: int = 128
) -> Path:
    """Save a randomly initialised model of an architecture with a tokenizer of 400 tokens."""
    write_weights(directory, architecture, layers=layers, seed=seed, context=context)
    return make_tokenizer(directory)


def write_weights(
    directory: Path,
    architecture: str,
    *,
    layers: int,
    seed: int = 0,
    context: int = 128,
    vocabulary: int = 400,
    width: int = 32,
) -> None:
    """Save a randomly initialised model of an architecture without a tokenizer."""
    import torch
    import transformers

    torch.manual_seed(seed)
    sizes = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": context,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    grouped_query = {**sizes, "num_key_value_heads": 2, "head_dim": width // 4}
    match architecture:
        case "llama":
            config = transformers.LlamaConfig(**grouped_query)
        case "neox":
            config = transformers.GPTNeoXConfig(**sizes)
        case "gemma":
            config = transformers.GemmaConfig(**grouped_query)
        case "gpt_neo":
            config = transformers.GPTNeoConfig(
                vocab_size=vocabulary, hidden_size=width, num_layers=layers, num_heads=4, intermediate_size=64,
                attention_types=[[["global"], layers]], max_position_embeddings=context, bos_token_id=0, eos_token_id=0
            )  # fmt: skip
        case "gemma2":
            config = transformers.Gemma2Config(**grouped_query, query_pre_attn_scalar=8, sliding_window=16)
        case "gemma3":
            config = transformers.Gemma3TextConfig(**grouped_query, query_pre_attn_scalar=8, sliding_window=16)
        case "mamba" | "falcon_mamba" | "mamba2":
            recurrent = {name: size for name, size in sizes.items() if name in RECURRENT_SIZES} | {"state_size": 8}
            heads = {"num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 8} if architecture == "mamba2" else {}
            config = transformers.AutoConfig.for_model(architecture, **recurrent, **heads)
        case _:
            config = transformers.GPT2Config(
                vocab_size=vocabulary,
                n_embd=width,
                n_layer=layers,
                n_head=4,
                n_positions=context,
                bos_token_id=0,
                eos_token_id=0,
            )
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.15)
    model.save_pretrained(directory)


def make_texts(directory: Path, name: str, count: int, *, repeats: int = 4) -> Path:
    """Write documents `name-*.txt` of TEXT's sentences in random order, numbered so that no two are equal."""
    import numpy as np

    directory.mkdir(parents=True, exist_ok=True)
    sentences = [sentence.strip() + ". " for sentence in TEXT.split(". ") if sentence.strip()]
    for number in range(count):
        order = np.random.default_rng([number, len(name)]).integers(len(sentences), size=repeats * len(sentences))
        body = "".join(sentences[i] for i in order)
        (directory / f"{name}-{number:02d}.txt").write_text(f"Address {number} of {name}. {body}", encoding="utf-8")
    return directory
