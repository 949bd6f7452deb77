// SPDX-License-Identifier: LGPL-2.1-or-later
#include "model/color_fix.h"

#include <ATen/ATen.h>

namespace flashvsr {

at::Tensor fix_color(ColorFix color_fix, const at::Tensor &content, const at::Tensor &style) {
    switch (color_fix) {
    case ColorFix::adain:
        return adain(content, style);
    case ColorFix::wavelet:
        return wavelet(content, style);
    case ColorFix::none:
        break;
    }
    return content.to(at::kFloat).clamp(-1, 1);
}

} // namespace flashvsr
