// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cuda/backend.h"
#include "ops/cuda/device.h"
#include "ops/cuda/linear_launch.h"
#include "ops/cuda/ops.h"

#include "error.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContextLight.h>

#include <cublasLt.h>

#include <compare>
#include <map>
#include <mutex>
#include <utility>

namespace flashvsr::cuda {

namespace {

void check(cublasStatus_t status, const char *what) {
    if (status == CUBLAS_STATUS_SUCCESS)
        return;
    // Where a GPU is lost, its own sentence says why.
    const std::string cause = failure();
    fail(status == CUBLAS_STATUS_ALLOC_FAILED ? ENOMEM : EIO, what, ": ",
         cause.empty() ? cublasLtGetStatusString(status) : "CUDA error: " + cause);
}

cudaDataType_t data_type(at::ScalarType type) {
    switch (type) {
    case at::kHalf:
        return CUDA_R_16F;
    case at::kBFloat16:
        return CUDA_R_16BF;
    case at::kFloat8_e4m3fn:
        return CUDA_R_8F_E4M3;
    default:
        return CUDA_R_32F;
    }
}

/// x W^T + bias of one shape, or GELU of it. cuBLAS stores matrices by columns: it computes y^T = W x^T.
struct Product {
    at::ScalarType type, result; ///< of both factors, of what is made
    int64_t rows, in, out;
    bool gelu;

    auto operator<=>(const Product &) const = default;
};

/// cuBLAS's descriptions of a product.
struct Description {
    cublasLtMatmulDescOpaque_t product;
    cublasLtMatrixLayoutOpaque_t weight, x, y;

    Description(const Product &shape, const Rows &rows, const LinearWeights &weights) {
        const cudaDataType_t type = data_type(shape.type), result = data_type(shape.result);
        check(cublasLtMatmulDescInit(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a matrix product");
        set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
        set(CUBLASLT_MATMUL_DESC_EPILOGUE, shape.gelu ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_BIAS);
        set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, result);
        set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, weights.bias.const_data_ptr());
        if (rows.scales.defined()) {
            set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
            set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
            set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, weights.scales.const_data_ptr());
            set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, rows.scales.const_data_ptr());
            // Sums of e4m3's products as the tensor cores make them: their error is far below e4m3's own.
            set(CUBLASLT_MATMUL_DESC_FAST_ACCUM, int8_t{1});
        }
        check(cublasLtMatrixLayoutInit(&weight, type, shape.in, shape.out, shape.in), "a matrix layout");
        check(cublasLtMatrixLayoutInit(&x, type, shape.in, shape.rows, shape.in), "a matrix layout");
        check(cublasLtMatrixLayoutInit(&y, result, shape.out, shape.rows, shape.out), "a matrix layout");
    }

private:
    template <typename T> void set(cublasLtMatmulDescAttributes_t attribute, T value) {
        check(cublasLtMatmulDescSetAttribute(&product, attribute, &value, sizeof(value)), "a matrix product");
    }
};

cublasLtMatmulAlgo_t find_algorithm(const Product &shape, Description &description, size_t workspace) {
    cublasLtMatmulPreferenceOpaque_t preference;
    check(cublasLtMatmulPreferenceInit(&preference), "a matrix product");
    check(cublasLtMatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                               &workspace, sizeof(workspace)),
          "a matrix product");
    cublasLtMatmulHeuristicResult_t found{};
    int count = 0;
    check(cublasLtMatmulAlgoGetHeuristic(at::cuda::getCurrentCUDABlasLtHandle(), &description.product,
                                         &description.weight, &description.x, &description.y, &description.y,
                                         &preference, 1, &found, &count),
          "a matrix product");
    if (count == 0)
        fail(EIO, "cuBLAS knows no way to multiply ", shape.rows, "x", shape.in, " by ", shape.in, "x",
             shape.out, " values of type ", shape.type);
    return found.algo;
}

