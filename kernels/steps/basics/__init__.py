"""First kernels: the small programs from which the chapter "Introduction to Triton" teaches.

One idea a file. `neutral`, `race`, `narrow` and `wide` each hold a fault and its cure.
"""
