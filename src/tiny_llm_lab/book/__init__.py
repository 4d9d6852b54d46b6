"""The book's build: the mdBook preprocessor, the executed examples, and the strict checks."""
