"""Input and output of `castor infer`: conversations, prompt files, image files.

The model itself is used only through train/inference/.
"""
