"""Writes the small corpus of the test study: two sources of sentences from one grammar, in two vocabularies.

python tests/data/make_text.py
"""

import random
from pathlib import Path

WORDS = {
    "farm": {
        "who": "farmer shepherd miller widow boy carter smith dairymaid".split(),
        "what": "wheat sheep mill field orchard barn horse hedge river plough".split(),
        "does": "mends carries counts sells waters gathers feeds forgets".split(),
        "when": "in spring|before the harvest|after the rain|at dawn|in a hard winter".split("|"),
    },
    "city": {
        "who": "clerk banker driver teacher mayor painter porter widow".split(),
        "what": "bridge tram market office street river tower letter station roof".split(),
        "does": "mends carries counts sells paints crosses visits forgets".split(),
        "when": "on Monday|before the meeting|after the rain|at noon|in a long strike".split("|"),
    },
}


def sentence(rng: random.Random, words: dict[str, list[str]]) -> str:
    pick = {key: rng.choice(values) for key, values in words.items()}
    form = rng.choice(
        [
            "The {who} {does} the {what} {when}.",
            "{When}, the {who} {does} {n} of them near the {what}.",
            "Nobody {does} the {what} as the {who} did {when}.",
            "It was the {who} who {does} the old {what}, they said, {when}.",
        ]
    )
    return form.format(n=rng.randint(2, 99), When=pick["when"].capitalize(), **pick)


def main() -> None:
    directory = Path(__file__).parent / "text"
    for source, words in WORDS.items():
        for number in range(30):
            rng = random.Random(f"{source} {number}")
            text = " ".join(sentence(rng, words) for _ in range(40))
            (directory / f"{source}-{number:02}.txt").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
