"""The embedded models: their corpus, tokenizer, training, export and scores."""
