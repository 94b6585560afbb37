"""Key-value retrieval and induction: multiple-choice items made from a seed, with a known chance level.

Both test whether a model can fetch from its own context; nothing but the context tells the answer, as all words are
drawn at random.

Key-value retrieval: eight lines `key: value` of different words, then a line with one of the keys; the choices are
the eight values, in the order in which they stand.

Induction: eight different words, then the beginning of the same list again; the choices are the eight words, shuffled.
The right one is the word that follows.

The right position is uniform over the eight: guessing, or always taking the same position, scores 1/8.
"""

import random

from limelm.records import Records

PAIRS = 8
ITEMS = {"train": 64, "test": 500}  # examples for prompts, and what is scored

# Short, common, concrete, and none the beginning of another.
_TEXT = """
apple arm baby ball bank bell bird boat bone book box bread bridge brother brush bus butter camp cap card cat chair
clock cloud coat corn cow cup dance desk doctor dog door dress drum ear egg engine eye face farm field finger fire
fish floor flower foot fork friend game garden gate girl glass gold grass hand heart hill horse house ice iron
island jar judge key king kitchen knee lake lamp leaf leg letter lion lip lock map market milk mirror moon mouth
nail neck nest nose nurse ocean oil onion oven page paint paper park pen pig pipe plane plant plate pocket pot queen
rain ring river road rock roof room root rope salt sand school seed sheep ship shirt shoe sister skin sky snake snow
soap son soup spoon stone street sugar sun table tail tent tiger toe tooth town train tree truck wall watch water
wheel window wing wolf wood wool yard
"""
WORDS = tuple(_TEXT.split())


def key_value_items(split: str, seed: int) -> Records:
    """Make items of key-value retrieval.

    Args:
        split: "train" or "test"; their draws are independent.

    Returns:
        Rows with the prompt `text`, the `choices` and the position `gold` of the right one.
    """
    generator = random.Random(f"key-value {split} {seed}")
    items = []
    for _ in range(ITEMS[split]):
        words = generator.sample(WORDS, 2 * PAIRS)
        keys, values = words[:PAIRS], words[PAIRS:]
        gold = generator.randrange(PAIRS)
        lines = [f"{key}: {value}" for key, value in zip(keys, values, strict=True)]
        items.append({"text": "\n".join([*lines, f"{keys[gold]}:"]), "choices": values, "gold": gold})
    return items


def induction_items(split: str, seed: int) -> Records:
    """Make items of induction; arguments and rows as in `key_value_items`."""
    generator = random.Random(f"induction {split} {seed}")
    items = []
    for _ in range(ITEMS[split]):
        words = generator.sample(WORDS, PAIRS)
        place = generator.randrange(1, PAIRS)  # at least one word of the second list is there
        choices = generator.sample(words, PAIRS)
        items.append(
            {"text": " ".join([*words, *words[:place]]), "choices": choices, "gold": choices.index(words[place])}
        )
    return items


GENERATED = {"key_value_retrieval": key_value_items, "induction": induction_items}
