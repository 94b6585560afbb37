"""Count the expressions that exist, and the tokens of the longest, before any is drawn.

An expression is a number, a *product* of two factors or more (joined by "*" and "/"), or a *sum* of two terms or more
(joined by "+" and "-"). Brackets stand only where they are needed: around a sum that is a factor, or behind "-"; around
a product behind "/".
"""

from functools import cache

Values = tuple[int, ...]  # how many expressions have the value 0, 1, ..., modulus - 1


@cache
def count_expressions(operands: int, modulus: int) -> int:
    """The number of different expressions of so many operands modulo a prime, divisions by zero left out."""
    return sum(sum(values) for values in _counts(operands, modulus)[-1])


def longest_expression(operands: int) -> int:
    """The tokens of the longest expression: numbers, operators, and brackets around every operation but the last."""
    return operands + (operands - 1) + 2 * max(0, operands - 2)


def longest_problem(operands: int, worked_steps: bool) -> int:
    """The tokens of the longest problem: expression, steps if they are written, answer, "=" between them, and EOS."""
    smallest = 2 if worked_steps else operands
    lines = [longest_expression(left) for left in range(operands, smallest - 1, -1)]
    return sum(length + len("=") for length in [*lines, 1])  # EOS in place of a last "="


def _counts(operands: int, modulus: int) -> list[tuple[Values, Values, Values]]:
    """The numbers of atoms, products and sums of 1, 2, ... operands, by their values."""
    nothing = (0,) * modulus
    counts = [((1,) * modulus, nothing, nothing)]
    for size in range(2, operands + 1):
        products, sums = [0] * modulus, [0] * modulus
        for left_size in range(1, size):
            left, right = counts[left_size - 1], counts[size - left_size - 1]
            for a in range(modulus):
                number, product, total = (kind[a] for kind in left)
                for b in range(modulus):
                    right_number, right_product, right_total = (kind[b] for kind in right)
                    factors, terms = right_number + right_total, right_number + right_product
                    before = number + total + product  # what may stand before "*" and "/", and before "+" and "-"
                    products[a * b % modulus] += before * factors
                    if b:
                        products[a * pow(b, -1, modulus) % modulus] += before * (factors + right_product)
                    sums[(a + b) % modulus] += before * terms
                    sums[(a - b) % modulus] += before * (terms + right_total)
        counts.append((nothing, tuple(products), tuple(sums)))
    return counts
