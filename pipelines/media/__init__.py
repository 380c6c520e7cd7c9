"""Decoders: encoded bytes -> pixels, waveform or clip, or BadInput. Pure functions that know neither Beam nor Documents."""
