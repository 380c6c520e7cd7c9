"""TPU programs without a TPU: ahead-of-time compilation, HLO, collectives, predicted step times, mesh search, memory
reports.
"""
