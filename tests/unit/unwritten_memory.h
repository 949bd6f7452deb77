// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "fresh_memory.h"
#include "pipeline_support.h"

#include <gtest/gtest.h>

namespace flashvsr::test {

/// Three chunks, the first of 25 frames, in memory that was filled or as it was found.
inline std::vector<at::Tensor> run_in_fresh_memory(const WorkerDevice &device, const StreamOptions &options,
                                                   bool filled) {
    const at::Device place = device.model->placement.device;
    const DeviceScope scope(place);
    const FreshMemory memory(filled);
    const auto pictures = moving_pictures(options.input, 41);
    std::vector<at::Tensor> out = run_stream(device, options, pictures, 0, 41, 41);
    synchronize_stream(place); // who compares does so in another stream
    return out;
}

/// A stream's frames do not depend on what was in memory before.
inline void expect_unwritten_memory_unread(const WorkerDevice &device, const StreamOptions &options) {
    const auto expected = run_in_fresh_memory(device, options, false),
               got = run_in_fresh_memory(device, options, true);
    ASSERT_EQ(expected.size(), 41U);
    ASSERT_EQ(got.size(), 41U);
    for (size_t i = 0; i < got.size(); i++)
        ASSERT_TRUE(at::equal(got[i], expected[i])) << "frame " << i;
}

/// Every colour fix, converted to bytes.
inline void expect_unread_by_whole_pictures(const WorkerDevice &device) {
    for (const ColorFix fix : {ColorFix::none, ColorFix::wavelet, ColorFix::adain}) {
        StreamOptions options = stream_options({40, 30});
        options.color_fix = fix;
        options.format_at = [](int64_t) { return PictureFormat{}; };
        expect_unwritten_memory_unread(device, options);
    }
}

/// In batches, with states that stay and that wait aside.
inline void expect_unread_by_tiles(const WorkerDevice &device) {
    for (const bool aside : {false, true}) {
        StreamOptions options = stream_options({70, 40});
        options.tile = 128;
        options.tile_overlap = 16;
        options.states_aside = aside;
        options.batch.batch = 4;
        expect_unwritten_memory_unread(device, options);
    }
}

} // namespace flashvsr::test
