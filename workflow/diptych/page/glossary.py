"""Words of the field that the pages use, each explained in a sentence that needs none of the others.

glossed("Held-out R² of each map")      # markup: the words that are explained here carry their explanation
"""

import re

TERMS = {
    "activation": "The numbers inside a model at one place while it reads one token.",
    "activations": "The numbers inside a model at one place while it reads one token.",
    "alignment": "Whether the decoders of two models span one space of latents: 1 if they do.",
    "Benjamini-Hochberg": "A correction for many tests at once: of what passes, a chosen share at most is false.",
    "bootstrap": "Drawing the documents again with replacement, many times, to see how much a number varies.",
    "control": "A comparison of a model with itself, in which nothing may be found.",
    "crosscoder": "One sparse dictionary that is trained on the activations of several models at once.",
    "dead": "A feature that never fires on this text.",
    "decoder": "The rows by which a feature writes to the activations.",
    "decoys": "The best scores among features of one dictionary: what a match reaches by chance.",
    "density": "Share of the tokens (or prompts) on which a feature fires.",
    "dictionary": "A sparse autoencoder: a list of directions, a few of which add up to each activation.",
    "domain shift": "A dictionary that describes one model much worse than the other: its features may mislead there.",
    "effect": "How large a difference is, in the unit of the method that found it.",
    "feature": "One direction of a dictionary, with the tokens on which it fires.",
    "floor": "A comparison of one model through two dictionaries that differ in their seed alone.",
    "FVU": "Fraction of variance unexplained: 0 is a perfect reconstruction, 1 is no better than the mean.",
    "held out": "Measured on documents that had no part in finding it.",
    "held-out": "Measured on documents that had no part in finding it.",
    "Jensen-Shannon": "A symmetric distance between two predictions, from 0 to .693 nats.",
    "KL": "Kullback-Leibler divergence: how far one prediction of the next token is from another, in nats; 0 is equal.",
    "L0": "Number of features that are active on a token.",
    "latent": "One entry of a crosscoder's or dictionary's code: a feature.",
    "latents": "Entries of a crosscoder's or dictionary's code: features.",
    "linear map": "A matrix that predicts one model's activations from the other's.",
    "logit lens": "Reading a direction as next tokens, by the model's own last layer.",
    "Logit lens": "Reading a direction as next tokens, by the model's own last layer.",
    "LoRA": "A fine-tune whose change of each matrix has a low rank.",
    "nats": "A unit of information: 1 nat is 1.44 bits.",
    "null": "What the same number would be if there were no difference.",
    "perplexity": "How unlikely a text is for a model: about how many tokens it hesitates between.",
    "planted": "Put there on purpose, so that the truth is known.",
    "Procrustes": "The best map that only rotates and scales.",
    "rank": "Number of independent directions along which a matrix changed.",
    "ridge": "The best linear map with a penalty on its size.",
    "RSA": "Representational similarity analysis: whether distances between features agree in both models.",
    "seed": "The number that starts a training's random draws; another seed is another training.",
    "seeds": "Numbers that start a training's random draws; another seed is another training.",
    "sharedness": "1 if every latent is equally in both models, 0 if each is in one alone.",
    "Sharedness": "1 if every latent is equally in both models, 0 if each is in one alone.",
    "site": "The place in the network whose activations are compared.",
    "steered": "With a direction added to the activations while the model writes.",
    "stop token": "A token as common as punctuation or “the”.",
    "SVCCA": "Correlation of two spaces after each is reduced to its main directions.",
    "yardstick": "A difference that was put there on purpose: a method that misses it could miss others.",
    "ν": "Latent scaling: how much of a latent the other model has after all (0: none, 1: as much).",
    "q": "Chance that a difference this clear is none, corrected for all tests of the pair and method.",
    "p": "Chance of a difference this large where there is none.",
    "R²": "Share of the variance that is predicted: 1 is all, 0 is no better than the mean.",
}
"""Word or words -> what they mean."""
_PATTERN = re.compile(
    r"(?<![\w-])(" + "|".join(re.escape(term) for term in sorted(TERMS, key=len, reverse=True)) + r")(?![\w-])"
)


def glossed(text: str) -> list[tuple[str, str]]:
    """A text in parts, each with its explanation or ""; a term is explained where it stands first."""
    seen: set[str] = set()
    parts: list[tuple[str, str]] = []
    start = 0
    for match in _PATTERN.finditer(text):
        meaning = TERMS[match[0]]
        if meaning not in seen:
            seen.add(meaning)
            parts += [(text[start : match.start()], ""), (match[0], meaning)]
            start = match.end()
    return [part for part in [*parts, (text[start:], "")] if part[0]]


def hint(heading: str) -> str:
    """The explanation of the first term in a heading, or ""."""
    match = _PATTERN.search(heading)
    return TERMS[match[0]] if match else ""
