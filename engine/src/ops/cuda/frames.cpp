// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cuda/backend.h"
#include "ops/cuda/ops.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>

#include <algorithm>

namespace flashvsr::cuda {

namespace {

/// Bytes that a thread loads or stores together at most.
constexpr uintptr_t vector_bytes = 16;

bool is_aligned(const at::Tensor &x) {
    return reinterpret_cast<uintptr_t>(x.const_data_ptr()) % vector_bytes == 0;
}

/// The tensor's elements one after the other, from an aligned place on.
at::Tensor packed(const at::Tensor &x) {
    const at::Tensor contiguous = x.contiguous();
    return is_aligned(contiguous) ? contiguous : contiguous.clone();
}

YuvMemory memory_of(const YuvPlanes &planes) {
    return {planes.luma.scalar_type() == at::kUInt16, planes.cb.stride(1) == 2,
            planes.luma.mutable_data_ptr(), planes.cb.mutable_data_ptr(), planes.cr.mutable_data_ptr()};
}

/// Null where there is none.
float *samples_of(const at::Tensor &chroma) {
    return chroma.defined() ? chroma.mutable_data_ptr<float>() : nullptr;
}

/// Pictures with contiguous columns.
at::Tensor with_columns(const at::Tensor &pictures) {
    return pictures.stride(4) == 1 ? pictures : pictures.contiguous();
}

PictureView view_of(const at::Tensor &pictures) {
    return {pictures.const_data_ptr(), pictures.stride(0), pictures.stride(1), pictures.stride(2),
            pictures.stride(3)};
}

bool in_fours(const at::Tensor &pictures) {
    const auto strides = pictures.strides().slice(0, 4);
    return is_aligned(pictures) && pictures.size(4) % 4 == 0 &&
           std::all_of(strides.begin(), strides.end(), [](int64_t stride) { return stride % 4 == 0; });
}

/// Run a colour fix. Its output is made frame by frame: (B, T, 3, H, W).
template <typename Launch>
at::Tensor fix(const at::Tensor &content, const at::Tensor &style, int64_t scratch_bytes, const char *what,
               const Launch &launch) {
    const at::Tensor from = with_columns(content), to = with_columns(style.to(at::kFloat));
    at::Tensor out = at::empty({from.size(0), from.size(2), from.size(1), from.size(3), from.size(4)},
                               from.options().dtype(at::kFloat));
    const at::Tensor scratch = at::empty({scratch_bytes}, from.options().dtype(at::kByte));
    ColorFixArgs args{};
    args.element = element_of(from);
    args.content = view_of(from);
    args.style = view_of(to);
    args.batch = static_cast<int>(from.size(0));
    args.frames = static_cast<int>(from.size(2));
    args.height = static_cast<int>(from.size(3));
    args.width = static_cast<int>(from.size(4));
    args.in_fours = in_fours(from) && in_fours(to);
    args.out = out.mutable_data_ptr<float>();
    args.scratch = scratch.mutable_data_ptr();
    check(launch(args, current_stream()), what);
    return out.transpose(1, 2);
}

} // namespace

at::Tensor philox_normals(uint64_t seed, const NoiseRegion &region, const at::Device &device) {
    const c10::cuda::CUDAGuard guard(device);
    at::Tensor noise = at::empty({noise_channels, region.latents, region.height, region.width},
                                 at::TensorOptions(device).dtype(at::kFloat));
    const NoiseArgs args{seed,
                         static_cast<uint64_t>(region.first_latent),
                         static_cast<int>(region.latents),
                         static_cast<int>(region.height),
                         static_cast<int>(region.width),
                         static_cast<uint32_t>(region.y),
                         static_cast<uint32_t>(region.x),
                         noise.mutable_data_ptr<float>()};
    check(philox_normals(args, current_stream()), "the noise");
    return noise;
}

at::Tensor pixels_from_levels(const at::Tensor &levels, int depth) {
    const at::Tensor from = packed(levels);
    at::Tensor pixels = at::empty(from.sizes(), from.options().dtype(at::kFloat));
    check(pixels_from_levels(from.const_data_ptr(), depth, pixels.mutable_data_ptr<float>(), from.numel(),
                             current_stream()),
          "the conversion of a picture");
    return pixels;
}

at::Tensor levels_from_pixels(const at::Tensor &pixels, int depth) {
    const at::Tensor from = packed(pixels);
    at::Tensor levels = at::empty(from.sizes(), from.options().dtype(component_type(depth)));
    check(levels_from_pixels(from.const_data_ptr<float>(), levels.mutable_data_ptr(), depth, from.numel(),
                             current_stream()),
          "the conversion of pictures");
    return levels;
}

at::Tensor samples_from_chroma(const YuvPlanes &planes, const YuvConversion &by) {
    at::Tensor samples =
        at::empty({2 * planes.cb.size(0), planes.cb.size(1)}, planes.cb.options().dtype(at::kFloat));
    check(
        samples_from_chroma(memory_of(planes), samples_of(samples), planes.cb.numel(), by, current_stream()),
        "the conversion of a picture");
    return samples;
}

void chroma_from_samples(const at::Tensor &samples, const YuvPlanes &planes, const YuvConversion &by) {
    check(
        chroma_from_samples(samples_of(samples), memory_of(planes), planes.cb.numel(), by, current_stream()),
        "the conversion of pictures");
}

at::Tensor pixels_from_yuv(const YuvPlanes &planes, const at::Tensor &chroma, const YuvConversion &by) {
    at::Tensor pixels =
        at::empty({3, planes.luma.size(0), planes.luma.size(1)}, planes.luma.options().dtype(at::kFloat));
    check(pixels_from_yuv(memory_of(planes), samples_of(chroma), pixels.mutable_data_ptr<float>(),
                          planes.luma.numel(), by, current_stream()),
          "the conversion of a picture");
    return pixels;
}

void yuv_from_pixels(const at::Tensor &pixels, const YuvPlanes &planes, const at::Tensor &chroma,
                     const YuvConversion &by) {
    const at::Tensor from = pixels.contiguous();
    check(yuv_from_pixels(from.const_data_ptr<float>(), memory_of(planes), samples_of(chroma),
                          planes.luma.numel(), by, current_stream()),
          "the conversion of pictures");
}

at::Tensor adain(const at::Tensor &content, const at::Tensor &style) {
    const int64_t sums = 4 * content.size(0) * content.size(1) * content.size(2) * color_fix_shares;
    return fix(content, style, sums * static_cast<int64_t>(sizeof(double)), "the colour fix",
               [](const ColorFixArgs &args, cudaStream_t stream) { return adain(args, stream); });
}

at::Tensor wavelet(const at::Tensor &content, const at::Tensor &style) {
    return fix(content, style, content.numel() * static_cast<int64_t>(sizeof(float)), "the colour fix",
               [](const ColorFixArgs &args, cudaStream_t stream) { return wavelet(args, stream); });
}

} // namespace flashvsr::cuda
