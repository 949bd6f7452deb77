// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "model_cache.h"
#include "report.h"

namespace flashvsr::golden {

enum class CaseState {
    built,
    not_built, ///< of the full pipeline
    unknown,
};

CaseState case_state(const Case &c);

/// Run a built case chunk by chunk as one stream, and compare what comes out and, where a parts group was
/// recorded from it, what is inside. Throws what the engine throws.
void run_case(const Case &c, ModelCache &models, Report &report);

} // namespace flashvsr::golden
