// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cuda/backend.h"
#include "ops/cuda/ops.h"
#include "ops/device.h"

#include <ATen/ATen.h>

namespace flashvsr::cuda {

namespace {

AxisTaps axis_taps(const ResampleTaps &taps) {
    return {static_cast<int>(taps.weight.size(1)), taps.first.const_data_ptr<int64_t>(),
            taps.weight.const_data_ptr<float>()};
}

} // namespace

at::Tensor resample_columns(const at::Tensor &rows, const ResampleTaps &taps) {
    at::Tensor out = at::empty({rows.size(0), taps.weight.size(0)}, rows.options());
    check(resample_columns(rows.const_data_ptr<float>(), out.mutable_data_ptr<float>(), rows.size(0),
                           static_cast<int>(rows.size(1)), static_cast<int>(out.size(1)), axis_taps(taps),
                           current_stream()),
          "the resampling of columns");
    return out;
}

at::Tensor resample_rows(const at::Tensor &rows, int64_t planes, const ResampleTaps &taps) {
    at::Tensor out = at::empty({planes * taps.weight.size(0), rows.size(1)}, rows.options());
    check(resample_rows(rows.const_data_ptr<float>(), out.mutable_data_ptr<float>(), planes,
                        static_cast<int>(rows.size(0) / planes), static_cast<int>(taps.weight.size(0)),
                        static_cast<int>(rows.size(1)), axis_taps(taps), current_stream()),
          "the resampling of rows");
    return out;
}

at::Tensor stack_frames(const at::Tensor &frames, const at::Tensor &sources) {
    const at::Tensor from = frames.contiguous(), places = upload(sources, from.device());
    const int64_t outputs = sources.size(0), stacked = sources.size(1), height = from.size(2),
                  width = from.size(3), channels = from.size(4);
    at::Tensor out = at::empty({outputs, height + 2, width + 2, stacked * channels}, from.options());
    check(stack_frames(element_of(from), from.const_data_ptr(), places.const_data_ptr<int64_t>(),
                       out.mutable_data_ptr(), static_cast<int>(outputs), static_cast<int>(stacked),
                       static_cast<int>(height), static_cast<int>(width), static_cast<int>(channels),
                       current_stream()),
          "the stacking of frames");
    return out.permute({0, 3, 1, 2});
}

} // namespace flashvsr::cuda
