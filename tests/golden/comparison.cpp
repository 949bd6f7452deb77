// SPDX-License-Identifier: LGPL-2.1-or-later
#include "comparison.h"

#include "error.h"

#include <ATen/Functions.h>

#include <cmath>
#include <iomanip>
#include <limits>
#include <vector>

namespace flashvsr::golden {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
// A golden of zeros has no magnitude to be relative to.
constexpr double least_reference = 1e-30;

std::string index_text(int64_t flat, at::IntArrayRef shape) {
    std::vector<int64_t> index(shape.size());
    for (size_t i = shape.size(); i-- > 0;) {
        index[i] = flat % shape[i];
        flat /= shape[i];
    }
    return concat(at::IntArrayRef(index));
}

std::string short_number(double value) {
    std::ostringstream out;
    out << std::setprecision(3) << value;
    return out.str();
}

std::string long_number(double value) {
    std::ostringstream out;
    out << std::setprecision(9) << value;
    return out.str();
}

bool same_kind(at::ScalarType a, at::ScalarType b) {
    return a == b || (at::isFloatingType(a) && at::isFloatingType(b));
}

} // namespace

Comparison compare(const at::Tensor &got, const at::Tensor &golden, const Tolerance &tolerance) {
    using Metric = Tolerance::Metric;
    if (!got.defined())
        return {false, infinity, "the engine gives no tensor"};
    if (got.sizes() != golden.sizes())
        return {false, infinity, concat("shape ", got.sizes(), ", but the golden's is ", golden.sizes())};
    if (!same_kind(got.scalar_type(), golden.scalar_type()))
        return {false, infinity,
                concat("type ", got.scalar_type(), ", but the golden's is ", golden.scalar_type())};
    if (tolerance.metric == Metric::uint8 && golden.scalar_type() != at::kByte)
        return {false, infinity, concat("type ", golden.scalar_type(), ", but the metric is for uint8")};
    if (golden.numel() == 0)
        return {false, infinity, "there is no value to compare"};

    const at::Tensor got_values = got.to(at::kDouble).contiguous();
    const at::Tensor golden_values = golden.to(at::kDouble).contiguous();
    const double *const values = got_values.const_data_ptr<double>();
    const double *const wanted = golden_values.const_data_ptr<double>();
    const int64_t count = golden.numel();

    double magnitude = 0.0;
    for (int64_t i = 0; i < count; i++)
        magnitude = std::max(magnitude, std::abs(wanted[i]));
    magnitude = std::max(magnitude, least_reference);

    const bool rounded = golden.scalar_type() == at::kDouble && got.scalar_type() == at::kFloat;
    const auto allowed_at = [&](int64_t i) {
        switch (tolerance.metric) {
        case Metric::relative:
            return tolerance.max * magnitude + (rounded ? std::ldexp(std::abs(wanted[i]), -24) : 0.0);
        case Metric::uint8:
            return tolerance.max_difference;
        case Metric::exact:
            break;
        }
        return 0.0;
    };

    int64_t worst = 0;
    int64_t different = 0;
    double worst_used = -1.0;
    for (int64_t i = 0; i < count; i++) {
        const double difference = std::abs(values[i] - wanted[i]);
        const double allowed = allowed_at(i);
        double used = difference == 0.0 ? 0.0 : difference / allowed;
        // A NaN or an infinity on either side; an infinite golden would allow everything else.
        if (!std::isfinite(difference))
            used = infinity;
        different += !(difference == 0.0);
        if (used > worst_used) {
            worst_used = used;
            worst = i;
        }
    }

    Comparison result;
    result.used = worst_used;
    std::string note;
    if (tolerance.metric == Metric::uint8) {
        const double fraction = static_cast<double>(different) / static_cast<double>(count);
        const double used = different == 0 ? 0.0 : fraction / tolerance.max;
        // A level of difference is within bounds wherever it is: the fraction is what is used up.
        result.used = worst_used > 1.0 ? worst_used : used;
        note = concat(", ", short_number(100.0 * fraction), " % differ");
    } else if (rounded) {
        note = ", float32 of a float64 golden";
    } else if (tolerance.metric == Metric::exact) {
        note = concat(", ", different, " of ", count, " differ");
    }
    result.passed = result.used <= 1.0;
    result.text = concat("worst ", short_number(std::abs(values[worst] - wanted[worst])), " at ",
                         index_text(worst, golden.sizes()), " (", long_number(values[worst]), ", golden ",
                         long_number(wanted[worst]), ")", note);
    return result;
}

} // namespace flashvsr::golden
