"""The backward pass in small: derived in PyTorch, then as kernels, one idea a file.

- `by_hand`: the gradients written out in PyTorch, for any dtype: what is derived is what runs
- `plain`, `normalized`: the pass over the queries without and with the normalizer
- `missing`: the same without the gradient through the denominator. Wrong on purpose
- `centred`: with a mean of the values taken out of S, so that bfloat16 loses less
- `saved`: the same as `normalized`, reading o and the denominator in place of computing them again
- `keys`: the pass over the keys, which all of them share
- `joined`: forward and backward joined to autograd
"""
