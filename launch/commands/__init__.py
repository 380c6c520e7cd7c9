"""One file per subcommand of `castor`: its arguments, their checks, and the call that does the work.

Commands import JAX, Beam and TensorFlow inside `run`, so that `castor --help` stays fast.
"""
