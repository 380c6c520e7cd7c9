"""Media decoders: encoded bytes -> pixels, waveform or clip, or BadInput.

The decoders are pure functions that know neither Beam nor Documents.
"""
