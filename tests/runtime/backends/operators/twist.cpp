// An operator of torch's for the tests: acme::twist(x, by) = by * x, on the CPU.
#include <ATen/ops/mul.h>
#include <torch/library.h>

static at::Tensor twist(const at::Tensor& x, double by) { return at::mul(x, by); }

TORCH_LIBRARY(acme, library) { library.def("twist(Tensor x, float by) -> Tensor"); }

TORCH_LIBRARY_IMPL(acme, CPU, library) { library.impl("twist", &twist); }
