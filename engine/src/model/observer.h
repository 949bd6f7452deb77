// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "error.h"

#include <ATen/core/Tensor.h>

#include <functional>
#include <stop_token>
#include <string_view>

namespace flashvsr {

/// What a run of the network lets in from outside: a listener for intermediate tensors, one for the parts
/// that are entered, a wish to stop and one to wait. Default: nobody listens and nothing stops it.
struct Observer {
    /// Called with the name of an intermediate tensor (the names of the golden files) and the tensor,
    /// which must not be changed. Empty: intermediates are not even computed where that costs.
    std::function<void(std::string_view name, const at::Tensor &)> tensor;
    /// Called where another part of the work begins, with its name. On a GPU the work is queued, not done.
    std::function<void(std::string_view name)> part;
    std::stop_token stop;
    /// Called between layers: may wait until a device has done more of what is queued.
    std::function<void()> pace;

    bool listens() const { return static_cast<bool>(tensor); }

    void operator()(std::string_view name, const at::Tensor &value) const {
        if (tensor)
            tensor(name, value);
    }

    void enter(std::string_view name) const {
        if (part)
            part(name);
    }

    /// Leave by an exception (ECANCELED) if a stop was asked for.
    void check_stop() const {
        if (stop.stop_requested())
            fail(ECANCELED, "the work was cancelled");
    }

    void between_layers() const {
        if (pace)
            pace();
        check_stop();
    }
};

} // namespace flashvsr
