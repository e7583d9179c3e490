import torch

from hetacumn.compute.precision import multiply_fast


def test_fast_products_keep_single_precision() -> None:
    multiply_fast(torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(400, 130, generator=generator), torch.randn(130, 600, generator=generator)
    error = (a @ b).double() - a.double() @ b.double()
    assert float(error.abs().max()) < 1e-4  # factors in bfloat16 would lead to errors of about 0.1
