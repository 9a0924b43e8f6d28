// An operator of torch's for the tests: acme::twist(x, by) = by * x, on the CPU.
// By the stable headers: the others take many times as long to compile.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

static torch::stable::Tensor twist(const torch::stable::Tensor& x, double by) {
    torch::stable::Tensor result = torch::stable::clone(x);
    float* data = static_cast<float*>(result.data_ptr());
    for (int64_t at = 0; at < result.numel(); at++) data[at] *= static_cast<float>(by);
    return result;
}

STABLE_TORCH_LIBRARY(acme, library) { library.def("twist(Tensor x, float by) -> Tensor"); }

STABLE_TORCH_LIBRARY_IMPL(acme, CPU, library) { library.impl("twist", TORCH_BOX(&twist)); }
