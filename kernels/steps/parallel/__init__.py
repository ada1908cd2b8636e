"""One sequence over several ranks, as a program that torchrun starts."""
