"""The arithmetic of a mixture: weights, schedules, block permutations, epochs, packing. Integers and exact fractions; reads no file."""
