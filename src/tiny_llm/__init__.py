"""Your LLM serving engine, written day by day.

A function that you have not written yet raises NotImplementedError and names its task.
"""
