import torch

from hetacumn.compute.precision import multiply_by_onednn


def test_products_by_onednn_keep_single_precision() -> None:
    multiply_by_onednn()
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(400, 130, generator=generator), torch.randn(130, 600, generator=generator)
    error = (a @ b).double() - a.double() @ b.double()
    assert float(error.abs().max()) < 1e-4  # factors in bfloat16 would lead to errors of about 0.1
