"""The arithmetic of a mixture: weights, schedules, permutations, epochs and packing, on integers and exact fractions.

This room reads no file.
"""
