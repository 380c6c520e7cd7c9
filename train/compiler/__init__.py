"""TPU programs without a TPU: ahead-of-time compilation, HLO analysis, predicted step times, mesh search, memory
reports.
"""