/// Kept for the life of the process: there are few shapes, and a search takes longer than a product.
cublasLtMatmulAlgo_t algorithm_for(const Product &shape, Description &description, int device,
                                   size_t workspace) {
    static std::mutex mutex;
    static std::map<std::pair<int, Product>, cublasLtMatmulAlgo_t> known;
    const std::lock_guard lock(mutex);
    const auto [entry, added] = known.try_emplace({device, shape});
    if (added) {
        try {
            entry->second = find_algorithm(shape, description, workspace);
        } catch (...) {
            known.erase(entry);
            throw;
        }
    }
    return entry->second;
}

/// For Hopper's kernel; no rows, which it refuses, where it does not know the types.
LinearArgs arguments(const at::Tensor &rows, const at::Tensor &row_scales, const LinearWeights &weights,
                     const at::Tensor &y, LinearEpilogue epilogue) {
    LinearArgs args{};
    const bool e4m3 = rows.scalar_type() == at::kFloat8_e4m3fn;
    if (y.scalar_type() != at::kBFloat16 || (!e4m3 && rows.scalar_type() != at::kBFloat16))
        return args;
    args.element = e4m3 ? LinearElement::e4m3 : LinearElement::bf16;
    args.epilogue = epilogue;
    args.in = static_cast<int>(rows.size(-1));
    args.rows = static_cast<int>(rows.numel() / rows.size(-1));
    args.out = static_cast<int>(weights.weight.size(0));
    args.x = rows.const_data_ptr();
    args.weight = weights.weight.const_data_ptr();
    if (e4m3) {
        args.x_scales = row_scales.const_data_ptr<float>();
        args.weight_scales = weights.scales.const_data_ptr<float>();
    }
    args.bias = weights.bias.const_data_ptr();
    args.y = y.data_ptr();
    return args;
}

/// y (..., out) = activation(x W^T + b), or y += x W^T + b.
void multiply(const Rows &x, const LinearWeights &weights, const at::Tensor &y, LinearEpilogue epilogue) {
    const at::Tensor rows = x.values.contiguous();
    const LinearArgs args = arguments(rows, x.scales, weights, y, epilogue);
    if (linear_hopper_pays(args)) {
        cuda::check(linear_hopper(args, current_stream()), "a matrix product");
        return;
    }
    const bool gelu = epilogue == LinearEpilogue::gelu, add = epilogue == LinearEpilogue::add;
    const int64_t in = rows.size(-1);
    const Product shape{
        rows.scalar_type(), y.scalar_type(), rows.numel() / in, in, weights.weight.size(0), gelu};
    Description description(shape, x, weights);
    const size_t workspace = at::cuda::getCUDABlasLtWorkspaceSize();
    const cublasLtMatmulAlgo_t algorithm = algorithm_for(shape, description, rows.get_device(), workspace);
    const float one = 1.0F, beta = add ? 1.0F : 0.0F;
    check(cublasLtMatmul(at::cuda::getCurrentCUDABlasLtHandle(), &description.product, &one,
                         weights.weight.const_data_ptr(), &description.weight, rows.const_data_ptr(),
                         &description.x, &beta, y.data_ptr(), &description.y, y.data_ptr(), &description.y,
                         &algorithm, at::cuda::getCUDABlasLtWorkspace(), workspace, current_stream()),
          "a matrix product");
    mark_written(y);
}

} // namespace

at::Tensor linear(const Rows &x, const LinearWeights &weights, Activation activation) {
    std::vector<int64_t> shape = x.values.sizes().vec();
    shape.back() = weights.weight.size(0);
    at::Tensor y = at::empty(shape, weights.bias.options());
    multiply(x, weights, y, activation == Activation::gelu ? LinearEpilogue::gelu : LinearEpilogue::bias);
    return y;
}

void linear_add(const at::Tensor &sum, const Rows &x, const LinearWeights &weights) {
    multiply(x, weights, sum, LinearEpilogue::add);
}

} // namespace flashvsr::cuda
