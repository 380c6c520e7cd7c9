"""What `castor infer` shows and reads: a conversation, a file of prompts, pictures in and out. Knows a model only through train/inference/."""
