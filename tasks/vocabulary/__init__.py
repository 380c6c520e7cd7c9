"""One id space for text, images, audio and video: SentencePiece pieces, control ids, image and audio codecs."""
