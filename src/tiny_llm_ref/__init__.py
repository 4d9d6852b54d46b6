"""The reference solution: same modules, same names, same signatures as `tiny_llm`."""
